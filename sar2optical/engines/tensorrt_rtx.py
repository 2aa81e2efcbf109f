"""The TensorRT for RTX backend: runs plans on GeForce RTX and RTX PRO cards, and builds them from ONNX files.

A plan contains no kernels: the library compiles them on the user's card at the first run, and keeps them in a runtime
cache. Two batches are in flight, each recorded as a CUDA graph by the library.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx
import torch

from sar2optical._utils.files import cache_folder, write_whole
from sar2optical.engines.base import Description, EngineOptions, refuse_unless
from sar2optical.engines.onnx_graph import metadata_of, plain
from sar2optical.engines.onnx_half import halve
from sar2optical.engines.plan_engine import PlanEngine, PlanNetwork, check_tensors, describe, read_plan
from sar2optical.engines.rtx_cards import refuse_card, targets_for
from sar2optical.engines.slots import stopped
from sar2optical.engines.tensorrt_build import build_plan_bytes
from sar2optical.engines.tensorrt_plan import cache_name, driver_version
from sar2optical.engines.tensorrt_runtime import Gpu, Library, current_gpu
from sar2optical.errors import DeviceUnavailable, ExportUnsupported, ModelUnreadable
from sar2optical.signature import ModelSignature

__all__ = ["AUTOMATIC", "LIBRARY", "build_for", "open", "set_targets"]

LIBRARY = Library(tensorrt_rtx, "TensorRT for RTX")
"""TensorRT for RTX, with the logger of this process."""

AUTOMATIC = "fp16"
"""Precision auto of an fp32 ONNX file: every card has it, and it rounds less than bf16. A file whose values leave its
range fails the self-test."""

_log = logging.getLogger(__name__)


def open(path: Path, options: EngineOptions) -> PlanEngine:
    """Load a plan, or build one from an ONNX file in memory.

    Parameters
    ----------
    path
        Plan with its record beside it, or ONNX file with a signature in its metadata.
    options
        Device, precision and batch size. An fp32 ONNX file also runs in fp16 (precision auto) and bf16.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the file or its record is missing or damaged, or the plan was built by another version.
    ExportUnsupported
        If the library cannot build the ONNX file.
    DeviceUnavailable
        If there is no GPU, the library does not run on it, or not in this precision.
    DeviceOutOfMemory
        If the plan does not fit the GPU's memory.
    OptionError
        If the plan does not accept the batch size.
    """
    if options.device != "auto":
        refuse_unless("device", options.device, "tensorrt_rtx", ["cuda"])
    gpu = current_gpu()
    target = refuse_card(gpu.name, gpu.compute_capability)  # before anything is loaded
    if path.suffix.lower() == ".onnx":
        plan, signature, precision, metadata = build_for(path, options, target)
        fewest, batch, remedy = 1, options.batch_on("cuda"), "export it again"
    else:
        plan, record = read_plan(LIBRARY, path, options, gpu)
        signature, precision, metadata = record.signature, record.precision, record.metadata
        fewest, batch = record.batch[0], options.batch or record.batch[1]
        remedy = f"build it again: {record.rebuild}"
    loaded = LIBRARY.deserialize(plan, source=str(path), remedy=remedy)
    check_tensors(LIBRARY, loaded.engine, path)
    running = _runtime_config(loaded.engine)
    kernels = _RuntimeCache(running, gpu)

    def context() -> PlanNetwork:
        LIBRARY.forget()
        if (made := loaded.engine.create_execution_context(running)) is None:
            raise stopped(LIBRARY.reason, 1, "TensorRT for RTX")
        return PlanNetwork(LIBRARY, made, signature.sides, records=False)

    described = describe("tensorrt_rtx", gpu.name, signature, precision, batch, metadata)
    return PlanEngine(loaded, context, gpu.place, fewest=fewest, on_close=kernels.store, **described)


def build_for(
    path: Path, options: EngineOptions, target: str
) -> tuple[bytes, ModelSignature, str, Mapping[str, str]]:
    """Build a plan of an ONNX file for one card.

    Parameters
    ----------
    path
        ONNX file with a signature in its metadata.
    options
        Precision and batch size.
    target
        Value of `sar2optical.engines.rtx_cards.CARDS`.

    Returns
    -------
    plan, signature, precision, metadata
        Serialized plan, what it expects, its precision, and the metadata of the file.

    Raises
    ------
    ModelUnreadable, SignatureError, ExportUnsupported, DeviceUnavailable
        See `open`.
    """
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's and the system's have no common base class
        raise ModelUnreadable(
            f"{path}: corrupt, or not an ONNX model: export it again, or download it again"
        ) from error
    metadata = metadata_of(model)
    described = Description.read(metadata, path)
    stored, precision = described.precision, options.precision
    if precision == "auto":
        precision = AUTOMATIC if stored == "fp32" else stored  # type: ignore[assignment]
    available = [stored, *(("fp16", "bf16") if stored == "fp32" else ())]
    available = [name for name in available if target in targets_for(name)]
    refuse_unless("precision", precision, f"tensorrt_rtx for this file on {target}", available)
    if precision != stored:
        assert precision in ("fp16", "bf16")
        content = halve(plain(onnx.load(path)), precision).SerializeToString()
    plan = build_plan_bytes(
        LIBRARY,
        content,
        described.signature,
        (1, options.batch_on("cuda"), options.batch_on("cuda")),
        path=path,
        configure=lambda config: set_targets(config, (target,)),
    )
    return plan, described.signature, precision, metadata


def set_targets(config: Any, targets: tuple[str, ...]) -> None:
    """Set the cards that a plan runs on.

    Parameters
    ----------
    config
        Builder's configuration.
    targets
        Values of `sar2optical.engines.rtx_cards.CARDS`.
    """
    config.num_compute_capabilities = len(targets)
    for k, target in enumerate(targets):
        if not config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, target.upper()), k):
            raise ExportUnsupported(f"{LIBRARY.title} does not build for {target}: give another --target")


def _runtime_config(engine: Any) -> Any:
    running = LIBRARY.create(engine.create_runtime_config)
    running.set_execution_context_allocation_strategy(tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED)
    running.cuda_graph_strategy = tensorrt_rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    # LAZY would start with a fallback kernel and change to another one, with other rounding, during a run.
    running.dynamic_shapes_kernel_specialization_strategy = (
        tensorrt_rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    return running


class _RuntimeCache:
    """Compiled kernels of one GPU model, driver and library version, kept in the cache folder.

    The library checks what it loads against GPU, driver and version. Kernels decide speed of the first run only.

    Parameters
    ----------
    running
        Runtime configuration that uses the cache.
    gpu
        GPU of the kernels.
    """

    def __init__(self, running: Any, gpu: Gpu) -> None:
        self._cache = LIBRARY.create(running.create_runtime_cache)
        folder = cache_folder()
        name = cache_name("tensorrt_rtx", LIBRARY.version, gpu.name, f"{driver_version()}.kernels")
        self._file = folder / name if folder else None
        self._stored = b""
        if self._file is not None:
            with suppress(OSError):
                self._stored = self._file.read_bytes()
        if gpu.place.type == "cuda":
            torch.cuda.synchronize(gpu.place)  # makes the CUDA context that the kernels are checked against
        if self._stored and not self._cache.deserialize(self._stored):
            _log.info("%s: has no kernels for this GPU and driver: it is not used, and is replaced", self._file)
        if not running.set_runtime_cache(self._cache):
            raise DeviceUnavailable(
                f"{LIBRARY.title} refuses the runtime cache that it made ({LIBRARY.reason}): "
                f"reinstall {LIBRARY.title}"
            )

    def store(self) -> None:
        """Write the kernels that were compiled; a failure costs time in the next run only."""
        compiled = self._cache.serialize()
        if self._file is None or compiled is None or bytes(compiled) == self._stored:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, bytes(compiled), mark=f".{os.getpid()}")
        except OSError as error:
            _log.warning(
                "%s: cannot store compiled kernels (%s): the next start compiles them again",
                self._file,
                error.strerror or error,
            )
