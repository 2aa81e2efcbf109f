"""Compress rows into the blocks of a cloud-optimized GeoTIFF (COG), with GDAL; and the mask beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.io import MemoryFile

from sar2optical.errors import OptionError
from sar2optical.mosaic.tiff import (
    BYTE_COUNTS,
    COMPRESSION,
    OFFSETS,
    TILE_WIDTH,
    Directory,
    numbers,
    read_directories,
)

__all__ = ["BLOCKSIZE", "COMPRESSIONS", "BlockCoding", "Blocks", "chunks_of", "compressed", "encode", "is_lossy"]

BLOCKSIZE = 512
"""Default side of a COG's blocks in pixels, as in GDAL."""

_BLOCK_STEP = 16  # TIFF 6.0, section 15
_MOST_BLOCKSIZE = 4096
_AT_ONCE = 8
"""Blocks that are compressed together: a strip keeps several threads at work, and each call of GDAL is worth it."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # Level 1: 26 to 32 ns a pixel; GDAL's default of 6 takes 47 ns and saves 1 % (25,000 x 16,700 pixels).
    "deflate": {"photometric": "rgb", "compress": "deflate", "predictor": 2, "zlevel": 1},
    # Level 1: 9 to 12 ns a pixel, and 1 % smaller than deflate; GDAL's default of 9 saves another 1 %.
    "zstd": {"photometric": "rgb", "compress": "zstd", "predictor": 2, "zstd_level": 1},
    "lzw": {"photometric": "rgb", "compress": "lzw", "predictor": 2},
    "jpeg": {"compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr"},
    "none": {"photometric": "rgb"},
}
_LOSSY = "jpeg"

COMPRESSIONS = tuple(_OPTIONS)
"""Compressions of a COG, the default first."""

_NUMBERS = {"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "zstd": 50000}
"""Values of the tag Compression."""


@dataclass(frozen=True, kw_only=True)
class BlockCoding:
    """Size and compression of a COG's blocks.

    Raises
    ------
    OptionError
        The compression or the size is not supported.
    """

    compress: str = COMPRESSIONS[0]
    """One of `COMPRESSIONS`; all but jpeg (quality 90) are lossless."""
    blocksize: int = BLOCKSIZE
    """Side of a block in pixels, a multiple of 16."""

    def __post_init__(self) -> None:
        if self.compress not in _OPTIONS:
            known = ", ".join(COMPRESSIONS)
            raise OptionError(f"compression {self.compress!r} is not supported: choose one of {known}")
        if self.blocksize % _BLOCK_STEP or not _BLOCK_STEP <= self.blocksize <= _MOST_BLOCKSIZE:
            raise OptionError(
                f"block size is {self.blocksize}: give a multiple of {_BLOCK_STEP} up to {_MOST_BLOCKSIZE}"
            )

    @property
    def lossy(self) -> bool:
        """Whether decoded pixels differ from those that were encoded."""
        return self.compress == _LOSSY

    def matches(self, image: Directory) -> bool:
        """Return whether the blocks of an image have this size and compression."""
        found = (int(numbers(image[COMPRESSION])[0]), int(numbers(image[TILE_WIDTH])[0]))
        return found == (_NUMBERS[self.compress], self.blocksize)


def is_lossy(image: Directory) -> bool:
    """Return whether the decoded pixels of an image differ from those that were encoded."""
    return int(numbers(image[COMPRESSION])[0]) == _NUMBERS[_LOSSY]


@dataclass(frozen=True)
class Blocks:
    """Adjacent blocks of one row of blocks."""

    image: Directory
    """Directory of the pixels; its size, offsets and byte counts are those of these blocks only."""
    mask: Directory
    """Directory of the mask."""
    blocks: tuple[tuple[bytes, bytes], ...]
    """Compressed pixels and mask of each block, from left to right."""


def chunks_of(width: int, coding: BlockCoding) -> Iterator[slice]:
    """Cut a row of blocks into the columns that `compressed` takes at once."""
    step = _AT_ONCE * coding.blocksize
    return (slice(start, min(start + step, width)) for start in range(0, width, step))


def compressed(rgba: npt.NDArray[np.uint8], coding: BlockCoding) -> Blocks:
    """Compress part of one row of blocks; several threads may do so at the same time.

    Parameters
    ----------
    rgba
        uint8 `(4, rows, columns)`, at most one block high: red, green, blue, and 255 where valid.
    coding
        Size and compression of the blocks.
    """
    options = {
        "tiled": True, "blockxsize": coding.blocksize, "blockysize": coding.blocksize, "interleave": "pixel",
        "endianness": "little",
    }  # fmt: skip
    # The transform has no meaning: without one, rasterio warns.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        file = encode(
            rgba[:3], mask=rgba[3], driver="GTiff", transform=Affine.translation(1, 1), **options,
            **_OPTIONS[coding.compress],
        )  # fmt: skip
    image, mask = read_directories(file)
    return Blocks(image, mask, tuple(zip(_blocks(file, image), _blocks(file, mask), strict=True)))


def _blocks(file: bytes, directory: Directory) -> Iterator[bytes]:
    for start, size in zip(numbers(directory[OFFSETS]), numbers(directory[BYTE_COUNTS]), strict=True):
        yield file[int(start) : int(start + size)]


def encode(
    bands: npt.NDArray[np.uint8],
    *,
    driver: str,
    mask: npt.NDArray[np.uint8] | None = None,
    **options: Any,
) -> bytes:
    """Encode uint8 `(bands, rows, width)` in memory with one of GDAL's drivers and its creation options."""
    count, height, width = bands.shape
    profile = {"driver": driver, "count": count, "height": height, "width": width, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(**profile, **options) as dataset:
            dataset.write(bands)
            if mask is not None:
                dataset.write_mask(mask)
        encoded: bytes = memory.read()
    return encoded
