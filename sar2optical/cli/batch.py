"""`sar2opt-batch`: many SAR rasters in, as many RGB mosaics out, on one machine or on many."""

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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from sar2optical._utils.addresses import redacted
from sar2optical.cli.common import Lines, one_line, reports_errors, set_up_logging
from sar2optical.cli.options import scene_options, translate_options
from sar2optical.errors import OptionError, OptionWithoutEffect, OutputUnwritable, Sar2OpticalError

if TYPE_CHECKING:
    from sar2optical.batch.cluster import Outcome, State, Work

_SUMMARY = "summary.json"
_MARKS: dict[State, str] = {"done": "done", "there": "is there", "failed": "failed"}

_UNUSABLE = re.compile(r"[/\\:\x00-\x1f]")
"""In a file's name."""

_LONGEST_NAME = 240
"""Bytes; file systems take 255, of which ours need some for what lies beside a mosaic."""


@dataclass(frozen=True)
class _Scene:
    source: str
    name: str
    """Of the product: its file's name without suffix, or an item's id."""
    when: datetime | None = None
    error: str = ""
    """Why it cannot be translated: an Item that names no scene, a list that cannot be read."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("scenes", nargs=-1, required=True)
@click.argument("out_dir")
@click.option(
    "--name",
    "template",
    default="{name}.tif",
    show_default=True,
    help="Of each mosaic: {name} is the scene's, {number} counts from 1.",
)
@click.option("--scheduler", help="Address of a Dask scheduler (tcp://host:8786); all workers must see OUT_DIR.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes on this machine; one per GPU, or one in all, where not given.",
)
@click.option("--stac/--no-stac", default=True, show_default=True, help="Write a STAC Item beside each mosaic.")
@click.option("--previews", is_flag=True, help="Write a small picture (.png) beside each mosaic.")
@scene_options
@click.option("--overwrite", is_flag=True, help="Make mosaics that are there again.")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings, errors and the table.")
@click.option("-v", "--verbose", is_flag=True, help="Everything.")
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
    quiet: bool,
    verbose: bool,
    **choices: Any,
) -> None:
    """Translate SCENES into mosaics in OUT_DIR.

    SCENES are rasters and products, text files (.txt) with one of them a line, and STAC ItemCollections (.json). One
    that fails does not stop the others; mosaics that are there are left alone, so the same command goes on where it
    was interrupted. One that is there, but was made with other options or of another scene, counts as failed, unless
    --overwrite is given. OUT_DIR/summary.json tells what became of each, and keeps what earlier runs told. Exit
    status 1 where one failed.
    """
    set_up_logging(-1 if quiet or not verbose else 1)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    from sar2optical._utils.files import alone_in, write_output
    from sar2optical.engines.registry import resolve

    found = None if model is None else resolve(model)
    listed = _listed(scenes, choices["bands"])
    if choices["calibration"] or choices["denoise"]:
        _refuse_rasters([scene.source for scene in listed if not scene.error])
    began, started = time.perf_counter(), datetime.now(UTC)
    folder = _folder(out_dir)
    works = _works(listed, folder, template, previews=previews)
    with alone_in(folder):
        outcomes = _translated(
            works, scheduler=scheduler, workers=workers, model=found, choices=choices, stac=stac, quiet=quiet
        )
        seconds = time.perf_counter() - began
        write_output(folder / _SUMMARY, _summary(outcomes, seconds, started, _kept(folder / _SUMMARY)).encode())
    click.echo(table(outcomes, seconds))
    if any(outcome.state == "failed" for outcome in outcomes):
        sys.exit(1)


def _refuse_rasters(sources: list[str]) -> None:
    """Refuse to calibrate what has no table for it, before the first scene."""
    from sar2optical.scene.safe import is_product

    others = [source for source in sources if not is_product(source)]
    if others:
        raise OptionWithoutEffect(
            f"{redacted(others[0])}: {len(others)} of {len(sources)} scenes are no Sentinel-1 products in ESA's "
            "packaging and have no calibration table: leave out --calibration and --denoise, or give the products in "
            "a batch of their own"
        )


def _folder(given: str) -> Path:
    """Make the folder for mosaics; a server's address is refused, of which a path would make a folder here."""
    from sar2optical.scene.remote import is_remote

    if is_remote(given):
        raise OptionError(f"{given}: is on a server: give a folder that all workers see, and upload what it holds")
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder}: cannot be made ({error.strerror}): choose another folder") from error
    return folder


def _translated(
    works: list[tuple[_Scene, Work]],
    *,
    scheduler: str | None,
    workers: int | None,
    model: Path | None,
    choices: dict[str, Any],
    stac: bool,
    quiet: bool,
) -> list[Outcome]:
    """Translate those that can be; give what became of each, in order."""
    from sar2optical.batch.cluster import Outcome, connected, default_threads, translate_all

    described = {work.out: scene for scene, work in works if not scene.error}
    good = [work for scene, work in works if not scene.error]
    with _progress(len(good), hidden=quiet) as (progress, say):

        def finished(outcome: Outcome) -> None:
            if outcome.state == "failed":
                say(f"failed: {outcome.error}")
            if stac and outcome.state != "failed":
                try:
                    _describe(outcome, described[outcome.work.out])
                except Sar2OpticalError as error:  # the mosaic is there all the same
                    say(f"no Item: {one_line(error)}")

        refused = [Outcome(work=work, state="failed", error=scene.error) for scene, work in works if scene.error]
        for outcome in refused:
            finished(outcome)
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
                    progress=progress,
                    finished=finished,
                )
    made, others = iter(outcomes), iter(refused)
    return [next(others if scene.error else made) for scene, _ in works]


def _listed(scenes: tuple[str, ...], bands: tuple[str, ...]) -> list[_Scene]:
    """Read the lists among the arguments; one that cannot be read stops no scene, but is an error by itself."""
    found: list[_Scene] = []
    refused = 0
    for text in scenes:
        suffix = Path(text).suffix.lower()
        try:
            if suffix in (".json", ".geojson"):
                found += _of_items(text, bands)
            elif suffix == ".txt":
                found += _of_lines(text)
            else:
                found.append(_named(text))
        except OptionError as error:
            refused += 1
            if refused == len(scenes):
                raise
            found.append(replace(_named(text), error=str(error)))
    if not found:
        raise OptionError(f"{', '.join(scenes)}: no scene is named there: give one or more")
    return found


def _of_items(text: str, bands: tuple[str, ...]) -> list[_Scene]:
    from sar2optical._utils.addresses import is_web_address
    from sar2optical.batch.stac import read_items

    if is_web_address(text):
        raise OptionError(f"{text}: lists are read from this machine only: fetch it, and give its path")
    return [
        _Scene(item.href or f"{text}#{item.name}", item.name, item.when, item.error)
        for item in read_items(Path(text), bands)
    ]


def _of_lines(text: str) -> list[_Scene]:
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise OptionError(f"{text}: is no list of scenes ({error}): give a text file, one a line") from error
    return [_named(line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")]


def _named(source: str) -> _Scene:
    path = PurePosixPath(redacted(source))
    if path.name == "manifest.safe":
        path = path.parent
    return _Scene(source, path.stem or path.name)


def _works(scenes: list[_Scene], out_dir: Path, template: str, *, previews: bool) -> list[tuple[_Scene, Work]]:
    """Name the outputs, all of them different."""
    from sar2optical.batch.cluster import Work

    works = []
    for number, scene in enumerate(scenes, 1):
        try:
            name = template.format(name=_UNUSABLE.sub("_", scene.name), number=number)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise OptionError(f"--name {template}: {{name}} and {{number}} are known, not {error}") from error
        out = out_dir / name
        if out.parent != out_dir:
            raise OptionError(f"--name {template}: gives {name}, which lies in another folder: leave out / and ..")
        work = Work(source=scene.source, out=out, preview=out.with_suffix(".png") if previews else None)
        works.append((replace(scene, error=scene.error or _why_not(work)), work))
    counts = Counter(work.out for scene, work in works if not scene.error)
    twice = [str(out) for out, times in counts.items() if times > 1]
    if twice:
        raise OptionError(f"{twice[0]}: is the mosaic of two scenes: give --name with {{number}}")
    return works


def _why_not(work: Work) -> str:
    """Say why a scene cannot have this output; empty where it can."""
    from sar2optical.scene.remote import is_remote

    out = work.out
    size = len(os.fsencode(out.name))
    if size > _LONGEST_NAME:
        return f"{out.name[:40]}...: is a name of {size} bytes, too long for a file: give --name with {{number}}"
    if out.with_suffix(".json").name == _SUMMARY:
        return f"{out}: its Item would be {_SUMMARY}, which sums up the batch: give --name"
    if not is_remote(work.source) and out.exists():
        source = Path(work.source)
        if source.exists() and out.samefile(source):
            return f"{out}: is the scene itself: give another folder, or --name"
    return ""


def _describe(outcome: Outcome, scene: _Scene) -> None:
    from sar2optical.batch.stac import write_item
    from sar2optical.mosaic.writer import run_of

    out, picture = outcome.work.out, outcome.work.preview
    if out.suffix.lower() not in (".tif", ".tiff"):
        return
    if outcome.state == "there" and (out.with_suffix(".json").exists() or run_of(out) is None):
        return  # described before, or not ours
    write_item(out, name=scene.name, when=scene.when, picture=picture if picture and picture.exists() else None)


@contextmanager
def _progress(
    total: int, *, hidden: bool
) -> Iterator[tuple[Callable[[int, int, int, int], None], Callable[[str], None]]]:
    """Show a bar of scenes, and strips of the large ones; and give what prints a line above it.

    Where there is no terminal, lines.
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
    records = []
    for outcome in outcomes:
        source = redacted(outcome.work.source)
        record: dict[str, Any] = {"scene": source, "out": str(outcome.work.out), "state": outcome.state}
        if outcome.error:
            record["error"] = outcome.error
        if outcome.report:
            record["report"] = json.loads(outcome.report.to_json())
        records.append(record)
    run = {"began": began.isoformat(timespec="seconds"), "seconds": seconds, "scenes": records}
    return json.dumps(run | ({"earlier": earlier} if earlier else {}), indent=1) + "\n"


def _kept(path: Path) -> list[Any]:
    """Give what earlier runs in this folder told, the last one first; a file of another kind is moved aside."""
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
        raise OutputUnwritable(f"{path}: is no summary, and cannot be moved ({error.strerror}): move it") from error
    click.echo(f"{path}: was no summary of a batch, and is now {aside.name}", err=True)
    return []


def table(outcomes: list[Outcome], seconds: float) -> str:
    """Lay out what became of each scene, a line each, and all together in the last."""
    rows = [("scene", "state", "Mpx", "seconds", "what")]
    pixels = 0.0
    for outcome in outcomes:
        report, name = outcome.report, PurePosixPath(redacted(outcome.work.source)).name
        if report:
            mpx = report.shape[0] * report.shape[1] / 1e6
            pixels += mpx
            rows.append((name, "done", f"{mpx:.1f}", f"{report.seconds:.1f}", outcome.work.out.name))
        else:
            rows.append((name, _MARKS[outcome.state], "", "", outcome.error or outcome.work.out.name))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
        for row in rows
    ]
    counts = Counter(outcome.state for outcome in outcomes)
    told = ", ".join(f"{counts[state]} {word}" for state, word in _MARKS.items() if counts[state])
    return "\n".join([*lines, f"{told}; {pixels:.0f} Mpx in {seconds:.1f} s, {pixels / seconds:.2f} Mpx/s"])
