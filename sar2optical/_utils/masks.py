"""Masks of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["all_true"]


def all_true(mask: NDArray[np.bool_]) -> bool:
    """Return whether all of a mask is True; at once where one value stands for all (`np.broadcast_to`)."""
    if mask.size and not any(mask.strides):
        return bool(mask.flat[0])
    return bool(mask.all())
