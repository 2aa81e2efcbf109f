"""Image metrics on valid pixels, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.psnr import psnr, same_shape

__all__ = ["bootstrap_ratios", "gradient_energy", "l1", "low_passed_rms", "psnr", "sam", "ssim"]

# Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", section III-B.
_SSIM_RADIUS = 5
_SSIM_SIGMA = 1.5
_SSIM_K1, _SSIM_K2 = 0.01, 0.03


def ssim(
    reference: NDArray[np.generic],
    other: NDArray[np.generic],
    *,
    data_range: float,
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Compute the SSIM with an 11 x 11 Gaussian window of sigma 1.5, mean over channels and pixels.

    Wang et al. 2004, equation 13. Pixels whose window crosses the image border or contains an invalid pixel are
    excluded.

    Parameters
    ----------
    reference, other
        (C, H, W), any real dtype, in the same unit; sides of 11 or more.
    data_range
        Largest minus smallest possible value.
    valid
        bool (H, W); pixels to include. None includes all.

    Returns
    -------
    float
        In [-1, 1]; nan if no pixel is included.

    Raises
    ------
    ValueError
        If the shapes differ or a side is under 11 pixels.
    """
    same_shape(reference, other)
    size = 2 * _SSIM_RADIUS + 1
    if min(reference.shape[-2:]) < size:
        raise ValueError(
            f"images of {reference.shape[-2:]} are smaller than the {size} x {size} window: give larger images"
        )
    x, y = reference.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x = _smooth(x * x) - mean_x**2
    var_y = _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = (_SSIM_K1 * data_range) ** 2, (_SSIM_K2 * data_range) ** 2
    index = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    if valid is not None:
        windows = np.lib.stride_tricks.sliding_window_view(valid, (size, size))
        index = index[..., windows.all(axis=(-2, -1))]
    return float(np.mean(index)) if index.size else float("nan")


def sam(
    reference: NDArray[np.generic], other: NDArray[np.generic], *, valid: NDArray[np.bool_] | None = None
) -> float:
    """Compute the spectral angle between the colour vectors of a pixel, mean over pixels.

    Kruse et al. 1993, "The spectral image processing system (SIPS)", equation for alpha. The angle ignores
    brightness: a multiple of a colour is at 0 degrees from it. A pixel that is zero in either image has no direction
    and is excluded.

    Parameters
    ----------
    reference, other
        (C, H, W), any real dtype; the origin must be black (grey levels, not [-1, 1]).
    valid
        bool (H, W); pixels to include. None includes all.

    Returns
    -------
    float
        In degrees, 0 to 90 if no value is negative; nan if no pixel is included.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    same_shape(reference, other)
    x, y = reference.astype(np.float64), other.astype(np.float64)
    if valid is not None:
        x, y = x[:, valid], y[:, valid]
    lengths = np.sqrt(np.sum(x * x, axis=0) * np.sum(y * y, axis=0))
    counts = lengths > 0
    if not counts.any():
        return float("nan")
    # Rounding can lift the cosine of equal colours above 1, where arccos is undefined.
    cosine = np.clip(np.sum(x * y, axis=0)[counts] / lengths[counts], -1, 1)
    return float(np.degrees(np.arccos(cosine)).mean())


def l1(
    reference: NDArray[np.generic], other: NDArray[np.generic], *, valid: NDArray[np.bool_] | None = None
) -> float:
    """Compute the mean absolute error.

    Parameters
    ----------
    reference, other
        (..., H, W), any real dtype, in the same unit.
    valid
        bool (H, W); pixels to include. None includes all.

    Returns
    -------
    float
        In the images' unit; nan if no pixel is included.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    same_shape(reference, other)
    difference = np.abs(np.subtract(reference, other, dtype=np.float64))
    if valid is not None:
        difference = difference[..., valid]
    return float(difference.mean()) if difference.size else float("nan")


def gradient_energy(image: NDArray[np.generic], valid: NDArray[np.bool_] | None = None) -> float:
    """Compute the mean squared forward difference along rows plus that along columns, mean over channels.

    mean((x[r, c + 1] - x[r, c]) ** 2) + mean((x[r + 1, c] - x[r, c]) ** 2). The ratio of a prediction's energy to the
    truth's measures sharpness, independent of position: below 1 the prediction is smoother, above 1 it has detail or
    noise that the truth lacks.

    Parameters
    ----------
    image
        (C, H, W), any real dtype.
    valid
        bool (H, W); a difference is included if both of its pixels are valid. None includes all.

    Returns
    -------
    float
        In the image's unit squared; an axis without any difference adds 0, nan if neither axis has one.
    """
    x = image.astype(np.float64)
    energies = []
    for axis in (-2, -1):
        squares = np.square(np.diff(x, axis=axis))
        if valid is not None:
            ends = np.moveaxis(valid, axis, 0)
            squares = squares[..., np.moveaxis(ends[1:] & ends[:-1], 0, axis)]
        if squares.size:
            energies.append(float(squares.mean()))
    return sum(energies) if energies else float("nan")


def _smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted mean of each full window: (..., H, W) -> (..., H - 10, W - 10)."""
    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    kernel = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    kernel /= kernel.sum()
    height, width = (n - 2 * _SSIM_RADIUS for n in x.shape[-2:])
    rows = np.zeros((*x.shape[:-2], height, x.shape[-1]))
    for k, weight in enumerate(kernel):
        rows += weight * x[..., k : k + height, :]
    out = np.zeros((*x.shape[:-2], height, width))
    for k, weight in enumerate(kernel):
        out += weight * rows[..., k : k + width]
    return out


def low_passed_rms(
    reference: NDArray[np.generic], other: NDArray[np.generic], valid: NDArray[np.bool_], *, side: int = 32
) -> float:
    """Compute the root mean square difference of two images after a box mean of `side` x `side`.

    Detects patches of slightly different brightness, whose steps are too small for `seam_score`.

    Parameters
    ----------
    reference, other
        (C, H, W), any real dtype, in the same unit.
    valid
        bool (H, W); only boxes without an invalid pixel are included.
    side
        Side of the boxes in pixels.

    Returns
    -------
    float
        In the images' unit; nan if no box is included.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    same_shape(reference, other)
    height, width = (n // side * side for n in valid.shape)
    squares, count = 0.0, 0
    for row in range(0, height, side):
        rows = slice(row, row + side)
        whole = valid[rows, :width].reshape(side, -1, side).all(axis=(0, 2))
        difference = np.subtract(other[:, rows, :width], reference[:, rows, :width], dtype=np.float32)
        means = difference.reshape(len(difference), side, -1, side).mean(axis=(1, 3))[:, whole]
        squares += float(np.square(means, dtype=np.float64).sum())
        count += means.size
    return float(np.sqrt(squares / count)) if count else float("nan")


def bootstrap_ratios(
    tally: NDArray[np.float64], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute ratios of sums with percentile intervals, drawing rows with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife".

    Parameters
    ----------
    tally
        float64 (n, 2, k): numerators and denominators of each chip.
    resamples, level, seed
        Number of draws, share of the draws inside the interval, and seed of the draws.

    Returns
    -------
    values, low, high
        float64 (k,) each; `low` and `high` are nan if n is 1.
    """
    rng = np.random.default_rng(seed)
    n = len(tally)

    def ratios(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):  # the gradient energy of a flat truth is 0
            above, below = rows.sum(axis=0)
            return np.asarray(above / below)

    values = ratios(tally)
    if n < 2:
        nothing = np.full(len(values), np.nan)
        return values, nothing, nothing
    drawn = np.sort([ratios(tally[rng.integers(n, size=n)]) for _ in range(resamples)], axis=0)
    # Order statistics without interpolation, which would turn an infinite PSNR into nan.
    outside = int((1 - level) / 2 * resamples)
    return values, drawn[outside], drawn[resamples - 1 - outside]
