"""Open chip files with GDAL: refuse damaged files, and silence warnings about missing georeferences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from sar2optical.data.png import png_damage
from sar2optical.errors import DataError

__all__ = ["RGB", "SUFFIXES", "opened", "refuse_damaged", "silence_georeference_warnings"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Suffixes of chips; other files are ignored."""

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
"""Colour interpretation of an RGB image."""


def refuse_damaged(path: Path) -> None:
    """Refuse a file that is missing, unreadable, or a PNG file with damage that GDAL does not detect.

    Raises
    ------
    DataError
        If the file is refused.
    """
    try:
        damage = png_damage(path)
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error}): check path and permissions") from error
    if damage:
        raise DataError(f"{path}: not readable ({damage}): download it again")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a chip with GDAL.

    Yields
    ------
    rasterio.DatasetReader

    Raises
    ------
    DataError
        If GDAL cannot open the file or read from it.
    """
    silence_georeference_warnings()
    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: not readable ({cause}): download it again") from error


def silence_georeference_warnings() -> None:
    """Silence rasterio's warnings about missing georeferences for the rest of the process.

    `warnings.catch_warnings` is not thread-safe, and chips are read in several threads.
    """
    if not any(kept[0] == "ignore" and kept[2] is NotGeoreferencedWarning for kept in warnings.filters):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
