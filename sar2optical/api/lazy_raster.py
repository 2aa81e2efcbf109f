"""Bands and mask of a raster as lazy arrays of xarray, read by window when they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from sar2optical.errors import SceneUnreadable
from sar2optical.mosaic.rasters import open_raster

__all__ = ["lazy_array"]


def lazy_array(path: Path, shape: tuple[int, ...]) -> indexing.LazilyIndexedArray:
    """Return the bands of a raster, uint8 (band, y, x), or its mask, bool (y, x), for a shape of two."""
    return indexing.LazilyIndexedArray(_Bands(path, shape))


class _Bands(BackendArray):
    """A raster that reads what is indexed (xarray, "How to add a new backend")."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8 if len(shape) == 3 else np.bool_)
        self._path = path

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        """Read the window that slices and integers of the last two axes span, then index it."""
        across = [slice(k, k + 1) if isinstance(k, int | np.integer) else k for k in key[-2:]]
        spans = tuple(s.indices(side)[:2] for s, side in zip(across, self.shape[-2:], strict=True))
        with open_raster(self._path) as dataset:
            if dataset.shape != self.shape[-2:]:
                raise SceneUnreadable(f"{self._path}: the mosaic has changed since it was opened: open it again")
            found = (
                dataset.read([1, 2, 3], window=spans) if len(key) == 3 else dataset.dataset_mask(window=spans) != 0
            )
        found = found[(..., *(slice(None, None, s.step) for s in across))]
        return found[(*key[:-2], *(0 if isinstance(k, int | np.integer) else slice(None) for k in key[-2:]))]
