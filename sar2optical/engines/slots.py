"""Batches in flight, shared by the engines that compute on PyTorch's memory: buffers, streams and CUDA graphs.

The CPU and CUDA share their code, so that tests on a CPU cover all but streams, pinned memory and graphs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from queue import LifoQueue
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical.engines.tensors import TensorEngine
from sar2optical.errors import DeviceOutOfMemory, InferenceFailed
from sar2optical.signature import ModelSignature

__all__ = ["Network", "Slot", "SlotEngine", "is_out_of_memory", "one_line", "stopped"]

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "alloc_failed", "cudaerrormemoryallocation")
"""Messages of PyTorch, TensorRT, cuDNN and cuBLAS, and CUDA; in lower case."""

_log = logging.getLogger(__name__)


class Network(ABC):
    """A generator as one slot runs it."""

    name: str
    """Name of the library, for messages."""
    records = True
    """Whether a run is recorded as a CUDA graph; False for libraries that record graphs themselves."""

    @abstractmethod
    def prepare(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Prepare for runs on these buffers, float32 (N, C, side, side) and (N, 3, side, side)."""

    @abstractmethod
    def run(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Translate one buffer into the other; on a GPU this only starts the work."""

    @abstractmethod
    def close(self) -> None:
        """Release the generator."""


class Slot:
    """State of one batch in flight: buffers for one batch size, and on a GPU a stream and a graph.

    Memory is allocated at the first run of a size, so that a size that does not fit can be halved and tried again.

    Parameters
    ----------
    network
        Generator of this slot.
    signature
        Channels and window of the input.
    device
        CPU, or one CUDA device.
    preparing
        Lock of all slots of an engine: libraries initialise in one slot at a time.
    """

    def __init__(self, network: Network, signature: ModelSignature, device: torch.device, preparing: Lock) -> None:
        self.network = network
        self._channels = signature.channels
        self._side = signature.window
        self._device = device
        self._preparing = preparing
        self._host: torch.Tensor | None = None
        self._sar: torch.Tensor | None = None
        self._optical: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._done: torch.cuda.Event | None = None
        if device.type == "cuda":
            # On the default stream, libraries would wait for the whole device.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Blocking: a core that does not spin can read and write rasters.
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def run(self, sar: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Translate a batch of at most `size`, padded to it."""
        with self._on_stream():
            if self._host is None or len(self._host) != size:
                with self._preparing:
                    self._prepare(size)
            assert self._host is not None
            assert self._sar is not None
            assert self._optical is not None
            given, count = self._host.numpy(), len(sar)
            given[:count], given[count:] = sar, 0
            # The caller owns the result, so it is new in each run. PyTorch pools pinned memory: no page is mapped
            # again, and the GPU writes into the result directly.
            made = torch.empty(self._optical.shape, pin_memory=self._device.type == "cuda")
            try:
                self._sar.copy_(self._host, non_blocking=self._stream is not None)
                if self._graph is not None:
                    self._graph.replay()
                else:
                    self.network.run(self._sar, self._optical, self._stream)
                made.copy_(self._optical, non_blocking=self._stream is not None)
                self._wait()
            except BaseException:
                with suppress(RuntimeError):  # copies in flight would write into the next batch's buffers
                    self._wait()
                raise
        image: NDArray[np.float32] = made.numpy()[:count]
        return image

    @torch.inference_mode()
    def run_tensors(self, sar: torch.Tensor, size: int) -> torch.Tensor:
        """Translate a batch that is on the device, on the current stream, into this slot's buffer."""
        if self._sar is None or len(self._sar) != size:
            with self._on_stream(), self._preparing:
                self._prepare(size)
                self._wait()
        assert self._sar is not None
        assert self._optical is not None
        self._sar[: len(sar)].copy_(sar)
        self._sar[len(sar) :].zero_()
        if self._graph is not None:
            self._graph.replay()
        else:
            on_gpu = self._stream is not None
            self.network.run(self._sar, self._optical, torch.cuda.current_stream() if on_gpu else None)
        return self._optical

    def use_window(self, side: int) -> None:
        """Take windows of another height and width; buffers are made at the next run."""
        self._side = side
        self._forget()

    def close(self) -> None:
        """Release all memory; no batch may be in flight."""
        self._forget()
        self.network.close()

    def _forget(self) -> None:
        """Free the buffers of a size; the graph, which refers to them, first."""
        self._graph = None
        self._host = self._sar = self._optical = None

    def _prepare(self, size: int) -> None:
        """Allocate buffers for a batch size, and record the graph."""
        self._forget()
        given, made = (size, self._channels, self._side, self._side), (size, 3, self._side, self._side)
        host = torch.empty(given, pin_memory=self._device.type == "cuda")
        sar, optical = torch.zeros(given, device=self._device), torch.empty(made, device=self._device)
        self.network.prepare(sar, optical, self._stream)
        if self._stream is not None:
            # Run once, because libraries initialise in the first run of a shape.
            self.network.run(sar, optical, self._stream)
            self._stream.synchronize()
            if self.network.records:
                self._graph = self._recorded(sar, optical, self._stream)
        self._host, self._sar, self._optical = host, sar, optical

    def _recorded(
        self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream
    ) -> torch.cuda.CUDAGraph | None:
        try:
            graph = torch.cuda.CUDAGraph()
            # thread_local: the threads of other slots may be running.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self.network.run(sar, optical, stream)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _warn_of_graphs(one_line(error))
            return None
        return graph

    def _on_stream(self) -> AbstractContextManager[object]:
        """Select the slot's stream and GPU; a new thread starts with GPU 0."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None and self._done is not None:
            self._done.record(self._stream)
            self._done.synchronize()


class SlotEngine(TensorEngine):
    """An engine with one slot for each batch in flight.

    Parameters
    ----------
    networks
        Generator of each slot.
    place
        CPU, or one CUDA device.
    fewest
        Least batch that the generator takes.
    description
        Arguments of `Engine`.
    """

    def __init__(
        self, networks: Iterable[Network], place: torch.device, *, fewest: int = 1, **description: Any
    ) -> None:
        super().__init__(**description)
        self.tensor_device = place
        preparing = Lock()
        slots = [Slot(network, self.signature, place, preparing) for network in networks]
        self._slots, self._fewest = len(slots), fewest
        self._idle: LifoQueue[Slot] = LifoQueue()  # a warm slot first
        for slot in slots:
            self._idle.put(slot)

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        # The last piece of a halved batch is padded to the half, so that one graph serves all pieces.
        size = max(len(sar), self._at_once, self._fewest)
        with self._lent(size) as slot:
            return slot.run(sar, size)

    def _infer_tensors(self, sar: torch.Tensor, size: int) -> torch.Tensor:
        size = max(size, self._fewest)
        with self._lent(size) as slot:
            return slot.run_tensors(sar, size)

    @contextmanager
    def _lent(self, size: int) -> Iterator[Slot]:
        """Lend a slot for a run of `size` windows, and convert the library's errors."""
        if not self._slots:
            raise InferenceFailed(f"{self} is closed: open it again")
        slot = self._idle.get()
        try:
            yield slot
        except InferenceFailed:
            raise
        except RuntimeError as error:
            raise stopped(error, size, slot.network.name) from error
        finally:
            self._idle.put(slot)

    def _resize(self, side: int) -> None:
        slots = [self._idle.get() for _ in range(self._slots)]
        for slot in slots:
            slot.use_window(side)
            self._idle.put(slot)

    def close(self) -> None:
        """Wait for the batches in flight, then release generators, buffers and graphs."""
        slots, self._slots = self._slots, 0
        for _ in range(slots):
            self._idle.get().close()


def stopped(error: Exception | str, size: int, library: str) -> InferenceFailed:
    """Convert the failure of a run of `size` windows; out of memory is an error of its own."""
    reason = one_line(error)
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(reason):
        return DeviceOutOfMemory(
            f"{size} windows at once do not fit the GPU's memory ({reason}): give a smaller --batch-size"
        )
    return InferenceFailed(f"{library} failed: {reason}")


def is_out_of_memory(reason: str) -> bool:
    """Return True if an error message of a library means that memory is exhausted."""
    return any(sign in reason.lower() for sign in _OUT_OF_MEMORY)


def one_line(error: Exception | str) -> str:
    """Shorten an error to one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


@cache  # one warning for all slots
def _warn_of_graphs(reason: str) -> None:
    _log.warning("CUDA graphs are not available (%s): falling back to launching kernels one by one", reason)
