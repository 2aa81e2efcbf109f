"""Installed packages: this package's requirements and extras, and wheels that conflict."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from sar2optical.doctor.finding import Finding, State

__all__ = ["cuda_libraries", "extras", "onnxruntime_wheels", "plugin_conflict", "python", "tensorrt_major"]

_OLDEST_PYTHON = (3, 11)

_EXTRAS = {
    "export": "sar2opt-export",
    "train": "sar2opt-train and sar2opt-eval",
    "hub": "published generators by name",
    "download": "sar2opt-data download kaggle",
    "comet": "logging of training at Comet",
    "cluster": "sar2opt-batch",
}
"""Extras and their purposes, without those of backends, which have a section of their own."""

_REQUIREMENT = re.compile(r"""([\w.-]+)(?:\[.*?\])?([^;]*)(?:;\s*extra\s*==\s*["']([\w-]+)["'])?""")

_KINDS = ("", "-gpu", "-openvino", "-directml", "-training", "-rocm", "-migraphx", "-qnn")
_SAME_FOLDER = {f"onnxruntime{kind}" for kind in _KINDS}
"""Wheels that install the package `onnxruntime`."""

_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def python() -> Iterator[Finding]:
    """Check Python, this package and its requirements."""
    installed = ".".join(map(str, sys.version_info[:3]))
    detail = f"{installed}, {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield Finding("python", "Python", "broken", detail, f"install {'.'.join(map(str, _OLDEST_PYTHON))} or later")
    else:
        yield Finding("python", "Python", "ok", detail)
    yield Finding("python", "sar2optical", "ok", f"{version('sar2optical')}, {Path(__file__).parents[1]}")
    for wheel, least in _requirements().get(None, []):
        problem = _problem(wheel, least)
        if problem:
            yield Finding("python", wheel, "broken", problem, f"pip install '{wheel}>={least}'")
        else:
            yield Finding("python", wheel, "ok", version(wheel))


def extras() -> Iterator[Finding]:
    """Check for each extra that its wheels are installed and recent enough."""
    wheels = _requirements()
    for extra, purpose in _EXTRAS.items():
        problems = [problem for wheel, least in wheels.get(extra, []) if (problem := _problem(wheel, least))]
        detail = ": ".join([f"for {purpose}", *([", ".join(problems)] if problems else [])])
        old = any("is needed" in problem for problem in problems)
        state: State = "warning" if old else "absent" if problems else "ok"
        yield Finding("extras", extra, state, detail, f"pip install 'sar2optical[{extra}]'" if problems else None)


def onnxruntime_wheels() -> Iterator[Finding]:
    """Check for several wheels of ONNX Runtime, which overwrite each other's files."""
    found = sorted(_SAME_FOLDER & _installed().keys())
    if len(found) > 1:
        detail = f"{' and '.join(found)} are installed together and overwrite each other"
        remedy = f"pip uninstall -y {' '.join(found)}, then pip install 'sar2optical[cpu]', or [gpu]"
        yield Finding("backends", "onnxruntime's wheels", "broken", detail, remedy)


def plugin_conflict() -> Iterator[Finding]:
    """Check for the plugin of TensorRT for RTX beside ONNX Runtime's GPU wheel, which exclude each other."""
    plugins = [name for name in _installed() if name.startswith("onnxruntime-ep-nv-tensorrt-rtx")]
    if plugins and "onnxruntime-gpu" in _installed():
        detail = f"{plugins[0]} and onnxruntime-gpu are installed together: the plugin works with onnxruntime only"
        remedy = "pip uninstall -y onnxruntime-gpu, then pip install --force-reinstall onnxruntime"
        yield Finding("backends", "onnxruntime's plugin for RTX", "broken", detail, remedy)


def cuda_libraries() -> Iterator[Finding]:
    """List NVIDIA's libraries that are installed as wheels."""
    found = sorted(f"{name} {installed}" for name, installed in _installed().items() if name.startswith("nvidia-"))
    if found:
        yield Finding("gpu", "CUDA libraries", "ok", ", ".join(found))
    else:
        remedy = "pip install 'sar2optical[gpu]' with an NVIDIA GPU"
        yield Finding("gpu", "CUDA libraries", "absent", "no wheels of CUDA libraries are installed", remedy)


def tensorrt_major() -> int | None:
    """Return the major version of TensorRT; None if it is not installed."""
    found = [
        _numbers(installed)[0]
        for name, installed in _installed().items()
        if name in _TENSORRT and _numbers(installed)
    ]
    return max(found, default=None)


def _installed() -> dict[str, str]:
    """Map the normalised names of all installed wheels to their versions."""
    names = ((wheel.metadata["Name"] or "", wheel.version) for wheel in distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): installed for name, installed in names}


def _requirements() -> dict[str | None, list[tuple[str, str]]]:
    """Read this package's requirements: wheels and least versions, by extra; the key None has the base ones."""
    found: dict[str | None, list[tuple[str, str]]] = {}
    for line in requires("sar2optical") or []:
        match = _REQUIREMENT.match(line)
        if match and match[1] != "sar2optical":
            least = re.search(r">=\s*([\d.]+)", match[2])
            found.setdefault(match[3], []).append((match[1], least[1] if least else "0"))
    return found


def _problem(wheel: str, least: str) -> str | None:
    """Describe why a requirement is not met; None if it is met."""
    try:
        installed = version(wheel)
    except PackageNotFoundError:
        return f"{wheel} is not installed"
    return f"{wheel} is {installed}, {least} or later is needed" if _numbers(installed) < _numbers(least) else None


def _numbers(text: str) -> tuple[int, ...]:
    """Parse the leading numbers of a version: "2.13.0+cpu" becomes (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
