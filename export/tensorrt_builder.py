"""Build a network with TensorRT: parse, choose kernels, serialize; and count the layers of the plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import tensorrt
import torch

from export.options import OnProgress
from export.plan_layers import layers_by_precision, precision_problem
from sar2optical._utils.files import try_lock, write_whole
from sar2optical.engines.base import Description
from sar2optical.engines.tensorrt_plan import LEVELS, HardwareCompatibility, cache_name, check_profile
from sar2optical.engines.tensorrt_runtime import LOGGER, Gpu, create, deserialize
from sar2optical.errors import ExportUnsupported, OptionError, ParityFailed
from sar2optical.signature import INPUT, OUTPUT, ModelSignature

__all__ = ["PlanOptions", "build_network", "count_layers"]

_LEVELS = {
    "none": tensorrt.HardwareCompatibilityLevel.NONE,
    "same_compute_capability": tensorrt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere_plus": tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS,
}
_POLL = 0.1  # seconds between checks for Ctrl-C during a build
_LOCK_TIMEOUT = 10.0  # seconds; a build locks the timing cache only while it merges
_MAX_ERRORS = 5  # parser errors in a message

_log = logging.getLogger(f"sar2optical.{__name__}")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of a plan."""

    batch: tuple[int, int, int] = (1, 8, 32)
    """Windows per run: minimum, optimum (kernels are chosen for it), maximum."""
    workspace: int | None = None
    """Limit in bytes of the GPU memory that a kernel may use as workspace; None: no limit."""
    timing_cache: Path | None = None
    """Folder of timing caches, one file for each TensorRT version and GPU model; None: no cache."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Other GPUs that the plan runs on; none is the fastest."""
    overwrite: bool = False
    """Replace the output."""

    def __post_init__(self) -> None:
        check_profile(self.batch)
        if self.workspace is not None and self.workspace < 1:
            raise OptionError(f"workspace is {self.workspace} bytes: give 1 or more")
        if self.hardware_compatibility not in LEVELS:
            raise OptionError(
                f"hardware compatibility is {self.hardware_compatibility!r}: give one of {', '.join(LEVELS)}"
            )
        if self.timing_cache is not None and self.timing_cache.exists() and not self.timing_cache.is_dir():
            raise OptionError(f"timing cache {self.timing_cache} is not a folder: give a folder")


def build_network(
    path: Path, signature: ModelSignature, options: PlanOptions, gpu: Gpu, on_progress: OnProgress | None = None
) -> bytes:
    """Build a plan from an ONNX file.

    Parameters
    ----------
    path
        ONNX file with the input `sar` and the output `optical`, both float32, and a dynamic batch.
    signature
        Signature of the file.
    options
        Options of the plan.
    gpu
        GPU to build on.
    on_progress
        Called during the build; an exception that it raises stops the build.

    Returns
    -------
    bytes
        Serialized plan.

    Raises
    ------
    ExportUnsupported
        If TensorRT cannot read or build the file.
    DeviceUnavailable
        If TensorRT does not work on this machine.
    """
    LOGGER.forget()
    builder = create(tensorrt.Builder, LOGGER)
    # Explicit for TensorRT 10; in TensorRT 11 all networks are strongly typed.
    network = create(builder.create_network, 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = create(tensorrt.OnnxParser, network, LOGGER)  # owns the weights: must live until the plan is built
    if not parser.parse_from_file(str(path.absolute())):
        raise ExportUnsupported(
            f"{path}: TensorRT cannot read the file ({_parser_errors(parser)}): export it with another --opset"
        )
    _check_network(network, signature, path)
    config = create(builder.create_builder_config)
    _configure(config, options)
    _add_profile(builder, config, signature, options.batch)
    monitor = _Monitor(on_progress)
    config.progress_monitor = monitor
    timings = _cache_file(options.timing_cache, gpu)
    if timings:
        _use_timings(config, timings)
    plan = _interruptibly(lambda: builder.build_serialized_network(network, config), monitor, gpu)
    if plan is None:
        raise ExportUnsupported(
            f"{path}: TensorRT {tensorrt.__version__} cannot build the plan ({LOGGER.reason}): "
            "export it in another precision, or give smaller batch sizes"
        )
    if timings:
        _store_timings(config, timings)
    return bytes(plan)


def _parser_errors(parser: Any) -> str:
    """List the nodes that the parser cannot read."""
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    messages = [
        f"{error.node_name() or f'node {error.node()}'} [{error.node_operator()}]: {' '.join(error.desc().split())}"
        for error in errors[:_MAX_ERRORS]
    ]
    if len(errors) > _MAX_ERRORS:
        messages.append(f"and {len(errors) - _MAX_ERRORS} more")
    return "; ".join(messages) or LOGGER.reason


def _check_network(network: Any, signature: ModelSignature, path: Path) -> None:
    """Refuse a network whose input and output the engine could not feed."""
    given = [network.get_input(k) for k in range(network.num_inputs)]
    made = [network.get_output(k) for k in range(network.num_outputs)]
    if [tensor.name for tensor in (*given, *made)] != [INPUT, OUTPUT]:
        names = ", ".join(tensor.name for tensor in (*given, *made))
        raise ExportUnsupported(
            f"{path}: its input and output are {names}, but must be {INPUT} and {OUTPUT}: "
            "export it with sar2opt-export"
        )
    if any(tensor.dtype != tensorrt.DataType.FLOAT for tensor in (*given, *made)):
        raise ExportUnsupported(f"{path}: its input and output must be float32: export it again")
    shape, side = tuple(given[0].shape), signature.window
    if shape[:2] != (-1, signature.channels) or shape[2:] not in ((side, side), (-1, -1)):
        raise ExportUnsupported(f"{path}: input shape is {shape} (-1 is dynamic): export it with a dynamic batch")


def _configure(config: Any, options: PlanOptions) -> None:
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED  # else the plan has no types of layers
    # TF32, on by default, rounds float32 to 10 bits of mantissa. Cleared in every precision: the layers that a
    # quantized file leaves in float32 need its precision.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    config.hardware_compatibility_level = _LEVELS[options.hardware_compatibility]
    if options.workspace is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace)


def _add_profile(builder: Any, config: Any, signature: ModelSignature, batch: tuple[int, int, int]) -> None:
    sides = (signature.channels, signature.window, signature.window)
    profile = create(builder.create_optimization_profile)
    fewest, usual, most = batch
    profile.set_shape(INPUT, (fewest, *sides), (usual, *sides), (most, *sides))
    if config.add_optimization_profile(profile) < 0:
        raise ExportUnsupported(
            f"TensorRT does not accept the batch sizes {batch} ({LOGGER.reason}): give other sizes"
        )


class _Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # TensorRT has no type hints
    """Forwards the progress of a build, and stops the build if `cause` is set or the callback raises."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        super().__init__()
        self.cause: BaseException | None = None
        self._on_progress = on_progress
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Report the start of a phase."""
        self._steps[phase_name] = num_steps
        self._report(phase_name, 0)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Report a step, counted from 0; return False to stop the build."""
        self._report(phase_name, step + 1)
        return self.cause is None

    def phase_finish(self, phase_name: str) -> None:
        """Report the end of a phase, which may come before its last step."""
        self._report(phase_name, self._steps.get(phase_name, 0))

    def _report(self, phase: str, done: int) -> None:
        if self._on_progress is None or self.cause is not None:
            return
        try:
            self._on_progress(phase, done, self._steps.get(phase, done))
        except BaseException as error:  # must not reach TensorRT's frames; raised again after the build
            self.cause = error


def _interruptibly(build: Callable[[], Any], monitor: _Monitor, gpu: Gpu) -> Any:
    """Build in a thread, because Python handles no Ctrl-C during a call that takes minutes.

    The first interrupt stops the build at its next step; a second one does not wait for it.
    """
    made: list[Any] = []
    failed: list[BaseException] = []
    ended = Event()

    def work() -> None:
        try:
            with torch.cuda.device(gpu.index):
                made.append(build())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    Thread(target=work, name="tensorrt build", daemon=True).start()
    while not ended.is_set():
        try:
            while not ended.wait(_POLL):
                pass
        except BaseException as error:
            if monitor.cause is not None:
                raise
            monitor.cause = error
    if monitor.cause is not None:
        raise monitor.cause
    if failed:
        raise failed[0]
    return made[0]


def _cache_file(folder: Path | None, gpu: Gpu) -> Path | None:
    return folder / cache_name(tensorrt.__version__, gpu.name, gpu.compute_capability) if folder else None


def _use_timings(config: Any, file: Path) -> None:
    """Load the timings that earlier builds measured."""
    stored = _read_timings(file)
    timings = config.create_timing_cache(stored)
    if timings is not None and config.set_timing_cache(timings, False):
        return
    _log.warning("%s: has no timings of this GPU and TensorRT version: ignored, and replaced after the build", file)
    config.set_timing_cache(create(config.create_timing_cache, b""), False)


def _store_timings(config: Any, file: Path) -> None:
    """Merge the measured timings into the file, which other builds may have changed.

    They are stored before the plan is verified, because they are correct in any case. A file that cannot be written
    is only a warning: the next build takes longer.
    """
    measured = config.get_timing_cache()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            stored = _read_timings(file)
            theirs = config.create_timing_cache(stored) if stored else None
            if theirs is not None:
                measured.combine(theirs, False)
            write_whole(file, bytes(measured.serialize()))
    except OSError as error:
        _log.warning(
            "%s: cannot store the timings (%s): the next build measures them again", file, error.strerror or error
        )


def _read_timings(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # makes an empty cache


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_name(file.name + ".lock").open("ab") as lock:
        until = time.monotonic() + _LOCK_TIMEOUT
        while not try_lock(lock):
            if time.monotonic() > until:
                raise TimeoutError(f"{lock.name} is locked by another build")
            time.sleep(_POLL)
        yield


def count_layers(plan: bytes, description: Description, batch: int, *, source: str) -> dict[str, int]:
    """Count a plan's layers by precision, and check that they match the precision of the file.

    Parameters
    ----------
    plan
        Serialized plan.
    description
        Description of the ONNX file.
    batch
        Windows per run to inspect the plan with.
    source
        Name of the plan in error messages.

    Raises
    ------
    ExportUnsupported
        If this TensorRT version does not report the types of layers.
    ParityFailed
        If the layers do not match the precision of the file.
    """
    precision, signature = description.precision, description.signature
    engine, runtime = deserialize(plan, source=source, remedy="build it again")
    strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED  # nothing runs: no memory is needed
    context = create(engine.create_execution_context, strategy)
    # With dynamic shapes, types are known only after a shape is set: without one the report contains "N/A".
    context.set_input_shape(INPUT, (batch, signature.channels, signature.window, signature.window))
    inspector = create(engine.create_engine_inspector)
    inspector.execution_context = context
    report = inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON)
    del inspector, context, engine, runtime  # in this order: each needs the next one
    try:
        layers = layers_by_precision(report)
    except ValueError as error:
        raise ExportUnsupported(
            f"{source}: TensorRT {tensorrt.__version__} does not report the types of layers ({error}): use another "
            "TensorRT version"
        ) from error
    if problem := precision_problem(precision, layers):
        raise ParityFailed(f"{source}: {problem}: export the .onnx file again, or in another precision")
    return layers
