"""Levels of a mosaic, which grow row by row: the mosaic itself and its overviews, each half the size of the last."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "Level", "halve", "levels_of", "mask_out", "strip_name"]

BLOCK = 512
"""Side of a COG's blocks in pixels; the smallest overview fits into one block, as validators of COGs require."""

_GATHER = 128
"""Rows that are gathered before they are halved: strips of single rows would make a file each."""


@dataclass(kw_only=True)
class Level:
    """The mosaic or one of its overviews: strips that are written, and rows that wait to be halved."""

    number: int
    """0 for the mosaic, 1 for the largest overview."""
    height: int
    width: int
    rows: int = 0
    """Rows so far, from the top."""
    strips: list[tuple[int, int]] = field(default_factory=list)
    """First row and number of rows of each strip."""
    waiting: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    """Rows that wait to be halved, uint8 `(4, rows, width)` each."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def vrt_name(self) -> str:
        """Name of the VRT that presents the strips as one raster."""
        return f"overview-{self.number}.vrt" if self.number else "mosaic.vrt"

    def strip_name(self, row: int) -> str:
        """Return the file name of the strip whose first row is `row`."""
        return f"overview-{self.number}-{row:08d}.tif" if self.number else strip_name(row)

    def add_strip(self, rows: int) -> None:
        """Record the next strip, of `rows` rows."""
        self.strips.append((self.rows, rows))
        self.rows += rows

    def gather(self, rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        """Add rows, and return those that can be halved now, an even number or the last ones; None if too few."""
        self.waiting.append(rgba)
        complete = self.rows == self.height
        count = sum(block.shape[1] for block in self.waiting)
        if count < _GATHER and not complete:
            return None
        ready = np.concatenate(self.waiting, axis=1) if len(self.waiting) > 1 else rgba
        even = count if complete else count - count % 2
        # A copy: a view of one row would keep the whole strip in memory.
        self.waiting = [ready[:, even:].copy()] if even < count else []
        return ready[:, :even]


def strip_name(row: int) -> str:
    """Return the file name of the strip of the mosaic whose first row is `row`."""
    return f"strip-{row:08d}.tif"


def levels_of(shape: tuple[int, int]) -> list[Level]:
    """Return the levels of a mosaic of `shape`, down to the first overview that fits into a block.

    Raises
    ------
    ValueError
        The mosaic has no pixels.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"a mosaic needs at least one pixel, not shape {shape}")
    levels = [Level(number=0, height=height, width=width)]
    while max(height, width) > BLOCK:
        height, width = (height + 1) // 2, (width + 1) // 2  # GDAL's sizes
        levels.append(Level(number=len(levels), height=height, width=width))
    return levels


def mask_out(rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Combine colours and validity into uint8 `(4, rows, width)`: band 4 is 255 where valid; elsewhere all are 0."""
    rgba = np.empty((4, *valid.shape), np.uint8)
    np.multiply(rgb, valid, out=rgba[:3])
    np.multiply(valid, 255, out=rgba[3], casting="unsafe")
    return rgba


_RECIPROCALS = np.array([0, 65536, 32768, 21846, 16384], np.uint32)
"""65536 / n, rounded up: `x * _RECIPROCALS[n] >> 16` is `x // n` for x up to 32767, without a division."""


def halve(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average each 2 x 2 pixels over the valid ones, halves rounded up; valid where one of the four is.

    Parameters
    ----------
    rgba
        uint8 `(4, rows, width)` as `mask_out` makes it.

    Returns
    -------
    ndarray
        uint8 `(4, ceil(rows / 2), ceil(width / 2))`, with the same bands.
    """
    _, rows, width = rgba.shape
    if rows % 2 or width % 2:
        rgba = np.pad(rgba, ((0, 0), (0, rows % 2), (0, width % 2)))  # with invalid pixels
    pairs = np.add(rgba[:, 0::2], rgba[:, 1::2], dtype=np.uint16)
    total = pairs[..., 0::2] + pairs[..., 1::2]
    if total[3].min() == 4 * 255:
        return ((total + 2) >> 2).astype(np.uint8)
    # Invalid pixels are 0 in all four bands: the sum is that of the valid ones, the last band's mean is 255.
    count = total[3] // 255
    means: npt.NDArray[np.uint32] = (total + count // 2) * _RECIPROCALS[count] >> 16
    return means.astype(np.uint8)
