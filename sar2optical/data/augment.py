"""Random windows of chips: crops, flips, quarter turns and reductions, the same for both halves of a pair.

The SAR half is also varied by itself, in the properties that differ between SAR images of the same area.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Chips, SarArray, encoded

__all__ = [
    "ABOVE",
    "AMPLITUDE",
    "BELOW",
    "HIGH_SPREAD",
    "LOOKS",
    "LOW_SPREAD",
    "OF_A_SCENE",
    "SHADOW",
    "SIDES",
    "SMOOTHED",
    "SPAN_DB",
    "SPECKLED",
    "TILT",
    "TILTED",
    "ZOOMED",
    "grid_windows",
    "random_window",
    "vary_sar",
]

SPAN_DB = 18.0
"""Assumed width in dB of [-1, 1], if SAR is stretched between its 1st and 99th percentile in dB. Measured: 13 to 17
dB on pairs of 1024 x 1024 at 10 m, VH of Los Angeles."""

ZOOMED = 1 / 6
"""Share of the windows that are reduced, if the chip is large enough."""
SPECKLED, LOOKS = 0.25, (1.0, 10.0)
"""Share of the windows with added speckle; range of its looks."""
SMOOTHED, SIDES = 0.12, (2, 4)
"""Share of the windows that are multilooked; range of the side in pixels."""
TILTED, TILT = 0.3, 0.1
"""Share of the windows with a slope of brightness; standard deviation of the slope."""
AMPLITUDE = 0.25
"""Share of the windows that are converted to amplitude."""
LOW_SPREAD, HIGH_SPREAD = 0.12, 0.16
"""Standard deviations of the two ends of the stretch."""
OF_A_SCENE, BELOW, ABOVE = 0.3, 1.2, 0.8
"""Share of the windows stretched as part of a scene with darker and brighter areas; largest offsets of both ends."""
SHADOW = 1e-3
"""Lower limit of the speckle factor: -30 dB."""


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
    """Cut a random window; with flips and turns, all eight orientations are equally likely.

    Parameters
    ----------
    chips
        Pair whose sides are at least `size`.
    size
        Side of the window in pixels.
    rng
        Random generator; the same state gives the same window.
    crop
        Cut at a random position; False cuts one of `grid_windows`.
    flips
        Mirror half of the windows left to right.
    turns
        Turn by 0, 90, 180 or 270 degrees.
    zoom
        Largest integer factor by which a larger window is averaged down to `size`; SAR as power, see `SPAN_DB`.

    Returns
    -------
    sar, optical
        (C, size, size) of the chip's dtype, float32 if it was reduced, and uint8 (3, size, size).
    """
    height, width = chips.sar.shape[1:]
    factor = 1
    if zoom > 1 and rng.random() < ZOOMED:
        factor = min(int(rng.integers(2, zoom + 1)), height // size, width // size)
    target, size = size, size * factor
    # The number of draws does not depend on the options, so that other options keep the same windows.
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
    """Vary the properties that differ between SAR images of the same area.

    Each with its own probability: speckle of 1 to 10 looks (gamma-distributed power, Goodman 1976, "Some fundamental
    properties of speckle"); multilooking over 2 x 2 or 3 x 3 pixels; a slope of brightness across the image
    (incidence angle); amplitude instead of dB (8-bit chips may be either). The two ends of the stretch are always
    moved, often far outwards, because a scene's stretch covers more than one window.

    Parameters
    ----------
    sar
        (C, H, W) as in `Chips`, taken as dB over `SPAN_DB`.
    rng
        Random generator.

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
    """Convert dB over `SPAN_DB` in [-1, 1] to linear power; 1 becomes 1."""
    return np.asarray(np.power(np.float32(10), (image - 1) * np.float32(SPAN_DB / 20)), np.float32)


def _decibels(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Invert `_power`."""
    return np.asarray(1 + np.float32(20 / SPAN_DB) * np.log10(power), np.float32)


def _block_means(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Average k x k pixels: (C, k * side, k * side) -> (C, side, side)."""
    k = image.shape[-1] // side
    return np.asarray(image.reshape(len(image), side, k, side, k).mean(axis=(2, 4)), np.float32)


def _running_means(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Average side x side pixels around each pixel; edges are repeated."""
    height, width = image.shape[1:]
    before, after = (side - 1) // 2, side // 2
    padded = np.pad(image, ((0, 0), (before, after), (before, after)), mode="edge")
    shifted = [padded[:, r : r + height, c : c + width] for r in range(side) for c in range(side)]
    return np.asarray(np.mean(shifted, axis=0), np.float32)


def grid_windows(chips: Chips, size: int) -> list[tuple[SarArray, NDArray[np.uint8]]]:
    """Cut a pair into adjacent windows, row by row; remaining rows and columns are dropped.

    Returns
    -------
    list of (sar, optical)
        See `random_window`.
    """
    height, width = chips.sar.shape[1:]
    return [
        (chips.sar[:, r : r + size, c : c + size], chips.optical[:, r : r + size, c : c + size])
        for r in range(0, height - size + 1, size)
        for c in range(0, width - size + 1, size)
    ]
