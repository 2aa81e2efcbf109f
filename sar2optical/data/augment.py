"""Random windows of chips: crops, flips, quarter turns; the same for both halves of a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Chips, SarArray


def random_window(
    chips: Chips,
    size: int,
    rng: np.random.Generator,
    *,
    crop: bool = True,
    flips: bool = True,
    turns: bool = True,
) -> tuple[SarArray, NDArray[np.uint8]]:
    """Cut a random window; with flips and turns, each of the eight ways to lay it alike.

    Parameters
    ----------
    chips
        A pair whose sides are at least `size`.
    size
        Side of the window in pixels.
    rng
        Decides; the same state gives the same window.
    crop
        Whether the window lies anywhere; if not, it is one of `grid_windows`.
    flips
        Whether it is mirrored left to right, half of the time.
    turns
        Whether it is turned by 0, 90, 180 or 270 degrees.

    Returns
    -------
    sar, optical
        (C, size, size) of the chip's type, and uint8 (3, size, size).
    """
    height, width = chips.sar.shape[1:]
    # As many numbers are drawn whatever is asked for, so that runs with other choices see the same order of chips.
    row, col = (
        int(rng.integers(side - size + 1)) if crop else int(rng.integers(side // size)) * size
        for side in (height, width)
    )
    quarters, mirrored = int(rng.integers(4)) * turns, bool(rng.integers(2)) and flips

    def cut(image: NDArray[Any]) -> NDArray[Any]:
        window = np.rot90(image[:, row : row + size, col : col + size], quarters, axes=(1, 2))
        return window[..., ::-1] if mirrored else window

    return cut(chips.sar), cut(chips.optical)


def grid_windows(chips: Chips, size: int) -> list[tuple[SarArray, NDArray[np.uint8]]]:
    """Cut a pair into windows side by side, row by row; what is left over at the far edges is dropped.

    Returns
    -------
    list of (sar, optical)
        As for `random_window`.
    """
    height, width = chips.sar.shape[1:]
    return [
        (chips.sar[:, r : r + size, c : c + size], chips.optical[:, r : r + size, c : c + size])
        for r in range(0, height - size + 1, size)
        for c in range(0, width - size + 1, size)
    ]
