"""The interface of all engines: options, the description of an engine file, and running a batch.

An engine reports the device and precision that it runs with. A device or precision that is not available is an
error, never a silent substitute.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.cores import usable_cores
from sar2optical.engines.adapter import Adapter, Feeds, Place
from sar2optical.engines.self_test import SelfTest
from sar2optical.errors import (
    DeviceOutOfMemory,
    DeviceUnavailable,
    InferenceFailed,
    NotFinite,
    OptionError,
    SignatureError,
)
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]

__all__ = [
    "GPU_BATCH",
    "QUANTIZED",
    "Description",
    "Engine",
    "EngineOptions",
    "Precision",
    "any_of",
    "default_threads",
    "refuse_unless",
]

GPU_BATCH = 32
"""Windows per run on a GPU: an H200 ran 16 to 64 windows of 256 x 256 at the same rate."""

QUANTIZED = ("int8", "fp8")
"""Precisions in which a file may keep some layers in fp32."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of an engine."""

    device: str = "auto"
    """Device: auto, or one of `sar2optical.engines.registry.DEVICES`."""
    precision: Precision = "auto"
    """Precision of the arithmetic. auto: that of the file, with these exceptions. onnxruntime runs fp16 files in fp32
    on a CPU. openvino runs files with a signature of version 2 in fp32, others that are not int8 or fp8 in bf16 if
    the CPU has it, else in fp32; in fp16 on Intel graphics. On a GPU, an fp32 ONNX file runs in bf16 in pytorch (fp16
    or fp32 on older cards) and in fp16 in tensorrt_rtx. Checkpoints run in fp32."""
    threads: int | None = None
    """Number of CPU threads; None: all that this process may use."""
    batch: int | None = None
    """Windows per run; None: see `batch_on`."""
    signature: ModelSignature | None = None
    """Signature of an ONNX file, instead of the one in its metadata; None: that one."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}: give 1 or more")
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"batch size is {self.batch}: give 1 or more")

    def batch_on(self, device: str) -> int:
        """Return the windows per run on a device, cpu or another.

        On a CPU, larger batches than 1 were not faster: they fit the caches less well.
        """
        return self.batch or (1 if device == "cpu" else GPU_BATCH)


@dataclass(frozen=True, kw_only=True)
class Description:
    """Metadata of an exported file."""

    signature: ModelSignature
    precision: str
    """Precision of the graph."""
    self_test: SelfTest | None
    """Self-test; None in files of other exporters, and of releases that had none."""

    @classmethod
    def read(cls, metadata: Mapping[str, str], path: Path, given: ModelSignature | None = None) -> Description:
        """Read a file's metadata.

        Parameters
        ----------
        metadata
            Metadata of the file.
        path
            Path of the file, for errors.
        given
            Signature that replaces the file's own; its self-test, which belongs to that one, is then left out.

        Raises
        ------
        SignatureError
            If they hold no signature, or one that cannot be read.
        """
        if given is not None:
            return cls(signature=given, precision=metadata.get(PRECISION_KEY, "fp32"), self_test=None)
        if METADATA_KEY not in metadata:
            raise SignatureError(
                f"{path}: has no signature, so bands, unit and stretch of its input are unknown: "
                "export it with sar2opt-export, or give --signature FILE"
            )
        return cls(
            signature=ModelSignature.from_json(metadata[METADATA_KEY], source=str(path)),
            precision=metadata.get(PRECISION_KEY, "fp32"),
            self_test=SelfTest.read(metadata),
        )


class Engine(ABC):
    """A loaded, runnable generator; a context manager that releases its memory.

    Subclasses implement `_infer` and `close`. A batch that does not fit the device's memory is halved, and so are
    the following ones.

    Parameters
    ----------
    signature
        What the model expects.
    backend
        Name of the backend.
    device
        Device that the model runs on, as the library names it.
    precision
        Precision of the arithmetic, as the library reports it.
    batch
        Windows per run; a shorter batch is padded.
    streams
        Runs that may be in flight at once, each from its own thread.
    self_test
        Input and output stored in the file; None if it has none.
    fallback
        Precision of the layers that a quantized file does not quantize; `precision` of other files.
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
        self.window = signature.window
        """Height and width of the windows that `run` takes; see `use_window`."""
        self.adapter: Adapter | None = None
        """Adapter of a graph with tensors that are not ours."""
        self._at_once = batch

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} on {self.device}"

    @property
    def windows(self) -> tuple[int, ...]:
        """Heights and widths that `use_window` takes, ascending; the model's own first."""
        return self.signature.sides

    def use_window(self, side: int) -> None:
        """Take windows of another height and width; no batch may be in flight.

        Raises
        ------
        OptionError
            If the file does not take such windows.
        """
        if side not in self.windows:
            raise OptionError(
                f"window is {side}, but {self.signature.name} in {self.backend} takes "
                f"{any_of(map(str, self.windows))}: give one of these, or export the model with --windows"
            )
        if side != self.window:
            self._resize(side)
            self.window = side

    def _resize(self, side: int) -> None:  # noqa: B027 - nothing to do where a library takes any size
        """Prepare for windows of another size, one of `windows`."""

    def run(self, sar: NDArray[np.float32], places: Sequence[Place] = ()) -> NDArray[np.float32]:
        """Translate a batch.

        Parameters
        ----------
        sar
            float32 (N, C, H, W), scaled as in the signature; C as there, H = W = `window`, 1 <= N <= batch.
        places
            Row and column of each window's first pixel in the scene; only for a model with a noise input.

        Returns
        -------
        ndarray
            float32 (N, K, H, W), in the signature's range; the caller owns it.

        Raises
        ------
        InferenceFailed
            If the library stops, or the output has another shape.
        NotFinite
            If the output holds NaN or infinity.
        """
        signature, count = self.signature, len(sar)
        expected = (signature.channels, self.window, self.window)
        if sar.dtype != np.float32 or sar.shape[1:] != expected or not 1 <= count <= self.batch:
            raise InferenceFailed(
                f"input is {sar.dtype} {sar.shape}, the engine takes float32 (1 to {self.batch}, "
                f"{', '.join(map(str, expected))})"
            )
        if self.adapter is not None:
            image = self.adapter.run(self._infer_feeds, sar, places)
        else:
            if count < self.batch:
                # Padded, never reshaped: another batch size could pick other kernels, and so other rounding.
                sar = np.concatenate((sar, np.zeros((self.batch - count, *expected), np.float32)))
            image = self._halving(np.ascontiguousarray(sar))[:count]
        made = (count, len(signature.output.bands), self.window, self.window)
        if image.shape != made or image.dtype != np.float32:
            remedy = "" if self.window == signature.window else f": give --window {signature.window}"
            raise InferenceFailed(f"{self} returns {image.dtype} {image.shape}, not float32 {made}{remedy}")
        if not np.isfinite(image).all():
            raise self.not_finite()
        return image

    def _infer_feeds(self, feeds: Feeds) -> NDArray[np.floating]:
        """Run a graph with tensors that are not ours, once; only backends that set `adapter` have it."""
        raise InferenceFailed(f"{self} does not run this graph: give --backend onnxruntime")

    def not_finite(self) -> NotFinite:
        """Return the error of an output that holds NaN or infinity."""
        return NotFinite(
            f"{self} returned NaN or infinity: give --precision fp32, or export it with --precision bf16, "
            "which has a wider range than fp16"
        )

    def _halving(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch in as many pieces as the device's memory requires."""
        while True:
            size = self._at_once
            try:
                parts = [self._infer(sar[k : k + size]) for k in range(0, len(sar), size)]
            except DeviceOutOfMemory:
                if size == 1:
                    raise
                self._halve(size)
                continue
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, size: int) -> None:
        if size == self._at_once:  # another stream may have halved it already
            self._at_once = size // 2
            _log.warning("%s: out of memory with %d windows at once; continuing with %d", self, size, size // 2)

    @abstractmethod
    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translate a full batch, or the piece of one that fits the device's memory."""

    @abstractmethod
    def close(self) -> None:
        """Release what the engine holds; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_unless(what: str, asked: str, backend: str, available: Iterable[str]) -> None:
    """Raise if a device or precision is not one that a backend has on this machine.

    Raises
    ------
    DeviceUnavailable
        Listing the available ones.
    """
    names = list(available)
    if asked not in names:
        raise DeviceUnavailable(f"{what} {asked} is not available with {backend}: give {any_of(names)}")


def default_threads() -> int:
    """Number of CPU cores that this process may use."""
    return usable_cores()


def any_of(names: Iterable[str]) -> str:
    """Join names with "or"."""
    return " or ".join(names) or "none"
