"""Which of several files, backends and settings is the fastest here: measured once, and remembered.

Rates differ by more than a factor of two from CPU to CPU, and not in an order that a table could hold: int8 is nine
times as fast as the seed's loop where the CPU has VNNI, and not twice as fast as fp32 where it has not.
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
from sar2optical.engines.known_answer import question
from sar2optical.errors import EngineError, ModelError
from sar2optical.files import cache_folder, write_whole

WORTHWHILE = 1000
"""Windows from which on measuring pays: it takes some seconds, and seldom gains more than half of the time."""

_BATCH = 4
_SECONDS = 0.25
"""That a candidate runs for, at least, beside its first batch."""
_GAIN = 1.03  # noise of so short a measurement; what comes first in a list is the plainer choice
_FORM = 2  # of the file below, and of what engines make of files
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a model is run."""

    file: str
    """Name of one of the files that there were to choose from."""
    backend: str
    precision: str
    batch: int
    threads: int
    rate: float
    """Windows per second, when it was measured."""


_KINDS = {"file": str, "backend": str, "precision": str, "batch": int, "threads": int, "rate": float}
"""Of a choice's fields, as JSON gives them back."""


def open_model(
    files: Mapping[str, Path], *, backend: str = "auto", options: EngineOptions | None = None, windows: int = 0
) -> tuple[Engine, Path]:
    """Open a generator of which there may be files of several precisions, in the fastest way where that is left open.

    Parameters
    ----------
    files
        By precision, the reference first.
    backend, options
        As in `open_engine`. A precision other than auto takes its file, or is the reference's to give; what is not
        auto is not chosen.
    windows
        That will be run. Under `WORTHWHILE` nothing is measured: what was chosen on this machine before is taken, or
        else the reference as `open_engine` opens it.

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
    on_cuda = options.device == "cuda" or (options.device == "auto" and cuda_opens())
    if options.precision != "auto" or on_cuda or reference.suffix.lower() != ".onnx":
        file = files.get(options.precision, reference)
        return open_engine(file, backend=backend, options=options), file
    if windows < WORTHWHILE and not _known():  # nothing to look up: files are not read for their hash
        return open_engine(reference, backend=backend, options=options), reference
    by_name = {file.name: file for file in files.values()}
    # Batch and threads asked for do not decide what runs: they must not change the image.
    neutral = replace(options, batch=1, threads=None)
    key = _key(by_name, backend, neutral)
    choice = _recall(key, by_name)
    if choice is None and windows >= WORTHWHILE:
        choice = _measure(by_name, backend, neutral)
        if choice is not None:
            _remember(key, choice)
    if choice is not None:
        try:
            given = replace(
                choice,
                batch=choice.batch if options.batch == 1 else options.batch,
                threads=options.threads or choice.threads,
            )
            engine = open_engine(by_name[choice.file], backend=choice.backend, options=_as_chosen(options, given))
        except (EngineError, ModelError) as error:  # a cache that another machine wrote, or hands did
            _log.warning("what was measured to be the fastest does not open (%s): the reference is taken", error)
        else:
            _log.info("measured to be the fastest here, with %.0f windows/s: %s", choice.rate, _named(choice))
            return engine, by_name[choice.file]
    return open_engine(reference, backend=backend, options=options), reference


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


def _measure(files: Mapping[str, Path], backend: str, options: EngineOptions) -> Choice | None:
    """Measure backends and files with one window a run; then larger batches, then half of the threads."""
    _log.info("measuring which engine is the fastest here; this is done once")
    threads = default_threads()
    best: Choice | None = None
    for name in BACKENDS[".onnx"]:
        if backend not in ("auto", name) or not find_spec(LIBRARIES[name]):
            continue
        for file in files.values():
            plain = Choice(file=file.name, backend=name, precision="auto", batch=1, threads=threads, rate=0)
            found = _tried(plain, file, options)
            best = _faster(best, found)
            if found is not None and found.precision == "bf16":  # which is faster where the CPU means it
                best = _faster(best, _tried(replace(plain, precision="fp32"), file, options))
    if best is None:
        return None
    file = files[best.file]
    best = _faster(best, _tried(replace(best, batch=_BATCH), file, options)) or best
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
        _log.debug("%s: %s", _named(choice), error)
        return None
    _log.debug("%s: %.1f windows/s", _named(found), found.rate)
    return found


def _faster(best: Choice | None, other: Choice | None) -> Choice | None:
    if best is None or other is None:
        return best or other
    return other if other.rate > _GAIN * best.rate else best


def _as_chosen(options: EngineOptions, choice: Choice) -> EngineOptions:
    precision: Precision = choice.precision  # type: ignore[assignment]
    return replace(options, device="cpu", precision=precision, batch=choice.batch, threads=choice.threads)


def _named(choice: Choice) -> str:
    return f"{choice.file} with {choice.backend} {choice.precision}, {choice.threads} threads, batch {choice.batch}"


def cache_file() -> Path | None:
    """Give the file of choices, in `SAR2OPT_CACHE` or the user's cache folder; None where neither is known."""
    folder = cache_folder()
    return folder / "engines.json" if folder else None


def _key(files: Mapping[str, Path], backend: str, options: EngineOptions) -> str:
    """Name all that a measurement depends on: machine, libraries, files, what was asked."""
    parts = [str(_FORM), platform.node(), platform.machine(), _processor(), str(default_threads()), backend]
    parts.append(json.dumps(asdict(options)))
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


def _recall(key: str, files: Mapping[str, Path]) -> Choice | None:
    choice = _known().get(key)
    if not isinstance(choice, dict):
        return None
    try:
        found = Choice(**choice)
    except TypeError:
        return None
    kinds = {name: type(getattr(found, name)) for name in choice}
    counts = (found.batch, found.threads)
    if kinds != _KINDS or min(counts) < 1 or found.file not in files or found.backend not in BACKENDS[".onnx"]:
        return None
    return found


def _remember(key: str, choice: Choice) -> None:
    """Keep a choice; a folder that takes no files costs the next run its measuring, and no more."""
    file = cache_file()
    if file is not None:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps({**_known(), key: asdict(choice)}, indent=1).encode())


def _known() -> dict[str, object]:
    file = cache_file()
    with suppress(OSError, ValueError, RecursionError):
        read = json.loads(file.read_text()) if file else {}
        return read if isinstance(read, dict) else {}
    return {}
