"""Scenes from memory: arrays and open datasets become rasters that GDAL reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.vrt import WarpedVRT

from sar2optical.errors import OptionError
from sar2optical.mosaic.rasters import no_georeference_warning

__all__ = ["is_data_array", "source_path"]


def is_data_array(value: object) -> bool:
    """Return True for an xarray DataArray, without importing xarray."""
    return type(value).__module__.partition(".")[0] == "xarray" and hasattr(value, "dims")


@contextmanager
def source_path(source: Any) -> Iterator[str | Path]:
    """Yield a path that GDAL opens, for a path, an open dataset, an array or a DataArray.

    Parameters
    ----------
    source
        str or Path; an open rasterio dataset; a numpy (masked) array (H, W) or (bands, H, W), float32 or integers;
        a DataArray of the same shapes, whose `spatial_ref` gives CRS and affine, and whose attribute `units` gives
        the unit. Arrays are copied to memory.

    Raises
    ------
    OptionError
        If the source is of another kind.
    """
    if isinstance(source, str | Path):
        yield source
    elif isinstance(source, WarpedVRT):
        with MemoryFile(ext=".vrt") as memory:
            rasterio.shutil.copy(source, memory.name, driver="VRT")
            yield memory.name
    elif isinstance(source, DatasetReader):
        yield source.name
    elif is_data_array(source):
        with _written(np.ma.masked_invalid(source.values, copy=False), _from_xarray(source)) as path:
            yield path
    elif isinstance(source, np.ndarray):
        with _written(source, {}) as path:
            yield path
    else:
        raise OptionError(
            f"scene is a {type(source).__name__}: give a path, an open rasterio dataset, a numpy array or a DataArray"
        )


@contextmanager
def _written(array: NDArray[Any], georeference: Mapping[str, Any]) -> Iterator[str]:
    """Write an array as a GeoTIFF in memory; yield its path."""
    bands = array[None] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.size == 0 or bands.dtype.kind not in "iuf":
        raise OptionError(
            f"scene is an array of {array.dtype} {array.shape}: give real numbers of shape (H, W) or (bands, H, W)"
        )
    values = bands.astype(np.float32) if bands.dtype in (np.float16, np.float64) else bands
    tags, names = georeference.get("tags", {}), georeference.get("names", ())
    profile = {name: value for name, value in georeference.items() if name in ("crs", "transform")}
    count, height, width = values.shape
    profile |= {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with MemoryFile(ext=".tif") as memory:
        with (
            no_georeference_warning(),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            memory.open(**profile, bigtiff="if_safer") as dataset,
        ):
            dataset.write(np.ma.getdata(values))
            if np.ma.is_masked(values):
                dataset.write_mask(~np.ma.getmaskarray(values).any(axis=0))
            for k, name in enumerate(names, 1):
                dataset.set_band_description(k, name)
            dataset.update_tags(**tags)
        yield memory.name


def _from_xarray(array: Any) -> dict[str, Any]:
    """Read CRS, affine, unit and band names as rioxarray and CF store them."""
    found: dict[str, Any] = {"tags": {}}
    reference = array.coords.get("spatial_ref")
    attributes = {} if reference is None else reference.attrs
    wkt = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    if wkt:
        try:
            found["crs"] = CRS.from_wkt(wkt)
        except CRSError as error:
            raise OptionError(
                f"scene: the CRS of its spatial_ref cannot be read ({error}): write it again"
            ) from error
    if "GeoTransform" in attributes:
        found["transform"] = Affine.from_gdal(*map(float, str(attributes["GeoTransform"]).split()))
    elif {"x", "y"} <= set(array.coords) and array.sizes.get("x", 0) > 1 and array.sizes.get("y", 0) > 1:
        x, y = (np.asarray(array.coords[axis], np.float64) for axis in ("x", "y"))
        dx, dy = (x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)
        found["transform"] = Affine(dx, 0, x[0] - dx / 2, 0, dy, y[0] - dy / 2)
    if units := array.attrs.get("units"):
        found["tags"]["units"] = str(units)
    names = np.atleast_1d(array.coords["band"].values) if "band" in array.coords else ()
    if all(isinstance(name, str) for name in names):
        found["names"] = [str(name) for name in names]
    return found
