"""Levels of a mosaic, which grow row by row: the mosaic itself and its overviews, each half the size of the last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sar2optical._utils.masks import all_true

__all__ = ["Level", "half_name", "halve", "levels_of", "mask_out", "strip_name"]


@dataclass(kw_only=True)
class Level:
    """The mosaic or one of its overviews: strips that are complete, and rows that wait for the next one."""

    number: int
    """0 for the mosaic, 1 for the largest overview."""
    height: int
    width: int
    block: int
    """Rows of a strip; the last one may have fewer."""
    bands: int = 3
    """Number of bands, beside the mask."""
    dtype: str = "uint8"
    """Type of the pixels."""
    rows: int = 0
    """Rows so far, from the top."""
    strips: list[tuple[int, int]] = field(default_factory=list)
    """First row and number of rows of each complete strip."""
    _waiting: npt.NDArray[Any] | None = None
    _spare: list[npt.NDArray[Any]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def vrt_name(self) -> str:
        """Name of the VRT that presents the strips as one raster."""
        return f"overview-{self.number}.vrt" if self.number else "mosaic.vrt"

    @property
    def aligned(self) -> bool:
        """Whether no row waits: the next one begins a strip."""
        return self._waiting is None

    def strip_name(self, row: int) -> str:
        """Return the file name of the strip whose first row is `row`."""
        return f"overview-{self.number}-{row:08d}.tif" if self.number else strip_name(row)

    def room(self) -> npt.NDArray[Any]:
        """Return the rows of the next strip that are still empty, to be filled: `(bands + 1, rows, width)`."""
        begun = self.rows - self.rows % self.block
        if self._waiting is None:
            shape = (self.bands + 1, min(self.block, self.height - begun), self.width)
            spare = self._spare.pop() if self._spare else None
            self._waiting = spare if spare is not None and spare.shape == shape else np.empty(shape, self.dtype)
        return self._waiting[:, self.rows - begun :]

    def reuse(self, strip: npt.NDArray[Any]) -> None:
        """Take back a strip that nobody needs any more: fresh memory costs as much as filling it. Thread-safe."""
        self._spare.append(strip)

    def filled(self, rows: int) -> npt.NDArray[Any] | None:
        """Record that the first rows of `room` are filled; return the strip that they complete, if they do."""
        assert self._waiting is not None
        self.rows += rows
        if self.rows % self.block and self.rows < self.height:
            return None
        strip, self._waiting = self._waiting, None
        self.strips.append((self.rows - strip.shape[1], strip.shape[1]))
        return strip


def strip_name(row: int) -> str:
    """Return the file name of the strip of the mosaic whose first row is `row`."""
    return f"strip-{row:08d}.tif"


def half_name(row: int) -> str:
    """Return the file name of the same strip at half the size, kept where the strip itself is lossy."""
    return f"half-{row:08d}.tif"


def levels_of(shape: tuple[int, int], block: int, *, bands: int = 3, dtype: str = "uint8") -> list[Level]:
    """Return the levels of a mosaic of `shape`, down to the first overview that fits into a block of side `block`.

    Raises
    ------
    ValueError
        The mosaic has no pixels.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"a mosaic needs at least one pixel, not shape {shape}")
    levels = [Level(number=0, height=height, width=width, block=block, bands=bands, dtype=dtype)]
    while max(height, width) > block:  # validators of COGs require an overview that fits
        height, width = (height + 1) // 2, (width + 1) // 2  # GDAL's sizes
        levels.append(Level(number=len(levels), height=height, width=width, block=block, bands=bands, dtype=dtype))
    return levels


def mask_out(
    rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_], out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Combine bands and validity into `(bands + 1, rows, width)`: the last is 255 where valid; else all are 0."""
    rgba = np.empty((len(rgb) + 1, *valid.shape), rgb.dtype) if out is None else out
    if all_true(valid):
        rgba[:-1], rgba[-1] = rgb, 255
        return rgba
    np.multiply(rgb, valid, out=rgba[:-1])
    np.multiply(valid, 255, out=rgba[-1], casting="unsafe")
    return rgba


_RECIPROCALS = np.array([0, 65536, 32768, 21846, 16384], np.uint32)
"""65536 / n, rounded up: `x * _RECIPROCALS[n] >> 16` is `x // n` for x up to 32767, without a division."""


def halve(rgba: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Average each 2 x 2 pixels over the valid ones, halves of integers rounded up; valid where one of the four is.

    Parameters
    ----------
    rgba
        `(bands + 1, rows, width)` as `mask_out` makes it.

    Returns
    -------
    ndarray
        `(bands + 1, ceil(rows / 2), ceil(width / 2))` of the same type, with the same bands.
    """
    _, rows, width = rgba.shape
    if rows % 2 or width % 2:
        rgba = np.pad(rgba, ((0, 0), (0, rows % 2), (0, width % 2)))  # with invalid pixels
    halved = np.empty((len(rgba), rgba.shape[1] // 2, rgba.shape[2] // 2), rgba.dtype)
    halving = _halve if rgba.dtype == np.uint8 else _halve_wide
    step = max(2, _IN_CACHE // rgba.shape[2] // 2 * 2)
    for row in range(0, rgba.shape[1], step):
        halving(rgba[:, row : row + step], halved[:, row // 2 : (row + step) // 2])
    return halved


_IN_CACHE = 1 << 17
"""Pixels that are halved together: few enough for the cache of a core, and many, because calls make threads wait."""


def _halve(rgba: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    pairs = np.add(rgba[:, 0::2], rgba[:, 1::2], dtype=np.uint16)
    total = pairs[..., 0::2] + pairs[..., 1::2]
    if total[-1].min() == 4 * 255:
        total += 2
        total >>= 2
        np.copyto(out, total, casting="unsafe")
        return
    # Invalid pixels are 0 in all bands: the sum is that of the valid ones, the last band's mean is 255.
    count = total[-1] // 255
    means = (total + count // 2) * _RECIPROCALS[count] >> 16
    np.copyto(out, means, casting="unsafe")


def _halve_wide(rgba: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Halve pixels of uint16 or float32, whose sums need a wider type."""
    wide = np.float64 if rgba.dtype == np.float32 else np.uint32
    pairs = np.add(rgba[:, 0::2], rgba[:, 1::2], dtype=wide)
    total = pairs[..., 0::2] + pairs[..., 1::2]
    count = np.maximum(total[-1] // 255, 1)  # where none is valid, the sum is 0
    means = total / count if wide is np.float64 else (total + count.astype(wide) // 2) // count.astype(wide)
    np.copyto(out, means, casting="unsafe")
