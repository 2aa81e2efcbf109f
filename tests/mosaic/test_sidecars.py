"""World files and `.aux.xml` beside pictures: GDAL reads the scene's georeference."""

from __future__ import annotations

import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from sar2optical.cli.scene import main as scene_main
from tests.cli.test_cli import here
from tests.conftest import UTM, make_local, speckle


@pytest.fixture
def run(tmp_path):
    """Return a function that runs sar2opt-scene with a small model."""
    model = make_local(tmp_path / "local.onnx")
    return lambda *args: here(scene_main, *args, "--model", model, "-q")


@pytest.mark.parametrize(("suffix", "world"), [("png", "pgw"), ("jpg", "jgw")])
def test_gdal_reads_the_georeference_of_a_picture(tmp_path, make_raster, run, suffix, world):
    scene, out = make_raster(speckle((60, 90)), "scene.tif", **UTM), tmp_path / f"out.{suffix}"
    done = run(scene, out, "--worldfile")
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as picture:
        assert (picture.crs, picture.transform) == (CRS.from_epsg(32631), UTM["transform"])
    lines = [float(line) for line in out.with_suffix(f".{world}").read_text().splitlines()]
    assert lines == [10, 0, 0, -10, 500_005, 4_799_995]  # the centre of the first pixel
    (tmp_path / f"out.{suffix}.aux.xml").unlink()
    with rasterio.open(out) as picture:  # the world file alone has no CRS
        assert picture.transform == UTM["transform"]
    assert run(scene, tmp_path / f"plain.{suffix}").returncode == 0
    assert {path.name for path in tmp_path.glob("plain.*")} == {f"plain.{suffix}"}


def test_control_points_are_in_the_aux_xml_only(tmp_path, make_raster, run):
    gcps = [GroundControlPoint(row, col, 5 + col / 900, 45 - row / 900) for row in (0, 60) for col in (0, 90)]
    scene, out = make_raster(speckle((60, 90)), "scene.tif", gcps=gcps, crs="EPSG:4326"), tmp_path / "out.png"
    assert run(scene, out, "--worldfile").returncode == 0
    assert not out.with_suffix(".pgw").exists()
    with rasterio.open(out) as picture:
        found, crs = picture.gcps
    assert crs == CRS.from_epsg(4326)
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in gcps]


def test_what_cannot_be_written_is_refused_before_the_run(tmp_path, make_raster, run):
    scene = make_raster(speckle((60, 90)), "scene.tif", **UTM)
    done = run(scene, tmp_path / "out.tif", "--worldfile")
    assert done.returncode == 2
    assert "out.tif, which contains its georeference: leave out --worldfile" in done.stderr + done.stdout
    (tmp_path / "out.pgw").write_text("mine")
    done = run(scene, tmp_path / "out.png", "--worldfile")
    assert done.returncode == 1
    assert "out.pgw exists" in done.stderr
    assert (tmp_path / "out.pgw").read_text() == "mine"
    assert not (tmp_path / "out.png").exists()
    plain = make_raster(speckle((60, 90)), "plain.tif", transform=Affine.identity())
    done = run(plain, tmp_path / "plain.png", "--worldfile")
    assert done.returncode == 1
    assert "no georeference for a world file" in done.stderr
