"""Options of a run, and the report that it returns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sar2optical.engines import EngineOptions
from sar2optical.mosaic.coding import BLOCKSIZE, COMPRESSIONS, BlockCoding
from sar2optical.scene.area import Area
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.decoding import PixelType
from sar2optical.scene.geocode.target import Target
from sar2optical.scene.safe.product import ProductOptions
from sar2optical.signature import Stretch
from sar2optical.tiling.windows import DEFAULT_OVERLAP

__all__ = ["OnProgress", "Report", "TranslateOptions"]

OnProgress = Callable[[str, int, int], None]
"""Callback of (stage, done, total): stage is "check", "translate" or "mosaic"; done and total are pixels."""


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Options of a run, beside the scene and the model."""

    backend: str = "auto"
    """Backend that runs the model: auto, or a name of `sar2optical.engines.registry.BACKENDS`."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """Device, precision, threads and batch size."""
    scene: SceneOptions = field(default_factory=SceneOptions)
    """Bands, unit, nodata and scale of the scene."""
    product: ProductOptions | None = None
    """Calibration of a Sentinel-1 product; refused for other rasters. None: sigma0, without noise removal."""
    geocode: Target | None = None
    """Map grid to bring the scene to first; None: the mosaic keeps the scene's georeference."""
    area: Area | None = None
    """Area that the mosaic is cut to; None: the whole scene."""
    stretch: Stretch | None = None
    """Stretch that replaces the model's own."""
    window: int | None = None
    """Height and width of the windows, one of those that the model takes; None: the one that its file names for
    this, else that of its training."""
    overlap: int = DEFAULT_OVERLAP
    """Least number of pixels that neighbouring windows share."""
    output_bands: tuple[str, ...] = ()
    """Names of the model's bands that the mosaic has; ("all",): all of them. Empty: red, green and blue."""
    dtype: PixelType | None = None
    """Type of the mosaic's pixels, see `sar2optical.scene.decoding.decoding_for`; None: uint8."""
    compress: str = COMPRESSIONS[0]
    """Compression of a GeoTIFF, one of `COMPRESSIONS`."""
    blocksize: int = BLOCKSIZE
    """Side of a GeoTIFF's blocks in pixels, a multiple of 16."""
    worldfile: bool = False
    """Write a world file and `.aux.xml` beside a picture."""
    overwrite: bool = False
    """Replace outputs that exist."""
    preview: Path | None = None
    """Path of a small picture (PNG) to write as well."""
    restart: bool = False
    """Delete what an interrupted run has left, instead of resuming it."""
    max_memory: int | None = None
    """Limit of the memory of this process in bytes, engine included; None: what the scene's width needs, about 1 GB
    without the engine."""
    seams: bool = False
    """Measure the seams, for the report."""

    def __post_init__(self) -> None:
        _ = self.coding  # refuses what cannot be written, before anything is opened

    @property
    def coding(self) -> BlockCoding:
        """Size and compression of a GeoTIFF's blocks."""
        return BlockCoding(compress=self.compress, blocksize=self.blocksize)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did."""

    out: str
    """Path or address of the mosaic."""
    shape: tuple[int, int]
    """Height and width of the mosaic."""
    windows: int
    """Windows of the scene."""
    windows_run: int
    """Windows with a valid pixel that this run took through the engine."""
    rows_kept: int
    """Pixel rows that an earlier run had finished."""
    seconds_windows: float
    """Seconds from the first read to the last strip."""
    seconds_mosaic: float
    """Seconds that assembling the output took."""
    seconds: float
    """Seconds in all, opening and statistics included."""
    busy: Mapping[str, float]
    """Seconds that each stage was at work, summed over its threads."""
    idle: Mapping[str, float]
    """Share of `seconds_windows` that each stage's threads waited, 0 to 1."""
    gpu_busy: float
    """Seconds that the GPU was at work, by its own clock; 0 on a CPU."""
    moved: tuple[int, int]
    """Bytes copied to the GPU, and from it; 0 on a CPU."""
    peak_memory: int
    """Peak memory of this process so far in bytes; 0 where the system does not report it."""
    seam_score: float | None
    """Steps at window edges over steps elsewhere, see `sar2optical.tiling.seams`; None where not asked for."""
    engine: str
    """Backend, precision and device that ran."""
    model: str
    """Name of the model."""
    unit: str
    """Unit of the scene's values."""
    stretch: str
    """Stretch of each band."""
    manifest: Mapping[str, str]
    """Everything that decides the pixels."""
    versions: Mapping[str, str]
    """Versions of the libraries that took part."""

    @property
    def path(self) -> str:
        """Path or address of the mosaic, for `sar2optical.open_mosaic`."""
        return self.out

    @property
    def windows_skipped(self) -> int:
        """Windows without a valid pixel, or of strips that an earlier run had finished."""
        return self.windows - self.windows_run

    @property
    def megapixels_per_second(self) -> float:
        """Rate over the whole run."""
        return math.prod(self.shape) / 1e6 / self.seconds

    def to_json(self) -> str:
        """Return all fields as JSON."""
        record = {**asdict(self), "windows_skipped": self.windows_skipped}
        record["megapixels_per_second"] = self.megapixels_per_second
        return json.dumps(record, indent=1, allow_nan=False) + "\n"
