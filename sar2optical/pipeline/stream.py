"""Stream a scene through an engine to a writer: reading, inference and writing overlap.

::

    reader                 main thread                       streams           writer
    read             ->    windows -> batches -> submit  ->  encode, fill, engine.run
                           add (in order)                <-  decode, or weight
                           strip                                          ->   decode sums -> write

A scene is read in pieces of a fixed number of rows, each once. Queues are bounded: memory is a fixed number of rows,
whatever the scene's height.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.engines import Engine
from sar2optical.pipeline.cutting import CutWriter, from_top
from sar2optical.pipeline.flow import Clock, Streamed, Writer, rows_of_piece, rows_of_windows
from sar2optical.pipeline.job import Job
from sar2optical.scene.decoding import RGB, Decoding
from sar2optical.scene.encoder import Encoding
from sar2optical.scene.scene import SceneSource
from sar2optical.tiling.blend import Blender, Finished, Weighted
from sar2optical.tiling.fill import mirror_invalid
from sar2optical.tiling.windows import WindowGrid

__all__ = ["bytes_in_flight", "stream"]


@dataclass(frozen=True)
class _Piece:
    """Rows of the scene. They are encoded window by window: integers need half of the memory before."""

    start: int
    """First row."""
    values: NDArray[Any]
    """(bands, rows, width) in the scene's unit and type."""
    valid: NDArray[np.bool_]
    """(rows, width)."""
    all_valid: bool

    def part(self, start: int, stop: int) -> slice:
        """Return which of its rows are among rows of the scene."""
        return slice(max(start - self.start, 0), max(stop - self.start, 0))


@dataclass(frozen=True)
class _Window:
    """One window: where it is, and the pieces that hold its pixels."""

    row: int
    col: int
    top: int
    left: int
    pieces: tuple[_Piece, ...]

    def cut(self, encodings: Sequence[Encoding], out: NDArray[np.float32]) -> None:
        """Encode its pixels to float32 (channels, window, window), a lone band to all channels; fill invalid ones."""
        side = out.shape[1]
        across = slice(self.left, min(self.left + side, self.pieces[0].valid.shape[1]))
        columns = across.stop - across.start
        valid = None if all(piece.all_valid for piece in self.pieces) else np.zeros((side, side), np.bool_)
        height = 0
        for piece in self.pieces:
            rows = piece.part(self.top, self.top + side)
            usable = piece.valid[rows, across]
            place = slice(height, height + len(usable)), slice(0, columns)
            for encoding, band, target in zip(encodings, piece.values, out, strict=False):
                values = band[rows, across].astype(np.float32, copy=False)
                encoding.encode(values, None if piece.all_valid else usable, target[place])
            if valid is not None:
                valid[place] = usable
            height += len(usable)
        if (height, columns) != (side, side):
            out[:, height:] = 0
            out[:, :, columns:] = 0
            if valid is None:
                valid = np.zeros((side, side), np.bool_)
                valid[:height, :columns] = True
        out[len(encodings) :] = out[0]
        if valid is not None:
            out[...] = mirror_invalid(out, valid)


def stream(
    job: Job,
    writer: Writer,
    *,
    rows: tuple[int, int] | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> Streamed:
    """Run the windows of some rows of pixels through the engine, and write these rows.

    Pixels do not depend on which rows are run together, to the bit: windows that reach into the first rows from above
    are run again, and their other pixels are dropped.

    Parameters
    ----------
    job
        Scene, grid, encodings and engine.
    writer
        Gets rows when they are finished.
    rows
        First and past-the-last row of the mosaic; all by default.
    stop
        Called before each row of windows. If it returns True, the rows that are finished then are the last ones.
    on_progress
        Called with the number of finished rows, counted from the mosaic's top.
    clock
        Collects how long each stage is at work.

    Raises
    ------
    Sar2OpticalError
        The first error of any stage; the other stages stop.
    """
    grid = job.grid
    first, last = (0, job.shape[0]) if rows is None else rows
    rows = first + job.top, last + job.top
    clock = clock or Clock()
    if job.cut:
        writer, on_progress = CutWriter(job, writer, rows[0]), from_top(job, on_progress)
    if job.decoding == RGB and job.engine.signature.is_version_1 and takes_device_path(job.engine):
        from sar2optical.pipeline.device.stream import DeviceStream

        done = DeviceStream(job, writer, rows=rows, stop=stop, on_progress=on_progress, clock=clock).run()
        return replace(done, row=done.row - job.top)
    finisher = _Finisher(job, writer, rows, on_progress, clock)
    wanted = rows_of_windows(grid, rows)
    with ThreadPoolExecutor(min(job.scene.readers, job.ahead), "reader") as reader, finisher:
        windows = _windows(job, wanted, reader, finisher, clock, stop)
        count = _infer(windows, job, finisher, clock)
    return Streamed(windows_run=count, row=finisher.row - job.top)


def takes_device_path(engine: Engine) -> bool:
    """Return whether pixels stay on the engine's device from encoding to decoding: on a GPU that takes tensors."""
    device = getattr(engine, "tensor_device", None)
    return device is not None and device.type == "cuda"


def bytes_in_flight(grid: WindowGrid, scene: SceneSource, decoding: Decoding, *, ahead: int) -> int:
    """Estimate the peak memory of `stream` in bytes: linear in the scene's width, whatever its height.

    Sum of: pieces (values of all bands, and valid: those of a row of windows, and those ahead), scratch space of
    reading, sums of the blend, and finished rows (as stored, float32 where rows of windows overlap), of three rows
    of windows.
    """
    wide, tall = grid.padded_width, rows_of_piece(scene)
    height = min(grid.window, grid.shape[0])
    overlap = max([a + grid.window - b for a, b in zip(grid.rows, grid.rows[1:], strict=False)], default=0)
    bytes_per_pixel = len(scene.polarisations) * scene.dtype.itemsize
    pieces = (bytes_per_pixel + 1) * (height + (2 + ahead) * tall) * wide
    read = min(scene.readers, ahead) * 4 * 3 * tall * wide
    blended = 4 * len(decoding.bands) * 4 * overlap * wide
    finished = 3 * (decoding.pixel_bytes + 1) * height * wide
    return pieces + read + blended + finished


def _infer(windows: Iterator[_Window], job: Job, finisher: _Finisher, clock: Clock) -> int:
    """Run batches on the engine's streams; pass the results on in the order of the windows."""
    engine, encodings, decoding = job.engine, job.encodings, job.decoding
    shape = (engine.signature.channels, engine.window, engine.window)

    def run(batch: list[_Window]) -> list[Weighted]:
        with clock.at("encode"):
            sar = np.empty((len(batch), *shape), np.float32)
            for window, out in zip(batch, sar, strict=True):
                window.cut(encodings, out)
        with clock.at("infer"):
            images = engine.run(sar, [job.place(window.top, window.left) for window in batch])
        return [
            finisher.weight(window.row, window.col, decoding.chosen(image))
            for window, image in zip(batch, images, strict=True)
        ]

    count = 0
    pending: deque[tuple[list[_Window], Future[list[Weighted]]]] = deque()

    def collect() -> None:
        batch, future = pending.popleft()
        for window, weighted in zip(batch, future.result(), strict=True):
            finisher.add(window.row, weighted)

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


def _windows(
    job: Job,
    wanted: Sequence[int],
    reader: ThreadPoolExecutor,
    finisher: _Finisher,
    clock: Clock,
    stop: Callable[[], bool],
) -> Iterator[_Window]:
    """Read the scene ahead, and yield the windows of the wanted rows of windows that have a valid pixel."""
    grid = job.grid
    height = grid.shape[0]
    if not wanted:
        return
    tall = rows_of_piece(job.scene)
    first = grid.rows[wanted[0]] // tall
    last = -(-min(grid.rows[wanted[-1]] + grid.window, height) // tall)
    starts = iter(range(first * tall, last * tall, tall))
    coming = deque(reader.submit(_read, job, start, tall, clock) for start in islice(starts, job.ahead))
    pieces: deque[_Piece] = deque()
    try:
        for row in wanted:
            if stop():
                return
            top = grid.rows[row]
            bottom = min(top + grid.window, height)
            while pieces and pieces[0].start + len(pieces[0].valid) <= top:
                pieces.popleft()
            while not pieces or pieces[-1].start + len(pieces[-1].valid) < bottom:
                pieces.append(coming.popleft().result())
                coming.extend(reader.submit(_read, job, start, tall, clock) for start in islice(starts, 1))
            finisher.expect(row, pieces)
            columns = _valid_columns(pieces, top, bottom)
            for col in job.needs(row, range(len(grid.cols))):
                left = grid.cols[col]
                if columns[left : left + grid.window].any():
                    yield _Window(row, col, top, left, tuple(pieces))
    finally:
        for future in coming:
            future.cancel()


def _read(job: Job, start: int, tall: int, clock: Clock) -> _Piece:
    """Read a piece of the scene. Pieces do not depend on the windows: values are those of any run."""
    stop = min(start + tall, job.grid.shape[0])
    with clock.at("read"):
        values, valid = job.scene.read_stored(start, stop)
        all_valid = bool(valid.all())
        if all_valid:
            valid = np.broadcast_to(np.True_, valid.shape)  # needs no memory
        return _Piece(start, values.astype(job.scene.dtype, copy=False), valid, all_valid)


def _valid_columns(pieces: Iterable[_Piece], top: int, bottom: int) -> NDArray[np.bool_]:
    """Return which columns have a valid pixel in some rows."""
    found = [
        np.ones(piece.valid.shape[1], np.bool_)
        if piece.all_valid
        else np.logical_or.reduce(piece.valid[piece.part(top, bottom)], axis=0)
        for piece in pieces
    ]
    columns: NDArray[np.bool_] = np.logical_or.reduce(found)
    return columns


class _Finisher:
    """Blends windows as they come, and writes rows when no later window can change them."""

    def __init__(
        self,
        job: Job,
        writer: Writer,
        rows: tuple[int, int],
        on_progress: Callable[[int], None] | None,
        clock: Clock,
    ) -> None:
        self.row = rows[0]
        """Past-the-last row of pixels that is written."""
        decoding = job.decoding
        self._grid = job.grid
        self._blender = Blender(job.grid, len(decoding.bands), convert=decoding.decode, dtype=decoding.dtype)
        self._writer = writer
        self._rows = rows
        self._on_progress = on_progress
        self._clock = clock
        self._expected: deque[tuple[int, NDArray[np.bool_]]] = deque()
        self._worker = ThreadPoolExecutor(1, "writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> None:
        if self._on_progress:
            self._on_progress(self.row)

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()

    def expect(self, row: int, pieces: Collection[_Piece]) -> None:
        """Store which pixels of the next row of windows are valid."""
        start, stop = self._grid.strip(row)
        if all(piece.all_valid for piece in pieces):
            strip = np.broadcast_to(np.True_, (stop - start, self._grid.shape[1]))
        else:
            strip = np.concatenate([piece.valid[piece.part(start, stop)] for piece in pieces])
            if not strip.any():  # hundreds of empty strips may lie between two windows
                strip = np.broadcast_to(np.False_, strip.shape)
        self._expected.append((row, strip))
        self._blender.begin(row)

    def weight(self, row: int, col: int, image: NDArray[np.float32]) -> Weighted:
        """Decode and weight a window: the part of blending that can run on the streams' threads."""
        with self._clock.at("weight"):
            return self._blender.weight(row, col, image)

    def add(self, row: int, weighted: Weighted) -> None:
        """Add a window to the blend; rows of windows above it are finished."""
        while self._expected[0][0] < row:
            self._finish_strip()
        if self._writing and self._writing.done():
            self._written()  # raise its error now, not one strip later
        with self._clock.at("blend"):
            self._blender.add(weighted)

    def finish(self) -> None:
        """Write the remaining strips, and wait for them."""
        while self._expected:
            self._finish_strip()
        self._written()

    def _finish_strip(self) -> None:
        row, valid = self._expected.popleft()
        with self._clock.at("blend"):
            finished = self._blender.finish(row)
        self._written()
        start, stop = self._grid.strip(row)
        if stop > self._rows[0] and start < self._rows[1]:
            self._writing = self._worker.submit(self._write, start, finished, valid)

    def _written(self) -> None:
        if self._writing:
            self._writing.result()
            self._writing = None

    def _write(self, start: int, finished: Finished, valid: NDArray[np.bool_]) -> None:
        with self._clock.at("write"):
            wanted = slice(max(self._rows[0] - start, 0), self._rows[1] - start)
            rgb, usable = finished.image()[:, wanted], valid[wanted]
            self._writer.write(rgb, usable)
        self.row += len(usable)
        if self._on_progress:
            self._on_progress(self.row)
