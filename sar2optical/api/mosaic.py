"""Open mosaics as lazy xarray datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sar2optical.errors import BackendNotInstalled, SceneUnreadable
from sar2optical.mosaic.rasters import open_raster

__all__ = ["open_mosaic"]

_RGB = ["red", "green", "blue"]


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
        `rgb`, uint8 (band, y, x), with the names of the bands, else red, green and blue; and `valid`, bool (y, x).
        Where the mosaic has an affine without rotation, `y` and `x` are the centres of the pixels, and `spatial_ref`
        holds the CRS as CF and rioxarray do; others have no coordinates. The attributes are the mosaic's tags. A JPEG
        has no mask: all of its pixels are valid.

    Raises
    ------
    SceneUnreadable
        If the file cannot be opened.
    BackendNotInstalled
        If xarray is not installed.
    """
    try:
        import xarray

        from sar2optical.api.lazy_raster import lazy_array
    except ImportError as error:
        raise BackendNotInstalled("open_mosaic needs xarray: pip install 'sar2optical[xarray]'") from error
    path = Path(path).absolute()
    try:
        with open_raster(path) as dataset:
            shape, crs, transform, tags = dataset.shape, dataset.crs, dataset.transform, dataset.tags()
            colours, dtypes = [kind.name for kind in dataset.colorinterp], set(dataset.dtypes)
            names = [name or colour for name, colour in zip(dataset.descriptions, colours, strict=True)][:3]
    except OSError as error:
        raise SceneUnreadable(f"{path}: cannot open the mosaic ({error}): check the path") from error
    if colours not in (_RGB, [*_RGB, "alpha"]) or dtypes != {"uint8"}:
        raise SceneUnreadable(
            f"{path}: is not an RGB mosaic of bytes: open it with rasterio, or give one of three bands"
        )

    coords: dict[str, Any] = {"band": names}
    if transform and not transform.is_identity and transform.b == transform.d == 0:
        coords["y"] = transform.f + (np.arange(shape[0]) + 0.5) * transform.e
        coords["x"] = transform.c + (np.arange(shape[1]) + 0.5) * transform.a
        geotransform = " ".join(map(str, transform.to_gdal()))
        coords["spatial_ref"] = ((), 0, {"crs_wkt": crs.to_wkt() if crs else "", "GeoTransform": geotransform})
    lazy = {
        "rgb": (("band", "y", "x"), lazy_array(path, (3, *shape))),
        "valid": (("y", "x"), lazy_array(path, shape)),
    }
    return xarray.Dataset(lazy, coords=coords, attrs=tags)
