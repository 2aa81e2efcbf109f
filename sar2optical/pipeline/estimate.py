"""Estimate a run before it starts: windows, memory, disk and time, from a short measured run on the scene."""

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
from sar2optical.mosaic.coding import BlockCoding, compressed
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.overviews import mask_out
from sar2optical.mosaic.run_folder import refuse_other_run, run_folder_of
from sar2optical.mosaic.strip_files import StripFiles
from sar2optical.mosaic.strip_store import bytes_of_store
from sar2optical.mosaic.writer import coding_of
from sar2optical.pipeline.job import Job, engine_threads
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import check_outputs, prepared
from sar2optical.pipeline.remote_output import local_path
from sar2optical.pipeline.stream import bytes_in_flight
from sar2optical.scene.encoder import encode_bands, to_input
from sar2optical.scene.remote import is_remote
from sar2optical.scene.sources import Source
from sar2optical.tiling.fill import mirror_invalid

__all__ = ["Estimate", "Sample", "estimate", "measure", "refuse_full_disk"]

_ROWS = 4
"""Rows of windows that the measured run takes windows from, evenly over the scene."""

_PIXELS = 8 * 256 * 256
"""Pixels of windows in each of these rows, at least one window."""

_SECONDS = 5.0
"""Seconds after which the measured run takes no further row of windows."""

_OTHER_STAGES = 1.1
"""Time of all stages over that of the engine alone: 1.05 to 1.2 were measured."""

_OVERVIEWS = 4 / 3
"""Pixels of an image with all its overviews, over those of the image."""

_MOSAIC_RATE = 400e6
"""Bytes per second of assembling a mosaic: strips are read, checked and written once more."""

_MOST_GROWTH = 3.2 / 3
"""Most bytes of a pixel in a strip, over those of its bands: what blocks that cannot be compressed cost."""

_CHUNK_ROWS = 512
_LEAST_SHARE = 0.8
"""Share of the estimated disk space that must be free: an estimate may be too high."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Result of a short measured run."""

    windows_per_second: float
    """Rate of the engine with all its streams; nan if no window has a valid pixel."""
    bytes_per_pixel: float
    """Size of a strip in bytes for each valid pixel."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do and need."""

    windows: int
    """Windows of the scene."""
    windows_run: int
    """Windows that would go through the engine."""
    rows_kept: int
    """Pixel rows that an interrupted run has finished."""
    window: int
    """Height and width of the windows."""
    memory: int
    """Peak memory in bytes, engine included."""
    strips: int
    """Size of the strips and their overviews on disk during the run, in bytes."""
    mosaic: int
    """Size of the output in bytes."""
    free: int
    """Free space in bytes in the output's folder."""
    seconds: float
    """Seconds from the first window to the last strip."""
    seconds_mosaic: float
    """Seconds for assembling the output."""
    engine: str
    """Backend, precision and device."""

    @property
    def windows_skipped(self) -> int:
        """Windows without a valid pixel, or of rows that are finished."""
        return self.windows - self.windows_run


def estimate(
    src: Source, out: str | Path, *, model: Path | None = None, options: TranslateOptions | None = None
) -> Estimate:
    """Estimate what `translate` would do and need; write no mosaic and no strip.

    Reads the whole scene once, and runs a few of its windows.

    Raises
    ------
    Sar2OpticalError
        See `sar2optical.pipeline.run.translate`; OutputUnwritable if the disk cannot hold the mosaic.
    """
    options = options or TranslateOptions()
    out = local_path(str(out), options) if is_remote(out) else Path(out)
    check_outputs(src, out, options)
    with prepared(src, out, model=model, options=options) as job:
        job.writer(out, options)  # refuses an output that it cannot write
        found = _estimate(job, out, options, rows_kept=_rows_kept(job, out, options))
    _refuse_too_little(out, strips=found.strips, mosaic=found.mosaic)
    return found


def _rows_kept(job: Job, out: Path, options: TranslateOptions) -> int:
    """Count the rows that a run would resume from."""
    if options.restart:
        return 0
    refuse_other_run(out, job.manifest)
    if Manifest.read(run_folder_of(out)) != job.manifest:
        return 0
    return StripFiles(out, job.shape, job.manifest, coding=coding_of(out, job.coding(options))).rows()


def _estimate(job: Job, out: Path, options: TranslateOptions, *, rows_kept: int) -> Estimate:
    grid = job.grid
    rows, pixels = _count(job)
    run = int(sum(rows[k] for k, top in enumerate(grid.rows) if top + grid.window > rows_kept + job.top))
    found = measure(job, coding_of(out, job.coding(options)))
    strips = round(found.bytes_per_pixel * pixels * _OVERVIEWS)
    in_flight = bytes_in_flight(grid, job.scene, job.decoding, ahead=job.ahead)
    stored = bytes_of_store(job.shape, job.coding(options), threads=engine_threads(options))
    return Estimate(
        windows=job.windows,
        windows_run=run if rows_kept < job.shape[0] else 0,
        rows_kept=rows_kept,
        window=grid.window,
        memory=resident_bytes() + job.cache + in_flight + stored,
        strips=strips,
        mosaic=strips,
        free=_free_beside(out),
        seconds=_OTHER_STAGES * run / found.windows_per_second if run else 0.0,
        seconds_mosaic=strips / _MOSAIC_RATE,
        engine=str(job.engine),
    )


def measure(job: Job, coding: BlockCoding) -> Sample:
    """Run a few windows of a scene through the engine, and compress them as in a strip."""
    count, elapsed, size, valid = 0, 0.0, 0, 0
    infer = _runner(job.engine)
    for row in sorted({len(job.grid.rows) * (2 * k + 1) // (2 * _ROWS) for k in range(_ROWS)}):
        sars, masks = _windows_of(job, row)
        if not sars:
            continue
        began = time.perf_counter()
        images = infer(sars)
        elapsed += time.perf_counter() - began
        count += len(sars)
        for image, mask in zip(images, masks, strict=True):
            rows = slice(0, coding.blocksize)
            blocks = compressed(
                mask_out(job.decoding.decode(job.decoding.chosen(image)[:, rows]), mask[rows]), coding
            ).blocks
            size += sum(len(data) for block in blocks for data in block)
            valid += int(np.count_nonzero(mask[rows]))
        if elapsed > _SECONDS:
            break
    if not count:
        return Sample(windows_per_second=math.nan, bytes_per_pixel=0.0)
    return Sample(windows_per_second=count / elapsed, bytes_per_pixel=size / max(valid, 1))


def refuse_full_disk(job: Job, coding: BlockCoding, out: Path, *, on_disk: int) -> None:
    """Refuse a run whose strips and mosaic the disk cannot hold, before it starts.

    Windows are measured only where the disk may be too small.

    Parameters
    ----------
    job
        Its scene's sampled values give the share of valid pixels.
    coding
        Compression of the strips.
    out
        Path of the mosaic.
    on_disk
        Size of the strips that exist already, in bytes.

    Raises
    ------
    OutputUnwritable
        If clearly less is free.
    """
    pixels = math.prod(job.shape) * _OVERVIEWS
    if _free_beside(out) >= 2 * _MOST_GROWTH * job.decoding.pixel_bytes * pixels:
        return
    strips = measure(job, coding).bytes_per_pixel * pixels * job.scene.estimate_valid_share()
    _refuse_too_little(out, strips=strips, mosaic=strips, on_disk=on_disk)


def _refuse_too_little(out: Path, *, strips: float, mosaic: float, on_disk: int = 0) -> None:
    free = _free_beside(out)
    if free < _LEAST_SHARE * (strips + mosaic - on_disk):
        raise OutputUnwritable(
            f"cannot write {out}: strips need about {strips / 1e6:.0f} MB and the mosaic {mosaic / 1e6:.0f} MB, but "
            f"only {free / 1e6:.0f} MB are free: free some space, or choose another folder"
        )


def _free_beside(out: Path) -> int:
    return shutil.disk_usage(out.resolve().parent).free


def _count(job: Job) -> tuple[NDArray[np.int64], int]:
    """Count the windows to run in each row of windows, and the valid pixels of the mosaic."""
    grid = job.grid
    height, width = grid.shape
    above, below = job.top, job.top + job.shape[0]
    met = np.zeros((height, len(grid.cols)), np.bool_)
    pixels = 0
    for start in range(0, height, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, height)
        _, valid = job.scene.read_rows(start, stop)
        first = max(start, above)
        if first < min(stop, below):
            pixels += int(np.count_nonzero(job.visible(first, valid[first - start : below - start])))
        for k, col in enumerate(grid.cols):
            met[start:stop, k] = valid[:, col : min(col + grid.window, width)].any(axis=1)
    runs = [np.flatnonzero(met[row : row + grid.window].any(axis=0)) for row in grid.rows]
    return np.array([len(job.needs(k, cols)) for k, cols in enumerate(runs)]), pixels


def _windows_of(job: Job, row: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """Return some windows of one row with valid pixels, as the engine takes them, and which pixels are valid."""
    grid, channels = job.grid, job.engine.signature.channels
    window = grid.window
    rows = grid.rows[row], min(grid.rows[row] + window, grid.shape[0])
    wanted = max(1, _PIXELS // window**2)
    sars, masks = [], []
    cols = [grid.cols[col] for col in job.needs(row, range(len(grid.cols)))]
    for col in cols[len(cols) // wanted // 2 :: max(1, len(cols) // wanted)]:
        values, mask = job.scene.read(rows, (col, min(col + window, grid.shape[1])))
        if not mask.any():
            continue
        sar = encode_bands(job.encodings, values, mask)
        sar, mask = to_input(sar, mask, shape=(window, window), channels=channels)
        sars.append(mirror_invalid(np.ascontiguousarray(sar), mask))
        masks.append(mask)
    return sars, masks


def _runner(engine: Engine) -> Callable[[list[NDArray[np.float32]]], list[NDArray[np.float32]]]:
    """Return a function that runs windows on all streams of an engine."""

    def infer(sar: NDArray[np.float32]) -> NDArray[np.float32]:
        return engine.run(sar, [(0, 0)] * len(sar))  # the time does not depend on the place

    def run(sars: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        batches = [np.stack(sars[k : k + engine.batch]) for k in range(0, len(sars), engine.batch)]
        with ThreadPoolExecutor(engine.streams) as streams:
            return [image for images in streams.map(infer, batches) for image in images]

    return run
