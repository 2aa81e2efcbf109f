"""`sar2opt-train`: train a generator on pairs of SAR and optical chips."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import (
    CONTEXT,
    INTERRUPTED,
    chip_options,
    name_variables,
    options,
    parse_stretch,
    refuse_bands_of_pictures,
    reports_errors,
    set_up_logging,
)
from sar2optical.cli.train_data import find_chips, open_chips
from sar2optical.errors import BackendNotInstalled, OptionError
from sar2optical.signature import UNITS, ModelSignature, Stretch

if TYPE_CHECKING:
    from sar2optical.training.loop import StepReport, TrainingJob

_FILE = click.Path(path_type=Path)

# None means the value of --config, else the default of TrainConfig or RunOptions.
_data = options(
    click.option("--split", type=_FILE,
                 help="Split file with the chips of train, val and test (made by sar2opt-data split)."),
    click.option("--val-data", type=_FILE, help="Folder of validation pairs, in place of the split's."),
    click.option("--val-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
                 help="Share of the pairs that is held out for validation, scene by scene, if neither --split nor "
                 "--val-data is given; 0: none."),
    click.option("--name", default="pix2pix", show_default=True, help="Name of the model."),
    click.option("--band", "bands", multiple=True,
                 help="Band of the SAR chips: polarisation, index from 1, or both (2=VH); repeat for several.  [VH]"),
    click.option("--unit", type=click.Choice(UNITS), default="amplitude", show_default=True,
                 help="Unit in which the stretch is applied; for 8-bit chips, the unit before they were stretched."),
    click.option("--stretch", nargs=2, default=("0", "p99"), show_default=True, callback=parse_stretch,
                 metavar="LOW HIGH", help="Values or percentiles (p99) that become -1 and 1."),
    click.option("--pixel-size", type=click.FloatRange(0, min_open=True), metavar="METRES",
                 help="Pixel size of the chips, for the signature; other scenes get a warning.  [unknown]"),
    chip_options,
    click.option("--channels", type=click.IntRange(1),
                 help="Input channels of the generator; a single band is repeated.  [one per band]"),
    click.option("--skip-unreadable", is_flag=True, help="Skip pairs that cannot be read, with a warning for each."),
    click.option("--cache", type=click.FloatRange(0), metavar="GB",
                 help="Memory for decoded chips.  [half of the free memory]"),
)  # fmt: skip
_model = options(
    click.option("--architecture", type=click.Choice(["pix2pix", "detail"]),
                 help="Architecture; detail has the SAR image at the head and no chequerboard.  [pix2pix]"),
    click.option("--base-channels", type=int, help="Width of the generator.  [64]"),
    click.option("--upsampling", type=click.Choice(["none", "nearest", "bilinear", "bicubic"]),
                 help="Upsampling and convolution instead of transposed convolution.  [none]"),
    click.option("--discriminator", type=click.Choice(["patch", "pixel"]),
                 help="Type of the discriminator.  [patch]"),
    click.option("--discriminator-channels", type=int,
                 help="Width of the discriminator.  [that of the generator]"),
    click.option("--discriminator-layers", type=int,
                 help="Depth of a patch discriminator; 3 sees 70 x 70 pixels.  [3]"),
    click.option("--discriminator-scales", type=int,
                 help="Number of discriminators, each at half the size of the one before.  [1]"),
    click.option("--spectral-norm/--batch-norm", default=None,
                 help="Normalisation of the discriminator.  [batch-norm]"),
    click.option("--conditional/--unconditional", default=None,
                 help="Whether the discriminator sees the SAR image.  [conditional]"),
)  # fmt: skip
_objective = options(
    click.option(
        "--objective", type=click.Choice(["vanilla", "lsgan", "hinge"]), help="Adversarial objective.  [vanilla]"
    ),
    click.option(
        "--gan-weight", type=float, help="Weight of the adversarial term; 0 trains without a discriminator.  [1]"
    ),
    click.option("--gan-from", type=float, help="Share of the steps after which the adversarial term is used.  [0]"),
    click.option("--l1-weight", type=float, help="Weight of L1.  [100]"),
    click.option("--ssim-weight", type=float, help="Weight of 1 - SSIM.  [0]"),
    click.option("--texture-weight", type=float, help="Weight of the error of local gradient energy.  [0]"),
    click.option("--multiscale-ssim-weight", type=float, help="Weight of 1 - SSIM of 2 x 2 and 4 x 4 means.  [0]"),
    click.option("--correlation-weight", type=float, help="Weight of 1 - correlation at three scales.  [0]"),
    click.option("--octave-weight", type=float, help="Weight of the error of gradient energy per octave.  [0]"),
    click.option("--squared-weight", type=float, help="Weight of the mean squared difference.  [0]"),
    click.option("--shift-weight", type=float, help="Weight of the difference to shifted copies of windows.  [0]"),
)
_steps = options(
    click.option("--epochs", type=int, help="Passes over the training windows.  [200]"),
    click.option("--steps", type=int, help="Updates of the generator, instead of --epochs."),
    click.option("--batch", type=int, help="Pairs per forward pass, summed over all devices.  [32]"),
    click.option("--accumulate", type=int, help="Forward passes per update.  [1]"),
    click.option("--learning-rate", type=float, help="Learning rate of Adam.  [0.0002]"),
    click.option("--beta1", type=float, help="First momentum of Adam.  [0.5]"),
    click.option("--beta2", type=float, help="Second momentum of Adam.  [0.999]"),
    click.option(
        "--decay-from", type=float, help="Share of the steps after which the learning rate falls; 1: never.  [0.5]"
    ),
    click.option(
        "--ema-decay", type=float, help="Decay of the moving average of the weights; 0: no average.  [0.999]"
    ),
    click.option(
        "--window",
        type=int,
        help="Side of a training window, a multiple of 256 (of 64 for detail); the generator's own window.  [256]",
    ),
    click.option("--crop/--no-crop", default=None, help="Cut windows at random positions, or on a grid.  [crop]"),
    click.option("--flip/--no-flip", default=None, help="Mirror windows.  [flip]"),
    click.option("--turn/--no-turn", default=None, help="Turn windows by quarters.  [turn]"),
    click.option("--zoom", type=int, help="Largest factor by which windows of larger chips are reduced.  [1]"),
    click.option(
        "--vary-sar",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Share of the windows with varied speckle, looks, incidence, stretch and unit.  [0]",
    ),
    click.option(
        "--balance",
        type=float,
        help="Balance of classes; 0: each window once per epoch, 1: each class equally often.  [0]",
    ),
    click.option("--seed", type=int, help="Seed of weights, windows and dropout.  [42]"),
)
_arithmetic = options(
    click.option("--windows-on", type=click.Choice(["host", "device"]),
                 help="Where windows are made; device keeps all chips in the GPU's memory.  [host]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
                 help="Precision; auto takes bf16 if the hardware computes in it, else fp32.  [auto]"),
    click.option("--channels-last/--contiguous", default=None, help="Memory layout.  [channels-last]"),
    click.option("--compile/--no-compile", default=None,
                 help="Use torch.compile, which takes minutes at the start.  [no-compile]"),
    click.option("--device", help="Device: auto, cpu or cuda.  [auto]"),
    click.option("--devices", type=int, help="Number of GPUs, or of processes on a CPU.  [1]"),
    click.option("--threads", type=int, help="CPU threads of the arithmetic."),
    click.option("--workers", type=int, help="CPU threads that prepare windows.  [2]"),
)  # fmt: skip
_records = options(
    click.option("--save-every", type=float, metavar="EPOCHS", help="Epochs between saves.  [5]"),
    click.option("--eval-every", type=float, metavar="EPOCHS", help="Epochs between evaluations.  [5]"),
    click.option(
        "--patience", type=int, metavar="EVALUATIONS", help="End early after so many without a higher PSNR.  [never]"
    ),
    click.option("--keep", type=int, help="Numbered generators to keep; 0: all.  [3]"),
    click.option(
        "--tensorboard/--no-tensorboard", default=None, help="Write TensorBoard's files.  [tensorboard, if installed]"
    ),
    click.option("--comet", metavar="PROJECT", help="Report to this Comet project."),
    click.option("--comet-name", help="Name of the run in Comet."),
    click.option("--comet-entity", help="Comet workspace."),
)
_start = options(
    click.option(
        "--config",
        "settings",
        type=_FILE,
        help="Settings in YAML: pix2pix's config.yaml, or lines of the form name: value.",
    ),
    click.option("--restart", is_flag=True, help="Start a new run even if OUT holds one."),
    click.option(
        "--from-generator",
        metavar="MODEL",
        help="Initial weights: a checkpoint, or the name of a published generator.",
    ),
    click.option("--from-discriminator", type=_FILE, help="Initial weights of the discriminator."),
    click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Print all log messages."),
)


@click.command(context_settings=CONTEXT)
@click.argument("data", type=_FILE)
@click.argument("out", type=_FILE)
@_data
@_model
@_objective
@_steps
@_arithmetic
@_records
@_start
@click.version_option(package_name="sar2optical")
@reports_errors
def main(data: Path, out: Path, quiet: bool, verbose: bool, **choices: Any) -> None:
    """Train a generator on the pairs in DATA; all outputs are written to the folder OUT.

    DATA holds s1/ and s2/ with chips of equal names, or folders with both, or the folders of SEN1-2 and SEN12MS as
    published; with --aligned, images with both halves side by side. If the run is interrupted or killed, the same
    command resumes it from the last save.
    """
    set_up_logging(-1 if quiet else int(verbose))
    missing = [name for name in ("torch", "lightning_fabric", "matplotlib", "yaml") if find_spec(name) is None]
    if missing:
        raise BackendNotInstalled(f"training needs {', '.join(missing)}: pip install 'sar2optical[train]'")
    job = _job(data, out, choices, hidden=quiet)
    from sar2optical.training.loop import BEST, train

    with _stopping() as should_stop, _progress(hidden=quiet) as on_step:
        trained = train(job, on_step=on_step, should_stop=should_stop)
    if not trained.finished:
        again = "the same command without --restart" if job.restart else "the same command again"
        click.echo(
            f"interrupted: saved at step {trained.step} of {trained.steps}; run {again} to resume",
            err=True,
        )
        sys.exit(INTERRUPTED)
    if not quiet:
        end = f", PSNR {trained.score.psnr:.2f} dB, SSIM {trained.score.ssim:.3f}" if trained.score else ""
        click.echo(f"{trained.generator}: {trained.step} steps in {trained.precision}{end}")
        if trained.best:
            early = (
                f"; ended early: no higher PSNR in {job.options.patience} evaluations" if trained.ended_early else ""
            )
            click.echo(f"{out / BEST}: PSNR {trained.best[1]:.2f} dB at step {trained.best[0]}{early}")


def _job(data: Path, out: Path, choices: dict[str, Any], *, hidden: bool) -> TrainingJob:
    """Combine the options and the configuration file, and read the chips."""
    from sar2optical.data.sar_bands import name_bands
    from sar2optical.engines.registry import resolve
    from sar2optical.training.config import SETTINGS, RunOptions, TrainConfig
    from sar2optical.training.seed_config import FileSettings, read_settings, settings_record

    settings = choices["settings"]
    file = read_settings(settings) if settings else FileSettings()
    given = _given(choices, TrainConfig)
    if "epochs" in given and "steps" not in given:
        given["steps"] = None  # the option overrides the file's steps
    if file.ignored:
        ignored = ", ".join(file.ignored)
        click.echo(
            f"{settings}: sar2opt-train does not use {ignored}; give paths as the arguments DATA and OUT", err=True
        )
    config = TrainConfig(**file.config | given)
    run = RunOptions(**file.options | _given(choices, RunOptions))
    first = resolve(choices["from_generator"]) if choices["from_generator"] else file.generator
    refuse_bands_of_pictures(choices["bands"], aligned=choices["aligned"])
    pairs, records = find_chips(data, choices, file)
    bands, read_bands = name_bands(choices["bands"] or ("VH",), pairs[0][0].sar)
    signature = _signature(choices, bands, file.channels, config.window)
    chips, validation = open_chips(pairs, choices, signature, read_bands, hidden=hidden)
    records[SETTINGS] = settings_record(config, run, data, signature)
    # Imported after all checks, because PyTorch takes seconds to load.
    from sar2optical.training.loop import TrainingJob

    return TrainingJob(
        chips=chips,
        config=config,
        signature=signature,
        out=out,
        validation=validation,
        validation_names=[pair.sar.stem for pair in validation.pairs] if validation else (),
        records=records,
        options=run,
        restart=choices["restart"],
        first_generator=first,
        first_discriminator=choices["from_discriminator"] or file.discriminator,
    )


def _given(choices: dict[str, Any], kind: type) -> dict[str, Any]:
    """Select the options that were given and are fields of `kind`."""
    from dataclasses import fields

    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in choices.items() if name in names and value is not None}
    if given.get("upsampling") == "none":
        given["upsampling"] = None
    return given


def _signature(choices: dict[str, Any], bands: tuple[str, ...], channels: int | None, window: int) -> ModelSignature:
    stretch: Stretch = choices["stretch"]
    if len(bands) > 1:
        channels = choices["channels"]  # the file's 3 channels are copies of one band
    if channels not in (None, len(bands)) and len(bands) > 1:
        raise OptionError(
            f"--channels is {channels}, but there are {len(bands)} bands ({', '.join(bands)}): remove --channels"
        )
    return ModelSignature(
        name=choices["name"],
        bands=bands,
        unit=choices["unit"],
        stretch=(stretch,) * len(bands),
        window=window,
        channels=choices["channels"] or channels or len(bands),
        pixel_size=choices["pixel_size"],
    )


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Stop the run after its step on the first Ctrl-C or SIGTERM, and at once on the second."""
    asked = []

    def ask(number: int, _: Any) -> None:
        asked.append(number)
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, ask) for kind in kinds]
    try:
        yield lambda: bool(asked)
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Callable[[StepReport], None]]:
    """Show a progress bar with steps, images per second and losses."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[Any] = []

        def on_step(report: StepReport) -> None:
            if not bars:  # the first report has the number of steps
                form = {"initial": report.step - 1, "total": report.steps, "unit": "step", "desc": "training"}
                bars.append(stack.enter_context(tqdm(**form, disable=hidden or None, mininterval=1)))
            (bar,) = bars
            losses = report.losses
            text = f"{report.images_per_second:.1f} images/s, D {losses.discriminator:.3f}, L1 {losses.l1:.4f}"
            bar.set_postfix_str(text, refresh=False)
            bar.update()
            if report.score:
                bar.write(
                    f"step {report.step}: PSNR {report.score.psnr:.2f} dB, SSIM {report.score.ssim:.3f}, "
                    f"gradient energy {report.score.gradient_ratio:.2f} of the truth's",
                    file=sys.stderr,
                )

        yield on_step


name_variables(main, "SAR2OPT_TRAIN")
