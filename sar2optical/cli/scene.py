"""`sar2opt-scene`: a SAR raster in, an RGB mosaic out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import GentleStop, Lines, context_settings, reports_errors, set_up_logging
from sar2optical.cli.options import scene_options, translate_options
from sar2optical.errors import OptionError

if TYPE_CHECKING:
    from sar2optical.pipeline.estimate import Estimate
    from sar2optical.pipeline.options import OnProgress, Report

_MPX = 1_000_000
_DOING = {"check": "checking strips", "translate": "translating", "mosaic": "assembling"}
_IN_HAND = {"translate": "the strip in hand", "mosaic": "the mosaic"}


@click.command(context_settings=context_settings("scene"))
@click.argument("scene")
@click.argument("out")
@scene_options
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there.")
@click.option("--preview", type=click.Path(path_type=Path), help="Also write a small picture (.png).")
@click.option("--dry-run", is_flag=True, help="Say what it would do and take, and do nothing.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write what the run did and took (.json).")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Everything.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(
    scene: str,
    out: str,
    model: str | None,
    preview: Path | None,
    report: Path | None,
    dry_run: bool,
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
    from sar2optical._utils.files import refuse_existing, write_output
    from sar2optical.engines.registry import resolve
    from sar2optical.pipeline.run import translate

    found = None if model is None else resolve(model)
    if report:
        if report.suffix.lower() != ".json":  # so that it is never the scene or the mosaic
            raise OptionError(f"report {report} is no .json: give a name that ends in .json")
        refuse_existing(report, overwrite=choices["overwrite"])
    options = translate_options(preview=preview, seams=report is not None, **choices)
    if dry_run:
        from sar2optical.pipeline.estimate import estimate

        click.echo(outlook(estimate(scene, out, model=found, options=options)))
        return
    with GentleStop() as stop, _progress(stop, hidden=quiet) as on_progress:
        did = translate(scene, out, model=found, options=options, on_progress=on_progress, stop=stop)
    if report:
        write_output(report, did.to_json().encode())
    if not quiet:
        click.echo(summary(did))


def outlook(expected: Estimate) -> str:
    """Lay out what a run would do and take."""
    rows = [
        ("windows", f"{expected.windows}"),
        ("to run", f"{expected.windows_run} (with {expected.engine})"),
        ("skipped", f"{expected.windows_skipped} without a valid pixel, or finished before"),
        ("finished before", f"{expected.rows_kept} rows"),
        ("memory", f"{expected.memory / 1e6:.0f} MB"),
        ("disk, strips", f"{expected.strips / 1e6:.0f} MB"),
        ("disk, mosaic", f"{expected.mosaic / 1e6:.0f} MB"),
        ("disk, free", f"{expected.free / 1e6:.0f} MB"),
        ("time", f"about {expected.seconds:.0f} s, and {expected.seconds_mosaic:.0f} s for assembling"),
    ]
    return "\n".join(f"{name:<16} {value}" for name, value in rows)


def summary(report: Report) -> str:
    """Give the closing line: size, seconds, rate, engine, file."""
    height, width = report.shape
    rate = height * width / _MPX / report.seconds
    return (
        f"{report.out}: {width} x {height}, {report.seconds:.1f} s ({report.seconds_mosaic:.1f} s of it assembling), "
        f"{rate:.2f} Mpx/s, {report.windows_run} of {report.windows} windows, {report.model} with {report.engine}"
    )


@contextmanager
def _progress(stop: GentleStop, *, hidden: bool) -> Iterator[OnProgress]:
    """Show a bar of finished megapixels, rate and time left, while windows run; lines where there is no terminal."""
    from tqdm import tqdm

    lines = Lines() if not hidden and not sys.stderr.isatty() else None

    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpx [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    with tqdm(total=0, unit=" Mpx", desc="translating", bar_format=form, leave=False, disable=hidden or None) as bar:

        def show(stage: str, done: int, total: int) -> None:
            stop.in_hand = _IN_HAND.get(stage, "")
            if lines:
                lines.show(_DOING[stage], done / _MPX, total / _MPX, "Mpx")
            bar.set_description(_DOING[stage])
            if stage != "mosaic":
                bar.total = total / _MPX
                bar.update(done / _MPX - bar.n)

        yield show
