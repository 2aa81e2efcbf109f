"""How many CPU cores this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Give the cores of this process: those of its affinity, or a container's quota where that is less.

    A container that is limited to the time of 2 cores on a machine of 64 sees all 64, and has 62 threads too many
    where each library starts one per core.

    Parameters
    ----------
    cgroups
        Where Linux shows control groups: `cpu.max` of version 2, `cpu/cpu.cfs_quota_us` of version 1 (cgroups(7)).

    Returns
    -------
    int
        1 or more; part of a core counts as a whole one.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return there if quota is None else max(1, min(there, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Give the cores' worth of time that the control group has; None without a limit."""
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
