"""Open rasters that have no georeference on purpose, without rasterio's warning about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader

__all__ = ["no_georeference_warning", "open_raster"]


@contextmanager
def no_georeference_warning() -> Iterator[None]:
    """Suppress `NotGeoreferencedWarning`.

    All threads share the warning filters: keep the block short, and do not use it while a scene is streamed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def open_raster(path: Path, **options: Any) -> DatasetReader:
    """Open a raster for reading, with or without a georeference.

    Parameters
    ----------
    path
        Path of the raster.
    options
        Keyword arguments of `rasterio.open`.
    """
    with no_georeference_warning():
        return rasterio.open(path, **options)
