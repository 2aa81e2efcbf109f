"""Blend overlapping windows into finished rows, holding one row of windows at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sar2optical.tiling.windows import WindowGrid

__all__ = ["Blender", "axis_weights"]


def axis_weights(starts: tuple[int, ...], window: int) -> NDArray[np.float32]:
    """Compute the blend weights of each window's pixels along one axis; the weights of all windows sum to 1.

    A window's raw weight decreases towards a neighbour over exactly the pixels that they share, as a raised cosine
    sampled at pixel centres, so it is never 0 and does not decrease at the scene's border. Division by the sum makes
    a partition of unity, also where snapped windows overlap threefold.

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


class Blender:
    """Sum of weighted windows in a buffer that is one row of windows high; returns finished rows.

    Weights sum to 1 where all windows are added, so no division is needed at the end. A window may be skipped only
    if all of its pixels are invalid.

    Parameters
    ----------
    grid
        Window grid.
    channels
        Number of channels of the images.
    """

    def __init__(self, grid: WindowGrid, channels: int = 3) -> None:
        self._grid = grid
        self._row_weights = axis_weights(grid.rows, grid.window)
        self._col_weights = axis_weights(grid.cols, grid.window)
        self._sum = np.zeros((channels, grid.window, grid.padded_width), np.float32)

    def weight(self, row: int, col: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply a window by its weights, for `add`; thread-safe, in any order.

        Parameters
        ----------
        row, col
            Index of the window in the grid.
        image
            float32 (channels, window, window).

        Returns
        -------
        ndarray
            float32 (channels, window, window).
        """
        weights = self._row_weights[row][:, None] * self._col_weights[col]
        weighted: NDArray[np.float32] = image * weights
        return weighted

    def add(self, col: int, weighted: NDArray[np.float32]) -> None:
        """Add a window of the current row of windows; `finish` ends a row and begins the next.

        Parameters
        ----------
        col
            Index of the window in its row.
        weighted
            float32 (channels, window, window), from `weight`.
        """
        start = self._grid.cols[col]
        target = self._sum[:, :, start : start + self._grid.window]
        np.add(target, weighted, out=target)

    def finish(self, row: int) -> NDArray[np.float32]:
        """Finish a row of windows.

        Parameters
        ----------
        row
            Index of the row of windows: 0 first, then in order.

        Returns
        -------
        ndarray
            float32 (channels, rows, width), the strip; see `WindowGrid.strip`.
        """
        start, stop = self._grid.strip(row)
        done = self._sum[:, : stop - start, : self._grid.shape[1]].copy()
        if row + 1 < len(self._grid.rows):
            open_rows = self._grid.window - (stop - start)
            self._sum[:, :open_rows] = self._sum[:, stop - start :]  # numpy handles the overlap of the two
            self._sum[:, open_rows:] = 0
        return done
