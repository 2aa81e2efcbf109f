"""The engine of TensorRT and TensorRT for RTX: runs a plan on an NVIDIA GPU, each batch in flight in its own slot.

PyTorch provides memory, streams, events and graphs; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sar2optical.engines.base import EngineOptions
from sar2optical.engines.self_test import SelfTest
from sar2optical.engines.slots import Network, SlotEngine, stopped
from sar2optical.engines.tensorrt_plan import PlanRecord, check_fit, load_record, read_header
from sar2optical.engines.tensorrt_runtime import Gpu, Library, Loaded
from sar2optical.errors import DeviceUnavailable, InferenceFailed, ModelUnreadable, OptionError
from sar2optical.signature import INPUT, OUTPUT, ModelSignature

__all__ = ["STREAMS", "PlanEngine", "PlanNetwork", "check_tensors", "describe", "read_plan"]

STREAMS = 2
"""Batches in flight: one is copied while another is computed, which keeps the GPU busy."""


class PlanNetwork(Network):
    """An execution context of a plan.

    Parameters
    ----------
    library
        Library that built the plan.
    context
        Execution context whose memory the caller provides (USER_MANAGED): activations then take memory for the batch
        that runs, not for the largest that the plan accepts.
    sides
        Window of each optimization profile.
    records
        Whether PyTorch records runs as CUDA graphs.
    """

    def __init__(self, library: Library, context: Any, sides: tuple[int, ...], *, records: bool = True) -> None:
        self.name = library.title.rpartition(" ")[0]
        self.records = records
        self._library = library
        self._context = context
        self._sides = sides
        self._side = sides[0]  # a context starts with the first profile
        self._activations: torch.Tensor | None = None

    def prepare(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Set the shapes, the activation memory and the addresses of a context.

        Raises
        ------
        InferenceFailed
            If the plan does not accept the shapes.
        """
        self._activations = None  # frees the memory of the previous size
        context, given, made = self._context, tuple(sar.shape), tuple(optical.shape)
        self._library.forget()
        if given[-1] != self._side:
            if not context.set_optimization_profile_async(self._sides.index(given[-1]), _handle(stream)):
                raise self._refused(f"the plan does not accept windows of {given[-1]}")
            self._side = given[-1]
        if not context.set_input_shape(INPUT, given) or context.infer_shapes():
            raise self._refused(f"the plan does not accept input {given}")
        found = tuple(context.get_tensor_shape(OUTPUT))
        if found != made:  # the library would write past the end of the buffer
            raise InferenceFailed(
                f"the plan returns {found} for input {given}, expected {made}: give an RGB generator"
            )
        needed = max(int(context.update_device_memory_size_for_shapes()), 1)
        self._activations = torch.empty((needed,), dtype=torch.uint8, device=sar.device)
        context.set_device_memory(self._activations.data_ptr(), needed)
        for name, buffer in ((INPUT, sar), (OUTPUT, optical)):
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise self._refused(f"the plan does not accept the buffer of tensor {name}")

    def run(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Start a run on the buffers of `prepare`."""
        if not self._context.execute_async_v3(_handle(stream)):
            raise stopped(self._library.reason, len(sar), self.name)

    def close(self) -> None:
        """Release the context, then its memory."""
        self._context = None
        self._activations = None

    def _refused(self, what: str) -> InferenceFailed:
        return InferenceFailed(f"{what} ({self._library.reason}): build the plan again for this input")


class PlanEngine(SlotEngine):
    """A loaded plan, with one slot for each batch in flight.

    Parameters
    ----------
    loaded
        From `Library.deserialize`.
    contexts
        Makes the context of a slot, called `STREAMS` times.
    place
        GPU.
    fewest
        Least batch that the plan takes.
    on_close
        Called before the contexts are released.
    description
        Signature, backend, device, precision, batch and self-test, see `Engine`.
    """

    def __init__(
        self,
        loaded: Loaded,
        contexts: Callable[[], PlanNetwork],
        place: torch.device,
        *,
        fewest: int,
        on_close: Callable[[], None] | None = None,
        **description: Any,
    ) -> None:
        super().__init__([contexts() for _ in range(STREAMS)], place, fewest=fewest, streams=STREAMS, **description)
        self._loaded = loaded
        self._on_close = on_close

    def close(self) -> None:
        """Wait for the batches in flight, then release contexts, buffers and the plan."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
        super().close()
        self._loaded.release()


def read_plan(library: Library, path: Path, options: EngineOptions, gpu: Gpu) -> tuple[bytes, PlanRecord]:
    """Read a plan and its record, and check that they fit the options, the library and the GPU.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the plan or its record is missing, damaged, or built by another version.
    DeviceUnavailable
        If the plan has another precision, or was built for another GPU.
    OptionError
        If the plan does not accept the batch size.
    """
    _, header = read_header(path)
    record = load_record(path)
    if options.precision not in ("auto", record.precision):
        raise DeviceUnavailable(
            f"{path}: the plan is {record.precision}, not {options.precision}: give --precision auto, or build a "
            "plan of that precision"
        )
    fewest, _, most = record.batch
    if options.batch is not None and not fewest <= options.batch <= most:
        raise OptionError(f"{path}: batch size is {options.batch}: the plan accepts {fewest} to {most}")
    check_fit(
        record,
        header_version=header,
        installed=library.version,
        gpu_name=gpu.name,
        compute_capability=gpu.compute_capability,
        source=str(path),
    )
    return path.read_bytes(), record


def check_tensors(library: Library, engine: Any, path: Path) -> None:
    """Refuse a plan whose tensors are not the input and output of a generator, in float32.

    Raises
    ------
    ModelUnreadable
        If it is refused.
    """
    trt = library.trt
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_mode(name) for name in names}
    float32 = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
    if found != {INPUT: trt.TensorIOMode.INPUT, OUTPUT: trt.TensorIOMode.OUTPUT} or not float32:
        raise ModelUnreadable(
            f"{path}: the plan's input and output are {', '.join(names)}, but must be {INPUT} and {OUTPUT} in "
            "float32: build it with sar2opt-export"
        )


def describe(
    backend: str, gpu: str, signature: ModelSignature, precision: str, batch: int, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Return the description of an engine that runs a plan, for `PlanEngine`."""
    return {
        "backend": backend,
        "device": f"cuda ({gpu})",
        "signature": signature,
        "precision": precision,
        "batch": batch,
        "self_test": SelfTest.read(metadata),
    }


def _handle(stream: torch.cuda.Stream | None) -> int:
    """Return the handle of a stream; 0, the default stream, where there is none."""
    return 0 if stream is None else int(stream.cuda_stream)
