"""Windows beside copies of them that are shifted by some pixels: a generator should draw the same on both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

MOST = 17
"""Pixels that a window is shifted by, at most, in both directions: every offset to the grid of four halvings."""

_MARGIN = 32
"""Pixels from a window's edge that are not compared: padding decides there."""

Shift = tuple[int, int]
"""Rows and columns."""


def shift_of(seed: int, step: int) -> Shift:
    """Choose a step's shift, from the run's seed and the step alone."""
    rows, columns = np.random.default_rng([seed, step, 2]).integers(0, MOST + 1, 2)
    return int(rows), int(columns)


def with_shifted(images: Tensor, shift: Shift) -> Tensor:
    """Append copies shifted up and to the left; what comes in from the other side is mirrored.

    Parameters
    ----------
    images
        (N, C, H, W).
    shift
        Rows and columns.

    Returns
    -------
    Tensor
        (2 N, C, H, W): the images, then their copies.
    """
    rows, columns = shift
    return torch.cat((images, pad(images, (0, columns, 0, rows), mode="reflect")[..., rows:, columns:]))


def shift_loss(fake: Tensor, shift: Shift) -> Tensor:
    """Mean absolute difference of images and their shifted copies, shifted back, away from edges.

    Parameters
    ----------
    fake
        (2 N, C, H, W), what was made of `with_shifted`; sides of 82 or more.
    shift
        Rows and columns.
    """
    rows, columns = shift
    height, width = fake.shape[-2:]
    image, moved = fake.float().chunk(2)
    there = image[..., _MARGIN + rows : height - _MARGIN, _MARGIN + columns : width - _MARGIN]
    return (there - moved[..., _MARGIN : height - _MARGIN - rows, _MARGIN : width - _MARGIN - columns]).abs().mean()
