"""Stream a scene through an engine on a device.

::

    readers          main thread: queues work for the device, waits for nothing            writer
    read, pack  ->   up, encode -> windows, fill -> engine -> blend -> decode, down  ->    wait, write

The main thread runs ahead of the device by a few rows of windows. Pixels are those of `sar2optical.pipeline.stream`
within one level: logarithms and sums round differently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical._utils.masks import all_true
from sar2optical.engines.tensors import TensorEngine
from sar2optical.pipeline.device.blend import Blender
from sar2optical.pipeline.device.bus import Bus, Fetched
from sar2optical.pipeline.device.encode import encode
from sar2optical.pipeline.device.fill import mirror_invalid
from sar2optical.pipeline.flow import Clock, Streamed, Writer, rows_of_piece, rows_of_windows
from sar2optical.pipeline.job import Job

__all__ = ["DeviceStream"]

_QUEUED = 6
"""Rows of windows that are queued for the device or being written, at most; fewer where memory is limited."""
_FILLED_AT_ONCE = 16
"""Windows that are filled together."""


@dataclass(frozen=True)
class _Read:
    """Rows of the scene on the host, ready to be copied."""

    start: int
    values: torch.Tensor
    """(bands, rows, width) as stored: uint16 or float32."""
    valid: NDArray[np.bool_]
    """(rows, width)."""
    bits: torch.Tensor | None
    """uint8: `valid`, 8 pixels a byte, row by row; None: all pixels are valid."""


@dataclass(frozen=True)
class _Piece:
    """Rows of the scene on the device."""

    start: int
    encoded: torch.Tensor
    """float32 (bands, rows, width)."""
    usable: torch.Tensor | None
    """bool (rows, width) on the device; None: all pixels are valid."""
    valid: NDArray[np.bool_]
    """(rows, width) on the host."""

    @property
    def stop(self) -> int:
        return self.start + len(self.valid)

    def part(self, start: int, stop: int) -> slice:
        """Return which of its rows are among rows of the scene."""
        return slice(max(start - self.start, 0), max(stop - self.start, 0))


@dataclass(frozen=True)
class _Done:
    """A row of windows on its way back."""

    start: int
    rgb: Fetched
    finite: Fetched
    valid: NDArray[np.bool_]
    began: torch.cuda.Event | None


class DeviceStream:
    """One run of `sar2optical.pipeline.stream.stream` on the engine's device; its parameters are described there."""

    def __init__(
        self,
        job: Job,
        writer: Writer,
        *,
        rows: tuple[int, int],
        stop: Callable[[], bool],
        on_progress: Callable[[int], None] | None,
        clock: Clock,
    ) -> None:
        if not isinstance(job.engine, TensorEngine):
            raise TypeError(f"{job.engine} takes no tensors: give an engine on a GPU")
        self._job, self._engine, self._writer = job, job.engine, writer
        self._rows, self._stop, self._on_progress, self._clock = rows, stop, on_progress, clock
        self._grid = job.grid
        self.row = rows[0]
        """Past-the-last row of pixels that is written."""
        self.bus = Bus(self._engine.tensor_device)
        """The copies of the run."""
        self._tall = rows_of_piece(job.scene)

    def run(self) -> Streamed:
        """Stream the rows."""
        if self._on_progress:
            self._on_progress(self.row)
        wanted = rows_of_windows(self._grid, self._rows)
        readers = min(self._job.scene.readers, self._job.ahead)
        count = 0
        with (
            ThreadPoolExecutor(readers, "reader") as reading,
            ThreadPoolExecutor(1, "writer") as writing,
            self._on_stream(),
            torch.inference_mode(),
        ):
            queued: deque[Future[None]] = deque()
            try:
                for done, windows in self._computed(wanted, reading, ahead=self._job.ahead):
                    count += windows
                    queued.append(writing.submit(self._write, done))
                    while len(queued) > min(_QUEUED, self._job.ahead + 1) or (queued and queued[0].done()):
                        queued.popleft().result()
                for future in queued:
                    future.result()
            except BaseException:
                reading.shutdown(wait=False, cancel_futures=True)
                writing.shutdown(cancel_futures=True)
                raise
        self._clock.moved = (self.bus.up, self.bus.down)
        return Streamed(windows_run=count, row=self.row)

    def _on_stream(self) -> AbstractContextManager[object]:
        device = self._engine.tensor_device
        if device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def _computed(
        self, wanted: Sequence[int], reading: ThreadPoolExecutor, *, ahead: int
    ) -> Iterator[tuple[_Done, int]]:
        """Queue the work of each row of windows; yield it, and how many windows it runs."""
        grid = self._grid
        blender = Blender(grid, self._engine.tensor_device)
        pieces: deque[_Piece] = deque()
        coming = self._read_ahead(wanted, reading, ahead)
        for row in wanted:
            if self._stop():
                return
            began = self.bus.mark()
            top, bottom = grid.rows[row], min(grid.rows[row] + grid.window, grid.shape[0])
            while pieces and pieces[0].stop <= top:
                pieces.popleft()
            while not pieces or pieces[-1].stop < bottom:
                read = next(coming)
                with self._clock.at("encode"):
                    pieces.append(self._uploaded(read))
            valid = self._valid(pieces, top, bottom)
            held = range(len(grid.cols)) if all_true(valid) else self._columns(valid.any(axis=0))
            cols = self._job.needs(row, held)
            finite = torch.ones((), dtype=torch.bool, device=self._engine.tensor_device)
            with self._clock.at("infer"):
                if cols:
                    finite = self._run(row, cols, pieces, valid, blender)
            with self._clock.at("blend"):
                rgb = self.bus.fetch(blender.finish(row))
                start, stop = grid.strip(row)
                done = _Done(start, rgb, self.bus.fetch(finite), valid[: stop - start], began)
            yield done, len(cols)

    def _valid(self, pieces: Sequence[_Piece], top: int, bottom: int) -> NDArray[np.bool_]:
        """Return which pixels of some rows are valid, bool (rows, width)."""
        if all(piece.usable is None for piece in pieces):
            return np.broadcast_to(np.True_, (bottom - top, self._grid.shape[1]))  # needs no memory
        return np.concatenate([piece.valid[piece.part(top, bottom)] for piece in pieces])

    def _columns(self, flags: Any) -> list[int]:
        """Return the windows that have a flagged column; `flags` are bool (width,)."""
        counted = np.concatenate(([0], np.cumsum(flags)))
        stops = [min(start + self._grid.window, len(flags)) for start in self._grid.cols]
        return [k for k, (a, b) in enumerate(zip(self._grid.cols, stops, strict=True)) if counted[b] > counted[a]]

    def _run(
        self, row: int, cols: list[int], pieces: Sequence[_Piece], valid: NDArray[np.bool_], blender: Blender
    ) -> torch.Tensor:
        """Run windows of one row; return whether all of their pixels are finite."""
        engine, side = self._engine, self._grid.window
        top, bottom = self._grid.rows[row], self._grid.rows[row] + side
        band = torch.cat([piece.encoded[:, piece.part(top, bottom)] for piece in pieces], dim=1)
        usable = None
        if not all_true(valid) or min(self._grid.shape) < side:
            usable = torch.cat([self._usable(piece, top, bottom) for piece in pieces])
            missing = (0, self._grid.padded_width - usable.shape[1], 0, side - len(usable))
            band, usable = torch.nn.functional.pad(band, missing), torch.nn.functional.pad(usable, missing)
        # A slice where it can be: an index from the host would wait for the device.
        some = slice(cols[0], cols[-1] + 1) if len(cols) == cols[-1] + 1 - cols[0] else cols
        columns = blender.layout.columns[some].flatten()
        windows = band.index_select(2, columns).view(*band.shape[:2], len(cols), side).permute(2, 0, 1, 3)
        if usable is not None:
            windows = self._filled(windows, usable, cols, valid)
        if len(self._job.encodings) != engine.signature.channels:
            windows = windows.expand(-1, engine.signature.channels, -1, -1)
        run = torch.empty((3, side, len(cols), side), device=band.device)
        for first in range(0, len(cols), engine.batch):
            batch = slice(first, first + engine.batch)
            run[:, :, batch].copy_(engine.run_tensors(windows[batch]).permute(1, 2, 0, 3))
        images = run
        if len(cols) < len(self._grid.cols):
            images = torch.zeros((3, side, len(self._grid.cols), side), device=band.device)
            images[:, :, some] = run
        images = images.flatten(2)
        blender.add(row, images)
        return images.sum().isfinite()  # NaN and infinity stay in a sum

    def _filled(
        self, windows: torch.Tensor, usable: torch.Tensor, cols: list[int], valid: NDArray[np.bool_]
    ) -> torch.Tensor:
        """Fill the invalid pixels of windows that have some."""
        side = self._grid.window
        invalid = np.ones(self._grid.padded_width, np.bool_)
        invalid[: valid.shape[1]] = ~valid.all(axis=0) if len(valid) == side else True
        holed = set(self._columns(invalid))
        places = [k for k, col in enumerate(cols) if col in holed]
        windows = windows.contiguous()
        for first in range(0, len(places), _FILLED_AT_ONCE):  # it needs 30 times the memory of the windows
            some = places[first : first + _FILLED_AT_ONCE]
            sides = [slice(self._grid.cols[cols[k]], self._grid.cols[cols[k]] + side) for k in some]
            windows[some] = mirror_invalid(windows[some], torch.stack([usable[:, across] for across in sides]))
        return windows

    def _usable(self, piece: _Piece, top: int, bottom: int) -> torch.Tensor:
        part = piece.part(top, bottom)
        if piece.usable is not None:
            return piece.usable[part]
        return torch.ones(piece.encoded[0, part].shape, dtype=torch.bool, device=piece.encoded.device)

    def _read_ahead(self, wanted: Sequence[int], reading: ThreadPoolExecutor, ahead: int) -> Iterator[_Read]:
        """Read the pieces that rows of windows need, in order, some of them ahead."""
        if not wanted:
            return
        last = min(self._grid.rows[wanted[-1]] + self._grid.window, self._grid.shape[0])
        numbers = iter(range(self._grid.rows[wanted[0]] // self._tall, -(-last // self._tall)))
        coming = deque(reading.submit(self._read, number) for number in islice(numbers, ahead))
        try:
            while coming:
                read = coming.popleft().result()
                coming.extend(reading.submit(self._read, number) for number in islice(numbers, 1))
                yield read
        finally:
            for future in coming:
                future.cancel()

    def _read(self, number: int) -> _Read:
        start = number * self._tall
        stop = min(start + self._tall, self._grid.shape[0])
        with self._clock.at("read"):
            values, valid = self._job.scene.read_stored(start, stop)
            plain = self._job.scene.dtype == np.uint16
            host = self.bus.host(values.shape, torch.uint16 if plain else torch.float32)
            np.copyto(host.numpy(), values, casting="unsafe")
            if valid.all():
                return _Read(start, host, np.broadcast_to(np.True_, valid.shape), None)
            packed = np.packbits(valid)
            bits = self.bus.host(packed.shape, torch.uint8)
            bits.numpy()[...] = packed
            return _Read(start, host, valid, bits)

    def _uploaded(self, read: _Read) -> _Piece:
        usable = None
        if read.bits is not None:
            bits = self.bus.to_device(read.bits)
            shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
            unpacked = (bits[:, None] >> shifts) & 1
            usable = unpacked.flatten()[: read.valid.size].view(read.valid.shape).bool()
        encoded = encode(self._job.encodings, self.bus.to_device(read.values), usable)
        return _Piece(read.start, encoded, usable, read.valid)

    def _write(self, done: _Done) -> None:
        rgb, finite = done.rgb.array(), done.finite.array()
        if done.began is not None and done.finite.done is not None:
            self._clock.device += done.began.elapsed_time(done.finite.done) / 1000
        if not finite:
            raise self._engine.not_finite()
        wanted = slice(max(self._rows[0] - done.start, 0), max(self._rows[1] - done.start, 0))
        valid = done.valid[wanted]
        if not len(valid):
            return
        with self._clock.at("write"):
            self._writer.write(rgb[:, wanted], valid)
        self.row += len(valid)
        if self._on_progress:
            self._on_progress(self.row)
