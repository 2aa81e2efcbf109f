"""NVIDIA's driver and cards, asked without any library that may have been built without them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

from sar2optical.doctor.finding import Finding, squeezed

_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "memory.free")
_ANSWER_WITHIN = 30.0  # seconds; a driver that hangs takes nvidia-smi with it
_CONTAINER = "in a container, start it with --gpus all"


def driver() -> Finding:
    """Start the driver."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        remedy = f"where there is a GPU, install NVIDIA's driver; {_CONTAINER}"
        return Finding("gpu", "NVIDIA driver", "absent", f"no {name}, so nothing runs on CUDA", remedy)
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    newest = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"  # 13020 is 13.2
    status = library.cuInit(0)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode(errors="replace")
        remedy = f"see that nvidia-smi lists the GPU; restart after an update; {_CONTAINER}"
        return Finding("gpu", "NVIDIA driver", "warning", f"does not start: {reason} ({status}), {newest}", remedy)
    return Finding("gpu", "NVIDIA driver", "ok", f"starts, for libraries up to {newest}")


def nvidia_driver() -> Iterator[Finding]:
    """Start the driver, as a check."""
    yield driver()


def cards() -> Iterator[Finding]:
    """List the cards that the driver's own program lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Finding("gpu", "GPUs", "absent", "no nvidia-smi")
        return
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    remedy = "restart, or reinstall the driver"
    try:
        result = subprocess.run(
            query, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("gpu", "GPUs", "warning", squeezed(f"nvidia-smi does not answer: {error}"), remedy)
        return
    text = result.stdout.decode(errors="replace")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if result.returncode or not rows or any(len(row) != len(_FIELDS) for row in rows):
        words = text + result.stderr.decode(errors="replace")
        yield Finding("gpu", "GPUs", "warning", squeezed(f"nvidia-smi says: {words.strip() or 'nothing'}"), remedy)
        return
    for k, (name, version, capability, total, free) in enumerate(rows):
        detail = f"{name}, compute capability {capability}, driver {version}, {free} of {total} MiB free"
        yield Finding("gpu", f"GPU {k}", "ok", detail)
