"""`sar2opt-export`: export a generator to a verified ONNX file or plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from export.precision import OPSETS, PRECISIONS, Method, Storage, Subpixel
from sar2optical._utils.files import refuse_existing
from sar2optical.cli.common import CONTEXT, name_variables, reports_errors, set_up_logging
from sar2optical.errors import BackendNotInstalled, OptionError, OptionWithoutEffect
from sar2optical.signature import UNITS, Stretch, Unit, listed

if TYPE_CHECKING:
    from export.build import Exported, Row
    from sar2optical.engines.tensorrt_plan import OnProgress

__all__ = ["main", "overview", "table"]

_FILE = click.Path(path_type=Path)
_EMULATED = ", 16-bit roundings emulated in float32"
_OF_PLANS = ("batch", "target", "workspace", "timing_cache", "hardware_compatibility")


def _parse_windows(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None or value == "own":
        return None if value is None else ()
    try:
        return tuple(int(side) for side in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not a list of sizes: give integers separated by commas (256,512,1024), or own"
        ) from error


def _parse_targets(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.lower().split(","))


@click.command(context_settings=CONTEXT)
@click.argument("source", required=False)
@click.argument("out", type=_FILE, required=False)
@click.option(
    "--describe",
    type=_FILE,
    metavar="MODEL.onnx",
    help="Write a first signature (JSON) of another exporter's ONNX file, and export nothing. It has null where a "
    "person must say what the file does not: unit, scaling, ground resolution.",
)
@click.option("--out", "described", type=_FILE, metavar="SIG.json", help="File for --describe.  [default: stdout]")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the graph.  [default: fp32; for a plan, that of the ONNX file SOURCE]",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Export every precision that passes verification to the folder OUT, and print a table.",
)
@click.option("--calibration", type=_FILE, help="Real chips (a folder) or a scene to calibrate int8 and fp8 on.")
@click.option(
    "--calibration-method",
    "method",
    type=click.Choice(get_args(Method)),
    help="Calibration method.  [default: the one with the highest PSNR]",
)
@click.option(
    "--min-psnr",
    type=click.FloatRange(min=0),
    help="Least PSNR in dB, for the worst chip.  [default: fp32 80, fp16 50, bf16 50, int8 40, fp8 38]",
)
@click.option(
    "--subpixel",
    type=click.Choice(get_args(Subpixel)),
    default="auto",
    show_default=True,
    help="Rewrite transposed convolutions as convolutions and a pixel shuffle; the image stays the same.",
)
@click.option(
    "--opset",
    type=click.IntRange(OPSETS[0], OPSETS[-1]),
    help="ONNX opset.  [default: 18; bf16 22, fp8 19]",
)
@click.option(
    "--windows",
    callback=_parse_windows,
    metavar="SIZES",
    help="Window sizes that an ONNX file takes, such as 256,512,1024; own: only that of training.  [default: for a "
    "checkpoint 1, 2, 4 and 8 times its own, up to 2048; for an ONNX file those that it takes]",
)
@click.option(
    "--auto-window",
    type=click.IntRange(1),
    metavar="SIZE",
    help="Window that `sar2opt-scene --window auto` takes, one of --windows. Give a wider one if its images are as "
    "good.  [default: that of SOURCE, else that of training]",
)
@click.option(
    "--storage",
    type=click.Choice(get_args(Storage)),
    default="fp32",
    show_default=True,
    help="Type of stored fp32 weights; fp16 halves the file, the arithmetic stays fp32.",
)
@click.option(
    "--verify-with",
    type=_FILE,
    help="Real chips (a folder) or a scene to verify on.  [default: the calibration data, or simulated chips]",
)
@click.option("--signature", type=_FILE, help="JSON file with the signature, for an ONNX file without one.")
@click.option(
    "--upsampling",
    type=click.Choice(["nearest", "bilinear", "bicubic"]),
    help="Upsampling mode of a bare state dict whose decoder upsamples.  [default: nearest]",
)
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "rtx"]),
    help="Library that runs a plan: TensorRT, which builds on the GPU of the plan; or TensorRT for RTX, which builds "
    "anywhere, for GeForce RTX and RTX PRO cards.  [default: tensorrt]",
)
@click.option(
    "--target",
    callback=_parse_targets,
    metavar="CARDS",
    help="Cards that a plan for RTX runs on: turing, ampere, ada, blackwell, or sm86 and such.  [default: all that "
    "the precision allows]",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    nargs=3,
    metavar="MIN OPT MAX",
    help="Windows per run of a plan.  [default: 1 8 32]",
)
@click.option(
    "--workspace", type=click.FloatRange(min=0, min_open=True), metavar="GIB", help="Limit of a plan's GPU workspace."
)
@click.option("--timing-cache", type=_FILE, help="Folder to store measured kernel times for later builds of plans.")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "same_compute_capability", "ampere_plus"]),
    help="Other GPUs that a plan runs on.  [default: none, the fastest]",
)
@click.option(
    "--for",
    "made_for",
    type=click.Choice(["deepness"]),
    help="Write a file that this program runs as it is, from an ONNX file SOURCE: Deepness, a plugin of QGIS.",
)
@click.option(
    "--stretch", nargs=2, metavar="LOW HIGH", help="Fixed stretch of a file for Deepness, in the model's unit."
)
@click.option("--units", type=click.Choice(UNITS), help="Unit of the layer in QGIS.  [default: that of the model]")
@click.option("--stac", type=_FILE, help="Also describe OUT as a STAC Item of a machine learning model (.json).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(  # click passes each option by its name
    source: str | None,
    out: Path | None,
    everything: bool,
    made_for: str | None,
    stretch: tuple[str, str] | None,
    units: Unit | None,
    stac: Path | None,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Export a generator SOURCE to OUT (.onnx or .plan), and verify OUT before it is written.

    SOURCE is a checkpoint (.pth), an fp32 ONNX file, or the name of a published generator (pix2pix_gen_180), which is
    downloaded once.

    Plans of TensorRT and of TensorRT for RTX (.plan) were not yet run on hardware.
    """
    set_up_logging(-1 if quiet or as_json else 0)
    if first := choices.pop("describe"):
        _describe(first, source, choices)
        return
    path, out = _given(source, out, choices.pop("described"))
    _require("onnx", "onnxruntime", *(() if path.suffix.lower() == ".onnx" else ("torch", "onnxscript")))
    if made_for:
        _refuse_without_effect(stac=stac, everything=everything)
        _for_deepness(path, out, stretch, units, overwrite=choices["overwrite"], quiet=quiet)
        return
    _refuse_without_effect(stretch=stretch, units=units)
    if stac:
        if everything:
            raise OptionWithoutEffect("--stac describes one file: give it without --all")
        refuse_existing(stac, overwrite=choices["overwrite"])
    from export.build import ExportOptions, export, export_all

    plan = {name: value for name in _OF_PLANS if (value := choices.pop(name)) is not None}
    if "workspace" in plan:
        plan["workspace"] = int(plan["workspace"] * 2**30)
    options = ExportOptions(plan=plan, **choices)
    if everything:
        rows = list(export_all(path, out, options))
        click.echo(json.dumps([_row(row) for row in rows], indent=1) if as_json else overview(rows))
        if not any(row.made for row in rows):
            sys.exit(1)
        return
    with _build_progress(hidden=quiet or as_json) as on_progress:
        made = export(path, out, options, on_progress=on_progress)
    if stac:
        from export.stac_mlm import write_description

        write_description(stac, made)
    if as_json:
        click.echo(json.dumps(_record(made), indent=1))
    elif not quiet:
        click.echo(table(made))


def _given(source: str | None, out: Path | None, described: Path | None) -> tuple[Path, Path]:
    """Return the paths of source and output; refuse a command without them."""
    from sar2optical.engines.registry import resolve

    if source is None or out is None:
        raise click.UsageError(f"Missing argument '{'SOURCE' if source is None else 'OUT'}'.")
    if described is not None:
        raise click.UsageError(f"--out {described} applies only to --describe: give OUT as the last argument")
    return resolve(source), out


def _describe(model: Path, source: str | None, choices: dict[str, Any]) -> None:
    """Write or print the first signature of a file."""
    if source is not None:
        raise click.UsageError(f"--describe {model} exports nothing: leave out {source}")
    _require("onnx", "onnxruntime")
    from export.describe import write_first

    click.echo(write_first(model, choices["described"], overwrite=choices["overwrite"]), nl=False)


def _refuse_without_effect(**options: Any) -> None:
    """Refuse options of another form of the command."""
    given = [name for name, value in options.items() if value]
    if given:
        names = {"everything": "--all", "stac": "--stac", "stretch": "--stretch", "units": "--units"}
        where = "with" if "stac" in options else "without"
        raise OptionWithoutEffect(f"{names[given[0]]} has no effect {where} --for: leave it out")


def _for_deepness(
    path: Path, out: Path, stretch: tuple[str, str] | None, units: Unit | None, *, overwrite: bool, quiet: bool
) -> None:
    """Write the file for Deepness, and print how to use it."""
    from export.deepness import LAYERS, for_deepness

    if path.suffix.lower() != ".onnx":
        raise OptionError(f"{path}: is not an ONNX file: export it first: sar2opt-export {path.name} generator.onnx")
    if out.suffix.lower() != ".onnx":
        raise OptionError(f"{out}: must be an ONNX file: give a name that ends in .onnx")
    try:
        parsed = Stretch.parse(*stretch) if stretch else None
    except ValueError as error:
        raise OptionError(f"--stretch: {error}") from error
    worst = for_deepness(path, out, units=units, stretch=parsed, overwrite=overwrite)
    if not quiet:
        click.echo(
            f"{out}: differs by at most {worst:g} levels from sar2opt-scene; in Deepness, choose the model type "
            f"Regressor; the layers are {', '.join(LAYERS)}"
        )


def _require(*libraries: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise BackendNotInstalled(f"sar2opt-export needs {', '.join(missing)}: pip install 'sar2optical[export]'")


@contextmanager
def _build_progress(*, hidden: bool) -> Iterator[OnProgress]:
    """Show a progress bar during a TensorRT build, which takes minutes."""
    from tqdm import tqdm

    with tqdm(total=0, leave=False, disable=hidden or None, desc="building", delay=1) as bar:

        def show(phase: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(phase[:40], refresh=False)
            bar.update(done - bar.n)

        yield show


def table(made: Exported) -> str:
    """Format a result as a table."""
    parity, signature = made.parity, made.signature
    rows = [
        ("file", str(made.out)),
        ("size", f"{made.megabytes:.1f} MB"),
        ("model", signature.name),
        (
            "input",
            f"sar (N, {signature.channels}, {signature.window}, {signature.window}), {listed(*signature.bands)}",
        ),
        ("windows", ", ".join(map(str, signature.sides))),
        ("auto window", str(signature.default_window)),
        ("unit", f"{signature.unit}, {'; '.join(map(str, signature.stretch))}"),
        ("precision", made.precision),
        ("opset", str(made.opset)),
        ("sub-pixel form", "yes" if made.subpixel else "no"),
    ]
    if made.targets:
        rows.append(("cards", ", ".join(made.targets)))
    if made.searched:
        rows += [("calibration", made.searched.method), ("left in fp32", ", ".join(made.searched.kept) or "nothing")]
    if made.not_run:
        rows.append(("plan", f"not run: {made.not_run}; its ONNX graph was verified"))
    rows += [
        ("verified on", f"{parity.chips} chips ({parity.source}){_EMULATED if made.emulated else ''}"),
        ("lowest PSNR", _decibels(parity.psnr)),
        ("lowest SSIM", f"{parity.ssim:.6f}"),
        ("largest error", f"{parity.max_error:.2e}"),
        ("mean error", f"{parity.mean_error:.2e}"),
    ]
    rows += [(f"PSNR at {side}", _decibels(found)) for side, found in made.wide_psnr.items()]
    rows += [("elsewhere", command) for command in _commands(made).values()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _commands(made: Exported) -> dict[str, str]:
    from export.deploy import commands

    return commands(made.out, made.signature, made.precision, rtx=bool(made.targets))


def _decibels(found: float) -> str:
    return f"{found:.1f} dB" if isfinite(found) else "equal images"


def overview(rows: list[Row]) -> str:
    """Format the results of `--all` as a table: size, parity and speed, or the reason of a failure."""
    lines = [f"{'':<6} {'MB':>7} {'PSNR, dB':>9} {'SSIM':>9} {'windows/s':>10}  engine"]
    for row in rows:
        if row.made is None:
            lines.append(f"{row.precision:<6} {row.reason}")
        else:
            made = row.made
            lines.append(
                f"{row.precision:<6} {made.megabytes:>7.1f} {made.parity.psnr:>9.1f} {made.parity.ssim:>9.6f} "
                f"{row.windows_per_second:>10.1f}  {row.engine}{' (PSNR emulated)' if made.emulated else ''}"
            )
    return "\n".join(lines)


def _record(made: Exported) -> dict[str, Any]:
    record = {key: getattr(made, key) for key in ("megabytes", "precision", "opset", "subpixel", "emulated")}
    parity = {name: _for_json(value) for name, value in asdict(made.parity).items()}
    wide_psnr = {side: _for_json(found) for side, found in made.wide_psnr.items()}
    record |= {"not_run": made.not_run, "targets": made.targets} if made.targets else {}
    record |= {"out": str(made.out), "parity": parity, "wide_psnr": wide_psnr, "commands": _commands(made)}
    record["signature"] = json.loads(made.signature.to_json())
    if made.searched:
        record["searched"] = {key: getattr(made.searched, key) for key in ("psnr", "method", "kept", "tried")}
    return record


def _for_json(value: Any) -> Any:
    """Return a value that JSON has: null for the infinite PSNR of equal images."""
    return None if isinstance(value, float) and not isfinite(value) else value


def _row(row: Row) -> dict[str, Any]:
    if row.made is None:
        return {"precision": row.precision, "reason": row.reason}
    return {**_record(row.made), "engine": row.engine, "windows_per_second": row.windows_per_second}


name_variables(main, "SAR2OPT_EXPORT")
