"""Mosaics of an area: the pixels of the whole scene's mosaic, on both ways of streaming, resumed and in a batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

import sar2optical
from sar2optical.cli.scene import main as scene_main
from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OtherRun
from sar2optical.pipeline import stream as streaming
from sar2optical.pipeline.estimate import estimate
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.area import box_area, polygon_area
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.geocode.target import Target
from sar2optical.signature import Bound, Stretch
from tests.cli.test_cli import here
from tests.conftest import UTM, make_local, speckle

SHAPE = (900, 1000)
P1_P99 = Stretch(Bound(1, percentile=True), Bound(99, percentile=True))


def pixels(path):
    with rasterio.open(path) as mosaic:
        return mosaic.read(), mosaic.dataset_mask() == 255


def run(src, out, model, *, stop=lambda: False, **changes):
    engine = EngineOptions(device="cpu", precision="fp32", threads=1)
    options = TranslateOptions(**{"engine": engine, "blocksize": 64, "stretch": P1_P99, **changes})
    return translate(src, out, model=model, options=options, stop=stop)


def box(rows, cols):
    """Area of some pixels of a scene in `UTM`."""
    (west, north), (east, south) = (UTM["transform"] @ corner for corner in zip(cols, rows, strict=True))
    return box_area((west, south, east, north), UTM["crs"])


def polygon(corners, text="--aoi x"):
    """Area of a polygon of (column, row) in a scene in `UTM`."""
    ring = [list(UTM["transform"] @ corner) for corner in corners]
    crs = {"type": "name", "properties": {"name": UTM["crs"]}}
    return polygon_area({"type": "Polygon", "coordinates": [[*ring, ring[0]]], "crs": crs}, text)


def holed():
    values = speckle(SHAPE, high=240).astype(np.uint16) * 9
    values[:, :70] = 0
    values[300:420, 350:700] = 0
    return values


AREAS = {
    "middle": ((310, 560), (333, 777)),
    "one pixel": ((500, 501), (501, 502)),
    "top left": ((0, 100), (0, 90)),
    "bottom right": ((850, 900), (700, 1000)),
    "whole rows": ((200, 500), (0, 1000)),
    "whole": ((0, 900), (0, 1000)),
    "nodata": ((310, 400), (360, 690)),
}


@pytest.mark.parametrize("device", [False, True], ids=["numpy", "device"])
def test_pixels_are_those_of_the_whole_scene(tmp_path, make_raster, checkpoint, monkeypatch, device):
    monkeypatch.setattr(streaming, "takes_device_path", lambda engine: device)
    src = make_raster(holed(), "s_VH.tif", tiled=True, blockxsize=128, blockysize=128, **UTM)
    options = {"backend": "pytorch"}
    run(src, tmp_path / "whole.tif", checkpoint, **options)
    whole, mask = pixels(tmp_path / "whole.tif")
    assert whole[:, mask].std() > 3
    assert 0.5 < mask.mean() < 0.95
    for name, (rows, cols) in AREAS.items():
        out = tmp_path / f"cut {name}.tif"
        report = run(src, out, checkpoint, area=box(rows, cols), **options)
        rgb, valid = pixels(out)
        cut = slice(*rows), slice(*cols)
        np.testing.assert_array_equal(valid, mask[cut], name)
        np.testing.assert_array_equal(rgb, whole[:, *cut], name)
        assert report.shape == valid.shape
        with rasterio.open(out) as mosaic:
            assert mosaic.transform == UTM["transform"] @ Affine.translation(cols[0], rows[0])
            assert mosaic.crs == UTM["crs"]
            assert mosaic.tags()["SAR2OPTICAL_AREA"] == f"rows {rows[0]} to {rows[1]}, columns {cols[0]} to {cols[1]}"


TRIANGLE = [(120.2, 80.1), (900.3, 430.2), (500.4, 860.3)]


@pytest.mark.parametrize("device", [False, True], ids=["numpy", "device"])
def test_a_polygon_masks_and_runs_only_its_windows(tmp_path, make_raster, checkpoint, monkeypatch, device):
    monkeypatch.setattr(streaming, "takes_device_path", lambda engine: device)
    src = make_raster(holed(), "s_VH.tif", **UTM)
    run(src, tmp_path / "whole.tif", checkpoint, backend="pytorch")
    report = run(src, tmp_path / "out.tif", checkpoint, backend="pytorch", area=polygon(TRIANGLE))
    whole, mask = pixels(tmp_path / "whole.tif")
    rgb, valid = pixels(tmp_path / "out.tif")
    cols, rows = np.meshgrid(np.arange(1000) + 0.5, np.arange(900) + 0.5)
    sides = [
        (u - x) * (rows - y) - (v - y) * (cols - x) > 0
        for (x, y), (u, v) in zip(TRIANGLE, [*TRIANGLE[1:], TRIANGLE[0]], strict=True)
    ]
    wanted = np.logical_and.reduce(sides)
    down, across = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    cut = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)
    np.testing.assert_array_equal(valid, (wanted & mask)[cut])
    np.testing.assert_array_equal(rgb, (whole * (wanted & mask))[:, *cut])
    assert report.windows_run <= report.windows < 36


def test_work_follows_the_area(tmp_path, make_raster):
    src, model = make_raster(speckle(SHAPE), "s_VH.tif", **UTM), make_local(tmp_path / "local.onnx")
    ran = [
        run(src, tmp_path / f"{side}.tif", model, area=box((400, 400 + side), (400, 400 + side))).windows_run
        for side in (10, 300, 500)
    ]
    whole = run(src, tmp_path / "whole.tif", model).windows_run
    assert ran[0] <= 4
    assert ran[0] < ran[1] < ran[2] < whole


def test_gcps_and_scenes_smaller_than_a_window(tmp_path, make_raster):
    gcps = [GroundControlPoint(r, c, 3 + c * 1e-4, 45 - r * 1e-4) for r in (0, 100, 200) for c in (0, 150, 300)]
    src = make_raster(speckle((200, 300)), "s_VH.tif", gcps=gcps, crs="EPSG:4326")
    model = make_local(tmp_path / "local.onnx")
    run(src, tmp_path / "whole.tif", model)
    run(src, tmp_path / "out.tif", model, area=box_area((3.01, 44.985, 3.02, 44.995)))
    np.testing.assert_array_equal(
        pixels(tmp_path / "out.tif")[0], pixels(tmp_path / "whole.tif")[0][:, 50:150, 100:200]
    )
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert [(g.row, g.col, g.x) for g in mosaic.gcps[0]] == [(g.row - 50, g.col - 100, g.x) for g in gcps]


def test_a_geocoded_scene_is_cut_on_its_map(tmp_path, make_raster):
    src, model = make_raster(speckle((400, 500)), "s_VH.tif", **UTM), make_local(tmp_path / "local.onnx")
    target = {"geocode": Target(crs="EPSG:3857", resolution=20)}
    run(src, tmp_path / "whole.tif", model, **target)
    with rasterio.open(tmp_path / "whole.tif") as whole:
        west, north = whole.transform @ (100, 50)
        east, south = whole.transform @ (230, 170)
    area = box_area((west, south, east, north), "EPSG:3857")
    run(src, tmp_path / "out.tif", model, area=area, **target)
    for found, wanted in zip(pixels(tmp_path / "out.tif"), pixels(tmp_path / "whole.tif"), strict=True):
        np.testing.assert_array_equal(found, wanted[..., 50:170, 100:230])


def test_a_run_resumes_to_the_same_pixels_and_another_area_is_another_run(tmp_path, make_raster):
    src, model, out = (
        make_raster(holed(), "s_VH.tif", **UTM),
        make_local(tmp_path / "local.onnx"),
        tmp_path / "out.tif",
    )
    area = polygon(TRIANGLE, "--aoi one.geojson")
    run(src, tmp_path / "once.tif", model, area=area)
    count = iter(range(9))
    with pytest.raises(Interrupted):
        run(src, out, model, area=area, stop=lambda: next(count) > 2)
    with pytest.raises(OtherRun, match=r"area rows 80 to 860, columns 120 to 900, polygons .*now not given"):
        run(src, out, model)
    with pytest.raises(OtherRun, match=r"area .* now rows 80 to 860, columns 120 to 900, polygons"):
        run(src, out, model, area=polygon([*TRIANGLE[:2], (500.5, 860.3)]))
    report = run(src, out, model, area=polygon(TRIANGLE, "--aoi renamed.geojson"))
    assert report.rows_kept > 100
    for found, wanted in zip(pixels(out), pixels(tmp_path / "once.tif"), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_estimate_counts_the_windows_that_run(tmp_path, make_raster):
    src, model = make_raster(holed(), "s_VH.tif", **UTM), make_local(tmp_path / "local.onnx")
    engine = EngineOptions(device="cpu", precision="fp32", threads=1)
    for area in (polygon(TRIANGLE), box((310, 400), (360, 690)), box((10, 20), (600, 610))):
        options = TranslateOptions(engine=engine, area=area, overwrite=True)
        expected = estimate(src, tmp_path / "out.tif", model=model, options=options)
        report = translate(src, tmp_path / "out.tif", model=model, options=options)
        assert (expected.windows, expected.windows_run) == (report.windows, report.windows_run)


def test_the_seams_of_an_area_are_those_at_its_edges(tmp_path, make_raster):
    src, model = make_raster(speckle(SHAPE), "s_VH.tif", **UTM), make_local(tmp_path / "local.onnx")
    scores = [
        run(src, tmp_path / f"{k}.tif", model, area=area, seams=True, overlap=0).seam_score
        for k, area in enumerate((None, box((100, 800), (100, 900))))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=0.1)


def test_commands_and_python_take_areas(tmp_path, make_raster):
    src, model = make_raster(speckle(SHAPE), "s_VH.tif", **UTM), make_local(tmp_path / "local.onnx")
    fixed = (src, "--model", model, "--precision", "fp32", "-q")
    west, north = UTM["transform"] @ (100, 200)
    east, south = UTM["transform"] @ (300, 500)
    bounds = (west, south, east, north)
    one, two, three = (tmp_path / f"{k}.tif" for k in range(3))
    assert here(scene_main, *fixed[:1], one, *fixed[1:], "--bbox", *bounds, "--bbox-crs", UTM["crs"]).returncode == 0
    sar2optical.translate(src, two, model=model, precision="fp32", bbox=bounds, bbox_crs=UTM["crs"])
    aoi = tmp_path / "aoi.json"
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    crs = {"properties": {"name": UTM["crs"]}}
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
    assert here(scene_main, *fixed[:1], three, *fixed[1:], "--aoi", aoi).returncode == 0
    for path in (one, two, three):
        assert pixels(path)[0].shape == (3, 300, 200)
        np.testing.assert_array_equal(pixels(path)[0], pixels(one)[0])
    done = here(scene_main, *fixed[:1], tmp_path / "x.tif", *fixed[1:], "--bbox", 10, 10, 11, 11)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "--bbox 10 10 11 11 contains no pixel of the scene" in done.stderr
    assert done.stderr.count("\n") == 1
    assert here(scene_main, *fixed[:1], tmp_path / "x.tif", *fixed[1:], "--bbox-crs", "EPSG:4326").returncode == 2
    was = aoi.read_bytes()
    report = ("--aoi", aoi, "--report", aoi, "--overwrite")
    assert here(scene_main, *fixed[:1], tmp_path / "x.tif", *fixed[1:], *report).returncode == 1
    assert aoi.read_bytes() == was
    with pytest.raises(sar2optical.Sar2OpticalError, match=r"bbox=\(10, 10, 11, 11\) contains no pixel"):
        sar2optical.translate(src, tmp_path / "x.tif", model=model, bbox=(10, 10, 11, 11))


def test_a_byte_scene_without_a_stretch_is_itself(tmp_path, make_raster, identity_model):
    grey = speckle(SHAPE)
    src = make_raster(grey, "s.tif", **UTM)
    scene = SceneOptions(bands=("1",))
    run(src, tmp_path / "out.tif", identity_model, area=box((123, 456), (222, 777)), scene=scene, stretch=None)
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif")[0], [grey[123:456, 222:777]] * 3)
