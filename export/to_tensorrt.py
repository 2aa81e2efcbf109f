"""An ONNX file as a TensorRT plan: built, looked into, verified, and only then put in place with its record.

The precision is in the graph: the network is strongly typed, so that TensorRT computes each layer as the file says.
What it made of that is read back off the plan and counted.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import onnx
import tensorrt
import torch

from sar2optical._utils.files import refuse_existing, try_lock, write_output, write_whole
from sar2optical.engines.base import Description
from sar2optical.engines.tensorrt import LOGGER, Gpu, create, current_gpu, deserialize
from sar2optical.engines.tensorrt_plan import (
    LEVELS,
    HardwareCompatibility,
    PlanRecord,
    cache_name,
    check_profile,
    driver_version,
    lacking,
    layers_by_precision,
    record_path,
)
from sar2optical.errors import ExportUnsupported, ModelUnreadable, OptionError, OutputUnwritable, ParityFailed
from sar2optical.signature import INPUT, METADATA_KEY, OUTPUT, PRECISION_KEY, ModelSignature

Progress = Callable[[str, int, int], None]
"""Called with a phase of the build, its steps done and its steps in all, from TensorRT's threads. Phases nest."""

_LEVELS = {
    "none": tensorrt.HardwareCompatibilityLevel.NONE,
    "same_compute_capability": tensorrt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere_plus": tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS,
}
_OURS = "sar2optical."
_STORAGE_KEY = "sar2optical.storage"
_DRIVER = Path("/proc/driver/nvidia/version")
_GLANCE = 0.1  # seconds between looks for Ctrl-C during a build
_PATIENCE = 10.0  # seconds for another build to let go of the timing cache: it holds it for a merge only
_NAMED = 5  # parser errors that a message has room for

_log = logging.getLogger(f"sar2optical.{__name__}")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How a plan is built."""

    batch: tuple[int, int, int] = (1, 8, 32)
    """Windows per run: fewest, those that kernels are chosen for, most."""
    workspace: int | None = None
    """Most bytes of GPU memory that a kernel may borrow; all there are where None."""
    timing_cache: Path | None = None
    """Folder where measured kernel times are kept, a file for each TensorRT version and kind of GPU."""
    hardware_compatibility: HardwareCompatibility = "none"
    """none is the fastest; the others also run on GPUs that are not the one that builds."""
    overwrite: bool = False
    """Replace the output."""

    def __post_init__(self) -> None:
        check_profile(self.batch)
        if self.workspace is not None and self.workspace < 1:
            raise OptionError(f"workspace is {self.workspace} bytes: give 1 or more")
        if self.hardware_compatibility not in LEVELS:
            raise OptionError(
                f"hardware compatibility is {self.hardware_compatibility!r}: one of {', '.join(LEVELS)}"
            )
        if self.timing_cache is not None and self.timing_cache.exists() and not self.timing_cache.is_dir():
            raise OptionError(f"timing cache {self.timing_cache} is no folder: give one")


def build_plan(
    onnx_path: Path,
    out: Path,
    options: PlanOptions,
    *,
    verify: Callable[[Path], Mapping[str, float | str]] | None,
    rebuild: str,
    progress: Progress | None = None,
) -> PlanRecord:
    """Build a plan and its record.

    Parameters
    ----------
    onnx_path
        File of ours: input `sar`, output `optical`, both float32, a dynamic batch, the signature in its metadata.
    out
        The plan; `record_path(out)` is its record. Both whole and verified, or as they were before.
    options
        Batch sizes, compatibility, caches.
    verify
        Given the candidate, its record beside it, raises where the plan is not good enough, or returns the figures
        that go into the record. None verifies nothing.
    rebuild
        The command that builds it again.
    progress
        Told how far the build is. Whatever it raises ends the build, and is raised from here.

    Returns
    -------
    PlanRecord
        What was written beside the plan.

    Raises
    ------
    ModelUnreadable, SignatureError
        Where the ONNX file is not one, or not ours.
    ExportUnsupported
        Where TensorRT cannot read or build it.
    ParityFailed
        Where the plan does not compute in the precision that the file asks for.
    DeviceUnavailable
        Where there is no GPU, or TensorRT does not work.
    OutputExists, OutputUnwritable
        Where the plan cannot be put at `out`.
    """
    _check_paths(onnx_path, out, overwrite=options.overwrite)
    metadata, sha256 = _read(onnx_path)
    description = Description.read(metadata, onnx_path)
    if metadata.get(_STORAGE_KEY, "fp32") != "fp32":
        raise ExportUnsupported(
            f"{onnx_path}: weights are stored in {metadata[_STORAGE_KEY]}, TensorRT would cast them in every run: "
            "export it with --storage fp32"
        )
    gpu = current_gpu()
    plan = _build(onnx_path, description.signature, options, gpu, progress)
    with _folder_beside(out) as folder:
        candidate = folder / out.name
        write_output(candidate, plan)
        record = PlanRecord(
            signature=description.signature,
            precision=description.precision,
            layers=_layers(plan, description, options.batch[1], out),
            batch=options.batch,
            onnx_sha256=sha256,
            tensorrt=tensorrt.__version__,
            cuda=str(torch.version.cuda),
            driver=_driver(),
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            hardware_compatibility=options.hardware_compatibility,
            sha256=hashlib.sha256(plan).hexdigest(),
            size=len(plan),
            rebuild=rebuild,
            metadata=_kept(metadata),
        )
        _write(record, candidate)
        if verify is not None:
            record = replace(record, parity=dict(verify(candidate)))
            _write(record, candidate)
        _put_in_place(candidate, out)
    return record


def _check_paths(onnx_path: Path, out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() not in (".plan", ".engine"):
        raise ExportUnsupported(f"{out}: plans are .plan files: give a name that ends so")
    if not onnx_path.is_file():
        raise ModelUnreadable(f"{onnx_path}: no such file: check the path")
    for path in (out, record_path(out)):
        refuse_existing(path, overwrite=overwrite)


def _read(path: Path) -> tuple[dict[str, str], str]:
    """Read an ONNX file's metadata, and hash it with the files that hold its weights, if any do."""
    try:
        model = onnx.load(path, load_external_data=False)
        outside = {
            entry.value
            for weights in model.graph.initializer
            if weights.data_location == onnx.TensorProto.EXTERNAL
            for entry in weights.external_data
            if entry.key == "location"
        }
        digest = hashlib.sha256()
        for file in [path, *(path.parent / name for name in sorted(outside))]:
            digest.update(file.read_bytes())
    except Exception as error:  # protobuf's and onnx's have no common root
        reason = " ".join(str(error).split())[:120]
        raise ModelUnreadable(f"{path}: corrupt, or no ONNX model ({reason}): export it again") from error
    return {entry.key: entry.value for entry in model.metadata_props}, digest.hexdigest()


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what has a place of its own in the record."""
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(_OURS) and key not in (METADATA_KEY, PRECISION_KEY)
    }


def _build(path: Path, signature: ModelSignature, options: PlanOptions, gpu: Gpu, progress: Progress | None) -> bytes:
    """Parse, choose kernels, serialize."""
    LOGGER.forget()
    builder = create(tensorrt.Builder, LOGGER)
    # TensorRT 11 knows no other networks, and takes the flag all the same.
    network = create(builder.create_network, 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = create(tensorrt.OnnxParser, network, LOGGER)  # owns the weights: lives until the plan is made
    if not parser.parse_from_file(str(path.absolute())):
        raise ExportUnsupported(f"{path}: TensorRT does not read it ({_complaints(parser)}): export another --opset")
    _check_network(network, signature, path)
    config = create(builder.create_builder_config)
    _configure(config, options)
    _add_profile(builder, config, signature, options.batch)
    monitor = _Monitor(progress)
    config.progress_monitor = monitor
    timings = _cache_file(options.timing_cache, gpu)
    if timings:
        _use_timings(config, timings)
    plan = _interruptibly(lambda: builder.build_serialized_network(network, config), monitor, gpu)
    if plan is None:
        raise ExportUnsupported(
            f"{path}: TensorRT {tensorrt.__version__} does not build it ({LOGGER.reason}): "
            "export it in another precision, or give smaller batch sizes"
        )
    if timings:
        _keep_timings(config, timings)
    return bytes(plan)


def _complaints(parser: Any) -> str:
    """Name the nodes that the parser stops at."""
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    said = [
        f"{error.node_name() or f'node {error.node()}'} [{error.node_operator()}]: {' '.join(error.desc().split())}"
        for error in errors[:_NAMED]
    ]
    if len(errors) > _NAMED:
        said.append(f"and {len(errors) - _NAMED} more")
    return "; ".join(said) or LOGGER.reason


def _check_network(network: Any, signature: ModelSignature, path: Path) -> None:
    given = [network.get_input(k) for k in range(network.num_inputs)]
    made = [network.get_output(k) for k in range(network.num_outputs)]
    if [tensor.name for tensor in (*given, *made)] != [INPUT, OUTPUT]:
        names = ", ".join(tensor.name for tensor in (*given, *made))
        raise ExportUnsupported(f"{path}: its tensors are {names}, not {INPUT} and {OUTPUT}: export it again")
    if any(tensor.dtype != tensorrt.DataType.FLOAT for tensor in (*given, *made)):
        raise ExportUnsupported(f"{path}: takes or gives no float32: export it again, half precision is inside only")
    shape = tuple(given[0].shape)
    if shape != (-1, signature.channels, signature.window, signature.window):
        raise ExportUnsupported(f"{path}: input is {shape}, where -1 is free: export it with a free batch size alone")


def _configure(config: Any, options: PlanOptions) -> None:
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED  # or the plan does not tell its layers' types
    # On by default, and it rounds float32 to 10 bits of mantissa, as float16 has. Cleared in every precision: layers
    # that a quantized file leaves in float32 are those that were found to need it.
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
        raise ExportUnsupported(f"TensorRT takes no batch sizes {batch} ({LOGGER.reason}): give others")


class _Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # TensorRT comes without types
    """Passes on how far a build is, and ends it when asked to, or when whoever is told raises."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self.cause: BaseException | None = None
        self._progress = progress
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Take the beginning of a phase."""
        self._steps[phase_name] = num_steps
        self._tell(phase_name, 0)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Take a step, counted from 0; say whether to go on."""
        self._tell(phase_name, step + 1)
        return self.cause is None

    def phase_finish(self, phase_name: str) -> None:
        """Take the end of a phase, which may come before its last step."""
        self._tell(phase_name, self._steps.get(phase_name, 0))

    def _tell(self, phase: str, done: int) -> None:
        if self._progress is None or self.cause is not None:
            return
        try:
            self._progress(phase, done, self._steps.get(phase, done))
        except BaseException as error:  # must not run into TensorRT's frames; raised where the build was called
            self.cause = error


def _interruptibly(build: Callable[[], Any], monitor: _Monitor, gpu: Gpu) -> Any:
    """Build in a thread: a call of minutes in this one would keep Python from seeing Ctrl-C.

    The first interrupt ends the build at its next step, the second is not waited for.
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
            while not ended.wait(_GLANCE):
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
    """Begin with the times that earlier builds have measured."""
    held = _held_timings(file)
    timings = config.create_timing_cache(held)
    if timings is not None and config.set_timing_cache(timings, False):
        return
    _log.warning("%s: holds no timings of this GPU and TensorRT: ignored, and replaced after the build", file)
    config.set_timing_cache(create(config.create_timing_cache, b""), False)


def _keep_timings(config: Any, file: Path) -> None:
    """Add what was measured to what other builds have put there meanwhile.

    Kept though the plan may yet fail: the times were measured and are right. A cache that cannot be written costs the
    next build a while, and this one nothing.
    """
    measured = config.get_timing_cache()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone_with(file):
            held = _held_timings(file)
            theirs = config.create_timing_cache(held) if held else None
            if theirs is not None:
                measured.combine(theirs, False)
            write_whole(file, bytes(measured.serialize()))
    except OSError as error:
        _log.warning("%s: timings are not kept (%s)", file, error.strerror or error)


def _held_timings(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # what TensorRT takes for a new cache


@contextmanager
def _alone_with(file: Path) -> Iterator[None]:
    with file.with_name(file.name + ".lock").open("ab") as lock:
        until = time.monotonic() + _PATIENCE
        while not try_lock(lock):
            if time.monotonic() > until:
                raise TimeoutError(f"another build holds {lock.name}")
            time.sleep(_GLANCE)
        yield


def _layers(plan: bytes, description: Description, batch: int, out: Path) -> dict[str, int]:
    """Count a plan's layers by precision; refuse one that does not compute as the file asks."""
    precision, signature = description.precision, description.signature
    engine, runtime = deserialize(plan, source=out.name, remedy="build it again")
    strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED  # none is run: no memory is needed
    context = create(engine.create_execution_context, strategy)
    # Types depend on shapes, where those are free: without one the report says "N/A".
    context.set_input_shape(INPUT, (batch, signature.channels, signature.window, signature.window))
    inspector = create(engine.create_engine_inspector)
    inspector.execution_context = context
    report = inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON)
    del inspector, context, engine, runtime  # in this order: each lives in the one after it
    try:
        layers = layers_by_precision(report)
    except ValueError as error:
        raise ExportUnsupported(
            f"{out.name}: TensorRT {tensorrt.__version__} does not tell the types of layers ({error}): "
            "use another version"
        ) from error
    if complaint := lacking(precision, layers):
        raise ParityFailed(f"{out.name}: {complaint}: export the .onnx file again, or in another precision")
    return layers


def _driver() -> str:
    try:
        return driver_version(_DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return driver_version("")


def _write(record: PlanRecord, plan: Path) -> None:
    write_output(record_path(plan), record.to_json().encode())


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Make a folder on the output's disk, so that files can be renamed from there; it is gone afterwards."""
    try:
        folder = TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent)
    except OSError as error:
        raise OutputUnwritable(
            f"{out}: cannot be written ({error.strerror}): free space, or choose another folder"
        ) from error
    with folder as name:
        yield Path(name)


def _put_in_place(candidate: Path, out: Path) -> None:
    """Rename a plan and its record into place; a plan is never there with a record that is not its own.

    So the old plan goes first, and the new one comes last.
    """
    moves = [(out, candidate.with_name("old")), (record_path(out), candidate.with_name("old.json"))]
    moves += [(record_path(candidate), record_path(out)), (candidate, out)]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if source.exists():  # there may be nothing to replace
                done.append((source, target))
                source.replace(target)
    except BaseException as error:
        for source, target in reversed(done):
            with suppress(OSError):
                target.replace(source)
        if isinstance(error, OSError):
            raise OutputUnwritable(f"{out}: cannot be written ({error.strerror}): choose another folder") from error
        raise
