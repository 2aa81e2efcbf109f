"""Hardware of this machine: CPU, memory, disks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from sar2optical._utils.cores import usable_cores
from sar2optical.doctor.finding import Finding, squeezed

__all__ = ["cpu", "disks", "instructions", "memory", "memory_limit"]

_GB = 1e9

_SCENE_DISK = 25_000 * 16_700 * 3 * 2 * 4 / 3
"""Bytes on disk for a full IW scene: strips and mosaic, each with overviews, without compression."""

_SCENE_MEMORY = 2e9
"""Bytes of memory for libraries, model, a few strips and GDAL's cache; a cautious guess."""

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
}
"""CPU flags (Linux) of instructions that speed up models, and the manufacturers' names."""


def cpu() -> Iterator[Finding]:
    """Report the CPU, the cores that this process may use, and on Linux the instructions."""
    text = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    yield Finding("machine", "CPU", "ok", f"{name}, {usable_cores()} of {os.cpu_count()} cores for this process")
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    if flags:
        yield Finding("machine", "instructions", "ok", instructions(flags[1].split()))


def instructions(flags: Collection[str]) -> str:
    """List a CPU's instructions that speed up models, and the effects of missing ones."""
    available = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    notes = [", ".join(available) or "none that speed up models"]
    if "avx2" not in flags:
        notes.append("no AVX2: models are slow")
    if not any(name.endswith(("VNNI", "INT8")) for name in available):
        notes.append("no VNNI: int8 is less fast")
    if not any(name.endswith("BF16") for name in available):
        notes.append("no BF16: --precision bf16 is not faster, or not available")
    return "; ".join(notes)


def memory() -> Iterator[Finding]:
    """Report total and available memory and the control group's limit; nothing on systems other than Linux."""
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE))
    if "MemTotal" not in meminfo:
        return
    total, free = (1024 * int(meminfo.get(key, 0)) for key in ("MemTotal", "MemAvailable"))
    detail = f"{_gigabytes(free)} of {_gigabytes(total)} available"
    limit = memory_limit()
    if limit is not None and limit < total:
        free = min(free, limit)
        detail += f", limited to {_gigabytes(limit)} for this process (control group)"
    yield _space("memory", detail, free, _SCENE_MEMORY, "close other programs, or give fewer --threads")


def memory_limit(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the lowest memory limit in bytes of this process's control groups (v1 or v2); None without one."""
    limits = []
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        # Groups nest, and the lowest limit counts. A container may see its own group as the root.
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
        limits += [_read(folder / file).strip() for folder in folders]
    return min((int(text) for text in limits if text.isdecimal()), default=None)


def disks() -> Iterator[Finding]:
    """Report the free space of the current folder and of the folder for temporary files."""
    named = os.environ.get("TMPDIR")
    if named and not Path(named).is_dir():
        yield Finding(
            "machine", "TMPDIR", "warning", f"{named}: no such folder", "unset TMPDIR, or create the folder"
        )
    for name, folder in (("this folder", Path()), ("temporary files", Path(tempfile.gettempdir()))):
        try:
            where, free = folder.resolve(), shutil.disk_usage(folder).free
        except OSError as error:
            yield Finding("machine", name, "warning", squeezed(error), "change to a folder that exists")
            continue
        yield _space(name, f"{where}: {_gigabytes(free)} free", free, _SCENE_DISK, "free space, or use another disk")


def _space(name: str, detail: str, free: float, wanted: float, remedy: str) -> Finding:
    if free >= wanted:
        return Finding("machine", name, "ok", detail)
    return Finding("machine", name, "warning", f"{detail}; a full scene may need {_gigabytes(wanted)}", remedy)


def _gigabytes(count: float) -> str:
    return f"{count / _GB:.1f} GB"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
