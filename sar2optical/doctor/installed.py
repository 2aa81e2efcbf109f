"""What pip has installed: this package's needs, its extras, and wheels in each other's way."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from sar2optical.doctor.finding import Finding, State

_OLDEST_PYTHON = (3, 11)

_EXTRAS = {
    "export": "sar2opt-export",
    "train": "sar2opt-train and sar2opt-eval",
    "hub": "published generators by name",
    "download": "sar2opt-data download kaggle",
    "comet": "training's figures at Comet",
    "cluster": "sar2opt-batch",
}
"""Extras and what they are for; those of backends have their own place on the page."""

_REQUIREMENT = re.compile(r"""([\w.-]+)(?:\[.*?\])?([^;]*)(?:;\s*extra\s*==\s*["']([\w-]+)["'])?""")

_KINDS = ("", "-gpu", "-openvino", "-directml", "-training", "-rocm", "-migraphx", "-qnn")
_SAME_FOLDER = {f"onnxruntime{kind}" for kind in _KINDS}
"""Wheels that all bring the package `onnxruntime`."""

_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def python() -> Iterator[Finding]:
    """Python itself, this package, and what it cannot do without."""
    here = ".".join(map(str, sys.version_info[:3]))
    detail = f"{here}, {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield Finding("python", "Python", "broken", detail, f"install {'.'.join(map(str, _OLDEST_PYTHON))} or later")
    else:
        yield Finding("python", "Python", "ok", detail)
    yield Finding("python", "sar2optical", "ok", f"{version('sar2optical')}, {Path(__file__).parents[1]}")
    for wheel, least in _requirements().get(None, []):
        lack = _lack(wheel, least)
        if lack:
            yield Finding("python", wheel, "broken", lack, f"pip install '{wheel}>={least}'")
        else:
            yield Finding("python", wheel, "ok", version(wheel))


def extras() -> Iterator[Finding]:
    """Each extra: whether all that it names is here, and recent enough."""
    wheels = _requirements()
    for extra, purpose in _EXTRAS.items():
        lacks = [lack for wheel, least in wheels.get(extra, []) if (lack := _lack(wheel, least))]
        detail = ": ".join([f"for {purpose}", *([", ".join(lacks)] if lacks else [])])
        old = any("is needed" in lack for lack in lacks)
        state: State = "warning" if old else "absent" if lacks else "ok"
        yield Finding("extras", extra, state, detail, f"pip install 'sar2optical[{extra}]'" if lacks else None)


def onnxruntime_wheels() -> Iterator[Finding]:
    """Look for wheels of ONNX Runtime over each other: whichever came last has the files, and pip knows of both."""
    found = sorted(_SAME_FOLDER & _installed().keys())
    if len(found) > 1:
        detail = f"{' and '.join(found)} are installed together, and overwrite each other"
        remedy = f"pip uninstall -y {' '.join(found)}, then pip install 'sar2optical[cpu]', or [gpu]"
        yield Finding("backends", "onnxruntime's wheels", "broken", detail, remedy)


def cuda_libraries() -> Iterator[Finding]:
    """List NVIDIA's libraries that came as wheels."""
    found = sorted(f"{name} {here}" for name, here in _installed().items() if name.startswith("nvidia-"))
    if found:
        yield Finding("gpu", "CUDA libraries", "ok", ", ".join(found))
    else:
        remedy = "pip install 'sar2optical[gpu]' with an NVIDIA GPU"
        yield Finding("gpu", "CUDA libraries", "absent", "none that came with pip", remedy)


def tensorrt_major() -> int | None:
    """Give the first number of TensorRT's version; None where it is not installed."""
    found = [_numbers(here)[0] for name, here in _installed().items() if name in _TENSORRT and _numbers(here)]
    return max(found, default=None)


def _installed() -> dict[str, str]:
    """Map the names of all wheels, as pip writes them, to their versions."""
    names = ((wheel.metadata["Name"] or "", wheel.version) for wheel in distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): here for name, here in names}


def _requirements() -> dict[str | None, list[tuple[str, str]]]:
    """Read what this package says it needs: wheels and least versions, by extra; None has those of every run."""
    found: dict[str | None, list[tuple[str, str]]] = {}
    for line in requires("sar2optical") or []:
        match = _REQUIREMENT.match(line)
        if match and match[1] != "sar2optical":
            least = re.search(r">=\s*([\d.]+)", match[2])
            found.setdefault(match[3], []).append((match[1], least[1] if least else "0"))
    return found


def _lack(wheel: str, least: str) -> str | None:
    try:
        here = version(wheel)
    except PackageNotFoundError:
        return f"{wheel} is not installed"
    return f"{wheel} is {here}, {least} or later is needed" if _numbers(here) < _numbers(least) else None


def _numbers(text: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: (2, 13, 0) of "2.13.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
