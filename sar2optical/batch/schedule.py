"""Schedule scenes on a Dask cluster: submit steps to the workers, collect results, submit what follows.

A scene of many strips is shared among workers in tasks of several strips; a smaller one is translated by one worker.
Workers write strips to the run folder of the mosaic, so all of them must see that folder. The tasks of a lost worker
are executed again by another; strips on disk are kept, and checked before they are used.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sar2optical._utils.addresses import redacted
from sar2optical.batch.work import Outcome, Work
from sar2optical.batch.worker import AlreadyDone, Failed, Shared, attempt, begin, count_strips, end, make_strips
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import Sar2OpticalError
from sar2optical.mosaic.output import cleanup
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.tags import tags_of
from sar2optical.pipeline.job import ResolvedOptions
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.provenance import asked_for, is_as_asked

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Progress", "is_there", "translate_all"]

_RETRIES = 2
"""How often Dask executes a failed step again."""

Progress = Callable[[int, int, int, int], None]
"""Called with the number of finished scenes, of all scenes, of finished strips of shared scenes, and of all these."""


def translate_all(
    client: Client,
    works: Sequence[Work],
    *,
    workers: int,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    on_progress: Progress | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Translate scenes on a cluster's workers, to the same pixels as `translate`.

    A scene that fails does not stop the others. Mosaics that exist are kept (unless `options.overwrite`), so the same
    call resumes an interrupted one; a mosaic that was made with other options or from another scene is a failure.

    Parameters
    ----------
    client, workers
        Dask client and number of workers, see `connected`.
    works
        Scenes and mosaics; all mosaics have different paths.
    model
        Path of the model file, which all workers must see; None: the bundled generator.
    options
        Options of every scene; the preview is that of each work.
    on_progress
        Called after each finished step.
    on_outcome
        Called with the outcome of each scene when it is known.

    Returns
    -------
    list of Outcome
        In the order of `works`.
    """
    return _Schedule(client, works, workers, model, options or TranslateOptions(), on_progress, on_outcome).execute()


@dataclass
class _SharedScene:
    """A scene whose strips several tasks make."""

    resolved: ResolvedOptions
    waiting: int
    """Number of tasks that are not finished."""


@dataclass
class _Schedule:
    """State of one call of `translate_all`: submitted steps, and outcomes."""

    client: Client
    works: Sequence[Work]
    workers: int
    model: Path | None
    options: TranslateOptions
    on_progress: Progress | None
    on_outcome: Callable[[Outcome], None] | None
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _shared: dict[int, _SharedScene] = field(default_factory=dict)
    _futures: dict[Future, tuple[int, str]] = field(default_factory=dict)
    """Index of the scene, and the step, of each submitted step."""
    _strips: list[int] = field(default_factory=lambda: [0, 0])
    """Finished strips of shared scenes, and all their strips."""

    def execute(self) -> list[Outcome]:
        """Submit steps, and take their results, until every scene has an outcome."""
        from distributed import as_completed

        left = deque(range(len(self.works)))
        running = as_completed()
        try:
            while True:
                # Only as many as keep the workers busy: there may be ten thousand.
                while left and self._scenes_running() < 2 * self.workers:
                    self._begin(left.popleft(), running)
                if not self._futures:
                    break
                future = next(running)
                if future in self._futures:  # otherwise it was cancelled
                    self._take(future, running)
                self._report_progress()
        finally:
            self.client.cancel(list(self._futures))
        return [self._outcomes[k] for k in range(len(self.works))]

    def _scenes_running(self) -> int:
        return len({k for k, _ in self._futures.values()})

    def _submit(self, running: Any, k: int, step: str, function: Callable[..., Any], *args: Any) -> None:
        # Earlier scenes first, so that few are half finished at any time.
        future = self.client.submit(
            attempt, function, self.works[k], self.model, *args, pure=False, retries=_RETRIES, priority=-k
        )
        self._futures[future] = (k, step)
        running.add(future)

    def _begin(self, k: int, running: Any) -> None:
        work = self.works[k]
        if os.path.lexists(work.out) and not self.options.overwrite:
            cleanup(work.out)
            if is_there(work, self.model, self.options):
                self._close(k, Outcome(work=work, state="there"))
                return
        self._submit(running, k, "begin", begin, replace(self.options, preview=work.preview), self.workers > 1)

    def _take(self, future: Future, running: Any) -> None:
        """Take the result of a step, and submit what follows from it."""
        k, step = self._futures.pop(future)
        work = self.works[k]
        error = _error_of(future)
        result = None if error else future.result()
        if isinstance(result, Failed):
            error = result.message
        if error:
            self._cancel(k)
            self._close(k, Outcome(work=work, state="failed", error=error))
        elif isinstance(result, AlreadyDone):
            self._close(k, Outcome(work=work, state="there"))
        elif isinstance(result, Report):
            self._close(k, Outcome(work=work, state="done", report=result))
        elif isinstance(result, Shared):
            self._shared[k] = _SharedScene(result.resolved, len(result.tasks))
            self._strips[1] += sum(count_strips(rows, self.options.blocksize) for rows in result.tasks)
            for rows in result.tasks:
                self._submit(running, k, "strips", make_strips, self._later_options(k), result.resolved, rows)
            if not result.tasks:
                self._submit(running, k, "end", end, self._later_options(k), result.resolved)
        elif step == "strips":
            shared = self._shared[k]
            shared.waiting -= 1
            self._strips[0] += result or 0
            if shared.waiting == 0:
                self._submit(running, k, "end", end, self._later_options(k), shared.resolved)

    def _later_options(self, k: int) -> TranslateOptions:
        """Return the options of the steps after the first: that one has removed the strips if `restart` is set."""
        return replace(self.options, preview=self.works[k].preview, restart=False)

    def _cancel(self, k: int) -> None:
        """Cancel all submitted steps of a scene."""
        others = [future for future, (which, _) in self._futures.items() if which == k]
        for future in others:
            del self._futures[future]
        self.client.cancel(others)

    def _close(self, k: int, outcome: Outcome) -> None:
        self._outcomes[k] = outcome
        if self.on_outcome:
            self.on_outcome(outcome)

    def _report_progress(self) -> None:
        if self.on_progress:
            self.on_progress(len(self._outcomes), len(self.works), *self._strips)


def is_there(work: Work, model: Path | None, options: TranslateOptions) -> bool:
    """Return whether the tags of an existing mosaic show that it needs no work.

    False if its tags do not settle it: a worker then reads the scene. True for a file that no run has made.
    """
    tags = tags_of(work.out)
    if RUN_TAG not in tags:
        return True
    return is_as_asked(tags, work.source, asked_for(work.source, variants(model or bundled()), options))


def _error_of(future: Future) -> str:
    """Return why a step failed; empty if it did not."""
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        return ""
    error = future.exception() if future.status == "error" else None
    if isinstance(error, KilledWorker):
        return "its workers were killed repeatedly, perhaps out of memory: give --max-memory, or fewer --workers"
    if isinstance(error, Sar2OpticalError):
        return str(error)
    return redacted(f"{type(error).__name__}: {error}") if error else f"{future.status} by the scheduler"
