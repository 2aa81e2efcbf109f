"""Undeclared nodata ("fill"): values without a measurement that a scene's file does not declare. Pure numpy.

A fill value is recognised by two properties together: a measurement is unlikely to have it (`Suspects`, `LOWEST`),
and it stands in runs of equal values, at the ends of rows or inside. A value that is fill in some rows is fill in
all: in the others, even a single pixel at the end of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_RUN", "LOWEST", "SENTINEL", "Ends", "Fill", "FillFinder", "Suspects", "long_runs"]

LEAST_RUN = 8
"""Shortest run of one fill value, in pixels: speckle never repeats a value that often."""
LOWEST = np.float32(-100)
"""Upper limit of values that are no backscatter, in dB (see `sar2optical.scene.units`) or in a linear unit."""
SENTINEL = -9999.0
"""Upper limit of stored values that are always fill, even a single one: hundredths of dB are higher."""

_FEW = 16  # most values at or below LOWEST in a chunk of rows that may be fill
_MANY_ROWS = 0.1  # least share of rows that end with one value, which makes it fill
_BLOCK = 256  # columns that are examined together: most rows of most scenes begin with a measurement
_MEASURED = np.float32(np.inf)  # stands for any measurement; no value that is read equals it
_RUNS = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


@dataclass(frozen=True)
class Ends:
    """Values of one band that are fill at the ends of rows."""

    suspects: NDArray[np.float32]
    """Values that may be fill, in addition to those at or below `LOWEST`."""
    borders: tuple[np.float32, ...] = ()
    """Values of which a single pixel at the end of a row is fill."""
    known: NDArray[np.float32] | None = None
    """Values that were found to be fill: of them, too, a single pixel at the end of a row is fill."""

    def counts(self, band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Count the fill pixels, and those declared as nodata beside them, from the left end of each whole row."""
        counts, undeclared, values = _end(band, valid, self.suspects)
        single = np.isin(values, self.borders)
        if self.known is not None:
            single |= np.isin(values, self.known)
        counts[(undeclared == 0) | ((counts < LEAST_RUN) & ~single)] = 0
        return counts


@dataclass(frozen=True)
class Fill:
    """Undeclared nodata of a scene. What a row's own pixels show is decided there, so that no row has to be known."""

    ends: tuple[Ends, ...] = ()
    """By band: fill at the ends of rows."""
    runs: tuple[tuple[np.float32, ...], ...] = ()
    """By band: values that are fill in runs of at least `LEAST_RUN` along a row, at any position."""
    everywhere: tuple[tuple[np.float32, ...], ...] = ()
    """By band: values that are fill at any position."""

    def inside(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which pixels of whole rows are valid and not fill.

        Parameters
        ----------
        values, valid
            float32 or uint16 (bands, rows, width), and bool (rows, width).

        Returns
        -------
        ndarray
            bool (rows, width); `valid` itself where there is no fill.
        """
        result = valid
        columns = np.arange(valid.shape[1])
        for band, ends in zip(values, self.ends, strict=False):
            left = ends.counts(band, valid)
            right = ends.counts(band[:, ::-1], valid[:, ::-1])
            if left.any() or right.any():
                result = result & (columns >= left[:, None]) & (columns < valid.shape[1] - right[:, None])
        for fills, found in ((self.everywhere, _anywhere), (self.runs, long_runs)):
            for band, some in zip(values, fills, strict=False):
                result = _without(result, band, valid, some, found)
        for band in values if self.ends else ():
            if band.size and band.min() <= LOWEST:
                result = result & ~_equal_runs(band, valid & (band <= LOWEST))
        return result

    def touches(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> bool:
        """Return whether fill at the ends of rows may reach into a rectangle: only if it holds such a value."""
        for band, ends in zip(values, self.ends, strict=False):
            some = (np.isin(band, ends.suspects) | (band <= LOWEST)) & valid
            if some.any() and (~valid | some)[:, [0, -1]].any():
                return True
        return False


def _without(
    result: NDArray[np.bool_],
    band: NDArray[np.float32],
    valid: NDArray[np.bool_],
    fills: tuple[np.float32, ...],
    found: Callable[[NDArray[np.bool_]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """Remove fill values of a band from the valid pixels; `found` selects among the pixels that have a value."""
    if not fills:
        return result
    lowest, highest = band.min(), band.max()  # two passes rule out most values in most rows
    for value in fills:
        if lowest <= value <= highest:
            result = result & ~found(valid & (band == value))
    return result


@dataclass(frozen=True)
class Suspects:
    """Values of one band that may be fill, in addition to those at or below `LOWEST`."""

    zero: np.float32 | None = None
    """Value of a stored 0; None for grey levels."""
    sentinels: tuple[np.float32, ...] = ()
    """Values of the limits of the stored integer type, and of a stored -9999."""
    may_be_db: bool = True
    """Whether values below 0 can be stored; if not, zeros at the end of a row are the border, however few."""

    @property
    def all(self) -> tuple[np.float32, ...]:
        """`zero`, where it is not None, and `sentinels`."""
        return (*(() if self.zero is None else (self.zero,)), *self.sentinels)


class FillFinder:
    """Finder of fill values, in one pass over a scene or over parts of it.

    Parameters
    ----------
    shape
        Height and width of the scene.
    suspects
        Suspects of each band.
    """

    def __init__(self, shape: tuple[int, int], suspects: Sequence[Suspects]) -> None:
        self._suspects = [np.array(some.all, np.float32) for some in suspects]
        self._sentinels = [some.sentinels for some in suspects]
        self._inside: list[set[np.float32]] = [set() for _ in suspects]
        self._borders = [some.zero for some in suspects if some.zero is not None and not some.may_be_db]
        bands = len(suspects)
        self._looked = 0
        self._counts = np.zeros((2, bands, shape[0]), np.intp)
        self._undeclared = np.zeros((2, bands, shape[0]), np.intp)
        self._values = np.full((2, bands, shape[0]), _MEASURED, np.float32)

    def look(
        self, values: NDArray[np.float32], valid: NDArray[np.bool_], first_row: int, *, left: bool, right: bool
    ) -> None:
        """Examine a part of the scene.

        Parameters
        ----------
        values, valid
            float32 (bands, rows, columns) and bool (rows, columns).
        first_row
            First row.
        left, right
            Whether its first, or its last, column is that of the scene.
        """
        rows = slice(first_row, first_row + len(valid))
        for k, (band, suspects) in enumerate(zip(values, self._suspects, strict=True)):
            for side, step, there in ((0, 1, left), (1, -1, right)):
                if there:
                    found = _end(band[:, ::step], valid[:, ::step], suspects)
                    self._counts[side, k, rows], self._undeclared[side, k, rows], self._values[side, k, rows] = found
            lowest, highest = band.min(), band.max()  # two passes rule out most rows
            for value in (*self._sentinels[k], *_low_values(band, valid)):
                seen = lowest <= value <= highest and value not in self._inside[k]
                if seen and long_runs(valid & (band == value)).any():
                    self._inside[k].add(value)
        self._looked += len(valid) if left else 0

    @property
    def undeclared(self) -> int:
        """Number of pixels at the ends of rows that are fill and not declared as nodata."""
        sums = [
            self._undeclared[:, k][np.isin(self._values[:, k], self.known(k))].sum()
            for k in range(len(self._suspects))
        ]
        return int(max(sums))

    def known(self, band: int) -> NDArray[np.float32]:
        """Return the fill values of a band: values at the end of one row in a run, or at the ends of many rows.

        Pixels that the file declares as nodata lengthen a run, so that a fringe beside them is fill.
        """
        values, undeclared = self._values[:, band], self._undeclared[:, band]
        least = np.where(np.isin(values, self._borders), 1, LEAST_RUN)
        found = values[(self._counts[:, band] >= least) & (undeclared > 0)]
        ends, rows = np.unique(values[undeclared > 0], return_counts=True)
        many = ends[rows >= max(LEAST_RUN, _MANY_ROWS * self._looked)]
        return np.unique(np.concatenate((found, many)))

    def inside(self, band: int) -> tuple[np.float32, ...]:
        """Return the sentinels, and the values at or below `LOWEST`, that stand in runs anywhere."""
        return tuple(sorted(self._inside[band]))

    def ends(self, band: int) -> Ends:
        """Return the fill of a band at the ends of rows."""
        return Ends(self._suspects[band], tuple(self._borders), self.known(band))

    @property
    def rows(self) -> int:
        """Number of rows that were seen to begin or end with fill."""
        there = np.zeros(self._counts.shape[2], np.bool_)
        for k in range(len(self._suspects)):
            there |= (np.isin(self._values[:, k], self.known(k)) & (self._counts[:, k] > 0)).any(axis=0)
        return int(np.count_nonzero(there))


def _low_values(band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the values at or below `LOWEST`; none if there are many, which are measurements in another scale."""
    if not band.size or band.min() > LOWEST:
        return np.zeros(0, np.float32)
    low = np.unique(band[valid & (band <= LOWEST)])
    return low if len(low) <= _FEW else low[:0]


def long_runs(blank: NDArray[np.bool_], least: int = LEAST_RUN) -> NDArray[np.bool_]:
    """Keep the pixels in runs of `least` or more along a row, as areas of fill have them; drop single pixels.

    Parameters
    ----------
    blank
        bool (rows, columns). Runs are cut at the first and the last column.
    least
        Shortest run that is kept.

    Returns
    -------
    ndarray
        bool (rows, columns).
    """
    if blank.shape[1] < least or not blank.any():
        return np.zeros_like(blank)
    width = blank.shape[1] - least + 1
    starts = np.logical_and.reduce([blank[:, k : k + width] for k in range(least)])
    kept = np.zeros_like(blank)
    for k in range(least):
        kept[:, k : k + width] |= starts
    return kept


def _equal_runs(band: NDArray[np.float32], some: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pixels stand in runs of one value along a row, among some pixels."""
    alike = some[:, 1:] & some[:, :-1] & (band[:, 1:] == band[:, :-1])
    found = long_runs(alike, LEAST_RUN - 1)
    runs = np.zeros_like(some)
    runs[:, 1:] |= found
    runs[:, :-1] |= found
    return runs


def _anywhere(blank: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return blank


def _end(band: NDArray[np.float32], valid: NDArray[np.bool_], suspects: NDArray[np.float32]) -> _RUNS:
    """Count the blank pixels from the left; block by block, and only in rows that are blank so far.

    A pixel is blank if it is invalid, has the row's first valid value and that is suspect, or has another suspect
    value after it.

    Returns
    -------
    counts, undeclared, fill
        (rows,) each: number of blank pixels, number of those that are valid, and their value; inf for none.
    """
    height, width = valid.shape
    counts, undeclared = np.zeros(height, np.intp), np.zeros(height, np.intp)
    fill = np.full(height, np.nan, np.float32)  # the row's first valid value, where that is suspect
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
