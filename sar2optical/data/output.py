"""Small files that this room writes: never over another unasked, never half."""

from __future__ import annotations

import os
from pathlib import Path

from sar2optical.errors import OutputExists, OutputUnwritable
from sar2optical.files import write_whole


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that is there, or has no folder, before any work is done.

    Raises
    ------
    OutputExists
        Where it is there and `overwrite` is false.
    OutputUnwritable
        Where it is a folder, or would lie in none.
    """
    if path.is_dir():
        raise OutputUnwritable(f"cannot write {path}: it is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise OutputUnwritable(f"cannot write {path}: there is no folder {path.absolute().parent}; create it first")
    if not overwrite and os.path.lexists(path):
        raise OutputExists(f"{path} exists; pass --overwrite to replace it, or choose another name")


def write_output(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises
    ------
    OutputUnwritable
        Where the folder takes no files, or is full.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise OutputUnwritable(f"cannot write {path}: {error.strerror}; choose another folder") from error
