"""All figures of a window, and their means with intervals over chips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar2optical.evaluation.dark import DarkArea, dark_in_both
from sar2optical.evaluation.detail import corner_share, fitted, low_passed, octave_energies
from sar2optical.evaluation.metrics import bootstrap_ratios, l1, psnr, sam, ssim

METRICS = (
    "psnr", "ssim", "sam", "l1", "gradient_ratio", "gradient_ratio_2", "gradient_ratio_4", "gradient_ratio_8", "r2",
    "psnr_fitted", "r2_low_passed", "psnr_fitted_low_passed", "corner_share", "dark_agreement",
)  # fmt: skip
"""Figures of each window, in the order of `measure`; fields of `Scores`."""

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class Score:
    """Means over windows, without intervals: what training watches."""

    psnr: float
    """dB, on grey levels."""
    ssim: float
    """On grey levels, mean of red, green and blue."""
    l1: float
    """Mean absolute error in grey levels."""
    gradient_ratio: float
    """Gradient energy of all predictions over that of all truths: below 1 is smoother than the truth."""
    gradient_ratio_2: float
    """The same after averaging blocks of 2 x 2 pixels."""
    gradient_ratio_4: float
    """The same after averaging blocks of 4 x 4 pixels."""
    r2: float
    """Share of the truth's variance explained after a fit of gain and offset to each window and colour."""
    r2_low_passed: float
    """The same after averaging blocks of 16 x 16 pixels."""
    corner_share: float
    """Share of the prediction's gradient energy at the highest frequencies of both axes; nan where all are flat."""
    chips: int
    """Windows scored."""


@dataclass(frozen=True)
class Figure:
    """A mean with its bootstrap interval."""

    value: float
    low: float | None = None
    """Lower end; None where fewer than two chips leave nothing to resample."""
    high: float | None = None


@dataclass(frozen=True)
class Scores:
    """Figures of one predictor on one set of chips."""

    psnr: Figure
    """dB, on grey levels."""
    ssim: Figure
    """On grey levels, mean of red, green and blue."""
    sam: Figure
    """Degrees."""
    l1: Figure
    """Mean absolute error in grey levels."""
    gradient_ratio: Figure
    """See `Score.gradient_ratio`."""
    gradient_ratio_2: Figure
    """After averaging blocks of 2 x 2 pixels."""
    gradient_ratio_4: Figure
    """After averaging blocks of 4 x 4 pixels."""
    gradient_ratio_8: Figure
    """After averaging blocks of 8 x 8 pixels."""
    r2: Figure
    """See `Fit`, at full resolution."""
    psnr_fitted: Figure
    """dB."""
    r2_low_passed: Figure
    """See `Fit`, of means of 16 x 16 blocks."""
    psnr_fitted_low_passed: Figure
    """dB."""
    corner_share: Figure
    """See `corner_share`; mean over windows that are not flat."""
    dark_agreement: Figure
    """Share of dark areas that are dark in the prediction too, see `dark_in_both`; nan where there is none."""
    dark_areas: int
    """How many areas that is a share of."""
    chips: int
    windows: int


def measure(
    truth: NDArray[np.uint8], fake: NDArray[np.float64], areas: Sequence[DarkArea] = ()
) -> NDArray[np.float64]:
    """Compare one window, such that sums over windows divide to means.

    Parameters
    ----------
    truth, fake
        (3, H, W) in grey levels.
    areas
        The window's dark areas.

    Returns
    -------
    ndarray
        float64 (2, 14): numerators and denominators of `METRICS`. A figure that this window does not define has 0
        in both.
    """
    energies = zip(octave_energies(fake), octave_energies(truth), strict=True)
    pairs = [
        _mean(psnr(truth, fake, data_range=255)),
        _mean(ssim(truth, fake, data_range=255)),
        _mean(sam(truth, fake)),  # nothing but black has no angle
        _mean(l1(truth, fake)),
        *((0.0, 0.0) if math.isnan(real) else (float(ours), float(real)) for ours, real in energies),
        *map(_mean, fitted(truth, fake)),
        *map(_mean, fitted(low_passed(truth), low_passed(fake))),
        _mean(corner_share(fake)),
        dark_in_both(areas, truth, fake),
    ]
    return np.array(pairs, np.float64).T


def scores_of(tally: NDArray[np.float64], windows: int) -> Scores:
    """Give means over windows with intervals over chips.

    Parameters
    ----------
    tally
        float64 (n, 2, 14): `measure` of each chip, added up over its windows.
    windows
        How many those are.
    """
    values, low, high = bootstrap_ratios(tally, resamples=RESAMPLES, level=LEVEL, seed=SEED)
    ends = [
        (None, None) if math.isnan(a) or math.isnan(b) else (float(a), float(b))
        for a, b in zip(low, high, strict=True)
    ]
    figures = {name: Figure(float(value), *pair) for name, value, pair in zip(METRICS, values, ends, strict=True)}
    areas = int(tally[:, 1, METRICS.index("dark_agreement")].sum())
    return Scores(**figures, dark_areas=areas, chips=len(tally), windows=windows)


def _mean(value: float) -> tuple[float, float]:
    """Give what adds up to a mean over the windows that define a figure."""
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)
