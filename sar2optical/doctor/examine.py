"""All checks, and how each is kept from taking the others down.

A library is tried in a process of its own: one that crashes, hangs or cannot be imported is a line of the page, and
not the end of it.
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

TIMEOUT = 120.0
"""Seconds that a library has to load and to run: the first load from a network drive takes a while."""

_MARK = "\x1e"  # starts a finding among whatever else a library prints (RFC 7464's record separator)


@dataclass(frozen=True, kw_only=True)
class _Check:
    """One look at something."""

    area: Area
    where: str = ""
    """Module of this package, and function in it, that look: by name, since importing them may be what fails. Where
    there is none, the library is imported, and that is all."""
    library: str | None = None
    """What is loaded; then in a process of its own, and only where it is installed."""
    install: str = ""
    """How the library gets here."""
    reinstall: str = ""
    """What to do where it is here, and broken."""
    needed: bool = False


_CHECKS = {
    "python": _Check(area="python", where="installed.python"),
    **{
        f"importing {library}": _Check(
            area="python",
            library=library,
            install=f"pip install {library}",
            reinstall=f"pip install --force-reinstall {library}: what is broken below may be so for want of it",
            needed=True,
        )
        for library in ("numpy", "click", "tqdm")
    },
    "openvino": _Check(
        area="backends",
        where="backends.openvino",
        library="openvino",
        install="pip install 'sar2optical[cpu]'",
        reinstall="pip install --force-reinstall openvino, or pip uninstall openvino",
    ),
    "onnxruntime": _Check(
        area="backends",
        where="backends.onnxruntime",
        library="onnxruntime",
        install="pip install 'sar2optical[cpu]', or [gpu] with an NVIDIA GPU",
        reinstall="pip install --force-reinstall onnxruntime, or onnxruntime-gpu, whichever is installed",
    ),
    "onnxruntime's wheels": _Check(area="backends", where="installed.onnxruntime_wheels"),
    "pytorch": _Check(
        area="backends",
        where="backends.pytorch",
        library="torch",
        install="pip install 'sar2optical[train]'",
        reinstall="pip install --force-reinstall torch, or pip uninstall torch",
    ),
    "tensorrt": _Check(
        area="backends",
        where="backends.tensorrt",
        library="tensorrt",
        install="pip install 'sar2optical[tensorrt]' with an NVIDIA GPU",
        reinstall="pip install --force-reinstall tensorrt-cu13, or pip uninstall tensorrt-cu13",
    ),
    "bundled generator": _Check(
        area="model",
        where="backends.bundled_generator",
        library="numpy",
        install="pip install numpy",
        reinstall="see to the backends",
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
"""In the order of the page, by the name that a finding has where nothing else names it."""


def examine(areas: Collection[str] = AREAS, *, timeout: float = TIMEOUT) -> tuple[Finding, ...]:
    """Look at what is installed, and try it.

    Parameters
    ----------
    areas
        Which parts of the page, of `AREAS`.
    timeout
        Seconds after which a library that does not answer counts as broken.

    Returns
    -------
    tuple of Finding
        In the order of the page. Nothing is raised for what is broken: it is a finding.
    """
    names = [name for name, check in _CHECKS.items() if check.area in areas]
    with ThreadPoolExecutor() as pool:  # whose threads wait for processes
        found = [finding for some in pool.map(lambda name: _perform(name, timeout), names) for finding in some]
    if "backends" in areas:
        found += _consequences(found)
    return tuple(sorted(found, key=lambda finding: AREAS.index(finding.area)))


def answer_with(name: str) -> None:
    """Perform a check for another process; each finding is sent as soon as it is made."""
    for finding in _performed(name):
        sys.stdout.write(f"\n{_MARK}{json.dumps(asdict(finding))}\n")
        sys.stdout.flush()


def _perform(name: str, timeout: float) -> list[Finding]:
    check = _CHECKS[name]
    if check.library is None:
        return list(_performed(name))
    if find_spec(check.library) is None:
        return [Finding(check.area, name, "broken" if check.needed else "absent", "not installed", check.install)]
    return _apart(name, timeout)


def _performed(name: str) -> Iterator[Finding]:
    """Perform a check here; what it raises is its last finding."""
    check = _CHECKS[name]
    module, _, function = check.where.partition(".")
    try:
        if not module:
            import_module(str(check.library))
            return
        look: Callable[[], Iterable[Finding]] = getattr(import_module(f"sar2optical.doctor.{module}"), function)
        yield from look()
    except Sar2OpticalError as error:
        yield _dead(name, squeezed(error))
    except Exception as error:  # whatever a broken library raises
        yield _dead(name, squeezed(f"{type(error).__name__}: {error}"))


def _apart(name: str, timeout: float) -> list[Finding]:
    """Perform a check in a process of its own; keep what it found before it died, if it did."""
    # -P, not from the current folder: a stray folder named after a library would be imported in its place.
    command = [sys.executable, "-P", "-m", "sar2optical.doctor", name]
    try:
        child = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        return [*_received(late.stdout or b""), _dead(name, f"no answer within {timeout:g} s")]
    found = _received(child.stdout)
    if child.returncode == 0:
        return found
    words = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return [*found, _dead(name, squeezed("; ".join([_ending(child.returncode), *words])))]


def _received(out: bytes) -> list[Finding]:
    lines = out.decode(errors="replace").split("\n")
    return [Finding(**json.loads(line[1:])) for line in lines if line.startswith(_MARK)]


def _ending(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _dead(name: str, detail: str) -> Finding:
    check = _CHECKS[name]
    return Finding(check.area, name, "broken", detail, check.reinstall or None)


def _consequences(found: Sequence[Finding]) -> Iterator[Finding]:
    """Judge what no single finding can say."""
    working = {finding.name for finding in found if finding.area == "backends" and finding.state == "ok"}
    if not working:
        remedy = "pip install 'sar2optical[cpu]'"
        yield Finding("backends", "any backend", "broken", "nothing here runs a model", remedy)
    cards = [finding for finding in found if finding.name.startswith("GPU ") and finding.state == "ok"]
    if cards and not working & {"onnxruntime cuda", "pytorch cuda", "tensorrt"}:
        detail = "there is a GPU, and nothing here runs a model on it"
        remedy = "pip uninstall -y onnxruntime, then pip install 'sar2optical[gpu]'"
        yield Finding("backends", "any on a GPU", "warning", detail, remedy)
