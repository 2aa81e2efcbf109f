"""Steps that a Dask worker executes: begin a scene, make strips of it, assemble its mosaic.

Every function here is pickled by name: it must be importable on the worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sar2optical.batch.work import Work
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model
from sar2optical.errors import InferenceFailed, OutputExists, OutputUnwritable, Sar2OpticalError, SceneUnreadable
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.strip_files import StripFiles
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.tags import run_of, tags_of
from sar2optical.mosaic.writer import coding_of
from sar2optical.pipeline.job import ResolvedOptions
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.prepare import check_outputs, prepared
from sar2optical.pipeline.provenance import differences
from sar2optical.pipeline.run import execute
from sar2optical.pipeline.stream import stream

__all__ = [
    "MIN_STRIPS",
    "AlreadyDone",
    "Failed",
    "Shared",
    "attempt",
    "begin",
    "count_strips",
    "cut",
    "end",
    "make_strips",
]

MIN_STRIPS = 6
"""Minimum number of strips in a task: windows that reach into the first one from above are run again."""
_MIN_WINDOWS = 6  # rows of windows in a task

_WORTH_RETRYING = (SceneUnreadable, OutputUnwritable, InferenceFailed)
"""Errors that may not occur again, or not on another machine: of a network, a disk or a GPU."""


@dataclass(frozen=True)
class Failed:
    """Result of a step that failed and is not tried again."""

    message: str


class AlreadyDone:
    """Result of a step whose mosaic exists and is of this run: its worker was lost before it could report."""


@dataclass(frozen=True)
class Shared:
    """Result of beginning a large scene, whose strips several tasks make."""

    resolved: ResolvedOptions
    tasks: tuple[tuple[int, int], ...]
    """First and past-the-last row of pixels of each task; none if all strips are on disk."""


_engines: dict[Any, tuple[Engine, Path]] = {}
"""Engines that this worker keeps open for its next task."""


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """Execute a step. Errors that would occur again are returned as `Failed`, so that Dask does not try again."""
    try:
        return function(*args)
    except Sar2OpticalError as error:
        kind, text = type(error), str(error)
    if issubclass(kind, _WORTH_RETRYING):
        raise kind(text)  # outside the handler: GDAL's errors, which would be its context, cannot be pickled
    return Failed(text)


def begin(work: Work, model: Path | None, options: TranslateOptions, share: bool) -> Report | Shared | AlreadyDone:
    """Translate a small scene; resolve the options of a large one, and cut the strips to be made into tasks.

    Parameters
    ----------
    work
        Scene and mosaic.
    model
        Path of the model file; None: the bundled generator.
    options
        Options of the scene.
    share
        Whether a large scene is shared among workers.

    Raises
    ------
    Sar2OpticalError
        The scene cannot be translated; OutputExists if another run has made the mosaic.
    """
    began = time.perf_counter()
    with prepared(work.source, work.out, model=model, options=options, opener=_kept_open) as job:
        if _is_done(work.out, job.manifest, options) and not differences(tags_of(work.out), job.tags):
            return AlreadyDone()
        _refuse_other_mosaic(work.out, job.tags, options)
        check_outputs(work.source, work.out, options)
        block, height = options.blocksize, job.shape[0]
        least = max(MIN_STRIPS, math.ceil(_MIN_WINDOWS * job.grid.window / block))
        if not share or height < 2 * least * block:
            return replace(execute(job, work.out, options), seconds=time.perf_counter() - began)
        strips = StripFiles(work.out, job.shape, job.manifest, coding=coding_of(work.out, job.coding(options)))
        strips.begin(restart=options.restart)
        missing = [row // block for row in strips.missing()]
        tasks = ((a * block, min(b * block, height)) for a, b in cut(missing, least))
        return Shared(job.resolved, tuple(tasks))


def make_strips(
    work: Work, model: Path | None, options: TranslateOptions, resolved: ResolvedOptions, rows: tuple[int, int]
) -> int:
    """Make the strips of some rows of pixels, and return how many."""
    with (
        prepared(work.source, work.out, model=model, options=options, resolved=resolved, opener=_kept_open) as job,
        StripFiles(
            work.out, job.shape, job.manifest, coding=coding_of(work.out, job.coding(options)), row=rows[0]
        ) as strips,
    ):
        stream(job, strips, rows=rows)
    return count_strips(rows, options.blocksize)


def count_strips(rows: tuple[int, int], block: int) -> int:
    """Return the number of strips in the rows of a task."""
    return math.ceil((rows[1] - rows[0]) / block)


def end(work: Work, model: Path | None, options: TranslateOptions, resolved: ResolvedOptions) -> Report | AlreadyDone:
    """Assemble the mosaic from its strips; those that are missing or damaged are made again."""
    began = time.perf_counter()
    if _is_done(work.out, resolved.manifest, options):
        return AlreadyDone()
    check_outputs(work.source, work.out, options)
    with prepared(work.source, work.out, model=model, options=options, resolved=resolved, opener=_kept_open) as job:
        return replace(execute(job, work.out, options), seconds=time.perf_counter() - began)


def cut(wanted: Sequence[int], least: int) -> Iterator[tuple[int, int]]:
    """Cut strips into tasks of adjacent strips.

    Parameters
    ----------
    wanted
        Indices of the strips, ascending.
    least
        Minimum number of strips in a task, where there are as many adjacent ones.

    Yields
    ------
    tuple of int
        First and past-the-last strip of one task.
    """
    start = 0
    for k in range(1, len(wanted) + 1):
        if k == len(wanted) or wanted[k] != wanted[k - 1] + 1:
            first, count = wanted[start], k - start
            pieces = max(1, count // least)
            edges = [first + count * piece // pieces for piece in range(pieces + 1)]
            yield from pairwise(edges)
            start = k


@contextmanager
def _kept_open(files: Mapping[str, Path], backend: str, options: EngineOptions) -> Iterator[tuple[Engine, Path]]:
    """Open a model, or yield the engine that an earlier task of this worker has opened."""
    key = (tuple(files.items()), backend, options)
    if key not in _engines:
        engine, _ = found = open_model(files, backend=backend, options=options)
        # The next steps of this scene ask for the chosen backend and precision by name.
        named = replace(options, precision=engine.precision)  # type: ignore[arg-type]
        _engines[tuple(files.items()), engine.backend, named] = _engines[key] = found
    yield _engines[key]


def _is_done(out: Path, manifest: Manifest, options: TranslateOptions) -> bool:
    """Return whether an earlier attempt has made the mosaic."""
    return not options.overwrite and run_of(out) == manifest.fingerprint


def _refuse_other_mosaic(out: Path, now: Mapping[str, str], options: TranslateOptions) -> None:
    """Refuse a mosaic that another run has made.

    Raises
    ------
    OutputExists
        The message names the differences.
    """
    tags = {} if options.overwrite else tags_of(out)
    if RUN_TAG in tags:
        raise OutputExists(
            f"{out}: exists and was made by another run ({'; '.join(differences(tags, now))}): give --overwrite to "
            "replace it, or choose another folder"
        )
