"""Description of the machine and the software of a record."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from sar2optical.doctor.gpu import cards
from sar2optical.engines.base import default_threads

_LIBRARIES = (
    "sar2optical", "numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt_rtx_cu13", "tensorrt-rtx-cu13", "rasterio", "isal",
)  # fmt: skip

_INSTRUCTIONS = {
    "amx_int8": "amx",
    "avx512_bf16": "avx512-bf16",
    "avx512_vnni": "avx512-vnni",
    "avx512f": "avx512",
    "avx2": "avx2",
}
"""Linux's flags of the instruction sets that decide a model's speed, fastest first, with our names."""

_GENERIC = ("amd", "intel", "r", "tm", "cpu", "processor", "core", "with", "virtual")
"""Words in a CPU's name that do not identify it."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A computer: CPU, memory and GPU."""

    cpu: str
    """Model name of the CPU."""
    cores: int
    """Number of cores that the process may use."""
    instructions: str
    """Fastest instruction set for models; empty where unknown."""
    memory_gb: float
    """Size of the memory in GB (10^9 bytes)."""
    gpu: str = ""
    """Name, driver and clocks of the first NVIDIA GPU; empty without one."""

    @property
    def slug(self) -> str:
        """Name of this kind of machine in file names: `epyc-avx2`, `h200`."""
        if self.gpu:
            found = re.search(r"\b([A-Z]+\d+\w*)", self.gpu)
            return (found[1] if found else "gpu").lower()
        words = [word for word in re.findall(r"[a-z0-9]+", self.cpu.lower()) if word not in _GENERIC]
        return "-".join(filter(None, ((words or ["cpu"])[0], self.instructions)))

    @property
    def title(self) -> str:
        """Short description for captions."""
        gpu = f"{self.gpu.split(',')[0]} with " if self.gpu else ""
        return f"{gpu}{self.cpu}, {self.cores} cores"


def this_machine() -> Machine:
    """Describe this machine."""
    info = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    found = re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)
    flags = found[1].split() if found else []
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE)
    card = next((finding for finding in cards() if finding.state == "ok"), None)
    fields = "clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    return Machine(
        cpu=model[1].strip() if model else platform.processor() or platform.machine(),
        cores=default_threads(),
        instructions=next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), ""),
        memory_gb=round(int(memory[1]) * 1024 / 1e9, 1) if memory else 0.0,
        gpu=f"{card.detail}, clocks {_output('nvidia-smi', f'--query-gpu={fields}', '--format=csv,noheader')}"
        if card
        else "",
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide speeds."""
    found = {package.name.lower(): package.version for package in distributions()}
    return {"python": platform.python_version(), **{name: found[name] for name in _LIBRARIES if name in found}}


def this_commit() -> str:
    """Return the checkout's commit, with a + if tracked files differ from it; `unknown` outside a checkout."""
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = commit and _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit or "unknown"


def today() -> str:
    """Return the date as YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d")


def _output(*command: str) -> str:
    """Return a program's output; empty where the program is missing or fails."""
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
