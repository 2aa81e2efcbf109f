"""Rows of windows through an engine to a writer, all stages at once.

::

    reader                 main thread                       streams           writer
    read -> encode   ->    windows -> batches -> submit  ->  engine.run
                           blend (in order)              <-  weight
                           strip                                          ->   decode -> write strip

What is in flight is bounded, so memory is a fixed number of strips, whatever the scene's height.
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
from sar2optical.scene.encoder import Encoding, decode
from sar2optical.scene.scene import SceneSource
from sar2optical.tiling.blend import Blender
from sar2optical.tiling.fill import mirror_invalid
from sar2optical.tiling.windows import WindowGrid

_T = TypeVar("_T")


class Writer(Protocol):
    """Where finished rows go, from top to bottom."""

    def write(self, rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Take uint8 (3, rows, width) and bool (rows, width)."""
        ...


STAGES = ("read", "encode", "infer", "weight", "blend", "write")


@dataclass
class Clock:
    """How long each stage was at work, summed over its threads; safe to use from all of them."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count the time inside for a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self.seconds[stage] += took

    def idle(self, elapsed: float, *, streams: int) -> dict[str, float]:
        """Give the share of the time that each stage's threads waited: the engine and weighing share `streams`."""
        if elapsed <= 0:
            return dict.fromkeys(STAGES, 0.0)
        threads = {"infer": streams, "weight": streams}
        return {stage: max(0.0, 1 - busy / (elapsed * threads.get(stage, 1))) for stage, busy in self.seconds.items()}


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What came of it."""

    windows_run: int
    """Those with a valid pixel."""
    rows: int
    """Rows of windows whose strips are written; fewer than asked for where it was stopped."""


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
class _Placed:
    """A window of a strip."""

    row: int
    col: int
    sar: NDArray[np.float32]
    """(channels, window, window), a view into its strip."""
    valid: NDArray[np.bool_]
    """(window, window), likewise."""


def stream(
    scene: SceneSource,
    grid: WindowGrid,
    encodings: list[Encoding],
    engine: Engine,
    writer: Writer,
    *,
    rows: range | None = None,
    ahead: int = 1,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> Streamed:
    """Take rows of windows through the engine, and their strips to the writer.

    The strips are the same, bit by bit, whichever rows are asked for together: rows of windows above that reach into
    the first strip are run again, and what they give above it is thrown away.

    Parameters
    ----------
    scene, grid, encodings, engine
        Opened; an encoding for each band.
    writer
        Given each strip when it is finished.
    rows
        Of windows, whose strips are wanted; all where None.
    ahead
        Strips that are read before they are needed.
    stop
        Asked before each row of windows: True ends the work with the strip in hand.
    told
        Called with the number of finished pixel rows, from the scene's top.
    clock
        Told how long each stage is at work.

    Raises
    ------
    Sar2OpticalError
        The first that any stage meets; the others stop.
    """
    rows = range(len(grid.rows)) if rows is None else rows
    clock = clock or Clock()
    finisher = _Finisher(grid, writer, rows, told, clock)
    strips = _strips(scene, grid, encodings, engine.signature.channels, range(_warm_up(grid, rows), rows.stop), clock)
    with ThreadPoolExecutor(1, "reader") as reader, finisher:
        windows = _windows(_ahead(strips, reader, ahead), grid, finisher, stop)
        count = _infer(windows, engine, finisher, clock)
    return Streamed(windows_run=count, rows=finisher.rows)


def bytes_in_flight(grid: WindowGrid, *, bands: int, ahead: int, writing: int) -> int:
    """Estimate what `stream` holds at its peak: linear in the scene's width, whatever its height.

    Counted by hand from the arrays below: encoded strips (float32 and validity: the reader's last and next, those
    ahead, the one in use), what is scaled while reading, the sum of the blend, and finished rows (float32 once, being
    decoded, and as bytes with the pyramid's), two strips of them; and as many as `writing` that are being encoded.
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
    """Give the first row of windows that reaches into the first strip wanted."""
    if not rows:
        return rows.stop
    top = grid.rows[rows.start]
    return next((k for k in range(rows.start) if grid.rows[k] + grid.window > top), rows.start)


def _infer(windows: Iterator[_Placed], engine: Engine, finisher: _Finisher, clock: Clock) -> int:
    """Run batches on the engine's streams; hand results on in the windows' order."""

    def run(batch: list[_Placed]) -> list[NDArray[np.float32]]:
        with clock.at("infer"):
            images = engine.run(np.stack([mirror_invalid(placed.sar, placed.valid) for placed in batch]))
        return [finisher.weight(placed.row, placed.col, image) for placed, image in zip(batch, images, strict=True)]

    count = 0
    pending: deque[tuple[list[_Placed], Future[list[NDArray[np.float32]]]]] = deque()

    def collect() -> None:
        batch, future = pending.popleft()
        for placed, weighted in zip(batch, future.result(), strict=True):
            finisher.add(placed.row, placed.col, weighted)

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
            streams.shutdown(cancel_futures=True)  # do not compute what nobody will look at
            raise
    finisher.finish()
    return count


def _strips(
    scene: SceneSource, grid: WindowGrid, encodings: list[Encoding], channels: int, rows: range, clock: Clock
) -> Iterator[_Strip]:
    """Read and encode rows of windows; every row of pixels once."""
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
            fresh = [e.encode(band, usable) for e, band in zip(encodings, values, strict=True)]
            sar = np.concatenate((sar[:, deep - kept :], fresh), axis=1)
            valid = np.concatenate((valid[deep - kept :], usable))
        del values, usable, fresh  # or they are held while the next strip is waited for
        read = start + deep
        missing = (0, window - deep), (0, padded - width)  # of a scene smaller than a window
        shaped = np.pad(sar, ((0, 0), *missing)) if np.any(missing) else sar
        if len(shaped) != channels:
            shaped = np.broadcast_to(shaped, (channels, *shaped.shape[1:]))  # copies of a lone band
        yield _Strip(row, shaped, np.pad(valid, missing) if np.any(missing) else valid)


def _windows(
    strips: Iterator[_Strip], grid: WindowGrid, finisher: _Finisher, stop: Callable[[], bool]
) -> Iterator[_Placed]:
    """Cut strips into windows, leaving out those without a valid pixel."""
    for strip in strips:
        if stop():
            return
        finisher.expect(strip.row, strip.valid)
        columns = np.logical_or.reduce(strip.valid, axis=0)
        for col, start in enumerate(grid.cols):
            if columns[start : start + grid.window].any():
                window = slice(start, start + grid.window)
                yield _Placed(strip.row, col, strip.sar[:, :, window], strip.valid[:, window])


def _ahead(items: Iterator[_T], worker: ThreadPoolExecutor, depth: int) -> Iterator[_T]:
    """Have a worker make the next items while the last one is in use."""
    futures = deque(worker.submit(next, items, None) for _ in range(depth))
    try:
        while (item := futures.popleft().result()) is not None:
            futures.append(worker.submit(next, items, None))
            yield item
    finally:
        for future in futures:
            future.cancel()


class _Finisher:
    """Blends windows as they come, and writes each strip once no window is left to change it."""

    def __init__(
        self, grid: WindowGrid, writer: Writer, rows: range, told: Callable[[int], None] | None, clock: Clock
    ) -> None:
        self.rows = 0
        """Rows of windows whose strips are written."""
        self._grid = grid
        self._blender = Blender(grid)
        self._writer = writer
        self._first = rows.start
        self._told = told
        self._clock = clock
        self._expected: deque[tuple[int, NDArray[np.bool_]]] = deque()
        self._worker = ThreadPoolExecutor(1, "writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> None:
        if self._told:
            self._told(self._grid.rows[self._first] if self._first < len(self._grid.rows) else self._grid.shape[0])

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()

    def expect(self, row: int, valid: NDArray[np.bool_]) -> None:
        """Take note of which pixels of a coming strip are valid."""
        start, stop = self._grid.strip(row)
        strip = valid[: stop - start, : self._grid.shape[1]]
        # Empty strips may come by the hundred between two windows: held as a single False each.
        self._expected.append((row, strip if strip.any() else np.broadcast_to(np.False_, strip.shape)))

    def weight(self, row: int, col: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply a window with its weights: all that blending can do on the streams' threads."""
        with self._clock.at("weight"):
            return self._blender.weight(row, col, image)

    def add(self, row: int, col: int, weighted: NDArray[np.float32]) -> None:
        """Blend a window in; strips above it are done."""
        while self._expected[0][0] < row:
            self._finish_strip()
        if self._writing and self._writing.done():
            self._written()  # what went wrong there is not to be found out a strip later
        with self._clock.at("blend"):
            self._blender.add(col, weighted)

    def finish(self) -> None:
        """Write what is left, and wait until it is written."""
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
        if self._told:
            self._told(self._grid.strip(row)[1])
