"""Write and read one strip: rows of a mosaic on disk, written atomically, checked when they are read.

A strip is one row of blocks of the COG, compressed as there: a TIFF whose blocks the COG takes as they are. Behind
the directories of pixels and mask, block by block::

    length of the pixels (4 bytes), pixels, their last 4 bytes again, length of the mask, mask, its last 4 bytes again

as GDAL's COG driver writes them (https://gdal.org/drivers/raster/cog.html, "tile data leader and trailer").
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from sar2optical._utils.files import write_whole
from sar2optical.errors import OutputUnwritable
from sar2optical.mosaic.coding import BlockCoding, Blocks, chunks_of, compressed, is_lossy
from sar2optical.mosaic.rasters import no_georeference_warning
from sar2optical.mosaic.tiff import (
    BYTE_COUNTS,
    HEIGHT,
    OFFSETS,
    SUBFILE,
    WIDTH,
    Directory,
    NotTiff,
    ascii_entry,
    header,
    long_entry,
    numbers,
    read_directories,
)

__all__ = [
    "RUN_TAG", "Strip", "StripDamaged", "block_offsets", "block_sizes", "encoded_strip",
    "write_blocks", "write_strip",
]  # fmt: skip

RUN_TAG = "SAR2OPTICAL_RUN"
"""Tag of a mosaic: fingerprint of the run that made it."""

_MARK = 270  # ImageDescription
_IS_MASK = 4
_LENGTH = 4  # bytes before a block, and behind it
_NO_DIGEST = "0" * 64
_HEAD = 2**16  # bytes that hold the directories of most strips


class StripDamaged(OutputUnwritable):
    """A strip is missing, damaged, or of another run: the run cannot go on from it."""


@dataclass(frozen=True)
class Strip:
    """A strip that was read: its bytes are those that were written, of the run that was asked for."""

    image: Directory
    """Directory of the pixels."""
    mask: Directory
    """Directory of the mask."""
    body: memoryview
    """Blocks of pixels and mask, with lengths and repeated bytes."""
    _file: bytes
    _path: Path

    @classmethod
    def read(cls, path: Path, run: str) -> Self:
        """Read a strip, and check it.

        Parameters
        ----------
        path
            Path of the strip.
        run
            Fingerprint of the run.

        Raises
        ------
        StripDamaged
            It is missing, damaged, renamed, or of another run.
        """
        with _damage(path):
            file = path.read_bytes()
            image, mask = read_directories(file)
            digest = _digest_in(image, path, run)
            body = memoryview(file)[int(numbers(image[OFFSETS])[0]) - _LENGTH :]
        if digest != _digest(file, digest):
            raise StripDamaged(f"{path}: is damaged: run the same command again")
        return cls(image, mask, body, file, path)

    @staticmethod
    def read_head(path: Path, run: str) -> tuple[Directory, Directory]:
        """Read the directories of pixels and mask only; blocks are not checked.

        Raises
        ------
        StripDamaged
            The strip is missing, or of another run.
        """
        with _damage(path), path.open("rb") as file:
            head = file.read(_HEAD)
            try:
                image, mask = read_directories(head)
            except NotTiff:  # of a very wide mosaic
                image, mask = read_directories(head + file.read())
            _digest_in(image, path, run)
            block_sizes(image, mask)  # raises if they are missing
        return image, mask

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(numbers(self.image[HEIGHT])[0]), int(numbers(self.image[WIDTH])[0])

    @property
    def lossy(self) -> bool:
        """Whether its pixels differ from those that were encoded."""
        return is_lossy(self.image)

    def pixels(self, start: int = 0) -> npt.NDArray[Any]:
        """Decode: `(bands + 1, rows, columns)`, the bands, and 255 where valid.

        Parameters
        ----------
        start
            First column; all others before it are left out.

        Raises
        ------
        StripDamaged
            GDAL cannot decode it.
        """
        rows, width = self.shape
        window = Window.from_slices((0, rows), (start, width))
        try:
            with no_georeference_warning(), MemoryFile(self._file) as memory, memory.open(driver="GTiff") as dataset:
                rgba = np.empty((dataset.count + 1, rows, width - start), dataset.dtypes[0])
                dataset.read(window=window, out=rgba[:-1])
                rgba[-1] = dataset.read_masks(1, window=window)
        except (RasterioError, ValueError) as error:
            raise StripDamaged(f"{self._path}: cannot be decoded ({error}): run the same command again") from error
        return rgba


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except StripDamaged:
        raise
    except (OSError, ValueError, KeyError, IndexError, MemoryError) as error:
        raise StripDamaged(f"{path}: cannot be read: run the same command again") from error


def _digest_in(image: Directory, path: Path, run: str) -> str:
    """Return the hash in a strip's tag, which also holds the run and the file's name: a renamed strip is not used."""
    found_run, name, digest = image[_MARK].data.rstrip(b"\0").decode().split(" ")
    if (found_run, name) != (run, path.name):
        raise StripDamaged(
            f"{path}: was overwritten by another run: wait until that run ends, then run the same command again"
        )
    return digest


def write_strip(path: Path, rgba: npt.NDArray[Any], run: str = "", coding: BlockCoding | None = None) -> None:
    """Compress rows, write them to disk, and flush them.

    Parameters
    ----------
    path
        Path of the strip; replaced atomically.
    rgba
        `(bands + 1, rows, width)`, at most one block high: the bands, and 255 where valid.
    run
        Fingerprint of the run, which `Strip.read` checks.
    coding
        Size and compression of the blocks.

    Raises
    ------
    OSError
        The disk is full or not writable.
    """
    coding = coding or BlockCoding()
    write_blocks(path, [compressed(rgba[:, :, part], coding) for part in chunks_of(rgba.shape[2], coding)], run)


def write_blocks(path: Path, parts: Sequence[Blocks], run: str) -> None:
    """Write a strip of compressed blocks; see `write_strip`."""
    # A worker that Dask considers lost may still be writing the same strip.
    write_whole(path, encoded_strip(parts, run, path.name), mark=f".{os.getpid()}")


def encoded_strip(parts: Sequence[Blocks], run: str = "", name: str = "") -> list[bytes]:
    """Make a strip of compressed blocks, which are adjacent, from left to right: the file in pieces, not joined."""
    blocks = [block for part in parts for block in part.blocks]
    body = list(_framed(blocks))
    width = sum(int(numbers(part.image[WIDTH])[0]) for part in parts)
    sizes = np.array([[len(pixels), len(mask)] for pixels, mask in blocks], np.int64)

    def directories(start: int, digest: str) -> list[Directory]:
        mark = ascii_entry(f"{run} {name} {digest}")
        offsets = block_offsets(sizes, start)
        changed = {WIDTH: long_entry([width])}
        return [
            {
                **directory,
                **changed,
                **extra,
                OFFSETS: long_entry(offsets[:, k]),
                BYTE_COUNTS: long_entry(sizes[:, k]),
            }
            for k, (directory, extra) in enumerate(
                [(parts[0].image, {_MARK: mark}), (parts[0].mask, {SUBFILE: long_entry([_IS_MASK])})]
            )
        ]

    start = len(header(directories(0, _NO_DIGEST)))
    digest = hashlib.sha256(header(directories(start, _NO_DIGEST)))
    for piece in body:
        digest.update(piece)
    return [header(directories(start, digest.hexdigest())), *body]


def block_sizes(image: Directory, mask: Directory) -> npt.NDArray[np.int64]:
    """Return the bytes of pixels and mask of each block: int64 `(blocks, 2)`."""
    return np.stack([numbers(one[BYTE_COUNTS]) for one in (image, mask)], axis=1).astype(np.int64)


def block_offsets(sizes: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.int64]:
    """Compute where blocks begin, in bytes.

    Parameters
    ----------
    sizes
        int64 `(blocks, 2)`: bytes of the pixels and of the mask of each block.
    start
        Where the first block's length begins.

    Returns
    -------
    ndarray
        int64 `(blocks, 2)`.
    """
    framed = sizes.ravel() + 2 * _LENGTH
    return (start + _LENGTH + np.cumsum(framed) - framed).reshape(sizes.shape)


def _framed(blocks: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for block in blocks:
        for data in block:
            yield len(data).to_bytes(_LENGTH, "little")
            yield data
            yield data[-_LENGTH:]


def _digest(file: bytes, digest: str) -> str:
    """Compute the hash of a strip, directories included, with zeros in the place of the hash that it holds."""
    at = file.find(digest.encode())
    found = hashlib.sha256(file[:at])
    found.update(_NO_DIGEST.encode())
    found.update(memoryview(file)[at + len(digest) :])
    return found.hexdigest()
