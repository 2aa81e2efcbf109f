"""Stream a scene through an engine to a writer: reading, inference and writing overlap.

::

    reader                 main thread                       streams           writer
    read -> encode   ->    windows -> batches -> submit  ->  engine.run
                           blend (in order)              <-  weight
                           strip                                          ->   decode -> write strip

Queues are bounded: memory is a fixed number of strips, whatever the scene's height.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sar2optical.engines import Engine
from sar2optical.pipeline.job import Job
from sar2optical.scene.encoder import decode, encode_bands, to_input
from sar2optical.tiling.blend import Blender
from sar2optical.tiling.fill import mirror_invalid
from sar2optical.tiling.windows import WindowGrid

__all__ = ["STAGES", "Clock", "Streamed", "Writer", "bytes_in_flight", "stream"]

_T = TypeVar("_T")


class Writer(Protocol):
    """Destination of finished rows, from top to bottom."""

    def write(self, rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Write the next rows: uint8 (3, rows, width) and bool (rows, width)."""
        ...


STAGES = ("read", "encode", "infer", "weight", "blend", "write")
"""Names of the stages, in the order of the data."""


@dataclass
class Clock:
    """Time that each stage was at work, summed over its threads; thread-safe."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self.seconds[stage] += took

    def idle(self, elapsed: float, *, streams: int) -> dict[str, float]:
        """Return the share of the time that each stage's threads waited; the engine and weights share `streams`."""
        if elapsed <= 0:
            return dict.fromkeys(STAGES, 0.0)
        threads = {"infer": streams, "weight": streams}
        return {stage: max(0.0, 1 - busy / (elapsed * threads.get(stage, 1))) for stage, busy in self.seconds.items()}


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Result of `stream`."""

    windows_run: int
    """Windows with a valid pixel."""
    rows: int
    """Rows of windows whose strips are written; fewer than wanted if the run was stopped."""


@dataclass(frozen=True)
class _Strip:
    """One row of windows, ready for the model."""

    row: int
    """Index of the row of windows."""
    sar: NDArray[np.float32]
    """(channels, window, padded width) in [-1, 1]."""
    valid: NDArray[np.bool_]
    """(window, padded width); padding is not valid."""


@dataclass(frozen=True)
class _Window:
    """One window of a strip."""

    row: int
    col: int
    sar: NDArray[np.float32]
    """(channels, window, window), a view into its strip."""
    valid: NDArray[np.bool_]
    """(window, window), likewise."""


def stream(
    job: Job,
    writer: Writer,
    *,
    rows: range | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> Streamed:
    """Run rows of windows through the engine, and write their strips.

    The strips do not depend on which rows are run together, to the bit: rows of windows above that reach into the
    first strip are run again, and their other pixels are dropped.

    Parameters
    ----------
    job
        Scene, grid, encodings and engine.
    writer
        Gets each strip when it is finished.
    rows
        Rows of windows whose strips are wanted; all by default.
    stop
        Called before each row of windows. If it returns True, the current strip is the last one.
    on_progress
        Called with the number of finished pixel rows, counted from the scene's top.
    clock
        Collects how long each stage is at work.

    Raises
    ------
    Sar2OpticalError
        The first error of any stage; the other stages stop.
    """
    grid = job.grid
    rows = range(len(grid.rows)) if rows is None else rows
    clock = clock or Clock()
    finisher = _Finisher(grid, writer, rows, on_progress, clock)
    strips = _strips(job, range(_warm_up(grid, rows), rows.stop), clock)
    with ThreadPoolExecutor(1, "reader") as reader, finisher:
        windows = _windows(_ahead(strips, reader, job.ahead), grid, finisher, stop)
        count = _infer(windows, job.engine, finisher, clock)
    return Streamed(windows_run=count, rows=finisher.rows)


def bytes_in_flight(grid: WindowGrid, *, bands: int, ahead: int, writing: int) -> int:
    """Estimate the peak memory of `stream` in bytes: linear in the scene's width, whatever its height.

    Sum of the arrays below: encoded strips (float32 and valid: the reader's last and next, those ahead, the one in
    use), scratch space of reading, the sum of the blend, and finished rows (float32, then bytes with the overviews),
    two strips of them; and `writing` strips that are being encoded.
    """
    wide = grid.padded_width
    stride = grid.window - grid.overlap
    encoded = (4 * bands + 1) * grid.window * wide
    read = 4 * 3 * bands * grid.window * wide
    blended = 12 * grid.window * wide
    finished = 2 * 12 * stride * wide + 12 * stride * wide + 3 * 4 * (stride + 128) * wide
    finished += writing * 3 * 4 * stride * wide  # with what they are encoded to, twice
    return (3 + ahead) * encoded + read + blended + finished


def _warm_up(grid: WindowGrid, rows: range) -> int:
    """Return the first row of windows that reaches into the first wanted strip."""
    if not rows:
        return rows.stop
    top = grid.rows[rows.start]
    return next((k for k in range(rows.start) if grid.rows[k] + grid.window > top), rows.start)


def _infer(windows: Iterator[_Window], engine: Engine, finisher: _Finisher, clock: Clock) -> int:
    """Run batches on the engine's streams; pass the results on in the order of the windows."""

    def run(batch: list[_Window]) -> list[NDArray[np.float32]]:
        with clock.at("infer"):
            images = engine.run(np.stack([mirror_invalid(window.sar, window.valid) for window in batch]))
        return [finisher.weight(window.row, window.col, image) for window, image in zip(batch, images, strict=True)]

    count = 0
    pending: deque[tuple[list[_Window], Future[list[NDArray[np.float32]]]]] = deque()

    def collect() -> None:
        batch, future = pending.popleft()
        for window, weighted in zip(batch, future.result(), strict=True):
            finisher.add(window.row, window.col, weighted)

    with ThreadPoolExecutor(engine.streams, "stream") as streams:
        try:
            while batch := list(islice(windows, engine.batch)):
                count += len(batch)
                pending.append((batch, streams.submit(run, batch)))
                if len(pending) > 2 * engine.streams:  # one in work and one waiting for each stream
                    collect()
            while pending:
                collect()
        except BaseException:
            streams.shutdown(cancel_futures=True)  # their results would be dropped
            raise
    finisher.finish()
    return count


def _strips(job: Job, rows: range, clock: Clock) -> Iterator[_Strip]:
    """Read and encode rows of windows; every row of pixels once."""
    scene, grid, encodings, channels = job.scene, job.grid, job.encodings, job.engine.signature.channels
    height, width = scene.shape
    window, padded = grid.window, grid.padded_width
    deep = min(window, height)
    sar = np.empty((len(encodings), deep, width), np.float32)
    valid: NDArray[np.bool_] = np.zeros((deep, width), dtype=np.bool_)
    read = 0
    for row in rows:
        start = grid.rows[row]
        kept = max(read - start, 0)  # rows that the last strip has read already
        with clock.at("read"):
            values, usable = scene.read_rows(start + kept, start + deep)
        with clock.at("encode"):
            fresh = encode_bands(encodings, values, usable)
            sar = np.concatenate((sar[:, deep - kept :], fresh), axis=1)
            valid = np.concatenate((valid[deep - kept :], usable))
        del values, usable, fresh  # or they are held while the next strip is waited for
        read = start + deep
        yield _Strip(row, *to_input(sar, valid, shape=(window, padded), channels=channels))


def _windows(
    strips: Iterator[_Strip], grid: WindowGrid, finisher: _Finisher, stop: Callable[[], bool]
) -> Iterator[_Window]:
    """Cut strips into windows; skip those without a valid pixel."""
    for strip in strips:
        if stop():
            return
        finisher.expect(strip.row, strip.valid)
        columns = np.logical_or.reduce(strip.valid, axis=0)
        for col, start in enumerate(grid.cols):
            if columns[start : start + grid.window].any():
                across = slice(start, start + grid.window)
                yield _Window(strip.row, col, strip.sar[:, :, across], strip.valid[:, across])


def _ahead(items: Iterator[_T], worker: ThreadPoolExecutor, depth: int) -> Iterator[_T]:
    """Compute the next items in a worker while the current one is in use."""
    futures = deque(worker.submit(next, items, None) for _ in range(depth))
    try:
        while (item := futures.popleft().result()) is not None:
            futures.append(worker.submit(next, items, None))
            yield item
    finally:
        for future in futures:
            future.cancel()


class _Finisher:
    """Blends windows as they come, and writes each strip when no later window can change it."""

    def __init__(
        self, grid: WindowGrid, writer: Writer, rows: range, on_progress: Callable[[int], None] | None, clock: Clock
    ) -> None:
        self.rows = 0
        """Rows of windows whose strips are written."""
        self._grid = grid
        self._blender = Blender(grid)
        self._writer = writer
        self._first = rows.start
        self._on_progress = on_progress
        self._clock = clock
        self._expected: deque[tuple[int, NDArray[np.bool_]]] = deque()
        self._worker = ThreadPoolExecutor(1, "writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> None:
        if self._on_progress:
            self._on_progress(
                self._grid.rows[self._first] if self._first < len(self._grid.rows) else self._grid.shape[0]
            )

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()

    def expect(self, row: int, valid: NDArray[np.bool_]) -> None:
        """Store which pixels of the next strip are valid."""
        start, stop = self._grid.strip(row)
        strip = valid[: stop - start, : self._grid.shape[1]]
        # Hundreds of empty strips may lie between two windows: one False stands for each.
        self._expected.append((row, strip if strip.any() else np.broadcast_to(np.False_, strip.shape)))

    def weight(self, row: int, col: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply a window by its weights: the part of blending that can run on the streams' threads."""
        with self._clock.at("weight"):
            return self._blender.weight(row, col, image)

    def add(self, row: int, col: int, weighted: NDArray[np.float32]) -> None:
        """Add a window to the blend; strips above it are finished."""
        while self._expected[0][0] < row:
            self._finish_strip()
        if self._writing and self._writing.done():
            self._written()  # raise its error now, not one strip later
        with self._clock.at("blend"):
            self._blender.add(col, weighted)

    def finish(self) -> None:
        """Write the remaining strips, and wait for them."""
        while self._expected:
            self._finish_strip()
        self._written()

    def _finish_strip(self) -> None:
        row, valid = self._expected.popleft()
        with self._clock.at("blend"):
            image = self._blender.finish(row)
        self._written()
        if row >= self._first:
            self._writing = self._worker.submit(self._write, row, image, valid)

    def _written(self) -> None:
        if self._writing:
            self._writing.result()
            self._writing = None

    def _write(self, row: int, image: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        with self._clock.at("write"):
            self._writer.write(decode(image), valid)
        self.rows += 1
        if self._on_progress:
            self._on_progress(self._grid.strip(row)[1])
