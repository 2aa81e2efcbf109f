"""Reasons why a raster cannot be read: what rasterio raises, as messages that name the remedy."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio.errors import CRSError, RasterioError

from sar2optical._utils.addresses import redacted
from sar2optical._utils.files import cause
from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.errors import Sar2OpticalError, SceneUnreadable
from sar2optical.scene.containers import rasters_of
from sar2optical.scene.remote import failure, is_remote

__all__ = ["DAMAGE", "gdal_cause", "readable_tags", "why_unreadable"]

DAMAGE = (RasterioError, CPLE_BaseError, CRSError, OSError, UnicodeError)
"""Exceptions that rasterio raises on damaged files."""


def gdal_cause(error: BaseException) -> str:
    """Return GDAL's message without the path, which our message names already."""
    text = re.sub(r"(`|')[^']*/[^']*'|^\S*/\S*: ", "", cause(error))
    return text.strip().rstrip(".") or type(error).__name__


@contextmanager
def readable_tags(path: str | Path) -> Iterator[None]:
    """Turn exceptions from reading tags, names and the georeference into ours: a damaged file may still open.

    Raises
    ------
    SceneUnreadable
    """
    try:
        yield
    except Sar2OpticalError:
        raise
    except DAMAGE as error:
        raise SceneUnreadable(
            f"{path}: its tags cannot be read ({gdal_cause(error)}): the file is damaged, fetch it again"
        ) from error


def why_unreadable(given: str | Path, error: Exception) -> str:
    """Compose the message for a path that GDAL cannot open: the reason and the remedy.

    Parameters
    ----------
    given
        Path or address.
    error
        Exception that rasterio raised on it.
    """
    if is_remote(given):
        return f"{redacted(given)}: cannot be opened: {failure(given)}"
    path = Path(given)
    if path.is_dir():
        return f"{path}: is a folder that GDAL cannot read: give the raster file"
    if path.is_file():
        return _why_no_raster(path, error)
    if str(path).startswith("/vsi"):
        return f"{path}: cannot be opened ({gdal_cause(error)}): check the address"
    return f"{path}: no such file: check the path"


def _why_no_raster(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"{path}: is empty (0 bytes): fetch it again"
    if held := rasters_of(path):
        return f"{path}: is not a raster itself: give one of the rasters in it, {', '.join(held[:4])}"
    if path.suffix.lower() == ".dim":
        return f"{path}: is only SNAP's header: put the folder {path.with_suffix('.data').name} beside it"
    if zipfile.is_zipfile(path):
        return f"{path}: contains no GeoTIFF, .img or .vrt: unpack it, and give the raster"
    return f"{path}: is not a raster, or damaged ({gdal_cause(error)}): give a GeoTIFF, or fetch it again"
