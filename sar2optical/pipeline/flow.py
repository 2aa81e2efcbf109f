"""Parts that both ways of streaming share: stages and their clock, destination of rows, choice of windows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sar2optical.scene.scene import SceneSource
from sar2optical.tiling.windows import WindowGrid

__all__ = ["PIECE", "STAGES", "Clock", "Streamed", "Writer", "rows_of_piece", "rows_of_windows"]

PIECE = 256
"""Rows that are read at a time: half a row of blocks in most tiled files."""


class Writer(Protocol):
    """Destination of finished rows, from top to bottom."""

    def write(self, rgb: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Write the next rows: (bands, rows, width) as `Job.decoding` stores them, and bool (rows, width)."""
        ...


_TALLEST = 1024  # rows of blocks; taller ones do not lie side by side in a row of pixels

STAGES = ("read", "encode", "infer", "weight", "blend", "write")
"""Names of the stages, in the order of the data. On a device, those from encode to blend queue its work, and weight
is part of blend; the time of the device itself is `Clock.device`."""


@dataclass
class Clock:
    """Time that each stage was at work, summed over its threads; thread-safe."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    device: float = 0.0
    """Seconds that a GPU was at work, by its own clock."""
    moved: tuple[int, int] = (0, 0)
    """Bytes to the GPU, and from it."""
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
        """Return the share of the time that each stage's threads waited; `streams` of them encode, infer, weight."""
        if elapsed <= 0:
            return dict.fromkeys(STAGES, 0.0)
        threads = dict.fromkeys(("encode", "infer", "weight"), streams)
        return {stage: max(0.0, 1 - busy / (elapsed * threads.get(stage, 1))) for stage, busy in self.seconds.items()}


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Result of `stream`."""

    windows_run: int
    """Windows with a valid pixel."""
    row: int
    """Past-the-last row of pixels that is written; less than wanted if the run was stopped."""


def rows_of_piece(scene: SceneSource) -> int:
    """Return the rows that are read at a time: whole blocks where several threads read, each to be decoded once."""
    block = scene.block[0]
    if scene.readers == 1 or PIECE % block == 0 or block > _TALLEST:
        return PIECE
    return block * -(-PIECE // block)


def rows_of_windows(grid: WindowGrid, rows: tuple[int, int]) -> list[int]:
    """Return the rows of windows that reach into some rows of pixels."""
    if rows[0] >= rows[1]:
        return []
    return [k for k, top in enumerate(grid.rows) if top + grid.window > rows[0] and top < rows[1]]
