"""GDAL: its drivers, and whether it can write a mosaic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile

from sar2optical.doctor.finding import Finding, State, squeezed

__all__ = ["gdal"]

_DRIVERS = (
    (("GTiff",), True, "strips"),
    (("VRT",), True, "joining strips"),
    (("COG",), True, "mosaics"),
    (("PNG",), True, "pictures and chips"),
    (("JPEG",), False, "pictures as .jpg"),
    (("SAFE",), False, "Sentinel-1 products"),
    (("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"), False, "Sentinel-2 originals"),
)
"""Alternative drivers, whether one of them is required, and their purpose."""

_REINSTALL = "pip install --force-reinstall rasterio: its wheel includes it"


def gdal() -> Iterator[Finding]:
    """Check GDAL's drivers and projections, and write small rasters."""
    yield Finding("rasters", "rasterio", "ok", f"{rasterio.__version__} with GDAL {rasterio.__gdal_version__}")
    with rasterio.Env() as env:
        drivers = env.drivers()
    for names, needed, purpose in _DRIVERS:
        available = [name for name in names if name in drivers]
        if available:
            yield Finding("rasters", available[0], "ok", f"for {purpose}")
        else:
            yield Finding("rasters", names[0], "broken" if needed else "absent", f"for {purpose}", _REINSTALL)
    yield _projections()
    yield _written("writing a COG", "COG", "deflate", "broken")
    yield _written("writing ZSTD", "GTiff", "zstd", "absent")


def _projections() -> Finding:
    try:
        CRS.from_epsg(32631)
    except CRSError as error:
        remedy = "unset PROJ_DATA and PROJ_LIB, which may point to another installation"
        return Finding("rasters", "PROJ", "broken", f"cannot find EPSG codes: {squeezed(error)}", remedy)
    return Finding("rasters", "PROJ", "ok", "finds EPSG codes")


def _written(name: str, driver: str, compress: str, lacking: State) -> Finding:
    """Write a small raster to memory, and read it back."""
    pixels = (np.arange(3 * 40 * 50) * 7 % 251).reshape(3, 40, 50).astype(np.uint8)
    shape: dict[str, Any] = {"count": 3, "height": 40, "width": 50, "dtype": "uint8"}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 4_800_000)
    try:
        with MemoryFile() as memory:
            with memory.open(driver=driver, compress=compress, transform=transform, **shape) as dst:
                dst.write(pixels)
            with memory.open() as src:
                same = np.array_equal(src.read(), pixels) and src.transform == transform
    except RasterioError as error:
        return Finding("rasters", name, lacking, squeezed(error), _REINSTALL)
    if not same:
        return Finding("rasters", name, "broken", "the raster that was read back differs", _REINSTALL)
    return Finding("rasters", name, "ok", f"{driver} in memory, read back")
