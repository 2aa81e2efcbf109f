"""Figures of a window, and their means with bootstrap intervals over chips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar2optical.evaluation.dark import DarkArea, dark_in_both
from sar2optical.evaluation.detail import corner_share, fitted, low_passed, octave_energies
from sar2optical.evaluation.metrics import bootstrap_ratios, l1, psnr, sam, ssim

__all__ = ["LEVEL", "METRICS", "RESAMPLES", "SEED", "Figure", "Score", "Scores", "figure_of", "measure", "scores_of"]

METRICS = (
    "psnr", "ssim", "sam", "l1", "gradient_ratio", "gradient_ratio_2", "gradient_ratio_4", "gradient_ratio_8", "r2",
    "psnr_fitted", "r2_low_passed", "psnr_fitted_low_passed", "corner_share", "dark_agreement",
)  # fmt: skip
"""Names of the figures of a window, in the order of `measure`; fields of `Scores`."""

RESAMPLES = 1000
"""Bootstrap draws per interval."""
LEVEL = 0.95
"""Share of the draws inside an interval."""
SEED = 0
"""Seed of the draws."""


@dataclass(frozen=True)
class Score:
    """Means over windows without intervals, as training reports them."""

    psnr: float
    """PSNR in dB, on grey levels."""
    ssim: float
    """SSIM on grey levels, mean of red, green and blue."""
    l1: float
    """Mean absolute error in grey levels."""
    gradient_ratio: float
    """Gradient energy of all predictions divided by that of all truths; below 1 is smoother than the truth."""
    gradient_ratio_2: float
    """Gradient ratio after averaging blocks of 2 x 2 pixels."""
    gradient_ratio_4: float
    """Gradient ratio after averaging blocks of 4 x 4 pixels."""
    r2: float
    """Share of the truth's variance explained after fitting gain and offset to each window and colour."""
    r2_low_passed: float
    """R2 after averaging blocks of 16 x 16 pixels."""
    corner_share: float
    """Share of the prediction's gradient energy at the highest frequencies of both axes; nan if all are flat."""
    chips: int
    """Number of windows scored."""


@dataclass(frozen=True)
class Figure:
    """A mean with its bootstrap interval."""

    value: float
    low: float | None = None
    """Lower end of the interval; None for fewer than two chips, which cannot be resampled."""
    high: float | None = None
    """Upper end of the interval, or None."""


@dataclass(frozen=True)
class Scores:
    """Figures of one predictor on one set of chips, see `Score`."""

    psnr: Figure
    """PSNR in dB, on grey levels."""
    ssim: Figure
    """SSIM on grey levels, mean of red, green and blue."""
    sam: Figure
    """Spectral angle in degrees."""
    l1: Figure
    """Mean absolute error in grey levels."""
    gradient_ratio: Figure
    """Gradient ratio, see `Score.gradient_ratio`."""
    gradient_ratio_2: Figure
    """Gradient ratio after averaging blocks of 2 x 2 pixels."""
    gradient_ratio_4: Figure
    """Gradient ratio after averaging blocks of 4 x 4 pixels."""
    gradient_ratio_8: Figure
    """Gradient ratio after averaging blocks of 8 x 8 pixels."""
    r2: Figure
    """R2 at full resolution, see `Fit`."""
    psnr_fitted: Figure
    """PSNR in dB after the fit."""
    r2_low_passed: Figure
    """R2 after averaging blocks of 16 x 16 pixels, see `Fit`."""
    psnr_fitted_low_passed: Figure
    """PSNR in dB after averaging and the fit."""
    corner_share: Figure
    """Corner share, mean over the windows that are not flat, see `corner_share`."""
    dark_agreement: Figure
    """Share of dark areas that are dark in the prediction too, see `dark_in_both`; nan if there is none."""
    dark_areas: int
    """Number of dark areas."""
    chips: int
    """Number of chips."""
    windows: int
    """Number of windows."""


def measure(
    truth: NDArray[np.uint8], fake: NDArray[np.float64], areas: Sequence[DarkArea] = ()
) -> NDArray[np.float64]:
    """Measure one window as numerators and denominators, so that their sums over windows divide to means.

    Parameters
    ----------
    truth, fake
        Images in grey levels, (3, H, W).
    areas
        Dark areas of the window.

    Returns
    -------
    ndarray
        float64 (2, 14): numerators and denominators of `METRICS`; both are 0 for a figure that is undefined on
        this window.
    """
    energies = zip(octave_energies(fake), octave_energies(truth), strict=True)
    pairs = [
        _mean(psnr(truth, fake, data_range=255)),
        _mean(ssim(truth, fake, data_range=255)),
        _mean(sam(truth, fake)),  # nan for a black window
        _mean(l1(truth, fake)),
        *((0.0, 0.0) if math.isnan(real) else (float(ours), float(real)) for ours, real in energies),
        *map(_mean, fitted(truth, fake)),
        *map(_mean, fitted(low_passed(truth), low_passed(fake))),
        _mean(corner_share(fake)),
        dark_in_both(areas, truth, fake),
    ]
    return np.array(pairs, np.float64).T


def scores_of(tally: NDArray[np.float64], windows: int) -> Scores:
    """Compute means over windows with intervals over chips.

    Parameters
    ----------
    tally
        float64 (n, 2, 14): `measure` of each chip, summed over its windows.
    windows
        Number of windows in all chips.
    """
    values, low, high = bootstrap_ratios(tally, resamples=RESAMPLES, level=LEVEL, seed=SEED)
    ends = [
        (None, None) if math.isnan(a) or math.isnan(b) else (float(a), float(b))
        for a, b in zip(low, high, strict=True)
    ]
    figures = {name: Figure(float(value), *pair) for name, value, pair in zip(METRICS, values, ends, strict=True)}
    areas = int(tally[:, 1, METRICS.index("dark_agreement")].sum())
    return Scores(**figures, dark_areas=areas, chips=len(tally), windows=windows)


def figure_of(values: Sequence[NDArray[np.float64]]) -> Figure:
    """Compute the mean of a figure over windows, with its interval over chips.

    Parameters
    ----------
    values
        For each chip, float64 (windows,).
    """
    tally = np.array([[[one.sum()], [len(one)]] for one in values], np.float64)
    value, low, high = (float(x[0]) for x in bootstrap_ratios(tally, resamples=RESAMPLES, level=LEVEL, seed=SEED))
    return Figure(value) if math.isnan(low) else Figure(value, low, high)


def _mean(value: float) -> tuple[float, float]:
    """Pair a figure with the weight 1, or 0 and 0 if it is undefined."""
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)
