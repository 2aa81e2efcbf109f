"""Blend overlapping windows on a device, one row of windows at a time, as `sar2optical.tiling.blend` does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sar2optical.pipeline.device.encode import decode
from sar2optical.tiling.blend import axis_weights
from sar2optical.tiling.windows import WindowGrid

__all__ = ["Blender"]


class Blender:
    """Weighted sums of windows; weights sum to 1 where all windows with a valid pixel are added.

    Windows are added one by one, from left to right and from top to bottom: sums do not depend on the batch.

    Parameters
    ----------
    grid
        Window grid.
    device
        Where sums are kept.
    """

    def __init__(self, grid: WindowGrid, device: torch.device) -> None:
        self._grid = grid
        self._down = torch.from_numpy(axis_weights(grid.rows, grid.window)).to(device)
        self._across = torch.from_numpy(axis_weights(grid.cols, grid.window)).to(device)
        self._sum = torch.zeros((3, grid.window, grid.padded_width), device=device)

    def add(self, row: int, cols: Sequence[int], images: torch.Tensor) -> None:
        """Add windows of the current row of windows.

        Parameters
        ----------
        row, cols
            Indices of the windows in the grid, ascending.
        images
            float32 (N, 3, window, window), one for each of `cols`.
        """
        weights = self._down[row][:, None] * self._across[cols[0] : cols[-1] + 1, None]
        for col, image in zip(cols, images, strict=True):
            start = self._grid.cols[col]
            self._sum[:, :, start : start + self._grid.window].addcmul_(image, weights[col - cols[0]])

    def finish(self, row: int) -> torch.Tensor:
        """Finish a row of windows, and begin the next.

        Returns
        -------
        Tensor
            uint8 (3, rows, width): the rows that it finishes, see `WindowGrid.strip`.
        """
        start, stop = self._grid.strip(row)
        done = stop - start
        finished = decode(self._sum[:, :done, : self._grid.shape[1]].clone())
        kept = self._sum[:, done:].clone()
        self._sum[:, : kept.shape[1]] = kept
        self._sum[:, kept.shape[1] :] = 0
        return finished
