"""A scene of DN, its mosaic as a COG with overviews and a mask, and both opened for the viewer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from sar2optical.viewer.exhibit import Choices, open_exhibit
from tests.conftest import UTM

SHAPE = (1100, 1301)
TAGS = {
    "SAR2OPTICAL_BANDS": "VH",
    "SAR2OPTICAL_UNITS": "dn",
    "SAR2OPTICAL_MODEL": "tiny <b>",
    "SAR2OPTICAL_WINDOW": "256",
    "SAR2OPTICAL_OVERLAP": "64",
    "SAR2OPTICAL_OPTIONS": json.dumps({"scene": "scene.tif", "nodata": "7.0"}),
}


def random(shape, dtype, high, seed=0):
    return np.random.default_rng(seed).integers(10, high, shape).astype(dtype)


def write_cog(path, rgb, mask, tags=TAGS, **georeference):
    """Write bytes (3, H, W) as mosaics are: 512 x 512 blocks, overviews and a mask."""
    plain = path.with_name(f"plain-{path.name}")
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": rgb.shape[1], "width": rgb.shape[2]}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(plain, "w", **profile, **georeference) as target:
            target.write(rgb)
            target.write_mask(mask)
            target.update_tags(**tags)
        rasterio.shutil.copy(plain, path, driver="COG", COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=512)
    plain.unlink()
    return path


@pytest.fixture
def scene(make_raster):
    """Strips of uint16 without overviews; row 0 has nodata that only the run's options name."""
    values = random(SHAPE, np.uint16, 900)
    values[0] = 7
    return make_raster(values, descriptions=["VH"], **UTM)


@pytest.fixture
def mosaic(tmp_path):
    mask = np.full(SHAPE, 255, np.uint8)
    mask[:40] = 0
    return write_cog(tmp_path / "mosaic.tif", random((3, *SHAPE), np.uint8, 250, seed=1), mask, **UTM)


@pytest.fixture
def truth(make_raster):
    return make_raster(random((3, *SHAPE), np.uint8, 250, seed=2), "truth.tif", **UTM)


@pytest.fixture
def exhibit(scene, mosaic, truth):
    with open_exhibit(scene, [mosaic], Choices(truth=truth)) as shown:
        for pyramid in shown.pyramids:
            pyramid.build()
        yield shown
