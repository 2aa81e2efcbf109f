"""Blend overlapping windows into finished rows.

Pixels that one window covers alone are converted and stored at once, by the thread that has the window. Sums are kept
only of pixels that several windows share: of whole rows where rows of windows overlap, and of a few columns between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.tiling.windows import WindowGrid

__all__ = ["Blender", "axis_weights"]


def axis_weights(starts: tuple[int, ...], window: int) -> NDArray[np.float32]:
    """Compute the blend weights of each window's pixels along one axis; the weights of all windows sum to 1.

    A window's raw weight decreases towards a neighbour over exactly the pixels that they share, as a raised cosine
    sampled at pixel centres, so it is never 0 and does not decrease at the scene's border. Division by the sum makes
    a partition of unity, also where windows overlap threefold or more.

    Parameters
    ----------
    starts
        First pixel of each window, ascending.
    window
        Side of a window in pixels.

    Returns
    -------
    ndarray
        float32 (len(starts), window).
    """
    raw = np.ones((len(starts), window))
    for k in range(1, len(starts)):
        shared = starts[k - 1] + window - starts[k]
        if shared > 0:
            ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(shared) + 0.5) / shared)
            raw[k, :shared] *= ramp
            raw[k - 1, window - shared :] *= ramp[::-1]
    total = np.zeros(starts[-1] + window)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + window] += weights
    shares = [total[start : start + window] for start in starts]
    return (raw / shares).astype(np.float32)


@dataclass(frozen=True)
class _Axis:
    """Windows along one axis: their weights, and the pixels that they share."""

    starts: tuple[int, ...]
    weights: NDArray[np.float32]
    """(windows, window)."""
    shared: NDArray[np.intp]
    """Number of shared pixels before each pixel of the axis, and in all."""

    @classmethod
    def of(cls, starts: tuple[int, ...], window: int) -> _Axis:
        count = np.zeros(starts[-1] + window, np.intp)
        for start in starts:
            count[start : start + window] += 1
        shared = np.concatenate(([0], np.cumsum(count > 1)))
        return cls(starts, axis_weights(starts, window), shared)

    def alone(self, k: int) -> tuple[int, int]:
        """First and past-the-last pixel that the k-th window covers alone, within it; both its end if it has none."""
        start, window = self.starts[k], self.weights.shape[1]
        first = self.starts[k - 1] + window - start if k else 0
        stop = self.starts[k + 1] - start if k + 1 < len(self.starts) else window
        return (first, stop) if first < stop else (window, window)

    def shared_runs(self) -> list[tuple[int, int]]:
        """First and past-the-last pixel of each run of shared pixels."""
        edges = np.flatnonzero(np.diff(np.diff(self.shared), prepend=0, append=0))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@dataclass(frozen=True)
class Weighted:
    """Shared pixels of one window, multiplied by its weights."""

    rows: list[tuple[slice, slice, NDArray[np.float32]]]
    """In rows that rows of windows share: rows and columns of the sum, and values."""
    cols: list[tuple[slice, slice, NDArray[np.float32]]]
    """In the other rows, in shared columns: likewise."""


@dataclass(frozen=True)
class Finished:
    """A row of windows, all of them added; `image` does the rest of the work, in any thread."""

    _image: NDArray[Any]
    _top: NDArray[np.float32]
    _between: NDArray[np.float32]
    _runs: list[tuple[int, int]]
    _convert: Callable[[NDArray[np.float32]], NDArray[Any]]

    def image(self) -> NDArray[Any]:
        """Return the finished rows: (channels, rows, width); see `WindowGrid.strip`."""
        above = self._top.shape[1]
        below = self._image[:, above:]
        self._image[:, :above] = self._convert(self._top)
        converted, col = self._convert(self._between[:, : below.shape[1]]), 0
        for start, stop in self._runs:
            inside = below[:, :, start:stop]  # may be cut at the right
            inside[...] = converted[:, :, col : col + inside.shape[2]]
            col += stop - start
        return self._image


class Blender:
    """Weighted sums of windows where they overlap, one row of windows at a time.

    Weights sum to 1 where all windows are added, so no division is needed at the end. A window may be skipped only
    if all of its pixels are invalid. The order of additions is that of `add`: results do not depend on threads.

    Parameters
    ----------
    grid
        Window grid.
    channels
        Number of channels of the images.
    convert
        Conversion of finished float32 pixels, pixel by pixel; None: they stay as they are.
    dtype
        Type of converted pixels.
    """

    def __init__(
        self,
        grid: WindowGrid,
        channels: int = 3,
        *,
        convert: Callable[[NDArray[np.float32]], NDArray[Any]] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self._grid = grid
        self._channels = channels
        self._convert = convert or (lambda image: image)
        self._dtype = dtype
        self._rows = _Axis.of(grid.rows, grid.window)
        self._cols = _Axis.of(grid.cols, grid.window)
        self._runs = self._cols.shared_runs()
        # First the rows of the sum that the row of windows above shares, then those that the next one shares.
        alone = [self._rows.alone(k) for k in range(len(grid.rows))]
        deep = max(first + grid.window - stop for first, stop in alone)
        self._sum = np.zeros((channels, deep, grid.padded_width), np.float32)
        self._high = max(stop - first for first, stop in alone)
        self._between = self._new_between()
        self._open: dict[int, NDArray[Any]] = {}

    def begin(self, row: int) -> None:
        """Make room for the rows of pixels that a row of windows finishes, before any `weight` of it."""
        start, stop = self._grid.strip(row)
        self._open[row] = np.zeros((self._channels, stop - start, self._grid.shape[1]), self._dtype)

    def weight(self, row: int, col: int, image: NDArray[np.float32]) -> Weighted:
        """Store the pixels that a window covers alone, and multiply the others by its weights; thread-safe.

        Parameters
        ----------
        row, col
            Index of the window in the grid.
        image
            float32 (channels, window, window).

        Returns
        -------
        Weighted
            For `add`.
        """
        down, across = self._rows.weights[row][:, None], self._cols.weights[col]
        (top, bottom), (left, right) = self._rows.alone(row), self._cols.alone(col)
        start, window = self._grid.cols[col], self._grid.window
        if top < bottom and left < right:
            target = self._open[row][:, top:bottom, start + left : start + right]
            inside = image[:, top : top + target.shape[1], left : left + target.shape[2]]
            target[...] = self._convert(inside)

        def part(rows: slice, cols: slice) -> NDArray[np.float32]:
            weighted: NDArray[np.float32] = image[:, rows, cols] * (down[rows] * across[cols])
            return weighted

        whole = slice(start, start + window)
        rows = [
            (slice(at, at + stop - first), whole, part(slice(first, stop), slice(None)))
            for first, stop, at in ((0, top, 0), (bottom, window, top))
            if first < stop
        ]
        shared, middle = self._cols.shared, slice(top, bottom)
        cols = [
            (
                slice(0, bottom - top),
                slice(int(shared[start + first]), int(shared[start + stop])),
                part(middle, slice(first, stop)),
            )
            for first, stop in ((0, left), (right, window))
            if first < stop and top < bottom
        ]
        return Weighted(rows, cols)

    def add(self, weighted: Weighted) -> None:
        """Add a window of the current row of windows; `finish` ends a row and begins the next."""
        for target, parts in ((self._sum, weighted.rows), (self._between, weighted.cols)):
            for rows, cols, values in parts:
                place = target[:, rows, cols]
                np.add(place, values, out=place)

    def finish(self, row: int) -> Finished:
        """Finish a row of windows.

        Parameters
        ----------
        row
            Index of the row of windows, ascending.
        """
        start, stop = self._grid.strip(row)
        done = min(self._rows.alone(row)[0], stop - start)
        finished = Finished(
            self._open.pop(row), self._sum[:, :done, : self._grid.shape[1]].copy(), self._between, self._runs,
            self._convert,
        )  # fmt: skip
        if row + 1 < len(self._grid.rows):
            left = self._grid.window - (stop - start)  # rows that the next row of windows shares
            self._sum[:, :left] = self._sum[:, done : done + left]  # numpy handles the overlap of the two
            self._sum[:, left:] = 0
            self._between = self._new_between()
        return finished

    def _new_between(self) -> NDArray[np.float32]:
        # High enough for any row of windows: strides differ by a pixel, and the first row may be any.
        return np.zeros((self._channels, self._high, int(self._cols.shared[-1])), np.float32)
