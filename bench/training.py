"""Images per second of a training step, against the seed's; and whether faster arithmetic learns as well."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from bench.harness import interleaved, median, save, table
from sar2optical.signature import Bound, ModelSignature, Stretch

if TYPE_CHECKING:
    from torch import Tensor

    from sar2optical.training.config import TrainConfig

SEED = "the seed's step: eager, fp32, contiguous"

_SIGNATURE = ModelSignature(
    name="bench", bands=("VH",), unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),), channels=3
)
_COMPARED = (150, 200)  # steps whose L1 is compared


@click.command("training")
@click.option("--base-channels", default=64, show_default=True, help="Width of generator and discriminator.")
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Also torch.compile.")
@click.option("--bf16/--no-bf16", default=None, help="Also bf16.  [where the CPU computes in it]")
@click.option("--threads", type=int, help="CPU threads; all where not given.")
@click.option("--data", type=click.Path(path_type=Path), help="Pairs: compare what is learnt, too.")
@click.option("--steps", default=_COMPARED[1], show_default=True, help="Of that comparison.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the raw figures.")
def main(
    base_channels: int, batch: int, rounds: int, compiled: bool, bf16: bool | None, threads: int | None,
    data: Path | None, steps: int, out: Path | None,
) -> None:  # fmt: skip
    """Compare training steps, taking turns; with --data, the L1 they come to from the same seed."""
    import torch

    from sar2optical.training.config import TrainConfig
    from sar2optical.training.networks import choose_precision

    if threads:
        torch.set_num_threads(threads)
    config = TrainConfig(
        base_channels=base_channels, discriminator_channels=base_channels, batch=batch, precision="fp32", seed=1
    )
    if bf16 is None:
        bf16 = choose_precision("auto", "cpu") == "bf16"
    variants = _variants(config, compiled=compiled, bf16=bf16)
    images = _images(batch)
    candidates = {SEED: _seed_rate(config, images)} | {n: _rate(c, images) for n, c in variants.items()}
    figures = interleaved(candidates, rounds)
    base = median(figures[SEED])
    rows = [["step", "images/s", "against the first"]]
    rows += [[name, f"{median(rates):.2f}", f"{median(rates) / base:.2f}"] for name, rates in figures.items()]
    click.echo(table(rows))
    learnt = _learnt(variants, data, steps) if data else {}
    if learnt:
        click.echo(table([["step", "L1 at the end"], *([name, f"{value:.4f}"] for name, value in learnt.items())]))
    save(out, "training", {"base_channels": base_channels, "batch": batch, "images_per_s": figures, "l1": learnt})


def _variants(config: TrainConfig, *, compiled: bool, bf16: bool) -> dict[str, TrainConfig]:
    found = {
        "ours: fp32, contiguous": replace(config, channels_last=False),
        "ours: fp32, channels last": config,
    }
    if compiled:
        found["ours: fp32, channels last, compiled"] = replace(config, compile=True)
    if bf16:
        found["ours: bf16, channels last"] = replace(config, precision="bf16")
    if bf16 and compiled:
        found["ours: bf16, channels last, compiled"] = replace(config, precision="bf16", compile=True)
    return found


def _images(batch: int) -> tuple[Tensor, Tensor]:
    import torch

    sar = torch.rand(batch, 1, 256, 256).mul(2).sub(1).repeat(1, 3, 1, 1)
    return sar, torch.rand(batch, 3, 256, 256).mul(2).sub(1)


def _rate(config: TrainConfig, images: tuple[Tensor, Tensor]) -> Callable[[], float]:
    from sar2optical.training.trainer import Trainer

    trainer = Trainer(config, _SIGNATURE, steps=1_000_000)
    trainer.advance([images])  # compiles, and lets the libraries settle

    def measure() -> float:
        began = time.perf_counter()
        trainer.advance([images])
        return len(images[0]) / (time.perf_counter() - began)

    return measure


def _seed_rate(config: TrainConfig, images: tuple[Tensor, Tensor]) -> Callable[[], float]:
    """The seed's step: gradients for the discriminator's weights in the generator's half, too; Adam as it comes."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce
    from torch.nn.functional import l1_loss

    from sar2optical.models.patchgan import Discriminator
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator
    from sar2optical.training.networks import initialized

    generator = initialized(UNetGenerator(GeneratorArguments(base_channels=config.base_channels)))
    discriminator = initialized(Discriminator(6, config.discriminator_channels))
    optimizers = [
        torch.optim.Adam(net.parameters(), config.learning_rate, betas=(config.beta1, config.beta2))
        for net in (generator, discriminator)
    ]
    sar, optical = images

    def step() -> None:
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

    step()

    def measure() -> float:
        began = time.perf_counter()
        step()
        return len(sar) / (time.perf_counter() - began)

    return measure


def _learnt(variants: dict[str, TrainConfig], data: Path, steps: int) -> dict[str, float]:
    """Mean L1 of the last quarter of the steps, from the same first weights, windows and dropout."""
    from sar2optical.data.pairs import find_pairs, read_pair
    from sar2optical.training.batches import Batches
    from sar2optical.training.trainer import Trainer

    signature = replace(_SIGNATURE, channels=1)
    chips = [read_pair(pair) for pair in find_pairs(data)]
    last = steps * _COMPARED[0] // _COMPARED[1]
    learnt = {}
    for name, config in variants.items():
        trainer, batches = Trainer(config, signature, steps=steps), Batches(chips, config)
        l1 = [trainer.advance([batches.batch(k)]).l1 for k in range(steps)]
        learnt[name] = statistics.fmean(l1[last:])
        assert np.isfinite(learnt[name])
    return learnt
