"""Areas of interest: their pixels in a scene, and those that are none."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.features import geometry_mask
from rasterio.warp import transform as warp

from sar2optical.errors import OptionError, OptionWithoutEffect
from sar2optical.scene.area import area_of, box_area, polygon_area, read_area
from sar2optical.scene.cut import cut_to
from sar2optical.scene.polygons import clipped, densified, inside
from sar2optical.scene.scene import open_scene
from sar2optical.tiling.windows import window_grid
from tests.conftest import UTM, speckle

SQUARE = [[0, 0], [0, 10], [10, 10], [10, 0]]


def ring(points):
    return np.array(points, np.float64)


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[*r, r[0]] for r in rings]}


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([[2, 2], [2, 8], [8, 8], [8, 2]], [[2, 2], [2, 8], [8, 8], [8, 2]]),
        ([[-5, 2], [5, 2], [5, 4], [-5, 4]], [[0, 2], [5, 2], [5, 4], [0, 4]]),
        ([[-5, -5], [20, -5], [20, 20], [-5, 20]], SQUARE),
        ([[11, 2], [12, 2], [12, 4]], []),
        ([[-1, 5], [5, 11], [11, 5], [5, -1]], None),
    ],
)
def test_a_ring_is_clipped_to_a_rectangle(points, wanted):
    found = clipped(ring(points), [0, 0], [10, 10])
    if wanted is None:  # a square on its corner becomes an octagon: the corners of 2 x 1 / 2 each are cut
        assert len(found) == 8
        assert found.min() == 0
        assert found.max() == 10
    else:
        assert {tuple(point) for point in found} == {tuple(point) for point in wanted}


def test_edges_get_points_at_equal_steps():
    found = densified(ring([[0, 0], [0, 10], [1, 10]]), [1, 4])
    np.testing.assert_allclose(found[:4], [[0, 0], [0, 10 / 3], [0, 20 / 3], [0, 10]])
    assert np.abs(np.diff(found, axis=0)).max() <= 4


def test_pixels_are_inside_where_their_centre_is_as_in_gdal():
    outer = [[1.4, 2.6], [1.2, 30.3], [25.7, 39.1], [38.8, 20.2], [20.6, 1.7]]
    hole = [[10.1, 10.2], [10.3, 20.4], [20.9, 15.5]]
    found = inside([[ring(outer), ring(hole)]], (0, 40), (0, 40))
    geometry = polygon([[c, r] for r, c in outer], [[c, r] for r, c in hole])
    np.testing.assert_array_equal(found, geometry_mask([geometry], (40, 40), Affine.identity(), invert=True))
    assert found[5, 5]
    assert not found[13, 14]
    # Any part of it is the same.
    np.testing.assert_array_equal(inside([[ring(outer), ring(hole)]], (7, 23), (11, 38)), found[7:23, 11:38])


def test_polygons_that_overlap_count_once():
    a, b = ring([[0, 0], [0, 6], [6, 6], [6, 0]]), ring([[3, 3], [3, 9], [9, 9], [9, 3]])
    found = inside([[a], [b]], (0, 10), (0, 10))
    assert found.sum() == 36 + 36 - 9
    assert found[4, 4]
    assert inside([[a, b]], (0, 10), (0, 10)).sum() == 72 - 2 * 9  # rings of one polygon: a hole


@pytest.fixture
def cut(make_raster):
    """Return a function that cuts a scene of 700 rows and 900 columns to an area; gives (rows, columns), and all."""

    def of(area, shape=(700, 900), window=256, **place):
        path = make_raster(speckle(shape), "vh.tif", **(place or UTM))
        with open_scene(path, ("VH",)) as scene:
            part, grid, found = cut_to(scene, window_grid(scene.shape, window, 64), area)
            words = found.text.replace(",", "").split()  # rows 1 to 2, columns 3 to 4
            top, left = int(words[1]), int(words[5])
            rows = top, top + found.shape[0]
            cols = left, left + found.shape[1]
            return SimpleNamespace(rows=rows, cols=cols, part=part, grid=grid, cut=found, scene=scene.georeference)

    return of


def test_a_box_in_the_scenes_crs_has_exactly_its_pixels(cut):
    found = cut(box_area((501_000, 4_796_000, 502_500, 4_798_990), "EPSG:32631"))
    assert (found.rows, found.cols) == ((101, 400), (100, 250))
    assert found.cut.georeference.transform == Affine(10, 0, 501_000, 0, -10, 4_798_990)
    # Windows are 0 to 256, 148 to 404, ... down, and 0 to 256, 161 to 417, ... across.
    rows, cols = window_grid((700, 900), 256, 64).rows, window_grid((700, 900), 256, 64).cols
    assert found.grid.rows == tuple(row for row in rows if row < 400)
    assert found.grid.cols == tuple(col for col in cols if col < 250)
    assert found.part.shape == (found.grid.rows[-1] + 256, found.grid.cols[-1] + 256)


def test_pixels_count_by_their_centres(cut):
    found = cut(box_area((501_004.9, 4_796_005.1, 502_494.9, 4_798_994.9), "EPSG:32631"))
    assert (found.rows, found.cols) == ((101, 399), (100, 249))


def test_a_box_in_degrees_covers_the_points_that_are_in_it(cut):
    west, south, east, north = 3.02, 43.31, 3.07, 43.34
    found = cut(box_area((west, south, east, north)))
    rows, cols = np.mgrid[0:700, 0:900] + 0.5
    lon, lat = (
        np.array(a) for a in warp(UTM["crs"], "EPSG:4326", *(UTM["transform"] @ (cols.ravel(), rows.ravel())))
    )
    there = ((lon > west) & (lon < east) & (lat > south) & (lat < north)).reshape(700, 900)
    assert there.sum() > 1000
    down, across = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    assert (found.rows, found.cols) == ((down[0], down[-1] + 1), (across[0], across[-1] + 1))


def test_the_whole_world_is_the_whole_scene(cut):
    for area in (
        box_area((-180, -90, 180, 90)),
        polygon_area(polygon([[-180, -90], [180, -90], [180, 90], [-180, 90]])),
    ):
        found = cut(area)
        assert (found.rows, found.cols) == ((0, 700), (0, 900))
        assert found.cut.georeference == found.scene
        assert found.grid == window_grid((700, 900), 256, 64)
        assert found.cut.visible(0, np.ones((700, 900), np.bool_)).all()


def test_a_scene_by_gcps_keeps_them_with_shifted_pixels(cut):
    gcps = [GroundControlPoint(r, c, 3 + c * 1e-4, 45 - r * 1e-4, 7) for r in (0, 350, 700) for c in (0, 450, 900)]
    found = cut(box_area((3.02, 44.95, 3.05, 44.98)), gcps=gcps, crs="EPSG:4326")
    assert (found.rows, found.cols) == ((200, 500), (200, 500))
    moved = found.cut.georeference.gcps
    assert [(g.row, g.col, g.x, g.y, g.z) for g in moved] == [(g.row - 200, g.col - 200, g.x, g.y, 7) for g in gcps]
    assert found.cut.georeference.gcp_crs == found.scene.gcp_crs


@pytest.mark.parametrize("west", [179.96, -180.04])
def test_a_scene_across_180_degrees_is_cut_on_either_side(cut, west):
    place = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, west, 0, -1e-4, 10)}
    left = cut(box_area((179.97, 9.95, 179.99, 9.98)), **place)
    assert (left.rows, left.cols) == ((200, 500), (100, 300))
    right = cut(box_area((-179.99, 9.95, -179.97, 9.98)), **place)
    assert (right.rows, right.cols) == ((200, 500), (500, 700))
    whole = cut(box_area((-180, -90, 180, 90)), **place)
    assert (whole.rows, whole.cols) == ((0, 700), (0, 900))


def test_a_scene_around_a_pole_is_cut_by_longitude(cut):
    # Polar stereographic: the pole is in the middle, 0 degrees downwards, 90 degrees to the right.
    place = {"crs": "EPSG:3413", "transform": Affine(100, 0, -45_000, 0, -100, 35_000)}
    found = cut(box_area((-180, 89.9, 180, 90)), **place)
    assert (found.rows[0] + found.rows[1], found.cols[0] + found.cols[1]) == (700, 900)
    radius = (found.rows[1] - found.rows[0]) / 2
    assert math.isclose(radius, 0.1 * 111_700 / 100 * 0.97, rel_tol=0.02)  # 0.97: the scale at the pole


def test_polygons_mask_and_select_windows(cut):
    # A thin diagonal from corner to corner, in pixels.
    corners = [[0, 0], [20, 0], [900, 680], [900, 700], [880, 700], [0, 20]]
    points = [list(UTM["transform"] @ corner) for corner in corners]
    area = polygon_area({**polygon(points), "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}})
    found = cut(area)
    assert (found.rows, found.cols) == ((0, 700), (0, 900))
    mask = found.cut.visible(0, np.ones((700, 900), np.bool_))
    wanted = geometry_mask([polygon(corners)], (700, 900), Affine.identity(), invert=True)
    assert (mask != wanted).mean() < 1e-4  # centres on an edge
    assert found.cut.windows.sum() <= 0.7 * found.cut.windows.size
    for k, row in enumerate(found.grid.rows):
        for n, col in enumerate(found.grid.cols):
            assert found.cut.windows[k, n] == mask[row : row + 256, col : col + 256].any()


@pytest.mark.parametrize(
    ("bounds", "crs", "said"),
    [
        ((1, 2, 3), None, "give four numbers"),
        ((1, 2, math.nan, 4), None, "is not finite"),
        ((3, 2, 3, 4), None, "--bbox 3 2 3 4: is empty"),
        ((1, 4, 3, 2), None, "--bbox 1 4 3 2: is empty"),
        ((170, 1, -170, 2), None, "crosses 180 degrees"),
        ((170, 1, 190, 2), None, "190 1 is outside -180 to 180.*--bbox-crs"),
        (
            (500_000, 4_790_000, 510_000, 4_800_000),
            None,
            r"is outside -180 to 180 \(longitude\) and -90 to 90 \(latitude\).*--bbox-crs",
        ),
        ((1, 2, 3, 4), "EPSG:1", "CRS 'EPSG:1' is unknown to GDAL"),
        ((1, 4, 3, 2), "EPSG:32631", "is empty"),
    ],
)
def test_boxes_that_are_none(bounds, crs, said):
    with pytest.raises(OptionError, match=said):
        area_of(bounds, crs, None)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "contains no polygon, only Point"),
        ({"type": "FeatureCollection", "features": []}, "contains no polygon, only FeatureCollection"),
        ({"type": "Feature", "geometry": None}, "contains no polygon, only Feature"),
        ([], "is not GeoJSON of polygons"),
        ({"features": []}, "is not GeoJSON of polygons"),
        ({"type": "Polygon", "coordinates": [[["a", 1]]]}, "is not GeoJSON of polygons"),
        (polygon([[1, 1], [2, 2]]), "has a polygon without area"),
        (polygon([[1, 1], [2, 2], [3, 3]]), "has a polygon without area"),
        (polygon([[179, 1], [-179, 1], [-179, 2], [179, 2]]), "crosses 180 degrees: cut it there"),
        (polygon([[179, 1], [181, 1], [181, 2]]), "181 1 is outside -180 to 180"),
        (polygon([[1, 1], [math.inf, 1], [1, 2]]), "not finite"),
        ({**polygon([[1, 1], [2, 1], [1, 2]]), "crs": {"type": "name"}}, "its crs has no name"),
        ({**polygon([[1, 1], [2, 1], [1, 2]]), "crs": {"properties": {"name": "X"}}}, "CRS 'X' is unknown"),
    ],
)
def test_geojson_that_is_no_area(tmp_path, record, said):
    with pytest.raises(OptionError, match=said):
        polygon_area(record)
    path = tmp_path / "aoi.geojson"
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match=said):
        area_of(None, None, path)


def test_files_that_are_no_area(tmp_path):
    (tmp_path / "x.geojson").write_bytes(b"\xff{")
    for path, said in (("x.geojson", "cannot be read"), ("y.geojson", "no such file"), (".", "cannot be read")):
        with pytest.raises(OptionError, match=said):
            read_area(tmp_path / path)
    with pytest.raises(OptionError, match="is on a server"):
        area_of(None, None, "https://host/x.geojson")


def test_options_that_contradict_one_another():
    with pytest.raises(OptionWithoutEffect, match="--bbox-crs EPSG:32631 has no effect without --bbox"):
        area_of(None, "EPSG:32631", None)
    with pytest.raises(OptionError, match="both given"):
        area_of((1, 2, 3, 4), None, polygon([[1, 1], [2, 1], [1, 2]]))
    assert area_of(None, None, None) is None


def test_forms_of_geojson_are_the_same_area():
    shape = polygon([[1, 1], [2, 1], [1, 2]])
    feature = {"type": "Feature", "geometry": shape, "properties": {}}
    forms = [
        shape,
        {"type": "MultiPolygon", "coordinates": [shape["coordinates"]]},
        feature,
        {"type": "FeatureCollection", "features": [feature, {"type": "Feature", "geometry": None}]},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [0, 0]}, shape]},
        {**feature, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
    ]
    assert {str(polygon_area(form)) for form in forms} == {str(polygon_area(shape))}
    assert area_of(None, None, SimpleNamespace(__geo_interface__=shape)) == polygon_area(shape)
    assert str(polygon_area(polygon([[1, 1], [2, 1], [1, 2.5]]))) != str(polygon_area(shape))


@pytest.mark.parametrize(
    ("area", "place", "said"),
    [
        (
            box_area((10, 10, 11, 11)),
            UTM,
            "--bbox 10 10 11 11 contains no pixel of the scene, which covers 3 43.2898 3.11106 43.3529",
        ),
        (box_area((501_001, 4_796_001, 501_003, 4_796_003), "EPSG:32631"), UTM, "contains no pixel of the scene"),
        (box_area((-170, -10, -169, -9)), UTM, "contains no pixel of the scene"),
        (
            box_area((3, 43, 4, 44)),
            {"crs": "EPSG:32631"},
            "has no georeference: --bbox needs GCPs",
        ),
        (
            polygon_area(polygon([[3, 43], [4, 43], [4, 44]]), "--aoi x"),
            {"count": 1},
            "--aoi needs GCPs, or an affine",
        ),
    ],
)
def test_areas_outside_of_the_scene_are_refused_in_one_line(cut, area, place, said):
    with pytest.raises(OptionError, match=said):
        cut(area, **place)


def test_geometries_that_are_no_polygons_are_named(caplog):
    shape = polygon([[3, 43], [4, 43], [4, 44]])
    lines = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    point = {"type": "Point", "coordinates": [0, 0]}
    area = polygon_area({"type": "GeometryCollection", "geometries": [point, shape, lines, point]}, "a.geojson")
    assert len(area.polygons) == 1
    assert "a.geojson: only its polygons count, not its Point, LineString" in caplog.text
