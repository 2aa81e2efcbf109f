"""Peak signal-to-noise ratio of two images, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr", "same_shape"]


def psnr(
    reference: NDArray[np.generic],
    other: NDArray[np.generic],
    *,
    data_range: float,
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Compute the peak signal-to-noise ratio: 10 * log10(data_range ** 2 / mean squared error).

    Parameters
    ----------
    reference, other
        (..., H, W), any real dtype, in the same unit.
    data_range
        Largest minus smallest possible value: 255 for bytes, 2 for [-1, 1].
    valid
        bool (H, W), pixels to compare; None: all.

    Returns
    -------
    float
        In dB; inf for equal images, nan where no pixel is valid.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    same_shape(reference, other)
    difference = np.subtract(reference, other, dtype=np.float64)
    if valid is not None:
        difference = difference[..., valid]
    if difference.size == 0:
        return float("nan")
    error = float(np.mean(np.square(difference)))
    return float("inf") if error == 0 else 10 * float(np.log10(data_range**2 / error))


def same_shape(reference: NDArray[np.generic], other: NDArray[np.generic]) -> None:
    """Raise ValueError unless two images have the same shape."""
    if reference.shape != other.shape:
        raise ValueError(
            f"images of {reference.shape} and {other.shape} cannot be compared: give images of one shape"
        )
