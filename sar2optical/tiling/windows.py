"""Window grid: positions of windows in a scene, and the strips of rows that they finish."""

from __future__ import annotations

from dataclasses import dataclass

from sar2optical.errors import OptionError

__all__ = ["DEFAULT_OVERLAP", "WindowGrid", "window_grid"]

DEFAULT_OVERLAP = 64
"""Default overlap in pixels; docs/overlap.md has measurements of larger and smaller ones."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows that cover a scene, and the strips of finished rows between them."""

    shape: tuple[int, int]
    """Height and width of the scene in pixels."""
    window: int
    """Side of a window in pixels."""
    overlap: int
    """Least number of pixels that neighbouring windows share."""
    rows: tuple[int, ...]
    """First row of each row of windows, ascending."""
    cols: tuple[int, ...]
    """First column of each column of windows, ascending."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    @property
    def padded_width(self) -> int:
        """Width that the windows cover: that of the scene, or of one window where the scene is narrower."""
        return max(self.shape[1], self.window)

    def strip(self, index: int) -> tuple[int, int]:
        """Return the first and past-the-last pixel row that are finished after row `index` of windows.

        Later windows begin below them; strips cover the scene's height once, in order.
        """
        last = index + 1 == len(self.rows)
        return self.rows[index], self.shape[0] if last else self.rows[index + 1]


def window_grid(shape: tuple[int, int], window: int, overlap: int) -> WindowGrid:
    """Cover a scene with as few windows as the overlap allows, evenly spaced from edge to edge.

    Parameters
    ----------
    shape
        Height and width of the scene in pixels, at least 1 each.
    window
        Side of a window in pixels.
    overlap
        Least number of pixels that neighbours share, 0 to window - 1.

    Returns
    -------
    WindowGrid

    Raises
    ------
    OptionError
        If the overlap leaves no stride, or the shape has no pixel.
    """
    if not 0 <= overlap < window:
        raise OptionError(f"overlap is {overlap}: give 0 to {window - 1}, less than the window of {window}")
    if min(shape) < 1:
        raise OptionError(f"scene is {shape[0]} x {shape[1]} pixels: give one with at least one pixel")
    height, width = shape
    return WindowGrid(shape, window, overlap, _starts(height, window, overlap), _starts(width, window, overlap))


def _starts(length: int, window: int, overlap: int) -> tuple[int, ...]:
    last = max(length - window, 0)
    steps = -(-last // (window - overlap))  # rounded up
    return tuple(k * last // max(steps, 1) for k in range(steps + 1))
