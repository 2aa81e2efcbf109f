"""Write and read one strip: rows of a mosaic on disk, written atomically, checked when they are read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from sar2optical._utils.files import write_whole
from sar2optical.mosaic.rasters import open_raster

__all__ = ["RUN_TAG", "belongs_to", "encode", "encoded_strip", "read_strip", "write_strip"]

RUN_TAG = "SAR2OPTICAL_RUN"
"""Tag: fingerprint of the run that a strip or a mosaic belongs to."""

_NAME_TAG = "SAR2OPTICAL_STRIP"
"""Tag: file name of the strip, which contains its first row. A renamed strip is therefore not used."""

_DIGEST_TAG = "SAR2OPTICAL_PIXELS_SHA256"
_OPTIONS = {"compress": "zstd", "zstd_level": 1, "interleave": "band", "blockysize": 16}


def encode(bands: npt.NDArray[np.uint8], *, driver: str, tags: dict[str, str] | None = None, **options: Any) -> bytes:
    """Encode uint8 `(bands, rows, width)` in memory with one of GDAL's drivers and its creation options."""
    count, height, width = bands.shape
    profile = {"driver": driver, "count": count, "height": height, "width": width, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(**profile, **options) as dataset:
            dataset.write(bands)
            if tags:
                dataset.update_tags(**tags)
        encoded: bytes = memory.read()
    return encoded


def write_strip(path: Path, rgba: npt.NDArray[np.uint8], run: str = "") -> None:
    """Write rows to disk, and flush them.

    They are encoded in memory and written by Python, because GDAL reports a full disk late or not at all.

    Parameters
    ----------
    path
        Path of the strip, a GeoTIFF (ZSTD); replaced atomically.
    rgba
        uint8 `(4, rows, width)`: red, green, blue, and 255 where valid.
    run
        Fingerprint of the run, which `read_strip` checks.

    Raises
    ------
    OSError
        The disk is full or not writable.
    """
    # A worker that Dask considers lost may still be writing the same strip.
    write_whole(path, encoded_strip(rgba, run, path.name), mark=f".{os.getpid()}")


def encoded_strip(rgba: npt.NDArray[np.uint8], run: str = "", name: str = "") -> bytes:
    """Encode a strip as `write_strip` writes it to a file named `name`."""
    tags = {RUN_TAG: run, _NAME_TAG: name, _DIGEST_TAG: _digest(rgba)}
    # The transform has no meaning: without one, rasterio warns.
    return encode(rgba, driver="GTiff", tags=tags, transform=Affine.translation(1, 1), **_OPTIONS)


def read_strip(path: Path, *, width: int, run: str) -> npt.NDArray[np.uint8] | None:
    """Read a strip; None if it is missing, of another run, of other rows or size, or damaged.

    Parameters
    ----------
    path
        Path of the strip.
    width
        Number of columns of the mosaic.
    run
        Fingerprint of the run.

    Returns
    -------
    ndarray or None
        uint8 `(4, rows, width)`.
    """
    if not path.is_file():
        return None
    try:
        with open_raster(path, driver="GTiff") as dataset:
            kinds = (dataset.count, dataset.width, set(dataset.dtypes))
            tags = dataset.tags()
            if kinds != (4, width, {"uint8"}) or not _is_tagged(tags, path, run):
                return None
            rgba: npt.NDArray[np.uint8] = dataset.read()
    except (RasterioError, OSError, MemoryError):
        return None
    return rgba if _digest(rgba) == tags.get(_DIGEST_TAG) else None


def belongs_to(path: Path, run: str) -> bool:
    """Return whether a strip carries this run's fingerprint and its own name; its pixels are not checked."""
    try:
        with open_raster(path, driver="GTiff") as dataset:
            return _is_tagged(dataset.tags(), path, run)
    except (RasterioError, OSError):
        return False


def _is_tagged(tags: dict[str, str], path: Path, run: str) -> bool:
    return tags.get(RUN_TAG, "") == run and tags.get(_NAME_TAG) == path.name


def _digest(rgba: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rgba).data).hexdigest()
