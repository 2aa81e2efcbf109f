"""Shifted copies of windows, and the loss that makes a generator draw the same on both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["MOST", "Shift", "shift_loss", "shift_of", "with_shifted"]

MOST = 17
"""Largest shift of a window in rows and columns, in pixels; covers every offset to the grid of four halvings."""

_MARGIN = 32
"""Pixels at a window's edges that are not compared, because padding affects them."""

Shift = tuple[int, int]
"""Shift in rows and columns, in pixels."""


def shift_of(seed: int, step: int) -> Shift:
    """Draw the shift of a step; it depends only on the seed and the step."""
    rows, columns = np.random.default_rng([seed, step, 2]).integers(0, MOST + 1, 2)
    return int(rows), int(columns)


def with_shifted(images: Tensor, shift: Shift) -> Tensor:
    """Append copies shifted up and left, filled by reflection.

    Parameters
    ----------
    images
        Images (N, C, H, W).
    shift
        Shift in rows and columns.

    Returns
    -------
    Tensor
        (2 N, C, H, W): the images, then their copies.
    """
    rows, columns = shift
    return torch.cat((images, pad(images, (0, columns, 0, rows), mode="reflect")[..., rows:, columns:]))


def shift_loss(fake: Tensor, shift: Shift) -> Tensor:
    """Compute the mean absolute difference between images and their copies shifted back, without the edges.

    Parameters
    ----------
    fake
        Generator output for `with_shifted`, (2 N, C, H, W); sides of at least 82 pixels.
    shift
        Shift in rows and columns.
    """
    rows, columns = shift
    height, width = fake.shape[-2:]
    image, moved = fake.float().chunk(2)
    original = image[..., _MARGIN + rows : height - _MARGIN, _MARGIN + columns : width - _MARGIN]
    return (
        (original - moved[..., _MARGIN : height - _MARGIN - rows, _MARGIN : width - _MARGIN - columns]).abs().mean()
    )
