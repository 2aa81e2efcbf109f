"""Random windows of chips: crops, flips, quarter turns and reductions, the same for both halves of a pair.

What may differ between SAR scenes of one place is varied in the SAR half alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Chips, SarArray, encoded

SPAN_DB = 18.0
"""dB that [-1, 1] is taken for where SAR is stretched between its 1st and 99th percentile in dB. Measured: 13 to 17
on pairs of 1024 x 1024 at 10 m, VH of Los Angeles."""

ZOOMED = 1 / 6
"""Share of the windows that are reduced, where a chip allows it."""
SPECKLED, LOOKS = 0.25, (1.0, 10.0)
SMOOTHED, SIDES = 0.12, (2, 4)
TILTED, TILT = 0.3, 0.1
AMPLITUDE = 0.25
LOW_SPREAD, HIGH_SPREAD = 0.12, 0.16
OF_A_SCENE, BELOW, ABOVE = 0.3, 1.2, 0.8
"""Share of the windows whose stretch is that of a scene with darker and brighter places; how far beyond, at most."""
SHADOW = 1e-3  # least factor of speckle: -30 dB


def random_window(
    chips: Chips,
    size: int,
    rng: np.random.Generator,
    *,
    crop: bool = True,
    flips: bool = True,
    turns: bool = True,
    zoom: int = 1,
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
    zoom
        Largest whole factor by which a larger window is reduced to `size`, by area: SAR as power, see `SPAN_DB`.

    Returns
    -------
    sar, optical
        (C, size, size) of the chip's type, float32 where it was reduced, and uint8 (3, size, size).
    """
    height, width = chips.sar.shape[1:]
    factor = 1
    if zoom > 1 and rng.random() < ZOOMED:
        factor = min(int(rng.integers(2, zoom + 1)), height // size, width // size)
    target, size = size, size * factor
    # As many numbers are drawn whatever is asked for, so that runs with other choices see the same order of chips.
    row, col = (
        int(rng.integers(side - size + 1)) if crop else int(rng.integers(side // size)) * size
        for side in (height, width)
    )
    quarters, mirrored = int(rng.integers(4)) * turns, bool(rng.integers(2)) and flips

    def cut(image: NDArray[Any]) -> NDArray[Any]:
        window = np.rot90(image[:, row : row + size, col : col + size], quarters, axes=(1, 2))
        return window[..., ::-1] if mirrored else window

    sar, optical = cut(chips.sar), cut(chips.optical)
    if factor == 1:
        return sar, optical
    reduced = np.rint(_block_means(optical.astype(np.float32), target)).astype(np.uint8)
    return _decibels(_block_means(_power(encoded(sar)), target)), reduced


def vary_sar(sar: SarArray, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vary what differs between SAR images of one place.

    Each with a probability of its own: speckle of 1 to 10 looks (gamma-distributed power, Goodman 1976, "Some
    fundamental properties of speckle"); means of 2 x 2 or 3 x 3 pixels' power (multilooking); a slope of brightness
    across the image (incidence); amplitude in place of dB (8-bit chips come as either). The two ends of the stretch
    are always moved, and often far outwards: they are those of a scene, of which a window is a part.

    Parameters
    ----------
    sar
        (C, H, W) as in `Chips`, taken for dB over `SPAN_DB`.
    rng
        Decides.

    Returns
    -------
    ndarray
        float32 (C, H, W) in [-1, 1].
    """
    image = encoded(sar)
    if rng.random() < SPECKLED:
        looks = rng.uniform(*LOOKS)
        speckle = rng.standard_gamma(looks, image.shape, dtype=np.float32) / np.float32(looks)
        image = image + np.float32(20 / SPAN_DB) * np.log10(np.maximum(speckle, np.float32(SHADOW)))
    if rng.random() < SMOOTHED:
        image = _decibels(_running_means(_power(image), int(rng.integers(*SIDES))))
    if rng.random() < TILTED:
        image = image + np.linspace(-1, 1, image.shape[-1], dtype=np.float32) * np.float32(rng.normal(0, TILT))
    low, high = -1 + rng.normal(0, LOW_SPREAD), 1 + rng.normal(0, HIGH_SPREAD)
    if rng.random() < OF_A_SCENE:
        low, high = low - rng.uniform(0, BELOW), high + rng.uniform(0, ABOVE)
    if rng.random() < AMPLITUDE:
        image = 2 * np.power(np.float32(10), (image - np.float32(high)) * np.float32(SPAN_DB / 40)) - 1
    else:
        image = (image - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return np.clip(image, -1, 1).astype(np.float32)


def _power(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """DB over `SPAN_DB` in [-1, 1] -> linear power; 1 becomes 1."""
    return np.asarray(np.power(np.float32(10), (image - 1) * np.float32(SPAN_DB / 20)), np.float32)


def _decibels(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo `_power`."""
    return np.asarray(1 + np.float32(20 / SPAN_DB) * np.log10(power), np.float32)


def _block_means(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(C, k * side, k * side) -> (C, side, side): means of k x k pixels."""
    k = image.shape[-1] // side
    return np.asarray(image.reshape(len(image), side, k, side, k).mean(axis=(2, 4)), np.float32)


def _running_means(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of side x side pixels around each one; edges are repeated."""
    height, width = image.shape[1:]
    before, after = (side - 1) // 2, side // 2
    padded = np.pad(image, ((0, 0), (before, after), (before, after)), mode="edge")
    shifted = [padded[:, r : r + height, c : c + width] for r in range(side) for c in range(side)]
    return np.asarray(np.mean(shifted, axis=0), np.float32)


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
