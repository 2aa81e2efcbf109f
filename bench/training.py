"""Images per second of a training step, against the seed's; and whether faster arithmetic learns as well."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.harness import (
    Record,
    Row,
    device_option,
    here,
    in_a_process,
    in_words,
    json_option,
    quick_option,
    ratio_cells,
    rounds_option,
    save,
    say,
    table,
    threads_option,
)
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines.base import default_threads
from sar2optical.signature import Bound, ModelSignature, Stretch

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from sar2optical.training.config import TrainConfig

SEED = "the seed's step: eager, fp32, contiguous"

_SIGNATURE = ModelSignature(
    name="bench", bands=("VH",), unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),), channels=3
)
_COMPARED = (150, 200)  # steps whose L1 is compared
_SECONDS = 1.0
"""That a candidate runs for in each round, at least."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of taking a step; travels to a process of its own."""

    name: str
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    batch: int
    seed: bool = False

    @property
    def labels(self) -> dict[str, Any]:
        """What it is."""
        how = "the seed's" if self.seed else "channels last" if self.channels_last else "contiguous"
        how += ", compiled" if self.compile else ""
        return {"way": how, "precision": self.precision, "batch": self.batch, "base": f"{SEED}, batch {self.batch}"}


@click.command("training")
@click.option("--base-channels", default=64, show_default=True, help="Width of generator and discriminator.")
@click.option("--batch", "batches", type=click.IntRange(min=2), multiple=True, default=(8,), show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Also torch.compile.")
@click.option("--bf16/--no-bf16", default=None, help="Also bf16.  [where the device computes in it]")
@click.option("--data", type=click.Path(path_type=Path), help="Pairs: compare what is learnt, too.")
@click.option("--steps", default=_COMPARED[1], show_default=True, help="Of that comparison.")
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    base_channels: int, batches: tuple[int, ...], compiled: bool, bf16: bool | None, data: Path | None, steps: int,
    device: str, threads: int | None, rounds: int, quick: bool, out: Path | None,
) -> None:  # fmt: skip
    """Compare training steps, taking turns; with --data, the L1 they come to from the same seed."""
    from sar2optical.training.networks import choose_precision

    if quick:
        base_channels, batches, rounds = min(base_channels, 4), (2,), 1
    if bf16 is None:
        bf16 = choose_precision("auto", device) == "bf16"
    record = measured(
        base_channels, batches, compiled=compiled, bf16=bf16, device=device, threads=threads, rounds=rounds,
        data=data, steps=steps, apart=not quick,
    )  # fmt: skip
    click.echo(report(record))
    save(record, out)


def measured(
    base_channels: int, batches: Sequence[int], *, compiled: bool, bf16: bool, device: str, threads: int | None,
    rounds: int, data: Path | None = None, steps: int = _COMPARED[1], apart: bool = True,
) -> Record:  # fmt: skip
    """Run the bench; see the command's options."""
    ways = [way for batch in batches for way in _ways(batch, compiled=compiled, bf16=bf16)]
    samples: dict[Way, list[tuple[float, float, float]]] = {way: [] for way in ways}
    trouble: dict[Way, str] = {}
    seconds = _SECONDS if apart else 0.0
    if device == "cuda":  # whose memory tells itself; compiling again in each round would take minutes
        steppers: dict[Way, Callable[[], object]] = {}
    for number in range(rounds):
        for way in ways:
            if way in trouble:
                continue
            try:
                if device == "cuda":
                    samples[way].append(_on_gpu(way, base_channels, steppers, seconds))
                else:
                    samples[way].append(
                        (in_a_process if apart else here)(_on_cpu, way, base_channels, threads, seconds)
                    )
            except RuntimeError as error:
                trouble[way] = in_words(error)
                say(f"left out: {way.name} ({trouble[way]})")
                continue
            say(f"round {number + 1}/{rounds}: {way.name}, batch {way.batch}: {samples[way][-1][0]:.2f} images/s")
    learnt = _learnt([way for way in ways if not way.seed], base_channels, data, steps, device) if data else {}
    return Record(
        bench="training",
        rows=tuple(_row(way, samples[way], trouble.get(way), learnt) for way in ways),
        settings={
            "base_channels": base_channels,
            "device": device,
            "threads": threads or default_threads(),
            "rounds": rounds,
            "steps": steps if data else None,
        },
    )


def _ways(batch: int, *, compiled: bool, bf16: bool) -> list[Way]:
    found = [
        Way(name=SEED, seed=True, channels_last=False, batch=batch),
        Way(name="ours: fp32, contiguous", channels_last=False, batch=batch),
        Way(name="ours: fp32, channels last", batch=batch),
    ]
    if bf16:
        found.append(Way(name="ours: bf16, channels last", precision="bf16", batch=batch))
    if compiled:
        found += [replace(way, name=f"{way.name}, compiled", compile=True) for way in found if way.channels_last]
    return found


def _row(
    way: Way, samples: Sequence[tuple[float, float, float]], trouble: str | None, learnt: Mapping[Way, float]
) -> Row:
    name = f"{way.name}, batch {way.batch}"
    if trouble:
        return Row(name=name, unit="images/s", labels=way.labels, trouble=trouble)
    figures = {
        "memory_mb": max(memory for _, memory, _ in samples) / 1e6,
        "first_s": max(first for _, _, first in samples),
        "l1": learnt.get(way),
    }
    return Row(
        name=name, unit="images/s", samples=tuple(rate for rate, _, _ in samples), labels=way.labels, figures=figures
    )


def _on_cpu(way: Way, base_channels: int, threads: int | None, seconds: float) -> tuple[float, float, float]:
    """Give images per second, bytes, and seconds of the first step; in a process of its own."""
    import torch

    torch.set_num_threads(threads or default_threads())
    before, began = resident_bytes(), time.perf_counter()
    step = _stepper(way, base_channels, "cpu")
    first = time.perf_counter() - began
    rate = _rate(step, way.batch, lambda: None, seconds)
    return rate, peak_bytes() - before, first


def _on_gpu(
    way: Way, base_channels: int, steppers: dict[Way, Callable[[], object]], seconds: float
) -> tuple[float, float, float]:
    import torch

    first, before = 0.0, -1
    if way not in steppers:
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()  # the other candidates' is held, too
        steppers[way] = _stepper(way, base_channels, "cuda")
        torch.cuda.synchronize()
        first = time.perf_counter() - began
    rate = _rate(steppers[way], way.batch, torch.cuda.synchronize, seconds)
    return rate, torch.cuda.max_memory_allocated() - before if before >= 0 else 0, first


def _rate(step: Callable[[], object], batch: int, wait: Callable[[], None], seconds: float) -> float:
    step()
    wait()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        step()
        wait()
        count += 1
    return count * batch / (time.perf_counter() - began)


def _config(way: Way, base_channels: int) -> TrainConfig:
    from sar2optical.training.config import TrainConfig

    precision: Any = way.precision
    return TrainConfig(
        base_channels=base_channels, discriminator_channels=base_channels, batch=way.batch, seed=1,
        precision=precision, channels_last=way.channels_last, compile=way.compile,
    )  # fmt: skip


def _stepper(way: Way, base_channels: int, device: str) -> Callable[[], object]:
    """Give what takes one step; it has taken its first, in which libraries set themselves up and compile."""
    from sar2optical.training.trainer import Trainer

    config = _config(way, base_channels)
    images = _images(way.batch)
    if way.seed:
        step = _seed_step(config, images, device)
    else:
        trainer = Trainer(config, _SIGNATURE, steps=1_000_000, fabric=_fabric(device))

        def step() -> object:
            return trainer.advance([images])

    step()
    return step


def _fabric(device: str) -> Fabric:
    """Say where to train: by itself, Fabric takes a GPU where there is one."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=device, devices=1)


def _images(batch: int) -> tuple[Tensor, Tensor]:
    import torch

    sar = torch.rand(batch, 1, 256, 256).mul(2).sub(1).repeat(1, 3, 1, 1)
    return sar, torch.rand(batch, 3, 256, 256).mul(2).sub(1)


def _seed_step(config: TrainConfig, images: tuple[Tensor, Tensor], device: str) -> Callable[[], object]:
    """The seed's step: gradients for the discriminator's weights in the generator's half, too; Adam as it comes."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce
    from torch.nn.functional import l1_loss

    from sar2optical.models.patchgan import Discriminator
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator
    from sar2optical.training.networks import initialized

    generator = initialized(UNetGenerator(GeneratorArguments(base_channels=config.base_channels))).to(device)
    discriminator = initialized(Discriminator(6, config.discriminator_channels)).to(device)
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


def _learnt(ways: Sequence[Way], base_channels: int, data: Path, steps: int, device: str) -> dict[Way, float]:
    """Mean L1 of the last quarter of the steps, from the same first weights, windows and dropout."""
    from sar2optical.data.pairs import find_pairs, read_pair
    from sar2optical.training.batches import Batches
    from sar2optical.training.trainer import Trainer

    signature = replace(_SIGNATURE, channels=1)
    chips = [read_pair(pair) for pair in find_pairs(data)]
    last = steps * _COMPARED[0] // _COMPARED[1]
    learnt = {}
    for way in ways:
        config = _config(way, base_channels)
        trainer = Trainer(config, signature, steps=steps, fabric=_fabric(device))
        batches = Batches(chips, config)
        l1 = [trainer.advance([batches.batch(k)]).l1 for k in range(steps)]
        learnt[way] = statistics.fmean(l1[last:])
        assert np.isfinite(learnt[way])
        say(f"{way.name}: L1 {learnt[way]:.4f} after {steps} steps")
    return learnt


def report(record: Record) -> str:
    """Lay the record out for a terminal."""
    rows = [["step", "images/s", "against the first", "MB", "L1 at the end"]]
    for row in record.rows:
        memory, l1 = row.figures.get("memory_mb"), row.figures.get("l1")
        cells = ["-" if memory is None else f"{memory:.0f}", "-" if l1 is None else f"{l1:.4f}"]
        rows.append([row.name, *ratio_cells(record, row), *cells])
    return table(rows)
