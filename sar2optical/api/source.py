"""Scenes from memory: arrays and open datasets become rasters that GDAL reads."""

from __future__ import annotations

import hashlib
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
from sar2optical.mosaic.rasters import no_georeference_warning, open_raster
from sar2optical.scene.sources import Source, source_of
from sar2optical.signature import UNITS, Unit

__all__ = ["is_data_array", "source_path", "spatial_dims", "unit_of"]


def is_data_array(value: object) -> bool:
    """Return True for an xarray DataArray, without importing xarray."""
    return type(value).__module__.partition(".")[0] == "xarray" and hasattr(value, "dims")


@contextmanager
def source_path(source: Any) -> Iterator[Source]:
    """Yield what `sar2optical.scene.open_scene` opens, for paths, an open dataset, an array or a DataArray.

    Parameters
    ----------
    source
        str or Path, also of a STAC Item; a list of paths, one for each polarisation; an open rasterio dataset; a
        numpy (masked) array (H, W) or (bands, H, W), float32 or integers;
        a DataArray of the same shapes, whose `spatial_ref` gives CRS and affine, and whose attributes
        `units`, `_FillValue`, `scale_factor` and `add_offset` count. Arrays are copied to memory.

    Raises
    ------
    OptionError
        If the source is of another kind.
    """
    if isinstance(source, str | Path):
        yield source_of([source])
    elif isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        yield source_of(source)
    elif isinstance(source, WarpedVRT):
        with MemoryFile(ext=".vrt") as memory:
            rasterio.shutil.copy(source, memory.name, driver="VRT")
            yield memory.name
    elif isinstance(source, DatasetReader):
        yield _name_of(source)
    elif is_data_array(source):
        ordered = source.transpose(..., *spatial_dims(source))
        with _written(ordered.values, _from_xarray(ordered)) as path:
            yield path
    elif isinstance(source, np.ndarray):
        with _written(source, {}) as path:
            yield path
    else:
        raise OptionError(
            f"scene is a {type(source).__name__}: give a path, an open rasterio dataset, a numpy array or a DataArray"
        )


def _name_of(dataset: DatasetReader) -> str:
    """Return the path of an open dataset, if it gives the same raster when it is opened again."""
    if dataset.closed:
        raise OptionError(f"scene: the dataset {dataset.name} is closed: open it, or give its path")
    with open_raster(Path(dataset.name)) as again:
        same = (again.shape, again.count, again.transform) == (dataset.shape, dataset.count, dataset.transform)
    if not same:
        raise OptionError(
            f"scene: the dataset {dataset.name} was opened with options that change its shape, such as "
            "overview_level: give a WarpedVRT, or the values as an array"
        )
    name: str = dataset.name
    return name


def unit_of(source: Any) -> Unit | None:
    """Return the unit that an array carries; None if there is none, or its text has to be interpreted."""
    attached = getattr(source, "unit", None) if isinstance(source, np.ndarray) else None
    text = attached or (source.attrs.get("units") if is_data_array(source) else None)
    return next((unit for unit in UNITS if str(text).lower() == unit), None)


@contextmanager
def _written(array: NDArray[Any], georeference: Mapping[str, Any]) -> Iterator[str]:
    """Write an array as a GeoTIFF in memory; yield its path."""
    bands = array[None] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.size == 0 or bands.dtype.kind not in "iuf":
        raise OptionError(
            f"scene is an array of {array.dtype} {array.shape}: give real numbers of shape (H, W) or (bands, H, W)"
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is invalid
        values = bands.astype(np.float32) if bands.dtype.kind == "f" else bands.astype(bands.dtype.newbyteorder("="))
    if values.dtype.itemsize == 8:
        raise OptionError(f"scene is an array of {array.dtype}: give at most 32 bits, for example as float32")
    tags, names = georeference.get("tags", {}), georeference.get("names", ())
    profile = {name: value for name, value in georeference.items() if name in ("crs", "transform", "nodata")}
    if values.dtype.kind == "f" and np.ma.is_masked(values):  # bands may have masks of their own
        values = np.ma.filled(values, np.float32("nan"))
    count, height, width = values.shape
    profile |= {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    # The name holds the content: a run resumes with the same array, and with no other.
    content = hashlib.sha256(np.ascontiguousarray(np.ma.getdata(values)).data)
    content.update(np.packbits(np.ma.getmaskarray(values)).data)
    content.update(repr((values.shape, values.dtype.str, sorted(map(str, georeference.items())))).encode())
    with MemoryFile(filename=f"array-{content.hexdigest()}.tif") as memory:
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
            if (scaling := georeference.get("scaling", (1.0, 0.0))) != (1.0, 0.0):
                dataset.scales, dataset.offsets = ((value,) * count for value in scaling)
            dataset.update_tags(**tags)
        yield memory.name


_SPATIAL = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"))


def spatial_dims(array: Any) -> tuple[str, str]:
    """Return the names of a DataArray's rows and columns.

    Raises
    ------
    OptionError
        If they are not evident: neither named y and x (latitude and longitude), nor the last of unnamed dimensions.
    """
    for y, x in _SPATIAL:
        if y in array.dims and x in array.dims:
            return y, x
    y, x = array.dims[-2:] if array.ndim >= 2 else ("", "")
    if not all(str(name).startswith("dim_") for name in (y, x)):
        raise OptionError(
            f"scene has the dimensions {', '.join(map(str, array.dims))}: name rows and columns y and x"
        )
    return y, x


def _from_xarray(array: Any) -> dict[str, Any]:
    """Read CRS, affine, unit and band names as rioxarray and CF store them."""
    found: dict[str, Any] = {"tags": {}}
    mapping = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping") or "spatial_ref"
    reference = array.coords.get(mapping)
    attributes = {} if reference is None else reference.attrs
    wkt = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    if wkt:
        try:
            found["crs"] = CRS.from_wkt(wkt)
        except CRSError as error:
            raise OptionError(
                f"scene: the CRS of its spatial_ref cannot be read ({error}): write it again"
            ) from error
    # Slices of a DataArray keep the attribute of the whole: coordinates come first.
    found |= _from_coordinates(array)
    if "transform" not in found and "GeoTransform" in attributes:
        found["transform"] = Affine.from_gdal(*map(float, str(attributes["GeoTransform"]).split()))
    if (nodata := array.attrs.get("_FillValue", array.attrs.get("nodata"))) is not None:
        found["nodata"] = float(np.asarray(nodata).item())
    found["scaling"] = float(array.attrs.get("scale_factor", 1)), float(array.attrs.get("add_offset", 0))
    if units := array.attrs.get("units"):
        found["tags"]["units"] = str(units)
    names = np.atleast_1d(array.coords["band"].values) if "band" in array.coords else ()
    long_name = array.attrs.get("long_name")
    if isinstance(long_name, str):
        found["tags"]["long_name"] = long_name
    elif long_name and not all(isinstance(name, str) for name in names):
        names = long_name  # rioxarray: one for each band
    if all(isinstance(name, str) for name in names):
        found["names"] = [str(name) for name in names]
    return found


def _from_coordinates(array: Any) -> dict[str, Affine]:
    """Compute the affine of evenly spaced coordinates; nothing where there are none."""
    y, x = spatial_dims(array)
    if not {x, y} <= set(array.coords) or min(array.sizes[x], array.sizes[y]) < 2:
        return {}
    steps, starts = [], []
    for name in (x, y):
        values = np.asarray(array.coords[name], np.float64)
        step = (values[-1] - values[0]) / (len(values) - 1)
        if not step or not np.allclose(np.diff(values), step, rtol=1e-3):
            raise OptionError(
                f"scene: its coordinates {name} are not evenly spaced: resample the scene, or drop the coordinates"
            )
        steps.append(step)
        starts.append(values[0] - step / 2)
    return {"transform": Affine(steps[0], 0, starts[0], 0, steps[1], starts[1])}
