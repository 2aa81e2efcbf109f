"""Cut windows out of rows and blend them again, on a device, as `sar2optical.tiling.blend` does window by window.

A row of windows is cut, and put together, by one indexed copy: a GPU waits for the program that starts its kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical.pipeline.device.encode import decode
from sar2optical.tiling.blend import axis_weights
from sar2optical.tiling.windows import WindowGrid

__all__ = ["Blender", "Layout"]


@dataclass(frozen=True)
class Layout:
    """Where the windows of a row lie, side by side and in the scene; the same for each row of windows."""

    columns: torch.Tensor
    """int64 (N, window): column of the scene of each column of the windows side by side."""
    sources: tuple[torch.Tensor, ...]
    """int64 (width,), several: a column of the windows side by side, for each column of the scene that they cover."""
    weights: tuple[torch.Tensor, ...]
    """float32 (width,): weights along the row of those; 0 where fewer windows cover a column."""

    @classmethod
    def of(cls, grid: WindowGrid, device: torch.device) -> Layout:
        """Lay out all columns of windows."""
        side, width = grid.window, grid.padded_width
        across = axis_weights(grid.cols, side)
        count = np.zeros(width, np.intp)  # windows so far that cover each column
        sources: list[NDArray[np.int64]] = []
        weights: list[NDArray[np.float32]] = []
        for k, start in enumerate(grid.cols):
            span = np.arange(start, start + side)
            for nth in np.unique(count[span]):
                if nth == len(sources):
                    sources.append(np.zeros(width, np.int64))
                    weights.append(np.zeros(width, np.float32))
                here = count[span] == nth
                sources[nth][span[here]] = k * side + np.flatnonzero(here)
                weights[nth][span[here]] = across[k, here]
            count[span] += 1
        columns = np.add.outer(np.array(grid.cols), np.arange(side))
        return cls(
            torch.from_numpy(columns).to(device),
            tuple(torch.from_numpy(one).to(device) for one in sources),
            tuple(torch.from_numpy(one).to(device) for one in weights),
        )


class Blender:
    """Weighted sums of windows; weights sum to 1 where all windows with a valid pixel are added.

    Windows are added from left to right and from top to bottom: sums do not depend on the batch.

    Parameters
    ----------
    grid
        Window grid.
    device
        Where sums are kept.
    """

    def __init__(self, grid: WindowGrid, device: torch.device) -> None:
        self._grid = grid
        self.layout = Layout.of(grid, device)
        """Layout of each row of windows."""
        self._down = torch.from_numpy(axis_weights(grid.rows, grid.window)).to(device)
        self._sum = torch.zeros((3, grid.window, grid.padded_width), device=device)

    def add(self, row: int, images: torch.Tensor) -> None:
        """Add the windows of a row of windows.

        Parameters
        ----------
        row
            Index of the row of windows, ascending.
        images
            float32 (3, window, N * window): the windows side by side; 0 where one was not run.
        """
        for source, weights in zip(self.layout.sources, self.layout.weights, strict=True):
            self._sum.addcmul_(images.index_select(2, source), self._down[row][:, None] * weights)

    def finish(self, row: int) -> torch.Tensor:
        """Finish a row of windows, and begin the next.

        Returns
        -------
        Tensor
            uint8 (3, rows, width): the rows that it finishes, see `WindowGrid.strip`.
        """
        start, stop = self._grid.strip(row)
        done = stop - start
        finished = decode(self._sum[:, :done, : self._grid.shape[1]])
        kept = self._sum[:, done:].clone()
        self._sum[:, : kept.shape[1]] = kept
        self._sum[:, kept.shape[1] :] = 0
        return finished
