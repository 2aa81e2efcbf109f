"""Check an output before it is written, report why it cannot be written, and publish it when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rasterio.errors import RasterioError

from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.errors import OptionError, OutputError, OutputExists, OutputUnwritable
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.run_folder import RunFolder, run_folder_of
from sar2optical.mosaic.tags import run_of

__all__ = ["check_output", "cleanup", "driver_of", "output_errors", "publish"]

_DRIVERS = {".tif": "COG", ".tiff": "COG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)

_SIDECARS = (".aux.xml", ".ovr", ".msk")


def driver_of(out: Path) -> str:
    """Return GDAL's driver for an output: COG, PNG or JPEG, by its suffix.

    Raises
    ------
    OptionError
        The suffix is not supported.
    """
    try:
        return _DRIVERS[out.suffix.lower()]
    except KeyError:
        known = ", ".join(_DRIVERS)
        raise OptionError(f"cannot write {out}: suffix {out.suffix!r} is not supported: use one of {known}") from None


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Parameters
    ----------
    out
        Path of the mosaic or picture.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    OptionError
        The suffix is not supported.
    OutputExists
        `out` exists and `overwrite` is false.
    OutputUnwritable
        The folder is missing or not writable, or the path of `out` or of its run folder is taken by something else.
    """
    driver_of(out)
    with output_errors(out):
        folder = out.resolve().parent
        if out.is_dir():
            raise OutputUnwritable(f"cannot write {out}: it is a folder: name a file")
        if not folder.is_dir():
            raise OutputUnwritable(f"cannot write {out}: there is no folder {folder}: create it first")
        if not overwrite and os.path.lexists(out):
            raise OutputExists(f"{out} exists: give --overwrite to replace it, or choose another name")
        # os.access always succeeds for root, whatever the file system allows: create an unnamed file instead.
        with tempfile.TemporaryFile(dir=folder):
            pass
        RunFolder(out).check()


@contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """Raise errors of the system and of GDAL as `OutputUnwritable`: reason, free space and remedy in one line.

    Parameters
    ----------
    out
        Path that the message names.
    """
    try:
        yield
    except OutputError:
        raise
    except (OSError, UnicodeError, RasterioError, CPLE_BaseError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        # Only of OSError: GDAL's errors have other numbers.
        if isinstance(error, OSError) and error.errno in _NO_PERMISSION:
            raise OutputUnwritable(f"cannot write {out}: {reason}: choose a folder that you may write to") from error
        space = ""
        with suppress(OSError):
            space = f" ({shutil.disk_usage(out.resolve().parent).free / 1e9:.1f} GB free there)"
        raise OutputUnwritable(
            f"cannot write {out}: {reason}{space}: free some space, or choose another folder"
        ) from error


def publish(made: Path, out: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a complete file to its final path.

    Parameters
    ----------
    made
        Path of the complete file, on the same file system.
    out
        Path that the user gave, for the message.
    target
        Final path: `out` with links resolved, so that a link stays a link.
    overwrite
        Whether an existing file may be replaced. Its GDAL sidecars are removed with it.

    Raises
    ------
    OutputExists
        `target` exists and `overwrite` is false.
    """
    replaces = target.exists()
    if replaces and not overwrite:
        raise OutputExists(f"{out} was created by another program during the run: give --overwrite to replace it")
    made.replace(target)
    if replaces:
        # GDAL would apply the overviews, mask and statistics of the replaced file to the new one.
        for suffix in _SIDECARS:
            target.with_name(target.name + suffix).unlink(missing_ok=True)


def cleanup(out: Path) -> None:
    """Remove the run folder of a finished mosaic, which a kill after the last step leaves behind."""
    manifest = Manifest.read(run_folder_of(out))
    if manifest is None or run_of(out) != manifest.fingerprint:
        return
    with suppress(OSError), RunFolder(out, manifest) as folder:
        folder.done = True
