"""The corridor: a scene through a generator into a mosaic. The only module that knows every room.

::

    reader                 main thread                       streams           writer
    read -> encode   ->    windows -> batches -> submit  ->  engine.run
                           blend (in order) -> decode                     ->   write strip -> ... -> finish

Reading, inference and writing overlap. What is in flight is bounded, so memory is a fixed number of
strips, whatever the scene's height.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray

from sar2optical import __version__
from sar2optical.blend import Blender
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.auto import open_model
from sar2optical.errors import OptionError
from sar2optical.fill import mirror_invalid
from sar2optical.models.zoo import bundled, variants
from sar2optical.mosaic import MosaicWriter, check_output
from sar2optical.radiometry import AS_IT_IS, Encoding, choose_stretch, convert, decode, resolve
from sar2optical.scene import GDAL_CACHE_BYTES, Scene, SceneOptions, open_scene, shape_of
from sar2optical.signature import ModelSignature, Stretch
from sar2optical.windows import DEFAULT_OVERLAP, WindowPlan, plan_windows

Progress = Callable[[str, int, int], None]
"""Told of a stage ("translate", "mosaic"), how much of it is done, and how much there is (pixels)."""

_USUAL_STRIDE = 192  # of windows of 256 that share 64
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Everything that changes a mosaic, beside the scene and the model."""

    backend: str = "auto"
    """auto, openvino, onnxruntime or pytorch."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """Device, precision, threads, batch."""
    scene: SceneOptions = field(default_factory=SceneOptions)
    """Bands, unit, nodata, scale."""
    stretch: Stretch | None = None
    """In place of the model's own."""
    overlap: int = DEFAULT_OVERLAP
    """Pixels that neighbouring windows share."""
    compress: str = "deflate"
    """Of a GeoTIFF: deflate, zstd, lzw, jpeg or none."""
    overwrite: bool = False
    """Replace outputs that are there."""
    preview: Path | None = None
    """Also write a small picture here (PNG)."""
    measure: bool = True
    """Where backend and precision are auto: measure which engine is the fastest, once, for a scene worth it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did."""

    out: Path
    shape: tuple[int, int]
    """Height and width of the mosaic."""
    windows: int
    """Windows of the scene."""
    windows_run: int
    """Those with a valid pixel."""
    seconds_windows: float
    """From the first read to the last strip."""
    seconds_mosaic: float
    """Assembling the output from its strips."""
    seconds: float
    """In all, opening and statistics included."""
    engine: str
    """Backend, precision and device that really ran."""
    model: str
    unit: str
    stretch: str


def translate(
    src: str | Path,
    out: Path,
    *,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Translate a SAR raster into an RGB mosaic of the same shape and place.

    Parameters
    ----------
    src
        Anything that GDAL opens; only read.
    out
        `.tif` (a cloud-optimized GeoTIFF), `.png` or `.jpg`. Absent or whole, never half-written.
    model
        `.onnx` with a signature, or a `.pth` checkpoint; the bundled generator where not given.
    options
        See `TranslateOptions`.
    progress
        Called as strips are finished.

    Returns
    -------
    Report

    Raises
    ------
    Sar2OpticalError
        One of its kinds, for whatever the user can mend; see `sar2optical.errors`.
    """
    began = time.perf_counter()
    options = options or TranslateOptions()
    model = model or bundled()
    _check_outputs(src, out, options)
    with (
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES),
        _opened(model, src, options) as (engine, model),
        open_scene(src, engine.signature.bands, options.scene) as scene,
    ):
        _refuse_inputs(scene.files, out, options)
        signature = engine.signature
        plan = plan_windows(scene.shape, signature.window, options.overlap)
        encodings = _encodings(scene, signature, options.stretch)
        _tell(scene, signature, encodings, engine)
        tags = _tags(scene, model, engine, encodings, options)
        writer = MosaicWriter(
            out,
            shape=scene.shape,
            georeference=scene.georeference,
            tags=tags,
            compress=options.compress,
            overwrite=options.overwrite,
            threads=engine.streams,
        )
        with writer:
            started = time.perf_counter()
            run = _stream(scene, plan, encodings, engine, _Finisher(plan, writer, progress))
            finished = time.perf_counter()
            _announce(progress, "mosaic", 0, plan)
            writer.finish()
            if options.preview:
                writer.write_preview(options.preview)
            _announce(progress, "mosaic", scene.shape[0], plan)
        ended = time.perf_counter()
        return Report(
            out=out,
            shape=scene.shape,
            windows=len(plan),
            windows_run=run,
            seconds_windows=finished - started,
            seconds_mosaic=ended - finished,
            seconds=ended - began,
            engine=str(engine),
            model=signature.name,
            unit=tags["SAR2OPTICAL_UNITS"],
            stretch=tags["SAR2OPTICAL_STRETCH"],
        )


@contextmanager
def _opened(model: Path, src: str | Path, options: TranslateOptions) -> Iterator[tuple[Engine, Path]]:
    """Open the engine, and tell which of the model's files it runs."""
    # Only its model's file says how large the windows are; whether measuring pays is a rough question.
    windows = math.prod(shape_of(src)) // _USUAL_STRIDE**2 if options.measure else 0
    engine, file = open_model(variants(model), backend=options.backend, options=options.engine, windows=windows)
    with engine:
        yield engine, file


def _check_outputs(src: str | Path, out: Path, options: TranslateOptions) -> None:
    """Refuse what cannot be written before anything is computed."""
    check_output(out, overwrite=options.overwrite)
    _refuse_inputs((Path(src),), out, options)
    if options.preview:
        if options.preview.resolve() == out.resolve():
            raise OptionError(f"{out}: is the preview too: give the preview another name")
        if options.preview.suffix.lower() != ".png":
            raise OptionError(f"preview {options.preview} is no .png: give a name that ends in .png")
        check_output(options.preview, overwrite=options.overwrite)


def _refuse_inputs(inputs: Iterable[Path], out: Path, options: TranslateOptions) -> None:
    """Refuse to write over the scene, or over a file that it is made of (a VRT's sources)."""
    for source in inputs:
        for path in (out, options.preview):
            if path and path.exists() and source.exists() and path.samefile(source):
                raise OptionError(f"{path}: is the scene itself, or a part of it: give another output")


def _encodings(scene: Scene, signature: ModelSignature, stretch: Stretch | None) -> list[Encoding]:
    """Fix how each band becomes model input, from the whole scene's statistics."""
    if scene.unit is None or not scene.samples[0].size:
        return [AS_IT_IS] * len(signature.bands)  # no valid pixel will be encoded
    unit, stretches = choose_stretch(scene.unit, signature, stretch)
    encodings = []
    for sample, chosen in zip(scene.samples, stretches, strict=True):
        low, high = resolve(chosen, convert(sample, scene.unit, unit))
        encodings.append(Encoding(scene.unit, unit, low, high))
    return encodings


def _tell(scene: Scene, signature: ModelSignature, encodings: list[Encoding], engine: Engine) -> None:
    """Say what was decided, and warn where the model sees what it was not trained on."""
    height, width = scene.shape
    name = Path(scene.path).name
    shown = ", ".join(str(encoding) for encoding in encodings)
    _log.info("%s: %d x %d, unit %s (%s), stretch %s", name, width, height, scene.unit, scene.unit_reason, shown)
    _log.info("%s: %s", signature.name, engine)
    for found, wanted in zip(scene.polarisations, signature.bands, strict=True):
        if found is None:
            _log.warning("%s: no polarisation is named; taken as %s", name, wanted)
        elif found != wanted:
            _log.warning("%s: %s goes into a model trained on %s; expect other colours", name, found, wanted)


def _tags(
    scene: Scene, model: Path, engine: Engine, encodings: list[Encoding], options: TranslateOptions
) -> dict[str, str]:
    return {
        "TIFFTAG_SOFTWARE": f"sar2optical {__version__}",
        "SAR2OPTICAL_VERSION": __version__,
        "SAR2OPTICAL_MODEL": engine.signature.name,
        "SAR2OPTICAL_MODEL_SHA256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "SAR2OPTICAL_ENGINE": str(engine),
        "SAR2OPTICAL_BATCH": str(engine.batch),
        "SAR2OPTICAL_SOURCE": Path(scene.path).name,
        "SAR2OPTICAL_BANDS": ",".join(name or "unknown" for name in scene.polarisations),
        "SAR2OPTICAL_UNITS": scene.unit or "unknown",
        "SAR2OPTICAL_STRETCH": "; ".join(str(encoding) for encoding in encodings),
        "SAR2OPTICAL_OVERLAP": str(options.overlap),
    }


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


def _stream(scene: Scene, plan: WindowPlan, encodings: list[Encoding], engine: Engine, finisher: _Finisher) -> int:
    """Take every strip through the engine to the writer; returns how many windows ran."""
    strips = _strips(scene, plan, encodings, engine.signature.channels)
    with ThreadPoolExecutor(1, "reader") as reader, finisher:
        windows = _windows(_ahead(strips, reader), plan, finisher)
        return _infer(windows, engine, finisher)


def _infer(windows: Iterator[_Placed], engine: Engine, finisher: _Finisher) -> int:
    """Run batches on the engine's streams; hand results on in the windows' order."""

    def run(batch: list[_Placed]) -> NDArray[np.float32]:
        return engine.run(np.stack([mirror_invalid(placed.sar, placed.valid) for placed in batch]))

    count = 0
    pending: deque[tuple[list[_Placed], Future[NDArray[np.float32]]]] = deque()

    def collect() -> None:
        batch, future = pending.popleft()
        for placed, image in zip(batch, future.result(), strict=True):
            finisher.add(placed.row, placed.col, image)

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


def _strips(scene: Scene, plan: WindowPlan, encodings: list[Encoding], channels: int) -> Iterator[_Strip]:
    """Read and encode each row of windows; every row of pixels once."""
    height, width = scene.shape
    window, padded = plan.window, plan.padded_width
    deep = min(window, height)
    sar = np.empty((len(encodings), deep, width), np.float32)
    valid: NDArray[np.bool_] = np.zeros((deep, width), dtype=np.bool_)
    read = 0
    for row, start in enumerate(plan.rows):
        kept = max(read - start, 0)  # rows that the last strip has read already
        values, usable = scene.read_rows(start + kept, start + deep)
        fresh = [e.encode(band, usable) for e, band in zip(encodings, values, strict=True)]
        sar = np.concatenate((sar[:, deep - kept :], fresh), axis=1)
        valid = np.concatenate((valid[deep - kept :], usable))
        read = start + deep
        missing = (0, window - deep), (0, padded - width)  # of a scene smaller than a window
        shaped = np.pad(sar, ((0, 0), *missing)) if np.any(missing) else sar
        if len(shaped) != channels:
            shaped = np.broadcast_to(shaped, (channels, *shaped.shape[1:]))  # copies of a lone band
        yield _Strip(row, shaped, np.pad(valid, missing) if np.any(missing) else valid)


def _windows(strips: Iterator[_Strip], plan: WindowPlan, finisher: _Finisher) -> Iterator[_Placed]:
    """Cut strips into windows, leaving out those without a valid pixel."""
    for strip in strips:
        finisher.expect(strip.row, strip.valid)
        columns = np.logical_or.reduce(strip.valid, axis=0)
        for col, start in enumerate(plan.cols):
            if columns[start : start + plan.window].any():
                window = slice(start, start + plan.window)
                yield _Placed(strip.row, col, strip.sar[:, :, window], strip.valid[:, window])


def _ahead(items: Iterator[_T], worker: ThreadPoolExecutor) -> Iterator[_T]:
    """Have a worker make the next item while the last one is in use."""
    future = worker.submit(next, items, None)
    while (item := future.result()) is not None:
        future = worker.submit(next, items, None)
        yield item


class _Finisher:
    """Blends windows as they come, and writes each strip once no window is left to change it."""

    def __init__(self, plan: WindowPlan, writer: MosaicWriter, progress: Progress | None) -> None:
        self._plan = plan
        self._blender = Blender(plan)
        self._writer = writer
        self._progress = progress
        self._valid: deque[NDArray[np.bool_]] = deque()
        self._row = 0
        self._rows = 0
        self._worker = ThreadPoolExecutor(1, "writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> None:
        _announce(self._progress, "translate", 0, self._plan)

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown()

    def expect(self, row: int, valid: NDArray[np.bool_]) -> None:
        """Take note of which pixels of a coming strip are valid."""
        start, stop = self._plan.strip(row)
        strip = valid[: stop - start, : self._plan.shape[1]]
        # Empty strips may come by the hundred between two windows: held as a single False each.
        self._valid.append(strip if strip.any() else np.broadcast_to(np.False_, strip.shape))

    def add(self, row: int, col: int, image: NDArray[np.float32]) -> None:
        """Blend a window in; strips above it are done."""
        while self._row < row:
            self._finish_strip()
        self._blender.add(row, col, image)

    def finish(self) -> None:
        """Write what is left, and wait until it is written."""
        while self._row < len(self._plan.rows):
            self._finish_strip()
        if self._writing:
            self._writing.result()

    def _finish_strip(self) -> None:
        image, valid = self._blender.finish(self._row), self._valid.popleft()
        if self._writing:
            self._writing.result()
        self._writing = self._worker.submit(self._write, image, valid)
        self._row += 1

    def _write(self, image: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        self._writer.write(decode(image), valid)
        self._rows += len(valid)
        _announce(self._progress, "translate", self._rows, self._plan)


def _announce(progress: Progress | None, stage: str, rows: int, plan: WindowPlan) -> None:
    if progress:
        height, width = plan.shape
        progress(stage, rows * width, height * width)
