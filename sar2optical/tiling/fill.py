"""Fill invalid pixels of model input by mirroring valid ones.

Training data have no invalid pixels. A constant area is so unlike them that colours are wrong up to a hundred pixels
away from it; mirrored ground looks like ground.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mirror_invalid"]


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
    while not valid.all() and valid.any():
        source_col, across = _mirror(valid)
        source_row, down = _mirror(valid.T)
        source_row, down = source_row.T, down.T
        rows, cols = np.ogrid[: valid.shape[0], : valid.shape[1]]
        by_row = across <= down
        from_rows, from_cols = np.where(by_row, rows, source_row), np.where(by_row, source_col, cols)
        image = image[:, from_rows, from_cols]
        valid = np.minimum(across, down) < _NOWHERE
    return image


_NOWHERE = np.iinfo(np.int32).max


def _mirror(valid: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the pixel of its row that each pixel mirrors, and its distance from the edge of the mirror.

    Where the hole is wider than the valid run, the run is mirrored back and forth.

    Returns
    -------
    source, distance
        int32 (H, W): column, and pixels to the nearest valid one; 0 where valid, `_NOWHERE` where the row has none.
    """
    height, width = valid.shape
    cols = np.broadcast_to(np.arange(width, dtype=np.int32), valid.shape)
    before = np.maximum.accumulate(np.where(valid, cols, -1), axis=1)  # last valid column up to here
    after = np.minimum.accumulate(np.where(valid, cols, _NOWHERE)[:, ::-1], axis=1)[:, ::-1]
    to_before = np.where(before >= 0, cols - before, _NOWHERE)
    to_after = np.where(after < _NOWHERE, after - cols, _NOWHERE)
    distance = np.minimum(to_before, to_after)
    nearer_before = to_before <= to_after
    edge = np.clip(np.where(nearer_before, before, after), 0, width - 1)
    # Length of the run from its edge inwards, to the invalid pixel before or after it.
    gap_before = np.maximum.accumulate(np.where(valid, -1, cols), axis=1)
    gap_after = np.minimum.accumulate(np.where(valid, width, cols)[:, ::-1], axis=1)[:, ::-1]
    lines = np.arange(height)[:, None]
    length = np.maximum(np.where(nearer_before, edge - gap_before[lines, edge], gap_after[lines, edge] - edge), 1)
    swing = (distance - 1) % (2 * length)
    inwards = np.where(swing < length, swing, 2 * length - 1 - swing)
    mirrored = np.where(nearer_before, edge - inwards, edge + inwards)
    source = np.where(valid | (distance == _NOWHERE), cols, mirrored)
    return source.astype(np.int32), distance
