"""Which pixels, in which order: integers only."""

from __future__ import annotations

from dataclasses import dataclass

from sar2optical.errors import OptionError

DEFAULT_OVERLAP = 64
"""Pixels; see CONTRIBUTING for what larger and smaller ones were measured to cost and to do."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows that cover a scene, and the strips of finished rows between them."""

    shape: tuple[int, int]
    """The scene's height and width."""
    window: int
    """Side of a window."""
    overlap: int
    """Pixels that neighbouring windows share, at least."""
    rows: tuple[int, ...]
    """First row of each row of windows, ascending."""
    cols: tuple[int, ...]
    """First column of each column of windows, ascending."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    @property
    def padded_width(self) -> int:
        """Width that the windows reach over: the scene's, or a window's where the scene is narrower."""
        return max(self.shape[1], self.window)

    def strip(self, index: int) -> tuple[int, int]:
        """First and past-the-last row that are finished once row `index` of windows is done.

        Later windows begin below; strips cover the scene's height once, in order.
        """
        last = index + 1 == len(self.rows)
        return self.rows[index], self.shape[0] if last else self.rows[index + 1]


def window_grid(shape: tuple[int, int], window: int, overlap: int) -> WindowGrid:
    """Lay windows over a scene from its upper left corner; the last ones are snapped to the far edges.

    Parameters
    ----------
    shape
        The scene's height and width, at least 1 each.
    window
        Side of a window.
    overlap
        Pixels that neighbours share: 0 to window - 1. Snapped windows share more.

    Returns
    -------
    WindowGrid

    Raises
    ------
    OptionError
        Where the overlap leaves no stride, or the shape has no pixel.
    """
    if not 0 <= overlap < window:
        raise OptionError(f"overlap is {overlap}: give 0 to {window - 1}, less than the window of {window}")
    if min(shape) < 1:
        raise OptionError(f"scene of {shape[0]} x {shape[1]}: needs at least one pixel")
    height, width = shape
    return WindowGrid(shape, window, overlap, _starts(height, window, overlap), _starts(width, window, overlap))


def _starts(length: int, window: int, overlap: int) -> tuple[int, ...]:
    last = max(length - window, 0)
    return (*range(0, last, window - overlap), last)
