"""The PyTorch backend: runs checkpoints without an export, on a GPU as CUDA graphs.

The CPU and CUDA share their code, so that tests on a CPU cover all but streams, pinned memory and graphs.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from queue import LifoQueue
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sar2optical.engines.base import EngineOptions, default_threads, refuse_unless
from sar2optical.engines.tensors import TensorEngine
from sar2optical.errors import DeviceOutOfMemory, InferenceFailed
from sar2optical.models.checkpoint import load_generator
from sar2optical.models.generator import Generator
from sar2optical.models.wide import larger_windows, zero_unused_taps
from sar2optical.signature import ModelSignature

__all__ = ["DTYPES", "STREAMS", "PyTorchEngine", "open"]

STREAMS = 4
"""Batches in flight on a GPU: while one is computed, others are copied, encoded and blended. An H200 ran 6,200
windows/s of a narrow generator in bf16 with two streams, 10,900 with three, 13,600 with four."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Types of the arithmetic, by the name of the precision."""

_OUT_OF_MEMORY = ("out of memory", "alloc_failed")  # messages of PyTorch; of cuDNN and cuBLAS

_log = logging.getLogger(__name__)


class PyTorchEngine(TensorEngine):
    """A generator in eval mode, in channels-last layout, with one slot for each batch in flight.

    In fp16 and bf16, convolutions run in that precision. Batch norms keep their statistics in fp32, because 8
    significant bits are too few for them. Input and output are fp32.

    Parameters
    ----------
    generator
        Generator; moved to the device and converted in place.
    signature
        What the generator expects.
    device
        CPU, or one CUDA device.
    precision
        Key of `DTYPES`.
    batch
        Windows per run.
    streams
        Batches in flight at once.
    """

    def __init__(
        self,
        generator: Generator,
        signature: ModelSignature,
        *,
        device: torch.device,
        precision: str,
        batch: int,
        streams: int,
    ) -> None:
        cuda = device.type == "cuda"
        where = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
        super().__init__(
            signature=signature,
            backend="pytorch",
            device=f"{device.type} ({where})",
            precision=precision,
            batch=batch,
            streams=streams,
        )
        self.tensor_device = device
        dtype = DTYPES[precision]
        generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in generator.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.to(dtype)
        self._settings = _settings(device)
        self._slots = streams
        self._idle: LifoQueue[_Slot] = LifoQueue()  # a warm slot first
        preparing = Lock()
        for _ in range(streams):
            self._idle.put(_Slot(generator, signature, device, dtype, preparing))

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._slots:
            raise InferenceFailed(f"{self} is closed: open it again")
        # The last piece of a halved batch is padded to the half, so that one graph serves all pieces.
        size = max(len(sar), self._at_once)
        slot = self._idle.get()
        try:
            return slot.run(sar, size)
        except RuntimeError as error:
            raise _stopped(error, size) from error
        finally:
            self._idle.put(slot)

    def _infer_tensors(self, sar: torch.Tensor, size: int) -> torch.Tensor:
        if not self._slots:
            raise InferenceFailed(f"{self} is closed: open it again")
        slot = self._idle.get()
        try:
            return slot.run_tensors(sar, size)
        except RuntimeError as error:
            raise _stopped(error, size) from error
        finally:
            self._idle.put(slot)

    def _resize(self, side: int) -> None:
        slots = [self._idle.get() for _ in range(self._slots)]
        for slot in slots:
            slot.use_window(side)
            self._idle.put(slot)

    def close(self) -> None:
        """Wait for the batches in flight, release the generator and restore PyTorch's settings."""
        slots, self._slots = self._slots, 0
        for _ in range(slots):
            self._idle.get().close()
        self._settings.close()


def open(path: Path, options: EngineOptions) -> PyTorchEngine:
    """Load a checkpoint; it also takes the larger windows that an export of it takes by default.

    Parameters
    ----------
    path
        Checkpoint (`.pth`), see `load_generator`.
    options
        Device, precision, threads and batch size.

    Raises
    ------
    ModelError
        If the checkpoint cannot be loaded.
    DeviceUnavailable
        If the device or the precision is not available.
    DeviceOutOfMemory
        If the generator does not fit the GPU's memory.
    """
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    kind = options.device if options.device != "auto" else available[-1]
    refuse_unless("device", kind, "pytorch", available)
    precision = options.precision if options.precision != "auto" else "fp32"
    refuse_unless("precision", precision, f"pytorch on {kind}", _precisions(kind))
    generator, signature = load_generator(path)
    zero_unused_taps(generator, signature.window)
    signature = replace(signature, windows=signature.windows or larger_windows(signature.window))
    cuda = kind == "cuda"
    try:
        return PyTorchEngine(
            generator,
            signature,
            device=torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu"),
            precision=precision,
            batch=options.batch,
            streams=STREAMS if cuda else options.threads or default_threads(),
        )
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            f"{path}: the model does not fit the GPU's memory ({_line(error)}): free GPU memory"
        ) from error


class _Slot:
    """State of one batch in flight: buffers for one batch size, and on a GPU a stream and a graph.

    Memory is allocated at the first run of a size, so that a size that does not fit can be halved and tried again.
    """

    def __init__(
        self,
        generator: Generator,
        signature: ModelSignature,
        device: torch.device,
        dtype: torch.dtype,
        preparing: Lock,
    ) -> None:
        self._generator: Generator | None = generator
        self._channels = signature.channels
        self._side = signature.window
        self._device = device
        self._dtype = dtype
        self._preparing = preparing
        self._buffers: _Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._done: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Blocking: a core that does not spin can read and write rasters.
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def run(self, sar: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Translate a batch of at most `size`, padded to it."""
        with self._on_stream():
            buffers = self._buffers
            if buffers is None or buffers.size != size:
                with self._preparing:
                    buffers = self._prepare(size)
            buffers.fill(sar)
            # The caller owns the result, so it is new in each run. PyTorch pools pinned memory: no page is mapped
            # again, and the GPU writes into the result directly.
            made = torch.empty(buffers.optical.shape, pin_memory=self._device.type == "cuda")
            try:
                buffers.sar.copy_(buffers.host_sar, non_blocking=True)
                if self._graph is not None:
                    self._graph.replay()
                else:
                    self._compute(buffers)
                made.copy_(buffers.optical, non_blocking=True)
                self._wait()
            except BaseException:
                with suppress(RuntimeError):  # copies in flight would write into the next batch's buffers
                    self._wait()
                raise
        image: NDArray[np.float32] = made.numpy()[: len(sar)]
        return image

    @torch.inference_mode()
    def run_tensors(self, sar: torch.Tensor, size: int) -> torch.Tensor:
        """Translate a batch that is on the device, on the current stream, into this slot's buffer."""
        buffers = self._buffers
        if buffers is None or buffers.size != size:
            with self._on_stream(), self._preparing:
                buffers = self._prepare(size)
                self._wait()
        buffers.sar[: len(sar)].copy_(sar)
        buffers.sar[len(sar) :].zero_()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._compute(buffers)
        return buffers.optical

    def use_window(self, side: int) -> None:
        """Take windows of another height and width; buffers are made at the next run."""
        self._side = side
        self._graph = None
        self._buffers = None

    def close(self) -> None:
        """Release all memory; no batch may be in flight."""
        self._graph = None  # before the memory that it refers to
        self._buffers = None
        self._generator = None

    def _prepare(self, size: int) -> _Buffers:
        """Allocate buffers for a batch size, and record the graph."""
        self._graph = None
        self._buffers = None  # frees the memory of the previous size
        buffers = _Buffers((size, self._channels, self._side, self._side), self._device)
        if self._stream is not None:
            self._graph = self._capture(buffers, self._stream)
        self._buffers = buffers
        return buffers

    def _compute(self, buffers: _Buffers) -> None:
        assert self._generator is not None, "the engine is closed"
        given = buffers.sar.to(self._dtype, memory_format=torch.channels_last)
        buffers.optical.copy_(self._generator(given))

    def _capture(self, buffers: _Buffers, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph | None:
        """Run once, because libraries initialise in the first run of a shape, then record a run as a graph."""
        buffers.sar.zero_()
        self._compute(buffers)
        stream.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            # thread_local: the threads of other slots may be running.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._compute(buffers)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _warn_of_graphs(_line(error))
            return None
        return graph

    def _on_stream(self) -> AbstractContextManager[object]:
        """Select the slot's stream and GPU; a new thread starts with GPU 0."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None and self._done is not None:
            self._done.record(self._stream)
            self._done.synchronize()


class _Buffers:
    """Memory for one batch size: on the device, and for the input on the host, pinned for asynchronous copies."""

    def __init__(self, given: tuple[int, int, int, int], device: torch.device) -> None:
        made, pinned = (given[0], 3, *given[2:]), device.type == "cuda"
        self.size = given[0]
        self.host_sar = torch.empty(given, pin_memory=pinned)
        self.sar = torch.empty(given, device=device)
        self.optical = torch.empty(made, device=device)

    def fill(self, sar: NDArray[np.float32]) -> None:
        """Copy a batch into the host buffer, padded with zeros."""
        given, count = self.host_sar.numpy(), len(sar)
        given[:count], given[count:] = sar, 0


def _precisions(kind: str) -> list[str]:
    if kind == "cpu":
        return ["fp32", "bf16"]
    return ["fp32", "fp16", *(["bf16"] if torch.cuda.is_bf16_supported(including_emulation=False) else [])]


def _settings(device: torch.device) -> ExitStack:
    """Change process-wide settings of PyTorch until the stack is closed."""
    stack = ExitStack()
    if device.type == "cpu":
        # One thread per run: with two threads on one window, bf16 rounded differently from batch to batch.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
    else:
        # No TF32 in fp32; deterministic, so that a resumed run gives the same pixels.
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        stack.enter_context(flags)
    return stack


def _stopped(error: RuntimeError, size: int) -> InferenceFailed:
    reason = _line(error)
    if isinstance(error, torch.OutOfMemoryError) or any(sign in reason.lower() for sign in _OUT_OF_MEMORY):
        return DeviceOutOfMemory(
            f"{size} windows at once do not fit the GPU's memory ({reason}): give a smaller --batch-size"
        )
    return InferenceFailed(f"PyTorch failed: {reason}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@cache  # one warning for all slots
def _warn_of_graphs(reason: str) -> None:
    _log.warning("CUDA graphs are not available (%s): falling back to launching kernels one by one", reason)
