"""Many scenes, many machines: Dask.

A scene of many strips is shared among workers in runs of `UNIT` strips or more; a smaller one is a worker's own.
Workers write strips where the output will be, so all of them must see that folder. What a lost worker had in hand is
done again by another; strips on disk stay, and are checked before they are trusted.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sar2optical._utils.addresses import redacted
from sar2optical._utils.cores import usable_cores
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import (
    BackendNotInstalled,
    InferenceFailed,
    OptionError,
    OutputExists,
    OutputUnwritable,
    Sar2OpticalError,
    SceneUnreadable,
)
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.writer import StripFiles, cleanup, run_of, tags_of
from sar2optical.pipeline.provenance import asked_for, differences, is_as_asked
from sar2optical.pipeline.run import Report, ResolvedOptions, TranslateOptions, check_outputs, execute, prepared
from sar2optical.pipeline.stream import stream

if TYPE_CHECKING:
    from distributed import Client, Future

UNIT = 16
"""Strips, at least, that are worth a worker's while: the row of windows above them is run again, 6 % of it."""

_ANSWER_WITHIN = 10
"""Seconds for a scheduler's first word."""
_RETRIES = 2
_WORTH_RETRYING = (SceneUnreadable, OutputUnwritable, InferenceFailed)
"""What may be better next time, or on another machine: a network, a disk, a GPU."""

_NVIDIA = Path("/proc/driver/nvidia/gpus")
"""Where Linux lists what the driver has found."""

_log = logging.getLogger(__name__)


State = Literal["done", "there", "failed"]
"""Of a scene: made now, made before, or not."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Work:
    """A scene, and where its mosaic goes."""

    source: str
    out: Path
    preview: Path | None = None

    def __repr__(self) -> str:
        return f"Work({redacted(self.source)!r}, {str(self.out)!r})"  # Dask logs the arguments of what fails


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it."""

    work: Work
    state: State
    error: str = ""
    report: Report | None = None


Progress = Callable[[int, int, int, int], None]
"""Told how many scenes are through, of how many, and how many strips of the shared ones, of how many."""


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[tuple[Client, int]]:
    """Give a client of a Dask cluster, and the number of workers.

    Parameters
    ----------
    scheduler
        Address of one that runs; a cluster on this machine is made where not given.
    workers
        Of that one, processes: one per GPU, or one in all, where not given.

    Raises
    ------
    BackendNotInstalled
        Without Dask.
    OptionError
        Where the scheduler does not answer, or has no worker.
    """
    try:
        import distributed
    except ImportError as error:
        raise BackendNotInstalled("many machines need Dask: pip install 'sar2optical[cluster]'") from error
    if scheduler:
        try:
            client = distributed.Client(scheduler, timeout=_ANSWER_WITHIN)
        except (OSError, ValueError, TimeoutError) as error:
            raise OptionError(f"scheduler {scheduler}: does not answer: check the address") from error
        with client:
            count = len(client.scheduler_info(n_workers=-1)["workers"])
            if not count:
                raise OptionError(f"scheduler {scheduler}: has no worker: start some (dask worker {scheduler})")
            yield client, count
        return
    with _local(workers) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(len(cluster.worker_spec), timeout=120)
        yield client, len(cluster.worker_spec)


@contextmanager
def _local(workers: int | None) -> Iterator[Any]:
    """Make a cluster of processes on this machine, each with a GPU of its own where there are several."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = sorted(_NVIDIA.iterdir()) if _NVIDIA.is_dir() else []
    count = workers or max(1, len(gpus))
    # Memory is bounded by us; a worker above Dask's idea of enough would be paused or killed.
    common: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": 0,
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
        "preload": [__name__],  # for `dask_setup`
    }
    specs = {}
    for k in range(count):
        env = {"CUDA_VISIBLE_DEVICES": str(k % len(gpus))} if len(gpus) > 1 else {}
        specs[k] = {"cls": Nanny, "options": {**common, "env": env}}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    with _deaf():  # and so are the processes that begin in it
        cluster = SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.CRITICAL)
    with cluster:
        yield cluster


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, which a terminal sends to every process: it is for the one that people started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def dask_setup(_: Any) -> None:
    """Make a worker that takes the place of a lost one deaf to Ctrl-C too; Dask calls it, by this name."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_threads(workers: int) -> int:
    """Give the threads of each worker's engine, where several share this machine."""
    return max(1, usable_cores() // workers)


def translate_all(
    client: Client,
    works: Sequence[Work],
    *,
    workers: int,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    progress: Progress | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Translate scenes on a cluster's workers, to the pixels that `translate` gives.

    One that fails does not stop the others. What is there already is left alone (unless `options.overwrite`), so the
    same call goes on where an earlier one stopped; one that another call has made, with other options or of another
    scene, is a failure.

    Parameters
    ----------
    client, workers
        Of `connected`.
    works
        Scenes and outputs, all of these different.
    model
        A file that workers see; the bundled generator where not given.
    options
        Of every scene; the preview is each work's own.
    progress
        Told when something is through.
    finished
        Told each outcome as it comes.

    Returns
    -------
    list of Outcome
        In the order of `works`.
    """
    return _Run(client, works, workers, model, options or TranslateOptions(), progress, finished).all()


@dataclass
class _Shared:
    """A scene that several workers are at."""

    resolved: ResolvedOptions
    waiting: int


@dataclass
class _Run:
    """One call of `translate_all`: what is on its way, and what came of it."""

    client: Client
    works: Sequence[Work]
    workers: int
    model: Path | None
    options: TranslateOptions
    progress: Progress | None
    finished: Callable[[Outcome], None] | None
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _shared: dict[int, _Shared] = field(default_factory=dict)
    _futures: dict[Future, tuple[int, str]] = field(default_factory=dict)
    _strips: list[int] = field(default_factory=lambda: [0, 0])

    def all(self) -> list[Outcome]:
        """Submit, take what comes back, submit what follows from it, until nothing is left."""
        from distributed import as_completed

        left = deque(range(len(self.works)))
        running = as_completed()
        try:
            while True:
                # The next ones are at hand, not all of ten thousand.
                while left and self._under_way() < 2 * self.workers:
                    self._begin(left.popleft(), running)
                if not self._futures:
                    break
                future = next(running)
                if future in self._futures:  # not one that was given up
                    self._take(future, running)
                self._tell()
        finally:
            self.client.cancel(list(self._futures))
        return [self._outcomes[k] for k in range(len(self.works))]

    def _under_way(self) -> int:
        return len({k for k, _ in self._futures.values()})

    def _submit(self, running: Any, k: int, step: str, function: Callable[..., Any], *args: Any) -> None:
        # Earlier scenes first, so that few are half done at any time.
        future = self.client.submit(
            _attempted, function, self.works[k], self.model, *args, pure=False, retries=_RETRIES, priority=-k
        )
        self._futures[future] = (k, step)
        running.add(future)

    def _begin(self, k: int, running: Any) -> None:
        work = self.works[k]
        if os.path.lexists(work.out) and not self.options.overwrite:
            cleanup(work.out)
            if self._is_there(work):
                self._close(k, Outcome(work=work, state="there"))
                return
        self._submit(running, k, "begin", _begin, replace(self.options, preview=work.preview), self.workers > 1)

    def _is_there(self, work: Work) -> bool:
        """Say whether an output is this call's, as far as its tags tell without its scene being read.

        Where they do not, a worker finds out. A file that no run of ours has made is left alone.
        """
        tags = tags_of(work.out)
        if RUN_TAG not in tags:
            return True
        asked = asked_for(work.source, variants(self.model or bundled()), self.options)
        return is_as_asked(tags, work.source, asked)

    def _take(self, future: Future, running: Any) -> None:
        k, step = self._futures.pop(future)
        work = self.works[k]
        error = _why(future)
        result = None if error else future.result()
        if isinstance(result, _Failed):
            error = result.message
        if error:
            self._give_up(k)
            self._close(k, Outcome(work=work, state="failed", error=error))
        elif isinstance(result, _There):
            self._close(k, Outcome(work=work, state="there"))
        elif isinstance(result, Report):
            self._close(k, Outcome(work=work, state="done", report=result))
        elif isinstance(result, _Begun):
            self._shared[k] = _Shared(result.resolved, len(result.runs))
            self._strips[1] += sum(len(run) for run in result.runs)
            for run in result.runs:
                self._submit(running, k, "run", _run, self._later(k), result.resolved, run)
            if not result.runs:
                self._submit(running, k, "end", _end, self._later(k), result.resolved)
        elif step == "run":
            shared = self._shared[k]
            shared.waiting -= 1
            self._strips[0] += result or 0
            if shared.waiting == 0:
                self._submit(running, k, "end", _end, self._later(k), shared.resolved)

    def _later(self, k: int) -> TranslateOptions:
        """Options of the steps after the first, which has thrown away what was to be thrown away."""
        return replace(self.options, preview=self.works[k].preview, restart=False)

    def _give_up(self, k: int) -> None:
        others = [future for future, (which, _) in self._futures.items() if which == k]
        for future in others:
            del self._futures[future]
        self.client.cancel(others)

    def _close(self, k: int, outcome: Outcome) -> None:
        self._outcomes[k] = outcome
        if self.finished:
            self.finished(outcome)

    def _tell(self) -> None:
        if self.progress:
            self.progress(len(self._outcomes), len(self.works), *self._strips)


def _why(future: Future) -> str:
    """Say why a task came to nothing; empty where it did not."""
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        return ""
    error = future.exception() if future.status == "error" else None
    if isinstance(error, KilledWorker):
        return "its workers died again and again: out of memory? give --max-memory, or fewer --workers"
    if isinstance(error, Sar2OpticalError):
        return str(error)
    return redacted(f"{type(error).__name__}: {error}") if error else f"{future.status} by the scheduler"


# What workers do


@dataclass(frozen=True)
class _Failed:
    message: str


class _There:
    """The mosaic is there, and is this run's: whoever made it was lost before it could say so."""


@dataclass(frozen=True)
class _Begun:
    resolved: ResolvedOptions
    runs: tuple[range, ...]


_engines: dict[Any, tuple[Engine, Path]] = {}
"""Opened in this worker, and kept for its next task."""


def _attempted(function: Callable[..., Any], *args: Any) -> Any:
    """Do a step; what will not be better next time comes back as a result, so that Dask does not try again."""
    try:
        return function(*args)
    except Sar2OpticalError as error:
        kind, text = type(error), str(error)
    if issubclass(kind, _WORTH_RETRYING):
        raise kind(text)  # by itself: GDAL's own errors, in its context, do not travel
    return _Failed(text)


@contextmanager
def _kept_open(files: Mapping[str, Path], backend: str, options: EngineOptions) -> Iterator[tuple[Engine, Path]]:
    key = (tuple(files.items()), backend, options)
    if key not in _engines:
        engine, _ = found = open_model(files, backend=backend, options=options)
        # What was chosen will be asked for by name: by the next steps of this scene.
        named = replace(options, precision=engine.precision)  # type: ignore[arg-type]
        _engines[tuple(files.items()), engine.backend, named] = _engines[key] = found
    yield _engines[key]


def _begin(work: Work, model: Path | None, options: TranslateOptions, share: bool) -> Report | _Begun | _There:
    """Translate a small scene; of a large one, decide everything and say which strips are wanted."""
    began = time.perf_counter()
    with prepared(work.source, work.out, model=model, options=options, opener=_kept_open) as job:
        if _is_there(work.out, job.manifest, options) and not differences(tags_of(work.out), job.tags):
            return _There()
        _refuse_other_mosaic(work.out, job.tags, options)
        check_outputs(work.source, work.out, options)
        if not share or len(job.grid.rows) < 2 * UNIT:
            return execute(job, work.out, options, began=began)
        strips = StripFiles(work.out, job.grid.shape[1], job.manifest)
        strips.begin(restart=options.restart)
        wanted = [k for k in range(len(job.grid.rows)) if not strips.has(job.grid.strip(k))]
        return _Begun(job.resolved, tuple(runs_of(wanted)))


def _run(work: Work, model: Path | None, options: TranslateOptions, resolved: ResolvedOptions, rows: range) -> int:
    """Make the strips of some rows of windows."""
    with (
        prepared(work.source, work.out, model=model, options=options, resolved=resolved, opener=_kept_open) as job,
        StripFiles(work.out, job.grid.shape[1], job.manifest, row=job.grid.rows[rows.start]) as strips,
    ):
        stream(job.scene, job.grid, job.encodings, job.engine, strips, rows=rows, ahead=job.ahead)
    return len(rows)


def _end(work: Work, model: Path | None, options: TranslateOptions, resolved: ResolvedOptions) -> Report | _There:
    """Make the mosaic of strips on disk, and those that are damaged or gone once more."""
    began = time.perf_counter()
    if _is_there(work.out, resolved.manifest, options):
        return _There()
    check_outputs(work.source, work.out, options)
    with prepared(work.source, work.out, model=model, options=options, resolved=resolved, opener=_kept_open) as job:
        return execute(job, work.out, options, began=began)


def _is_there(out: Path, manifest: Manifest, options: TranslateOptions) -> bool:
    """Say whether an earlier try has come to its end."""
    return not options.overwrite and run_of(out) == manifest.fingerprint


def _refuse_other_mosaic(out: Path, now: Mapping[str, str], options: TranslateOptions) -> None:
    """Refuse to call a mosaic done that another run has made.

    Raises
    ------
    OutputExists
        Naming the differences.
    """
    tags = {} if options.overwrite else tags_of(out)
    if RUN_TAG in tags:
        raise OutputExists(
            f"{out}: is there, of another run ({'; '.join(differences(tags, now))}): give --overwrite to make it "
            "again, or another folder"
        )


def runs_of(wanted: Sequence[int]) -> Iterator[range]:
    """Cut ascending rows of windows into runs: of neighbours, `UNIT` or more each where there are so many."""
    start = 0
    for k in range(1, len(wanted) + 1):
        if k == len(wanted) or wanted[k] != wanted[k - 1] + 1:
            first, count = wanted[start], k - start
            pieces = max(1, count // UNIT)
            edges = [first + count * piece // pieces for piece in range(pieces + 1)]
            yield from (range(a, b) for a, b in pairwise(edges))
            start = k
