"""The training loop: one generator forward, a discriminator step, a generator step, the moving average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sar2optical.data.augment import random_window
from sar2optical.data.pairs import Chips
from sar2optical.errors import DataError, ModelUnreadable
from sar2optical.models.checkpoint import read_tensors, save_atomically, save_generator
from sar2optical.models.patchgan import Discriminator
from sar2optical.models.unet import GeneratorArguments, UNetGenerator
from sar2optical.signature import ModelSignature
from sar2optical.training.config import TrainConfig
from sar2optical.training.losses import adversarial_loss, discriminator_loss, reconstruction_loss

_N = TypeVar("_N", bound=nn.Module)


@dataclass(frozen=True)
class StepReport:
    """Losses of one step."""

    step: int
    discriminator: float
    adversarial: float
    l1: float


class Trainer:
    """A generator, its discriminator, and everything that a step changes.

    A step's windows and dropout depend on the seed and the step's number alone, so a run that goes on
    from a saved state repeats what an uninterrupted one does.

    Parameters
    ----------
    config
        The run's settings.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.step = 0
        torch.manual_seed(config.seed)
        arguments = GeneratorArguments(in_channels=1, base_channels=config.base_channels)
        self.generator = _prepared(UNetGenerator(arguments))
        self.discriminator = _prepared(Discriminator(4, config.discriminator_channels))
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (config.beta1, config.beta2)
        self._optimizers = [
            torch.optim.Adam(net.parameters(), config.learning_rate, betas=betas)
            for net in (self.generator, self.discriminator)
        ]

    def advance(self, chips: Sequence[Chips]) -> StepReport:
        """Take one step on random windows of `chips`."""
        sar, optical = self._batch(chips)
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # dropout
        generator_optimizer, discriminator_optimizer = self._optimizers
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = self.config.rate_at(self.step)

        with self._autocast():
            fake = self.generator(sar)
        self.discriminator.requires_grad_(True)
        with self._autocast():
            on_real = self.discriminator(torch.cat((sar, optical), 1))
            on_fake = self.discriminator(torch.cat((sar, fake.detach()), 1))
        loss_d = discriminator_loss(on_real, on_fake)
        discriminator_optimizer.zero_grad()
        loss_d.backward()  # type: ignore[no-untyped-call]
        discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)  # no gradients for weights that this half leaves alone
        with self._autocast():
            on_fake = self.discriminator(torch.cat((sar, fake), 1))
        loss_adversarial = adversarial_loss(on_fake)
        loss_l1 = reconstruction_loss(optical, fake)
        generator_optimizer.zero_grad()
        (loss_adversarial + self.config.l1_weight_at(self.step) * loss_l1).backward()  # type: ignore[no-untyped-call]
        generator_optimizer.step()

        self.step += 1
        _blend_in(self.average, self.generator, self._ema_decay())
        return StepReport(self.step, loss_d.item(), loss_adversarial.item(), loss_l1.item())

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to go on, atomically."""
        content = {
            "step": self.step,
            "config": self.config.to_dict(),
            "networks": [net.state_dict() for net in self._networks()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        save_atomically(path, content)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises
        ------
        ModelUnreadable
            Where the file is no saved state, or one of a run with other settings.
        """
        content = read_tensors(path)
        if content.get("config") != self.config.to_dict():
            raise ModelUnreadable(f"{path}: from a run with other settings: give those, or another folder")
        self.step = content["step"]
        for net, state in zip(self._networks(), content["networks"], strict=True):
            net.load_state_dict(state)
        for optimizer, state in zip(self._optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    def _networks(self) -> tuple[nn.Module, ...]:
        return self.generator, self.discriminator, self.average

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16)

    def _ema_decay(self) -> float:
        # A young average forgets faster, or it would keep the random first weights for thousands of steps.
        return min(self.config.ema_decay, (1 + self.step) / (10 + self.step))

    def _batch(self, chips: Sequence[Chips]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, self.step])
        chosen = rng.integers(len(chips), size=self.config.batch)
        windows = [random_window(chips[k], self.config.window, rng) for k in chosen]
        sar, optical = (np.stack(half) for half in zip(*windows, strict=True))
        return to_tensor(sar), to_tensor(optical)


def train(
    chips: Sequence[Chips],
    config: TrainConfig,
    signature: ModelSignature,
    out: Path,
    *,
    save_every: int = 200,
    on_step: Callable[[StepReport], None] | None = None,
) -> UNetGenerator:
    """Train a generator, or go on with the run that `out` holds.

    Parameters
    ----------
    chips
        Training pairs, sides of at least a window.
    config, signature
        The run's settings; what the generator expects, saved beside it.
    out
        Folder for `state.pth` (to go on from) and `generator.pth` (the moving average).
    save_every
        Steps between saves.
    on_step
        Told of each step.

    Returns
    -------
    UNetGenerator
        The moving average, in eval mode.

    Raises
    ------
    DataError
        Where a chip is smaller than a window.
    OutputUnwritable
        Where a checkpoint cannot be written.
    """
    for pair in chips:
        if min(pair.sar.shape[1:]) < config.window:
            raise DataError(f"a chip of {pair.sar.shape[1:]} is smaller than the window of {config.window}")
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    state = out / "state.pth"
    if state.exists():
        trainer.load(state)
    while trainer.step < config.steps:
        report = trainer.advance(chips)
        if on_step:
            on_step(report)
        if trainer.step % save_every == 0 or trainer.step == config.steps:
            trainer.save(state)
            notes = {"steps": trainer.step, "pairs_per_step": config.batch}
            save_generator(out / "generator.pth", trainer.average, signature, notes=notes)
    return trainer.average


def to_tensor(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Bytes (N, C, H, W) -> float32 in [-1, 1], channels last: (x / 255 - 0.5) / 0.5."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1)
    return tensor.contiguous(memory_format=torch.channels_last)


def _prepared(net: _N) -> _N:
    """First weights as in pix2pix: N(0, 0.02); batch norm N(1, 0.02); biases 0 (Isola et al. 2017, 6.2)."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.train()


@torch.no_grad()
def _blend_in(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the average towards the current weights and batch-norm statistics."""
    for kept, new in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
