"""`sar2opt-batch`: translate many SAR scenes into RGB mosaics, on one machine or a Dask cluster."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical._utils.addresses import redacted
from sar2optical.cli.batch_tables import table, table_of_estimates
from sar2optical.cli.common import CONTEXT, Lines, name_variables, one_line, reports_errors, set_up_logging
from sar2optical.cli.options import scene_options, translate_options
from sar2optical.cli.scene_lists import ListedScene, listed_scenes
from sar2optical.errors import OptionError, OptionWithoutEffect, OutputUnwritable, Sar2OpticalError

if TYPE_CHECKING:
    from sar2optical.batch.work import Outcome, Work
    from sar2optical.scene.sources import Source

__all__ = ["main"]

_SUMMARY = "summary.json"

_UNUSABLE = re.compile(r"[/\\:\x00-\x1f]")
"""Characters that are replaced in file names."""

_LONGEST_NAME = 240
"""Maximum bytes of a file name: file systems allow 255, and files beside a mosaic have longer names."""


@click.command(context_settings=CONTEXT)
@click.argument("scenes", nargs=-1, required=True)
@click.argument("out_dir")
@click.option(
    "--name",
    "template",
    default="{name}.tif",
    show_default=True,
    help="File name of each mosaic; {name} is the scene's name, {number} its number from 1.",
)
@click.option("--scheduler", help="Address of a Dask scheduler (tcp://host:8786). All workers must see OUT_DIR.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes on this machine.  [default: one per GPU, or one]",
)
@click.option(
    "--stac/--no-stac",
    default=True,
    show_default=True,
    help="Write a STAC Item beside each mosaic; a STAC Collection and a VRT over all mosaics in OUT_DIR.",
)
@click.option("--previews", is_flag=True, help="Write a small preview (.png) beside each mosaic.")
@scene_options
@click.option("--overwrite", is_flag=True, help="Replace existing mosaics.")
@click.option("--dry-run", is_flag=True, help="Estimate windows, memory, disk and time; write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings, errors and the table.")
@click.option("-v", "--verbose", is_flag=True, help="Print all log messages.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(
    scenes: tuple[str, ...],
    out_dir: str,
    template: str,
    scheduler: str | None,
    workers: int | None,
    stac: bool,
    previews: bool,
    model: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **choices: Any,
) -> None:
    """Translate SCENES into mosaics in OUT_DIR.

    SCENES are rasters, Sentinel-1 products, folders of these, text files (.txt) with one scene per line, and STAC
    Items and ItemCollections (.json). The files of one scene, one for each polarisation, are given as "VV.tif +
    VH.tif"; in a folder, rasters whose names differ only in the polarisation are one scene. A scene that fails does
    not stop the others. Existing mosaics are kept, so the same command resumes an interrupted
    batch. An existing mosaic that was made with other options or from another scene counts as failed, unless
    --overwrite is given. OUT_DIR/summary.json contains the outcome of each scene, and those of earlier runs. The exit
    status is 1 if a scene failed.
    """
    set_up_logging(-1 if quiet or not verbose else 1)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    from sar2optical._utils.files import alone_in, write_output
    from sar2optical.engines.registry import resolve

    found = None if model is None else resolve(model)
    listed = listed_scenes(scenes, choices["bands"])
    if choices["calibration"] or choices["denoise"]:
        _refuse_rasters([scene.source for scene in listed if not scene.error])
    began, started = time.perf_counter(), datetime.now(UTC)
    if dry_run:
        click.echo(_estimated(_works(listed, _local(out_dir), template, previews=previews), found, choices, quiet))
        return
    folder = _folder(out_dir)
    works = _works(listed, folder, template, previews=previews)
    with alone_in(folder):
        outcomes = _translate(
            works, scheduler=scheduler, workers=workers, model=found, choices=choices, stac=stac, quiet=quiet
        )
        if stac:
            _write_collection(folder)
        seconds = time.perf_counter() - began
        write_output(
            folder / _SUMMARY, _summary(outcomes, seconds, started, _earlier_runs(folder / _SUMMARY)).encode()
        )
    click.echo(table(outcomes, seconds))
    if any(outcome.state == "failed" for outcome in outcomes):
        sys.exit(1)


def _refuse_rasters(sources: list[Source]) -> None:
    """Refuse to calibrate scenes that have no calibration table, before the first is translated."""
    from sar2optical.scene.safe.files import is_product
    from sar2optical.scene.sources import SceneFiles

    others = [source for source in sources if isinstance(source, SceneFiles) or not is_product(source)]
    if others:
        raise OptionWithoutEffect(
            f"{len(others)} of {len(sources)} scenes (first: {redacted(str(others[0]))}) are not Sentinel-1 products "
            "in ESA's format and have no calibration table: remove --calibration and --denoise, or translate the "
            "products in a separate batch"
        )


def _estimated(
    works: list[tuple[ListedScene, Work]], model: Path | None, choices: dict[str, Any], quiet: bool
) -> str:
    """Estimate the run of each scene, and return the table."""
    from sar2optical.batch.estimates import Expected, estimate_all

    good = [work for scene, work in works if not scene.error]
    with _progress(len(good), hidden=quiet) as (on_progress, _):
        estimates = iter(
            estimate_all(
                good,
                model=model,
                options=translate_options(**choices),
                on_progress=lambda done: on_progress(done, len(good), 0, 0),
            )
        )
    return table_of_estimates(
        [
            Expected(work=work, state="failed", error=scene.error) if scene.error else next(estimates)
            for scene, work in works
        ]
    )


def _write_collection(folder: Path) -> None:
    """Write the Collection and the VRTs over all mosaics of the folder; a failure is only printed."""
    from sar2optical.batch.collection import write_collection, write_vrts

    for write in (write_collection, write_vrts):
        try:
            write(folder)
        except Sar2OpticalError as error:  # the mosaics themselves are complete
            click.echo(f"no STAC Collection or VRT: {one_line(error)}", err=True)


def _local(given: str) -> Path:
    """Refuse an address, which as a path would be a local folder of that name."""
    from sar2optical.scene.remote import is_remote

    if is_remote(given):
        raise OptionError(
            f"{given}: is on a server: give a folder that all workers see, and upload the mosaics from there"
        )
    return Path(given)


def _folder(given: str) -> Path:
    """Make the folder for mosaics."""
    folder = _local(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder}: cannot create this folder ({error.strerror}): choose another") from error
    return folder


def _translate(
    works: list[tuple[ListedScene, Work]],
    *,
    scheduler: str | None,
    workers: int | None,
    model: Path | None,
    choices: dict[str, Any],
    stac: bool,
    quiet: bool,
) -> list[Outcome]:
    """Translate all scenes without an error, and return the outcome of each, in order."""
    from sar2optical.batch.cluster import connected, default_threads
    from sar2optical.batch.schedule import translate_all
    from sar2optical.batch.work import Outcome

    scenes = {work.out: scene for scene, work in works if not scene.error}
    good = [work for scene, work in works if not scene.error]
    with _progress(len(good), hidden=quiet) as (on_progress, print_line):

        def on_outcome(outcome: Outcome) -> None:
            if outcome.state == "failed":
                print_line(f"failed: {outcome.error}")
            if stac and outcome.state != "failed":
                try:
                    _write_item(outcome, scenes[outcome.work.out])
                except Sar2OpticalError as error:  # the mosaic itself is complete
                    print_line(f"no STAC Item: {one_line(error)}")

        refused = [Outcome(work=work, state="failed", error=scene.error) for scene, work in works if scene.error]
        for outcome in refused:
            on_outcome(outcome)
        outcomes: list[Outcome] = []
        if good:
            with connected(scheduler, workers) as (client, processes):
                if choices["threads"] is None and not scheduler:
                    choices["threads"] = default_threads(processes)
                options = translate_options(**choices)
                outcomes = translate_all(
                    client,
                    good,
                    workers=processes,
                    model=model,
                    options=options,
                    on_progress=on_progress,
                    on_outcome=on_outcome,
                )
    made, others = iter(outcomes), iter(refused)
    return [next(others if scene.error else made) for scene, _ in works]


def _works(
    scenes: list[ListedScene], out_dir: Path, template: str, *, previews: bool
) -> list[tuple[ListedScene, Work]]:
    """Name the mosaics by a template; refuse one that gives two scenes the same mosaic."""
    from sar2optical.batch.work import Work

    works = []
    for number, scene in enumerate(scenes, 1):
        try:
            name = template.format(name=_UNUSABLE.sub("_", scene.name), number=number)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise OptionError(
                f"--name {template}: is not a valid template ({error}): use {{name}} and {{number}} only"
            ) from error
        out = out_dir / name
        if out.parent != out_dir:
            raise OptionError(
                f"--name {template}: {name} would be written outside OUT_DIR: give a name without / and .."
            )
        work = Work(source=scene.source, out=out, preview=out.with_suffix(".png") if previews else None)
        works.append((replace(scene, error=scene.error or _output_error(work)), work))
    counts = Counter(work.out for scene, work in works if not scene.error)
    twice = [str(out) for out, times in counts.items() if times > 1]
    if twice:
        raise OptionError(f"{twice[0]}: would be the mosaic of two scenes: give --name with {{number}}")
    return works


def _output_error(work: Work) -> str:
    """Return why a scene cannot have this mosaic; empty if it can."""
    from sar2optical.batch.collection import COLLECTION
    from sar2optical.scene.sources import inputs_of

    out = work.out
    size = len(os.fsencode(out.name))
    if size > _LONGEST_NAME:
        return f"{out.name[:40]}...: this file name has {size} bytes, which is too long: give --name with {{number}}"
    if (item := out.with_suffix(".json").name) in (_SUMMARY, COLLECTION):
        return f"{out}: its STAC Item would overwrite {item} of the batch: give --name"
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs_of(work.source)):
        return f"{out}: is the scene itself: choose another folder, or give --name"
    return ""


def _write_item(outcome: Outcome, scene: ListedScene) -> None:
    """Write the STAC Item of a mosaic, if it is a GeoTIFF of this project and has none yet."""
    from sar2optical.batch.stac import write_item
    from sar2optical.mosaic.tags import run_of
    from sar2optical.scene.sources import paths_of

    out, picture = outcome.work.out, outcome.work.preview
    if out.suffix.lower() not in (".tif", ".tiff"):
        return
    if outcome.state == "there" and (out.with_suffix(".json").exists() or run_of(out) is None):
        return
    write_item(
        out,
        name=scene.name,
        when=scene.when,
        picture=picture if picture and picture.exists() else None,
        derived_from=[scene.item] if scene.item else [str(path) for path in paths_of(scene.source)],
    )


@contextmanager
def _progress(
    total: int, *, hidden: bool
) -> Iterator[tuple[Callable[[int, int, int, int], None], Callable[[str], None]]]:
    """Show a progress bar of scenes and of strips of the large ones; without a terminal, print lines.

    Yields
    ------
    on_progress
        Callback of `translate_all`.
    print_line
        Prints a line above the bar.
    """
    from tqdm import tqdm

    lines = Lines() if not hidden and not sys.stderr.isatty() else None

    with tqdm(total=total, unit=" scenes", desc="scenes", leave=False, disable=hidden or None) as bar:

        def show(done: int, _: int, strips: int, of: int) -> None:
            bar.update(done - bar.n)
            if lines:
                lines.show("translating", done, total, "scenes")
            if of:
                bar.set_postfix_str(f"{strips} of {of} strips")

        yield show, lambda line: tqdm.write(line, file=sys.stderr)


def _summary(outcomes: list[Outcome], seconds: float, began: datetime, earlier: list[Any]) -> str:
    """Format the outcomes of this run and of earlier ones as JSON."""
    records = []
    for outcome in outcomes:
        source = redacted(str(outcome.work.source))
        record: dict[str, Any] = {"scene": source, "out": str(outcome.work.out), "state": outcome.state}
        if outcome.error:
            record["error"] = outcome.error
        if outcome.report:
            record["report"] = json.loads(outcome.report.to_json())
        records.append(record)
    run = {"began": began.isoformat(timespec="seconds"), "seconds": seconds, "scenes": records}
    return json.dumps(run | ({"earlier": earlier} if earlier else {}), indent=1) + "\n"


def _earlier_runs(path: Path) -> list[Any]:
    """Read the outcomes of earlier runs in this folder, the last one first; rename a file that is not a summary."""
    try:
        record = json.loads(path.read_bytes())
        earlier = record.pop("earlier", [])
        if isinstance(record["scenes"], list) and isinstance(earlier, list):
            return [record, *earlier]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    aside = next(name for k in count(1) if not (name := path.with_name(f"{path.stem}-{k}{path.suffix}")).exists())
    try:
        path.rename(aside)
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: is not a summary of a batch and cannot be renamed ({error.strerror}): move it"
        ) from error
    click.echo(f"{path}: is not a summary of a batch, renamed to {aside.name}", err=True)
    return []


name_variables(main, "SAR2OPT_BATCH")
