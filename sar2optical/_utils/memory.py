"""Memory of this process, now and at its peak."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["peak_bytes", "resident_bytes", "share_heaps"]

_GUESS = 400_000_000
"""Bytes of an engine, its libraries and Python, roughly: used where the system does not report them."""


_M_ARENA_MAX = -8  # malloc.h of glibc


def share_heaps(cores: int) -> None:
    """Let threads share heaps, before they are started; nothing happens without glibc (mallopt(3)).

    Each thread would have a heap of its own and keep what it has freed: 905 MB instead of 758 MB for rows of 25,000
    pixels, at the same speed.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1 + cores // 4)


def peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes; 0 where the system does not report it."""
    with suppress(OSError):
        # proc(5). getrusage's value is inherited from the parent process, and may be the parent's.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): KiB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Return the resident set of this process now, in bytes; a guess where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])  # proc(5): resident, in pages
    except (OSError, ValueError, IndexError):
        return peak_bytes() or _GUESS
    return pages * os.sysconf("SC_PAGE_SIZE")
