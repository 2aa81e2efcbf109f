"""Before a run: how many windows, how much memory and disk, how long; from a short measured run on the scene."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.memory import resident_bytes
from sar2optical.engines import Engine
from sar2optical.errors import OutputUnwritable
from sar2optical.mosaic.overviews import mask_out
from sar2optical.mosaic.strips import encoded_strip
from sar2optical.pipeline.stream import bytes_in_flight
from sar2optical.scene.encoder import Encoding, decode
from sar2optical.scene.scene import SceneSource
from sar2optical.tiling.fill import mirror_invalid
from sar2optical.tiling.windows import WindowGrid

_ROWS = 4
"""Rows of windows that the measured run takes some from, evenly over the scene."""

_PER_ROW = 8
"""Windows of each of them."""

_SECONDS = 5.0
"""The measured run ends with the row of windows in which as much time has passed."""

_OTHER_STAGES = 1.1
"""Time of all stages over that of the engine alone: 1.05 to 1.2 were measured."""

_OVERVIEWS = 4 / 3
"""Pixels of an image and all its halvings, over those of the image."""

_MOSAIC = 1.0
"""Size of a mosaic (DEFLATE) over that of its strips (ZSTD 1): 0.9 to 1.0 were measured."""

_MOSAIC_RATE = 12e6
"""Pixels a second and thread that go from strips into the mosaic, measured on a 2.5 GHz core."""

_CHUNK_ROWS = 512
_SURE = 0.8
"""A run is refused where less than this share of the estimate is free: an estimate may be too high."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a few windows of a scene told."""

    windows_per_second: float
    """Of the engine, all streams at work; nan where no window has a valid pixel."""
    bytes_per_pixel: float
    """Of a strip, for each valid pixel."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take."""

    windows: int
    windows_run: int
    """Those that will go through the engine."""
    rows_kept: int
    """Pixel rows that an interrupted run has finished."""
    memory: int
    """Bytes at the peak, engine included."""
    strips: int
    """Bytes on disk while it runs, overviews included."""
    mosaic: int
    """Bytes of the output."""
    free: int
    """Bytes, where the output goes."""
    seconds: float
    """From the first window to the last strip."""
    seconds_mosaic: float
    """Assembling the output."""
    engine: str

    @property
    def windows_skipped(self) -> int:
        """Windows without a valid pixel, or of rows that are finished."""
        return self.windows - self.windows_run


def forecast(
    scene: SceneSource,
    grid: WindowGrid,
    encodings: list[Encoding],
    engine: Engine,
    out: Path,
    *,
    ahead: int,
    cache: int,
    writing: int,
    threads: int,
    rows_kept: int,
) -> Estimate:
    """Count windows, measure some, and reckon; reads the whole scene once.

    Parameters
    ----------
    scene, grid, encodings, engine
        Opened.
    out
        Where the mosaic goes.
    ahead, cache, writing, threads
        Strips to read before they are needed, bytes of GDAL's cache, strips on their way to the disk, and threads
        that assemble the mosaic.
    rows_kept
        Pixel rows that are finished.
    """
    rows, pixels = _count(scene, grid)
    first = grid.rows.index(rows_kept) if rows_kept in grid.rows else len(grid.rows)
    run = int(rows[first:].sum())
    found = sample(scene, grid, encodings, engine)
    strips = round(found.bytes_per_pixel * pixels * _OVERVIEWS)
    return Estimate(
        windows=len(grid),
        windows_run=run,
        rows_kept=rows_kept,
        memory=resident_bytes() + cache + bytes_in_flight(grid, bands=len(encodings), ahead=ahead, writing=writing),
        strips=strips,
        mosaic=round(strips * _MOSAIC),
        free=free_beside(out),
        seconds=_OTHER_STAGES * run / found.windows_per_second if run else 0.0,
        seconds_mosaic=math.prod(grid.shape) / (_MOSAIC_RATE * threads),
        engine=str(engine),
    )


def sample(scene: SceneSource, grid: WindowGrid, encodings: list[Encoding], engine: Engine) -> Sample:
    """Take a few windows of a scene through the engine and into a strip."""
    count, elapsed, size, valid = 0, 0.0, 0, 0
    infer = _runner(engine)
    for row in sorted({len(grid.rows) * (2 * k + 1) // (2 * _ROWS) for k in range(_ROWS)}):
        sars, masks = _windows_of(scene, grid, encodings, engine.signature.channels, row)
        if not sars:
            continue
        began = time.perf_counter()
        images = infer(sars)
        elapsed += time.perf_counter() - began
        count += len(sars)
        usable = np.concatenate(masks, axis=1)
        size += len(encoded_strip(mask_out(decode(np.concatenate(images, axis=2)), usable)))
        valid += int(np.count_nonzero(usable))
        if elapsed > _SECONDS:
            break
    if not count:
        return Sample(windows_per_second=math.nan, bytes_per_pixel=0.0)
    return Sample(windows_per_second=count / elapsed, bytes_per_pixel=size / valid)


def refuse_full_disk(scene: SceneSource, grid: WindowGrid, found: Sample, out: Path, *, on_disk: int) -> None:
    """Refuse a run whose strips and mosaic the disk cannot hold, before it is begun.

    Parameters
    ----------
    scene, grid
        The scene's sampled values tell about how many pixels are valid.
    found
        Of `sample`.
    out
        Where the mosaic goes.
    on_disk
        Bytes of strips that are there already.

    Raises
    ------
    OutputUnwritable
        Where clearly less is free.
    """
    strips = found.bytes_per_pixel * math.prod(grid.shape) * scene.estimate_valid_share() * _OVERVIEWS
    refuse_too_little(out, strips=strips, mosaic=strips * _MOSAIC, on_disk=on_disk)


def refuse_too_little(out: Path, *, strips: float, mosaic: float, on_disk: int = 0) -> None:
    """Refuse where so much clearly does not fit; see `refuse_full_disk`."""
    free = free_beside(out)
    if free < _SURE * (strips + mosaic - on_disk):
        raise OutputUnwritable(
            f"cannot write {out}: strips take about {strips / 1e6:.0f} MB and the mosaic {mosaic / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free there; free some space, or choose another folder"
        )


def free_beside(out: Path) -> int:
    """Bytes that are free where an output goes."""
    return shutil.disk_usage(out.resolve().parent).free


def _count(scene: SceneSource, grid: WindowGrid) -> tuple[NDArray[np.int64], int]:
    """Count windows with a valid pixel in each row of windows, and all valid pixels."""
    height, width = grid.shape
    met = np.zeros((height, len(grid.cols)), np.bool_)
    pixels = 0
    for start in range(0, height, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, height)
        _, valid = scene.read_rows(start, stop)
        pixels += int(np.count_nonzero(valid))
        for k, col in enumerate(grid.cols):
            met[start:stop, k] = valid[:, col : min(col + grid.window, width)].any(axis=1)
    return np.array([met[row : row + grid.window].any(axis=0).sum() for row in grid.rows]), pixels


def _windows_of(
    scene: SceneSource, grid: WindowGrid, encodings: list[Encoding], channels: int, row: int
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """Give some windows with valid pixels of one row, as the engine takes them, and their validity."""
    start, window = grid.rows[row], grid.window
    stop = min(start + window, grid.shape[0])
    values, valid = scene.read_rows(start, stop)
    sars, masks = [], []
    for col in grid.cols[:: max(1, len(grid.cols) // _PER_ROW)]:
        across = slice(col, col + window)
        mask = valid[:, across]
        if not mask.any():
            continue
        sar = np.stack([e.encode(band[:, across], mask) for e, band in zip(encodings, values, strict=True)])
        short = (0, window - mask.shape[0]), (0, window - mask.shape[1])
        sar, mask = np.pad(sar, ((0, 0), *short)), np.pad(mask, short)
        sars.append(mirror_invalid(np.ascontiguousarray(np.broadcast_to(sar, (channels, window, window))), mask))
        masks.append(mask)
    return sars, masks


def _runner(engine: Engine) -> Callable[[list[NDArray[np.float32]]], list[NDArray[np.float32]]]:
    """Give what runs windows on all of an engine's streams."""

    def run(sars: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        batches = [np.stack(sars[k : k + engine.batch]) for k in range(0, len(sars), engine.batch)]
        with ThreadPoolExecutor(engine.streams) as streams:
            return [image for images in streams.map(engine.run, batches) for image in images]

    return run
