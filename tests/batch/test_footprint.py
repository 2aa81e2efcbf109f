"""Outlines across the antimeridian and around the poles, compared with known answers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from sar2optical.batch.footprint import outline
from sar2optical.batch.stac import footprint
from tests.conftest import speckle


def area(ring):
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def rings(geometry):
    pieces = geometry["coordinates"]
    return [piece[0] for piece in pieces] if geometry["type"] == "MultiPolygon" else pieces


def assert_valid(geometry, bbox):
    """Check RFC 7946: closed, counterclockwise, within -180..180, no edge over 180 degrees except along a pole."""
    west, south, east, north = bbox
    for ring in rings(geometry):
        assert ring[0] == ring[-1]
        assert area(ring) > 0
        assert all(-180 <= x <= 180 and south <= y <= north for x, y in ring)
        assert all(x >= west or x <= east if west > east else west <= x <= east for x, _ in ring)
        assert all(abs(a[0] - b[0]) <= 180 or abs(a[1]) == 90 for a, b in pairwise(ring))


BOX = [(-1, 0), (1, 0), (1, 2), (-1, 2)]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("middle", [-359.5, -180.5, -179, -90, 0, 179, 180, 359.5, 541])
def test_a_box_keeps_its_area_wherever_it_lies(middle, wrapped):
    box = [(middle + x, y) for x, y in BOX]
    if wrapped:
        box = [((x + 180) % 360 - 180, y) for x, y in box]
    geometry, bbox = outline(box)
    assert_valid(geometry, bbox)
    assert sum(map(area, rings(geometry))) == pytest.approx(4)
    assert (bbox[2] - bbox[0]) % 360 == pytest.approx(2)


def test_a_box_across_the_antimeridian_is_cut_there():
    geometry, bbox = outline([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    assert bbox == [179, 0, -179, 1]
    assert geometry["type"] == "MultiPolygon"
    assert [sorted({tuple(p) for p in ring}) for ring in rings(geometry)] == [
        [(179, 0), (179, 1), (180, 0), (180, 1)],
        [(-180, 0), (-180, 1), (-179, 0), (-179, 1)],
    ]


@pytest.mark.parametrize("edge", [180, -180])
def test_a_box_that_ends_at_the_antimeridian_is_not_cut(edge):
    geometry, bbox = outline([(179, 0), (edge, 0), (edge, 1), (179, 1)])
    assert (geometry["type"], bbox) == ("Polygon", [179, 0, 180, 1])


def test_a_ring_that_crosses_several_times_is_cut_into_as_many_pieces():
    c = [(178, 0), (182, 0), (182, 1), (179, 1), (179, 2), (182, 2), (182, 3), (178, 3)]
    geometry, bbox = outline(c)
    assert_valid(geometry, bbox)
    assert [area(ring) for ring in rings(geometry)] == [5, 2, 2]


@pytest.mark.parametrize("start", range(0, 360, 45))
@pytest.mark.parametrize("lat", [80, -80])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_ring_around_a_pole_holds_all_longitudes_up_to_it(start, lat, turn):
    around = [((start + turn * k * 30 + 180) % 360 - 180, lat) for k in range(12)]
    geometry, bbox = outline(around)
    assert_valid(geometry, bbox)
    assert bbox == [-180, min(lat, np.sign(lat) * 90), 180, max(lat, np.sign(lat) * 90)]
    assert sum(map(area, rings(geometry))) == pytest.approx(3600)


def test_a_map_of_the_world_is_whole_whichever_longitude_it_begins_at():
    for west in (-180, 0, -90):
        edge = [(west + k * 18, -90) for k in range(21)]
        geometry, bbox = outline([*edge, *((x, 90) for x, _ in reversed(edge))])
        assert bbox == [-180, -90, 180, 90]
        assert sum(map(area, rings(geometry))) == 360 * 180


def from_origin(west, north, width, height):
    return Affine(width, 0, west, 0, -height, north)


def footprint_of(make_raster, crs, transform, **how):
    with rasterio.open(make_raster(speckle((40, 60)), crs=crs, transform=transform, **how)) as dataset:
        return footprint(dataset)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32601", from_origin(270_000, 5_600_000, 1000, 1000)),
        ("EPSG:32660", from_origin(700_000, 5_600_000, 1000, 1000)),
        ("EPSG:32760", from_origin(750_000, 6_000_000, 1000, 1000)),
        ("EPSG:3031", from_origin(-30_000, -1_200_000, 1000, 1000)),
        ("EPSG:3413", from_origin(-1_000_000, 1_020_000, 1000, 1000)),
        ("EPSG:4326", from_origin(179.9, 10, 0.01, 0.01)),
        ("EPSG:32601", Affine(700, 700, 270_000, -700, 700, 5_600_000)),
    ],
)
def test_scenes_across_the_antimeridian_are_cut(make_raster, crs, transform):
    geometry, bbox = footprint_of(make_raster, crs, transform)
    assert_valid(geometry, bbox)
    assert geometry["type"] == "MultiPolygon"
    assert bbox[0] > 160
    assert bbox[2] < -160
    corners = [transform @ corner for corner in ((0, 0), (60, 0), (60, 40), (0, 40))]
    lonlat = zip(*rasterio.warp.transform(crs, "EPSG:4326", *zip(*corners, strict=True)), strict=True)
    vertices = np.array([point for ring in rings(geometry) for point in ring])
    for lon, lat in lonlat:
        wanted = ((lon + 180) % 360 - 180, lat)
        assert np.abs(vertices - wanted).sum(axis=1).min() < 1e-6


@pytest.mark.parametrize(
    ("crs", "corner", "pole"),
    [("EPSG:3413", (-30_000, 20_000), 90), ("EPSG:3413", (-59_990, 10), 90), ("EPSG:3031", (-30_000, 20_000), -90)],
)
def test_the_footprint_of_a_scene_with_a_pole_reaches_it(make_raster, crs, corner, pole):
    geometry, bbox = footprint_of(make_raster, crs, from_origin(*corner, 1000, 1000))
    assert_valid(geometry, bbox)
    assert (bbox[0], bbox[2]) == (-180, 180)
    assert pole in (bbox[1], bbox[3])


def test_a_raster_without_a_usable_georeference_has_no_footprint(make_raster):
    assert footprint_of(make_raster, "EPSG:32601", from_origin(1e12, 1e12, 10, 10)) == (None, None)
    with rasterio.open(make_raster(speckle((40, 60)), "plain.tif")) as dataset:
        assert footprint(dataset) == (None, None)


def test_a_scene_with_control_points_has_a_footprint(make_raster):
    gcps = [GroundControlPoint(r, c, 7 + c / 100, 45 - r / 100) for r in (0, 20, 40) for c in (0, 30, 60)]
    with rasterio.open(make_raster(speckle((40, 60)), gcps=gcps, crs="EPSG:4326")) as dataset:
        geometry, bbox = footprint(dataset)
    wanted = [(7, 45), (7, 44.8), (7, 44.6), (7.3, 44.6), (7.6, 44.6), (7.6, 44.8), (7.6, 45), (7.3, 45), (7, 45)]
    assert np.allclose(geometry["coordinates"][0], wanted)
    assert np.allclose(bbox, (7, 44.6, 7.6, 45))


@pytest.mark.parametrize("wrapped", [False, True])
def test_control_points_across_the_antimeridian_are_cut(make_raster, wrapped):
    def lon(col):
        east = 179.8 + col / 100
        return (east + 180) % 360 - 180 if wrapped else east

    gcps = [GroundControlPoint(r, c, lon(c), 45 - r / 100) for r in (0, 20, 40) for c in (0, 30, 60)]
    with rasterio.open(make_raster(speckle((40, 60)), gcps=gcps, crs="EPSG:4326")) as dataset:
        geometry, bbox = footprint(dataset)
    assert_valid(geometry, bbox)
    assert bbox == pytest.approx([179.8, 44.6, -179.6, 45])
    assert sum(map(area, rings(geometry))) == pytest.approx(0.6 * 0.4)


EARTH = 6_378_137.0
"""Semi-major axis of WGS 84 in metres."""


def mercator(x, y):
    """Return longitude and latitude in degrees of Web Mercator, a sphere (Snyder 1987, 7-4 and 7-5)."""
    return math.degrees(x / EARTH), math.degrees(math.pi / 2 - 2 * math.atan(math.exp(-y / EARTH)))


def polar_latitude(radius, *, true=70.0):
    """Return the latitude at a distance from the pole of EPSG:3413 (Snyder 1987, 14-15, 15-9, 21-34 and 7-9)."""
    e, true = 0.0818191908426, math.radians(true)

    def t(lat):
        return math.tan(math.pi / 4 - lat / 2) / ((1 - e * math.sin(lat)) / (1 + e * math.sin(lat))) ** (e / 2)

    wanted = radius * t(true) / (EARTH * math.cos(true) / math.sqrt(1 - (e * math.sin(true)) ** 2))
    lat = math.pi / 2 - 2 * math.atan(wanted)
    for _ in range(10):
        lat = math.pi / 2 - 2 * math.atan(wanted * ((1 - e * math.sin(lat)) / (1 + e * math.sin(lat))) ** (e / 2))
    return math.degrees(lat)


TEN = {
    "plain": ("EPSG:4326", from_origin(10, 50, 0.01, 0.01), (10, 49.6, 10.6, 50)),
    "across 180 degrees": ("EPSG:4326", from_origin(179.9, 10, 0.01, 0.01), (179.9, 9.6, -179.5, 10)),
    "up to 180 degrees": ("EPSG:4326", from_origin(179.4, 10, 0.01, 0.01), (179.4, 9.6, 180, 10)),
    "from 180 degrees": ("EPSG:4326", from_origin(180, 10, 0.01, 0.01), (-180, 9.6, -179.4, 10)),
    "longitudes from 0 to 360": ("EPSG:4326", from_origin(0, 90, 6, 4.5), (-180, -90, 180, 90)),
    "up to the pole": ("EPSG:4326", from_origin(0, 90, 0.01, 0.01), (0, 89.6, 0.6, 90)),
    "rotated by 45 degrees": ("EPSG:4326", Affine(0.01, 0.01, 10, 0.01, -0.01, 50), (10, 49.6, 11, 50.6)),
    "south up": ("EPSG:4326", Affine(0.01, 0, 10, 0, 0.01, 50), (10, 50, 10.6, 50.4)),
    "Web Mercator": (
        "EPSG:3857",
        from_origin(1e6, 6e6, 1000, 1000),
        (*mercator(1e6, 5.96e6), *mercator(1.06e6, 6e6)),
    ),
    "around the pole": (
        "EPSG:3413",
        from_origin(-30_000, 20_000, 1000, 1000),
        (-180, polar_latitude(math.hypot(30_000, 20_000)), 180, 90),
    ),
}


@pytest.mark.parametrize(("crs", "transform", "wanted"), TEN.values(), ids=TEN)
def test_boxes_of_awkward_scenes_are_those_worked_out_by_hand(make_raster, crs, transform, wanted):
    geometry, bbox = footprint_of(make_raster, crs, transform)
    assert_valid(geometry, bbox)
    assert bbox == pytest.approx(wanted, abs=1e-8)
