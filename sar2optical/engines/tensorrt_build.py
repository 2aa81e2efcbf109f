"""Build a plan with TensorRT or TensorRT for RTX: parse, add the profiles, optimize, serialize."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

from sar2optical.engines.tensorrt_plan import OnProgress
from sar2optical.engines.tensorrt_runtime import Library
from sar2optical.errors import ExportUnsupported
from sar2optical.signature import INPUT, OUTPUT, ModelSignature

__all__ = ["build_plan_bytes"]

_POLL = 0.1  # seconds between checks for Ctrl-C during a build
_MAX_ERRORS = 5  # parser errors in a message


def build_plan_bytes(
    library: Library,
    model: bytes,
    signature: ModelSignature,
    batch: tuple[int, int, int],
    *,
    path: Path,
    configure: Callable[[Any], None],
    place: torch.device | None = None,
    on_progress: OnProgress | None = None,
) -> bytes:
    """Build a plan from an ONNX model.

    Parameters
    ----------
    library
        Library that builds.
    model
        ONNX model with the input `sar` and the output `optical`, both float32, and a dynamic batch.
    signature
        Signature of the model; the plan has one profile for each of its windows.
    batch
        Windows per run: minimum, optimum, maximum.
    path
        File of the model, for its external weights and for messages.
    configure
        Called with the builder's configuration, for the settings of one library.
    place
        GPU to build on; None: without a GPU.
    on_progress
        Called during the build; an exception that it raises stops the build.

    Returns
    -------
    bytes
        Serialized plan.

    Raises
    ------
    ExportUnsupported, DeviceUnavailable
        If the library cannot read or build the model, or does not work on this machine.
    """
    trt = library.trt
    library.forget()
    builder = library.create(trt.Builder, library.logger)
    network, parser = _parsed(library, builder, model, path)
    _check_network(trt, network, signature, path)
    config = _config(library, builder)
    for side in signature.sides:
        _add_profile(library, builder, config, (signature.channels, side, side), batch)
    configure(config)
    config.progress_monitor = monitor = _monitor(trt, on_progress)
    plan = _interruptibly(lambda: builder.build_serialized_network(network, config), monitor, place)
    del parser  # owns the weights until the plan is built
    if plan is None:
        raise ExportUnsupported(
            f"{path}: {library.title} cannot build the plan ({library.reason}): export it in another precision, "
            "with --subpixel on, or give smaller batch sizes"
        )
    return bytes(plan)


def _parsed(library: Library, builder: Any, model: bytes, path: Path) -> tuple[Any, Any]:
    """Parse a model; return the network and its parser."""
    trt = library.trt
    # Explicit for TensorRT 10; in the others all networks are strongly typed.
    network = library.create(builder.create_network, 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.create(trt.OnnxParser, network, library.logger)
    if not parser.parse(model, str(path.absolute())):
        raise ExportUnsupported(
            f"{path}: {library.title} cannot read the file ({_parser_errors(parser, library)}): export it with "
            "another --precision or --opset"
        )
    return network, parser


def _config(library: Library, builder: Any) -> Any:
    """Make a configuration with the settings of both libraries."""
    trt = library.trt
    config = library.create(builder.create_builder_config)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the plan has no types of layers
    # TF32, on by default, rounds float32 to 10 bits of mantissa. Cleared in every precision: the layers that a
    # quantized file leaves in float32 need its precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    return config


def _parser_errors(parser: Any, library: Library) -> str:
    """List the nodes that the parser cannot read."""
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    messages = [
        f"{error.node_name() or f'node {error.node()}'} [{error.node_operator()}]: {' '.join(error.desc().split())}"
        for error in errors[:_MAX_ERRORS]
    ]
    if len(errors) > _MAX_ERRORS:
        messages.append(f"and {len(errors) - _MAX_ERRORS} more")
    return "; ".join(messages) or library.reason


def _check_network(trt: Any, network: Any, signature: ModelSignature, path: Path) -> None:
    """Refuse a network whose input and output the engine could not feed."""
    given = [network.get_input(k) for k in range(network.num_inputs)]
    made = [network.get_output(k) for k in range(network.num_outputs)]
    if [tensor.name for tensor in (*given, *made)] != [INPUT, OUTPUT]:
        names = ", ".join(tensor.name for tensor in (*given, *made))
        raise ExportUnsupported(
            f"{path}: its input and output are {names}, but must be {INPUT} and {OUTPUT}: "
            "export it with sar2opt-export"
        )
    if found := [
        f"{tensor.name} is {tensor.dtype.name}" for tensor in (*given, *made) if tensor.dtype != trt.DataType.FLOAT
    ]:
        raise ExportUnsupported(f"{path}: {', '.join(found)}, but must be float32: export it with sar2opt-export")
    shape, side = tuple(given[0].shape), signature.window
    sides = [(-1, -1)] if signature.windows else [(side, side), (-1, -1)]
    if shape[:2] != (-1, signature.channels) or shape[2:] not in sides:
        raise ExportUnsupported(f"{path}: input shape is {shape} (-1 is dynamic): export it with a dynamic batch")


def _add_profile(
    library: Library, builder: Any, config: Any, sides: tuple[int, int, int], batch: tuple[int, int, int]
) -> None:
    profile = library.create(builder.create_optimization_profile)
    fewest, usual, most = batch
    profile.set_shape(INPUT, (fewest, *sides), (usual, *sides), (most, *sides))
    if config.add_optimization_profile(profile) < 0:
        raise ExportUnsupported(
            f"{library.title} does not accept the batch sizes {batch} ({library.reason}): give other sizes"
        )


def _monitor(trt: Any, on_progress: OnProgress | None) -> Any:
    """Make a monitor that forwards a build's progress, and stops it if `cause` is set or the callback raises."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the libraries have no type hints
        def __init__(self) -> None:
            super().__init__()
            self.cause: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)  # steps are counted from 0
            return self.cause is None  # False stops the build

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self._steps.get(phase_name, 0))  # may come before the last step

        def _report(self, phase: str, done: int) -> None:
            if on_progress is None or self.cause is not None:
                return
            try:
                on_progress(phase, done, self._steps.get(phase, done))
            except BaseException as error:  # must not reach the library's frames; raised again after the build
                self.cause = error

    return Monitor()


def _interruptibly(build: Callable[[], Any], monitor: Any, place: torch.device | None) -> Any:
    """Build in a thread, because Python handles no Ctrl-C during a call that may take minutes.

    The first interrupt stops the build at its next step; a second one does not wait for it.
    """
    made: list[Any] = []
    failed: list[BaseException] = []
    ended = Event()

    def work() -> None:
        try:
            with torch.cuda.device(place) if place is not None and place.type == "cuda" else nullcontext():
                made.append(build())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    Thread(target=work, name="build of a plan", daemon=True).start()
    while not ended.is_set():
        try:
            while not ended.wait(_POLL):
                pass
        except BaseException as error:
            if monitor.cause is not None:
                raise
            monitor.cause = error
    if monitor.cause is not None:
        failed.append(monitor.cause)
        monitor.cause = None
    if failed:
        raise failed.pop()  # not kept: its traceback would keep builder and network until a garbage collection
    return made[0]
