"""Detect damaged PNG files: GDAL reads the start of a truncated file without an error."""

from __future__ import annotations

import zlib
from pathlib import Path

__all__ = ["png_damage"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME = 12  # bytes around a chunk's data: length, type and checksum, four each


def png_damage(path: Path) -> str | None:
    """Describe the damage of a PNG file, without decoding it.

    A PNG file is a sequence of chunks, each with a CRC-32 of type and data; the last is `IEND` (ISO/IEC 15948, 5.3).

    Parameters
    ----------
    path
        Path of the file; a file without a PNG signature is not examined.

    Returns
    -------
    str or None
        None if the file is intact, or not a PNG file.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    data = memoryview(path.read_bytes())
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        return None
    start = len(_SIGNATURE)
    while len(data) >= start + _FRAME:
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + _FRAME + length
        if end > len(data):
            break
        kind = bytes(data[start + 4 : start + 8])
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"its chunk at byte {start} does not match its checksum"
        if kind == b"IEND":
            return None
        start = end
    return f"truncated: it ends at byte {len(data)}, before the end of the image"
