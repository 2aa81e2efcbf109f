"""Fill invalid pixels of model input by mirroring valid ones.

Training data have no invalid pixels. A constant area is so unlike them that colours are wrong up to a hundred pixels
away from it; mirrored ground looks like ground.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mirror_invalid"]

Indices = NDArray[np.int32]


def mirror_invalid(image: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill invalid pixels by mirroring at the nearest valid pixel of the row or the column, whichever is nearer.

    Pixels without a valid one in their row and column are filled from pixels that were filled before.

    Parameters
    ----------
    image
        float32 (C, H, W); values where `valid` is False are not used.
    valid
        bool (H, W).

    Returns
    -------
    ndarray
        float32 (C, H, W); the image itself where all pixels are valid, or none is.
    """
    height, width = valid.shape
    while not valid.all() and valid.any():
        where, source_col, across = _mirrored(valid)
        found, source_row, down = _mirrored(valid.T)
        # Columns of holes, in the order of rows of holes.
        col, row = np.divmod(found, height)
        order = np.empty(height * width, np.int32)
        order[row * width + col] = np.arange(len(found), dtype=np.int32)
        order = order[where]
        down = down[order]
        row, col = np.divmod(where, width)
        by_row = across <= down
        source = np.where(by_row, row * width + source_col, source_row[order] * width + col)
        image, valid = image.copy(), valid.copy()
        flat = image.reshape(len(image), -1)
        flat[:, where] = flat[:, source]
        valid.reshape(-1)[where] = np.minimum(across, down) < _NOWHERE
    return image


_NOWHERE = np.int32(np.iinfo(np.int32).max)


def _mirrored(valid: NDArray[np.bool_]) -> tuple[Indices, Indices, Indices]:
    """Find the pixel of its row that each invalid pixel mirrors, and its distance from the edge of the mirror.

    Where the hole is wider than the valid run, the run is mirrored back and forth.

    Returns
    -------
    where, source, distance
        int32 (n,), for each invalid pixel: its index in the flat array, the column that it mirrors, and pixels to the
        nearest valid one; its own column, and `_NOWHERE`, where the row has none.
    """
    height, width = valid.shape
    edges = np.zeros((height, width + 2), np.bool_)
    np.logical_not(valid, out=edges[:, 1:-1])
    # Holes are runs of invalid pixels in a row: one change at the start of each, one past its end.
    changes = np.flatnonzero(edges[:, 1:] != edges[:, :-1]).astype(np.int32)
    line = changes[::2] // np.int32(width + 1)
    start: Indices = changes[::2] - line * np.int32(width + 1)
    end: Indices = changes[1::2] - line * np.int32(width + 1)
    neighbours = line[1:] == line[:-1]
    # Lengths of the valid runs before and after each hole; the nearer one of each pixel is mirrored.
    before = start - np.append(np.int32(0), end[:-1] * neighbours)
    after = np.append(np.where(neighbours, start[1:], np.int32(width)), np.int32(width)) - end
    size: Indices = end - start
    earlier = np.cumsum(size, dtype=np.int32) - size
    step: Indices = np.arange(1, size.sum() + 1, dtype=np.int32) - np.repeat(earlier, size)
    to_before = np.where(np.repeat(before > 0, size), step, _NOWHERE)
    to_after = np.where(np.repeat(after > 0, size), np.repeat(size + np.int32(1), size) - step, _NOWHERE)
    distance = np.minimum(to_before, to_after)
    back = to_before <= to_after
    length = np.where(back, np.repeat(before, size), np.repeat(after, size))
    inwards = distance - np.int32(1)
    if (inwards >= length).any():  # a hole is wider than its run
        inwards %= np.maximum(2 * length, np.int32(1))
        inwards = np.minimum(inwards, 2 * length - np.int32(1) - inwards)
    col = np.repeat(start - np.int32(1), size) + step
    reach = distance + inwards
    mirrored = np.where(distance == _NOWHERE, col, np.where(back, col - reach, col + reach))
    return np.repeat(line * np.int32(width), size) + col, mirrored, distance
