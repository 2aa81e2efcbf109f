"""Trainer: generator and discriminator, their optimizers, and one training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sar2optical.errors import TrainingDiverged
from sar2optical.models.checkpoint import TRAINING_FORMAT, bare_state_dict, load_generator, save_atomically
from sar2optical.models.generator import Generator, build_generator
from sar2optical.models.unet import MULTIPLE, GeneratorArguments
from sar2optical.signature import ModelSignature
from sar2optical.training.config import WEIGHTS, TrainConfig
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
    build_discriminator,
    choose_precision,
    initialized,
    load_strictly,
    statistics_kept,
)
from sar2optical.training.shifting import Shift, shift_loss, shift_of, with_shifted
from sar2optical.training.state import read_state, resumed_settings

__all__ = ["Losses", "Trainer"]

_N = TypeVar("_N", bound=nn.Module)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DISTANCES = (ssim_loss, texture_loss, multiscale_ssim_loss, correlation_loss, octave_loss, squared_loss)
"""Optional terms that compare with the truth, in the order of `WEIGHTS`."""
# Loss under which the discriminator gives no useful gradient, and the number of such steps that stops the run.
_SATURATED, _PATIENCE = 1e-4, 200


@dataclass(frozen=True)
class Losses:
    """Losses of one step, unweighted, means over its pairs and all devices; 0 for unused terms."""

    discriminator: float = 0.0
    generator: float = 0.0
    """Weighted sum of the terms below, which the generator minimizes."""
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
    """Mean absolute difference between the outputs of windows and of shifted copies."""


class Trainer:
    """Networks, optimizers and the training step.

    The order of a step is pix2pix's: one generator forward pass, the discriminator's update, then the generator's
    update against the updated discriminator. Dropout depends only on the seed, the step and the rank, so a resumed
    run gives the same weights as an uninterrupted one.

    Parameters
    ----------
    config
        Settings of the run. Precision "auto" is replaced by the precision chosen for the device.
    signature
        Signature of the generator.
    steps
        Updates of the whole run.
    fabric
        Device and ranks; None takes one device of this process.
    backend
        Backend of torch.compile, if the settings ask for it.

    Raises
    ------
    DeviceUnavailable
        If the device does not support the precision.
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
        self.generator = self._on_device(initialized(build_generator(arguments)))
        self.discriminator = self._on_device(build_discriminator(config, signature))
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (config.beta1, config.beta2)
        fused = self.device.type in ("cpu", "cuda") and config.precision != "fp16"
        self._optimizers = [
            torch.optim.Adam(net.parameters(), config.learning_rate, betas=betas, fused=fused)
            for net in (self.generator, self.discriminator)
        ]
        # Loss scaling keeps small gradients representable in fp16; it is off in other precisions.
        self._scalers = [
            torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16") for _ in self._optimizers
        ]
        self._saturated_steps = 0
        self._translate: Callable[[Tensor], Tensor] = self.generator
        self._loss_d: Callable[..., Tensor] = self._discriminator_loss
        self._losses_g: Callable[..., tuple[Tensor, ...]] = self._generator_losses
        if config.compile:
            self._translate, self._loss_d, self._losses_g = (
                torch.compile(f, backend=backend) for f in (self.generator, self._loss_d, self._losses_g)
            )

    @property
    def result(self) -> Generator:
        """Generator to evaluate and save: the moving average if there is one."""
        return self.average if self.config.ema_decay else self.generator

    def advance(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Losses:
        """Take one step.

        Parameters
        ----------
        batches
            `config.accumulate` batches of SAR, float32 (n, C, H, W) with one channel per band, and optical, float32
            (n, 3, H, W), both in [-1, 1].

        Raises
        ------
        TrainingDiverged
            If a loss is not finite, or the discriminator's loss has been near 0 for too long. The weights are then
            unusable; the saved state is not affected.
        """
        moved = [(self._moved(self._repeated(sar)), self._moved(optical)) for sar, optical in batches]
        shift = shift_of(self.config.seed, self.step)
        if self.config.shift_weight:
            moved = [(self._moved(with_shifted(a, shift)), self._moved(with_shifted(b, shift))) for a, b in moved]
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = self.config.rate_at(self.step, self.steps)
        gan = self.config.gan_at(self.step, self.steps)
        losses = self._alternate(moved, shift, gan=gan)
        self.step += 1
        if self.config.ema_decay:
            # A lower decay at the start, or the average would keep the random first weights for thousands of steps.
            blend_in(self.average, self.generator, min(self.config.ema_decay, self.step / (9 + self.step)))
        mean = self.fabric.all_reduce(losses, reduce_op="mean")
        report = Losses(*mean.tolist())  # type: ignore[union-attr]
        self._stop_where_diverged(report, gan=gan)
        return report

    def _alternate(self, batches: Sequence[tuple[Tensor, ...]], shift: Shift, *, gan: bool) -> Tensor:
        """Update the discriminator, then the generator; return the losses in the order of `Losses`."""
        single = len(batches) == 1
        loss_d = torch.zeros((), device=self.device)
        if gan:
            self.discriminator.requires_grad_(True)
            kept = None
            for k, (sar, optical) in enumerate(batches):
                if single:
                    fake = kept = self._fake(sar, k)
                else:  # recomputed below, to hold one batch in memory; statistics are only updated there
                    with torch.no_grad(), statistics_kept(self.generator):
                        fake = self._fake(sar, k)
                loss = self._loss_d(sar, optical, fake.detach()) / len(batches)
                self._backward(loss, 1)
                loss_d = loss_d + loss.detach()
            self._update(1)
        self.discriminator.requires_grad_(False)  # the generator's update needs no gradients of these weights
        terms = torch.zeros(len(WEIGHTS), device=self.device)
        total = torch.zeros((), device=self.device)
        for k, (sar, optical) in enumerate(batches):
            fake = kept if gan and single and kept is not None else self._fake(sar, k)
            shifted = shift_loss(fake, shift) if self.config.shift_weight else torch.zeros((), device=self.device)
            unweighted = torch.stack((*self._losses_g(sar, optical, fake, gan), shifted)) / len(batches)
            loss = (unweighted * self._weights(gan)).sum()
            self._backward(loss, 0)
            terms, total = terms + unweighted.detach(), total + loss.detach()
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
        """Compute all terms but the last, in the order of `WEIGHTS`; 0 for unused terms."""
        unused = torch.zeros((), device=self.device)
        adversarial = unused
        if gan:
            with self._autocast():
                scales = self._logits(sar, fake)
            adversarial = torch.stack([adversarial_loss(logits, self.config.objective) for logits in scales]).mean()
        # On a CPU, pooling three channels in channels-last layout takes five times longer.
        optical, fake = optical.contiguous(), fake.float().contiguous()
        others = (getattr(self.config, weight) for weight in WEIGHTS[2:-1])
        distances = (
            distance(optical, fake) if weight else unused for distance, weight in zip(_DISTANCES, others, strict=True)
        )
        return adversarial, reconstruction_loss(optical, fake), *distances

    def _weights(self, gan: bool) -> Tensor:
        config = self.config
        weights = [float(getattr(config, name)) for name in WEIGHTS]
        return torch.tensor([weights[0] if gan else 0.0, *weights[1:]], device=self.device)

    def _logits(self, sar: Tensor, optical: Tensor) -> tuple[Tensor, ...]:
        """Compute the discriminator's logits, one tensor per scale."""
        pair = torch.cat((sar, optical.to(sar.dtype)), 1) if self.config.conditional else optical
        logits = self.discriminator(pair)
        return logits if isinstance(logits, tuple) else (logits,)

    def _backward(self, loss: Tensor, which: int) -> None:
        self._scalers[which].scale(loss).backward()  # type: ignore[no-untyped-call]

    def _update(self, which: int) -> None:
        """Apply the gradients, averaged over all ranks."""
        optimizer, scaler = self._optimizers[which], self._scalers[which]
        if self.fabric.world_size > 1:
            self._average_gradients((self.generator, self.discriminator)[which])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def _average_gradients(self, net: nn.Module) -> None:
        """Replace each gradient by its mean over the ranks, in one message."""
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = self.fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
        means = flat.split([g.numel() for g in gradients])  # type: ignore[union-attr]
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def _autocast(self) -> torch.autocast:
        precision = self.config.precision
        return torch.autocast(self.device.type, _DTYPES[precision], enabled=precision != "fp32")

    def _on_device(self, net: _N) -> _N:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return net

    def _repeated(self, sar: Tensor) -> Tensor:
        """Repeat a single band for each input channel of the generator."""
        return sar.expand(-1, self.signature.channels, -1, -1) if self.signature.replicated else sar

    def _moved(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return images.to(self.device, non_blocking=True).contiguous(memory_format=layout)

    def _stop_where_diverged(self, report: Losses, *, gan: bool) -> None:
        broken = [name for name, value in asdict(report).items() if not abs(value) < float("inf")]
        # An overflow of fp16's gradients does not get here: the scaler skips that step.
        if broken:
            raise TrainingDiverged(
                f"step {self.step}: loss {broken[0]} is {getattr(report, broken[0])}: lower --learning-rate, or "
                "give --precision fp32 (the last saved state is unchanged)"
            )
        self._saturated_steps = self._saturated_steps + 1 if gan and report.discriminator < _SATURATED else 0
        if self._saturated_steps >= _PATIENCE:
            raise TrainingDiverged(
                f"step {self.step}: the discriminator's loss has been under {_SATURATED:g} for {_PATIENCE} steps, so "
                "the generator learns nothing from it: lower --discriminator-channels, or raise --l1-weight (the "
                "last saved state is unchanged)"
            )

    def check_finite(self) -> None:
        """Refuse to save weights that are not finite or give outputs that are not; losses lag one step behind them.

        Raises
        ------
        TrainingDiverged
            If a weight or an output is not finite.
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
                f"step {self.step}: weights are not finite: lower --learning-rate, or give --precision fp32 (the "
                "last saved state is unchanged)"
            )

    def sync_statistics(self) -> None:
        """Average the batch-norm statistics over all ranks, each of which saw its share of the windows."""
        if self.fabric.world_size > 1:
            for net in (self.generator, self.discriminator, self.average):
                for buffer in net.buffers():
                    if buffer.is_floating_point():
                        buffer.copy_(self.fabric.all_reduce(buffer.clone(), reduce_op="mean"))  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to resume, atomically.

        Random numbers have no state to save: each step seeds its own generators.

        Raises
        ------
        OutputUnwritable
            If the file cannot be written; the previous file is kept.
        """
        content = {
            "format": TRAINING_FORMAT,
            "step": self.step,
            "steps": self.steps,
            "config": self.config.to_dict(),
            "signature": self.signature.to_json(),
            "sure": self._saturated_steps,
            "networks": [net.state_dict() for net in self._networks()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scalers": [scaler.state_dict() for scaler in self._scalers],
        }
        save_atomically(path, content)

    def load(self, path: Path) -> None:
        """Resume from a saved state.

        Raises
        ------
        ModelUnreadable
            If the file is corrupt or not a saved state.
        CheckpointMismatch
            If a run with other settings saved it; the message lists them.
        """
        content = read_state(path)
        settings = resumed_settings(
            path, content, self.config, self.signature.to_json(), self.steps, auto_precision=self._asked == "auto"
        )
        if settings["precision"] != self.config.precision:
            self.config = replace(self.config, precision=choose_precision(settings["precision"], self.device.type))
        self.step, self._saturated_steps = content["step"], content["sure"]
        targets: list[Any] = [*self._networks(), *self._optimizers, *self._scalers]
        saved = [*content["networks"], *content["optimizers"], *content["scalers"]]
        for target, state in zip(targets, saved, strict=True):
            target.load_state_dict(state)

    def start_from(self, generator: Path | None, discriminator: Path | None) -> None:
        """Load initial weights: a generator's checkpoint, a discriminator's state dict.

        Raises
        ------
        ModelUnreadable, CheckpointMismatch
            If a file has another format, or weights of another shape.
        """
        if generator:
            load_strictly(self.generator, load_generator(generator)[0].state_dict(), generator)
            self.average.load_state_dict(self.generator.state_dict())
        if discriminator:
            load_strictly(self.discriminator, bare_state_dict(discriminator), discriminator)

    def _networks(self) -> tuple[nn.Module, ...]:
        return self.generator, self.discriminator, self.average
