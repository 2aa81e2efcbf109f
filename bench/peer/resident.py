"""How much memory this process takes by itself: `getrusage` tells no less than what its parent had at its start."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from sar2optical import memory


def forget_peak() -> None:
    """Begin anew to watch for the most; where the system does not offer it, what was is the least there will be."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the "high water mark"


def peak_bytes() -> int:
    """Give the largest resident set so far."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else memory.peak_bytes()
