"""TensorRT plans on an NVIDIA GPU: two batches in flight, each replayed as a CUDA graph.

PyTorch lends memory, streams, events and graphs; it computes nothing here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed, ModelUnreadable, OptionError
from sar2optical.signature import INPUT, OUTPUT, ModelSignature

STREAMS = 2
"""Batches in flight: one is copied while another is computed. A third would find the GPU busy."""

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation")

_log = logging.getLogger(__name__)


class Logger(tensorrt.ILogger):  # type: ignore[misc]  # TensorRT comes without types
    """TensorRT's log lines as Python's, and the last errors kept: its calls return None and say why only here."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[str] = deque(maxlen=4)

    def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
        """Take a line.

        One level lower than TensorRT's own: it calls errors what it recovers from, and an error that matters comes
        back as an exception with these lines.
        """
        line, levels = " ".join(msg.split()), tensorrt.ILogger.Severity
        if severity in (levels.INTERNAL_ERROR, levels.ERROR):
            self._errors.append(line)
            _log.info("%s", line)
        elif severity in (levels.WARNING, levels.INFO):
            _log.debug("%s", line)

    def forget(self) -> None:
        """Drop the errors of what was done before."""
        self._errors.clear()

    @property
    def reason(self) -> str:
        """The last errors, in one line."""
        return "; ".join(self._errors)[-300:] or "it does not say why"


LOGGER = Logger()
"""The only one: TensorRT keeps the first that it is given for the whole process."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that PyTorch would use."""

    index: int
    name: str
    compute_capability: tuple[int, int]


def current_gpu() -> Gpu:
    """Find the GPU.

    Raises
    ------
    DeviceUnavailable
        Where there is none that PyTorch can use.
    """
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            f"device cuda is not available: PyTorch {torch.__version__} finds none: check nvidia-smi, and that torch "
            "is a CUDA build, or run the .onnx file with --device cpu"
        )
    index = torch.cuda.current_device()
    return Gpu(index, torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))


def create(factory: Callable[..., Any], *arguments: Any) -> Any:
    """Make one of TensorRT's objects.

    Raises
    ------
    DeviceUnavailable
        Where it gives none, as it does where its libraries do not work with the driver.
    """
    try:
        made = factory(*arguments)
    except (TypeError, RuntimeError) as error:  # the bindings: a factory returned nullptr
        raise _does_not_work(str(error)) from error
    if made is None:
        raise _does_not_work(LOGGER.reason)
    return made


def deserialize(plan: bytes, *, source: str, remedy: str) -> tuple[Any, Any]:
    """Load a plan; its header and its record were checked before.

    Parameters
    ----------
    plan
        The file's bytes.
    source, remedy
        For errors: the file's name, and what to do.

    Returns
    -------
    engine, runtime
        The engine must go first. Kept in this order, so that it does where both are dropped on an error too.

    Raises
    ------
    ModelUnreadable
        Where TensorRT does not load it.
    DeviceOutOfMemory
        Where its weights do not fit.
    """
    LOGGER.forget()
    runtime = create(tensorrt.Runtime, LOGGER)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = LOGGER.reason
        if _is_out_of_memory(reason):
            raise DeviceOutOfMemory(f"{source}: the GPU's memory does not hold it ({reason}): free some")
        raise ModelUnreadable(f"{source}: TensorRT {tensorrt.__version__} does not load it ({reason}): {remedy}")
    return engine, runtime


class TensorRTEngine(Engine):
    """A plan, and a slot for each batch in flight."""

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
        # What is left of a batch that was halved for want of memory is padded to the half.
        size = max(len(sar), self._at_once, self._fewest)
        slot = self._idle.get()
        try:
            with torch.cuda.device(self._gpu):  # a thread of its own begins with the first
                return slot.run(sar, size)
        except InferenceFailed:
            raise
        except RuntimeError as error:
            raise _stopped(error, size) from error
        finally:
            self._idle.put(slot)

    def close(self) -> None:
        """Wait for the batches in flight, and release contexts, buffers and the plan, in this order."""
        slots, self._slots = self._slots, 0
        for _ in range(slots):
            self._idle.get().close()
        self._engine = None
        self._runtime = None


class _Buffers:
    """Memory for one batch size, on the host (pinned, so that copies need not wait) and on the GPU."""

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
                raise InferenceFailed(f"the plan takes no buffer for {name} ({LOGGER.reason}): build it again")

    @property
    def size(self) -> int:
        """Windows that they hold."""
        return len(self.sar)

    def fill(self, sar: NDArray[np.float32]) -> None:
        """Put a batch in place, padded with zeros."""
        given, count = self.pinned_sar.numpy(), len(sar)
        given[:count], given[count:] = sar, 0

    def taken(self, count: int) -> NDArray[np.float32]:
        """Give the first results, the caller's own."""
        made: NDArray[np.float32] = self.pinned_optical.numpy()[:count]
        return made.copy()


class _Slot:
    """What one batch in flight has for itself: context, stream, and buffers and a graph for one batch size.

    Memory is taken when a size is first run, so that a size that does not fit can be halved and tried again.
    """

    def __init__(self, engine: Any, signature: ModelSignature, device: torch.device, preparing: Lock) -> None:
        self._signature = signature
        self._device = device
        self._preparing = preparing
        LOGGER.forget()
        # Memory for activations is ours to give, for the batch that is run and not for the most that the plan takes.
        self._context = engine.create_execution_context(tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise _stopped(LOGGER.reason, 1)
        # On the default one TensorRT would wait for the whole device.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # A core that does not spin can read and write rasters.
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
            with suppress(RuntimeError):  # what is still in flight would write into the next batch's buffers
                self._stream.synchronize()
            raise
        return buffers.taken(len(sar))

    def close(self) -> None:
        """Release everything; nothing is in flight."""
        self._graph = None  # before the memory that it names
        self._buffers = None
        self._context = None

    def _prepare(self, size: int) -> _Buffers:
        """Take memory for a batch size, tell the context, and record the graph."""
        self._graph = None
        self._buffers = None  # what another size needed is needed now
        side = self._signature.window
        given, made = (size, self._signature.channels, side, side), (size, 3, side, side)
        LOGGER.forget()
        if not self._context.set_input_shape(INPUT, given) or self._context.infer_shapes():
            raise InferenceFailed(f"the plan does not take {given} ({LOGGER.reason}): build it for this batch size")
        found = tuple(self._context.get_tensor_shape(OUTPUT))
        if found != made:  # a buffer of another size would be written over its end
            raise InferenceFailed(f"the plan gives {found} for {given}, not {made}: give an RGB generator")
        buffers = _Buffers(self._context, given, made, self._device)
        self._graph = self._capture(size)
        self._buffers = buffers
        return buffers

    def _capture(self, size: int) -> torch.cuda.CUDAGraph | None:
        """Run once, for TensorRT sets itself up in a shape's first run, then record a second run as a graph."""
        with torch.cuda.stream(self._stream):
            self._execute(size)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Of this thread only: the other slot's thread may well be at work.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._execute(size)
        except RuntimeError as error:
            _warn_of_graphs(_line(error))
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
    """Load a plan; see `open_engine`."""
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
    again = f"build it again here: {record.rebuild}"
    engine, runtime = deserialize(path.read_bytes(), source=str(path), remedy=again)
    _check_tensors(engine, path)
    return TensorRTEngine(engine, runtime, record, gpu=gpu, batch=options.batch)


def _check_options(path: Path, record: PlanRecord, options: EngineOptions) -> None:
    if options.precision not in ("auto", record.precision):
        raise DeviceUnavailable(
            f"{path}: precision {options.precision} was asked, the plan is {record.precision}: "
            "give --precision auto, or build a plan of that precision"
        )
    fewest, _, most = record.batch
    if not fewest <= options.batch <= most:
        raise OptionError(f"{path}: batch size is {options.batch}: the plan takes {fewest} to {most}")


def _check_tensors(engine: Any, path: Path) -> None:
    """Refuse a plan whose tensors are not the two that buffers are made for."""
    modes = tensorrt.TensorIOMode
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_mode(name) for name in names}
    float32 = all(engine.get_tensor_dtype(name) == tensorrt.DataType.FLOAT for name in names)
    if found != {INPUT: modes.INPUT, OUTPUT: modes.OUTPUT} or not float32:
        raise ModelUnreadable(
            f"{path}: has tensors {', '.join(names)}, not {INPUT} and {OUTPUT} in float32: "
            "build it with sar2opt-export"
        )


def _does_not_work(reason: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"TensorRT {tensorrt.__version__} does not work here ({_line(reason)}): check the driver with nvidia-smi, "
        "and that tensorrt and its libraries are of one version"
    )


def _stopped(error: Exception | str, size: int) -> InferenceFailed:
    reason = _line(error)
    if isinstance(error, torch.OutOfMemoryError) or _is_out_of_memory(reason):
        return DeviceOutOfMemory(
            f"the GPU's memory does not hold {size} windows at once ({reason}): give a smaller --batch-size"
        )
    return InferenceFailed(f"tensorrt stopped: {reason}")


def _line(error: Exception | str) -> str:
    return " ".join(str(error).split())[:200]


def _is_out_of_memory(reason: str) -> bool:
    return any(sign in reason.lower() for sign in _OUT_OF_MEMORY)


@cache  # once is enough, whatever the number of slots
def _warn_of_graphs(reason: str) -> None:
    _log.warning("CUDA graphs do not work here (%s): batches are enqueued kernel by kernel", reason)
