"""Random windows of chips: crops, flips, quarter turns; the same for both halves of a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Chips


def random_window(chips: Chips, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random window, turned and mirrored at random: each of the eight ways alike.

    Parameters
    ----------
    chips
        A pair whose sides are at least `size`.
    size
        Side of the window in pixels.
    rng
        Decides; the same state gives the same window.

    Returns
    -------
    sar, optical
        uint8 (1, size, size) and (3, size, size).
    """
    height, width = chips.sar.shape[1:]
    row = int(rng.integers(height - size + 1))
    col = int(rng.integers(width - size + 1))
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def cut(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        window = np.rot90(image[:, row : row + size, col : col + size], turns, axes=(1, 2))
        return window[..., ::-1] if mirrored else window

    return cut(chips.sar), cut(chips.optical)


def grid_windows(chips: Chips, size: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Cut a pair into windows side by side, row by row; what is left over at the far edges is dropped."""
    height, width = chips.sar.shape[1:]
    return [
        (chips.sar[:, r : r + size, c : c + size], chips.optical[:, r : r + size, c : c + size])
        for r in range(0, height - size + 1, size)
        for c in range(0, width - size + 1, size)
    ]
