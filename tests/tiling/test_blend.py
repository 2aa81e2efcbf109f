"""Windows become one image: weights, and equality with a slow blend of the whole scene."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from math import pi, sin

import numpy as np
import pytest

from sar2optical.scene.decoding import decode
from sar2optical.tiling.blend import Blender, axis_weights
from sar2optical.tiling.windows import window_grid

LAYOUTS = [
    ((1, 1), 8, 2),
    ((5, 40), 8, 3),
    ((40, 5), 8, 0),
    ((8, 8), 8, 4),
    ((24, 24), 8, 0),
    ((25, 23), 8, 4),
    ((31, 50), 8, 6),
    ((23, 26), 16, 4),
    ((17, 40), 16, 15),
    ((19, 22), 12, 1),
]
THREEFOLD = (15, 9), 8, 2  # rows start at 0, 3 and 7: all three windows hold row 7
FOURFOLD = (13, 20), 8, 6  # a stride of a quarter of the window


def slow_weights(starts, window, length):
    """Weight of each window at each pixel of an axis, from the definition, before they are made to sum to 1."""
    weights = np.zeros((len(starts), length))
    for k, start in enumerate(starts):
        for pixel in range(start, start + window):
            weight = 1.0
            if k > 0:
                shared = starts[k - 1] + window - start
                if pixel - start < shared:
                    weight *= sin(pi / 2 * (pixel - start + 0.5) / shared) ** 2
            if k + 1 < len(starts):
                shared = start + window - starts[k + 1]
                to_the_end = start + window - 1 - pixel
                if to_the_end < shared:
                    weight *= sin(pi / 2 * (to_the_end + 0.5) / shared) ** 2
            weights[k, pixel] = weight
    return weights


def slow_blend(grid, images):
    """Sum of weight times window over sum of weights, in double precision, over the whole scene."""
    height = max(grid.shape[0], grid.window)
    width = max(grid.shape[1], grid.window)
    rows = slow_weights(grid.rows, grid.window, height)
    cols = slow_weights(grid.cols, grid.window, width)
    total, weight = np.zeros((3, height, width)), np.zeros((height, width))
    for i, top in enumerate(grid.rows):
        for j, left in enumerate(grid.cols):
            shifted = np.zeros((3, height, width))
            shifted[:, top : top + grid.window, left : left + grid.window] = images[i, j]
            here = np.outer(rows[i], cols[j])
            total += here * shifted
            weight += here
    return (total / weight)[:, : grid.shape[0], : grid.shape[1]]


def blend(grid, images, skip=(), **conversion):
    blender = Blender(grid, **conversion)
    strips = []
    for i in range(len(grid.rows)):
        blender.begin(i)
        for j in range(len(grid.cols)):
            if (i, j) not in skip:
                blender.add(blender.weight(i, j, images[i, j]))
        strips.append(blender.finish(i).image())
        start, stop = grid.strip(i)
        assert strips[-1].shape == (3, stop - start, grid.shape[1])
    return np.concatenate(strips, axis=1)


def random_images(grid, seed=0):
    shape = (len(grid.rows), len(grid.cols), 3, grid.window, grid.window)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def summed(starts, window):
    """Sum of all windows' weights, and how many windows there are, at each pixel."""
    total, count = np.zeros(starts[-1] + window), np.zeros(starts[-1] + window, int)
    for start, weights in zip(starts, axis_weights(starts, window), strict=True):
        total[start : start + window] += weights
        count[start : start + window] += 1
    return total, count


@pytest.mark.parametrize("window", [1, 2, 7, 8])
@pytest.mark.parametrize("length", [1, 5, 8, 9, 15, 16, 17, 23, 64])
def test_weights_sum_to_one_at_every_overlap(length, window):
    for overlap in range(window):
        starts = window_grid((length, 1), window, overlap).rows
        total, _ = summed(starts, window)
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert (axis_weights(starts, window) > 0).all()


def test_weights_sum_to_one_where_windows_overlap_threefold():
    starts = window_grid((10, 1), 8, 6).rows
    assert starts == (0, 2)
    starts = window_grid((11, 1), 8, 6).rows
    assert starts == (0, 1, 3)
    total, count = summed(starts, 8)
    assert count.max() == 3
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_at_a_production_window_are_positive_and_sum_to_one():
    starts = window_grid((25_000, 1), 256, 64).rows
    total, _ = summed(starts, 256)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis_weights(starts, 256).min() > 1e-5


def test_two_windows_that_share_two_pixels_weight_them_by_a_raised_cosine():
    near, far = (1 + np.cos(np.pi / 4)) / 2, (1 - np.cos(np.pi / 4)) / 2  # at a quarter and three quarters
    expected = [[1, 1, near, far], [far, near, 1, 1]]
    np.testing.assert_allclose(axis_weights((0, 2), 4), expected, atol=1e-7)


@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD])
def test_a_pixel_that_one_window_covers_is_that_windows_alone(shape, window, overlap):
    starts = window_grid(shape, window, overlap).rows
    _, count = summed(starts, window)
    for start, weights in zip(starts, axis_weights(starts, window), strict=True):
        alone = count[start : start + window] == 1
        assert (weights[alone] == 1).all()
    assert count[0] == count[-1] == 1  # so the scene's border is never tapered


def test_the_border_of_the_scene_is_the_windows_own_to_the_bit():
    grid = window_grid((20, 20), 8, 4)
    images = random_images(grid)
    scene = blend(grid, images)
    np.testing.assert_array_equal(scene[:, :4, :4], images[0, 0, :, :4, :4])
    np.testing.assert_array_equal(scene[:, -4:, -4:], images[-1, -1, :, -4:, -4:])


@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD])
def test_strips_equal_a_slow_blend_of_the_whole_scene(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    images = random_images(grid)
    np.testing.assert_allclose(blend(grid, images), slow_blend(grid, images), atol=1e-6)


@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD])
def test_constant_windows_stay_constant(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    colour = np.array([-0.75, 0.1, 1], np.float32)[:, None, None]
    images = np.broadcast_to(colour, (len(grid.rows), len(grid.cols), 3, window, window))
    scene = blend(grid, images)
    assert scene.dtype == np.float32
    np.testing.assert_allclose(scene, np.broadcast_to(colour, scene.shape), atol=1e-6)


@pytest.mark.parametrize(("shape", "window", "overlap"), LAYOUTS)
def test_windows_cut_from_one_image_give_that_image(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    padded = tuple(max(side, window) for side in shape)
    image = np.random.default_rng(1).uniform(-1, 1, (3, *padded)).astype(np.float32)
    images = np.array([[image[:, r : r + window, c : c + window] for c in grid.cols] for r in grid.rows])
    np.testing.assert_allclose(blend(grid, images), image[:, : shape[0], : shape[1]], atol=1e-6)


def test_without_overlap_windows_are_laid_side_by_side_untouched():
    grid = window_grid((16, 24), 8, 0)
    images = random_images(grid)
    expected = np.concatenate([np.concatenate(list(row), axis=2) for row in images], axis=1)
    np.testing.assert_array_equal(blend(grid, images), expected)


@pytest.mark.parametrize("skipped", [(0, 0), (1, 1), (2, 3), (3, 3)])
def test_a_skipped_window_changes_no_pixel_outside_itself(skipped):
    grid = window_grid((20, 20), 8, 4)
    images = random_images(grid)
    whole, without = blend(grid, images), blend(grid, images, skip={skipped})
    outside = np.ones(grid.shape, bool)
    top, left = grid.rows[skipped[0]], grid.cols[skipped[1]]
    outside[top : top + 8, left : left + 8] = False
    np.testing.assert_array_equal(without[:, outside], whole[:, outside])
    assert (without[:, ~outside] != whole[:, ~outside]).any()


def test_a_skipped_row_of_windows_leaves_its_own_rows_zero_and_the_others_unchanged():
    grid = window_grid((24, 8), 8, 0)
    images = random_images(grid)
    scene = blend(grid, images, skip={(1, 0)})
    np.testing.assert_array_equal(scene[:, :8], images[0, 0])
    assert (scene[:, 8:16] == 0).all()
    np.testing.assert_array_equal(scene[:, 16:], images[2, 0])


def test_a_finished_strip_is_the_callers_to_keep():
    grid = window_grid((20, 8), 8, 4)
    images = random_images(grid)
    blender = Blender(grid)
    blender.begin(0)
    blender.add(blender.weight(0, 0, images[0, 0]))
    first = blender.finish(0).image()
    kept = first.copy()
    blender.begin(1)
    blender.add(blender.weight(1, 0, images[1, 0]))
    blender.finish(1).image()
    np.testing.assert_array_equal(first, kept)


def test_blending_leaves_the_windows_as_they_were():
    grid = window_grid((12, 12), 8, 4)
    images = random_images(grid)
    before = images.copy()
    blend(grid, images)
    np.testing.assert_array_equal(images, before)


def test_any_number_of_channels_is_blended():
    grid = window_grid((6, 6), 4, 2)
    blender = Blender(grid, channels=1)
    blender.begin(0)
    for col in range(2):
        blender.add(blender.weight(0, col, np.full((1, 4, 4), 2, np.float32)))
    strip = blender.finish(0).image()
    assert strip.shape == (1, 2, 6)
    np.testing.assert_allclose(strip, 2, rtol=1e-6)


@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD])
def test_converted_pixels_are_those_of_the_finished_floats_to_the_bit(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    images = random_images(grid) * np.float32(1.2)  # some are clipped
    found = blend(grid, images, convert=decode, dtype=np.uint8)
    assert found.dtype == np.uint8
    assert found.std() > 30
    np.testing.assert_array_equal(found, decode(blend(grid, images)))


@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD])
def test_windows_weighted_by_threads_in_any_order_give_the_same_to_the_bit(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    images = random_images(grid)
    expected = blend(grid, images, convert=decode, dtype=np.uint8)
    blender = Blender(grid, convert=decode, dtype=np.uint8)
    for row in range(len(grid.rows)):  # as many rows at once as the stream may have open
        blender.begin(row)
    windows = [(row, col) for row in range(len(grid.rows)) for col in range(len(grid.cols))]
    mixed = random.Random(0).sample(windows, len(windows))
    with ThreadPoolExecutor(4) as threads:
        running = {(row, col): threads.submit(blender.weight, row, col, images[row, col]) for row, col in mixed}
    finished = []
    for row in range(len(grid.rows)):
        for col in range(len(grid.cols)):
            blender.add(running[row, col].result())
        finished.append(blender.finish(row))
    with ThreadPoolExecutor(4) as threads:  # every row is finished: images may be made in any thread, in any order
        made = [threads.submit(one.image) for one in reversed(finished)][::-1]
    np.testing.assert_array_equal(np.concatenate([one.result() for one in made], axis=1), expected)


# Strides of two lengths: the first row of windows of (31, 12) without overlap is shorter than the third.
@pytest.mark.parametrize(("shape", "window", "overlap"), [*LAYOUTS, THREEFOLD, FOURFOLD, ((31, 12), 8, 0)])
def test_any_row_of_windows_may_be_the_first(shape, window, overlap):
    grid = window_grid(shape, window, overlap)
    images = random_images(grid)
    whole = blend(grid, images)
    for first in range(len(grid.rows)):
        blender, strips = Blender(grid), []
        for row in range(first, len(grid.rows)):
            blender.begin(row)
            for col in range(len(grid.cols)):
                blender.add(blender.weight(row, col, images[row, col]))
            strips.append(blender.finish(row).image())
        # Rows that an earlier row of windows reaches into are not complete.
        complete = 0 if first == 0 else grid.rows[first - 1] + window
        found = np.concatenate(strips, axis=1)[:, max(complete - grid.rows[first], 0) :]
        np.testing.assert_array_equal(found, whole[:, max(complete, grid.rows[first]) :])
