"""One strip on disk: rows of a mosaic, written whole or not at all, and checked before they are trusted."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from sar2optical._utils.files import write_whole

RUN_TAG = "SAR2OPTICAL_RUN"
"""Fingerprint of the run that a strip belongs to."""

_NAME_TAG = "SAR2OPTICAL_STRIP"
"""File name of the strip, which says its rows: a strip under another's name is not taken for it."""

_DIGEST_TAG = "SAR2OPTICAL_PIXELS_SHA256"
_OPTIONS = {"compress": "zstd", "zstd_level": 1, "interleave": "band", "blockysize": 16}


def encode(bands: npt.NDArray[np.uint8], *, driver: str, tags: dict[str, str] | None = None, **options: Any) -> bytes:
    """Encode uint8 `(bands, rows, width)` in memory."""
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
    """Write rows to disk, for good.

    Encoded in memory and written by Python, because GDAL reports a full disk late or not at all.

    Parameters
    ----------
    path
        A GeoTIFF (ZSTD); the old file or the new one, never a part.
    rgba
        uint8 `(4, rows, width)`: red, green, blue, and 255 where valid.
    run
        Fingerprint of the run, which `read_strip` asks for.

    Raises
    ------
    OSError
        Where the disk is full or takes no file.
    """
    # A worker that was believed to be lost may be at the same strip.
    write_whole(path, encoded_strip(rgba, run, path.name), mark=f".{os.getpid()}")


def encoded_strip(rgba: npt.NDArray[np.uint8], run: str = "", name: str = "") -> bytes:
    """Encode a strip as `write_strip` writes it to a file of that name."""
    tags = {RUN_TAG: run, _NAME_TAG: name, _DIGEST_TAG: _digest(rgba)}
    # The transform means nothing, but without one rasterio warns.
    return encode(rgba, driver="GTiff", tags=tags, transform=Affine.translation(1, 1), **_OPTIONS)


def read_strip(path: Path, *, width: int, run: str) -> npt.NDArray[np.uint8] | None:
    """Read a strip back; None where it is missing, another run's, of other rows, or not what was written.

    Returns
    -------
    ndarray or None
        uint8 `(4, rows, width)`.
    """
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of a damaged one
            with rasterio.open(path, driver="GTiff") as dataset:
                kinds = (dataset.count, dataset.width, set(dataset.dtypes))
                tags = dataset.tags()
                if kinds != (4, width, {"uint8"}) or not _is_tagged(tags, path, run):
                    return None
                rgba: npt.NDArray[np.uint8] = dataset.read()
    except (RasterioError, OSError, MemoryError):
        return None
    return rgba if _digest(rgba) == tags.get(_DIGEST_TAG) else None


def is_of(path: Path, run: str) -> bool:
    """Say whether a strip carries this run's fingerprint and its own name; its pixels are not looked at."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as dataset:
                return _is_tagged(dataset.tags(), path, run)
    except (RasterioError, OSError):
        return False


def _is_tagged(tags: dict[str, str], path: Path, run: str) -> bool:
    return tags.get(RUN_TAG, "") == run and tags.get(_NAME_TAG) == path.name


def _digest(rgba: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rgba).data).hexdigest()
