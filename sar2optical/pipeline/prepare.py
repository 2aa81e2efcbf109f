"""Open engine and scene, and fix everything that decides the pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import rasterio

from sar2optical._utils.memory import resident_bytes
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model
from sar2optical.engines.early import load_early
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import DeviceUnavailable, EngineError, ModelError, OptionError
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import check_output
from sar2optical.mosaic.run_folder import run_folder_of
from sar2optical.mosaic.strip_store import bytes_of_store
from sar2optical.pipeline.job import Job, ResolvedOptions, engine_threads
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.provenance import asked_for, hash_of, manifest_of, name_of, tags_of_run, to_tag
from sar2optical.pipeline.stream import bytes_in_flight
from sar2optical.scene.cut import Cut, cut_to
from sar2optical.scene.decoding import Decoding, decoding_for
from sar2optical.scene.encoder import Encoding, encodings_for, warn_outside
from sar2optical.scene.geocode.placement import pixel_size
from sar2optical.scene.geocode.resample import Geocoded, geocoded
from sar2optical.scene.raster import GDAL_CACHE_BYTES
from sar2optical.scene.remote import is_remote
from sar2optical.scene.scene import Scene, SceneSource, open_scene
from sar2optical.scene.sources import Source, environment_of, inputs_of, refuse_calibration
from sar2optical.signature import alternatives, listed
from sar2optical.tiling.windows import WindowGrid, window_grid

__all__ = ["Opener", "check_outputs", "open_once", "prepared"]

Opener = Callable[[Mapping[str, Path], str, EngineOptions], AbstractContextManager[tuple[Engine, Path]]]
"""Function that opens one of a model's files: (files by precision, backend, options)."""

_LEAST_CACHE = 16_000_000
_USUAL_CACHE = 48_000_000
_MOST_CACHE = 512_000_000
_AHEAD, _MOST_AHEAD = 2, 4
_MAY_BE_PRODUCTS = (".zip", ".safe")
_OTHER_SIZE = 1.5  # ratio of pixel sizes from which textures differ from those of training

_log = logging.getLogger(__name__)


def open_once(
    files: Mapping[str, Path], backend: str, options: EngineOptions
) -> AbstractContextManager[tuple[Engine, Path]]:
    """Open a model for one scene; see `sar2optical.engines.autotune.open_model`."""

    @contextmanager
    def opened() -> Iterator[tuple[Engine, Path]]:
        engine, file = open_model(files, backend=backend, options=options)
        with engine:
            yield engine, file

    return opened()


@contextmanager
def prepared(
    src: Source,
    out: Path,
    *,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    resolved: ResolvedOptions | None = None,
    opener: Opener = open_once,
) -> Iterator[Job]:
    """Open engine and scene, and fix everything that decides the pixels.

    A run that resumes takes the engine of the interrupted run.

    Parameters
    ----------
    src, out, model, options
        See `sar2optical.pipeline.run.translate`.
    resolved
        What another process found for the same scene; the scene is not read for its statistics again.
    opener
        Opens the model; may keep it open for the next scene.

    Yields
    ------
    Job

    Raises
    ------
    Sar2OpticalError
        See `sar2optical.pipeline.run.translate`.
    """
    given = options or TranslateOptions()
    options = resolved.applied_to(given) if resolved else given
    if Path(str(src)).suffix.lower() not in _MAY_BE_PRODUCTS:
        refuse_calibration(src, options.product)  # before a model is opened
    if model is None and options.engine.signature:
        raise OptionError("--signature applies to a model of your own: give --model FILE, or leave out --signature")
    model = model or bundled()
    earlier = None if options.restart else Manifest.read(run_folder_of(out))
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **environment_of(src)), ExitStack() as stack:

        def opened(bands: tuple[str, ...]) -> Scene:
            return stack.enter_context(open_scene(src, bands, options.scene, options.product))

        signature = load_early(next(iter(variants(model).values())), options.backend, options.engine)
        found = opened(signature.bands) if signature else None
        if found and not resolved:
            found.read_samples()  # takes as long as PyTorch
        engine, file = stack.enter_context(_opened(model, options, earlier, opener))
        found = found or opened(engine.signature.bands)
        scene: SceneSource = geocoded(found, options.geocode) if options.geocode else found
        _refuse_inputs(scene.files, out, options)
        job = _job(scene, engine, file, options, resolved)
        tags = to_tag(asked_for(src, variants(model), given))
        with rasterio.Env(GDAL_CACHEMAX=job.cache):
            yield replace(job, tags={**job.tags, **tags})


def _job(
    scene: SceneSource, engine: Engine, file: Path, options: TranslateOptions, resolved: ResolvedOptions | None
) -> Job:
    engine.use_window(options.window or engine.signature.default_window)
    grid = window_grid(scene.shape, engine.window, options.overlap)
    if resolved:
        encodings = resolved.encodings
    else:
        encodings = encodings_for(scene.unit, scene.read_samples(), engine.signature, options.stretch)
    _log_job(scene, engine, encodings)
    if grid.window not in (engine.signature.window, engine.signature.default_window):
        _log.warning(
            "%s was trained on windows of %d, not of %d: compare the colours with those of --window %d",
            engine.signature.name, engine.signature.window, grid.window, engine.signature.window,
        )  # fmt: skip
    if resolved:
        _refuse_other_fallback(engine, resolved)
    part, cut = scene, None
    if options.area:
        part, grid, cut = cut_to(scene, grid, options.area)
        _log.info("%s: %s: %s of the scene", name_of(scene), options.area.text, cut.text)
    decoding = decoding_for(engine.signature.output, options.output_bands, options.dtype)
    if options.preview and not decoding.is_rgb:
        raise OptionError(
            f"preview {options.preview}: needs a mosaic of three bands of uint8, not {len(decoding.bands)} of "
            f"{decoding.dtype}: leave out --preview, or --bands and --dtype"
        )
    manifest = resolved.manifest if resolved else manifest_of(scene, engine, file, grid, encodings, options, cut)
    ahead, cache = _budget(options, grid, part, decoding, cut)
    return Job(
        scene=part,
        engine=engine,
        file=file,
        grid=grid,
        encodings=encodings,
        manifest=manifest,
        tags=tags_of_run(scene, engine, manifest, encodings, options),
        ahead=ahead,
        cache=cache,
        decoding=decoding,
        cut=cut,
    )


def _refuse_other_fallback(engine: Engine, resolved: ResolvedOptions) -> None:
    """Refuse workers that would compute different pixels of one mosaic."""
    if resolved.manifest.entries.get("fallback", engine.precision) != engine.fallback:
        raise DeviceUnavailable(
            f"{engine}: this worker runs the file's fp32 layers in {engine.fallback}, other workers run them "
            "in another precision: give --backend onnxruntime, or use workers with the same kind of CPU"
        )


@contextmanager
def _opened(
    model: Path, options: TranslateOptions, earlier: Manifest | None, opener: Opener
) -> Iterator[tuple[Engine, Path]]:
    """Open the engine; yield it and the engine file that it runs."""
    files = variants(model)
    with ExitStack() as stack:
        found = _as_before(files, options, earlier, opener, stack)
        if found is None:
            found = stack.enter_context(opener(files, options.backend, options.engine))
        yield found


def _as_before(
    files: Mapping[str, Path],
    options: TranslateOptions,
    earlier: Manifest | None,
    opener: Opener,
    stack: ExitStack,
) -> tuple[Engine, Path] | None:
    """Open the engine that `auto` chose in an interrupted run, so that its strips fit; None if there is none."""
    if earlier is None or "auto" not in (options.backend, options.engine.precision):
        return None
    backend, precision = (str(earlier.entries.get(name)) for name in ("backend", "precision"))
    asked = (options.backend, options.engine.precision)
    file = next((file for file in files.values() if earlier.entries.get("model") == hash_of(file)), None)
    if file is None or any(a not in ("auto", was) for a, was in zip(asked, (backend, precision), strict=True)):
        return None
    chosen = replace(options.engine, precision=precision)  # type: ignore[arg-type]
    try:
        return stack.enter_context(opener({precision: file}, backend, chosen))
    except (EngineError, ModelError):
        return None  # the engine opened instead differs, and the error names the difference


def _budget(
    options: TranslateOptions, grid: WindowGrid, scene: SceneSource, decoding: Decoding, cut: Cut | None
) -> tuple[int, int]:
    """Return how many pieces to read ahead, and the size of GDAL's block cache in bytes.

    Raises
    ------
    OptionError
        If the limit is less than what the scene's width needs.
    """
    # Two rows of blocks: one in use and the next one, so that no block is decoded twice.
    wanted = min(max(_USUAL_CACHE, 2 * scene.row_of_blocks), _MOST_CACHE)
    limit = options.max_memory
    if limit is None:
        return max(_AHEAD, scene.readers + 1), wanted
    held = resident_bytes()
    coding = replace(options.coding, bands=len(decoding.bands), dtype=decoding.dtype)
    stored = bytes_of_store(cut.shape if cut else grid.shape, coding, threads=engine_threads(options))
    for ahead in range(max(_MOST_AHEAD, scene.readers + 1), 0, -1):
        left = limit - held - stored - bytes_in_flight(grid, scene, decoding, ahead=ahead)
        if left >= wanted or (ahead == 1 and left >= _LEAST_CACHE):
            return ahead, min(left, wanted)
    needed = limit - left + _LEAST_CACHE
    raise OptionError(
        f"memory limit is {limit / 1e6:.0f} MB, but the engine holds {held / 1e6:.0f} MB and a scene of "
        f"{scene.shape[1]} columns needs {needed / 1e6:.0f} MB in total: give --max-memory {needed / 1e6:.0f}MB or "
        f"more, a --window below {grid.window}, or a narrower scene"
    )


def check_outputs(src: Source, out: Path, options: TranslateOptions) -> None:
    """Refuse outputs that cannot be written, before anything is computed."""
    check_output(out, overwrite=options.overwrite)
    _refuse_inputs(inputs_of(src), out, options)
    if options.preview:
        if options.preview.resolve() == out.resolve():
            raise OptionError(f"{out}: mosaic and preview have the same path: give the preview another name")
        if options.preview.suffix.lower() != ".png":
            raise OptionError(f"preview {options.preview}: must be a PNG: give a name that ends in .png")
        check_output(options.preview, overwrite=options.overwrite)


def _refuse_inputs(inputs: Iterable[Path], out: Path, options: TranslateOptions) -> None:
    """Refuse to overwrite the scene, or a file that it is made of (sources of a VRT)."""
    for source in (source for source in inputs if not is_remote(source)):
        for path in (out, options.preview):
            if path and path.exists() and source.exists() and path.samefile(source):
                raise OptionError(f"{path}: is the input scene, or a file that it refers to: choose another output")


def _log_job(scene: SceneSource, engine: Engine, encodings: list[Encoding]) -> None:
    """Log unit, stretch and engine; warn where the model gets input that it was not trained on."""
    height, width = scene.shape
    name, signature = name_of(scene), engine.signature
    stretch = ", ".join(str(encoding) for encoding in encodings)
    _log.info("%s: %d x %d, unit %s (%s), stretch %s", name, width, height, scene.unit, scene.unit_reason, stretch)
    if isinstance(scene, Geocoded):
        _log.info("%s: %s", name, scene.note)
    _log.info("%s: %s", signature.name, engine)
    for found, wanted in zip(scene.polarisations, signature.bands, strict=True):
        polarisations = alternatives(wanted)
        if found is None and len(polarisations) == 1:
            _log.warning("%s: no polarisation is named in the file: %s is assumed", name, wanted)
        elif found is not None and found not in polarisations:
            _log.warning(
                "%s: is %s, but the model was trained on %s; colours will differ", name, found, listed(wanted)
            )
    warn_outside(name, encodings, scene.read_samples())
    if not scene.read_samples()[0].size:
        _log.warning("%s: has no valid pixel; the mosaic will be empty and fully masked", name)
    if signature.pixel_size:
        _warn_of_pixel_size(name, pixel_size(scene), signature.pixel_size)


def _warn_of_pixel_size(name: str, size: tuple[float, float] | None, trained: float) -> None:
    """Warn if a side of the scene's pixels differs from the pixel size of training."""
    if size is None or all(1 / _OTHER_SIZE <= side / trained <= _OTHER_SIZE for side in size):
        return
    area = math.sqrt(size[0] * size[1])
    remedy = f": resample it with --geocode auto-utm --resolution {trained:g}"
    alike = max(size) / min(size) < _OTHER_SIZE
    _log.warning(
        "%s: has pixels of %s m, but the model was trained on %.3g m; textures will differ%s",
        name,
        f"{area:.3g}" if alike else f"{size[0]:.3g} x {size[1]:.3g}",
        trained,
        remedy if trained / 3 < area < 3 * trained else "",
    )
