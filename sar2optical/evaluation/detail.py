"""Detail of an image by scale, and the share of the truth's variance that it explains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sar2optical.evaluation.metrics import gradient_energy

__all__ = [
    "OCTAVES",
    "Fit",
    "better_sign",
    "block_means",
    "corner_share",
    "fitted",
    "low_passed",
    "octave_energies",
    "radar_picture",
]

OCTAVES = (1, 2, 4, 8)
"""Sides in pixels of the blocks that are averaged before the gradient energy is computed."""

_LOW_PASS = 16  # side of the low pass's blocks: 160 m at 10 m per pixel keeps fields and towns and removes texture
_CORNER = 7 / 16  # cycles per pixel; a pattern of period 2 has 1/2
_FLAT = 1e-9  # variance in squared grey levels; larger than the rounding error of a constant


class Fit(NamedTuple):
    """Agreement of an image with the truth after the best gain and offset for each colour."""

    r2: float
    """Share of the truth's variance that is explained, from 0 to 1."""
    psnr: float
    """PSNR in dB, for a data range of 255."""


def block_means(image: NDArray[np.generic], side: int) -> NDArray[np.float64]:
    """Average blocks of `side` x `side` pixels; remaining rows and columns are dropped.

    Parameters
    ----------
    image
        (C, H, W), any real dtype.
    side
        Side of the blocks in pixels.

    Returns
    -------
    ndarray
        float64 (C, H // side, W // side).
    """
    channels, height, width = len(image), *(n // side for n in image.shape[1:])
    whole = image[:, : height * side, : width * side].astype(np.float64)
    if side == 1:
        return whole
    return np.asarray(whole.reshape(channels, height, side, width, side).mean(axis=(2, 4)))


def low_passed(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Average blocks of 16 x 16 pixels: (C, H, W) -> float64 (C, H // 16, W // 16)."""
    return block_means(image, _LOW_PASS)


def octave_energies(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Compute the gradient energy after averaging blocks of each side in `OCTAVES`.

    Detail at one scale does not count for another: averaging 2 x 2 pixels removes a one-pixel chequerboard completely
    and keeps the gradients of a landscape.

    Parameters
    ----------
    image
        (C, H, W) in grey levels.

    Returns
    -------
    ndarray
        float64 (4,), in squared grey levels; nan if fewer than two blocks fit.
    """
    return np.array([gradient_energy(block_means(image, side)) for side in OCTAVES])


def corner_share(image: NDArray[np.generic]) -> float:
    """Compute the share of the gradient energy at the highest frequencies of both axes.

    Computed on the mean of the channels, minus its own mean. The FFT's power is weighted by
    sin(pi fy)^2 + sin(pi fx)^2, the power transfer of forward differences; the result is the share where |fy| and
    |fx| are both at least 7/16 cycles per pixel. A one-pixel chequerboard has 1, white noise about 0.03, optical
    images at 10 m about 0.002.

    Parameters
    ----------
    image
        (C, H, W) in grey levels.

    Returns
    -------
    float
        From 0 to 1; nan for a flat image, which has no gradients.
    """
    grey = image.astype(np.float64).mean(axis=0)
    grey -= grey.mean()
    if np.square(grey).mean() < _FLAT:
        return float("nan")
    fy, fx = np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None]
    power = np.square(np.abs(np.fft.fft2(grey))) * (np.sin(np.pi * fy) ** 2 + np.sin(np.pi * fx) ** 2)
    return float(power[(np.abs(fy) >= _CORNER) & (np.abs(fx) >= _CORNER)].sum() / power.sum())


def fitted(truth: NDArray[np.generic], prediction: NDArray[np.generic]) -> Fit:
    """Fit a gain of 0 or more and an offset for each colour by least squares, and compare with the truth.

    A colour explains max(covariance, 0)^2 / var(prediction) of its truth's variance, so a negative image explains
    nothing. R2 is the sum of that over the colours divided by the sum of the truth's variances; the unexplained
    variance is the mean squared error.

    Parameters
    ----------
    truth, prediction
        (C, H, W) in grey levels.

    Returns
    -------
    Fit
        nan if the truth is flat or holds no pixel. The PSNR is inf if everything is explained.
    """
    x, y = (image.reshape(len(image), -1).astype(np.float64) for image in (prediction, truth))
    if not x.size:
        return Fit(float("nan"), float("nan"))
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    variance, total = np.square(x).mean(axis=1), np.square(y).mean(axis=1)
    if total.sum() < _FLAT:
        return Fit(float("nan"), float("nan"))
    covariance = np.maximum((x * y).mean(axis=1), 0)
    explained = np.where(variance < _FLAT, 0.0, np.square(covariance) / np.maximum(variance, _FLAT))
    left = float((total - explained).mean())
    psnr = 10 * float(np.log10(255**2 / left)) if left > _FLAT else float("inf")
    return Fit(float(explained.sum() / total.sum()), psnr)


def radar_picture(band: NDArray[np.floating]) -> NDArray[np.float64]:
    """Repeat a SAR band as three colours: (H, W) in [-1, 1] -> grey levels (3, H, W)."""
    grey = (band.astype(np.float64) + 1) * 127.5
    return np.stack([grey, grey, grey])


def better_sign(truth: NDArray[np.generic], picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose the image or its negative (255 minus it), whichever explains more of the truth after the low pass.

    This uses the truth: it is an upper bound for inverting whole windows, not a prediction.

    Parameters
    ----------
    truth, picture
        (C, H, W) in grey levels.

    Returns
    -------
    ndarray
        float64 (C, H, W); the image itself if both explain the same.
    """
    coarse = low_passed(truth)
    negative = 255 - picture
    return negative if fitted(coarse, low_passed(negative)).r2 > fitted(coarse, low_passed(picture)).r2 else picture
