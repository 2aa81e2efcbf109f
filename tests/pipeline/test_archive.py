"""Products, maps and servers through the whole corridor, as people ask for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OutputExists
from sar2optical.pipeline.estimate import estimate
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.geocode.resample import geocoded
from sar2optical.scene.geocode.target import Target
from sar2optical.scene.safe.product import ProductOptions
from sar2optical.scene.scene import open_scene
from sar2optical.signature import Bound, Stretch
from tests.conftest import UTM, make_identity, signature_of, speckle
from tests.scene.test_geocode import bent_scene
from tests.scene.test_remote import s3, server
from tests.scene.test_safe import BY_HAND, made_dn, make_product, zipped

__all__ = ["bent_scene", "s3", "server"]

BIN = Path(sys.executable).parent
FP32 = EngineOptions(device="cpu", precision="fp32", threads=1)


def run(src, out, model, **changes):
    stop = changes.pop("stop", lambda: False)
    return translate(src, out, model=model, options=TranslateOptions(**{"engine": FP32, **changes}), stop=stop)


def command(*args):
    return subprocess.run(
        [BIN / "sar2opt-scene", *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


def pixels(path):
    with rasterio.open(path) as mosaic:
        return mosaic.read(), mosaic.dataset_mask() == 255


@pytest.fixture
def power_model(tmp_path):
    """A model that changes nothing, of calibrated power from 0 to 4."""
    signature = signature_of(unit="power", stretch=(Stretch(Bound(0), Bound(4)),))
    return make_identity(tmp_path / "power.onnx", signature)


@pytest.mark.parametrize("pack", [lambda root: root, lambda root: root / "manifest.safe", zipped])
def test_a_product_is_translated_as_what_its_table_makes_of_it(tmp_path, power_model, pack):
    src, out = pack(make_product(tmp_path)), tmp_path / "out.tif"
    result = command(src, out, "--model", power_model, "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    assert "unit power (sigma0 by the product's calibration LUT)" in result.stderr
    rgb, valid = pixels(out)
    np.testing.assert_array_equal(valid, made_dn() != 0)
    dn = 2 * made_dn().astype(float)  # VH, which the model wants, holds twice the DN of VV
    for place, a in BY_HAND.values():
        grey = min(dn[place] ** 2 / a**2 / 4, 1) * 255
        assert rgb[0][place] == pytest.approx(grey, abs=0.51)
    with rasterio.open(out) as mosaic:
        assert len(mosaic.gcps[0]) >= 4


def test_calibrations_differ_and_are_told_apart_when_a_run_goes_on(tmp_path, power_model):
    src = make_product(tmp_path)
    for name, product in [("sigma", None), ("gamma", ProductOptions(calibration="gamma0"))]:
        report = run(src, tmp_path / f"{name}.tif", power_model, product=product)
        assert report.manifest["calibration"] == f"{name}0"
    assert (pixels(tmp_path / "gamma.tif")[0] != pixels(tmp_path / "sigma.tif")[0]).any()


def test_the_product_is_not_written_over(tmp_path, power_model):
    src = make_product(tmp_path)
    measurement = next((src / "measurement").glob("*-vh-*"))
    before = measurement.read_bytes()
    result = command(src, measurement, "--model", power_model, "--overwrite")
    assert result.returncode == 1
    assert measurement.read_bytes() == before


def test_a_scene_on_a_map_is_the_geocoded_scene(tmp_path, bent_scene, power_model):
    out = tmp_path / "out.tif"
    options = ["--model", power_model, "--units", "power", "--stretch", "0", "400", "--precision", "fp32"]
    result = command(bent_scene, out, *options, "--geocode", "EPSG:32631", "--resolution", "10")
    assert result.returncode == 0, result.stderr
    assert "without terrain correction to EPSG:32631 at 10 metre" in result.stderr
    assert "held-out GCPs off by" in result.stderr
    with open_scene(bent_scene, ("VH",), SceneOptions(unit="power")) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631", resolution=10))
        values, expected = grid.read_rows(0, grid.shape[0])
        place = grid.georeference
    rgb, valid = pixels(out)
    np.testing.assert_array_equal(valid, expected)
    assert np.abs(rgb[1] - values[0] / 400 * 255)[valid].max() < 0.51
    with rasterio.open(out) as mosaic:
        assert (mosaic.crs, mosaic.transform) == (place.crs, place.transform)
        assert "without terrain correction" in mosaic.tags()["SAR2OPTICAL_GEOCODING"]


def test_a_run_on_a_map_goes_on_to_the_same_pixels(tmp_path, bent_scene, power_model):
    stretch = Stretch(Bound(0), Bound(400))
    options = {
        "scene": SceneOptions(unit="power"),
        "stretch": stretch,
        "geocode": Target(crs="EPSG:32631", resolution=5),
        "blocksize": 128,
    }
    run(bent_scene, tmp_path / "whole.tif", power_model, **options)
    asked = iter(range(2))
    with pytest.raises(Interrupted):
        run(bent_scene, tmp_path / "out.tif", power_model, stop=lambda: next(asked, None) is None, **options)
    # 724 rows: rows of windows begin at 0, 156, 312 and 468. Two of them finish 312 rows, which fill two strips.
    assert run(bent_scene, tmp_path / "out.tif", power_model, **options).rows_kept == 2 * 128
    for one, two in zip(pixels(tmp_path / "out.tif"), pixels(tmp_path / "whole.tif"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_resolution_without_a_map_is_refused(tmp_path, bent_scene):
    result = command(bent_scene, tmp_path / "out.tif", "--resolution", "10")
    assert result.returncode == 2
    assert "no effect without --geocode" in result.stderr


def test_from_a_server_to_a_server(tmp_path, server, s3, make_raster, identity_model, monkeypatch):
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "cache"))
    grey = speckle((400, 500))
    src = make_raster(grey, **UTM)
    server.put("/scene.tif", src.read_bytes())
    report = run(f"{server.url}/scene.tif", "s3://bucket/out.tif", identity_model)
    assert report.out == "s3://bucket/out.tif"
    run(src, tmp_path / "local.tif", identity_model)
    (tmp_path / "fetched.tif").write_bytes(s3.fetch("/bucket/out.tif"))
    for one, two in zip(pixels(tmp_path / "fetched.tif"), pixels(tmp_path / "local.tif"), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(pixels(tmp_path / "fetched.tif")[0][0], grey)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    with pytest.raises(OutputExists, match=r"s3://bucket/out\.tif exists"):
        run(src, "s3://bucket/out.tif", identity_model)
    assert (
        estimate(src, "s3://bucket/other.tif", model=identity_model, options=TranslateOptions(engine=FP32)).windows
        == 6
    )


def test_what_a_server_refuses_is_kept_and_said(tmp_path, s3, make_raster, identity_model, monkeypatch):
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    s3.moods(refuse=1)
    result = command(make_raster(speckle((60, 60)), **UTM), "s3://bucket/out.tif", "--model", identity_model)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be uploaded" in line
    (kept,) = (tmp_path / "cache").rglob("out.tif")
    assert str(kept) in line
    assert pixels(kept)[1].all()
