"""Reduced levels of a raster without overviews: computed once, in the background, kept in a temporary file each."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.files import cause
from sar2optical.errors import Sar2OpticalError

__all__ = ["TILE", "Floats", "Pyramid", "Reader", "Span", "chunks_of", "halved", "level_shapes"]

TILE = 256
"""Side of a tile in pixels; the last level fits into one."""

DIRECT = 1
"""Last level that is computed from the raster for each tile: a tile of it has 512 x 512 pixels of the raster."""

_CHUNK = 1_000_000
"""Pixels that are read at a time in the background."""

Floats: TypeAlias = NDArray[np.float32]
Span: TypeAlias = tuple[int, int]
Reader: TypeAlias = Callable[[Span, Span], Floats]
"""Reads rows and columns (first and past-the-last) as float32 (bands, rows, columns), NaN where invalid."""

_log = logging.getLogger(__name__)


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of all levels, each half of the one before, rounded up, until one tile holds it."""
    shapes = [shape]
    while max(shapes[-1]) > TILE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halved(values: Floats) -> Floats:
    """Average blocks of 2 x 2 pixels: float32 (bands, h, w) to (bands, h / 2, w / 2), sides rounded up.

    NaN is left out; a block without any value is NaN.
    """
    _, height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=np.nan)
    four = [values[:, top::2, left::2] for top in (0, 1) for left in (0, 1)]
    total = (four[0] + four[1] + four[2] + four[3]) * np.float32(0.25)
    if np.isnan(total).any():
        known = sum((~np.isnan(one)).astype(np.float32) for one in four)
        summed = sum(np.nan_to_num(one, nan=0.0, posinf=np.inf, neginf=-np.inf) for one in four)
        with np.errstate(invalid="ignore"):
            return np.asarray(summed / known, np.float32)  # 0 / 0 is NaN
    return np.asarray(total, np.float32)


def chunks_of(shape: tuple[int, int], block: tuple[int, int], step: int) -> Iterator[tuple[Span, Span]]:
    """Divide a raster into rectangles of about a million pixels that follow its blocks.

    Parameters
    ----------
    shape, block
        Height and width of the raster, and of its blocks.
    step
        Rows and columns are multiples of it, except at the end.
    """
    height, width = shape
    wide = width if block[1] * 2 > width else max(1, 2048 // block[1]) * block[1]
    wide = min(-(-wide // step) * step, width)
    rows = max(_CHUNK // wide, 1)
    tall = max(rows // block[0] * block[0], min(block[0], rows) if block[0] > rows else block[0])
    tall = -(-tall // step) * step
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield (top, min(top + tall, height)), (left, min(left + wide, width))


class Pyramid:
    """Levels of a raster; level k has one pixel for 2^k x 2^k of the raster.

    A pixel is the average of the valid ones of the four below it. Up to `DIRECT` it is computed when it is read;
    higher levels are computed once by `build`, and read from a temporary file. A context manager.

    Parameters
    ----------
    read
        Reads the raster. Called by several threads, at most `readers` of them at a time.
    bands, shape, block
        Number of bands; height and width of the raster, and of its blocks.
    readers
        Threads that may read the raster at the same time.
    """

    def __init__(
        self, read: Reader, *, bands: int, shape: tuple[int, int], block: tuple[int, int], readers: int
    ) -> None:
        self._read = read
        self._bands = bands
        self._block = block
        self._turn = threading.BoundedSemaphore(readers)
        self.shapes = level_shapes(shape)
        """Height and width of each level."""
        self.progress = 0.0
        """Share of the levels that is computed, 0 to 1."""
        self.error = ""
        """Why they could not be computed; empty where they could."""
        self._stopped = threading.Event()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Pyramid:
        if len(self.shapes) > DIRECT + 1:
            self._folder = tempfile.TemporaryDirectory(prefix="sar2opt-view-", ignore_cleanup_errors=True)
        else:
            self.progress = 1.0
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()
        if self._folder:
            self._folder.cleanup()

    def start(self) -> None:
        """Compute the levels in a thread; later calls have no effect."""
        if self._thread or self.progress == 1:
            return
        self._thread = threading.Thread(target=self._build_quietly, name="pyramid", daemon=True)
        self._thread.start()

    def has(self, level: int) -> bool:
        """Return whether a level can be read now."""
        return level <= DIRECT or self.progress == 1

    def read(self, level: int, rows: Span, cols: Span) -> Floats:
        """Read a rectangle of a level that `has` it: float32 (bands, rows, columns), NaN where invalid."""
        if level > DIRECT:
            return np.array(self._stored(level)[:, slice(*rows), slice(*cols)])
        height, width = self.shapes[0]
        scale = 2**level
        with self._turn:
            values = self._read(
                (rows[0] * scale, min(rows[1] * scale, height)), (cols[0] * scale, min(cols[1] * scale, width))
            )
        for _ in range(level):
            values = halved(values)
        return values

    def build(self) -> None:
        """Compute all levels above `DIRECT`; returns early where the pyramid is closed.

        Raises
        ------
        SceneUnreadable
            If a part of the raster cannot be read.
        OSError
            If the disk of temporary files is full.
        """
        first, scale = DIRECT + 1, 2 ** (DIRECT + 1)
        if len(self.shapes) <= first:
            return
        done = 0
        for rows, cols in chunks_of(self.shapes[0], self._block, scale):
            if self._stopped.is_set():
                return
            with self._turn:
                values = self._read(rows, cols)
            for _ in range(first):
                values = halved(values)
            self._put(first, rows[0] // scale, cols[0] // scale, values)
            done += (rows[1] - rows[0]) * (cols[1] - cols[0])
            self.progress = 0.95 * done / math.prod(self.shapes[0])
        for level in range(first + 1, len(self.shapes)):
            below = self.shapes[level - 1]
            for (top, bottom), _ in chunks_of(below, (1, below[1]), 2):
                if self._stopped.is_set():
                    return
                self._put(level, top // 2, 0, halved(self.read(level - 1, (top, bottom), (0, below[1]))))
        self.progress = 1.0

    def _build_quietly(self) -> None:
        try:
            self.build()
        except (Sar2OpticalError, OSError) as error:
            self.error = str(error) if isinstance(error, Sar2OpticalError) else cause(error)
            _log.warning("no overview: %s", self.error)

    def _put(self, level: int, top: int, left: int, values: Floats) -> None:
        _, height, width = values.shape
        stored = self._stored(level, writable=True)
        stored[:, top : top + height, left : left + width] = values
        stored.flush()

    def _stored(self, level: int, *, writable: bool = False) -> np.memmap[tuple[int, ...], np.dtype[np.float32]]:
        """Map a level's file for one access: pages that stay mapped would count as memory of this process."""
        assert self._folder is not None
        path = Path(self._folder.name) / f"{level}.f32"
        shape = (self._bands, *self.shapes[level])
        mode = "r" if not writable else "r+" if path.exists() else "w+"
        return np.memmap(path, np.float32, mode, shape=shape)  # type: ignore[call-overload, no-any-return]
