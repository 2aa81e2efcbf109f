"""`sar2opt-scene`: translate one SAR scene into an RGB mosaic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical._utils.cores import usable_cores
from sar2optical._utils.memory import share_heaps
from sar2optical.cli.common import (
    CONTEXT,
    GentleStop,
    Lines,
    name_variables,
    reports_errors,
    run_and_leave,
    set_up_logging,
)
from sar2optical.cli.options import scene_options, translate_options
from sar2optical.errors import OptionError

if TYPE_CHECKING:
    from sar2optical.pipeline.estimate import Estimate
    from sar2optical.pipeline.options import OnProgress, Report

_MPX = 1_000_000
_DOING = {"check": "checking strips", "translate": "translating", "mosaic": "assembling"}
_FINISHED_FIRST = {"translate": "the current strip", "mosaic": "the mosaic"}


@click.command(context_settings=CONTEXT)
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.argument("out")
@scene_options
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--preview", type=click.Path(path_type=Path), help="Also write a small picture (PNG).")
@click.option("--dry-run", is_flag=True, help="Estimate windows, memory, disk and time; write nothing.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write a report of the run (JSON).")
@click.option(
    "--viewer", type=click.Path(path_type=Path), help="Also write scene and mosaic as one HTML file, with a swipe."
)
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print debug messages.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(
    scenes: tuple[str, ...],
    out: str,
    model: str | None,
    preview: Path | None,
    report: Path | None,
    viewer: Path | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **choices: Any,
) -> None:
    """Translate a Sentinel-1 raster SCENE into an RGB mosaic OUT.

    SCENE is a raster, a Sentinel-1 product, or a STAC Item (.json); or several rasters, one for each polarisation.
    OUT is a cloud-optimized GeoTIFF (.tif) with the scene's shape and georeference, or a picture (.png, .jpg). It is
    written atomically. An interrupted run keeps its finished strips in OUT.parts; run the same command again to
    resume.
    """
    set_up_logging(-1 if quiet else int(verbose))
    share_heaps(usable_cores())
    from sar2optical._utils.files import refuse_existing, write_output
    from sar2optical.engines.registry import resolve
    from sar2optical.pipeline.run import translate
    from sar2optical.scene.sources import source_of

    scene = source_of(scenes)
    _refuse_forgotten_output(out)
    found = None if model is None else resolve(model)
    if report:
        if report.suffix.lower() != ".json":  # it can be neither a raster nor the mosaic
            raise OptionError(f"report {report}: must be JSON: give a name that ends in .json")
        _refuse_input(report, (*scenes, *filter(None, [choices["aoi"]])))
        refuse_existing(report, overwrite=choices["overwrite"])
    if viewer:
        _check_viewer(viewer, out, (*scenes, *filter(None, [choices["aoi"]])), overwrite=choices["overwrite"])
    options = translate_options(preview=preview, seams=report is not None, **choices)
    if dry_run:
        from sar2optical.pipeline.estimate import estimate

        click.echo(outlook(estimate(scene, out, model=found, options=options)))
        return
    with GentleStop() as stop, _progress(stop, hidden=quiet) as on_progress:
        did = translate(scene, out, model=found, options=options, on_progress=on_progress, stop=stop)
    if report:
        write_output(report, did.to_json().encode())
    if viewer:
        from sar2optical.viewer.exhibit import Choices
        from sar2optical.viewer.html import write_html

        write_html(viewer, scene, [Path(out)], Choices())
    if not quiet:
        click.echo(summary(did))


def _check_viewer(viewer: Path, out: str, inputs: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse an HTML file that cannot be written, or has no mosaic to show, before the run."""
    from sar2optical.scene.remote import is_remote
    from sar2optical.viewer.html import check_html

    if Path(out).suffix.lower() not in (".tif", ".tiff") or is_remote(out):
        raise OptionError(f"--viewer needs a GeoTIFF on this machine, not {out}: give OUT.tif")
    check_html(viewer, [Path(path) for path in (*inputs, out) if not is_remote(path)], overwrite=overwrite)


def _refuse_input(report: Path, given: tuple[str, ...]) -> None:
    """Refuse a report that would replace a STAC Item or an area."""
    inputs = [path for path in map(Path, given) if path.suffix.lower() == report.suffix.lower()]
    if report.exists() and any(path.exists() and report.samefile(path) for path in inputs):
        raise OptionError(f"report {report}: is an input: choose another name")


def _refuse_forgotten_output(out: str) -> None:
    """Refuse to replace a SAR raster: where OUT is forgotten, the last file of the scene stands in its place."""
    from sar2optical.mosaic.strips import RUN_TAG
    from sar2optical.mosaic.tags import tags_of
    from sar2optical.scene.band_names import polarisation_of_name

    path = Path(out)
    with suppress(OSError):  # longer than a path may be: an address, or refused later
        if path.is_file() and polarisation_of_name(path.name) and RUN_TAG not in tags_of(path):
            raise OptionError(
                f"{out}: is named like a SAR raster and is no mosaic: give OUT after the files of the scene"
            )


def outlook(expected: Estimate) -> str:
    """Format an estimate as a table."""
    rows = [
        ("windows", f"{expected.windows} of {expected.window} x {expected.window}"),
        ("to run", f"{expected.windows_run} (with {expected.engine})"),
        ("skipped", f"{expected.windows_skipped} (no valid pixel, or finished before)"),
        ("finished before", f"{expected.rows_kept} rows"),
        ("memory", f"{expected.memory / 1e6:.0f} MB"),
        ("disk, strips", f"{expected.strips / 1e6:.0f} MB"),
        ("disk, mosaic", f"{expected.mosaic / 1e6:.0f} MB"),
        ("disk, free", f"{expected.free / 1e6:.0f} MB"),
        ("time", f"about {expected.seconds:.0f} s, and {expected.seconds_mosaic:.0f} s for assembling the mosaic"),
    ]
    return "\n".join(f"{name:<16} {value}" for name, value in rows)


def summary(report: Report) -> str:
    """Format the closing line: size, seconds, rate, engine, file."""
    height, width = report.shape
    rate = height * width / _MPX / report.seconds
    return (
        f"{report.out}: {width} x {height}, {report.seconds:.1f} s ({report.seconds_mosaic:.1f} s of it assembling), "
        f"{rate:.2f} Mpx/s, {report.windows_run} of {report.windows} windows, {report.model} with {report.engine}"
    )


@contextmanager
def _progress(stop: GentleStop, *, hidden: bool) -> Iterator[OnProgress]:
    """Show a bar of megapixels, rate and time left; lines of text where there is no terminal."""
    from tqdm import tqdm

    lines = Lines() if not hidden and not sys.stderr.isatty() else None

    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpx [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    with tqdm(total=0, unit=" Mpx", desc="translating", bar_format=form, leave=False, disable=hidden or None) as bar:

        def show(stage: str, done: int, total: int) -> None:
            stop.finish_first = _FINISHED_FIRST.get(stage, "")
            if lines:
                lines.show(_DOING[stage], done / _MPX, total / _MPX, "Mpx")
            bar.set_description(_DOING[stage])
            if stage != "mosaic":
                bar.total = total / _MPX
                bar.update(done / _MPX - bar.n)

        yield show


name_variables(main, "SAR2OPT_SCENE")


def run() -> None:
    """Run the command as a program of its own."""
    run_and_leave(main)
