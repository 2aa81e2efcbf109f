"""Which of several files, backends and settings runs: what the CPU is made for, or what was measured by command.

Nothing is measured in passing: a scene's pixels would then depend on what ran before it. `tune` measures, where
`sar2opt-doctor --tune` asks for it. What it found holds for every scene on this machine, whatever its size, and every
run names it.
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
from sar2optical.engines.base import (
    BACKENDS,
    LIBRARIES,
    Engine,
    EngineOptions,
    Precision,
    cuda_opens,
    default_threads,
    open_engine,
)
from sar2optical.engines.self_test import question
from sar2optical.errors import EngineError, InferenceFailed, ModelError, ModelUnreadable, OutputUnwritable

_SECONDS = 0.25
"""That a candidate runs for, at least, beside its first batch."""
_GAIN = 1.03  # noise of so short a measurement; what comes first in a list is the plainer choice
_FORM = 3  # of the file below, and of what engines make of files
_FAST_BF16 = {"amx_bf16"}
"""CPU flags (Linux) of those where bf16 is at most a tenth slower than int8 and closer to fp32. AVX512-BF16 without
AMX runs int8 three times as fast."""
_FAST_INT8 = {"avx512_vnni", "avx_vnni"}
"""Those with instructions for products of bytes: int8 is two to three times as fast as fp32."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a model is run."""

    file: str
    """Name of one of the files that there were to choose from."""
    backend: str
    precision: str
    threads: int
    rate: float
    """Windows per second, when it was measured."""

    def __str__(self) -> str:
        """Name all but the rate."""
        return f"{self.file} with {self.backend} {self.precision}, {self.threads} threads"


_KINDS = {"file": str, "backend": str, "precision": str, "threads": int, "rate": float}
"""Of a choice's fields, as JSON gives them back."""


def open_model(
    files: Mapping[str, Path], *, backend: str = "auto", options: EngineOptions | None = None
) -> tuple[Engine, Path]:
    """Open a generator of which there may be files of several precisions, in a fast way where that is left open.

    On a CPU, precision auto takes what `tune` has measured on this machine; without it, what follows from the CPU's
    instructions and the files: bf16 where the CPU has matrix units for it, else the int8 file where there are
    instructions for int8 and OpenVINO is installed, else the reference as `open_engine` opens it. Batch and threads
    do not decide, nor does the size of a scene.

    Parameters
    ----------
    files
        By precision, the reference first.
    backend, options
        As in `open_engine`. A precision other than auto takes its file, or is the reference's to give; what is not
        auto is not chosen.

    Returns
    -------
    engine, file
        Opened.

    Raises
    ------
    Sar2OpticalError
        As `open_engine` does.
    """
    options = options or EngineOptions()
    reference = next(iter(files.values()))
    if not _left_open(reference, options):
        file = files.get(options.precision, reference)
        return open_engine(file, backend=backend, options=options), file
    choice = _recall(files, backend)
    if choice is not None:
        given = replace(choice, threads=options.threads or choice.threads)
        file = next(file for file in files.values() if file.name == choice.file)
        try:
            engine = open_engine(file, backend=choice.backend, options=_as_chosen(options, given))
        except (EngineError, ModelError) as error:  # a file that another machine wrote, or hands did
            _log.warning("%s: its engine does not open (%s): run sar2opt-doctor --tune again", tuning_file(), error)
        else:
            _log.info("engine chosen by sar2opt-doctor --tune (%s): %s", tuning_file(), choice)
            return engine, file
    file = _usual(files, backend)
    return open_engine(file, backend=backend, options=options), file


def tune(files: Mapping[str, Path], *, backend: str = "auto") -> Choice:
    """Measure which engine is the fastest on this machine's CPU, and keep it for `open_model`.

    Parameters
    ----------
    files
        By precision, the reference first; ONNX.
    backend
        auto, or the only one to measure.

    Returns
    -------
    Choice
        Kept in `tuning_file`.

    Raises
    ------
    ModelUnreadable
        Where there is no ONNX file to choose by.
    EngineError
        Where no backend runs any of the files.
    OutputUnwritable
        Where the choice cannot be kept.
    """
    reference = next(iter(files.values()))
    if not _left_open(reference, EngineOptions(device="cpu")):
        raise ModelUnreadable(f"{reference}: there is nothing to choose for it: give an ONNX file")
    choice = _measure({file.name: file for file in files.values()}, backend)
    if choice is None:
        open_engine(reference, backend=backend, options=EngineOptions(device="cpu")).close()  # says why it cannot run
        raise InferenceFailed(f"{reference}: no engine on this CPU gives its image: run sar2opt-doctor")
    _remember(_key(files, backend), choice)
    return choice


def _left_open(reference: Path, options: EngineOptions) -> bool:
    on_cuda = options.device == "cuda" or (options.device == "auto" and cuda_opens())
    return options.precision == "auto" and not on_cuda and reference.suffix.lower() == ".onnx"


def _usual(files: Mapping[str, Path], backend: str) -> Path:
    """Take the int8 file where OpenVINO runs it faster than the reference, else the reference."""
    flags = set(_processor().split())
    openvino = backend == "openvino" or (backend == "auto" and find_spec(LIBRARIES["openvino"]) is not None)
    if "int8" in files and openvino and flags & _FAST_INT8 and not flags & _FAST_BF16:
        return files["int8"]
    return next(iter(files.values()))


def windows_per_second(engine: Engine, windows: NDArray[np.float32]) -> float:
    """Measure an engine alone, with as many runs in flight as it takes.

    Parameters
    ----------
    engine
        Opened.
    windows
        float32 (n, C, H, W) in [-1, 1], n a multiple of the engine's batch.
    """
    batches = [windows[k : k + engine.batch] for k in range(0, len(windows), engine.batch)]
    with ThreadPoolExecutor(engine.streams) as streams:
        began = time.perf_counter()
        for _ in streams.map(engine.run, batches):
            pass
        return len(windows) / (time.perf_counter() - began)


def _measure(files: Mapping[str, Path], backend: str) -> Choice | None:
    """Measure backends and files with one window a run, then half of the threads; larger batches were not faster."""
    options = EngineOptions(device="cpu")
    threads = default_threads()
    best: Choice | None = None
    for name in BACKENDS[".onnx"]:
        if backend not in ("auto", name) or not find_spec(LIBRARIES[name]):
            continue
        for file in files.values():
            plain = Choice(file=file.name, backend=name, precision="auto", threads=threads, rate=0)
            found = _tried(plain, file, options)
            best = _faster(best, found)
            if found is not None and found.precision == "bf16":  # which is faster where the CPU means it
                best = _faster(best, _tried(replace(plain, precision="fp32"), file, options))
    if best is None:
        return None
    file = files[best.file]
    if threads >= 4:  # two threads of one core may be in each other's way
        best = _faster(best, _tried(replace(best, threads=threads // 2), file, options)) or best
    return best


def _tried(choice: Choice, file: Path, options: EngineOptions) -> Choice | None:
    """Measure a choice; None where it is not for this CPU, or makes another image on it."""
    try:
        with open_engine(file, backend=choice.backend, options=_as_chosen(options, choice)) as engine:
            runs = engine.streams * engine.batch
            sar = np.repeat(question(engine.signature), runs, axis=0)
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
    """Give the file of choices, in `SAR2OPT_CACHE` or the user's cache folder; None where neither is known."""
    folder = cache_folder()
    return folder / "tuning.json" if folder else None


def _key(files: Mapping[str, Path], backend: str) -> str:
    """Name all that a measurement depends on: machine, libraries, files, what was asked."""
    parts = [str(_FORM), platform.node(), platform.machine(), _processor(), str(default_threads()), backend]
    for name in BACKENDS[".onnx"]:
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
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
    if not known:  # nothing to look up: files are not read for their hash
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
    if kinds != _KINDS or found.threads < 1 or found.file not in names or found.backend not in BACKENDS[".onnx"]:
        return None
    return found


def _remember(key: str, choice: Choice) -> None:
    file = tuning_file()
    if file is None:
        raise OutputUnwritable("there is no cache folder to keep the choice in: set SAR2OPT_CACHE to a folder")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**_known(), key: asdict(choice)}, indent=1).encode())
    except OSError as error:
        raise OutputUnwritable(f"{file}: cannot be written ({error.strerror}): set SAR2OPT_CACHE") from error


def _known() -> dict[str, object]:
    file = tuning_file()
    with suppress(OSError, ValueError, RecursionError):
        read = json.loads(file.read_text()) if file else {}
        return read if isinstance(read, dict) else {}
    return {}
