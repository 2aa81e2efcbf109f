"""Open mosaics as lazy xarray datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sar2optical.errors import BackendNotInstalled, SceneUnreadable
from sar2optical.mosaic.rasters import open_raster

__all__ = ["open_mosaic"]


def open_mosaic(path: str | Path) -> Any:
    """Open a mosaic as an xarray Dataset; pixels are read when they are used.

    Needs the extra `xarray`.

    Parameters
    ----------
    path
        Path of a mosaic.

    Returns
    -------
    xarray.Dataset
        `rgb`, uint8 (band, y, x), and `valid`, bool (y, x). Where the mosaic has an affine without rotation, `y` and
        `x` are the centres of the pixels, and `spatial_ref` holds the CRS as CF and rioxarray do. The attributes are
        the mosaic's tags.

    Raises
    ------
    SceneUnreadable
        If the file cannot be opened.
    BackendNotInstalled
        If xarray is not installed.
    """
    try:
        import xarray
        from xarray.core import indexing
    except ImportError as error:
        raise BackendNotInstalled("open_mosaic needs xarray: pip install 'sar2optical[xarray]'") from error
    try:
        with open_raster(Path(path)) as dataset:
            shape, crs, transform, tags = dataset.shape, dataset.crs, dataset.transform, dataset.tags()
    except OSError as error:
        raise SceneUnreadable(f"{path}: cannot open the mosaic ({error}): check the path") from error

    class Lazy(xarray.backends.BackendArray):
        """Bands of the mosaic, read by window."""

        def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
            self.shape, self.dtype = shape, np.dtype(dtype)

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

        def _read(self, key: tuple[Any, ...]) -> Any:
            rows, cols = (slice(k, k + 1) if isinstance(k, int | np.integer) else k for k in key[-2:])
            spans = [s.indices(n)[:2] for s, n in zip((rows, cols), self.shape[-2:], strict=True)]
            steps = tuple(slice(None, None, s.step) for s in (rows, cols))
            with open_raster(Path(path)) as dataset:
                found = (
                    dataset.read(window=tuple(spans)) if len(key) == 3 else dataset.dataset_mask(window=tuple(spans))
                )
            found = (found if len(key) == 3 else found != 0)[(..., *steps)]
            squeeze = tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key[-2:])
            return found[(*key[:-2], *squeeze)]

    coords: dict[str, Any] = {"band": ["red", "green", "blue"]}
    if transform and not transform.is_identity and transform.b == transform.d == 0:
        coords["y"] = transform.f + (np.arange(shape[0]) + 0.5) * transform.e
        coords["x"] = transform.c + (np.arange(shape[1]) + 0.5) * transform.a
        geotransform = " ".join(map(str, transform.to_gdal()))
        coords["spatial_ref"] = ((), 0, {"crs_wkt": crs.to_wkt() if crs else "", "GeoTransform": geotransform})
    lazy = {
        "rgb": (("band", "y", "x"), indexing.LazilyIndexedArray(Lazy((3, *shape), np.uint8))),
        "valid": (("y", "x"), indexing.LazilyIndexedArray(Lazy(shape, np.bool_))),
    }
    return xarray.Dataset(lazy, coords=coords, attrs=tags)
