"""Positions of windows, and the rows that they finish."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.errors import OptionError
from sar2optical.tiling.windows import window_grid

LAYOUTS = [
    ((1, 1), 8, 2),
    ((1, 37), 8, 3),
    ((8, 8), 8, 4),
    ((9, 7), 8, 0),
    ((9, 7), 8, 7),
    ((24, 24), 8, 0),
    ((25, 23), 8, 4),
    ((31, 50), 8, 5),
    ((17, 64), 16, 15),
    ((3, 5), 1, 0),
]


def covered(grid):
    """Count, pixel by pixel, the windows that hold it."""
    count = np.zeros(grid.shape, int)
    for row in grid.rows:
        for col in grid.cols:
            count[row : row + grid.window, col : col + grid.window] += 1
    return count


def test_windows_of_a_known_scene_lie_where_they_must():
    grid = window_grid((20, 33), 10, 4)
    assert grid.rows == (0, 5, 10)
    assert grid.cols == (0, 5, 11, 17, 23)
    assert len(grid) == 15
    assert grid.padded_width == 33


def test_windows_that_fit_exactly_are_not_laid_twice():
    grid = window_grid((22, 30), 10, 4)
    assert grid.rows == (0, 6, 12)
    assert window_grid((20, 30), 10, 0).cols == (0, 10, 20)


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_every_pixel_lies_in_a_window(shape, window, overlap):
    assert covered(window_grid(shape, window, overlap)).min() >= 1


@pytest.mark.parametrize(("shape", "window", "overlap"), [((24, 32), 8, 0), ((7, 7), 7, 0), ((6, 4), 1, 0)])
def test_without_overlap_a_multiple_of_the_window_is_covered_once(shape, window, overlap):
    assert (covered(window_grid(shape, window, overlap)) == 1).all()


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_windows_reach_over_the_far_edge_only_where_the_scene_is_smaller(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    for starts, length in ((grid.rows, shape[0]), (grid.cols, shape[1])):
        assert starts[0] == 0
        assert starts[-1] + window == max(length, window)


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_neighbours_are_evenly_spaced_and_share_at_least_the_overlap(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    for starts in (grid.rows, grid.cols):
        strides = np.diff(starts)
        assert (strides <= window - overlap).all()
        assert np.ptp(strides) <= 1 if strides.size else True


def test_there_are_no_more_windows_than_the_overlap_needs():
    assert len(window_grid((8 + 4 * 3, 8), 8, 4).rows) == 4
    assert len(window_grid((8 + 4 * 3 + 1, 8), 8, 4).rows) == 5


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_strips_are_the_scenes_rows_once_and_in_order(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    rows = [row for index in range(len(grid.rows)) for row in range(*grid.strip(index))]
    assert rows == list(range(shape[0]))


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_no_later_window_touches_a_finished_strip(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    for index in range(len(grid.rows)):
        start, stop = grid.strip(index)
        assert start < stop <= grid.rows[index] + window
        assert all(later >= stop for later in grid.rows[index + 1 :])


def test_strips_of_a_known_scene():
    grid = window_grid((20, 33), 10, 4)
    assert [grid.strip(k) for k in range(3)] == [(0, 5), (5, 10), (10, 20)]


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (9, 3), (10, 10)])
def test_a_scene_smaller_than_a_window_gets_one_window(shape):
    grid = window_grid(shape, 10, 4)
    assert (grid.rows, grid.cols) == ((0,), (0,))
    assert grid.strip(0) == (0, shape[0])
    assert grid.padded_width == 10


def test_a_scene_one_pixel_larger_than_a_window_gets_a_second_one():
    assert window_grid((11, 10), 10, 4).rows == (0, 1)


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_an_overlap_that_leaves_no_stride_is_refused(overlap):
    with pytest.raises(OptionError, match=rf"overlap is {overlap}: give 0 to 7"):
        window_grid((20, 20), 8, overlap)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_scene_without_a_pixel_is_refused(shape):
    with pytest.raises(OptionError, match=f"{shape[0]} x {shape[1]}.*at least one pixel"):
        window_grid(shape, 8, 2)
