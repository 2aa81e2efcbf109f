"""Translate a scene into a mosaic. Ties input, engine and output together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.addresses import redacted
from sar2optical._utils.memory import peak_bytes
from sar2optical.errors import Interrupted, Sar2OpticalError
from sar2optical.mosaic.coding import BlockCoding
from sar2optical.mosaic.run_folder import run_folder_of
from sar2optical.mosaic.writer import MosaicWriter, coding_of
from sar2optical.pipeline import estimate
from sar2optical.pipeline.flow import Clock
from sar2optical.pipeline.job import Job
from sar2optical.pipeline.options import OnProgress, Report, TranslateOptions
from sar2optical.pipeline.prepare import check_outputs, prepared
from sar2optical.pipeline.provenance import library_versions
from sar2optical.pipeline.remote_output import output_on_disk
from sar2optical.pipeline.stream import stream
from sar2optical.scene.sources import Source, log_contents
from sar2optical.tiling.seams import SeamTally

__all__ = ["execute", "translate"]

_MEASURED_FROM = 40e6  # pixels: a longer run first measures what it will write to disk

_log = logging.getLogger(__name__)


def translate(
    src: Source,
    out: str | Path,
    *,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Translate a SAR raster into an RGB mosaic of the same shape and georeference.

    A run that ends early leaves its strips in `OUT.parts`. The next run with the same scene, model and options
    resumes from them, and gives the same pixels.

    Parameters
    ----------
    src
        Anything that GDAL opens, also on a server (`https://`, `s3://`), or a Sentinel-1 product; or
        the files of several polarisations. Read only.
    out
        `.tif` (a cloud-optimized GeoTIFF), `.png` or `.jpg`. Written atomically. An output on a server (`s3://`) is
        made in the user's cache folder, then uploaded.
    model
        `.onnx` file with a signature, `.pth` checkpoint or TensorRT plan; the bundled generator by default.
    options
        See `TranslateOptions`.
    on_progress
        Called as strips are finished.
    stop
        Called now and then. If it returns True, the current strip is finished and `Interrupted` is raised.

    Returns
    -------
    Report

    Raises
    ------
    Sar2OpticalError
        A subclass for each failure that the user can correct, see `sar2optical.errors`. A note says which strips
        are kept.
    """
    began = time.perf_counter()
    options = options or TranslateOptions()
    log_contents(src)
    with output_on_disk(out, options) as (local, local_options):
        check_outputs(src, local, local_options)
        with prepared(src, local, model=model, options=local_options) as job:
            report = execute(job, local, local_options, on_progress=on_progress, stop=stop)
    return replace(report, out=redacted(out), seconds=time.perf_counter() - began)


def execute(
    job: Job,
    out: Path,
    options: TranslateOptions,
    *,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Make the mosaic of a prepared job; see `translate`. The report's `seconds` exclude the preparation."""
    began = time.perf_counter()
    clock = Clock()
    report_rows = _row_progress(on_progress, job.shape)
    with job.writer(out, options) as writer, _noting_kept_rows(writer, out):
        kept = writer.resume(partial(report_rows, "check"))
        _check_disk(job, kept, out, writer, coding_of(out, job.coding(options)))
        seams = SeamTally() if options.seams else None
        started = time.perf_counter()
        streamed = stream(
            job,
            _WithSeams(writer, seams) if seams else writer,
            rows=(kept, job.shape[0]),
            stop=stop,
            on_progress=partial(report_rows, "translate"),
            clock=clock,
        )
        if streamed.row < job.shape[0]:
            raise Interrupted(f"{out}: stopped on request")
        finished = time.perf_counter()
        report_rows("mosaic", 0)
        _finish(writer, options)
        report_rows("mosaic", job.shape[0])
    ended = time.perf_counter()
    return Report(
        out=str(out),
        shape=job.shape,
        windows=job.windows,
        windows_run=streamed.windows_run,
        rows_kept=kept,
        seconds_windows=finished - started,
        seconds_mosaic=ended - finished,
        seconds=ended - began,
        busy=clock.seconds,
        idle=clock.idle(finished - started, streams=job.engine.streams),
        gpu_busy=clock.device,
        moved=clock.moved,
        peak_memory=peak_bytes(),
        seam_score=_seam_score(seams, job),
        **_provenance_of(job),
    )


def _provenance_of(job: Job) -> dict[str, Any]:
    return {
        "engine": str(job.engine),
        "model": job.engine.signature.name,
        "unit": job.tags["SAR2OPTICAL_UNITS"],
        "stretch": job.tags["SAR2OPTICAL_STRETCH"],
        "manifest": job.manifest.entries,
        "versions": library_versions(job.engine),
    }


def _check_disk(job: Job, kept: int, out: Path, writer: MosaicWriter, coding: BlockCoding) -> None:
    """Log where a run resumes; fail where the disk cannot hold a long run."""
    height = job.shape[0]
    if kept:
        _log.info("%s: resuming at row %d of %d, from %s", out.name, kept, height, run_folder_of(out).name)
    if math.prod(job.shape) >= _MEASURED_FROM and kept < height:
        estimate.refuse_full_disk(job, coding, out, on_disk=writer.bytes_of_strips)


class _WithSeams:
    """A writer that also collects the steps that the seam score needs."""

    def __init__(self, writer: MosaicWriter, seams: SeamTally) -> None:
        self._writer = writer
        self._seams = seams

    def write(self, rgb: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        self._seams.add(rgb, valid)
        self._writer.write(rgb, valid)


def _seam_score(seams: SeamTally | None, job: Job) -> float | None:
    grid, left = job.grid, job.cut.cols[0] if job.cut else 0
    rows, cols = [row - job.top for row in grid.rows], [col - left for col in grid.cols]
    score = seams.score(rows, cols, grid.window) if seams else math.nan
    return None if math.isnan(score) else score


def _finish(writer: MosaicWriter, options: TranslateOptions) -> None:
    """Assemble the outputs in a thread, so that Ctrl-C is handled while GDAL works."""

    def assemble() -> None:
        writer.finish()
        if options.preview:
            writer.write_preview(options.preview)

    with ThreadPoolExecutor(1, "mosaic") as worker:
        worker.submit(assemble).result()


@contextmanager
def _noting_kept_rows(writer: MosaicWriter, out: Path) -> Iterator[None]:
    """Add to an error how many finished rows are kept."""
    try:
        yield
    except Sar2OpticalError as error:
        if rows := writer.rows_on_disk():
            error.add_note(
                f"{rows} finished rows are kept in {run_folder_of(out).name}: run the same command again to resume"
            )
        elif isinstance(error, Interrupted):
            error.add_note("no row is finished yet: run the same command again")
        raise


def _row_progress(on_progress: OnProgress | None, shape: tuple[int, int]) -> Callable[[str, int], None]:
    """Turn a callback of pixels into one of pixel rows."""
    height, width = shape

    def report(stage: str, rows: int) -> None:
        if on_progress:
            on_progress(stage, rows * width, height * width)

    return report
