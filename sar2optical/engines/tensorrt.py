"""The TensorRT backend: runs plans on an NVIDIA GPU, two batches in flight, each as a CUDA graph.

PyTorch provides memory, streams, events and graphs; it computes nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
import tensorrt
import torch
from numpy.typing import NDArray

from sar2optical.engines.base import Engine, EngineOptions, refuse_unless
from sar2optical.engines.self_test import SelfTest
from sar2optical.engines.tensorrt_plan import PlanRecord, check_fit, load_record, read_header
from sar2optical.engines.tensorrt_runtime import LOGGER, Gpu, current_gpu, deserialize, is_out_of_memory, one_line
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed, ModelUnreadable, OptionError
from sar2optical.signature import INPUT, OUTPUT, ModelSignature

__all__ = ["STREAMS", "TensorRTEngine", "open"]

STREAMS = 2
"""Batches in flight: one is copied while another is computed, which keeps the GPU busy."""

_log = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """A loaded plan, with one slot for each batch in flight.

    Parameters
    ----------
    engine, runtime
        From `deserialize`.
    record
        Record of the plan.
    gpu
        GPU that runs it.
    batch
        Windows per run, within the plan's limits.
    """

    def __init__(self, engine: Any, runtime: Any, record: PlanRecord, *, gpu: Gpu, batch: int) -> None:
        super().__init__(
            signature=record.signature,
            backend="tensorrt",
            device=f"cuda ({gpu.name})",
            precision=record.precision,
            batch=batch,
            streams=STREAMS,
            self_test=SelfTest.read(record.metadata),
        )
        self._engine, self._runtime = engine, runtime
        self._gpu = gpu.index
        self._fewest = record.batch[0]
        self._slots = STREAMS
        self._idle: SimpleQueue[_Slot] = SimpleQueue()
        device, preparing = torch.device("cuda", gpu.index), Lock()
        for _ in range(STREAMS):
            self._idle.put(_Slot(engine, record.signature, device, preparing))

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._slots:
            raise InferenceFailed(f"{self} is closed: open it again")
        # The last piece of a halved batch is padded to the half: one graph serves all pieces.
        size = max(len(sar), self._at_once, self._fewest)
        slot = self._idle.get()
        try:
            with torch.cuda.device(self._gpu):  # a new thread starts with GPU 0
                return slot.run(sar, size)
        except InferenceFailed:
            raise
        except RuntimeError as error:
            raise _stopped(error, size) from error
        finally:
            self._idle.put(slot)

    def close(self) -> None:
        """Wait for the batches in flight, then release contexts, buffers and the plan."""
        slots, self._slots = self._slots, 0
        for _ in range(slots):
            self._idle.get().close()
        self._engine = None
        self._runtime = None


class _Buffers:
    """Memory for one batch size, on the GPU and on the host (pinned, for asynchronous copies)."""

    def __init__(self, context: Any, given: tuple[int, ...], made: tuple[int, ...], device: torch.device) -> None:
        self.pinned_sar = torch.empty(given, dtype=torch.float32, pin_memory=True)
        self.pinned_optical = torch.empty(made, dtype=torch.float32, pin_memory=True)
        self.sar = torch.empty(given, dtype=torch.float32, device=device)
        self.optical = torch.empty(made, dtype=torch.float32, device=device)
        needed = max(int(context.update_device_memory_size_for_shapes()), 1)
        self.activations = torch.empty((needed,), dtype=torch.uint8, device=device)
        context.set_device_memory(self.activations.data_ptr(), needed)
        for name, buffer in ((INPUT, self.sar), (OUTPUT, self.optical)):
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise InferenceFailed(f"the plan accepts no buffer for {name} ({LOGGER.reason}): build it again")

    @property
    def size(self) -> int:
        """Number of windows."""
        return len(self.sar)

    def fill(self, sar: NDArray[np.float32]) -> None:
        """Copy a batch into the host buffer, padded with zeros."""
        given, count = self.pinned_sar.numpy(), len(sar)
        given[:count], given[count:] = sar, 0

    def result(self, count: int) -> NDArray[np.float32]:
        """Copy the first `count` images for the caller."""
        made: NDArray[np.float32] = self.pinned_optical.numpy()[:count]
        return made.copy()


class _Slot:
    """State of one batch in flight: context, stream, and buffers and a graph for one batch size.

    Memory is allocated at the first run of a size, so that a size that does not fit can be halved and tried again.
    """

    def __init__(self, engine: Any, signature: ModelSignature, device: torch.device, preparing: Lock) -> None:
        self._signature = signature
        self._device = device
        self._preparing = preparing
        LOGGER.forget()
        # USER_MANAGED: activations take memory for the batch that runs, not for the largest that the plan accepts.
        self._context = engine.create_execution_context(tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise _stopped(LOGGER.reason, 1)
        # On the default stream TensorRT waits for the whole device.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Blocking: a core that does not spin can read and write rasters.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._buffers: _Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, sar: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Translate a batch of at most `size`, padded to it."""
        buffers = self._buffers
        if buffers is None or buffers.size != size:
            with self._preparing:
                buffers = self._prepare(size)
        buffers.fill(sar)
        try:
            with torch.cuda.stream(self._stream):
                buffers.sar.copy_(buffers.pinned_sar, non_blocking=True)
                self._enqueue(size)
                buffers.pinned_optical.copy_(buffers.optical, non_blocking=True)
                self._done.record(self._stream)
            self._done.synchronize()
        except BaseException:
            with suppress(RuntimeError):  # copies in flight would write into the next batch's buffers
                self._stream.synchronize()
            raise
        return buffers.result(len(sar))

    def close(self) -> None:
        """Release all memory; no batch may be in flight."""
        self._graph = None  # before the memory that it refers to
        self._buffers = None
        self._context = None

    def _prepare(self, size: int) -> _Buffers:
        """Allocate buffers for a batch size, set the context's shapes, and record the graph."""
        self._graph = None
        self._buffers = None  # frees the memory of the previous size
        side = self._signature.window
        given, made = (size, self._signature.channels, side, side), (size, 3, side, side)
        LOGGER.forget()
        if not self._context.set_input_shape(INPUT, given) or self._context.infer_shapes():
            raise InferenceFailed(
                f"the plan does not accept input {given} ({LOGGER.reason}): build it for this batch size"
            )
        found = tuple(self._context.get_tensor_shape(OUTPUT))
        if found != made:  # TensorRT would write past the end of the buffer
            raise InferenceFailed(
                f"the plan returns {found} for input {given}, expected {made}: give an RGB generator"
            )
        buffers = _Buffers(self._context, given, made, self._device)
        self._graph = self._capture(size)
        self._buffers = buffers
        return buffers

    def _capture(self, size: int) -> torch.cuda.CUDAGraph | None:
        """Run once, because TensorRT initialises itself in the first run of a shape, then record a run as a graph."""
        with torch.cuda.stream(self._stream):
            self._execute(size)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread of the other slot may be running.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._execute(size)
        except RuntimeError as error:
            _warn_of_graphs(one_line(error))
            return None
        return graph

    def _enqueue(self, size: int) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._execute(size)

    def _execute(self, size: int) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise _stopped(LOGGER.reason, size)


def open(path: Path, options: EngineOptions) -> TensorRTEngine:
    """Load a plan.

    Parameters
    ----------
    path
        Plan, with its record beside it.
    options
        Device, precision and batch size.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the plan or its record is missing, damaged, or built by another TensorRT version.
    DeviceUnavailable
        If there is no GPU, or the plan was built for another one.
    DeviceOutOfMemory
        If the plan does not fit the GPU's memory.
    OptionError
        If the plan does not accept the batch size.
    """
    if options.device != "auto":
        refuse_unless("device", options.device, "tensorrt", ["cuda"])
    header = read_header(path)
    record = load_record(path)
    _check_options(path, record, options)
    gpu = current_gpu()
    check_fit(
        record,
        header_version=header,
        tensorrt_version=tensorrt.__version__,
        gpu_name=gpu.name,
        compute_capability=gpu.compute_capability,
        source=str(path),
    )
    remedy = f"build it again on this machine: {record.rebuild}"
    engine, runtime = deserialize(path.read_bytes(), source=str(path), remedy=remedy)
    _check_tensors(engine, path)
    return TensorRTEngine(engine, runtime, record, gpu=gpu, batch=options.batch)


def _check_options(path: Path, record: PlanRecord, options: EngineOptions) -> None:
    if options.precision not in ("auto", record.precision):
        raise DeviceUnavailable(
            f"{path}: the plan is {record.precision}, not {options.precision}: give --precision auto, or build a "
            "plan of that precision"
        )
    fewest, _, most = record.batch
    if not fewest <= options.batch <= most:
        raise OptionError(f"{path}: batch size is {options.batch}: the plan accepts {fewest} to {most}")


def _check_tensors(engine: Any, path: Path) -> None:
    """Refuse a plan whose tensors are not the input and output of a generator, in float32."""
    modes = tensorrt.TensorIOMode
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_mode(name) for name in names}
    float32 = all(engine.get_tensor_dtype(name) == tensorrt.DataType.FLOAT for name in names)
    if found != {INPUT: modes.INPUT, OUTPUT: modes.OUTPUT} or not float32:
        raise ModelUnreadable(
            f"{path}: the plan's input and output are {', '.join(names)}, but must be {INPUT} and {OUTPUT} in "
            "float32: build it with sar2opt-export"
        )


def _stopped(error: Exception | str, size: int) -> InferenceFailed:
    reason = one_line(error)
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(reason):
        return DeviceOutOfMemory(
            f"{size} windows at once do not fit the GPU's memory ({reason}): give a smaller --batch-size"
        )
    return InferenceFailed(f"TensorRT failed: {reason}")


@cache  # one warning for all slots
def _warn_of_graphs(reason: str) -> None:
    _log.warning("CUDA graphs are not available (%s): falling back to launching kernels one by one", reason)
