"""Tiles are those of a slow reference, made of whole files."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from sar2optical.viewer.exhibit import Choices, open_exhibit
from sar2optical.viewer.pyramid import halved
from sar2optical.viewer.tiles import GAIN, MASK_COLOUR, NoSuchTile, NotReady, tile


def decoded(png):
    """Pixels of a PNG with its alpha, which opaque ones leave out."""
    with MemoryFile(png) as memory, memory.open() as dataset:
        pixels = dataset.read()
    return pixels if len(pixels) in (2, 4) else np.concatenate([pixels, np.full((1, 256, 256), 255, np.uint8)])


def whole(path, dtype=np.float32):
    with rasterio.open(path) as dataset:
        return dataset.read().astype(dtype)


@pytest.mark.parametrize(("z", "x", "y"), [(3, 0, 0), (3, 5, 4), (2, 1, 1), (1, 1, 1), (0, 0, 0)])
def test_a_tile_of_the_radar_is_the_stretched_average_of_the_file(exhibit, scene, z, x, y):
    values = whole(scene)
    values[:, 0] = np.nan
    for _ in range(3 - z):
        values = halved(values)
    part = values[0, 256 * y : 256 * (y + 1), 256 * x : 256 * (x + 1)]
    low, high = exhibit.radar.stretch[0]
    grey = np.clip((part - low) * (255 / (high - low)) + 0.5, 0, 255)
    expected = np.zeros((2, 256, 256), np.uint8)
    expected[0, : part.shape[0], : part.shape[1]] = np.nan_to_num(grey).astype(np.uint8)
    expected[1, : part.shape[0], : part.shape[1]] = np.where(np.isnan(part), 0, 255)
    found = decoded(tile(exhibit, "radar-0", z, x, y))
    np.testing.assert_array_equal(found[1], expected[1])
    assert abs(found[0].astype(int) - expected[0]).max() <= (0 if z == 3 else 1)
    assert found[0].std() > 1


def test_the_stretch_is_that_of_the_percentiles(exhibit):
    low, high = exhibit.radar.stretch[0]
    assert low == pytest.approx(28, abs=6)
    assert high == pytest.approx(882, abs=6)


def test_tiles_of_pictures_at_1_to_1_have_the_files_bytes(exhibit, mosaic, truth):
    for layer, path in (("mosaic-0", mosaic), ("truth", truth)):
        found = decoded(tile(exhibit, layer, 3, 2, 1))
        np.testing.assert_array_equal(found[:3], whole(path, np.uint8)[:, 256:512, 512:768])
        assert (found[3] == 255).all()


def test_the_mask_has_colour_where_the_mosaic_is_invalid(exhibit):
    found = decoded(tile(exhibit, "mask-0", 3, 0, 0))
    assert [tuple(found[:, row, 10]) for row in (39, 40)] == [MASK_COLOUR, (0, 0, 0, 0)]


def test_the_difference_is_that_of_the_bytes(exhibit, mosaic, truth):
    expected = GAIN * abs(whole(mosaic) - whole(truth))[:, 256:512, 512:768]
    found = decoded(tile(exhibit, "difference-0", 3, 2, 1))
    np.testing.assert_array_equal(found[:3], np.minimum(expected, 255 // GAIN * GAIN))
    assert not decoded(tile(exhibit, "difference-0", 3, 0, 0))[3, :40].any()


@pytest.mark.parametrize(
    ("layer", "z", "x", "y"),
    [
        ("radar-1", 0, 0, 0),
        ("radar-x", 0, 0, 0),
        ("mosaic-1", 0, 0, 0),
        ("mask--1", 0, 0, 0),
        ("other-0", 0, 0, 0),
        ("../mosaic", 0, 0, 0),
        ("radar-0", 4, 0, 0),
        ("radar-0", 0, 1, 0),
        ("radar-0", 3, 0, 5),
        ("radar-0", 3, -1, 0),
    ],
)
def test_there_are_no_other_tiles(exhibit, layer, z, x, y):
    with pytest.raises(NoSuchTile):
        tile(exhibit, layer, z, x, y)


def test_a_level_that_is_not_computed_is_not_shown(scene, mosaic):
    with open_exhibit(scene, [mosaic], Choices()) as shown:
        assert decoded(tile(shown, "radar-0", 3, 0, 1))[1].all()
        with pytest.raises(NotReady):
            tile(shown, "radar-0", 0, 0, 0)
        assert decoded(tile(shown, "mosaic-0", 0, 0, 0))[3].any()
        with pytest.raises(NoSuchTile):
            tile(shown, "truth", 0, 0, 0)
