"""Fill invalid pixels of many windows at once, as `sar2optical.tiling.fill` does for one."""

from __future__ import annotations

import torch

__all__ = ["mirror_invalid"]

_NOWHERE = 2**31 - 1


def mirror_invalid(windows: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Fill invalid pixels by mirroring; see `sar2optical.tiling.fill.mirror_invalid`.

    The first pass fills every row and column that has a valid pixel, the second one all others. Two passes without a
    look at the result keep the GPU at work.

    Parameters
    ----------
    windows
        float32 (N, C, H, W).
    valid
        bool (N, H, W).

    Returns
    -------
    Tensor
        float32 (N, C, H, W), a new one; a window without a valid pixel stays as it is.
    """
    for _ in range(2):
        source_col, across = _mirror(valid)
        source_row, down = (part.transpose(1, 2) for part in _mirror(valid.transpose(1, 2)))
        rows = torch.arange(valid.shape[1], device=valid.device)[:, None]
        cols = torch.arange(valid.shape[2], device=valid.device)
        by_row = across <= down
        index = torch.where(by_row, rows, source_row) * valid.shape[2] + torch.where(by_row, source_col, cols)
        flat = index.flatten(1)[:, None].expand(-1, windows.shape[1], -1)
        windows = windows.flatten(2).gather(2, flat).view(windows.shape)
        valid = torch.minimum(across, down) < _NOWHERE
    return windows


def _mirror(valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pixel of its row that each pixel mirrors, and its distance from the edge of the mirror.

    Returns
    -------
    source, distance
        int64 (N, H, W), see `sar2optical.tiling.fill`.
    """
    width = valid.shape[2]
    cols = torch.arange(width, device=valid.device).expand(valid.shape)
    before = _largest_so_far(torch.where(valid, cols, -1))  # last valid column up to here
    after = _smallest_to_come(torch.where(valid, cols, _NOWHERE))
    to_before = torch.where(before >= 0, cols - before, _NOWHERE)
    to_after = torch.where(after < _NOWHERE, after - cols, _NOWHERE)
    distance = torch.minimum(to_before, to_after)
    nearer_before = to_before <= to_after
    edge = torch.where(nearer_before, before, after).clamp(0, width - 1)
    # Length of the run from its edge inwards, to the invalid pixel before or after it.
    gap_before = _largest_so_far(torch.where(valid, -1, cols)).gather(2, edge)
    gap_after = _smallest_to_come(torch.where(valid, width, cols)).gather(2, edge)
    length = torch.where(nearer_before, edge - gap_before, gap_after - edge).clamp(min=1)
    swing = (distance - 1) % (2 * length)
    inwards = torch.where(swing < length, swing, 2 * length - 1 - swing)
    mirrored = torch.where(nearer_before, edge - inwards, edge + inwards)
    return torch.where(valid | (distance == _NOWHERE), cols, mirrored), distance


def _largest_so_far(values: torch.Tensor) -> torch.Tensor:
    return torch.cummax(values, dim=2).values


def _smallest_to_come(values: torch.Tensor) -> torch.Tensor:
    return torch.cummin(values.flip(2), dim=2).values.flip(2)
