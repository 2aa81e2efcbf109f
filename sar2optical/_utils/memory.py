"""How much memory this process has and had."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

_GUESS = 400_000_000
"""Where the system does not tell: an engine, its libraries and Python, roughly."""


def peak_bytes() -> int:
    """Largest resident set of this process so far; 0 where the system does not tell."""
    with suppress(OSError):
        # proc(5). getrusage's figure is handed on to a process from the one that started it, and may be of that one.
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
    """Resident set of this process now; a guess where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])  # proc(5): resident, in pages
    except (OSError, ValueError, IndexError):
        return peak_bytes() or _GUESS
    return pages * os.sysconf("SC_PAGE_SIZE")
