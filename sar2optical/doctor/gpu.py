"""NVIDIA's driver and GPUs, queried without libraries that may have been built without CUDA."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

from sar2optical.doctor.finding import Finding, squeezed

__all__ = ["cards", "driver", "nvidia_driver"]

_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "memory.free")
_TIMEOUT = 30.0  # seconds; nvidia-smi hangs if the driver hangs
_CONTAINER = "in a container, start the container with --gpus all"


def driver() -> Finding:
    """Initialise the driver."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        remedy = f"with an NVIDIA GPU, install NVIDIA's driver; {_CONTAINER}"
        return Finding(
            "gpu", "NVIDIA driver", "absent", f"{name} is not installed, so no backend can use an NVIDIA GPU", remedy
        )
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    newest = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"  # 13020 is 13.2
    status = library.cuInit(0)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode(errors="replace")
        remedy = f"check that nvidia-smi lists the GPU; restart after a driver update; {_CONTAINER}"
        return Finding(
            "gpu", "NVIDIA driver", "warning", f"cannot be initialised: {reason} ({status}), {newest}", remedy
        )
    return Finding("gpu", "NVIDIA driver", "ok", f"works, with libraries up to {newest}")


def nvidia_driver() -> Iterator[Finding]:
    """Check the driver."""
    yield driver()


def cards() -> Iterator[Finding]:
    """List the GPUs that nvidia-smi lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Finding("gpu", "GPUs", "absent", "nvidia-smi is not installed")
        return
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    remedy = "restart the machine, or reinstall the driver"
    try:
        result = subprocess.run(query, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("gpu", "GPUs", "warning", squeezed(f"nvidia-smi failed: {error}"), remedy)
        return
    text = result.stdout.decode(errors="replace")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if result.returncode or not rows or any(len(row) != len(_FIELDS) for row in rows):
        message = text + result.stderr.decode(errors="replace")
        yield Finding(
            "gpu", "GPUs", "warning", squeezed(f"nvidia-smi failed: {message.strip() or 'no output'}"), remedy
        )
        return
    for k, (name, version, capability, total, free) in enumerate(rows):
        detail = f"{name}, compute capability {capability}, driver {version}, {free} of {total} MiB free"
        yield Finding("gpu", f"GPU {k}", "ok", detail)
