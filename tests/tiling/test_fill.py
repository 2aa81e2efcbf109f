"""Holes are filled with mirrored ground."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.tiling.fill import mirror_invalid


def filled(line, valid):
    """One row of a one-channel image."""
    image = np.array([[line]], np.float32)
    return mirror_invalid(image, np.array([valid], bool))[0, 0].tolist()


def test_a_border_is_mirrored_at_its_edge():
    assert filled([0, 0, 0, 4, 5, 6, 7], [0, 0, 0, 1, 1, 1, 1]) == [6, 5, 4, 4, 5, 6, 7]
    assert filled([1, 2, 3, 9, 9], [1, 1, 1, 0, 0]) == [1, 2, 3, 3, 2]


def test_a_hole_is_mirrored_from_its_nearer_side():
    assert filled([1, 2, 0, 0, 0, 0, 7, 8], [1, 1, 0, 0, 0, 0, 1, 1]) == [1, 2, 2, 1, 8, 7, 7, 8]


def test_a_short_run_swings_back_and_forth():
    assert filled([1, 2, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]) == [1, 2, 2, 1, 1, 2, 2]
    assert filled([3, 0, 0, 0], [1, 0, 0, 0]) == [3, 3, 3, 3]


def test_the_nearer_of_row_and_column_is_mirrored():
    image = np.arange(25, dtype=np.float32).reshape(1, 5, 5)
    valid = np.ones((5, 5), bool)
    valid[1:, :4] = False  # a lower left corner: above it a row, to its right a column
    found = mirror_invalid(image, valid)[0]
    assert found[1, 0] == image[0, 0, 0]  # one below the row
    assert found[3, 3] == image[0, 3, 4]  # one left of the column


def test_what_is_valid_stays_and_nothing_invalid_is_left():
    rng = np.random.default_rng(0)
    for share in (0.001, 0.3, 0.9):
        image = rng.normal(size=(2, 64, 64)).astype(np.float32)
        valid = rng.random((64, 64)) < share
        valid[5, 7] = True
        holed = np.where(valid, image, np.nan).astype(np.float32)
        found = mirror_invalid(holed, valid)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[:, valid], image[:, valid])
        assert set(found[0].ravel()) <= set(image[0, valid])  # real values, none made up


@pytest.mark.parametrize("value", [True, False])
def test_with_nothing_to_do_the_image_is_returned_as_it_is(value):
    image = np.ones((1, 4, 4), np.float32)
    assert mirror_invalid(image, np.full((4, 4), value)) is image
