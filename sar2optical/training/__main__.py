"""Train a generator: `python -m sar2optical.training DATA OUT`. Run again, it goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sar2optical.errors import Sar2OpticalError
from sar2optical.signature import ModelSignature, Stretch
from sar2optical.training.config import TrainConfig
from sar2optical.training.loop import StepReport, train


def _parse_stretch(_: click.Context, __: click.Parameter, value: tuple[str, str]) -> Stretch:
    try:
        return Stretch.parse(*value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", default="pix2pix", show_default=True, help="What the model is called.")
@click.option("--band", default="VH", show_default=True, help="Polarisation of the SAR chips.")
@click.option("--unit", default="amplitude", show_default=True, help="Unit that the chips' bytes are stretched from.")
@click.option(
    "--stretch", nargs=2, default=("0", "p99"), show_default=True, callback=_parse_stretch,
    help="How they were stretched: values, or percentiles of the scene (p99).",
)  # fmt: skip
@click.option("--steps", default=TrainConfig.steps, show_default=True)
@click.option("--batch", default=TrainConfig.batch, show_default=True)
@click.option("--base-channels", default=TrainConfig.base_channels, show_default=True)
@click.option("--l1-weight", default=TrainConfig.l1_weight, show_default=True, help="Of L1 against the GAN.")
@click.option(
    "--finish-from", default=TrainConfig.finish_from, show_default=True, help="Share of the steps after which"
)
@click.option(
    "--finish-l1-weight", default=TrainConfig.finish_l1_weight, show_default=True, help="this is the weight of L1."
)
@click.option("--seed", default=TrainConfig.seed, show_default=True)
@click.option("--threads", type=int, help="CPU threads; all where not given.")
def main(  # noqa: D103
    data: Path, out: Path, name: str, band: str, unit: str, stretch: Stretch, threads: int | None, **settings: Any
) -> None:
    import torch

    from sar2optical.data.pairs import find_pairs, read_pair

    if threads:
        torch.set_num_threads(threads)
    try:
        config = TrainConfig(**settings)
        signature = ModelSignature(name=name, bands=(band,), unit=unit, stretch=(stretch,))  # type: ignore[arg-type]
        chips = [read_pair(pair) for pair in find_pairs(data)]
        with tqdm(total=config.steps, unit="step", mininterval=5) as bar:

            def show(report: StepReport) -> None:
                bar.update(report.step - bar.n)
                bar.set_postfix(D=report.discriminator, G=report.adversarial, L1=report.l1, refresh=False)

            train(chips, config, signature, out, on_step=show)
    except (Sar2OpticalError, ValueError) as error:
        sys.exit(f"error: {error}")
    click.echo(f"{out / 'generator.pth'}: {config.steps} steps of {config.batch} pairs")


if __name__ == "__main__":
    main()
