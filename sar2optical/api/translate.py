"""Translate scenes, and estimate runs, with plain keywords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sar2optical.api.keywords import (
    Bound,
    engine_options,
    model_path,
    naming_keywords,
    output_bands_of,
    product_options,
    scene_options,
    stretch_of,
    target_of,
)
from sar2optical.api.source import source_path, unit_of
from sar2optical.mosaic.coding import BLOCKSIZE, COMPRESSIONS
from sar2optical.pipeline.estimate import Estimate
from sar2optical.pipeline.estimate import estimate as estimate_run
from sar2optical.pipeline.options import OnProgress, Report, TranslateOptions
from sar2optical.pipeline.run import translate as translate_scene
from sar2optical.scene.area import area_of
from sar2optical.scene.decoding import PixelType
from sar2optical.scene.geocode.target import Target
from sar2optical.scene.safe.calibrate import Calibration
from sar2optical.signature import ModelSignature, Stretch, Unit
from sar2optical.tiling.windows import DEFAULT_OVERLAP

__all__ = ["estimate", "translate"]


# More than 8 parameters, and a long docstring: `help(translate)` shows every option, as in rasterio and xarray.
def translate(
    scene: Any,
    out: str | Path,
    *,
    model: str | Path | None = None,
    signature: ModelSignature | str | Path | None = None,
    bands: Sequence[str | int] | None = None,
    unit: Unit | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    calibration: Calibration | None = None,
    denoise: bool = False,
    geocode: str | Target | None = None,
    resolution: float | None = None,
    bbox: Sequence[float] | None = None,
    bbox_crs: str | None = None,
    aoi: Any = None,
    stretch: Stretch | tuple[Bound, Bound] | None = None,
    window: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    output_bands: Sequence[str] | str | None = None,
    dtype: PixelType | None = None,
    compress: str = COMPRESSIONS[0],
    blocksize: int = BLOCKSIZE,
    preview: str | Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    max_memory: int | None = None,
    seams: bool = False,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
    options: TranslateOptions | None = None,
) -> Report:
    """Translate a SAR scene into an RGB mosaic of the same shape and georeference.

    A run that ends early leaves its strips in `OUT.parts`; the same call, with the same values if the scene is an
    array, resumes from them.

    Parameters
    ----------
    scene
        Path or address of anything that GDAL opens, or of a Sentinel-1 product; a list of paths, one for each
        polarisation; path of a STAC Item; an open rasterio dataset; a numpy (masked) array (H, W) or (bands, H, W);
        an xarray DataArray.
    out
        Path of the mosaic: .tif (cloud-optimized GeoTIFF), .png or .jpg; or an `s3://` address. Written atomically.
    model
        Path of an engine file (.onnx, .pth, .plan), or a published name; the bundled generator by default.
    signature
        Path of a JSON file that describes an .onnx model, or a `ModelSignature`, instead of the one in the file.
    bands
        Polarisations ("VH") or indices from 1, one for each band of the model.
    unit
        Unit of the (scaled) values: dn, amplitude, power, db or byte; by default from the file.
    nodata
        Stored value that is no measurement, beside what the file declares.
    scale
        Factor from stored values to their unit; by default from the file.
    calibration
        Calibration of a Sentinel-1 product: sigma0 (default), gamma0, beta0 or dn.
    denoise
        Subtract the thermal noise of a Sentinel-1 product.
    geocode
        CRS of a map grid to resample the scene to ("EPSG:32643", "auto-utm").
    resolution
        Side of a pixel of that grid, in the CRS's unit.
    bbox
        Cut the mosaic to west, south, east and north, in longitude and latitude.
    bbox_crs
        CRS of `bbox` instead ("EPSG:32643").
    aoi
        Cut and mask the mosaic to polygons: path of a GeoJSON file, GeoJSON as a dict, or a geometry of shapely.
    stretch
        Two bounds, as values (0, 200) or percentiles ("p1", "p99"); by default the model's own.
    window
        Side of the windows, one that the model takes; None: the file's auto window, else that of training.
    overlap
        Least number of pixels that neighbouring windows share.
    output_bands
        "all", or names of the model's output bands; by default those shown as red, green and blue.
    dtype
        Type of the mosaic: uint8 (default), values as they are shown; uint16, reflectance * 10000 or the model's
        range; float32, values as they are.
    compress
        Compression of a GeoTIFF: deflate, zstd, lzw, jpeg, webp or none.
    blocksize
        Side of a GeoTIFF's blocks in pixels, a multiple of 16.
    preview
        Path of a small picture (.png) to write as well.
    overwrite
        Replace outputs that exist.
    restart
        Delete what an interrupted run has left, instead of resuming it.
    backend, device, precision, threads, batch
        See `open_engine`.
    max_memory
        Limit of the memory of this process in bytes, engine included.
    seams
        Measure the seams, for the report.
    on_progress
        Called with (stage, done, total): stage is "check", "translate" or "mosaic", done and total are pixels.
    stop
        Called now and then. If it returns True, the current strip is finished and `Interrupted` is raised.
    options
        A `TranslateOptions` object instead of all keywords from `signature` to `seams`.

    Returns
    -------
    Report

    Raises
    ------
    Sar2OpticalError
        A subclass for each failure that the caller can correct, see `sar2optical.errors`.
    """
    given = dict(locals())
    with naming_keywords(), source_path(scene) as src:
        options = _options(_with_unit(scene, given))
        return translate_scene(src, out, model=model_path(model), options=options, on_progress=on_progress, stop=stop)


def estimate(scene: Any, out: str | Path, *, model: str | Path | None = None, **keywords: Any) -> Estimate:
    """Estimate windows, memory, disk and time of a run; writes nothing.

    Reads the whole scene once, and runs a few of its windows.

    Parameters
    ----------
    scene, out, model
        See `translate`.
    **keywords
        Options of `translate`, `signature` to `seams`, or `options`.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError
        If a keyword is unknown.
    Sar2OpticalError
        See `translate`.
    """
    defaults = dict(_DEFAULTS)
    for name in ("model", "on_progress", "stop"):
        defaults.pop(name)
    if unknown := keywords.keys() - defaults.keys():
        raise TypeError(f"estimate() got an unexpected keyword argument {min(unknown)!r}")
    with naming_keywords(), source_path(scene) as src:
        return estimate_run(
            src, out, model=model_path(model), options=_options(_with_unit(scene, {**defaults, **keywords}))
        )


_DEFAULTS: dict[str, Any] = translate.__kwdefaults__ or {}
_GROUPED = (
    "signature", "output_bands", "dtype",
    "bands", "unit", "nodata", "scale", "calibration", "denoise", "geocode", "resolution", "bbox", "bbox_crs", "aoi",
    "stretch", "window", "overlap", "compress", "blocksize", "preview", "overwrite", "restart", "backend", "device",
    "precision", "threads", "batch", "max_memory", "seams",
)  # fmt: skip


def _with_unit(scene: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Add the unit that an array carries, where no unit and no options object is given."""
    if given["options"] is not None or given["unit"] is not None:
        return given
    return {**given, "unit": unit_of(scene)}


def _options(given: dict[str, Any]) -> TranslateOptions:
    """Collect keywords in an options object."""
    if given["options"] is not None:
        if changed := [name for name in _GROUPED if given[name] != _DEFAULTS[name]]:
            raise TypeError(f"options and {changed[0]} are both given: set {changed[0]} in options")
        found: TranslateOptions = given["options"]
        return found
    return TranslateOptions(
        scene=scene_options(given["bands"], given["unit"], given["nodata"], given["scale"]),
        product=product_options(given["calibration"], given["denoise"]),
        geocode=target_of(given["geocode"], given["resolution"]),
        area=area_of(given["bbox"], given["bbox_crs"], given["aoi"]),
        stretch=stretch_of(given["stretch"]),
        engine=engine_options(
            given["device"], given["precision"], given["threads"], given["batch"], given["signature"]
        ),
        output_bands=output_bands_of(given["output_bands"]),
        dtype=given["dtype"],
        preview=None if given["preview"] is None else Path(given["preview"]),
        **{name: given[name] for name in ("window", "overlap", "compress", "blocksize", "overwrite", "restart")},
        **{name: given[name] for name in ("backend", "max_memory", "seams")},
    )
