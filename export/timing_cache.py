"""Timings of kernels that TensorRT measured, kept for later builds in a file that several builds may share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sar2optical._utils.files import try_lock, write_whole

__all__ = ["store_timings", "use_timings"]

_POLL = 0.1  # seconds between attempts to lock
_LOCK_TIMEOUT = 10.0  # seconds; a build locks the timing cache only while it merges

_log = logging.getLogger(f"sar2optical.{__name__}")


def use_timings(config: Any, file: Path) -> None:
    """Load the timings that earlier builds measured."""
    stored = _read_timings(file)
    timings = config.create_timing_cache(stored)
    if timings is not None and config.set_timing_cache(timings, False):
        return
    _log.warning(
        "%s: has no timings of this GPU and TensorRT version: it is not used, and is replaced after the build", file
    )
    config.set_timing_cache(config.create_timing_cache(b""), False)


def store_timings(config: Any, file: Path) -> None:
    """Merge the measured timings into the file, which other builds may have changed.

    They are stored before the plan is verified, because they are correct in any case. A file that cannot be written
    is only a warning: the next build takes longer.
    """
    measured = config.get_timing_cache()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            stored = _read_timings(file)
            theirs = config.create_timing_cache(stored) if stored else None
            if theirs is not None:
                measured.combine(theirs, False)
            write_whole(file, bytes(measured.serialize()))
    except OSError as error:
        _log.warning(
            "%s: cannot store the timings (%s): the next build measures them again", file, error.strerror or error
        )


def _read_timings(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # makes an empty cache


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_name(file.name + ".lock").open("ab") as lock:
        until = time.monotonic() + _LOCK_TIMEOUT
        while not try_lock(lock):
            if time.monotonic() > until:
                raise TimeoutError(f"{lock.name} is locked by another build")
            time.sleep(_POLL)
        yield
