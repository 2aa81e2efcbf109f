"""Export an ONNX file to a TensorRT plan: build, check its layers, verify, write it with its record.

The precision is in the graph: the network is strongly typed, so TensorRT computes each layer in the precision of the
file. The layers of the built plan are counted to check that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import tensorrt
import torch

from export.graph import metadata_of
from export.options import OnProgress
from export.tensorrt_builder import PlanOptions, build_network, count_layers
from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.engines.base import Description
from sar2optical.engines.tensorrt_plan import PlanRecord, driver_version, record_path
from sar2optical.engines.tensorrt_runtime import Gpu, current_gpu
from sar2optical.errors import ExportUnsupported, ModelUnreadable, OutputUnwritable
from sar2optical.signature import METADATA_KEY, PRECISION_KEY

__all__ = ["build_plan"]

_OURS = "sar2optical."
_STORAGE_KEY = "sar2optical.storage"
_DRIVER = Path("/proc/driver/nvidia/version")


def build_plan(
    onnx_path: Path,
    out: Path,
    options: PlanOptions,
    *,
    verify: Callable[[Path], Mapping[str, float | str]] | None,
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
        Batch sizes, compatibility, caches.
    verify
        Called with the built plan, its record beside it. Raises if the plan is not good enough, else returns the
        parity figures for the record. None skips the verification.
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
    ExportUnsupported
        If TensorRT cannot read or build it.
    ParityFailed
        If the plan does not compute in the precision of the file.
    DeviceUnavailable
        If there is no GPU, or TensorRT does not work.
    OutputExists, OutputUnwritable
        If the plan cannot be written to `out`.
    """
    _check_paths(onnx_path, out, overwrite=options.overwrite)
    file = _read(onnx_path)
    gpu = current_gpu()
    plan = build_network(onnx_path, file.description.signature, options, gpu, on_progress)
    with _folder_beside(out) as folder:
        candidate = folder / out.name
        write_output(candidate, plan)
        layers = count_layers(plan, file.description, options.batch[1], source=out.name)
        record = _record(plan, layers, file, options, gpu, rebuild)
        _write(record, candidate)
        if verify is not None:
            record = replace(record, parity=dict(verify(candidate)))
            _write(record, candidate)
        _replace_both(candidate, out)
    return record


@dataclass(frozen=True, kw_only=True)
class _OnnxFile:
    """Data of the ONNX file for the plan's record."""

    description: Description
    """Signature, precision and self-test."""
    metadata: Mapping[str, str]
    """Metadata of this package that have no field of their own in the record."""
    sha256: str
    """SHA-256 of the file and its external weights."""


def _record(
    plan: bytes, layers: Mapping[str, int], file: _OnnxFile, options: PlanOptions, gpu: Gpu, rebuild: str
) -> PlanRecord:
    return PlanRecord(
        signature=replace(file.description.signature, windows=()),  # the profile has the model's own window only
        precision=file.description.precision,
        layers=layers,
        batch=options.batch,
        onnx_sha256=file.sha256,
        tensorrt=tensorrt.__version__,
        cuda=str(torch.version.cuda),
        driver=_driver(),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        hardware_compatibility=options.hardware_compatibility,
        sha256=hashlib.sha256(plan).hexdigest(),
        size=len(plan),
        rebuild=rebuild,
        metadata=file.metadata,
    )


def _check_paths(onnx_path: Path, out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() not in (".plan", ".engine"):
        raise ExportUnsupported(f"{out}: not a name of a plan: give a name that ends in .plan")
    if not onnx_path.is_file():
        raise ModelUnreadable(f"{onnx_path}: no such file: check the path")
    for path in (out, record_path(out)):
        refuse_existing(path, overwrite=overwrite)


def _read(path: Path) -> _OnnxFile:
    """Read an ONNX file; refuse weights that are stored in fp16."""
    try:
        model = onnx.load(path, load_external_data=False)
        external = {
            entry.value
            for weights in model.graph.initializer
            if weights.data_location == onnx.TensorProto.EXTERNAL
            for entry in weights.external_data
            if entry.key == "location"
        }
        digest = hashlib.sha256()
        for file in [path, *(path.parent / name for name in sorted(external))]:
            digest.update(file.read_bytes())
    except Exception as error:  # protobuf's and onnx's have no common base class
        reason = " ".join(str(error).split())[:120]
        raise ModelUnreadable(f"{path}: corrupt, or not an ONNX model ({reason}): export it again") from error
    metadata = metadata_of(model)
    description = Description.read(metadata, path)
    storage = metadata.get(_STORAGE_KEY, "fp32")
    if storage != "fp32":
        raise ExportUnsupported(
            f"{path}: its weights are stored in {storage}, which TensorRT would cast in every run: export it with "
            "--storage fp32"
        )
    in_record = (METADATA_KEY, PRECISION_KEY)
    others = {k: value for k, value in metadata.items() if k.startswith(_OURS) and k not in in_record}
    return _OnnxFile(description=description, metadata=others, sha256=digest.hexdigest())


def _driver() -> str:
    try:
        return driver_version(_DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return driver_version("")


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
