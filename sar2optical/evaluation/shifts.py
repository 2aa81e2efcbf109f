"""Shift consistency: compare the outputs of overlapping windows on the ground that both show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.evaluation.metrics import psnr

__all__ = ["SHIFTS", "ShiftScore", "Shifted", "shift_consistency", "shift_score"]

SHIFTS = ((0, 1), (1, 1), (3, 2), (8, 8), (16, 17))
"""Shifts of the windows in rows and columns: odd, even, and the strides of a U-Net's first levels."""

_MARGIN = 32  # pixels excluded at the edges of both windows, where padding has an effect


@dataclass(frozen=True)
class ShiftScore:
    """Shift consistency over windows and shifts."""

    mean: float
    """Mean PSNR in dB; nan if the windows are too small to compare."""
    worst: float
    """Lowest PSNR in dB of all windows and shifts."""
    chips: int
    """Number of chips; one window of each was compared."""


@dataclass(frozen=True)
class Shifted:
    """Shift consistency of one predictor."""

    overall: ShiftScore
    """Score over all chips."""
    terrain: dict[str, ShiftScore]
    """Scores by terrain class; empty if the chips have no classes."""


def shift_consistency(
    predict: Callable[[Any], NDArray[np.float64]],
    sar: NDArray[Any],
    window: int,
    *,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    margin: int = _MARGIN,
) -> NDArray[np.float64]:
    """Compare the prediction of the chip's corner window with those of windows shifted down and right.

    A prediction that depends only on the ground is the same for every window (inf dB); one with a pattern fixed to
    the window's pixels is not.

    Parameters
    ----------
    predict
        Predictor: SAR (C, window, window) of the dtype of `sar` -> grey levels (K, window, window).
    sar
        SAR chip (C, H, W) of at least one window. It is padded by reflection if the largest shift needs more.
    window
        Side of the windows in pixels.
    shifts
        Shifts in rows and columns, 0 or more.
    margin
        Pixels to exclude at the edges of both windows.

    Returns
    -------
    ndarray
        float64 (len(shifts),): PSNR in dB, data range 255, on the ground that both windows show, without the
        margins; nan if no pixel remains.
    """
    lacking = [max(0, window + max(shift[axis] for shift in shifts) - sar.shape[axis + 1]) for axis in (0, 1)]
    larger = np.pad(sar, ((0, 0), *((0, n) for n in lacking)), mode="reflect")
    first = predict(larger[:, :window, :window])
    end = window - margin
    found = []
    for down, right in shifts:
        if end - max(down, right) <= margin:
            found.append(float("nan"))
            continue
        moved = predict(larger[:, down : down + window, right : right + window])
        found.append(
            psnr(
                first[:, margin + down : end, margin + right : end],
                moved[:, margin : end - down, margin : end - right],
                data_range=255,
            )
        )
    return np.array(found)


def shift_score(found: Sequence[NDArray[np.float64]]) -> ShiftScore:
    """Compute mean and lowest PSNR of the `shift_consistency` of chips; nan if a shift could not be compared."""
    every = np.stack(found)
    return ShiftScore(float(every.mean()), float(every.min()), len(found))
