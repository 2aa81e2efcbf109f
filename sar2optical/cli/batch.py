"""`sar2opt-batch`: many SAR rasters in, as many RGB mosaics out, on one machine or on many."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import one_line, reports_errors, set_up_logging
from sar2optical.cli.options import scene_options, translate_options
from sar2optical.errors import OptionError, Sar2OpticalError

if TYPE_CHECKING:
    from sar2optical.cluster import Outcome, State

_SUMMARY = "summary.json"
_MARKS: dict[State, str] = {"done": "done", "there": "is there", "failed": "failed"}


@dataclass(frozen=True)
class _Scene:
    source: str
    name: str
    """Of the product: its file's name without suffix, or an item's id."""
    when: datetime | None = None


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
    was interrupted. OUT_DIR/summary.json tells what became of each. Exit status 1 where one failed.
    """
    set_up_logging(-1 if quiet or not verbose else 1)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    from sar2optical.cluster import connected, default_threads, translate_all
    from sar2optical.files import alone_in, write_output
    from sar2optical.models.zoo import resolve

    found = None if model is None else resolve(model)
    listed = _listed(scenes, choices["bands"])
    began = time.perf_counter()
    folder = _folder(out_dir)
    works = _works(listed, folder, template, previews=previews)
    with alone_in(folder), connected(scheduler, workers) as (client, count):
        if choices["threads"] is None and not scheduler:
            choices["threads"] = default_threads(count)
        options = translate_options(**choices)
        with _progress(len(works), hidden=quiet) as (progress, say):
            described = {work.out: scene for work, scene in zip(works, listed, strict=True)}

            def finished(outcome: Outcome) -> None:
                if outcome.state == "failed":
                    say(f"failed: {outcome.error}")
                if stac and outcome.state != "failed":
                    try:
                        _describe(outcome, described[outcome.work.out])
                    except Sar2OpticalError as error:  # the mosaic is there all the same
                        say(f"no Item: {one_line(error)}")

            outcomes = translate_all(
                client, works, workers=count, model=found, options=options, progress=progress, finished=finished
            )
    seconds = time.perf_counter() - began
    write_output(folder / _SUMMARY, _summary(outcomes, seconds).encode())
    click.echo(table(outcomes, seconds))
    if any(outcome.state == "failed" for outcome in outcomes):
        sys.exit(1)


def _folder(given: str) -> Path:
    """Make the folder for mosaics; a server's address is refused, of which a path would make a folder here."""
    from sar2optical.remote import is_remote

    if is_remote(given):
        raise OptionError(f"{given}: is on a server: give a folder that all workers see, and upload what it holds")
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder}: cannot be made ({error.strerror}): choose another folder") from error
    return folder


def _listed(scenes: tuple[str, ...], bands: tuple[str, ...]) -> list[_Scene]:
    """Read the lists among the arguments."""
    found: list[_Scene] = []
    for text in scenes:
        suffix = Path(text).suffix.lower()
        if suffix == ".json":
            from sar2optical.stac import read_items

            found += [_Scene(item.href, item.name, item.when) for item in read_items(Path(text), bands)]
        elif suffix == ".txt":
            try:
                lines = Path(text).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeError) as error:
                raise OptionError(f"{text}: is no list of scenes ({error}): give a text file, one a line") from error
            found += [_named(line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")]
        else:
            found.append(_named(text))
    if not found:
        raise OptionError(f"{', '.join(scenes)}: no scene is named there: give one or more")
    return found


def _named(source: str) -> _Scene:
    path = PurePosixPath(source.partition("?")[0])
    if path.name == "manifest.safe":
        path = path.parent
    return _Scene(source, path.stem or path.name)


def _works(scenes: list[_Scene], out_dir: Path, template: str, *, previews: bool) -> list[Any]:
    """Name the outputs, all of them different."""
    from sar2optical.cluster import Work

    works = []
    for number, scene in enumerate(scenes, 1):
        try:
            name = template.format(name=re.sub(r"[/\\:]", "_", scene.name), number=number)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise OptionError(f"--name {template}: {{name}} and {{number}} are known, not {error}") from error
        out = out_dir / name
        if out.parent != out_dir:
            raise OptionError(f"--name {template}: gives {name}, which lies in another folder: leave out / and ..")
        if out.with_suffix(".json").name == _SUMMARY:
            raise OptionError(f"{out}: its Item would be {_SUMMARY}, which sums up the batch: give --name")
        if Path(scene.source).exists() and out.exists() and out.samefile(scene.source):
            raise OptionError(f"{out}: is the scene itself: give another folder, or --name")
        works.append(Work(source=scene.source, out=out, preview=out.with_suffix(".png") if previews else None))
    twice = [str(out) for out, count in Counter(work.out for work in works).items() if count > 1]
    if twice:
        raise OptionError(f"{twice[0]}: is the mosaic of two scenes: give --name with {{number}}")
    return works


def _describe(outcome: Outcome, scene: _Scene) -> None:
    from sar2optical.mosaic import run_of
    from sar2optical.stac import write_item

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
    """Show a bar of scenes, and strips of the large ones; and give what prints a line above it."""
    from tqdm import tqdm

    with tqdm(total=total, unit=" scenes", desc="scenes", leave=False, disable=hidden or None) as bar:

        def show(done: int, _: int, strips: int, of: int) -> None:
            bar.update(done - bar.n)
            if of:
                bar.set_postfix_str(f"{strips} of {of} strips")

        yield show, lambda line: tqdm.write(line, file=sys.stderr)


def _summary(outcomes: list[Outcome], seconds: float) -> str:
    records = []
    for outcome in outcomes:
        record: dict[str, Any] = {"scene": outcome.work.source, "out": str(outcome.work.out), "state": outcome.state}
        if outcome.error:
            record["error"] = outcome.error
        if outcome.report:
            record["report"] = json.loads(outcome.report.to_json())
        records.append(record)
    return json.dumps({"seconds": seconds, "scenes": records}, indent=1) + "\n"


def table(outcomes: list[Outcome], seconds: float) -> str:
    """Lay out what became of each scene, a line each, and all together in the last."""
    rows = [("scene", "state", "Mpx", "seconds", "what")]
    pixels = 0.0
    for outcome in outcomes:
        report, name = outcome.report, PurePosixPath(outcome.work.source).name
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
