"""Measure images per second of a training step, beside the reference step; optionally compare the L1 reached."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.harness import (
    Record,
    Row,
    device_option,
    execute,
    json_option,
    quick_option,
    rounds_option,
    save,
    say,
    take_turns,
    threads_option,
)
from bench.tables import terminal
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines.base import default_threads
from sar2optical.signature import Bound, ModelSignature, Stretch

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from sar2optical.training.config import TrainConfig

REFERENCE = "reference step: eager, fp32, contiguous"

_SIGNATURE = ModelSignature(
    name="bench", bands=("VH",), unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),), channels=3
)
_STEPS = 200
_L1_FROM = 0.75
"""L1 is the mean over the steps from this share of all steps on."""
_SECONDS = 1.0
"""Least duration of a candidate in each round."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One form of the training step; passed to a process of its own."""

    form: str
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    batch: int
    reference: bool = False

    @property
    def name(self) -> str:
        """Name of the row."""
        return f"{self.form}, batch {self.batch}"

    @property
    def labels(self) -> dict[str, Any]:
        """Labels of the row."""
        layout = "reference" if self.reference else "channels last" if self.channels_last else "contiguous"
        layout += ", compiled" if self.compile else ""
        base = f"{REFERENCE}, batch {self.batch}"
        return {"way": layout, "precision": self.precision, "batch": self.batch, "base": base}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the bench; those of the command have the command's meaning."""

    base_channels: int = 64
    batches: Sequence[int] = (8,)
    compiled: bool = False
    bf16: bool
    data: Path | None = None
    steps: int = _STEPS
    device: str = "cpu"
    threads: int | None = None
    rounds: int
    separate: bool = True
    """Run each candidate in a process of its own, on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measurements of one candidate in one round."""

    rate: float
    """Images per second."""
    memory: int
    """Bytes."""
    first_s: float
    """Duration of the first step, with setup and compilation."""

    def __str__(self) -> str:
        """Return the rate, for progress lines."""
        return f"{self.rate:.2f} images/s"


# As many parameters as options: click passes each by its name.
@click.command("training")
@click.option("--base-channels", default=64, show_default=True, help="Width of generator and discriminator.")
@click.option("--batch", "batches", type=click.IntRange(min=2), multiple=True, default=(8,), show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Include torch.compile.")
@click.option("--bf16/--no-bf16", default=None, help="Include bf16.  [where the device computes in bf16]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of pairs: also compare the L1 reached.")
@click.option("--steps", default=_STEPS, show_default=True, help="Number of steps of that comparison.")
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    base_channels: int, batches: tuple[int, ...], compiled: bool, bf16: bool | None, data: Path | None, steps: int,
    device: str, threads: int | None, rounds: int, quick: bool, out: Path | None,
) -> None:  # fmt: skip
    """Compare training steps, which take turns; with --data, also the L1 that they reach from the same seed."""
    from sar2optical.training.networks import choose_precision

    if quick:
        base_channels, batches, rounds = min(base_channels, 4), (2,), 1
    if bf16 is None:
        bf16 = choose_precision("auto", device) == "bf16"
    options = Options(
        base_channels=base_channels, batches=batches, compiled=compiled, bf16=bf16, data=data, steps=steps,
        device=device, threads=threads, rounds=rounds, separate=not quick,
    )  # fmt: skip
    record = measured(options)
    click.echo(terminal(record))
    save(record, out)


def measured(options: Options) -> Record:
    """Run the bench."""
    found = [one for batch in options.batches for one in _candidates(batch, options)]
    seconds = _SECONDS if options.separate else 0.0
    steppers: dict[Candidate, Callable[[], object]] = {}  # kept on a GPU: compiling in each round takes minutes

    def sample(candidate: Candidate, _: int) -> Sample:
        if options.device == "cuda":
            return _on_gpu(candidate, options.base_channels, steppers, seconds)
        return execute(options.separate, _on_cpu, candidate, options.base_channels, options.threads, seconds)

    turns = {one.name: partial(sample, one) for one in found}
    samples, failures = take_turns(turns, options.rounds, on_progress=say)
    l1 = _l1([one for one in found if not one.reference], options) if options.data else {}
    return Record(
        bench="training",
        rows=tuple(_row(one, samples.get(one.name, []), failures.get(one.name), l1) for one in found),
        settings={
            "base_channels": options.base_channels,
            "device": options.device,
            "threads": options.threads or default_threads(),
            "rounds": options.rounds,
            "steps": options.steps if options.data else None,
        },
    )


def _candidates(batch: int, options: Options) -> list[Candidate]:
    found = [
        Candidate(form=REFERENCE, reference=True, channels_last=False, batch=batch),
        Candidate(form="ours: fp32, contiguous", channels_last=False, batch=batch),
        Candidate(form="ours: fp32, channels last", batch=batch),
    ]
    if options.bf16:
        found.append(Candidate(form="ours: bf16, channels last", precision="bf16", batch=batch))
    if options.compiled:
        found += [replace(one, form=f"{one.form}, compiled", compile=True) for one in found if one.channels_last]
    return found


def _row(candidate: Candidate, samples: Sequence[Sample], failure: str | None, l1: Mapping[Candidate, float]) -> Row:
    row = Row(name=candidate.name, unit="images/s", labels=candidate.labels, trouble=failure)
    if failure:
        return row
    figures = {
        "memory_mb": max(sample.memory for sample in samples) / 1e6,
        "first_s": max(sample.first_s for sample in samples),
        "l1": l1.get(candidate),
    }
    return replace(row, samples=tuple(sample.rate for sample in samples), figures=figures)


def _on_cpu(candidate: Candidate, base_channels: int, threads: int | None, seconds: float) -> Sample:
    import torch

    torch.set_num_threads(threads or default_threads())
    before, began = resident_bytes(), time.perf_counter()
    step = _stepper(candidate, base_channels, "cpu")
    first = time.perf_counter() - began
    rate = _rate(step, candidate.batch, lambda: None, seconds)
    return Sample(rate=rate, memory=peak_bytes() - before, first_s=first)


def _on_gpu(
    candidate: Candidate, base_channels: int, steppers: dict[Candidate, Callable[[], object]], seconds: float
) -> Sample:
    import torch

    first, before = 0.0, -1
    if candidate not in steppers:
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()  # the other candidates' is held, too
        steppers[candidate] = _stepper(candidate, base_channels, "cuda")
        torch.cuda.synchronize()
        first = time.perf_counter() - began
    rate = _rate(steppers[candidate], candidate.batch, torch.cuda.synchronize, seconds)
    memory = torch.cuda.max_memory_allocated() - before if before >= 0 else 0
    return Sample(rate=rate, memory=memory, first_s=first)


def _rate(step: Callable[[], object], batch: int, wait: Callable[[], None], seconds: float) -> float:
    step()
    wait()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        step()
        wait()
        count += 1
    return count * batch / (time.perf_counter() - began)


def _config(candidate: Candidate, base_channels: int) -> TrainConfig:
    from sar2optical.training.config import TrainConfig

    precision: Any = candidate.precision
    return TrainConfig(
        base_channels=base_channels, discriminator_channels=base_channels, batch=candidate.batch, seed=1,
        precision=precision, channels_last=candidate.channels_last, compile=candidate.compile,
    )  # fmt: skip


def _stepper(candidate: Candidate, base_channels: int, device: str) -> Callable[[], object]:
    """Return a function that takes one step, after the first step, which sets libraries up and compiles."""
    from sar2optical.training.trainer import Trainer

    config = _config(candidate, base_channels)
    images = _images(candidate.batch)
    if candidate.reference:
        step = _reference_step(config, images, device)
    else:
        trainer = Trainer(config, _SIGNATURE, steps=1_000_000, fabric=_fabric(device))

        def step() -> object:
            return trainer.advance([images])

    step()
    return step


def _fabric(device: str) -> Fabric:
    """Return a Fabric of one device: its default is a GPU where there is one."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=device, devices=1)


def _images(batch: int) -> tuple[Tensor, Tensor]:
    import torch

    sar = torch.rand(batch, 1, 256, 256).mul(2).sub(1).repeat(1, 3, 1, 1)
    return sar, torch.rand(batch, 3, 256, 256).mul(2).sub(1)


def _reference_step(config: TrainConfig, images: tuple[Tensor, Tensor], device: str) -> Callable[[], object]:
    """Return the reference step: its generator half also computes the discriminator's gradients; default Adam."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce
    from torch.nn.functional import l1_loss

    from sar2optical.models.patchgan import Discriminator
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator
    from sar2optical.training.networks import initialized

    generator = initialized(UNetGenerator(GeneratorArguments(base_channels=config.base_channels))).to(device)
    discriminator = initialized(Discriminator(6, config.discriminator_width)).to(device)
    optimizers = [
        torch.optim.Adam(net.parameters(), config.learning_rate, betas=(config.beta1, config.beta2))
        for net in (generator, discriminator)
    ]

    def step() -> None:
        sar, optical = (image.to(device) for image in images)
        fake = generator(sar)
        real, made = discriminator(torch.cat((sar, optical), 1)), discriminator(torch.cat((sar, fake.detach()), 1))
        optimizers[1].zero_grad()
        loss = (bce(real, torch.ones_like(real)) + bce(made, torch.zeros_like(made))) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()
        made = discriminator(torch.cat((sar, fake), 1))
        optimizers[0].zero_grad()
        loss = bce(made, torch.ones_like(made)) + config.l1_weight * l1_loss(fake, optical)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[0].step()

    return step


def _l1(found: Sequence[Candidate], options: Options) -> dict[Candidate, float]:
    """Return the mean L1 of the last steps; all candidates have the same initial weights, windows and dropout."""
    from sar2optical.data.pairs import find_pairs, read_pair
    from sar2optical.training.batches import Batches
    from sar2optical.training.trainer import Trainer

    assert options.data is not None
    signature, steps = replace(_SIGNATURE, channels=1), options.steps
    chips = [read_pair(pair) for pair in find_pairs(options.data)]
    reached = {}
    for candidate in found:
        config = _config(candidate, options.base_channels)
        trainer = Trainer(config, signature, steps=steps, fabric=_fabric(options.device))
        batches = Batches(chips, config)
        l1 = [trainer.advance([batches.batch(k)]).l1 for k in range(steps)]
        reached[candidate] = statistics.fmean(l1[int(steps * _L1_FROM) :])
        assert np.isfinite(reached[candidate])
        say(f"{candidate.form}: L1 {reached[candidate]:.4f} after {steps} steps")
    return reached
