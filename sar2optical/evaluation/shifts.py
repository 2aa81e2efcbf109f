"""Shift consistency: whether a window cut a few pixels further gives the same image of the same ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.evaluation.metrics import psnr

SHIFTS = ((0, 1), (1, 1), (3, 2), (8, 8), (16, 17))
"""Rows and columns that windows are shifted by: odd and even ones, and the strides of a U-Net's first levels."""

_MARGIN = 32  # pixels from either window's edges, where padding counts


@dataclass(frozen=True)
class ShiftScore:
    """Shift consistency over windows and shifts."""

    mean: float
    """dB; nan where windows are too small to compare."""
    worst: float
    """dB, the lowest of all windows and shifts."""
    chips: int
    """One window of each was compared."""


@dataclass(frozen=True)
class Shifted:
    """Shift consistency of one predictor."""

    overall: ShiftScore
    terrain: dict[str, ShiftScore]
    """By terrain class; empty where chips have none."""


def shift_consistency(
    predict: Callable[[Any], NDArray[np.float64]],
    sar: NDArray[Any],
    window: int,
    *,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    margin: int = _MARGIN,
) -> NDArray[np.float64]:
    """Compare a prediction at the chip's corner with predictions of windows cut further down and right.

    A prediction that depends on the ground alone is the same wherever the window begins (inf); one with a pattern
    fixed to the window's pixels is not.

    Parameters
    ----------
    predict
        SAR (C, window, window), of the type of `sar` -> grey levels (K, window, window).
    sar
        (C, H, W), at least a window. What it lacks for the farthest shift is added by mirroring its far edges.
    window
        Side in pixels.
    shifts
        Rows and columns of each shift, 0 or more.
    margin
        Pixels from the edges of either window that do not count.

    Returns
    -------
    ndarray
        float64 (len(shifts),): PSNR in dB, data range 255, where both windows exist and edges are `margin` away; nan
        where that leaves no pixel.
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
    """Mean and lowest PSNR of some chips' `shift_consistency`; nan where a shift could not be compared."""
    every = np.stack(found)
    return ShiftScore(float(every.mean()), float(every.min()), len(found))
