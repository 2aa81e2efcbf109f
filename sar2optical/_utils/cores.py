"""Number of CPU cores that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_cores"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Return the number of cores of this process: those of its affinity, or a container's quota where that is less.

    A container with the CPU time of 2 cores on a machine of 64 sees all 64: a library that starts one thread per
    core would start 62 too many.

    Parameters
    ----------
    cgroups
        Folder of Linux's control groups: `cpu.max` of version 2, `cpu/cpu.cfs_quota_us` of version 1 (cgroups(7)).

    Returns
    -------
    int
        1 or more; a part of a core counts as one.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return there if quota is None else max(1, min(there, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Return the CPU time of the control group, in cores; None without a limit."""
    with suppress(OSError, ValueError):
        limit, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else float(limit) / float(period)
    with suppress(OSError, ValueError):
        folder = cgroups / "cpu"
        microseconds, period_ = (
            float((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
        return microseconds / period_ if microseconds > 0 else None
    return None
