"""Files of chips, opened with GDAL: damage is refused, the absence of a georeference is not mentioned."""

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

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Suffixes of chips; other files in the folders are ignored."""

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def refuse_damaged(path: Path) -> None:
    """Refuse a file that is missing, may not be read, or is a PNG file with damage that GDAL overlooks.

    Raises
    ------
    DataError
    """
    try:
        damage = png_damage(path)
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error}): check the file") from error
    if damage:
        raise DataError(f"{path}: not readable ({damage}): fetch it again")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a chip with GDAL.

    Yields
    ------
    rasterio.DatasetReader

    Raises
    ------
    DataError
        Where GDAL does not open the file, or fails to read from it.
    """
    expect_no_place()
    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: not readable ({cause}): fetch it again") from error


def expect_no_place() -> None:
    """Let rasterio stay quiet about chips without a georeference, from now on.

    For good, because `warnings.catch_warnings` changes the filters of all threads, and chips are read in several.
    """
    if not any(kept[0] == "ignore" and kept[2] is NotGeoreferencedWarning for kept in warnings.filters):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
