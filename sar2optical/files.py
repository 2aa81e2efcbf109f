"""Files that are whole whenever they have their name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, rename: `path` is the old file or the new one, never a part.

    Raises
    ------
    OSError
        Where the disk is full or takes no file; nothing is left beside `path` then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
