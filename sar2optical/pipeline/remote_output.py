"""Outputs on a server: made in the cache folder, then uploaded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sar2optical._utils.addresses import redacted
from sar2optical._utils.files import cache_folder
from sar2optical.errors import OptionError, OutputExists, OutputUnwritable
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.scene.remote import exists, is_remote, upload

__all__ = ["local_path", "output_on_disk"]

_log = logging.getLogger(__name__)


@contextmanager
def output_on_disk(out: str | Path, options: TranslateOptions) -> Iterator[tuple[Path, TranslateOptions]]:
    """Yield the local path of an output and the options for it; upload the output at the end if it is remote."""
    if not is_remote(out):
        yield Path(out), options
        return
    remote = str(out)
    local = local_path(remote, options)
    _log.info("%s: the mosaic is written to %s first, then uploaded", redacted(remote), local.parent)
    yield local, replace(options, overwrite=True)
    upload(local, remote)
    with suppress(OSError):  # the upload is complete
        local.unlink()
        local.parent.rmdir()


def local_path(remote: str, options: TranslateOptions) -> Path:
    """Return the path that a remote output has before its upload: always the same, so that a run can resume.

    Raises
    ------
    OutputExists
        If the output exists and may not be replaced.
    OptionError, OutputUnwritable
        If there is no cache folder.
    """
    if not options.overwrite and exists(remote):
        raise OutputExists(f"{remote} exists: give --overwrite to replace it, or choose another name")
    cache = cache_folder()
    if cache is None:
        raise OptionError(
            f"{remote}: no cache folder to hold the mosaic until its upload: set SAR2OPT_CACHE to a folder"
        )
    folder = cache / "outgoing" / hashlib.sha256(remote.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(
            f"{folder}: cannot make the folder ({error.strerror}): set SAR2OPT_CACHE to another folder"
        ) from error
    return folder / redacted(remote).rsplit("/", 1)[-1]
