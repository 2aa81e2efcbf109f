"""The corridor: a scene through a generator into a mosaic. The only module that knows every room.

::

    prepare:    engine, scene, grid of windows, encodings, manifest
    translate:  strips of an earlier run -> stream the others to disk -> finish the mosaic
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from sar2optical import __version__
from sar2optical._utils.addresses import redacted
from sar2optical._utils.files import cache_folder
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model
from sar2optical.engines.base import LIBRARIES, default_threads
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import (
    DeviceUnavailable,
    EngineError,
    Interrupted,
    ModelError,
    OptionError,
    OutputExists,
    OutputUnwritable,
    Sar2OpticalError,
)
from sar2optical.mosaic.manifest import Manifest, identity_of, is_local
from sar2optical.mosaic.run_folder import refuse_other_run, run_folder_of
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.tags import generated_tags
from sar2optical.mosaic.writer import MosaicWriter, StripFiles, check_output, strips_at_once
from sar2optical.pipeline import estimate as preflight
from sar2optical.pipeline.estimate import Estimate
from sar2optical.pipeline.provenance import asked_for, to_tag
from sar2optical.pipeline.stream import Clock, bytes_in_flight, stream
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.scene.encoder import AS_IT_IS, Encoding, choose_stretch, convert, resolve
from sar2optical.scene.geocode import Geocoded, Target, geocoded, pixel_size
from sar2optical.scene.raster import GDAL_CACHE_BYTES
from sar2optical.scene.remote import exists, gdal_environment, is_remote, upload
from sar2optical.scene.safe import ProductOptions, is_product
from sar2optical.scene.scene import SceneSource, log_contents, refuse_calibration
from sar2optical.signature import ModelSignature, Stretch, Unit, alternatives, listed
from sar2optical.tiling.seams import SeamTally
from sar2optical.tiling.windows import DEFAULT_OVERLAP, WindowGrid, window_grid

Progress = Callable[[str, int, int], None]
"""Told of a stage ("check", "translate", "mosaic"), how much of it is done, and how much there is (pixels)."""

Opener = Callable[[Mapping[str, Path], str, EngineOptions], AbstractContextManager[tuple[Engine, Path]]]
"""Opens one of a model's files: (files by precision, backend, options)."""

_WORTHWHILE = 1000  # windows from which on a full disk is looked for with a measured sample
_LEAST_CACHE = 16_000_000
_MOST_CACHE = 512_000_000
_MOST_AHEAD = 3
_MAY_BE_PRODUCTS = (".zip", ".safe")  # damaged ones, too
_OTHER_SIZE = 1.5  # times the model's pixel size, or one such part of it: from there on textures are others
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """How a mosaic is made, beside the scene and the model."""

    backend: str = "auto"
    """auto, openvino, onnxruntime or pytorch."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """Device, precision, threads, batch."""
    scene: SceneOptions = field(default_factory=SceneOptions)
    """Bands, unit, nodata, scale."""
    product: ProductOptions | None = None
    """Calibration of a Sentinel-1 product; refused for other rasters. None: a product's sigma0, noise kept."""
    geocode: Target | None = None
    """Map that the scene is brought to first; None: the mosaic lies as the scene does."""
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
    restart: bool = False
    """Throw away what an interrupted run has left, rather than go on from it."""
    max_memory: int | None = None
    """Bytes that this process may have, engine included; None: what the scene's width takes, about 1 GB of it."""
    seams: bool = False
    """Also measure the seams, for the report."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did."""

    out: str
    shape: tuple[int, int]
    """Height and width of the mosaic."""
    windows: int
    """Windows of the scene."""
    windows_run: int
    """Those with a valid pixel, that this run took through the engine."""
    rows_kept: int
    """Pixel rows that an earlier run had finished."""
    seconds_windows: float
    """From the first read to the last strip."""
    seconds_mosaic: float
    """Assembling the output from its strips."""
    seconds: float
    """In all, opening and statistics included."""
    busy: Mapping[str, float]
    """Seconds that each stage was at work, summed over its threads."""
    idle: Mapping[str, float]
    """Share of `seconds_windows` that each stage's threads waited, 0 to 1."""
    peak_memory: int
    """Bytes of this process at its peak so far; 0 where the system does not tell."""
    seam_score: float | None
    """Steps at window edges over steps elsewhere, see `metrics.seam_score`; None where not asked for."""
    engine: str
    """Backend, precision and device that really ran."""
    model: str
    unit: str
    stretch: str
    manifest: Mapping[str, str]
    """Everything that decides the pixels: the run's manifest."""
    versions: Mapping[str, str]
    """Of the libraries that took part."""

    @property
    def windows_skipped(self) -> int:
        """Windows without a valid pixel, or of strips that were there already."""
        return self.windows - self.windows_run

    @property
    def megapixels_per_second(self) -> float:
        """Rate over the whole run."""
        return math.prod(self.shape) / 1e6 / self.seconds

    def to_json(self) -> str:
        """Write all of it, for programs to read."""
        record = {**asdict(self), "windows_skipped": self.windows_skipped}
        record["megapixels_per_second"] = self.megapixels_per_second
        return json.dumps(record, indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions:
    """What opening model and scene has decided; travels between processes."""

    encodings: list[Encoding]
    unit: Unit | None
    backend: str
    precision: str
    manifest: Manifest
    """Of the run, whichever machine goes about a part of it."""

    def applied_to(self, options: TranslateOptions) -> TranslateOptions:
        """Ask for it by name, where options left it open."""
        engine = replace(options.engine, precision=self.precision)  # type: ignore[arg-type]
        scene = replace(options.scene, unit=self.unit)
        return replace(options, backend=self.backend, engine=engine, scene=scene)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A scene and an engine, opened, and all that was decided about them."""

    scene: SceneSource
    engine: Engine
    file: Path
    """Of the model."""
    grid: WindowGrid
    encodings: list[Encoding]
    manifest: Manifest
    tags: Mapping[str, str]
    """Of the mosaic."""
    ahead: int
    """Strips to read before they are needed."""
    cache: int
    """Bytes for GDAL's blocks."""

    @property
    def resolved(self) -> ResolvedOptions:
        """Give what another process needs to go about the same scene in the same way."""
        unit = self.scene.unit
        return ResolvedOptions(
            encodings=self.encodings,
            unit=unit,
            backend=self.engine.backend,
            precision=self.engine.precision,
            manifest=self.manifest,
        )

    def writer(self, out: Path, options: TranslateOptions) -> MosaicWriter:
        """Make a writer of this job's mosaic."""
        return MosaicWriter(
            out,
            shape=self.scene.shape,
            georeference=self.scene.georeference,
            tags=self.tags,
            compress=options.compress,
            overwrite=options.overwrite,
            threads=_threads(options),
            manifest=self.manifest,
            restart=options.restart,
        )


def translate(
    src: str | Path,
    out: str | Path,
    *,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Translate a SAR raster into an RGB mosaic of the same shape and place.

    A run that ends early leaves its strips in `OUT.parts`; the next one with the same scene, model and options goes
    on from them, to the same pixels.

    Parameters
    ----------
    src
        Anything that GDAL opens, on a server too (`https://`, `s3://`), or a Sentinel-1 product; only read.
    out
        `.tif` (a cloud-optimized GeoTIFF), `.png` or `.jpg`. Absent or whole, never half-written. On a server
        (`s3://`): made in the user's cache folder, then uploaded.
    model
        `.onnx` with a signature, or a `.pth` checkpoint; the bundled generator where not given.
    options
        See `TranslateOptions`.
    progress
        Called as strips are finished.
    stop
        Asked now and then: True finishes the strip in hand and raises `Interrupted`.

    Returns
    -------
    Report

    Raises
    ------
    Sar2OpticalError
        One of its kinds, for whatever the user can mend; see `sar2optical.errors`. Where strips are kept, a note says
        so.
    """
    began = time.perf_counter()
    options = options or TranslateOptions()
    log_contents(src)
    with _on_its_way(out, options) as (local, taken):
        check_outputs(src, local, taken)
        with prepared(src, local, model=model, options=taken) as job:
            report = execute(job, local, taken, progress=progress, stop=stop, began=began)
    return replace(report, out=redacted(out), seconds=time.perf_counter() - began)


def execute(
    job: Job,
    out: Path,
    options: TranslateOptions,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    began: float | None = None,
) -> Report:
    """Do what was prepared; `translate` without the opening. `began`: of `time.perf_counter`, now where None."""
    began = time.perf_counter() if began is None else began
    with job.writer(out, options) as writer, _noted(writer, out):
        told = _telling(progress, job.grid)
        grid, clock = job.grid, Clock()
        kept = writer.resume(partial(told, "check"))
        if kept:
            _log.info(
                "%s: going on from row %d of %d, from %s", out.name, kept, grid.shape[0], run_folder_of(out).name
            )
        first = grid.rows.index(kept) if kept < grid.shape[0] else len(grid.rows)
        if len(grid) >= _WORTHWHILE and first < len(grid.rows):
            found = preflight.sample(job.scene, grid, job.encodings, job.engine)
            preflight.refuse_full_disk(job.scene, grid, found, out, on_disk=writer.bytes_of_strips)
        seams = SeamTally() if options.seams else None
        started = time.perf_counter()
        streamed = stream(
            job.scene,
            grid,
            job.encodings,
            job.engine,
            _Watched(writer, seams) if seams else writer,
            rows=range(first, len(grid.rows)),
            ahead=job.ahead,
            stop=stop,
            told=partial(told, "translate"),
            clock=clock,
        )
        if first + streamed.rows < len(grid.rows):
            raise Interrupted(f"{out}: stopped when asked to")
        finished = time.perf_counter()
        told("mosaic", 0)
        _finish(writer, options)
        told("mosaic", grid.shape[0])
        ended = time.perf_counter()
        return Report(
            out=str(out),
            shape=grid.shape,
            windows=len(grid),
            windows_run=streamed.windows_run,
            rows_kept=kept,
            seconds_windows=finished - started,
            seconds_mosaic=ended - finished,
            seconds=ended - began,
            busy=clock.seconds,
            idle=clock.idle(finished - started, streams=job.engine.streams),
            peak_memory=peak_bytes(),
            seam_score=_seam_score(seams, grid),
            engine=str(job.engine),
            model=job.engine.signature.name,
            unit=job.tags["SAR2OPTICAL_UNITS"],
            stretch=job.tags["SAR2OPTICAL_STRETCH"],
            manifest=job.manifest.entries,
            versions=_versions(job.engine),
        )


def forecast(
    src: str | Path, out: str | Path, *, model: Path | None = None, options: TranslateOptions | None = None
) -> Estimate:
    """Say what `translate` would do and take, from a short measured run; no mosaic and no strip is written.

    Raises
    ------
    Sar2OpticalError
        As `translate` would; OutputUnwritable where the disk cannot hold it.
    """
    options = options or TranslateOptions()
    out = _made_here(str(out), options) if is_remote(out) else Path(out)
    check_outputs(src, out, options)
    with prepared(src, out, model=model, options=options) as job:
        job.writer(out, options)  # refuses what it cannot write
        if not options.restart:
            refuse_other_run(out, job.manifest)
        strips = StripFiles(out, job.grid.shape[1], job.manifest)
        same = not options.restart and Manifest.read(run_folder_of(out)) == job.manifest
        kept = strips.rows(job.grid.shape[0]) if same else 0
        found = preflight.forecast(
            job.scene,
            job.grid,
            job.encodings,
            job.engine,
            out,
            ahead=job.ahead,
            cache=job.cache,
            writing=strips_at_once(_threads(options)),
            threads=_threads(options),
            rows_kept=kept,
        )
    preflight.refuse_too_little(out, strips=found.strips, mosaic=found.mosaic)
    return found


def open_once(
    files: Mapping[str, Path], backend: str, options: EngineOptions
) -> AbstractContextManager[tuple[Engine, Path]]:
    """Open a model for one scene; see `engines.auto.open_model`."""

    @contextmanager
    def opened() -> Iterator[tuple[Engine, Path]]:
        engine, file = open_model(files, backend=backend, options=options)
        with engine:
            yield engine, file

    return opened()


@contextmanager
def prepared(
    src: str | Path,
    out: Path,
    *,
    model: Path | None = None,
    options: TranslateOptions | None = None,
    resolved: ResolvedOptions | None = None,
    opener: Opener = open_once,
) -> Iterator[Job]:
    """Open engine and scene, and decide all that decides the pixels; an interrupted run's engine is taken again.

    Parameters
    ----------
    src, out, model, options
        As `translate` takes them.
    decided
        By another process, about the same scene: it is not read through again.
    opener
        Opens the model; may keep it open for the next scene.

    Yields
    ------
    Job

    Raises
    ------
    Sar2OpticalError
        As `translate` does.
    """
    given = options = options or TranslateOptions()
    if resolved:
        options = resolved.applied_to(options)
    if Path(src).suffix.lower() not in _MAY_BE_PRODUCTS:
        refuse_calibration(src, options.product)  # before a model is opened
    earlier = None if options.restart else Manifest.read(run_folder_of(out))
    with (
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **gdal_environment(src)),
        _opened(model or bundled(), options, earlier, opener) as (engine, file),
        open_scene(src, engine.signature.bands, options.scene, options.product) as found,
    ):
        scene: SceneSource = geocoded(found, options.geocode) if options.geocode else found
        _refuse_inputs(scene.files, out, options)
        signature = engine.signature
        grid = window_grid(scene.shape, signature.window, options.overlap)
        encodings = resolved.encodings if resolved else _encodings(scene, signature, options.stretch)
        _tell(scene, signature, encodings, engine)
        if resolved and resolved.manifest.entries.get("fallback", engine.precision) != engine.fallback:
            raise DeviceUnavailable(
                f"{engine}: computes what the file leaves in fp32 in {engine.fallback}, other workers do not: give "
                "--backend onnxruntime, or workers of one kind of CPU"
            )
        manifest = resolved.manifest if resolved else _manifest(scene, file, engine, grid, encodings, options)
        ahead, cache = _budget(options.max_memory, grid, scene, strips_at_once(_threads(options)))
        with rasterio.Env(GDAL_CACHEMAX=cache):
            yield Job(
                scene=scene,
                engine=engine,
                file=file,
                grid=grid,
                encodings=encodings,
                manifest=manifest,
                tags={
                    **_tags(scene, manifest, engine, encodings, options),
                    **to_tag(asked_for(src, variants(model or bundled()), given)),
                },
                ahead=ahead,
                cache=cache,
            )


@contextmanager
def _on_its_way(out: str | Path, options: TranslateOptions) -> Iterator[tuple[Path, TranslateOptions]]:
    """Give where to make an output; on leaving, one that belongs on a server is brought there."""
    if not is_remote(out):
        yield Path(out), options
        return
    remote = str(out)
    local = _made_here(remote, options)
    _log.info("%s: made in %s, then uploaded", redacted(remote), local.parent)
    yield local, replace(options, overwrite=True)
    upload(local, remote)
    with suppress(OSError):  # it is where it belongs
        local.unlink()
        local.parent.rmdir()


def _made_here(remote: str, options: TranslateOptions) -> Path:
    """Give the place of an output before it is uploaded: one for each address, so that strips are found again."""
    if not options.overwrite and exists(remote):
        raise OutputExists(f"{remote} exists; pass --overwrite to replace it, or choose another name")
    cache = cache_folder()
    if cache is None:
        raise OptionError(f"{remote}: there is no cache folder to make it in: set SAR2OPT_CACHE")
    folder = cache / "outgoing" / hashlib.sha256(remote.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"{folder}: cannot be made ({error.strerror}): set SAR2OPT_CACHE") from error
    return folder / redacted(remote).rsplit("/", 1)[-1]


class _Watched:
    """A writer that also tallies what the seams are measured by."""

    def __init__(self, writer: MosaicWriter, seams: SeamTally) -> None:
        self._writer = writer
        self._seams = seams

    def write(self, rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        self._seams.add(rgb, valid)
        self._writer.write(rgb, valid)


def _seam_score(seams: SeamTally | None, grid: WindowGrid) -> float | None:
    score = seams.score(grid.rows, grid.cols, grid.window) if seams else math.nan
    return None if math.isnan(score) else score


def _finish(writer: MosaicWriter, options: TranslateOptions) -> None:
    """Make the outputs in a thread of its own, so that Ctrl-C is heard while GDAL works."""

    def make() -> None:
        writer.finish()
        if options.preview:
            writer.write_preview(options.preview)

    with ThreadPoolExecutor(1, "mosaic") as worker:
        worker.submit(make).result()


@contextmanager
def _noted(writer: MosaicWriter, out: Path) -> Iterator[None]:
    """Say with an error what is kept."""
    try:
        yield
    except Sar2OpticalError as error:
        if rows := writer.rows_on_disk():
            error.add_note(
                f"{rows} finished rows are kept in {run_folder_of(out).name}: the same command goes on from there"
            )
        raise


def _telling(progress: Progress | None, grid: WindowGrid) -> Callable[[str, int], None]:
    height, width = grid.shape

    def told(stage: str, rows: int) -> None:
        if progress:
            progress(stage, rows * width, height * width)

    return told


@contextmanager
def _opened(
    model: Path, options: TranslateOptions, earlier: Manifest | None, opener: Opener
) -> Iterator[tuple[Engine, Path]]:
    """Open the engine, and tell which of the model's files it runs."""
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
    """Open what an interrupted run had chosen by itself, so that its strips fit; None where that is not to be had."""
    if earlier is None or "auto" not in (options.backend, options.engine.precision):
        return None
    backend, precision = (str(earlier.entries.get(name)) for name in ("backend", "precision"))
    asked = (options.backend, options.engine.precision)
    file = next((file for file in files.values() if earlier.entries.get("model") == _hash_of(file)), None)
    if file is None or any(a not in ("auto", was) for a, was in zip(asked, (backend, precision), strict=True)):
        return None
    chosen = replace(options.engine, precision=precision)  # type: ignore[arg-type]
    try:
        return stack.enter_context(opener({precision: file}, backend, chosen))
    except (EngineError, ModelError):
        return None  # what is chosen now differs from it, and will be named


def _threads(options: TranslateOptions) -> int:
    """Give the threads of a CPU that there are for an engine, and for what is beside it."""
    return options.engine.threads or default_threads()


def _budget(limit: int | None, grid: WindowGrid, scene: SceneSource, writing: int) -> tuple[int, int]:
    """Share memory out: strips to read ahead, and bytes for GDAL's blocks.

    Raises
    ------
    OptionError
        Where the limit is less than what the scene's width takes.
    """
    # Blocks in two rows of them are not decoded twice: one that is in use, one that begins.
    wanted = min(max(GDAL_CACHE_BYTES, 2 * scene.row_of_blocks), _MOST_CACHE)
    if limit is None:
        return 1, wanted
    held = resident_bytes()
    for ahead in range(_MOST_AHEAD, 0, -1):
        rest = limit - held - bytes_in_flight(grid, bands=len(scene.polarisations), ahead=ahead, writing=writing)
        if rest >= wanted or (ahead == 1 and rest >= _LEAST_CACHE):
            return ahead, min(rest, wanted)
    needed = limit - rest + _LEAST_CACHE
    raise OptionError(
        f"memory limit is {limit / 1e6:.0f} MB: the engine has {held / 1e6:.0f} MB, and {scene.shape[1]} columns in "
        f"strips take it to {needed / 1e6:.0f} MB: give that or more, or a narrower part of the scene"
    )


def check_outputs(src: str | Path, out: Path, options: TranslateOptions) -> None:
    """Refuse what cannot be written before anything is computed."""
    check_output(out, overwrite=options.overwrite)
    if not is_remote(src):  # a signed address is too long for a file's name
        _refuse_inputs((Path(src),), out, options)
    if options.preview:
        if options.preview.resolve() == out.resolve():
            raise OptionError(f"{out}: is the preview too: give the preview another name")
        if options.preview.suffix.lower() != ".png":
            raise OptionError(f"preview {options.preview} is no .png: give a name that ends in .png")
        check_output(options.preview, overwrite=options.overwrite)


def _refuse_inputs(inputs: Iterable[Path], out: Path, options: TranslateOptions) -> None:
    """Refuse to write over the scene, or over a file that it is made of (a VRT's sources)."""
    for source in (source for source in inputs if not is_remote(source)):
        for path in (out, options.preview):
            if path and path.exists() and source.exists() and path.samefile(source):
                raise OptionError(f"{path}: is the scene itself, or a part of it: give another output")


def _encodings(scene: SceneSource, signature: ModelSignature, stretch: Stretch | None) -> list[Encoding]:
    """Fix how each band becomes model input, from the whole scene's statistics."""
    samples = scene.read_samples()
    if scene.unit is None or not samples[0].size:
        return [AS_IT_IS] * len(signature.bands)  # no valid pixel will be encoded
    unit, stretches = choose_stretch(scene.unit, signature, stretch)
    encodings = []
    for sample, chosen in zip(samples, stretches, strict=True):
        low, high = resolve(chosen, convert(sample, scene.unit, unit))
        encodings.append(Encoding(scene.unit, unit, low, high))
    return encodings


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _versions(engine: Engine) -> dict[str, str]:
    found = {"sar2optical": __version__, "numpy": np.__version__}
    found |= {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}
    library = LIBRARIES.get(engine.backend, engine.backend)
    for name in (library, f"{library}-gpu"):
        with suppress(PackageNotFoundError):
            found[library] = version(name)
    return found


def _hash_of_values(scene: SceneSource) -> str:
    digest = hashlib.sha256()
    for sample in scene.read_samples():
        digest.update(np.ascontiguousarray(sample).data)
    return digest.hexdigest()[:16]


def _calibration_of(product: ProductOptions) -> str:
    noise, border = ", noise removed" * product.denoise, ", border kept" * (not product.border)
    return f"{product.calibration}{noise}{border}"


def _manifest(
    scene: SceneSource,
    model: Path,
    engine: Engine,
    grid: WindowGrid,
    encodings: list[Encoding],
    options: TranslateOptions,
) -> Manifest:
    """Gather everything that decides the pixels; batch size, threads and memory do not."""
    height, width = scene.shape
    path = Path(scene.path)
    said = {
        "nodata": options.scene.nodata,
        "scale": options.scene.scale,
        # Where names tell the bands, it does not matter how they were asked for.
        "band": ", ".join(options.scene.bands) if options.scene.bands and None in scene.polarisations else None,
        "calibration": _calibration_of(options.product or ProductOptions()) if is_product(path) else None,
        # A server does not tell when its file was changed; values from all over it do.
        "values": None if is_local(path) else _hash_of_values(scene),
    }
    return Manifest(
        {
            "scene": identity_of((path, *(file for file in scene.files if str(file) != scene.path))),
            "size": f"{width} x {height}",
            "bands": ",".join(name or "unknown" for name in scene.polarisations),
            "stretch": "; ".join(f"{e.source} as {e.target}, {e.low!r} to {e.high!r}" for e in encodings),
            "geocode": str(options.geocode) if options.geocode else "no",
            "overlap": str(grid.overlap),
            "window": str(grid.window),
            "model": _hash_of(model),
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            **({} if engine.fallback == engine.precision else {"fallback": engine.fallback}),
            "library": _versions(engine).get(LIBRARIES.get(engine.backend, ""), "unknown"),
            "version": __version__,
            **{name: str(value) for name, value in said.items() if value is not None},
        }
    )


def _tell(scene: SceneSource, signature: ModelSignature, encodings: list[Encoding], engine: Engine) -> None:
    """Say what was resolved, and warn where the model sees what it was not trained on."""
    height, width = scene.shape
    name = Path(scene.path).name
    shown = ", ".join(str(encoding) for encoding in encodings)
    _log.info("%s: %d x %d, unit %s (%s), stretch %s", name, width, height, scene.unit, scene.unit_reason, shown)
    if isinstance(scene, Geocoded):
        _log.info("%s: %s", name, scene.note)
    _log.info("%s: %s", signature.name, engine)
    for found, wanted in zip(scene.polarisations, signature.bands, strict=True):
        polarisations = alternatives(wanted)
        if found is None and len(polarisations) == 1:
            _log.warning("%s: no polarisation is named; taken as %s", name, wanted)
        elif found is not None and found not in polarisations:
            _log.warning("%s: %s goes into a model trained on %s; expect other colours", name, found, listed(wanted))
    if not scene.read_samples()[0].size:
        _log.warning("%s: holds no valid pixel; its mosaic will be empty, and masked throughout", name)
    if signature.pixel_size:
        _tell_size(name, pixel_size(scene), signature.pixel_size)


def _tell_size(name: str, size: tuple[float, float] | None, trained: float) -> None:
    """Warn where a side of the scene's pixels is not about as long as the model was trained on."""
    if size is None or all(1 / _OTHER_SIZE <= side / trained <= _OTHER_SIZE for side in size):
        return
    area = math.sqrt(size[0] * size[1])
    remedy = f": --geocode auto-utm --resolution {trained:g} resamples it" if trained / 3 < area < 3 * trained else ""
    alike = max(size) / min(size) < _OTHER_SIZE
    _log.warning(
        "%s: its pixels are %s m, the model was trained on %.3g m; expect other textures%s",
        *(name, f"{area:.3g}" if alike else f"{size[0]:.3g} x {size[1]:.3g}", trained, remedy),
    )


def _tags(
    scene: SceneSource, manifest: Manifest, engine: Engine, encodings: list[Encoding], options: TranslateOptions
) -> dict[str, str]:
    return {
        "TIFFTAG_SOFTWARE": f"sar2optical {__version__}",
        **generated_tags(engine.signature.name),
        "SAR2OPTICAL_VERSION": __version__,
        "SAR2OPTICAL_MODEL": engine.signature.name,
        "SAR2OPTICAL_MODEL_SHA256": manifest.entries["model"],
        "SAR2OPTICAL_ENGINE": str(engine),
        "SAR2OPTICAL_BATCH": str(engine.batch),
        RUN_TAG: manifest.fingerprint,
        "SAR2OPTICAL_SOURCE": Path(redacted(scene.path)).name,
        "SAR2OPTICAL_BANDS": ",".join(name or "unknown" for name in scene.polarisations),
        "SAR2OPTICAL_UNITS": scene.unit or "unknown",
        "SAR2OPTICAL_STRETCH": "; ".join(str(encoding) for encoding in encodings),
        "SAR2OPTICAL_OVERLAP": str(options.overlap),
        **({"SAR2OPTICAL_GEOCODING": scene.note} if isinstance(scene, Geocoded) else {}),
    }
