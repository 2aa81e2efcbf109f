"""The scene on the mosaic's grid: whole, cut, with control points, geocoded, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from sar2optical import translate
from sar2optical.errors import OptionError, SceneUnreadable
from sar2optical.scene import open_scene
from sar2optical.scene.safe import ProductOptions
from sar2optical.viewer.exhibit import Choices, open_exhibit
from sar2optical.viewer.page import page_data, placed, values_at
from tests.conftest import UTM, speckle
from tests.scene.test_safe import make_product
from tests.viewer.conftest import SHAPE, TAGS, random, write_cog

GCPS = [
    GroundControlPoint(row, col, 7 + col / 1e4, 50 - row / 1e4) for row in (0, 500, 1000) for col in (0, 600, 1200)
]


def shifted(row, col):
    return {**UTM, "transform": UTM["transform"] @ Affine.translation(col, row)}


def picture(tmp_path, shape, name="part.tif", **georeference):
    return write_cog(
        tmp_path / name, random((3, *shape), np.uint8, 250), np.full(shape, 255, np.uint8), **georeference
    )


def test_a_mosaic_of_a_part_shows_that_part_and_its_windows(scene, tmp_path):
    part = picture(tmp_path, (300, 400), **shifted(200, 350))
    with open_exhibit(scene, [part], Choices()) as shown, rasterio.open(scene) as file:
        assert shown.radar.offset == (200, 350)
        np.testing.assert_array_equal(
            shown.radar.read((10, 20), (30, 50)), file.read(window=rasterio.windows.Window(380, 210, 20, 10))
        )
        assert page_data(shown, None)["grid"]["cols"][2:4] == [348 - 350, 522 - 350]


def test_control_points_place_a_part_as_well(make_raster, tmp_path):
    scene = make_raster(random(SHAPE, np.uint16, 900), descriptions=["VH"], gcps=GCPS, crs="EPSG:4326")
    moved = [GroundControlPoint(gcp.row - 100, gcp.col - 30, gcp.x, gcp.y) for gcp in GCPS]
    part = picture(tmp_path, (300, 400), gcps=moved, crs="EPSG:4326")
    with open_exhibit(scene, [part], Choices()) as shown:
        assert shown.radar.offset == (100, 30)
        found = values_at(shown, placed(shown), 5, 6)
        assert found["lonlat"] == pytest.approx([7 + 36.5 / 1e4, 50 - 105.5 / 1e4])
        assert page_data(shown, placed(shown))["georeference"] == "9 control points (EPSG:4326)"


@pytest.mark.parametrize(
    "other",
    [
        {**UTM, "crs": "EPSG:32632"},
        shifted(-5, 0),
        shifted(0, 1100),
        shifted(0.5, 0),
        {**UTM, "transform": UTM["transform"] @ Affine.scale(2)},
        {"gcps": GCPS, "crs": "EPSG:4326"},
    ],
)
def test_a_mosaic_of_another_scene_is_refused(scene, tmp_path, other):
    part = picture(tmp_path, (300, 400), **other)
    with (
        pytest.raises(OptionError, match=r"not on the grid of .*give the scene that the mosaic was made from"),
        open_exhibit(scene, [part], Choices()),
    ):
        pass


def test_power_is_shown_in_db_and_its_values_are_kept(make_raster, tmp_path):
    power = np.geomspace(1e-4, 1, 300 * 300, dtype=np.float32).reshape(300, 300)
    scene = make_raster(power, descriptions=["VH"], **UTM)
    mosaic = write_cog(
        tmp_path / "m.tif", random((3, 300, 300), np.uint8, 250), np.full((300, 300), 255, np.uint8),
        {**TAGS, "SAR2OPTICAL_UNITS": "power", "SAR2OPTICAL_OPTIONS": "{}"}, **UTM,
    )  # fmt: skip
    with open_exhibit(scene, [mosaic], Choices()) as shown:
        low, high = shown.radar.stretch[0]
        assert -40 < low < high < 0
        grey = shown.radar.grey(0, power)
        assert grey.flat[0] == 0
        assert grey.flat[-1] == 255
        assert int(grey.flat[45_000]) == pytest.approx(127, abs=2)
        assert values_at(shown, None, 150, 0)["radar"] == [float(str(power[150, 0]))]


def test_a_geocoded_mosaic_shows_the_scene_on_its_map(make_raster, identity_model, tmp_path):
    values = speckle((280, 300)).astype(np.uint16)
    gcps = [
        GroundControlPoint(row, col, 7 + col / 8e3, 50 - row / 1e4) for row in (0, 140, 280) for col in (0, 150, 300)
    ]
    scene = make_raster(values, descriptions=["VH"], gcps=gcps, crs="EPSG:4326")
    out = tmp_path / "map.tif"
    translate(scene, out, model=identity_model, unit="dn", geocode="auto-utm", backend="onnxruntime")
    with open_exhibit(scene, [out], Choices()) as shown:
        height, width = shown.shape
        radar = shown.radar.read((0, height), (0, width))[0]
        rgb, valid = shown.mosaics[0].picture.read((0, height), (0, width))
    both = valid & ~np.isnan(radar)
    assert both.sum() > 0.9 * valid.sum()
    assert np.corrcoef(radar[both], rgb[0][both])[0, 1] > 0.98


def test_a_product_is_calibrated_as_in_the_run(identity_model, tmp_path):
    product, found = make_product(tmp_path), {}
    for calibration in ("sigma0", "gamma0"):
        out = tmp_path / f"{calibration}.tif"
        model = {"model": identity_model, "backend": "onnxruntime"}
        translate(product, out, calibration=calibration, bands=["VV"], **model)
        with open_exhibit(product, [out], Choices()) as shown:
            assert (shown.radar.unit, shown.radar.names) == ("power", ("VV",))
            found[calibration] = shown.radar.read((5, 9), (6, 9))[0]
        with open_scene(product, ("VV",), product=ProductOptions(calibration=calibration)) as scene:
            np.testing.assert_array_equal(found[calibration], scene.read((5, 9), (6, 9))[0][0])
    assert (found["gamma0"] != found["sigma0"]).all()


def test_two_mosaics_must_share_a_grid(scene, mosaic, tmp_path):
    with (
        pytest.raises(OptionError, match=r"part.tif: is not on the grid of .*mosaic.tif: view it by itself"),
        open_exhibit(scene, [mosaic, picture(tmp_path, (300, 400), **UTM)], Choices()),
    ):
        pass
    with open_exhibit(scene, [mosaic, picture(tmp_path, SHAPE, **UTM)], Choices()) as shown:
        assert [one["name"] for one in page_data(shown, None)["mosaics"]] == ["mosaic.tif", "part.tif"]


def test_what_is_no_mosaic_is_refused(scene):
    with (
        pytest.raises(SceneUnreadable, match=r"scene.tif: has 1 bands of uint16: give a mosaic"),
        open_exhibit(scene, [scene], Choices()),
    ):
        pass


def test_an_optical_image_of_another_map_is_resampled_by_the_nearest_pixel(scene, mosaic, make_raster):
    coarse = {**UTM, "transform": UTM["transform"] @ Affine.scale(2)}
    rgb = random((3, 550, 640), np.uint16, 3000)
    truth = make_raster(rgb, "s2.tif", **coarse)
    with open_exhibit(scene, [mosaic], Choices(truth=truth)) as shown:
        found, valid = shown.truth.picture.read((100, 102), (1276, 1284))
        expected = np.clip(rgb[:, 50, 638:640] * (255 / 3000) + 0.5, 0, 255).astype(np.uint8)
        np.testing.assert_allclose(found[:, 0, [0, 2]].astype(int), expected, atol=1)
        assert valid[0].tolist() == [True] * 4 + [False] * 4
        assert "nearest pixel" in page_data(shown, None)["truth"]["note"]


def test_an_optical_image_without_a_place_is_refused(scene, mosaic, make_raster):
    truth = make_raster(random((3, 50, 60), np.uint8, 250), "s2.tif")
    with (
        pytest.raises(OptionError, match="one of them has no affine and CRS: resample it"),
        open_exhibit(scene, [mosaic], Choices(truth=truth)),
    ):
        pass
