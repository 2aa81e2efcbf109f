"""Export an ONNX file to a plan of TensorRT or TensorRT for RTX: build, verify, write it with its record.

The precision is in the graph: the network is strongly typed, so each layer is computed in the precision of the file.
The layers of a plan of TensorRT are counted to check that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch

from export.options import Runtime
from export.plan_layers import count_layers
from export.timing_cache import store_timings, use_timings
from sar2optical._utils.files import locked_folder, refuse_existing, write_output
from sar2optical.engines.base import Description
from sar2optical.engines.onnx_graph import metadata_of, plain
from sar2optical.engines.rtx_cards import targets_named
from sar2optical.engines.tensorrt_build import build_plan_bytes
from sar2optical.engines.tensorrt_plan import (
    OnProgress,
    PlanOptions,
    PlanRecord,
    cache_name,
    driver_version,
    record_path,
)
from sar2optical.engines.tensorrt_runtime import current_gpu
from sar2optical.errors import ExportUnsupported, ModelUnreadable, OutputUnwritable
from sar2optical.signature import METADATA_KEY, PRECISION_KEY

__all__ = ["build_plan"]

_OURS = "sar2optical."


def build_plan(
    onnx_path: Path,
    out: Path,
    options: PlanOptions,
    *,
    runtime: Runtime = "tensorrt",
    verify: Callable[[Path, PlanRecord], Mapping[str, float | str]] | None,
    rebuild: str,
    on_progress: OnProgress | None = None,
) -> PlanRecord:
    """Build a plan and write it with its record.

    Parameters
    ----------
    onnx_path
        Exported file: input `sar`, output `optical`, both float32, a dynamic batch, the signature in its metadata.
    out
        Path of the plan; its record is `record_path(out)`. On an error both stay as they were.
    options
        Batch sizes, cards, caches.
    runtime
        Library that builds and runs the plan.
    verify
        Called with the built plan, its record beside it: raises, or returns parity figures for the record; or None.
    rebuild
        Command that builds the plan again.
    on_progress
        Called during the build. An exception that it raises stops the build and is raised from here.

    Returns
    -------
    PlanRecord
        Record that was written beside the plan.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the ONNX file cannot be read, or has no signature.
    ExportUnsupported, OptionError
        If the library cannot build it, or not for these cards.
    ParityFailed
        If the plan does not compute in the precision of the file.
    DeviceUnavailable
        If the library does not work; for TensorRT, if there is no GPU.
    OutputExists, OutputUnwritable
        If the plan cannot be written to `out`.
    """
    _check_paths(onnx_path, out, overwrite=options.overwrite)
    file = _read(onnx_path)
    plan, built = (_build_rtx if runtime == "rtx" else _build_tensorrt)(file, options, out.name, on_progress)
    record = _record(plan, file, options, built, rebuild)
    with _folder_beside(out) as folder:
        candidate = folder / out.name
        write_output(candidate, plan)
        _write(record, candidate)
        if verify is not None:
            record = replace(record, parity=dict(verify(candidate, record)))
            _write(record, candidate)
        _replace_both(candidate, out)
    return record


def _record(plan: bytes, file: _OnnxFile, options: PlanOptions, built: Mapping[str, Any], rebuild: str) -> PlanRecord:
    return PlanRecord(
        precision=file.description.precision,
        batch=options.batch,
        onnx_sha256=file.sha256,
        sha256=hashlib.sha256(plan).hexdigest(),
        size=len(plan),
        rebuild=rebuild,
        metadata=file.metadata,
        **built,
    )


@dataclass(frozen=True, kw_only=True)
class _OnnxFile:
    """An ONNX file to build."""

    path: Path
    """Path of the file."""
    content: bytes
    """Model, its weights stored in the type that it computes in."""
    description: Description
    """Signature, precision and self-test."""
    metadata: Mapping[str, str]
    """Metadata of this package that have no field of their own in the record."""
    sha256: str
    """SHA-256 of the file and its external weights."""


def _build_tensorrt(
    file: _OnnxFile, options: PlanOptions, name: str, on_progress: OnProgress | None
) -> tuple[bytes, dict[str, Any]]:
    """Build with TensorRT on the current GPU; return the plan and fields of its record."""
    from sar2optical.engines.tensorrt import LIBRARY

    gpu, trt = current_gpu(), LIBRARY.trt
    levels = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    }
    used: list[Any] = []
    timings = None
    if options.timing_cache:
        ending = f"sm{''.join(map(str, gpu.compute_capability))}.timing"
        timings = options.timing_cache / cache_name("tensorrt", LIBRARY.version, gpu.name, ending)

    def configure(config: Any) -> None:
        used.append(config)
        config.hardware_compatibility_level = levels[options.hardware_compatibility]
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if timings:
            use_timings(config, timings)

    # The profile has the model's own window only.
    signature = file.description.signature.in_window(file.description.signature.window)
    plan = build_plan_bytes(
        LIBRARY, file.content, signature, options.batch, path=file.path, configure=configure, place=gpu.place,
        on_progress=on_progress,
    )  # fmt: skip
    if timings:
        store_timings(used[0], timings)
    return plan, {
        "signature": signature,
        "layers": count_layers(LIBRARY, plan, file.description, options.batch[1], source=name),
        "library": "tensorrt",
        "tensorrt": LIBRARY.version,
        "cuda": str(torch.version.cuda),
        "driver": driver_version(),
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "hardware_compatibility": options.hardware_compatibility,
    }


def _build_rtx(
    file: _OnnxFile, options: PlanOptions, _: str, on_progress: OnProgress | None
) -> tuple[bytes, dict[str, Any]]:
    """Build with TensorRT for RTX, which needs no GPU; return the plan and fields of its record."""
    from sar2optical.engines.tensorrt_rtx import LIBRARY, set_targets

    signature = file.description.signature
    targets = targets_named(options.target, file.description.precision)
    plan = build_plan_bytes(
        LIBRARY, file.content, signature, options.batch, path=file.path, on_progress=on_progress,
        configure=lambda config: set_targets(config, targets),
    )  # fmt: skip
    return plan, {
        "signature": signature, "library": "tensorrt_rtx", "tensorrt": LIBRARY.version, "targets": targets
    }  # fmt: skip


def _check_paths(onnx_path: Path, out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() not in (".plan", ".engine"):
        raise ExportUnsupported(f"{out}: not a name of a plan: give a name that ends in .plan")
    if not onnx_path.is_file():
        raise ModelUnreadable(f"{onnx_path}: no such file: check the path")
    for path in (out, record_path(out)):
        refuse_existing(path, overwrite=overwrite)


def _read(path: Path) -> _OnnxFile:
    """Read an ONNX file; weights that are stored in fp16 become float32."""
    try:
        model = onnx.load(path, load_external_data=False)
        external = {
            entry.value
            for weights in model.graph.initializer
            if weights.data_location == onnx.TensorProto.EXTERNAL
            for entry in weights.external_data
            if entry.key == "location"
        }
        content = path.read_bytes()
        digest = hashlib.sha256(content)
        for name in sorted(external):
            digest.update((path.parent / name).read_bytes())
    except Exception as error:  # protobuf's and onnx's have no common base class
        reason = " ".join(str(error).split())[:120]
        raise ModelUnreadable(f"{path}: corrupt, or not an ONNX model ({reason}): export it again") from error
    metadata = metadata_of(model)
    if metadata.get("sar2optical.storage", "fp32") != "fp32":  # else the casts may run with every batch
        content = plain(onnx.load(path)).SerializeToString()
    in_record = (METADATA_KEY, PRECISION_KEY)
    return _OnnxFile(
        path=path,
        content=content,
        description=Description.read(metadata, path),
        metadata={k: value for k, value in metadata.items() if k.startswith(_OURS) and k not in in_record},
        sha256=digest.hexdigest(),
    )


def _write(record: PlanRecord, plan: Path) -> None:
    write_output(record_path(plan), record.to_json().encode())


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Make a temporary folder beside the output, so that files in it can be renamed to the output."""
    try:
        folder = TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent)
    except OSError as error:
        raise OutputUnwritable(
            f"{out}: cannot be written ({error.strerror}): free space, or choose another folder"
        ) from error
    with folder as name:
        yield Path(name)


def _replace_both(candidate: Path, out: Path) -> None:
    """Rename a plan and its record to the output; undo all renames on an error.

    The old plan is removed first and the new one comes last, so that a plan is never beside the record of another.
    """
    moves = [(out, candidate.with_name("old")), (record_path(out), candidate.with_name("old.json"))]
    moves += [(record_path(candidate), record_path(out)), (candidate, out)]
    done: list[tuple[Path, Path]] = []
    try:
        with locked_folder(out.absolute().parent):  # another build may replace the same files
            for source, target in moves:
                if source.exists():  # the output may be new
                    done.append((source, target))
                    source.replace(target)
    except BaseException as error:
        for source, target in reversed(done):
            with suppress(OSError):
                target.replace(source)
        if isinstance(error, OSError):
            raise OutputUnwritable(f"{out}: cannot be written ({error.strerror}): choose another folder") from error
        raise
