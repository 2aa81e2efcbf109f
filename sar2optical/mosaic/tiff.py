"""Read and write directories (IFDs) of TIFF files; their pixels stay as they are, compressed.

A directory is a mapping of tag numbers to entries. Sources: TIFF 6.0, section 2; the BigTIFF design of Aware Systems;
https://gdal.org/drivers/raster/cog.html for the area before the first directory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BIG_FROM", "BYTE_COUNTS", "COMPRESSION", "HEIGHT", "METADATA", "OFFSETS", "SUBFILE", "TILE_WIDTH", "WIDTH",
    "Directory", "Entry", "NotTiff", "ascii_entry", "header", "long_entry", "numbers", "read_directories",
]  # fmt: skip

SUBFILE, WIDTH, HEIGHT, COMPRESSION = 254, 256, 257, 259
TILE_WIDTH, OFFSETS, BYTE_COUNTS = 322, 324, 325
METADATA = 42112
"""Tag numbers. METADATA is GDAL's own, XML."""

BIG_FROM = 2**32
"""Size in bytes from which a file must be a BigTIFF: offsets no longer fit into 32 bits."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by type."""

_ASCII, _LONG, _LONG8 = 2, 4, 16
_INTEGERS = {3: "<u2", 4: "<u4", 13: "<u4", 16: "<u8"}


class NotTiff(ValueError):
    """Bytes are not a little-endian TIFF, or end too early."""


@dataclass(frozen=True)
class Entry:
    """Values of one tag."""

    kind: int
    """Type of the values, as TIFF numbers them."""
    count: int
    """Number of values."""
    data: bytes
    """Values, little-endian."""


Directory = Mapping[int, Entry]
"""Entries of one image, by tag number."""


def long_entry(values: NDArray[np.integer] | Sequence[int], *, big: bool = False) -> Entry:
    """Make an entry of unsigned 32-bit integers, or of 64-bit ones."""
    data = np.asarray(values, "<u8" if big else "<u4").tobytes()
    return Entry(_LONG8 if big else _LONG, len(values), data)


def ascii_entry(text: str) -> Entry:
    """Make an entry of text, as UTF-8."""
    data = text.encode(errors="replace") + b"\0"
    return Entry(_ASCII, len(data), data)


def numbers(entry: Entry) -> NDArray[np.uint64]:
    """Return the values of an entry of unsigned integers.

    Raises
    ------
    NotTiff
        The entry has another type.
    """
    if entry.kind not in _INTEGERS:
        raise NotTiff(f"a TIFF entry has type {entry.kind}, not an unsigned integer: write the TIFF again")
    return np.frombuffer(entry.data, _INTEGERS[entry.kind]).astype(np.uint64)


def read_directories(file: bytes) -> list[dict[int, Entry]]:
    """Read all directories of a file, in its order.

    Parameters
    ----------
    file
        The file, or as much of its beginning as holds its directories and their values.

    Raises
    ------
    NotTiff
        The file is not a little-endian TIFF, or it ends too early.
    """
    if file[:4] not in (b"II*\0", b"II+\0"):
        raise NotTiff("the file is not a little-endian TIFF: write it as one")
    big = file[2:3] == b"+"
    found = []
    try:
        (at,) = struct.unpack_from("<Q", file, 8) if big else struct.unpack_from("<I", file, 4)
        seen = set()
        while at and at not in seen:
            seen.add(at)
            directory, at = _read_directory(file, at, big=big)
            found.append(directory)
    except (struct.error, KeyError, OverflowError) as error:
        raise NotTiff("the TIFF is truncated or damaged: write it again") from error
    return found


def _read_directory(file: bytes, at: int, *, big: bool) -> tuple[dict[int, Entry], int]:
    count_form, entry_form, inline = ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    (count,) = struct.unpack_from(count_form, file, at)
    at += struct.calcsize(count_form)
    directory = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(entry_form, file, at)
        at += struct.calcsize(entry_form)
        size = _SIZES[kind] * values
        start = at if size <= inline else struct.unpack_from("<Q" if big else "<I", file, at)[0]
        at += inline
        data = file[start : start + size]
        if len(data) != size:
            raise struct.error
        directory[tag] = Entry(kind, values, data)
    return directory, struct.unpack_from("<Q" if big else "<I", file, at)[0]


def header(directories: Sequence[Directory], *, note: bytes = b"", big: bool = False) -> bytes:
    """Make the beginning of a file: its directories with all their values; pixels follow.

    The length depends on the number and the types of the values only, not on the values.

    Parameters
    ----------
    directories
        One for each image.
    note
        Bytes between the first bytes of the file and the first directory.
    big
        Whether the file is a BigTIFF.
    """
    start = 16 if big else 8
    parts = [note + b"\0" * (len(note) % 2)]  # directories begin at even offsets
    at = first = start + len(parts[0])
    for k, directory in enumerate(directories):
        part = _directory(directory, at, last=k + 1 == len(directories), big=big)
        parts.append(part)
        at += len(part)
    begin = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI", b"II", 42, first)
    return begin + b"".join(parts)


def _directory(directory: Directory, at: int, *, last: bool, big: bool) -> bytes:
    """Encode a directory that begins at `at`, with its values and the offset of the next one behind it."""
    count_form, entry_form, offset_form, inline = ("<Q", "<HHQ", "<Q", 8) if big else ("<H", "<HHI", "<I", 4)
    fixed = struct.calcsize(count_form) + (struct.calcsize(entry_form) + inline) * len(directory) + inline
    entries, values = [struct.pack(count_form, len(directory))], b""
    for tag in sorted(directory):
        entry = directory[tag]
        if len(entry.data) <= inline:
            field = entry.data.ljust(inline, b"\0")
        else:
            field = struct.pack(offset_form, at + fixed + len(values))
            values += entry.data + b"\0" * (len(entry.data) % 2)
        entries.append(struct.pack(entry_form, tag, entry.kind, entry.count) + field)
    following = 0 if last else at + fixed + len(values)
    return b"".join([*entries, struct.pack(offset_form, following), values])
