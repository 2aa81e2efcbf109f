"""Mosaics in the tiles of web maps: the grid of GDAL's COG driver, whole tiles, its metadata."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from sar2optical.cli.scene import main as scene_main
from tests.cli.test_cli import here
from tests.conftest import make_local, speckle

UTM32 = {"crs": "EPSG:32632", "transform": Affine(10, 0, 700_000, 0, -10, 5_200_000)}
HALF_EARTH = 20_037_508.342789244


@pytest.mark.parametrize("compress", ["deflate", "webp"])
def test_the_grid_is_that_of_gdals_tiling_scheme(tmp_path, make_raster, compress):
    scene, out = make_raster(speckle((700, 900)), "scene.tif", **UTM32), tmp_path / "out.tif"
    model = make_local(tmp_path / "local.onnx")
    done = here(scene_main, scene, out, "--model", model, "--tiling", "web-mercator", "--compress", compress)
    assert done.returncode == 0, done.stderr
    rasterio.shutil.copy(scene, tmp_path / "gdal.tif", driver="COG", TILING_SCHEME="GoogleMapsCompatible")
    with rasterio.open(out) as ours, rasterio.open(tmp_path / "gdal.tif") as theirs:
        assert ours.crs.to_epsg() == theirs.crs.to_epsg() == 3857
        assert ours.transform.almost_equals(theirs.transform, 1e-6)
        assert ours.block_shapes[0] == theirs.block_shapes[0] == (256, 256)
        scheme = {key: value.upper() for key, value in ours.tags(ns="TILING_SCHEME").items()}
        assert scheme == {key: value.upper() for key, value in theirs.tags(ns="TILING_SCHEME").items()}
        assert scheme["ZOOM_LEVEL"] == "13"
        # GDAL's driver adds tiles at the right and the bottom for its overviews.
        assert (ours.width % 256, ours.height % 256) == (0, 0)
        assert theirs.width >= ours.width >= 900 * 10 / theirs.transform.a
        resolution = 2 * HALF_EARTH / 256 / 2**13
        side = 256 * resolution
        first = ((ours.transform.c + HALF_EARTH) / side, (HALF_EARTH - ours.transform.f) / side)
        assert first == pytest.approx([round(edge) for edge in first], abs=1e-6)
        valid = ours.dataset_mask() != 0
        # As much ground as the scene: lengths of Web Mercator grow by 1 / cos(latitude).
        ground = np.count_nonzero(valid) * (resolution * math.cos(math.radians(46.9))) ** 2
        assert ground == pytest.approx(700 * 900 * 100, rel=0.02)


def test_a_second_grid_has_no_effect(tmp_path, make_raster):
    scene = make_raster(speckle((100, 100)), "scene.tif", **UTM32)
    done = here(scene_main, scene, tmp_path / "out.tif", "--tiling", "web-mercator", "--geocode", "EPSG:4326")
    assert done.returncode == 1
    assert "--tiling web-mercator has a grid of its own" in done.stderr
