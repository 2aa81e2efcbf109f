"""Run all checks.

Each library is checked in a subprocess, so that one that crashes, hangs or cannot be imported is only a line of the
report.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec

from sar2optical.doctor.finding import AREAS, Area, Finding, squeezed
from sar2optical.errors import Sar2OpticalError

__all__ = ["TIMEOUT", "examine", "run_check"]

TIMEOUT = 120.0
"""Seconds for a library to load and run; the first load from a network drive is slow."""

_MARK = "\x1e"  # separates findings from output of libraries (record separator of RFC 7464)


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A check."""

    area: Area
    """Section of the report."""
    where: str = ""
    """Module and function of this package that run the check; by name, because importing them may fail. Without one,
    the check only imports the library."""
    library: str | None = None
    """Library that the check needs; it is then run in a subprocess, if the library is installed."""
    install: str = ""
    """Remedy if the library is not installed."""
    reinstall: str = ""
    """Remedy if the library does not work."""
    needed: bool = False
    """Whether the library is required."""


def _backend(library: str, install: str, reinstall: str, function: str = "") -> _Check:
    """Make the check of a backend; its function in `backends` has the library's name, or another one."""
    where = f"backends.{function or library}"
    return _Check(area="backends", where=where, library=library, install=install, reinstall=reinstall)


_CHECKS = {
    "python": _Check(area="python", where="installed.python"),
    **{
        f"importing {library}": _Check(
            area="python",
            library=library,
            install=f"pip install {library}",
            reinstall=f"pip install --force-reinstall {library}: other findings may follow from this one",
            needed=True,
        )
        for library in ("numpy", "click", "tqdm")
    },
    "openvino": _backend(
        "openvino",
        "pip install 'sar2optical[cpu]'",
        "pip install --force-reinstall openvino, or pip uninstall openvino",
    ),
    "onnxruntime": _backend(
        "onnxruntime",
        "pip install 'sar2optical[cpu]', or [gpu] with an NVIDIA GPU",
        "pip install --force-reinstall onnxruntime, or onnxruntime-gpu, whichever is installed",
    ),
    "onnxruntime's wheels": _Check(area="backends", where="installed.onnxruntime_wheels"),
    "onnxruntime's plugin for RTX": _Check(area="backends", where="installed.plugin_conflict"),
    "pytorch": _backend(
        "torch",
        "pip install 'sar2optical[train]'",
        "pip install --force-reinstall torch, or pip uninstall torch",
        "pytorch",
    ),
    "tensorrt": _backend(
        "tensorrt",
        "pip install 'sar2optical[tensorrt]' with an NVIDIA GPU",
        "pip install --force-reinstall tensorrt-cu13, or pip uninstall tensorrt-cu13",
    ),
    "tensorrt_rtx": _backend(
        "tensorrt_rtx",
        "pip install 'sar2optical[rtx]' with a GeForce RTX or RTX PRO card, or to build plans for one",
        "pip install --force-reinstall tensorrt-rtx-cu13, or pip uninstall tensorrt-rtx-cu13",
    ),
    "bundled generator": _Check(
        area="model",
        where="backends.bundled_generator",
        library="numpy",
        install="pip install numpy",
        reinstall="follow the remedies of the backends",
        needed=True,
    ),
    "NVIDIA driver": _Check(area="gpu", where="gpu.nvidia_driver", library="ctypes", reinstall="reinstall it"),
    "GPUs": _Check(area="gpu", where="gpu.cards"),
    "CUDA libraries": _Check(area="gpu", where="installed.cuda_libraries"),
    "rasters": _Check(
        area="rasters",
        where="rasters.gdal",
        library="rasterio",
        install="pip install rasterio",
        reinstall="pip install --force-reinstall rasterio",
        needed=True,
    ),
    "CPU": _Check(area="machine", where="machine.cpu"),
    "memory": _Check(area="machine", where="machine.memory"),
    "disk": _Check(area="machine", where="machine.disks"),
    "extras": _Check(area="extras", where="installed.extras"),
}
"""Checks in the order of the report, by name; a finding without a name of its own has that of its check."""


def examine(areas: Collection[str] = AREAS, *, timeout: float = TIMEOUT) -> tuple[Finding, ...]:
    """Check what is installed and whether it works.

    Parameters
    ----------
    areas
        Sections of the report, of `AREAS`.
    timeout
        Seconds after which a library that does not respond counts as broken.

    Returns
    -------
    tuple of Finding
        Findings in the order of the report. Failures are findings, not exceptions.
    """
    names = [name for name, check in _CHECKS.items() if check.area in areas]
    with ThreadPoolExecutor() as pool:  # its threads wait for subprocesses
        found = [finding for some in pool.map(lambda name: _findings(name, timeout), names) for finding in some]
    if "backends" in areas:
        found += _consequences(found)
    return tuple(sorted(found, key=lambda finding: AREAS.index(finding.area)))


def run_check(name: str) -> None:
    """Run a check for the parent process; print each finding as soon as it is made."""
    for finding in _run_here(name):
        sys.stdout.write(f"\n{_MARK}{json.dumps(asdict(finding))}\n")
        sys.stdout.flush()


def _findings(name: str, timeout: float) -> list[Finding]:
    check = _CHECKS[name]
    if check.library is None:
        return list(_run_here(name))
    if find_spec(check.library) is None:
        return [Finding(check.area, name, "broken" if check.needed else "absent", "not installed", check.install)]
    return _run_in_subprocess(name, timeout)


def _run_here(name: str) -> Iterator[Finding]:
    """Run a check in this process; an exception becomes its last finding."""
    check = _CHECKS[name]
    module, _, function = check.where.partition(".")
    try:
        if not module:
            import_module(str(check.library))
            return
        check_function: Callable[[], Iterable[Finding]] = getattr(
            import_module(f"sar2optical.doctor.{module}"), function
        )
        yield from check_function()
    except Sar2OpticalError as error:
        yield _broken(name, squeezed(error))
    except Exception as error:  # a broken library may raise anything
        yield _broken(name, squeezed(f"{type(error).__name__}: {error}"))


def _run_in_subprocess(name: str, timeout: float) -> list[Finding]:
    """Run a check in a subprocess; keep the findings that it printed before it failed."""
    # -P: else a folder in the working folder that has the name of a library would be imported instead.
    command = [sys.executable, "-P", "-m", "sar2optical.doctor", name]
    try:
        child = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        return [*_received(late.stdout or b""), _broken(name, f"no response within {timeout:g} s")]
    found = _received(child.stdout)
    if child.returncode == 0:
        return found
    message = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return [*found, _broken(name, squeezed("; ".join([_ending(child.returncode), *message])))]


def _received(out: bytes) -> list[Finding]:
    lines = out.decode(errors="replace").split("\n")
    return [Finding(**json.loads(line[1:])) for line in lines if line.startswith(_MARK)]


def _ending(status: int) -> str:
    if status >= 0:
        return f"its process exited with status {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _broken(name: str, detail: str) -> Finding:
    check = _CHECKS[name]
    return Finding(check.area, name, "broken", detail, check.reinstall or None)


def _consequences(found: Sequence[Finding]) -> Iterator[Finding]:
    """Derive findings from the others: no backend works, or a GPU is not used."""
    working = {finding.name for finding in found if finding.area == "backends" and finding.state == "ok"}
    if not working:
        remedy = "pip install 'sar2optical[cpu]'"
        yield Finding("backends", "any backend", "broken", "no backend works, so no model can run", remedy)
    cards = [finding for finding in found if finding.name.startswith("GPU ") and finding.state == "ok"]
    if cards and not working & {"onnxruntime cuda", "pytorch cuda", "tensorrt", "tensorrt_rtx cuda"}:
        detail = "there is a GPU, but no backend works on it"
        remedy = "pip uninstall -y onnxruntime, then pip install 'sar2optical[gpu]'"
        yield Finding("backends", "any on a GPU", "warning", detail, remedy)
