"""Optical chips: red, green and blue found by name, colour or known order; values of another scale are refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from sar2optical.data import optical
from sar2optical.data.check import check
from sar2optical.data.exposure import counts_of, misfit, refuse_misfit
from sar2optical.data.pairs import Reading, find_pairs, read_optical
from sar2optical.errors import DataError, OptionError
from tests.data.test_pairs import write_pair

L1C = [f"B{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8)] + ["B8A", "B9", "B10", "B11", "B12"]


@pytest.fixture(autouse=True)
def _log_lines_are_said_again():
    optical._log_once.cache_clear()


def chip(make_raster, count, name="chip.tif", *, dtype="uint16", side=64, **how):
    """Make a chip whose band k has the value 100 k everywhere, 10 k for bytes."""
    step = 10 if dtype == "uint8" else 100
    bands = np.stack([np.full((side, side), step * k, dtype) for k in range(1, count + 1)])
    return make_raster(bands, name, **how)


def bands_read(path, **reading):
    stored = optical.read_stored(path, **reading)
    step = 10 if stored.dtype == np.uint8 else 100
    return [int(band[0, 0]) // step for band in stored]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (L1C, [4, 3, 2]),
        (["B02", "B03", "B04", "B08"], [3, 2, 1]),
        (["blue", "green", "red"], [3, 2, 1]),
        (["B4", "B3", "B2"], [1, 2, 3]),
        ([f"{band}, central wavelength {nm} nm" for band, nm in (("B2", 490), ("B3", 560), ("B4", 665))], [3, 2, 1]),
        (["S2_B08_10m", "S2_B04_10m", "S2_B03_10m", "S2_B02_10m"], [2, 3, 4]),
        (["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"], [6, 4, 2]),
        (["Near-Infrared", "Red", "Red edge 1", "Green", "Blue"], [2, 4, 5]),
        (["R", "G", "B", "nir"], [1, 2, 3]),
        (["B4 (red)", "B3 (green)", "B2 (blue)", "near infra-red"], [1, 2, 3]),
        (["Band 1", "Band 2", "Band 3"], [1, 2, 3]),
    ],
)  # fmt: skip
def test_bands_are_chosen_by_name(make_raster, names, expected):
    assert bands_read(chip(make_raster, len(names), descriptions=names)) == expected


def test_names_have_priority_over_the_colours_that_gdal_assumes(make_raster):
    path = chip(make_raster, 4, dtype="uint8", descriptions=["B2", "B3", "B4", "B8"])
    assert bands_read(path) == [3, 2, 1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nir", "red", "green"], "no band is named blue"),
        (["B5", "B6", "B7"], r"no band is named red \(B4 of Sentinel-2\); the bands are 1 \(b5\)"),
        (["B04_10m", "B04_20m", "B03", "B02"], "several bands are named red"),
        (["red", "blue", "", ""], r"no band is named green .*3 \(not named\)"),
    ],
)
def test_names_without_red_green_and_blue_are_refused(make_raster, names, said):
    path = chip(make_raster, len(names), descriptions=names)
    with pytest.raises(DataError, match=rf"{path.name}: {said}.*give --rgb"):
        optical.read_stored(path)
    assert bands_read(path, rgb=(3, 2, 1)) == [3, 2, 1]


@pytest.mark.parametrize(("count", "order"), [(13, "L1C"), (12, "L2A")])
def test_a_known_order_is_used_and_logged_once(make_raster, caplog, count, order):
    caplog.set_level(logging.INFO)
    path = chip(make_raster, count)
    for _ in range(3):
        assert bands_read(path) == [4, 3, 2]
    (said,) = caplog.messages
    assert f"{count} bands without names, assumed order: Sentinel-2 {order}" in said


@pytest.mark.parametrize("count", [4, 5, 10, 14])
def test_other_numbers_of_bands_without_names_are_refused_until_rgb_is_given(make_raster, count):
    path = chip(make_raster, count)
    with pytest.raises(DataError, match=rf"{count} bands without names, .*with --rgb"):
        optical.read_stored(path)
    assert bands_read(path, rgb=(3, 2, 1)) == [3, 2, 1]
    with pytest.raises(DataError, match=rf"no band 15: give --rgb numbers from 1 to {count}"):
        optical.read_stored(path, rgb=(15, 2, 1))


@pytest.mark.parametrize("rgb", [(0, 1, 2), (3, 3, 1)])
def test_invalid_bands_are_refused(rgb):
    with pytest.raises(OptionError, match="give three different band numbers"):
        Reading(rgb=rgb)


def test_alpha_is_no_colour(make_raster):
    opaque = np.stack([np.full((64, 64), v, np.uint8) for v in (10, 20, 30, 255)])
    for name in ("a.png", "a.tif"):
        assert bands_read(make_raster(opaque, name)) == [1, 2, 3]
    wide = opaque.astype(np.uint16) * np.array([10, 10, 10, 257], np.uint16)[:, None, None]
    kinds = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined, ColorInterp.alpha)
    assert bands_read(make_raster(wide, "wide.tif", colorinterp=kinds)) == [1, 2, 3]


def test_near_infrared_marked_as_alpha_is_refused(make_raster):
    """GDAL marks the fourth of four bands of bytes as alpha; it would swap red and blue here."""
    path = make_raster(np.random.default_rng(0).integers(1, 250, (4, 64, 64)).astype(np.uint8))
    with pytest.raises(
        DataError, match="the fourth band is marked as alpha, but its values are not those of an alpha band"
    ):
        optical.read_stored(path)
    assert optical.read_stored(path, (3, 2, 1)).shape == (3, 64, 64)


def test_reading_uses_the_given_rgb_bands(make_raster):
    path = chip(make_raster, 4)
    got = read_optical(path, Reading(rgb=(3, 2, 1), optical_max=1000))[:, 0, 0]
    assert got.tolist() == [77, 51, 26]


# The value that becomes white


def ground(high, seed=0):
    """Land as 16-bit values up to `high`, with a pond."""
    y, x = np.mgrid[:256, :256]
    waves = np.stack([0.5 + 0.3 * np.sin(x / (20 + 7 * b)) + 0.15 * np.cos(y / (31 + seed)) for b in range(3)])
    waves[:, 100:124, 100:124] = 0.02
    return (waves * high).astype(np.uint16)


@pytest.mark.parametrize(
    ("high", "becomes", "fitting"), [(65535, "white", 62000), (30000, "white", 29000), (255, "black", 255)]
)
def test_another_scale_is_refused_with_a_value_that_fits(make_raster, high, becomes, fitting):
    root = write_pair(make_raster, "set", "a.tif", size=(256, 256), optical=ground(high))
    with pytest.raises(DataError, match=rf"become {becomes}: give --optical-max {fitting}") as caught:
        refuse_misfit(find_pairs(root), Reading())
    assert str(caught.value).startswith(f"{root / 's2'}: at --optical-max 3000, ")
    advised = Reading(optical_max=float(str(caught.value).rsplit(" ", 1)[1]))
    refuse_misfit(find_pairs(root), advised)  # the suggested value works
    image = read_optical(root / "s2" / "a.tif", advised)
    assert np.mean(image > 200) > 0.01
    assert np.mean(image == 255) < 0.05


def test_bytes_reflectance_and_clouds_in_some_chips_pass(make_raster):
    root = write_pair(make_raster, "set", "a.tif", size=(256, 256), optical=ground(3000))
    write_pair(make_raster, "set", "b.tif", size=(256, 256), optical=ground(3400, seed=1))
    write_pair(make_raster, "set", "cloud.tif", size=(256, 256), optical=np.full((3, 256, 256), 9000, np.uint16))
    write_pair(make_raster, "set", "c.png", size=(256, 256))
    refuse_misfit(find_pairs(root), Reading())
    report = check(root)
    assert [(p.kind, p.chip.name) for p in report.problems if p.kind != "duplicate"] == [
        ("empty", "cloud.tif"), ("saturated", "cloud.tif")
    ]  # fmt: skip
    assert "100% of the 16-bit optical values become white: give --optical-max 9000" in report.problems[1].detail


def test_zeros_are_not_counted():
    stored = np.zeros((3, 64, 64), np.int16)
    assert misfit(counts_of(stored), 3000) is None
    stored[:, 0] = -5
    assert misfit(counts_of(stored), 3000) is None
    stored[:, 1] = 20000
    assert "100%" in (misfit(counts_of(stored), 3000) or "")


def test_a_check_names_the_scale_once_for_all_chips(make_raster):
    root = write_pair(make_raster, "set", "a.tif", size=(256, 256), optical=ground(65535))
    write_pair(make_raster, "set", "b.tif", size=(256, 256), optical=ground(65535, seed=1))
    kinds = [problem.kind for problem in check(root).problems]
    assert kinds == ["wrong scale", "duplicate"]  # SAR chips of write_pair are alike
    assert "wrong scale" not in [p.kind for p in check(root, Reading(optical_max=61000)).problems]
