"""What an engine is, and how one is opened: by the file's kind, for a device, at a precision.

An engine says what it really runs on. Asking for a device, backend or precision that is not here is an
error with the remedy, never a silent substitute.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.cores import usable_cores
from sar2optical.engines.self_test import SelfTest, question
from sar2optical.errors import (
    BackendNotInstalled,
    DeviceOutOfMemory,
    DeviceUnavailable,
    InferenceFailed,
    ModelUnreadable,
    NotFinite,
    OptionError,
    SignatureError,
)
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]

BACKENDS = {
    ".onnx": ("openvino", "onnxruntime"),
    ".pth": ("pytorch",),
    ".pt": ("pytorch",),
    ".plan": ("tensorrt",),
    ".engine": ("tensorrt",),
}
"""Backends that run a kind of file, fastest on a CPU first."""

QUANTIZED = ("int8", "fp8")
"""Precisions of which a file may leave layers as they are."""

_EXTRAS = {"openvino": "cpu", "onnxruntime": "cpu", "pytorch": "train", "tensorrt": "tensorrt"}
LIBRARIES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "pytorch": "torch", "tensorrt": "tensorrt"}
"""What each backend imports."""
_CPU_ONLY = ("openvino",)

_log = logging.getLogger(__name__)


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
    fallback: str
    """Precision of what a quantized file leaves as it is; `precision` of other files, and of plans."""
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


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an exported file's metadata say."""

    signature: ModelSignature
    precision: str
    """Of the graph."""
    self_test: SelfTest | None
    """None in files of other exporters, and of releases before it was there."""

    @classmethod
    def read(cls, metadata: Mapping[str, str], path: Path) -> Description:
        """Read a file's metadata.

        Raises
        ------
        SignatureError
            Where they hold no signature, or one that is not understood.
        """
        if METADATA_KEY not in metadata:
            raise SignatureError(
                f"{path}: carries no signature, so nothing says what its input means: export it with sar2opt-export"
            )
        return cls(
            signature=ModelSignature.from_json(metadata[METADATA_KEY], source=str(path)),
            precision=metadata.get(PRECISION_KEY, "fp32"),
            self_test=SelfTest.read(metadata),
        )


class EngineBase(ABC):
    """What all engines share: a description, padding of short batches, the context manager.

    A batch that the device's memory does not hold is halved, and so are the ones after it.
    """

    def __init__(
        self,
        *,
        signature: ModelSignature,
        backend: str,
        device: str,
        precision: str,
        batch: int,
        streams: int,
        self_test: SelfTest | None = None,
        fallback: str | None = None,
    ) -> None:
        self.signature = signature
        self.backend = backend
        self.device = device
        self.precision = precision
        self.fallback = fallback or precision
        self.batch = batch
        self.streams = streams
        self.self_test = self_test
        self._at_once = batch

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
        image = self._halving(np.ascontiguousarray(sar))[:count]
        if not np.isfinite(image).all():
            raise NotFinite(
                f"{self} returned NaN or infinity: give --precision fp32, or export in bf16, whose range is wider"
            )
        return image

    def _halving(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch in as many parts as the device's memory asks for."""
        while True:
            size = self._at_once
            try:
                parts = [self._infer(sar[k : k + size]) for k in range(0, len(sar), size)]
            except DeviceOutOfMemory:
                if size == 1:
                    raise
                if size == self._at_once:  # another stream may have said so already
                    self._at_once = size // 2
                    _log.warning("%s: out of memory with %d windows at once, going on with %d", self, size, size // 2)
                continue
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @abstractmethod
    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translate a full batch, or the part of one that the device's memory holds."""

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
        `.onnx` with a signature in its metadata, a `.pth` checkpoint, or a `.plan` with its `.plan.json`.
    backend
        auto, openvino, onnxruntime, pytorch or tensorrt; auto takes the first installed one.
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
        Where the device or precision is not available with that backend, or it gives another image than what was
        exported.
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
    except (ImportError, OSError) as error:  # installed, and does not load
        raise BackendNotInstalled(
            f"{name} is installed and does not load ({' '.join(str(error).split())[:100]}): see sar2opt-doctor"
        ) from error
    engine: EngineBase = module.open(path, options)
    _try_out(engine, path)
    return engine


def _try_out(engine: EngineBase, path: Path) -> None:
    """Run one batch: a model that is not what its signature says is refused here, and not after hours.

    The same goes for a library that makes something else of the file than what was exported, see `SelfTest`.
    It also has the libraries finish their setting up on one thread. Two first runs at once were seen to wait for each
    other for ever in OpenVINO's Python layer.
    """
    signature = engine.signature
    side, batch = signature.window, engine.batch
    asked = np.repeat(question(signature), batch, axis=0)
    try:
        image = engine.run(asked)
    except (DeviceOutOfMemory, NotFinite):  # say themselves what to do
        engine.close()
        raise
    except InferenceFailed as error:
        engine.close()
        raise ModelUnreadable(
            f"{path}: does not run on the input of its own signature, {asked.shape} ({error}): export it again"
        ) from error
    if image.shape != (batch, 3, side, side) or image.dtype != np.float32:
        engine.close()
        raise ModelUnreadable(
            f"{path}: gives {image.dtype} {image.shape} for {asked.shape}, not float32 {(batch, 3, side, side)}: "
            "give an RGB generator"
        )
    expected = engine.self_test
    if expected and not (found := expected.agreement(image[:1])) >= expected.floor:
        engine.close()
        raise DeviceUnavailable(
            f"{path}: {engine} gives another image than what was exported ({found:.1f} dB, at least "
            f"{expected.floor:.0f} expected): give another --backend or --precision"
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
    return usable_cores()


def cuda_opens() -> bool:
    """Say whether ONNX Runtime runs on CUDA here; asked only where the wheel for it is installed, which is slow."""
    try:
        version("onnxruntime-gpu")
        engine = import_module("sar2optical.engines.onnxruntime")
    except (PackageNotFoundError, ImportError):
        return False
    return engine.cuda_problem() is None


def _first_installed(candidates: tuple[str, ...], options: EngineOptions, path: Path) -> str:
    on_cuda = options.device == "cuda" or (options.device == "auto" and "onnxruntime" in candidates and cuda_opens())
    fit = [name for name in candidates if not on_cuda or name not in _CPU_ONLY]
    for name in fit:
        if find_spec(LIBRARIES[name]):
            return name
    extra = "gpu" if options.device == "cuda" else _EXTRAS[candidates[0]]
    raise BackendNotInstalled(
        f"{path.name} on {options.device} needs {' or '.join(LIBRARIES[name] for name in fit)}: "
        f"pip install 'sar2optical[{extra}]'"
    )


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(names) or "none"
