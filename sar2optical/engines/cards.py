"""The NVIDIA GPU of this process, asked from the driver: needs no library that runs models."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache

__all__ = ["Card", "first_card"]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    """Name of the model."""
    compute_capability: tuple[int, int]
    """Compute capability: major, minor."""


@cache
def first_card() -> Card | None:
    """Return the first GPU that CUDA_VISIBLE_DEVICES leaves visible; None without a GPU or a working driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device):
        return None
    found = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return Card(name.value.decode(errors="replace"), (found[0], found[1]))
