"""A generator, its discriminator, and everything that a step changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sar2optical.errors import CheckpointMismatch, ModelUnreadable, TrainingDiverged
from sar2optical.models.checkpoint import (
    TRAINING_FORMAT,
    bare_state_dict,
    load_generator,
    read_tensors,
    save_atomically,
)
from sar2optical.models.generator import Generator, build_generator
from sar2optical.models.patchgan import Discriminator, ScaledDiscriminators, with_spectral_norm
from sar2optical.models.unet import MULTIPLE, GeneratorArguments
from sar2optical.signature import ModelSignature
from sar2optical.training.config import WEIGHTS, TrainConfig, differences
from sar2optical.training.losses import (
    adversarial_loss,
    correlation_loss,
    discriminator_loss,
    multiscale_ssim_loss,
    octave_loss,
    reconstruction_loss,
    squared_loss,
    ssim_loss,
    texture_loss,
)
from sar2optical.training.networks import (
    blend_in,
    choose_precision,
    initialized,
    load_strictly,
    statistics_kept,
)
from sar2optical.training.shifting import Shift, shift_loss, shift_of, with_shifted

_RGB = 3
_N = TypeVar("_N", bound=nn.Module)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DISTANCES = (ssim_loss, texture_loss, multiscale_ssim_loss, correlation_loss, octave_loss, squared_loss)
"""Terms that compare with the truth and cost time, in the order of `WEIGHTS`."""
# A discriminator that has been right beyond doubt for this many steps on end teaches the generator nothing any more.
_SURE, _PATIENCE = 1e-4, 200


@dataclass(frozen=True)
class Losses:
    """Losses of one step, unweighted, means over its pairs and all devices; 0 where a term takes no part."""

    discriminator: float = 0.0
    generator: float = 0.0
    """Weighted sum of the terms below: what the generator minimizes."""
    adversarial: float = 0.0
    l1: float = 0.0
    ssim: float = 0.0
    """1 - SSIM."""
    texture: float = 0.0
    multiscale_ssim: float = 0.0
    correlation: float = 0.0
    """1 - correlation."""
    octave: float = 0.0
    squared: float = 0.0
    shift: float = 0.0
    """Mean absolute difference between windows and shifted copies."""


class Trainer:
    """The networks, their optimizers, and one step of both.

    The order of a step is pix2pix's: one generator forward, the discriminator's update, then the generator's against
    the updated discriminator. Dropout depends on the seed, the step and the rank alone, so a run that goes on from a
    saved state repeats what an uninterrupted one does.

    Parameters
    ----------
    config
        The run's settings. Precision "auto" becomes the one that is taken.
    signature
        What the generator will expect.
    fabric
        Device and ranks; this process's CPU or first GPU where not given.
    steps
        Updates of the whole run.
    backend
        Of torch.compile, where the settings ask for it.

    Raises
    ------
    DeviceUnavailable
        Where the precision is not to be had on the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        signature: ModelSignature,
        *,
        steps: int,
        fabric: Fabric | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.fabric = fabric or Fabric(devices=1)
        self.device = self.fabric.device
        self._asked = config.precision
        self.config = replace(config, precision=choose_precision(config.precision, self.device.type))
        self.signature, self.steps, self.step = signature, steps, 0
        torch.manual_seed(config.seed)
        arguments = GeneratorArguments(
            in_channels=signature.channels,
            base_channels=config.base_channels,
            upsampling=config.upsampling,
            architecture=config.architecture,
        )
        self.generator = self._placed(initialized(build_generator(arguments)))
        self.discriminator = self._placed(_discriminator(config, signature))
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (config.beta1, config.beta2)
        fused = self.device.type in ("cpu", "cuda") and config.precision != "fp16"
        self._optimizers = [
            torch.optim.Adam(net.parameters(), config.learning_rate, betas=betas, fused=fused)
            for net in (self.generator, self.discriminator)
        ]
        # Loss scaling keeps fp16's small gradients from vanishing; in other precisions it does nothing.
        self._scalers = [
            torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16") for _ in self._optimizers
        ]
        self._sure = 0
        self._translate: Callable[[Tensor], Tensor] = self.generator
        self._judge: Callable[..., Tensor] = self._discriminator_loss
        self._weigh: Callable[..., tuple[Tensor, ...]] = self._generator_losses
        if config.compile:
            self._translate, self._judge, self._weigh = (
                torch.compile(f, backend=backend) for f in (self.generator, self._judge, self._weigh)
            )

    @property
    def result(self) -> Generator:
        """The generator that is evaluated and kept: the moving average, where there is one."""
        return self.average if self.config.ema_decay else self.generator

    def advance(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Losses:
        """Take one step.

        Parameters
        ----------
        batches
            As many as the settings accumulate; SAR float32 (n, C, H, W), one channel per band, and optical float32
            (n, 3, H, W), in [-1, 1].

        Raises
        ------
        TrainingDiverged
            Where a loss is no number any more, or the discriminator has been sure of itself for too long. The weights
            are spoilt then; the saved state is not.
        """
        placed = [(self._place(self._repeated(sar)), self._place(optical)) for sar, optical in batches]
        shift = shift_of(self.config.seed, self.step)
        if self.config.shift_weight:
            placed = [(self._place(with_shifted(a, shift)), self._place(with_shifted(b, shift))) for a, b in placed]
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = self.config.rate_at(self.step, self.steps)
        gan = self.config.gan_at(self.step, self.steps)
        losses = self._alternate(placed, shift, gan=gan)
        self.step += 1
        if self.config.ema_decay:
            # A young average forgets faster, or it would keep the random first weights for thousands of steps.
            blend_in(self.average, self.generator, min(self.config.ema_decay, self.step / (9 + self.step)))
        mean = self.fabric.all_reduce(losses, reduce_op="mean")
        report = Losses(*mean.tolist())  # type: ignore[union-attr]
        self._stop_where_diverged(report, gan=gan)
        return report

    def _alternate(self, batches: Sequence[tuple[Tensor, ...]], shift: Shift, *, gan: bool) -> Tensor:
        """Update the discriminator, then the generator; give the terms of `Losses`, in its order."""
        single = len(batches) == 1
        loss_d = torch.zeros((), device=self.device)
        if gan:
            self.discriminator.requires_grad_(True)
            kept = None
            for k, (sar, optical) in enumerate(batches):
                if single:
                    fake = kept = self._fake(sar, k)
                else:  # made again below, so that memory is that of one batch; statistics are only moved there
                    with torch.no_grad(), statistics_kept(self.generator):
                        fake = self._fake(sar, k)
                loss = self._judge(sar, optical, fake.detach()) / len(batches)
                self._backward(loss, 1)
                loss_d = loss_d + loss.detach()
            self._update(1)
        self.discriminator.requires_grad_(False)  # no gradients for weights that this half leaves alone
        terms = torch.zeros(len(WEIGHTS), device=self.device)
        total = torch.zeros((), device=self.device)
        for k, (sar, optical) in enumerate(batches):
            fake = kept if gan and single and kept is not None else self._fake(sar, k)
            shifted = shift_loss(fake, shift) if self.config.shift_weight else torch.zeros((), device=self.device)
            parts = torch.stack((*self._weigh(sar, optical, fake, gan), shifted)) / len(batches)
            loss = (parts * self._weights(gan)).sum()
            self._backward(loss, 0)
            terms, total = terms + parts.detach(), total + loss.detach()
        self._update(0)
        return torch.cat((loss_d[None], total[None], terms))

    def _fake(self, sar: Tensor, k: int) -> Tensor:
        seed = (self.config.seed * 1_000_003 + self.step) * self.config.accumulate + k
        torch.manual_seed((seed * self.fabric.world_size + self.fabric.global_rank) % 2**63)  # dropout
        with self._autocast():
            return self._translate(sar)

    def _discriminator_loss(self, sar: Tensor, optical: Tensor, fake: Tensor) -> Tensor:
        with self._autocast():
            both = zip(self._logits(sar, optical), self._logits(sar, fake), strict=True)
        return torch.stack([discriminator_loss(real, made, self.config.objective) for real, made in both]).mean()

    def _generator_losses(self, sar: Tensor, optical: Tensor, fake: Tensor, gan: bool) -> tuple[Tensor, ...]:
        """Give the terms but the last, in the order of `WEIGHTS`; 0 for those that take no part."""
        nothing = torch.zeros((), device=self.device)
        adversarial = nothing
        if gan:
            with self._autocast():
                scales = self._logits(sar, fake)
            adversarial = torch.stack([adversarial_loss(logits, self.config.objective) for logits in scales]).mean()
        # On a CPU, pooling three channels in channels-last layout takes five times as long.
        optical, fake = optical.contiguous(), fake.float().contiguous()
        others = (getattr(self.config, weight) for weight in WEIGHTS[2:-1])
        distances = (
            distance(optical, fake) if weight else nothing
            for distance, weight in zip(_DISTANCES, others, strict=True)
        )
        return adversarial, reconstruction_loss(optical, fake), *distances

    def _weights(self, gan: bool) -> Tensor:
        config = self.config
        weights = [float(getattr(config, name)) for name in WEIGHTS]
        return torch.tensor([weights[0] if gan else 0.0, *weights[1:]], device=self.device)

    def _logits(self, sar: Tensor, optical: Tensor) -> tuple[Tensor, ...]:
        """Ask the discriminator, or that of each scale."""
        pair = torch.cat((sar, optical.to(sar.dtype)), 1) if self.config.conditional else optical
        logits = self.discriminator(pair)
        return logits if isinstance(logits, tuple) else (logits,)

    def _backward(self, loss: Tensor, which: int) -> None:
        self._scalers[which].scale(loss).backward()  # type: ignore[no-untyped-call]

    def _update(self, which: int) -> None:
        """Apply the mean of all ranks' gradients."""
        optimizer, scaler = self._optimizers[which], self._scalers[which]
        if self.fabric.world_size > 1:
            self._average_gradients((self.generator, self.discriminator)[which])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def _average_gradients(self, net: nn.Module) -> None:
        """Replace each gradient by its mean over ranks, in one message."""
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = self.fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
        parts = flat.split([g.numel() for g in gradients])  # type: ignore[union-attr]
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def _autocast(self) -> torch.autocast:
        precision = self.config.precision
        return torch.autocast(self.device.type, _DTYPES[precision], enabled=precision != "fp32")

    def _placed(self, net: _N) -> _N:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return net

    def _repeated(self, sar: Tensor) -> Tensor:
        """Give a single band as often as the generator has inputs for it."""
        return sar.expand(-1, self.signature.channels, -1, -1) if self.signature.replicated else sar

    def _place(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return images.to(self.device, non_blocking=True).contiguous(memory_format=layout)

    def _stop_where_diverged(self, report: Losses, *, gan: bool) -> None:
        broken = [name for name, value in asdict(report).items() if not abs(value) < float("inf")]
        # An overflow of fp16's gradients is no such thing: the scaler skips that step by itself.
        if broken:
            raise TrainingDiverged(
                f"step {self.step}: loss {broken[0]} is {getattr(report, broken[0])}: lower --learning-rate, or "
                "give --precision fp32; the last saved state is untouched"
            )
        self._sure = self._sure + 1 if gan and report.discriminator < _SURE else 0
        if self._sure >= _PATIENCE:
            raise TrainingDiverged(
                f"step {self.step}: the discriminator's loss has been under {_SURE:g} for {_PATIENCE} steps, "
                "so the generator learns nothing from it: narrow it (--discriminator-channels), or weight L1 higher; "
                "the last saved state is untouched"
            )

    def refuse_unsound(self) -> None:
        """Refuse to keep weights that are no numbers, or give none: losses are of the step before they were made.

        Raises
        ------
        TrainingDiverged
        """
        sound = all(bool(v.isfinite().all()) for net in self._networks() for v in net.state_dict().values())
        if sound:
            blank = torch.zeros(1, self.signature.channels, MULTIPLE, MULTIPLE, device=self.device)
            net = self.result
            training = net.training
            with torch.inference_mode():
                sound = bool(net.eval()(blank).isfinite().all())
            net.train(training)
        if not sound:
            raise TrainingDiverged(
                f"step {self.step}: weights are no finite numbers any more: lower --learning-rate, or give "
                "--precision fp32; the last saved state is untouched"
            )

    def sync_statistics(self) -> None:
        """Give all ranks the mean of their batch-norm statistics: each has seen its own share."""
        if self.fabric.world_size > 1:
            for net in (self.generator, self.discriminator, self.average):
                for buffer in net.buffers():
                    if buffer.is_floating_point():
                        buffer.copy_(self.fabric.all_reduce(buffer.clone(), reduce_op="mean"))  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to go on, atomically.

        Randomness has no state but seed and step: each step draws from generators of its own.

        Raises
        ------
        OutputUnwritable
            Where the file cannot be written; the one before stays.
        """
        content = {
            "format": TRAINING_FORMAT,
            "step": self.step,
            "steps": self.steps,
            "config": self.config.to_dict(),
            "signature": self.signature.to_json(),
            "sure": self._sure,
            "networks": [net.state_dict() for net in self._networks()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scalers": [scaler.state_dict() for scaler in self._scalers],
        }
        save_atomically(path, content)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises
        ------
        ModelUnreadable
            Where the file is no saved state, or corrupt.
        CheckpointMismatch
            Where it is of a run with other settings; they are named.
        """
        content = read_tensors(path)
        if content.get("format") != TRAINING_FORMAT:
            raise ModelUnreadable(f"{path}: no state of a training run: give --restart, or another folder")
        own = {**self.config.to_dict(), "signature": self.signature.to_json(), "steps": self.steps, "epochs": None}
        # A setting that the run's release did not have yet has its default.
        theirs = {
            **TrainConfig().to_dict(),
            **content["config"],
            "signature": content["signature"],
            "steps": content["steps"],
            "epochs": None,
        }
        if self._asked == "auto":
            own["precision"] = theirs["precision"]
        if self.config.decay_from == 1 and self.config.gan_from == 0:  # then no step depends on how many follow it
            own["steps"] = theirs["steps"]
        other = differences(theirs, own)
        if other:
            raise CheckpointMismatch(
                f"{path}: of a run with other settings (there/here: {', '.join(other)}): give those, --restart, or "
                "another folder"
            )
        if own["precision"] != self.config.precision:
            self.config = replace(self.config, precision=choose_precision(own["precision"], self.device.type))
        self.step, self._sure = content["step"], content["sure"]
        targets: list[Any] = [*self._networks(), *self._optimizers, *self._scalers]
        saved = [*content["networks"], *content["optimizers"], *content["scalers"]]
        for target, state in zip(targets, saved, strict=True):
            target.load_state_dict(state)

    def start_from(self, generator: Path | None, discriminator: Path | None) -> None:
        """Take first weights from files instead of chance: a generator's checkpoint, a discriminator's state dict.

        Raises
        ------
        ModelUnreadable, CheckpointMismatch
            Where a file is no such thing, or of another width.
        """
        if generator:
            load_strictly(self.generator, load_generator(generator)[0].state_dict(), generator)
            self.average.load_state_dict(self.generator.state_dict())
        if discriminator:
            load_strictly(self.discriminator, bare_state_dict(discriminator), discriminator)

    def _networks(self) -> tuple[nn.Module, ...]:
        return self.generator, self.discriminator, self.average


def _discriminator(config: TrainConfig, signature: ModelSignature) -> nn.Module:
    channels = _RGB + (signature.channels if config.conditional else 0)
    nets = [
        Discriminator(
            channels,
            config.discriminator_channels,
            kind=config.discriminator,
            n_layers=config.discriminator_layers,
        )
        for _ in range(config.discriminator_scales)
    ]
    net = initialized(nets[0] if len(nets) == 1 else ScaledDiscriminators(nets))
    return with_spectral_norm(net) if config.spectral_norm else net
