"""Limits of a machine's storage and transfers: disk with fsync, memory copy, bus with pinned memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from bench.ceilings import COPY, FROM_GPU, TO_GPU, copies
from sar2optical._utils.files import write_all

__all__ = ["BUS_DOWN", "BUS_UP", "DISK_READ", "DISK_WRITE", "MEMORY", "UNIT", "disk_rates", "limits"]

DISK_WRITE, DISK_READ = "disk write, GB/s", "disk read, GB/s"
MEMORY, BUS_UP, BUS_DOWN = "memory copy, GB/s", "bus up, GB/s", "bus down, GB/s"
"""Names of the limits."""

UNIT = ", GB/s"
"""Unit in the name of every limit."""

_FILE = 2**29  # bytes
_COPIED = {"cpu": 2**28, "cuda": 2**31}
_QUICK = 32  # divisor of a smoke test


def limits(folder: Path, device: str, *, threads: int, quick: bool = False) -> dict[str, float]:
    """Measure the limits that the stages of a scene are compared with.

    Parameters
    ----------
    folder
        Folder on the disk of the mosaic.
    device
        cpu or cuda. Only cuda has a bus.
    threads
        Threads of the memory copy.
    quick
        Use small files and copies, for a smoke test.

    Returns
    -------
    dict
        Limits by name. A memory copy of n bytes counts n: it reads and writes them.
    """
    part = _QUICK if quick else 1
    found = disk_rates(folder / ".limit", _FILE // part)
    found[MEMORY] = copies("cpu", threads, _COPIED["cpu"] // part)[COPY] / 2
    if device == "cuda":
        bus = copies("cuda", threads, _COPIED["cuda"] // part)
        found |= {BUS_UP: bus[TO_GPU], BUS_DOWN: bus[FROM_GPU]}
    return found


def disk_rates(path: Path, size: int) -> dict[str, float]:
    """Write a file of random bytes and flush it, then read it without the system's cache; GB/s of both.

    The file is removed. Systems without `posix_fadvise` read from the cache.
    """
    data = np.random.default_rng(1).bytes(size)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            write_all(file, data)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begun = time.perf_counter()
            while file.read(2**22):
                pass
        ended = time.perf_counter()
    finally:
        path.unlink(missing_ok=True)
    return {DISK_WRITE: size / (written - began) / 1e9, DISK_READ: size / (ended - begun) / 1e9}
