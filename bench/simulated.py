"""Simulated scenes of benches, drawn by all cores and kept in a folder."""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio

from bench.harness import say
from sar2optical._utils.cores import usable_cores
from sar2optical.testing import SimulatedScene, write_scene
from sar2optical.testing.simulate import BLOCK

__all__ = ["Size", "simulated_scene"]

Size = tuple[int, int]
"""Height and width."""

_WORTH_PROCESSES = 2048 * 2048  # pixels: starting processes takes a second


def simulated_scene(folder: Path, size: Size) -> Path:
    """Return the path of a simulated scene without a border; written if the folder does not have it."""
    path = folder / f"scene-{size[0]}x{size[1]}.tif"
    if path.exists():
        return path
    say(f"simulating {path.name}")
    folder.mkdir(parents=True, exist_ok=True)
    cores, scene = usable_cores(), SimulatedScene(height=size[0], width=size[1], border=False)
    with rasterio.Env(GDAL_NUM_THREADS=str(cores)):
        if cores == 1 or size[0] * size[1] < _WORTH_PROCESSES:
            write_scene(path, scene)
            return path
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
            starts = deque(range(0, size[0], BLOCK))
            ahead = _Ahead(height=size[0], width=size[1], border=False, pool=pool, starts=starts, most=2 * cores)
            write_scene(path, ahead)
    return path


@dataclass(frozen=True, kw_only=True)
class _Ahead(SimulatedScene):
    """A scene whose strips other processes draw before they are written."""

    pool: ProcessPoolExecutor
    starts: deque[int]
    """First rows of the strips that are not begun."""
    most: int
    """Strips to draw ahead."""
    coming: deque[Future[Any]] = field(default_factory=deque)

    def rows(self, start: int, stop: int) -> Any:
        """Return the next strip: rows are asked for from top to bottom."""
        while self.starts and len(self.coming) < self.most:
            first = self.starts.popleft()
            last = min(first + BLOCK, self.height)
            plain = SimulatedScene(height=self.height, width=self.width, seed=self.seed, border=self.border)
            self.coming.append(self.pool.submit(plain.rows, first, last))
        strip = self.coming.popleft().result()
        assert len(strip) == stop - start, "write_scene asks for strips of BLOCK rows, from the top"
        return strip
