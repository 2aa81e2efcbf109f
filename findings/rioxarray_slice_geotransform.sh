#!/usr/bin/env bash
# What most would guess: the georeference that a DataArray carries in `spatial_ref` is that of the DataArray.
# What happens: a slice of what rioxarray.open_rasterio returns keeps the attribute GeoTransform of the whole raster: its
#   origin, pixel size and direction. The coordinates x and y of the slice are right, and so is `.rio.transform()` with
#   recalc=True, which takes them. A program that reads the attribute places the slice wrongly, and raises no error.
# Version: rioxarray 0.19.0, xarray 2025.6.1, rasterio 1.4.3, numpy 2.2.6. Date: 2026-11-27.
# Source: seen here.
# Why a user cares: mosaics and labels of slices land on the wrong ground, off by the slice's offset. sar2optical takes the
#   affine from the coordinates (tests/api/test_api.py::test_slices_of_a_dataarray_have_their_own_affine).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check rioxarray==0.19.0 xarray==2025.6.1 rasterio==1.4.3 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import rasterio
import rioxarray
from rasterio.transform import Affine

profile = {"driver": "GTiff", "width": 60, "height": 40, "count": 1, "dtype": "float32", "crs": "EPSG:32631"}
with rasterio.open("whole.tif", "w", transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), **profile) as dataset:
    dataset.write(np.ones((1, 40, 60), np.float32))
whole = rioxarray.open_rasterio("whole.tif")
slices = {
    "offset": whole.isel(y=slice(10, 30), x=slice(20, 50)),
    "every second pixel": whole[:, ::2, ::2],
    "south first": whole[:, ::-1],
}
for name, part in slices.items():
    stored = Affine.from_gdal(*map(float, part.spatial_ref.attrs["GeoTransform"].split()))
    real = part.rio.transform(recalc=True)
    print(f"{name}: attribute {tuple(stored)[:6]}, coordinates {tuple(real)[:6]}")
    assert stored == Affine(10, 0, 500_000, 0, -10, 4_000_000), "the attribute now follows the slice"
    assert stored != real, "the slice has the georeference of the whole"
PYTHON
echo "as described: slices keep the GeoTransform of the whole raster"
