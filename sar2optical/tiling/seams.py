"""Measure seams: the steps between pixels at window edges, relative to those elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SeamTally", "seam_score"]


def seam_score(
    image: NDArray[np.generic],
    valid: NDArray[np.bool_],
    rows: Sequence[int],
    cols: Sequence[int],
    window: int,
    *,
    period: int = 1,
) -> float:
    """Divide the mean absolute step across window edges by the mean step elsewhere; 1 means no seams.

    Parameters
    ----------
    image
        (C, H, W), any real dtype.
    valid
        bool (H, W); a step counts where both of its pixels are valid.
    rows, cols
        First row and column of each row and column of windows. Edges are before a window's first pixel and after
        its last, except on the image's border.
    window
        Side of a window in pixels.
    period
        Compare an edge only with steps at the same offset modulo this number. Transposed convolutions leave a
        pattern with periods of 2, 4, 8 and 16 pixels, and edges tend to coincide with its steps; a period of 16
        removes its influence.

    Returns
    -------
    float
        nan where there is no edge, or no step elsewhere.
    """
    tally = SeamTally()
    tally.add(image, valid)
    return tally.score(rows, cols, window, period=period)


class SeamTally:
    """Accumulator of `seam_score` over finished rows, from top to bottom."""

    def __init__(self) -> None:
        self._last: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None
        self._down: list[tuple[float, int]] = []
        self._across = np.zeros(0)
        self._across_count = np.zeros(0, np.int64)

    def add(self, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Add the next rows: (C, rows, W) of any real dtype, and bool (rows, W)."""
        if not self._across.size:
            self._across = np.zeros(max(valid.shape[1] - 1, 0))
            self._across_count = np.zeros(self._across.size, np.int64)
        for k in range(len(valid)):  # row by row: the steps of a whole scene would fill the memory
            line, usable = np.asarray(image[:, k], np.float32), valid[k]
            both = usable[1:] & usable[:-1]
            self._across += (np.abs(line[:, 1:] - line[:, :-1]) * both).sum(axis=0)
            self._across_count += both * len(line)
            if self._last is not None:
                above, was = self._last
                both = usable & was
                self._down.append((float((np.abs(line - above) * both).sum()), int(both.sum()) * len(line)))
            self._last = line, usable

    def score(self, rows: Sequence[int], cols: Sequence[int], window: int, *, period: int = 1) -> float:
        """Compute `seam_score` of the rows so far."""
        down, down_count = np.array(self._down).reshape(-1, 2).T
        at_edges = expected = 0.0
        for steps, counts, starts in ((down, down_count, rows), (self._across, self._across_count, cols)):
            length = len(steps) + 1
            is_edge = np.zeros(len(steps), np.bool_)
            is_edge[[p - 1 for start in starts for p in (start, start + window) if 0 < p < length]] = True
            for phase in range(period):
                same = (np.arange(1, length) % period) == phase
                edges, others = same & is_edge, same & ~is_edge
                if counts[edges].sum() and counts[others].sum():
                    at_edges += steps[edges].sum()
                    expected += counts[edges].sum() * steps[others].sum() / counts[others].sum()
        return float(at_edges / expected) if expected else float("nan")
