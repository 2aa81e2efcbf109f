"""Properties of windows, blending and encoding, on sizes and values that hypothesis chooses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sar2optical.scene.decoding import decode
from sar2optical.scene.encoder import Encoding
from sar2optical.tiling.blend import Blender, axis_weights
from sar2optical.tiling.windows import WindowGrid, window_grid

FINITE = st.floats(-60, 40, width=32)


@st.composite
def grids(draw: st.DrawFn) -> WindowGrid:
    window = draw(st.integers(1, 24))
    overlap = draw(st.integers(0, window - 1))
    return window_grid((draw(st.integers(1, 90)), draw(st.integers(1, 90))), window, overlap)


@given(grids())
def test_windows_cover_every_pixel_and_stay_inside(grid):
    for starts, side in ((grid.rows, grid.shape[0]), (grid.cols, grid.shape[1])):
        covered = np.zeros(max(side, grid.window), np.int64)
        for start in starts:
            covered[start : start + grid.window] += 1
        assert covered.min() >= 1
        assert starts[0] == 0
        assert starts[-1] + grid.window == max(side, grid.window)
        assert all(b - a <= grid.window - grid.overlap for a, b in itertools.pairwise(starts))


@given(grids())
def test_strips_cover_the_height_once_and_in_order(grid):
    strips = [grid.strip(k) for k in range(len(grid.rows))]
    assert [strip[0] for strip in strips] == [0, *(strip[1] for strip in strips[:-1])]
    assert strips[-1][1] == grid.shape[0]


@given(grids())
def test_weights_are_positive_and_sum_to_one(grid):
    weights = axis_weights(grid.rows, grid.window)
    total = np.zeros(grid.rows[-1] + grid.window)
    for start, row in zip(grid.rows, weights, strict=True):
        total[start : start + grid.window] += row
    assert weights.min() > 0
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(grids(), st.integers(0, 2**32 - 1))
def test_windows_of_one_image_blend_to_that_image(grid, seed):
    """The known answer: whatever the grid, cutting and blending gives the image back."""
    height, width = grid.rows[-1] + grid.window, grid.cols[-1] + grid.window
    image = np.random.default_rng(seed).uniform(-1, 1, (3, height, width)).astype(np.float32)
    blender, finished = Blender(grid), []
    for row, top in enumerate(grid.rows):
        blender.begin(row)
        for col, left in enumerate(grid.cols):
            window = np.ascontiguousarray(image[:, top : top + grid.window, left : left + grid.window])
            blender.add(blender.weight(row, col, window))
        finished.append(blender.finish(row).image())
    np.testing.assert_allclose(
        np.concatenate(finished, axis=1), image[:, : grid.shape[0], : grid.shape[1]], atol=1e-5
    )


@given(arrays.arrays(np.float32, (5, 7), elements=FINITE), FINITE, st.floats(0.5, 30, width=32))
def test_encoding_is_monotone_and_its_bounds_are_known(values, low, span):
    encoding = Encoding("db", "db", float(low), float(low + span))
    valid = np.ones(values.shape, np.bool_)
    found = encoding.encode(values, valid)
    assert np.abs(found).max() <= 1
    order = np.argsort(values, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()
    ends = encoding.encode(np.array([[low, low + span / 2, low + span]], np.float32), np.ones((1, 3), np.bool_))
    assert ends[0] == pytest.approx([-1, 0, 1], abs=1e-4)


@given(arrays.arrays(np.uint8, (4, 9)))
def test_bytes_come_back_from_the_model_input_unchanged(values):
    encoded = Encoding("byte", "byte", 0, 255).encode(values.astype(np.float32), np.ones(values.shape, np.bool_))
    np.testing.assert_array_equal(decode(encoded), values)
