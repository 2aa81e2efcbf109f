"""Fill values at a scene's sides that its file does not declare: pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_RUN = 8
"""Pixels of fill from a row's end inwards, at least: speckle never repeats a value that often."""

_BLOCK = 256  # columns that are looked at together: most rows of most scenes begin with a measurement
_IMPOSSIBLE = np.float32(-100)
"""No backscatter in dB is as low, see `sar2optical.radiometry`, and none in a linear unit. -9999 and -32768 are."""


def side_fill(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Count the pixels at both ends of each row that hold no measurement.

    A pixel of an end is invalid, or is exactly 0, or is below -100, in any band. 0 is a fill value in each unit:
    noise leaves no power of 0, and in dB no run of pixels has exactly this level. Zeros inside an image belong to no
    end, and stay.

    Parameters
    ----------
    values
        float32 (bands, rows, columns): whole rows of a scene.
    valid
        bool (rows, columns).

    Returns
    -------
    left, right
        int (rows,): pixels from the left and from the right, 0 where they are fewer than `LEAST_RUN`. Pixels that
        were invalid before count too; an end of such pixels alone is 0.
    """
    return _run(values, valid), _run(values[..., ::-1], valid[:, ::-1])


def without_sides(
    valid: NDArray[np.bool_], left: NDArray[np.intp], right: NDArray[np.intp], first_column: int, width: int
) -> NDArray[np.bool_]:
    """Mask what `side_fill` counted.

    Parameters
    ----------
    valid
        bool (rows, columns): a rectangle of a scene.
    left, right
        int (rows,) of the same rows.
    first_column, width
        The rectangle's first column, and the scene's width.
    """
    if not left.any() and not right.any():
        return valid
    columns = np.arange(first_column, first_column + valid.shape[1])
    inside = (columns >= left[:, None]) & (columns < width - right[:, None])
    return np.asarray(valid & inside)


def _run(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Count the blank pixels from the left; block after block, and only in rows that are blank so far."""
    height, width = valid.shape
    counts, undeclared = np.zeros(height, np.intp), np.zeros(height, np.bool_)
    rows = np.arange(height)
    for start in range(0, width, _BLOCK):
        part = slice(start, start + _BLOCK)
        blank = _blank(values[:, rows, part], valid[rows, part])
        found = np.where(blank.all(axis=1), blank.shape[1], blank.argmin(axis=1))
        counts[rows] += found
        before = np.arange(blank.shape[1]) < found[:, None]
        undeclared[rows] |= (valid[rows, part] & before).any(axis=1)
        rows = rows[found == blank.shape[1]]
        if not rows.size:
            break
    counts[~undeclared | (counts < LEAST_RUN)] = 0
    return counts


def _blank(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(~valid | ((values == 0) | (values < _IMPOSSIBLE)).any(axis=0))
