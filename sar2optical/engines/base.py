"""What an engine is, and how one is opened: by the file's kind, for a device, at a precision.

An engine says what it really runs on. Asking for a device, backend or precision that is not here is an
error with the remedy, never a silent substitute.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import (
    BackendNotInstalled,
    DeviceUnavailable,
    InferenceFailed,
    ModelUnreadable,
    OptionError,
)
from sar2optical.signature import ModelSignature

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]

BACKENDS = {
    ".onnx": ("openvino", "onnxruntime"),
    ".pth": ("pytorch",),
    ".pt": ("pytorch",),
}
"""Backends that run a kind of file, fastest on a CPU first."""

_EXTRAS = {"openvino": "cpu", "onnxruntime": "cpu", "pytorch": "train"}
_LIBRARIES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "pytorch": "torch"}
_CPU_ONLY = ("openvino",)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to run a model."""

    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "auto"
    """Of the arithmetic; auto takes the fastest that the backend vouches for."""
    threads: int | None = None
    """CPU threads of the engine; all where None."""
    batch: int = 1
    """Windows per run. On a CPU larger ones were not faster: more of a batch falls out of the caches."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}: give 1 or more")
        if self.batch < 1:
            raise OptionError(f"batch size is {self.batch}: give 1 or more")


class Engine(Protocol):
    """A loaded, runnable generator; a context manager that gives its memory back."""

    signature: ModelSignature
    """What the model expects."""
    backend: str
    """Library that runs it."""
    device: str
    """What it really runs on, as the library names it."""
    precision: str
    """Precision of the arithmetic, as the library reports it."""
    batch: int
    """Windows per run; a shorter one is padded inside."""
    streams: int
    """Runs that may be in flight at once, each from a thread of its own."""

    def run(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translate a batch.

        Parameters
        ----------
        sar
            float32 (N, C, H, W) in [-1, 1], C and H = W as in the signature, 1 <= N <= batch.

        Returns
        -------
        ndarray
            float32 (N, 3, H, W) in [-1, 1], the caller's own.

        Raises
        ------
        InferenceFailed
            Where the library stops.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EngineBase(ABC):
    """What all engines share: a description, padding of short batches, the context manager."""

    def __init__(
        self,
        *,
        signature: ModelSignature,
        backend: str,
        device: str,
        precision: str,
        batch: int,
        streams: int,
    ) -> None:
        self.signature = signature
        self.backend = backend
        self.device = device
        self.precision = precision
        self.batch = batch
        self.streams = streams

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} on {self.device}"

    def run(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translate a batch; see `Engine.run`."""
        signature, count = self.signature, len(sar)
        expected = (signature.channels, signature.window, signature.window)
        if sar.dtype != np.float32 or sar.shape[1:] != expected or not 1 <= count <= self.batch:
            raise InferenceFailed(
                f"input is {sar.dtype} {sar.shape}, the engine takes float32 (1 to {self.batch}, "
                f"{', '.join(map(str, expected))})"
            )
        if count < self.batch:
            # Padded, never reshaped: another batch size could pick other kernels, and so other rounding.
            sar = np.concatenate((sar, np.zeros((self.batch - count, *expected), np.float32)))
        return self._infer(np.ascontiguousarray(sar))[:count]

    @abstractmethod
    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translate a full batch."""

    @abstractmethod
    def close(self) -> None:
        """Release what the engine holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(path: Path, *, backend: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open a model file with the backend that fits.

    Parameters
    ----------
    path
        `.onnx` with a signature in its metadata, or a `.pth` checkpoint.
    backend
        auto, openvino, onnxruntime or pytorch; auto takes the fastest installed one.
    options
        Device, precision, threads, batch.

    Returns
    -------
    Engine

    Raises
    ------
    ModelUnreadable, SignatureError, CheckpointMismatch
        Where the file is missing, corrupt, of another kind, or says not what it expects.
    BackendNotInstalled
        Where no library that runs it is installed.
    DeviceUnavailable
        Where the device or precision is not available with that backend.
    """
    options = options or EngineOptions()
    candidates = BACKENDS.get(path.suffix.lower())
    if candidates is None:
        raise ModelUnreadable(f"{path}: unknown kind of model {path.suffix!r}: give {_any_of(BACKENDS)}")
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    if backend != "auto" and backend not in candidates:
        raise OptionError(f"backend {backend} does not run {path.suffix} files: give {_any_of(candidates)}")
    name = backend if backend != "auto" else _first_installed(candidates, options, path)
    try:
        module = import_module(f"sar2optical.engines.{name}")
    except ModuleNotFoundError as error:  # the one guard for optional libraries
        raise BackendNotInstalled(
            f"{path.name} with {name} needs {error.name}: pip install 'sar2optical[{_EXTRAS[name]}]'"
        ) from error
    engine: Engine = module.open(path, options)
    _try_out(engine, path)
    return engine


def _try_out(engine: Engine, path: Path) -> None:
    """Run one blank batch: a model that is not what its signature says is refused here, and not after hours.

    It also has the libraries finish their setting up on one thread. Two first runs at once were seen to wait for each
    other for ever in OpenVINO's Python layer.
    """
    signature = engine.signature
    side, batch = signature.window, engine.batch
    blank = np.zeros((batch, signature.channels, side, side), np.float32)
    try:
        image = engine.run(blank)
    except InferenceFailed as error:
        engine.close()
        raise ModelUnreadable(
            f"{path}: does not run on the input of its own signature, {blank.shape} ({error}): export it again"
        ) from error
    if image.shape != (batch, 3, side, side) or image.dtype != np.float32:
        engine.close()
        raise ModelUnreadable(
            f"{path}: gives {image.dtype} {image.shape} for {blank.shape}, not float32 {(batch, 3, side, side)}: "
            "give an RGB generator"
        )


def refuse_unless(what: str, asked: str, backend: str, available: Iterable[str]) -> None:
    """Raise where a device or precision is not one of those that a backend has here.

    Raises
    ------
    DeviceUnavailable
        With those that there are.
    """
    names = list(available)
    if asked not in names:
        raise DeviceUnavailable(f"{what} {asked} is not available with {backend}: give {_any_of(names)}")


def default_threads() -> int:
    """Give the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_installed(candidates: tuple[str, ...], options: EngineOptions, path: Path) -> str:
    fit = [name for name in candidates if options.device != "cuda" or name not in _CPU_ONLY]
    for name in fit:
        if find_spec(_LIBRARIES[name]):
            return name
    extra = "gpu" if options.device == "cuda" else _EXTRAS[candidates[0]]
    raise BackendNotInstalled(
        f"{path.name} on {options.device} needs {' or '.join(_LIBRARIES[name] for name in fit)}: "
        f"pip install 'sar2optical[{extra}]'"
    )


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(names) or "none"
