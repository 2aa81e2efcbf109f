"""Fill values at a scene's sides that its file does not declare: pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_RUN = 8
"""Pixels of fill from a row's end inwards, at least: speckle never repeats a value that often."""

_BLOCK = 256  # columns that are looked at together: most rows of most scenes begin with a measurement
_MEASURED = np.float32(np.inf)  # equals no value that is read
_SENTINEL = np.float32(-9999)
"""A lone pixel of it, or of what is lower, is fill: not even hundredths of dB are as low."""
_IMPOSSIBLE = np.float32(-100)
"""No backscatter in dB is as low, see `sar2optical.radiometry`, and none in a linear unit. -9999 and -32768 are."""


def side_fill(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Count the pixels at both ends of each row that hold no measurement.

    A pixel of an end is invalid, or has the value that the end begins with, where this is 0 or below -100. 0 is a
    fill value in each unit: noise leaves no power of 0, and in dB no run of pixels has exactly this level. Values
    below -100 that differ are measurements in another scale, such as hundredths of dB. Zeros inside an image belong
    to no end, and stay.

    Parameters
    ----------
    values
        float32 (bands, rows, columns): whole rows of a scene.
    valid
        bool (rows, columns).

    Returns
    -------
    left, right
        int (rows,): pixels from the left and from the right, those that were invalid before included; 0 where fewer
        than `LEAST_RUN` were not, but for values of -9999 and less: of those, one is enough.
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


def long_runs(blank: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep what lies in runs of `LEAST_RUN` pixels or more along a row: areas of fill, and no lone pixels.

    Parameters
    ----------
    blank
        bool (rows, columns). A run that goes on beyond them counts only as far as it is seen.
    """
    if blank.shape[1] < LEAST_RUN or not blank.any():
        return np.zeros_like(blank)
    width = blank.shape[1] - LEAST_RUN + 1
    starts = np.logical_and.reduce([blank[:, k : k + width] for k in range(LEAST_RUN)])
    kept = np.zeros_like(blank)
    for k in range(LEAST_RUN):
        kept[:, k : k + width] |= starts
    return kept


def _run(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.asarray(np.max([_run_of_band(band, valid) for band in values], axis=0), np.intp)


def _run_of_band(band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Count the blank pixels from the left; block after block, and only in rows that are blank so far."""
    height, width = valid.shape
    counts, undeclared = np.zeros(height, np.intp), np.zeros(height, np.intp)
    fill = np.full(height, np.nan, np.float32)  # the row's first value, where it is no measurement
    rows = np.arange(height)
    for start in range(0, width, _BLOCK):
        part = slice(start, start + _BLOCK)
        some, usable = band[rows, part], valid[rows, part]
        first = some[np.arange(len(rows)), usable.argmax(axis=1)]
        begins = np.isnan(fill[rows]) & usable.any(axis=1)
        fill[rows[begins]] = np.where((first == 0) | (first < _IMPOSSIBLE), first, _MEASURED)[begins]
        blank = ~usable | (some == fill[rows, None])
        found = np.where(blank.all(axis=1), blank.shape[1], blank.argmin(axis=1))
        counts[rows] += found
        undeclared[rows] += (usable & (np.arange(blank.shape[1]) < found[:, None])).sum(axis=1)
        rows = rows[found == blank.shape[1]]
        if not rows.size:
            break
    counts[(undeclared < LEAST_RUN) & ~(fill <= _SENTINEL)] = 0
    return counts
