"""Reduced levels of a raster."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.errors import SceneUnreadable
from sar2optical.viewer.pyramid import Pyramid, chunks_of, halved, level_shapes


def reader(values):
    return lambda rows, cols: values[:, slice(*rows), slice(*cols)].copy()


def pyramid_of(values, block=(1, 10_000), **options):
    return Pyramid(
        options.pop("read", reader(values)),
        bands=len(values),
        shape=values.shape[1:],
        block=block,
        readers=1,
    )


def test_the_average_leaves_out_what_is_invalid():
    values = np.array([[[1, 3, 5], [np.nan, 4, 7], [np.nan, np.nan, np.nan]]], np.float32)
    np.testing.assert_allclose(halved(values), [[[8 / 3, 6], [np.nan, np.nan]]])


def test_a_level_is_half_of_the_one_before_until_it_fits_a_tile():
    assert level_shapes((700, 1025)) == [(700, 1025), (350, 513), (175, 257), (88, 129)]


@pytest.mark.parametrize("block", [(1, 5000), (512, 512), (16, 256), (3001, 5000)])
def test_chunks_cover_a_raster_once_and_are_small(block):
    shape = 3001, 5000
    seen = np.zeros(shape, np.uint8)
    for rows, cols in chunks_of(shape, block, 4):
        assert rows[0] % 4 == cols[0] % 4 == 0
        assert (rows[1] - rows[0]) * (cols[1] - cols[0]) <= 1_100_000
        seen[slice(*rows), slice(*cols)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("block", [(1, 1301), (128, 128)])
def test_every_level_is_the_average_of_the_whole(block):
    values = np.random.default_rng(0).random((2, 1100, 1301), np.float32)
    values[:, :90, 30:] = np.nan
    with pyramid_of(values, block) as pyramid:
        pyramid.build()
        slow = values
        for level, shape in enumerate(pyramid.shapes):
            found = pyramid.read(level, (0, shape[0]), (0, shape[1]))
            np.testing.assert_allclose(found, slow, rtol=1e-6)
            part = pyramid.read(level, (3, shape[0] // 2), (5, shape[1] // 2))
            np.testing.assert_array_equal(part, found[:, 3 : shape[0] // 2, 5 : shape[1] // 2])
            slow = halved(slow)


def test_higher_levels_are_not_there_before_they_are_computed():
    with pyramid_of(np.ones((1, 1100, 1300), np.float32)) as pyramid:
        assert [pyramid.has(level) for level in range(len(pyramid.shapes))] == [True, True, False, False]
        pyramid.start()
        pyramid.start()
        pyramid._thread.join()
        assert pyramid.has(3)
        folder = pyramid._folder.name
    assert not __import__("pathlib").Path(folder).exists()


def test_a_damaged_raster_is_reported():
    def damaged(rows, cols):
        raise SceneUnreadable("scene.tif: is damaged")

    with pyramid_of(np.ones((1, 1100, 1300), np.float32), read=damaged) as pyramid:
        pyramid.start()
        pyramid._thread.join()
        assert pyramid.error == "scene.tif: is damaged"
        assert not pyramid.has(2)
