"""Files that are whole whenever they have their name, and never over another unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from sar2optical._utils.addresses import redacted
from sar2optical.errors import OutputExists, OutputUnwritable

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two runs on one output are the user's to avoid
    fcntl = None  # type: ignore[assignment]


def try_lock(file: BufferedWriter, *, shared: bool = False) -> bool:
    """Lock a file for as long as it is open, or its process lives; False where another process has it.

    `shared`: others may have it too, but none alone.
    """
    if fcntl:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; its `.lock` stays when it is let go.

    Raises
    ------
    OutputUnwritable
        Where another process holds it, or it takes no files.
    """
    try:
        lock = (folder / ".lock").open("ab")
    except OSError as error:
        raise OutputUnwritable(f"{folder}: takes no files ({error.strerror}): choose another folder") from error
    with lock:
        if not try_lock(lock):
            raise OutputUnwritable(f"{folder}: another run is writing there: wait for it, or choose another folder")
        yield


def write_whole(path: Path, data: bytes, *, mark: str = "") -> None:
    """Write beside `path`, flush to disk, rename: `path` is the old file or the new one, never a part.

    `mark`: of the writer, where several processes may write it at once.

    Raises
    ------
    OSError
        Where the disk is full or takes no file; nothing is left beside `path` then.
    """
    temporary = path.with_name(f".{path.name}{mark}.tmp")
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


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a user asked for: `write_whole`, with an error that says what to do.

    Raises
    ------
    OutputUnwritable
        Where the folder takes no files, or the disk is full; what was there stays.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: cannot be written ({error.strerror}): free space, or choose another folder"
        ) from error


def cause(error: BaseException) -> str:
    """Give an error's own words on one line, 160 characters at most; GDAL's, which rasterio keeps as the cause."""
    text = " ".join(str(error.__cause__ or error).split())
    return redacted(text)[:160] or type(error).__name__  # before it is cut: half an address may still tell a password


def cache_folder() -> Path | None:
    """Give the folder for what may be made again: `SAR2OPT_CACHE`, or ours in the user's; None without a home."""
    given = os.environ.get("SAR2OPT_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sar2optical"
    except RuntimeError:  # no HOME, and a user whom the system does not know: containers have such
        return None


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that is there, or has no folder that takes files, before any work is done.

    Raises
    ------
    OutputExists
        Where it is there and `overwrite` is false.
    OutputUnwritable
        Where it is a folder, or would lie in none, or in one that takes no files.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputUnwritable(f"{path}: is a folder: give a file's name")
    if not folder.is_dir():
        raise OutputUnwritable(f"{path}: no folder {folder}: make it first")
    if not os.access(folder, os.W_OK):
        raise OutputUnwritable(f"{path}: folder {folder} cannot be written: choose another")
    if not overwrite and os.path.lexists(path):
        raise OutputExists(f"{path}: exists: choose another name, or give --overwrite")
