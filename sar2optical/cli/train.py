"""`sar2opt-train`: pairs in, a generator out."""

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
    INTERRUPTED,
    chip_options,
    context_settings,
    options,
    parse_stretch,
    reading,
    refuse_bands_of_pictures,
    reports_errors,
    set_up_logging,
)
from sar2optical.errors import BackendNotInstalled, OptionError
from sar2optical.signature import UNITS, ModelSignature, Stretch

if TYPE_CHECKING:
    from sar2optical.data.pairs import Pair, Reading
    from sar2optical.training.loop import StepReport
    from sar2optical.training.seed_config import FileSettings

_FILE = click.Path(path_type=Path)

_WINDOW = 256
"""Window of a generator that is trained on larger ones."""

# None stands for "as in --config, else the default": TrainConfig and RunOptions hold the defaults, and nothing else.
_data = options(
    click.option("--split", type=_FILE, help="Which chips are train, val and test (sar2opt-data split)."),
    click.option("--val-data", type=_FILE, help="Validation pairs in a folder of their own."),
    click.option("--name", default="pix2pix", show_default=True, help="What the model is called."),
    click.option("--band", "bands", multiple=True,
                 help="Polarisation of the SAR chips, index from 1, or both (2=VH); once for each.  [VH]"),
    click.option("--unit", type=click.Choice(UNITS), default="amplitude", show_default=True,
                 help="In which the stretch is applied; of 8-bit chips: what they were stretched from."),
    click.option("--stretch", nargs=2, default=("0", "p99"), show_default=True, callback=parse_stretch,
                 metavar="LOW HIGH", help="What becomes -1 and 1: values, or percentiles (p99)."),
    click.option("--pixel-size", type=click.FloatRange(0, min_open=True), metavar="METRES",
                 help="Of the chips, for the signature: scenes of other sizes get a warning.  [not told]"),
    chip_options,
    click.option("--channels", type=click.IntRange(1), help="Copies of a single band as input.  [one per band]"),
    click.option("--skip-unreadable", is_flag=True, help="Leave out pairs that cannot be read, and name them."),
    click.option("--cache", type=click.FloatRange(0), metavar="GB", help="Memory for chips.  [half of the free]"),
)  # fmt: skip
_model = options(
    click.option("--architecture", type=click.Choice(["pix2pix", "detail"]),
                 help="detail: the SAR image at the head, bilinear upsampling; no chequerboard.  [pix2pix]"),
    click.option("--base-channels", type=int, help="Width of the generator.  [64]"),
    click.option("--upsampling", type=click.Choice(["none", "nearest", "bilinear", "bicubic"]),
                 help="Upsampling and convolution in place of transposed convolution.  [none]"),
    click.option("--discriminator", type=click.Choice(["patch", "pixel"]), help="[patch]"),
    click.option("--discriminator-channels", type=int, help="Its width.  [64]"),
    click.option("--discriminator-layers", type=int, help="Depth of patch: 3 sees 70 x 70 pixels.  [3]"),
    click.option("--discriminator-scales", type=int, help="Discriminators, each at half the size.  [1]"),
    click.option("--spectral-norm/--batch-norm", default=None, help="Of the discriminator.  [batch-norm]"),
    click.option("--conditional/--unconditional", default=None, help="Whether it sees the SAR image.  [conditional]"),
)  # fmt: skip
_objective = options(
    click.option("--objective", type=click.Choice(["vanilla", "lsgan", "hinge"]), help="[vanilla]"),
    click.option("--gan-weight", type=float, help="Of the adversarial term; 0: no discriminator.  [1]"),
    click.option("--gan-from", type=float, help="Share of the steps after which it joins in.  [0]"),
    click.option("--l1-weight", type=float, help="Of L1.  [100]"),
    click.option("--ssim-weight", type=float, help="Of 1 - SSIM.  [0]"),
    click.option("--texture-weight", type=float, help="Of the error of local gradient energy.  [0]"),
    click.option("--multiscale-ssim-weight", type=float, help="Of 1 - SSIM of 2 x 2 and 4 x 4 means.  [0]"),
    click.option("--correlation-weight", type=float, help="Of 1 - correlation at three scales.  [0]"),
    click.option("--octave-weight", type=float, help="Of the error of gradient energy per octave.  [0]"),
    click.option("--squared-weight", type=float, help="Of the mean squared difference.  [0]"),
    click.option("--shift-weight", type=float, help="Of the difference to shifted copies of windows.  [0]"),
)
_steps = options(
    click.option("--epochs", type=int, help="Passes over the training windows.  [200]"),
    click.option("--steps", type=int, help="Updates of the generator, in place of --epochs."),
    click.option("--batch", type=int, help="Pairs per forward pass, on all devices together.  [32]"),
    click.option("--accumulate", type=int, help="Forward passes per update.  [1]"),
    click.option("--learning-rate", type=float, help="[0.0002]"),
    click.option("--beta1", type=float, help="[0.5]"),
    click.option("--beta2", type=float, help="[0.999]"),
    click.option("--decay-from", type=float, help="Share of the steps after which the rate falls; 1: never.  [0.5]"),
    click.option("--ema-decay", type=float, help="Moving average of weights; 0: none.  [0.999]"),
    click.option("--window", type=int, help="Side of a training window, a multiple of 256; of 64 for detail.  [256]"),
    click.option("--crop/--no-crop", default=None, help="Windows anywhere, or on a grid.  [crop]"),
    click.option("--flip/--no-flip", default=None, help="[flip]"),
    click.option("--turn/--no-turn", default=None, help="Quarter turns.  [turn]"),
    click.option("--zoom", type=int, help="Largest factor by which larger chips are reduced.  [1]"),
    click.option(
        "--vary-sar",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Of the windows: speckle, looks, incidence, stretch and unit are varied.  [0]",
    ),
    click.option("--balance", type=float, help="0: each window once an epoch; 1: each class equally often.  [0]"),
    click.option("--seed", type=int, help="[42]"),
)
_arithmetic = options(
    click.option("--windows-on", type=click.Choice(["host", "device"]),
                 help="device: chips lie in its memory and windows are made there; for GPUs.  [host]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
                 help="auto: bf16 where the hardware computes in it.  [auto]"),
    click.option("--channels-last/--contiguous", default=None, help="Memory layout.  [channels-last]"),
    click.option("--compile/--no-compile", default=None, help="torch.compile; minutes at the start.  [no-compile]"),
    click.option("--device", help="auto, cpu, cuda.  [auto]"),
    click.option("--devices", type=int, help="GPUs, or processes on a CPU.  [1]"),
    click.option("--threads", type=int, help="CPU threads of the arithmetic."),
    click.option("--workers", type=int, help="Threads that prepare windows.  [2]"),
)  # fmt: skip
_records = options(
    click.option("--save-every", type=float, metavar="EPOCHS", help="[5]"),
    click.option("--eval-every", type=float, metavar="EPOCHS", help="[5]"),
    click.option("--keep", type=int, help="Numbered generators beside the newest; 0: all.  [3]"),
    click.option("--tensorboard/--no-tensorboard", default=None, help="[tensorboard, where installed]"),
    click.option("--comet", metavar="PROJECT", help="Report to Comet."),
    click.option("--comet-name", help="What the run is called there."),
    click.option("--comet-entity", help="Workspace there."),
)
_start = options(
    click.option(
        "--config",
        "settings",
        type=_FILE,
        help="YAML: pix2pix's config.yaml, or name: value of what changes the training.",
    ),
    click.option("--restart", is_flag=True, help="Begin anew where OUT holds a run."),
    click.option("--from-generator", metavar="MODEL", help="First weights: a checkpoint, or a published name."),
    click.option("--from-discriminator", type=_FILE, help="First weights of the discriminator."),
    click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Everything."),
)


@click.command(context_settings=context_settings("train"))
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
def main(
    data: Path,
    out: Path,
    settings: Path | None,
    restart: bool,
    from_generator: str | None,
    from_discriminator: Path | None,
    quiet: bool,
    verbose: bool,
    **choices: Any,
) -> None:
    """Train a generator on the pairs in DATA; everything that the run makes goes to the folder OUT.

    DATA holds s1/ and s2/ with chips of equal names, or folders that do, or the folders of SEN1-2 and SEN12MS as
    they are published; with --aligned, pictures of both halves side by side. Stopped, killed or interrupted, the same
    command goes on from the last save.
    """
    set_up_logging(-1 if quiet else int(verbose))
    missing = [name for name in ("torch", "lightning_fabric", "matplotlib", "yaml") if find_spec(name) is None]
    if missing:
        raise BackendNotInstalled(f"training needs {', '.join(missing)}: pip install 'sar2optical[train]'")
    from sar2optical.data.sar_bands import name_bands
    from sar2optical.engines.registry import resolve
    from sar2optical.training.config import RunOptions, TrainConfig
    from sar2optical.training.seed_config import FileSettings, read_settings

    file = read_settings(settings) if settings else FileSettings()
    given = _given(choices, TrainConfig)
    if "epochs" in given and "steps" not in given:
        given["steps"] = None  # of the file: what is given here comes first
    if file.ignored:
        click.echo(f"{settings}: {', '.join(file.ignored)}: not used here, DATA and OUT say where", err=True)
    config = TrainConfig(**file.config | given)
    run = RunOptions(**file.options | _given(choices, RunOptions))
    first = resolve(from_generator) if from_generator else file.generator
    refuse_bands_of_pictures(choices["bands"], aligned=choices["aligned"])
    pairs = _pairs(data, choices, file)
    bands, read_bands = name_bands(choices["bands"] or ("VH",), pairs[0][0].sar)
    signature = _signature(choices, bands, file.channels, config.window)
    chips, validation = _chips(pairs, choices, signature, read_bands, config.window, hidden=quiet)
    from sar2optical.training.loop import train  # PyTorch takes seconds to load; what is wrong so far has been said

    with _stopping() as should_stop, _progress(hidden=quiet) as show:
        trained = train(
            chips, config, signature, out,
            validation=validation, options=run, restart=restart,
            first_weights=(first, from_discriminator or file.discriminator),
            on_step=show, should_stop=should_stop,
        )  # fmt: skip
    if not trained.finished:
        less = ", without --restart" if restart else ""
        click.echo(
            f"interrupted: saved at step {trained.step} of {trained.steps}; run the same command again{less}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    if not quiet:
        end = f", PSNR {trained.score.psnr:.2f} dB, SSIM {trained.score.ssim:.3f}" if trained.score else ""
        click.echo(f"{trained.generator}: {trained.steps} steps in {trained.precision}{end}")


def _given(choices: dict[str, Any], kind: type) -> dict[str, Any]:
    """Give the options that were given and are fields of `kind`."""
    from dataclasses import fields

    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in choices.items() if name in names and value is not None}
    if given.get("upsampling") == "none":
        given["upsampling"] = None
    return given


def _signature(choices: dict[str, Any], bands: tuple[str, ...], channels: int | None, window: int) -> ModelSignature:
    stretch: Stretch = choices["stretch"]
    if len(bands) > 1:
        channels = choices["channels"]  # a file's 3 channels are copies of one band
    if channels not in (None, len(bands)) and len(bands) > 1:
        raise OptionError(f"channels is {channels} for bands {', '.join(bands)}: leave it out")
    return ModelSignature(
        name=choices["name"],
        bands=bands,
        unit=choices["unit"],
        stretch=(stretch,) * len(bands),
        window=min(window, _WINDOW),
        channels=choices["channels"] or channels or len(bands),
        pixel_size=choices["pixel_size"],
    )


def _pairs(data: Path, choices: dict[str, Any], file: FileSettings) -> tuple[list[Pair], list[Pair]]:
    """Find the training and validation pairs."""
    from sar2optical.data.pairs import find_pairs
    from sar2optical.data.splits import load_pairs, pairs_of, random_split, read_split

    aligned = choices["aligned"]
    split = choices["split"] or (file.split_file if file.split_mode == "split" else None)
    validates = bool(choices["split"]) or file.validate
    val: list[Pair] = []
    if split:
        train = load_pairs(data, split, "train", aligned=aligned)
        if validates and not choices["val_data"] and read_split(split).val:
            val = load_pairs(data, split, "val", aligned=aligned)
    elif file.split_mode == "random":
        pairs = find_pairs(data, aligned=aligned)
        parts = random_split(pairs, data, file.split_ratio, file.split_seed)
        train, val = (pairs_of(parts, name, pairs, data) for name in ("train", "val"))
        val = val if validates else []
    else:
        train = find_pairs(data, aligned=aligned)
    if choices["val_data"]:
        val = find_pairs(choices["val_data"], aligned=aligned)
    return train, val


def _chips(
    pairs: tuple[list[Pair], list[Pair]],
    choices: dict[str, Any],
    signature: ModelSignature,
    bands: tuple[str, ...],
    window: int,
    *,
    hidden: bool,
) -> tuple[Any, Any]:
    """Open the training and validation pairs."""
    from sar2optical.data.exposure import refuse_misfit

    given = {name: choices[name] for name in ("units", "optical_max", "rgb")}
    trained_on, seen = (reading(signature, side, bands=bands, **given) for side in (window, signature.window))
    refuse_misfit(pairs[0], trained_on)
    return tuple(  # type: ignore[return-value]
        _store(some, how, choices, hidden=hidden) if some else ()
        for some, how in zip(pairs, (trained_on, seen), strict=True)
    )


def _store(pairs: Any, how: Reading, choices: dict[str, Any], *, hidden: bool) -> Any:
    from tqdm import tqdm

    from sar2optical.data.store import ChipStore

    cache = None if choices["cache"] is None else int(min(choices["cache"], 1e9) * 1e9)
    with tqdm(total=len(pairs), desc="reading", unit="pair", leave=False, disable=hidden or None) as bar:
        return ChipStore.open(
            pairs,
            how,
            cache_bytes=cache,
            skip_unreadable=choices["skip_unreadable"],
            progress=lambda done, _: bar.update(done - bar.n),
        )


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C or SIGTERM end the run after its step; a second one ends it at once."""
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
    """Show a bar of steps, images per second and losses."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[Any] = []

        def show(report: StepReport) -> None:
            if not bars:  # only now is it known how far there is to go
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
                    f"gradient energy {report.score.gradient_ratio:.2f} of the real one's",
                    file=sys.stderr,
                )

        yield show
