"""What a bench ran on: figures of one machine say little of another."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sar2optical.doctor.gpu import cards
from sar2optical.engines.base import default_threads

_LIBRARIES = (
    "sar2optical", "numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "rasterio",
)  # fmt: skip

_INSTRUCTIONS = {
    "amx_int8": "amx",
    "avx512_bf16": "avx512-bf16",
    "avx512_vnni": "avx512-vnni",
    "avx512f": "avx512",
    "avx2": "avx2",
}
"""Linux's names of what decides a model's speed, what has most first; and ours."""

_MAKERS = ("amd", "intel", "r", "tm", "cpu", "processor", "core", "with", "virtual")
"""Words in a CPU's name that tell nothing."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A computer, as far as it matters here."""

    cpu: str
    cores: int
    """That this process may use."""
    instructions: str
    """The best of those that decide a model's speed; empty where unknown."""
    memory_gb: float
    gpu: str = ""
    """NVIDIA's name, driver and clocks of the first card; empty without one."""

    @property
    def slug(self) -> str:
        """Name the kind of machine, for files: `epyc-avx2`, `h200`."""
        if self.gpu:
            found = re.search(r"\b([A-Z]+\d+\w*)", self.gpu)
            return (found[1] if found else "gpu").lower()
        words = [word for word in re.findall(r"[a-z0-9]+", self.cpu.lower()) if word not in _MAKERS]
        return "-".join(filter(None, ((words or ["cpu"])[0], self.instructions)))


def this_machine() -> Machine:
    """Describe this one."""
    info = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)
    here = flags[1].split() if flags else []
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE)
    card = next((finding for finding in cards() if finding.state == "ok"), None)
    return Machine(
        cpu=model[1].strip() if model else platform.processor() or platform.machine(),
        cores=default_threads(),
        instructions=next((name for flag, name in _INSTRUCTIONS.items() if flag in here), ""),
        memory_gb=round(int(memory[1]) * 1024 / 1e9, 1) if memory else 0.0,
        gpu=f"{card.detail}, clocks {_clocks()}" if card else "",
    )


def versions() -> dict[str, str]:
    """Give the versions of Python and of the libraries that decide speeds."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def this_commit() -> str:
    """Give the checkout's commit, with a + where files differ from it; unknown outside a checkout."""
    commit = _told("git", "rev-parse", "--short", "HEAD")
    return (
        (commit + ("+" if _told("git", "status", "--porcelain", "--untracked-files=no") else ""))
        if commit
        else "unknown"
    )


def today() -> str:
    """Give the date."""
    return time.strftime("%Y-%m-%d")


def _clocks() -> str:
    return _told("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm,power.limit", "--format=csv,noheader")


def _told(*command: str) -> str:
    """Give what a program prints; nothing where it is not here or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
