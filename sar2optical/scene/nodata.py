"""Fill values that a scene's file does not declare: pure numpy.

A fill value is told by two signs together: no measurement is likely to have it (`Suspects`, `LOWEST`), and it stands
in runs of equal values, at the ends of rows or inside. What some rows tell holds for all: in others, a single pixel
at an end is fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_RUN = 8
"""Pixels of one fill value on end, at least: speckle never repeats a value that often."""
LOWEST = np.float32(-100)
"""No backscatter in dB is as low or lower, see `sar2optical.scene.units`, and none in a linear unit."""
SENTINEL = -9999.0
"""A stored value of it, or a lower one, is fill, also a lone one: not even hundredths of dB are as low."""

_FEW = 16  # values of LOWEST and less that may be fill
_MANY_ROWS = 0.1  # share of the rows that end with one value
_BLOCK = 256  # columns that are looked at together: most rows of most scenes begin with a measurement
_MEASURED = np.float32(np.inf)  # equals no value that is read
_RUNS = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


@dataclass(frozen=True)
class Fill:
    """What is no measurement in a scene beside what its file declares; a value of each band's own where it is one."""

    width: int
    """Columns of the scene."""
    left: NDArray[np.intp]
    """int (rows,): pixels from the left, those included that the file declares; 0 where there is no fill."""
    right: NDArray[np.intp]
    """int (rows,): likewise from the right."""
    runs: tuple[tuple[np.float32, ...], ...] = ()
    """By band: values that are fill in runs of `LEAST_RUN` along a row, wherever they lie."""
    everywhere: tuple[tuple[np.float32, ...], ...] = ()
    """By band: values that are fill wherever they lie."""

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.rows or self.values)

    @property
    def has_runs(self) -> bool:
        """Whether a value is fill in runs alone."""
        return any(self.runs)

    @property
    def rows(self) -> int:
        """Rows that begin or end with fill."""
        return int(np.count_nonzero(self.left + self.right))

    @property
    def values(self) -> tuple[float, ...]:
        """All fill values inside, of any band."""
        return tuple(sorted({float(v) for band in (*self.runs, *self.everywhere) for v in band}))

    def inside(
        self, values: NDArray[np.float32], valid: NDArray[np.bool_], first_row: int, first_column: int
    ) -> NDArray[np.bool_]:
        """Say which pixels of a rectangle are valid and no fill.

        Parameters
        ----------
        values, valid
            float32 (bands, rows, columns) and bool (rows, columns). Runs are seen as far as the rectangle goes.
        first_row, first_column
            Where it lies in the scene.

        Returns
        -------
        ndarray
            bool (rows, columns); `valid` itself where there is no fill.
        """
        result = valid
        rows = slice(first_row, first_row + valid.shape[0])
        if self.left[rows].any() or self.right[rows].any():
            columns = np.arange(first_column, first_column + valid.shape[1])
            past = self.left[rows, None], self.width - self.right[rows, None]
            result = result & (columns >= past[0]) & (columns < past[1])
        for fills, found in ((self.everywhere, _as_it_is), (self.runs, long_runs)):
            for band, some in zip(values, fills, strict=False):
                for value in some:
                    result = result & ~found(valid & (band == value))
        return result


@dataclass(frozen=True)
class Suspects:
    """Values of one band that may be fill, beside those of `LOWEST` and less."""

    zero: np.float32 | None = None
    """What a stored 0 stands for; None for grey levels."""
    sentinels: tuple[np.float32, ...] = ()
    """What the ends of integer types, and -9999, stand for."""
    may_be_db: bool = True
    """Whether values below 0 can be stored; where not, a row's end of 0 is the border, however short."""

    @property
    def all(self) -> tuple[np.float32, ...]:
        """Both."""
        return (*(() if self.zero is None else (self.zero,)), *self.sentinels)


class FillFinder:
    """Looks for fill values while a scene is read once, from the top to the bottom.

    Parameters
    ----------
    shape
        Height and width of the scene.
    suspects
        By band.
    """

    def __init__(self, shape: tuple[int, int], suspects: Sequence[Suspects]) -> None:
        self._suspects = [np.array(some.all, np.float32) for some in suspects]
        self._sentinels = [some.sentinels for some in suspects]
        self._inside: list[set[np.float32]] = [set() for _ in suspects]
        self._borders = [some.zero for some in suspects if some.zero is not None and not some.may_be_db]
        bands = len(suspects)
        self._counts = np.zeros((2, bands, shape[0]), np.intp)
        self._undeclared = np.zeros((2, bands, shape[0]), np.intp)
        self._values = np.full((2, bands, shape[0]), _MEASURED, np.float32)

    def look(self, values: NDArray[np.float32], valid: NDArray[np.bool_], first_row: int) -> None:
        """Take whole rows: float32 (bands, rows, columns) and bool (rows, columns)."""
        rows = slice(first_row, first_row + len(valid))
        for k, (band, suspects) in enumerate(zip(values, self._suspects, strict=True)):
            for side, step in enumerate((1, -1)):
                found = _end(band[:, ::step], valid[:, ::step], suspects)
                self._counts[side, k, rows], self._undeclared[side, k, rows], self._values[side, k, rows] = found
            lowest, highest = band.min(), band.max()  # most rows hold none of it: that is told in two passes
            low = np.unique(band[valid & (band <= LOWEST)]) if lowest <= LOWEST else np.zeros(0, np.float32)
            few = low if len(low) <= _FEW else ()  # of values in another scale there are more
            for value in (*self._sentinels[k], *few):
                there = lowest <= value <= highest and value not in self._inside[k]
                if there and long_runs(valid & (band == value)).any():
                    self._inside[k].add(value)

    @property
    def undeclared(self) -> int:
        """Pixels of fill at the ends that the file does not declare, of all rows."""
        sums = [
            self._undeclared[:, k][np.isin(self._values[:, k], self.known(k))].sum()
            for k in range(len(self._suspects))
        ]
        return int(max(sums))

    def known(self, band: int) -> NDArray[np.float32]:
        """Values that rows begin or end with often enough: one row with a run, or many rows.

        Pixels that the file declares as nodata lengthen a run: beside them, a fringe is fill.
        """
        values, undeclared = self._values[:, band], self._undeclared[:, band]
        least = np.where(np.isin(values, self._borders), 1, LEAST_RUN)
        found = values[(self._counts[:, band] >= least) & (undeclared > 0)]
        ends, rows = np.unique(values[undeclared > 0], return_counts=True)
        many = ends[rows >= max(LEAST_RUN, _MANY_ROWS * values.shape[1])]
        return np.unique(np.concatenate((found, many)))

    def inside(self, band: int) -> tuple[np.float32, ...]:
        """Sentinels, and values of `LOWEST` and less, that stand in runs somewhere."""
        return tuple(sorted(self._inside[band]))

    def ends(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Give the pixels of fill from the left and from the right of each row, of whichever band has more."""
        counts = self._counts.copy()
        for k in range(len(self._suspects)):
            counts[:, k][~np.isin(self._values[:, k], self.known(k))] = 0
        left, right = counts.max(axis=1)
        return left, right


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


def _as_it_is(blank: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return blank


def _end(band: NDArray[np.float32], valid: NDArray[np.bool_], suspects: NDArray[np.float32]) -> _RUNS:
    """Count the blank pixels from the left; block after block, and only in rows that are blank so far.

    A pixel is blank where it is invalid, or has the row's first valid value where that is suspect, or a suspect one
    after that.

    Returns
    -------
    counts, undeclared, fill
        (rows,) each: blank pixels, those of them that are valid, and the value that these have; inf for none.
    """
    height, width = valid.shape
    counts, undeclared = np.zeros(height, np.intp), np.zeros(height, np.intp)
    fill = np.full(height, np.nan, np.float32)  # the row's first value, where it is no measurement
    rows = np.arange(height)
    for start in range(0, width, _BLOCK):
        part = slice(start, start + _BLOCK)
        some, usable = band[rows, part], valid[rows, part]
        first = some[np.arange(len(rows)), usable.argmax(axis=1)]
        begins = np.isnan(fill[rows]) & usable.any(axis=1)
        suspect = np.isin(first, suspects) | (first <= LOWEST)
        fill[rows[begins]] = np.where(suspect, first, _MEASURED)[begins]
        same = some == fill[rows, None]
        begun = np.isfinite(fill[rows, None])
        blank = ~usable | same | (begun & np.isin(some, suspects))
        found = np.where(blank.all(axis=1), blank.shape[1], blank.argmin(axis=1))
        counts[rows] += found
        undeclared[rows] += (usable & (np.arange(blank.shape[1]) < found[:, None])).sum(axis=1)
        rows = rows[found == blank.shape[1]]
        if not rows.size:
            break
    return counts, undeclared, np.where(np.isnan(fill), _MEASURED, fill)
