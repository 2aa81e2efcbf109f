"""The TensorRT backend: runs plans on an NVIDIA GPU, two batches in flight, each as a CUDA graph."""

from __future__ import annotations

from pathlib import Path

import tensorrt

from sar2optical.engines.base import EngineOptions, refuse_unless
from sar2optical.engines.plan_engine import PlanEngine, PlanNetwork, check_tensors, describe, read_plan
from sar2optical.engines.slots import stopped
from sar2optical.engines.tensorrt_runtime import Library, current_gpu

__all__ = ["LIBRARY", "open"]

LIBRARY = Library(tensorrt, "TensorRT")
"""TensorRT, with the logger of this process."""


def open(path: Path, options: EngineOptions) -> PlanEngine:
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
    gpu = current_gpu()
    plan, record = read_plan(LIBRARY, path, options, gpu)
    remedy = f"build it again on this machine: {record.rebuild}"
    loaded = LIBRARY.deserialize(plan, source=str(path), remedy=remedy)
    check_tensors(LIBRARY, loaded.engine, path)

    def context() -> PlanNetwork:
        LIBRARY.forget()
        strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        if (made := loaded.engine.create_execution_context(strategy)) is None:
            raise stopped(LIBRARY.reason, 1, "TensorRT")
        return PlanNetwork(LIBRARY, made, record.signature.sides)

    described = describe(
        "tensorrt", gpu.name, record.signature, record.precision, options.batch or record.batch[1], record.metadata
    )
    return PlanEngine(loaded, context, gpu.place, fewest=record.batch[0], **described)
