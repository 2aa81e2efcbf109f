"""Watching a process's memory from now on: what its libraries took while they loaded is not the work's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def forget_peak() -> None:
    """Begin anew to watch for the most; where the system does not offer it, what was is the least there will be."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the "high water mark"
