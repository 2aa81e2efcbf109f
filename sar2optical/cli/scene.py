"""`sar2opt-scene`: a SAR raster in, an RGB mosaic out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import (
    GentleStop,
    engine_options,
    parse_size,
    parse_stretch,
    reports_errors,
    set_up_logging,
)
from sar2optical.signature import UNITS
from sar2optical.windows import DEFAULT_OVERLAP

if TYPE_CHECKING:
    from sar2optical.translate import Progress, Report

_MPX = 1_000_000
_DOING = {"check": "checking strips", "translate": "translating", "mosaic": "assembling"}
_IN_HAND = {"translate": "the strip in hand", "mosaic": "the mosaic"}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("scene")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model",
    help="Generator: a file (.onnx, .pth), or the name of a published one (pix2pix_gen_180), which is fetched once; "
    "the bundled one where not given.",
)
@engine_options
@click.option(
    "--band",
    "bands",
    multiple=True,
    help="Polarisation (VH) or index from 1; once for each band of the model.",
)
@click.option(
    "--units",
    type=click.Choice(["auto", *UNITS]),
    default="auto",
    show_default=True,
    help="What the scene's values are; auto tells from the file, or refuses.",
)
@click.option(
    "--scale",
    type=float,
    help="Factor from stored values to their unit (0.01 for 100 x dB); the file's own where not given.",
)
@click.option(
    "--stretch",
    nargs=2,
    callback=parse_stretch,
    metavar="LOW HIGH",
    help="Values, or percentiles of the scene (p1 p99); the model's own where not given.",
)
@click.option("--nodata", type=float, help="Stored value that means nothing, beside what the file declares.")
@click.option(
    "--overlap",
    type=click.IntRange(0),
    default=DEFAULT_OVERLAP,
    show_default=True,
    help="Pixels that neighbours share.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Windows per run of the model; of 1, auto may make more.",
)
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="For a large scene, measure once which engine is the fastest on this machine.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the model; all where not given.")
@click.option(
    "--compress",
    type=click.Choice(["deflate", "zstd", "lzw", "jpeg", "none"]),
    default="deflate",
    show_default=True,
    help="Of a GeoTIFF.",
)
@click.option(
    "--max-memory",
    callback=parse_size,
    metavar="SIZE",
    help="Bytes that this process may take, engine included: 800MB, 2GB.",
)
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run has left in OUT.parts.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there.")
@click.option("--preview", type=click.Path(path_type=Path), help="Also write a small picture (.png).")
@click.option("--report", type=click.Path(path_type=Path), help="Also write what the run did and took (.json).")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Everything.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(
    scene: str,
    out: Path,
    model: str | None,
    preview: Path | None,
    report: Path | None,
    quiet: bool,
    verbose: bool,
    **choices: Any,
) -> None:
    """Translate a Sentinel-1 raster SCENE into an RGB mosaic OUT.

    OUT is a cloud-optimized GeoTIFF of the scene's shape and place (.tif), or a picture (.png, .jpg). It
    appears when it is whole; the scene is only read. What an interrupted run had finished lies in OUT.parts; the
    same command goes on from there.
    """
    set_up_logging(-1 if quiet else int(verbose))
    from sar2optical.files import refuse_existing, write_output
    from sar2optical.models.zoo import resolve
    from sar2optical.translate import translate

    found = None if model is None else resolve(model)
    if report:
        refuse_existing(report, overwrite=choices["overwrite"])
    options = _options(preview=preview, seams=report is not None, **choices)
    with GentleStop() as stop, _progress(stop, hidden=quiet) as progress:
        did = translate(scene, out, model=found, options=options, progress=progress, stop=stop)
    if report:
        write_output(report, did.to_json().encode())
    if not quiet:
        click.echo(summary(did))


def _options(*, preview: Path | None, seams: bool, units: str, **choices: Any) -> Any:
    from sar2optical.engines import EngineOptions
    from sar2optical.scene import SceneOptions
    from sar2optical.translate import TranslateOptions

    return TranslateOptions(
        backend=choices["backend"],
        engine=EngineOptions(
            device=choices["device"],
            precision=choices["precision"],
            threads=choices["threads"],
            batch=choices["batch_size"],
        ),
        scene=SceneOptions(
            bands=choices["bands"],
            unit=None if units == "auto" else units,  # type: ignore[arg-type]
            nodata=choices["nodata"],
            scale=choices["scale"],
        ),
        stretch=choices["stretch"],
        overlap=choices["overlap"],
        compress=choices["compress"],
        overwrite=choices["overwrite"],
        preview=preview,
        measure=choices["measure"],
        restart=choices["restart"],
        max_memory=choices["max_memory"],
        seams=seams,
    )


def summary(report: Report) -> str:
    """Give the closing line: size, seconds, rate, engine, file."""
    height, width = report.shape
    rate = height * width / _MPX / report.seconds
    return (
        f"{report.out}: {width} x {height}, {report.seconds:.1f} s ({report.seconds_mosaic:.1f} s of it assembling), "
        f"{rate:.2f} Mpx/s, {report.windows_run} of {report.windows} windows, {report.model} with {report.engine}"
    )


@contextmanager
def _progress(stop: GentleStop, *, hidden: bool) -> Iterator[Progress]:
    """Show a bar of finished megapixels, rate and time left, while windows run."""
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpx [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    with tqdm(total=0, unit=" Mpx", desc="translating", bar_format=form, leave=False, disable=hidden or None) as bar:

        def show(stage: str, done: int, total: int) -> None:
            stop.in_hand = _IN_HAND.get(stage, "")
            bar.set_description(_DOING[stage])
            if stage != "mosaic":
                bar.total = total / _MPX
                bar.update(done / _MPX - bar.n)

        yield show
