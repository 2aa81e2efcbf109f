"""Choose file, backend and settings for `auto`: by the CPU's instructions, or by a measurement on request.

No run measures by itself: its pixels would then depend on what ran before. `tune` measures, for
`sar2opt-doctor --tune`. Its result holds for every scene on this machine, whatever its size, and every run logs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.files import cache_folder, write_whole
from sar2optical.engines.base import Engine, EngineOptions, Precision, default_threads
from sar2optical.engines.opening import gpu_backends, open_engine
from sar2optical.engines.registry import ON_CPU, backend_named
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import EngineError, InferenceFailed, ModelError, ModelUnreadable, OutputUnwritable

_SECONDS = 0.25
"""Least seconds that a candidate runs, after its first batch."""
_GAIN = 1.03  # noise of so short a measurement; the first of a list is the simpler choice
_FORM = 3  # version of the file of choices, and of how engines run files
_FAST_BF16 = {"amx_bf16"}
"""CPU flags (Linux) with which bf16 is at most a tenth slower than int8, and closer to fp32. With AVX512-BF16 but no
AMX, int8 is three times as fast."""
_FAST_INT8 = {"avx512_vnni", "avx_vnni"}
"""CPU flags of instructions for int8 products: int8 is two to three times as fast as fp32."""
_CANDIDATES = tuple(backend_named(name) for name in ON_CPU)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """File, backend and settings to run a model with."""

    file: str
    """Name of the engine file."""
    backend: str
    """Name of the backend."""
    precision: str
    """Precision of the arithmetic."""
    threads: int
    """CPU threads."""
    rate: float
    """Windows per second that were measured."""

    def __str__(self) -> str:
        """Describe all but the rate."""
        return f"{self.file} with {self.backend} {self.precision}, {self.threads} threads"


_KINDS = {"file": str, "backend": str, "precision": str, "threads": int, "rate": float}
"""Types of the fields of a choice, for reading JSON."""


def open_model(
    files: Mapping[str, Path], *, backend: str = "auto", options: EngineOptions | None = None
) -> tuple[Engine, Path]:
    """Open a generator that may have files in several precisions; `auto` chooses among them.

    On a CPU, precision auto takes what `tune` measured on this machine. Without a measurement it follows from the
    CPU's instructions and the files: bf16 if the CPU has matrix units for it; else the int8 file if the CPU has
    instructions for int8 and OpenVINO is installed; else the reference, as `open_engine` opens it. Batch, threads
    and the size of a scene do not count.

    Parameters
    ----------
    files
        Files by precision, the reference first.
    backend, options
        See `open_engine`. A precision other than auto takes its own file, else the reference. What is not auto is
        kept.

    Returns
    -------
    engine, file
        Opened engine, and the file that it runs.

    Raises
    ------
    Sar2OpticalError
        See `open_engine`.
    """
    options = options or EngineOptions()
    reference = next(iter(files.values()))
    if not _is_auto(reference, options):
        file = files.get(options.precision, reference)
        return open_engine(file, backend=backend, options=options), file
    choice = _recall(files, backend)
    if choice is not None:
        given = replace(choice, threads=options.threads or choice.threads)
        file = next(file for file in files.values() if file.name == choice.file)
        try:
            engine = open_engine(file, backend=choice.backend, options=_as_chosen(options, given))
        except (EngineError, ModelError) as error:  # the file of choices is from another machine, or was edited
            _log.warning(
                "%s: the stored engine cannot be opened (%s): run sar2opt-doctor --tune to choose again",
                tuning_file(),
                error,
            )
        else:
            _log.info("engine chosen by sar2opt-doctor --tune (%s): %s", tuning_file(), choice)
            return engine, file
    file = _by_instructions(files, backend)
    return open_engine(file, backend=backend, options=options), file


def tune(files: Mapping[str, Path], *, backend: str = "auto") -> Choice:
    """Measure which engine is the fastest on this machine's CPU, and store it for `open_model`.

    Parameters
    ----------
    files
        ONNX files by precision, the reference first.
    backend
        auto, or the only backend to measure.

    Returns
    -------
    Choice
        Stored in `tuning_file`.

    Raises
    ------
    ModelUnreadable
        If the reference is not an ONNX file.
    EngineError
        If no backend runs any of the files.
    OutputUnwritable
        If the choice cannot be stored.
    """
    reference = next(iter(files.values()))
    if not _is_auto(reference, EngineOptions(device="cpu")):
        raise ModelUnreadable(f"{reference}: --tune works only with ONNX files: give an .onnx file")
    choice = _measure({file.name: file for file in files.values()}, backend)
    if choice is None:
        open_engine(reference, backend=backend, options=EngineOptions(device="cpu")).close()  # raises the reason
        raise InferenceFailed(f"{reference}: no engine on this CPU passes the self-test: run sar2opt-doctor")
    _remember(_key(files, backend), choice)
    return choice


def _is_auto(reference: Path, options: EngineOptions) -> bool:
    if options.precision != "auto" or options.device not in ("auto", "cpu") or reference.suffix.lower() != ".onnx":
        return False
    return not gpu_backends(reference, options)


def _by_instructions(files: Mapping[str, Path], backend: str) -> Path:
    """Return the int8 file if OpenVINO runs it faster than the reference, else the reference."""
    flags = set(_processor().split())
    openvino = backend == "openvino" or (backend == "auto" and find_spec("openvino") is not None)
    if "int8" in files and openvino and flags & _FAST_INT8 and not flags & _FAST_BF16:
        return files["int8"]
    return next(iter(files.values()))


def windows_per_second(engine: Engine, windows: NDArray[np.float32]) -> float:
    """Measure the rate of an engine alone, with all its streams at work.

    Parameters
    ----------
    engine
        Opened engine.
    windows
        float32 (n, C, H, W) in [-1, 1]; n is a multiple of the engine's batch.
    """
    batches = [windows[k : k + engine.batch] for k in range(0, len(windows), engine.batch)]
    with ThreadPoolExecutor(engine.streams) as streams:
        began = time.perf_counter()
        for _ in streams.map(lambda sar: engine.run(sar, [(0, 0)] * len(sar)), batches):
            pass
        return len(windows) / (time.perf_counter() - began)


def _measure(files: Mapping[str, Path], backend: str) -> Choice | None:
    """Measure backends and files with one window per run, then half of the threads; larger batches gain nothing."""
    options = EngineOptions(device="cpu")
    threads = default_threads()
    best: Choice | None = None
    for candidate in _CANDIDATES:
        name = candidate.name
        if backend not in ("auto", name) or not find_spec(candidate.library):
            continue
        for file in files.values():
            plain = Choice(file=file.name, backend=name, precision="auto", threads=threads, rate=0)
            found = _measured(plain, file, options)
            best = _faster(best, found)
            if found is not None and found.precision == "bf16":  # faster only with the right instructions
                best = _faster(best, _measured(replace(plain, precision="fp32"), file, options))
    if best is None:
        return None
    file = files[best.file]
    if threads >= 4:  # two threads of one core may slow each other down
        best = _faster(best, _measured(replace(best, threads=threads // 2), file, options)) or best
    return best


def _measured(choice: Choice, file: Path, options: EngineOptions) -> Choice | None:
    """Measure a choice; None if it does not run on this CPU, or fails its self-test."""
    try:
        with open_engine(file, backend=choice.backend, options=_as_chosen(options, choice)) as engine:
            runs = engine.streams * engine.batch
            sar = np.repeat(self_test_input(engine.signature), runs, axis=0)
            rates = [windows_per_second(engine, sar)]
            while sum(runs / rate for rate in rates) < _SECONDS:
                rates.append(windows_per_second(engine, sar))
            found = replace(choice, precision=engine.precision, rate=max(rates))
    except (EngineError, ModelError) as error:
        _log.debug("%s: %s", choice, error)
        return None
    _log.info("%.1f windows/s: %s", found.rate, found)
    return found


def _faster(best: Choice | None, other: Choice | None) -> Choice | None:
    if best is None or other is None:
        return best or other
    return other if other.rate > _GAIN * best.rate else best


def _as_chosen(options: EngineOptions, choice: Choice) -> EngineOptions:
    precision: Precision = choice.precision  # type: ignore[assignment]
    return replace(options, device="cpu", precision=precision, threads=choice.threads)


def tuning_file() -> Path | None:
    """Path of the file of choices, in `SAR2OPT_CACHE` or the user's cache folder; None if neither is known."""
    folder = cache_folder()
    return folder / "tuning.json" if folder else None


def _key(files: Mapping[str, Path], backend: str) -> str:
    """Hash everything that a measurement depends on: machine, libraries, files, backend."""
    parts = [str(_FORM), platform.node(), platform.machine(), _processor(), str(default_threads()), backend]
    for candidate in _CANDIDATES:
        with suppress(PackageNotFoundError):
            parts.append(f"{candidate.name} {version(candidate.name)}")
    parts += [
        f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files.values() if file.is_file()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "")


def _recall(files: Mapping[str, Path], backend: str) -> Choice | None:
    known = _known()
    if not known:  # no need to hash the files
        return None
    choice = known.get(_key(files, backend))
    if not isinstance(choice, dict):
        return None
    try:
        found = Choice(**choice)
    except TypeError:
        return None
    kinds = {name: type(getattr(found, name)) for name in choice}
    names = {file.name for file in files.values()}
    if kinds != _KINDS or found.threads < 1 or found.file not in names or found.backend not in ON_CPU:
        return None
    return found


def _remember(key: str, choice: Choice) -> None:
    file = tuning_file()
    if file is None:
        raise OutputUnwritable("no cache folder to store the choice in: set SAR2OPT_CACHE to a folder")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**_known(), key: asdict(choice)}, indent=1).encode())
    except OSError as error:
        raise OutputUnwritable(
            f"{file}: cannot be written ({error.strerror}): set SAR2OPT_CACHE to a folder"
        ) from error


def _known() -> dict[str, object]:
    file = tuning_file()
    with suppress(OSError, ValueError, RecursionError):
        read = json.loads(file.read_text()) if file else {}
        return read if isinstance(read, dict) else {}
    return {}
