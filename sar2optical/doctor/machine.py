"""The machine: instructions, memory, disks."""

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

_GB = 1e9

_SCENE_DISK = 25_000 * 16_700 * 3 * 2 * 4 / 3
"""Bytes of a full IW scene's colours, as strips and as mosaic, each with overviews, should nothing compress."""

_SCENE_MEMORY = 2e9
"""Bytes for libraries, model, a few strips and GDAL's cache, guessed on the safe side."""

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
}
"""Linux's names of what matters to a model, and their makers'."""


def cpu() -> Iterator[Finding]:
    """Name the CPU, the cores that this process may use, and its instructions where Linux lists them."""
    text = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    yield Finding("machine", "CPU", "ok", f"{name}, {usable_cores()} of {os.cpu_count()} cores for this process")
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    if flags:
        yield Finding("machine", "instructions", "ok", instructions(flags[1].split()))


def instructions(flags: Collection[str]) -> str:
    """Say which of a CPU's instructions matter to a model, and what follows where they are missing."""
    here = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    words = [", ".join(here) or "none that matter"]
    if "avx2" not in flags:
        words.append("no AVX2: models are slow")
    if not any(name.endswith(("VNNI", "INT8")) for name in here):
        words.append("no VNNI: int8 gains less")
    if not any(name.endswith("BF16") for name in here):
        words.append("no BF16: --precision bf16 gains nothing, or is not available")
    return "; ".join(words)


def memory() -> Iterator[Finding]:
    """Total and available memory, and what a control group leaves of it; nothing where Linux does not say."""
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE))
    if "MemTotal" not in meminfo:
        return
    total, free = (1024 * int(meminfo.get(key, 0)) for key in ("MemTotal", "MemAvailable"))
    detail = f"{_gigabytes(free)} of {_gigabytes(total)} available"
    limit = memory_limit()
    if limit is not None and limit < total:
        free = min(free, limit)
        detail += f", {_gigabytes(limit)} of it for this process (control group)"
    yield _room("memory", detail, free, _SCENE_MEMORY, "end other programs, or give fewer --threads")


def memory_limit(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """Give the least limit, in bytes, of this process's control groups, of either version; None without one."""
    limits = []
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        # Groups nest, and the least counts. A container may see its own as the root, whatever its path outside.
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
        limits += [_read(folder / file).strip() for folder in folders]
    return min((int(text) for text in limits if text.isdecimal()), default=None)


def disks() -> Iterator[Finding]:
    """Room where a mosaic would go if it was written here, and where temporary files go."""
    named = os.environ.get("TMPDIR")
    if named and not Path(named).is_dir():
        yield Finding("machine", "TMPDIR", "warning", f"{named}: no such folder", "unset TMPDIR, or make the folder")
    for name, place in (("this folder", Path()), ("temporary files", Path(tempfile.gettempdir()))):
        try:
            where, free = place.resolve(), shutil.disk_usage(place).free
        except OSError as error:
            yield Finding("machine", name, "warning", squeezed(error), "change to a folder that exists")
            continue
        yield _room(name, f"{where}: {_gigabytes(free)} free", free, _SCENE_DISK, "make room, or write elsewhere")


def _room(name: str, detail: str, free: float, wanted: float, remedy: str) -> Finding:
    if free >= wanted:
        return Finding("machine", name, "ok", detail)
    return Finding("machine", name, "warning", f"{detail}; a full scene may take {_gigabytes(wanted)}", remedy)


def _gigabytes(count: float) -> str:
    return f"{count / _GB:.1f} GB"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
