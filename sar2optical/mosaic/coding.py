"""Compress rows into the blocks of a cloud-optimized GeoTIFF (COG), and the mask beside them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from isal import isal_zlib
from rasterio.io import MemoryFile

from sar2optical.errors import OptionError
from sar2optical.mosaic.tiff import (
    BYTE_COUNTS,
    COMPRESSION,
    HEIGHT,
    OFFSETS,
    TILE_WIDTH,
    WIDTH,
    Directory,
    long_entry,
    numbers,
    read_directories,
)

__all__ = [
    "BLOCKSIZE",
    "COMPRESSIONS",
    "BlockCoding",
    "Blocks",
    "chunks_of",
    "compressed",
    "encode",
    "is_lossy",
    "metadata_of",
]

BLOCKSIZE = 512
"""Default side of a COG's blocks in pixels, as in GDAL."""

_BLOCK_STEP = 16  # TIFF 6.0, section 15
_MOST_BLOCKSIZE = 4096
_AT_ONCE = 8
"""Blocks that are compressed together: a strip keeps several threads at work, and each call of GDAL is worth it."""

WEBP_LEVEL = 90
"""Quality of WebP, from 1 to 100."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # By ISA-L, see `_deflated`: 13 ns a pixel, where GDAL's level 1 takes 26 to 33 ns and saves 3 %.
    "deflate": {"photometric": "rgb", "compress": "deflate", "predictor": 2},
    # Level 1: 9 to 12 ns a pixel, and 1 % smaller than deflate; GDAL's default of 9 saves another 1 %.
    "zstd": {"photometric": "rgb", "compress": "zstd", "predictor": 2, "zstd_level": 1},
    "lzw": {"photometric": "rgb", "compress": "lzw", "predictor": 2},
    "jpeg": {"compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr"},
    "webp": {"photometric": "rgb", "compress": "webp", "webp_level": WEBP_LEVEL},
    "none": {"photometric": "rgb"},
}
_LOSSY = ("jpeg", "webp")
_OF_PICTURES = (1, 3)  # bands that JPEG and PNG can hold, beside alpha
_ISAL_LEVEL = 1  # levels 2 and 3: 1 and 2 % smaller, a tenth slower

COMPRESSIONS = tuple(_OPTIONS)
"""Compressions of a COG, the default first."""

_NUMBERS = {"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "zstd": 50000, "webp": 50001}
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
    """One of `COMPRESSIONS`; all but jpeg and webp (quality 90) are lossless."""
    blocksize: int = BLOCKSIZE
    """Side of a block in pixels, a multiple of 16."""
    bands: int = 3
    """Number of bands, beside the mask."""
    dtype: str = "uint8"
    """Type of the pixels: uint8, uint16 or float32."""

    def __post_init__(self) -> None:
        if self.compress not in _OPTIONS:
            known = ", ".join(COMPRESSIONS)
            raise OptionError(f"compression {self.compress!r} is not supported: choose one of {known}")
        if self.blocksize % _BLOCK_STEP or not _BLOCK_STEP <= self.blocksize <= _MOST_BLOCKSIZE:
            raise OptionError(
                f"block size is {self.blocksize}: give a multiple of {_BLOCK_STEP} up to {_MOST_BLOCKSIZE}"
            )
        bands = (3,) if self.compress == "webp" else _OF_PICTURES
        if self.lossy and (self.dtype != "uint8" or self.bands not in bands):
            raise OptionError(
                f"compression {self.compress} takes {' or '.join(map(str, bands))} bands of uint8, the mosaic has "
                f"{self.bands} of {self.dtype}: give --compress deflate"
            )

    @property
    def is_rgb(self) -> bool:
        """Whether pixels are red, green and blue bytes."""
        return self.bands == 3 and self.dtype == "uint8"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in all bands and in the mask, which is held as one more band."""
        return (self.bands + 1) * np.dtype(self.dtype).itemsize

    @property
    def lossy(self) -> bool:
        """Whether decoded pixels differ from those that were encoded."""
        return self.compress in _LOSSY

    def matches(self, image: Directory) -> bool:
        """Return whether the blocks of an image have this size and compression; the run's manifest fixes the type."""
        found = (int(numbers(image[COMPRESSION])[0]), int(numbers(image[TILE_WIDTH])[0]))
        return found == (_NUMBERS[self.compress], self.blocksize)


def metadata_of(image: Directory) -> str:
    """Return what GDAL notes about the compression of an image, as a line of its metadata; empty for most."""
    if int(numbers(image[COMPRESSION])[0]) != _NUMBERS["webp"]:
        return ""
    return f'  <Item name="WEBP_LEVEL" domain="IMAGE_STRUCTURE">{WEBP_LEVEL}</Item>\n'


def is_lossy(image: Directory) -> bool:
    """Return whether the decoded pixels of an image differ from those that were encoded."""
    return int(numbers(image[COMPRESSION])[0]) in [_NUMBERS[name] for name in _LOSSY]


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


def compressed(rgba: npt.NDArray[Any], coding: BlockCoding) -> Blocks:
    """Compress part of one row of blocks; several threads may do so at the same time.

    Parameters
    ----------
    rgba
        `(bands + 1, rows, columns)` of the coding's type, at most one block high: the bands, and 255 where valid.
    coding
        Size, compression and type of the blocks.
    """
    if coding.compress == "deflate" and coding.is_rgb:
        return _deflated(rgba, coding)
    return _by_gdal(rgba, coding)


def _by_gdal(rgba: npt.NDArray[Any], coding: BlockCoding) -> Blocks:
    options = {
        "tiled": True, "blockxsize": coding.blocksize, "blockysize": coding.blocksize, "interleave": "pixel",
        "endianness": "little",
    }  # fmt: skip
    size = {WIDTH: long_entry([rgba.shape[2]]), HEIGHT: long_entry([rgba.shape[1]])}
    if coding.compress == "webp":
        rgba = _continued(rgba, coding.blocksize)
    # The transform has no meaning: without one, rasterio warns.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        file = encode(
            rgba[:-1], mask=rgba[-1].astype(np.uint8, copy=False), driver="GTiff",
            transform=Affine.translation(1, 1), **options, **_creation_options(coding),
        )  # fmt: skip
    image, mask = read_directories(file)
    return Blocks(image | size, mask | size, tuple(zip(_blocks(file, image), _blocks(file, mask), strict=True)))


def _continued(rgba: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Fill blocks beyond the raster with its last pixels: GDAL 3.10 leaves 0 there, which shows in lossy edges."""
    missing = [(0, 0), (0, -rgba.shape[1] % side), (0, -rgba.shape[2] % side)]
    found = np.pad(rgba, missing, mode="edge")
    found[-1, rgba.shape[1] :], found[-1, :, rgba.shape[2] :] = 0, 0
    return found


def _creation_options(coding: BlockCoding) -> dict[str, Any]:
    options = _OPTIONS[coding.compress]
    if coding.is_rgb:
        return options
    # Differences of floating point numbers are those of their bytes (TIFF Technical Note 3).
    predictor = {"predictor": 3} if coding.dtype == "float32" and "predictor" in options else {}
    fast = {"zlevel": 1} if coding.compress == "deflate" else {}
    return {**options, "photometric": "minisblack", "alpha": "no", **predictor, **fast}


def _blocks(file: bytes, directory: Directory) -> Iterator[bytes]:
    for start, size in zip(numbers(directory[OFFSETS]), numbers(directory[BYTE_COUNTS]), strict=True):
        yield file[int(start) : int(start + size)]


def _deflated(rgba: npt.NDArray[np.uint8], coding: BlockCoding) -> Blocks:
    """Compress as `_by_gdal` does, in half of the time: differences by numpy, DEFLATE by ISA-L."""
    _, height, width = rgba.shape
    side = coding.blocksize
    image, mask = _template(coding)
    size = {WIDTH: long_entry([width]), HEIGHT: long_entry([height])}
    differences = _differences(rgba[:3], side)
    all_valid = height == side and bool(rgba[3].all())
    blocks = tuple(
        (
            isal_zlib.compress(block.data, _ISAL_LEVEL),
            _all_valid(side) if all_valid and width >= (k + 1) * side else _mask_of(rgba[3, :, k * side :], side),
        )
        for k, block in enumerate(differences)
    )
    return Blocks({**image, **size}, {**mask, **size}, blocks)


@lru_cache
def _template(coding: BlockCoding) -> tuple[Directory, Directory]:
    """Return the directories of pixels and mask as GDAL writes them."""
    blocks = _by_gdal(np.zeros((4, 1, 1), np.uint8), coding)
    return blocks.image, blocks.mask


def _differences(rgb: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return the differences of neighbouring pixels, block by block (TIFF 6.0, section 14), modulo 256.

    Parameters
    ----------
    rgb
        uint8 `(3, rows, columns)`, at most one block high.
    side
        Side of a block; beyond the raster, all is 0 (section 15).

    Returns
    -------
    ndarray
        uint8 `(blocks, side, side, 3)`.
    """
    _, height, width = rgb.shape
    whole, rest = divmod(width, side)
    blocks = np.empty((whole + bool(rest), side, side, 3), np.uint8)
    if height < side:
        blocks[:, height:] = 0
    for k in range(3):
        pixels = rgb[k, :, : whole * side].reshape(height, whole, side).transpose(1, 0, 2)
        blocks[:whole, :height, 0, k] = pixels[..., 0]
        np.subtract(pixels[..., 1:], pixels[..., :-1], out=blocks[:whole, :height, 1:, k])
        if rest:
            last = rgb[k, :, whole * side :]
            blocks[whole, :height, 0, k] = last[:, 0]
            np.subtract(last[:, 1:], last[:, :-1], out=blocks[whole, :height, 1:rest, k])
            blocks[whole, :height, rest:, k] = 0
    return blocks


def _mask_of(mask: npt.NDArray[np.uint8], side: int) -> bytes:
    """Compress the mask of the first block of some columns; beyond the raster, all is invalid."""
    block = mask[:, :side]
    if block.shape == (side, side):
        return _all_valid(side) if block.all() else _packed(block)
    padded = np.zeros((side, side), np.uint8)
    padded[: block.shape[0], : block.shape[1]] = block
    return _packed(padded)


def _packed(mask: npt.NDArray[np.uint8]) -> bytes:
    """Compress a mask of 1 bit a pixel; with zlib: ISA-L 2.32.1 gave one mask of 512 bytes two forms."""
    return zlib.compress(np.packbits(mask, axis=1).data, 1)


@lru_cache
def _all_valid(side: int) -> bytes:
    """Return the compressed mask of a block without invalid pixels."""
    return _packed(np.ones((side, side), np.uint8))


def encode(
    bands: npt.NDArray[Any],
    *,
    driver: str,
    mask: npt.NDArray[np.uint8] | None = None,
    **options: Any,
) -> bytes:
    """Encode `(bands, rows, width)` in memory with one of GDAL's drivers and its creation options."""
    count, height, width = bands.shape
    profile = {"driver": driver, "count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    with MemoryFile() as memory:
        with memory.open(**profile, **options) as dataset:
            dataset.write(bands)
            if mask is not None:
                dataset.write_mask(mask)
        encoded: bytes = memory.read()
    return encoded
