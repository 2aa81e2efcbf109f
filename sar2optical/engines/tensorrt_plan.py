"""Records of TensorRT plans: read a plan's header and record, and check that they fit this machine.

A plan runs only with the TensorRT version and on the kind of GPU that built it. TensorRT reports a mismatch late and
without a remedy. So a record, `model.plan.json`, is stored beside `model.plan`: the signature, the versions and the
GPU that built it, its layers, and the command that builds it again. The plan itself contains no data of this package.
Needs no TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OptionError, SignatureError
from sar2optical.signature import ModelSignature, read_record

__all__ = [
    "LEVELS",
    "VERSION",
    "HardwareCompatibility",
    "PlanRecord",
    "Version",
    "cache_name",
    "check_fit",
    "check_profile",
    "driver_version",
    "load_record",
    "parse_version",
    "read_header",
    "record_path",
]

VERSION = 1
"""Version of the record's JSON form. Records of other versions are refused."""

Version = tuple[int, int, int, int]
"""Version of TensorRT: major, minor, patch, build."""

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
"""GPUs that a plan runs on: the same model, the same compute capability, or Ampere and later."""

LEVELS: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
"""Levels of hardware compatibility."""

_AMPERE = 8  # major compute capability

_MAGIC = 0x74727466  # "ftrt"
_HEADER = struct.Struct("<I20x4B")  # magic, undocumented bytes, version


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Record of a plan."""

    signature: ModelSignature
    """What the model expects."""
    precision: str
    """Precision of the ONNX file."""
    layers: Mapping[str, int]
    """Number of layers by precision, from the engine inspector; a layer that converts counts for both."""
    batch: tuple[int, int, int]
    """Windows per run: minimum, optimum, maximum."""
    onnx_sha256: str
    """SHA-256 of the ONNX file and its external weights."""
    tensorrt: str
    """TensorRT version that built the plan; no other version runs it."""
    cuda: str
    """CUDA version of PyTorch."""
    driver: str
    """Version of NVIDIA's driver; not checked, because plans run with other drivers."""
    gpu: str
    """Name of the GPU that built the plan."""
    compute_capability: tuple[int, int]
    """Compute capability of that GPU: major, minor."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Level of hardware compatibility."""
    sha256: str
    """SHA-256 of the plan."""
    size: int
    """Size of the plan in bytes."""
    rebuild: str
    """Command that builds the plan again."""
    parity: Mapping[str, float | str] = field(default_factory=dict)
    """Parity of the plan with its source: fields of `export.verify.Parity`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Other metadata of the ONNX file, including its self-test."""

    def __post_init__(self) -> None:
        check_profile(self.batch)
        if self.hardware_compatibility not in LEVELS:
            raise ValueError(
                f"hardware compatibility is {self.hardware_compatibility!r}: give one of {', '.join(LEVELS)}"
            )

    def to_json(self) -> str:
        """Write as indented JSON; `from_json` reads it back to an equal record.

        Infinite and NaN parity figures become text, because JSON has no such numbers.
        """
        record = {
            "version": VERSION,
            "signature": json.loads(self.signature.to_json()),
            "precision": self.precision,
            "layers": dict(self.layers),
            "batch": list(self.batch),
            "onnx_sha256": self.onnx_sha256,
            "tensorrt": self.tensorrt,
            "cuda": self.cuda,
            "driver": self.driver,
            "gpu": self.gpu,
            "compute_capability": list(self.compute_capability),
            "hardware_compatibility": self.hardware_compatibility,
            "sha256": self.sha256,
            "size": self.size,
            "rebuild": self.rebuild,
            "parity": {name: _finite(figure) for name, figure in self.parity.items()},
            "metadata": dict(self.metadata),
        }
        return json.dumps(record, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "the plan's record") -> PlanRecord:
        """Read the JSON form.

        Parameters
        ----------
        text
            JSON that `to_json` wrote.
        source
            Name of the record in error messages.

        Raises
        ------
        SignatureError
            If the record is malformed or of another version.
        """
        record = read_record(text, version=VERSION, source=source, name="record", remedy="build the plan again")
        try:
            return _parsed(record, source)
        except KeyError as error:
            raise SignatureError(f"{source}: malformed record (no {error}): build the plan again") from error
        except SignatureError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise SignatureError(f"{source}: malformed record ({error}): build the plan again") from error


def check_profile(batch: tuple[int, int, int]) -> None:
    """Refuse batch sizes that are not valid for an optimization profile.

    Raises
    ------
    OptionError
        If they are not three ascending numbers from 1.
    """
    if len(batch) != 3 or not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise OptionError(f"batch sizes are {batch}: give minimum, optimum and maximum, such as 1, 8, 32")


def record_path(plan: Path) -> Path:
    """Return the path of a plan's record: model.plan -> model.plan.json."""
    return plan.with_name(plan.name + ".json")


def read_header(path: Path) -> Version:
    """Read the TensorRT version that built a plan from its header.

    Raises
    ------
    ModelUnreadable
        If the file cannot be read, is truncated, or is not a plan.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
    except OSError as error:
        raise ModelUnreadable(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if len(start) < _HEADER.size:
        raise ModelUnreadable(
            f"{path}: the plan is truncated ({len(start)} bytes, its header alone has {_HEADER.size}): build it "
            "again, or copy it again"
        )
    magic, *version = _HEADER.unpack(start)
    if magic != _MAGIC:
        raise ModelUnreadable(
            f"{path}: not a TensorRT plan (starts with {start[:8]!r}): build it with sar2opt-export"
        )
    major, minor, patch, build = version
    return major, minor, patch, build


def load_record(path: Path) -> PlanRecord:
    """Read the record beside a plan, and check that the two belong together.

    Parameters
    ----------
    path
        Path of the plan.

    Raises
    ------
    SignatureError
        If the record is missing or cannot be read.
    ModelUnreadable
        If the record belongs to another plan.
    """
    beside = record_path(path)
    try:
        text = beside.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SignatureError(
            f"{path}: its record {beside.name} is missing, so bands, unit and stretch of its input are unknown: "
            "keep the two files together, or build the plan with sar2opt-export"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SignatureError(
            f"{beside}: the plan's record is not readable ({error}): build the plan again"
        ) from error
    record = PlanRecord.from_json(text, source=str(beside))
    size, digest = path.stat().st_size, None
    if size == record.size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record.sha256:
        found = f"{size} bytes, not {record.size}" if digest is None else f"sha256 {digest[:12]} differs"
        raise ModelUnreadable(
            f"{path}: does not belong to {beside.name} ({found}): download both again, or build it: {record.rebuild}"
        )
    return record


def check_fit(
    record: PlanRecord,
    *,
    header_version: Version,
    tensorrt_version: str,
    gpu_name: str,
    compute_capability: tuple[int, int],
    source: str = "the plan",
) -> None:
    """Refuse a plan that cannot run on this machine, before it is loaded.

    Parameters
    ----------
    record
        From `load_record`.
    header_version
        From `read_header`.
    tensorrt_version, gpu_name, compute_capability
        TensorRT version and GPU of this machine.
    source
        Name of the plan in error messages.

    Raises
    ------
    ModelUnreadable
        If another TensorRT version built the plan.
    DeviceUnavailable
        If the plan was built for other GPUs.
    """
    remedy = f"build it again on this machine: {record.rebuild}"
    built = _dotted(header_version)
    if header_version != parse_version(record.tensorrt):
        raise ModelUnreadable(
            f"{source}: built by TensorRT {built} according to its header, by {record.tensorrt} according to its "
            f"record: download both again, or {remedy}"
        )
    if header_version != parse_version(tensorrt_version):
        raise ModelUnreadable(f"{source}: built by TensorRT {built}, but {tensorrt_version} is installed: {remedy}")
    level, capability = record.hardware_compatibility, _dotted(compute_capability)
    if level == "ampere_plus":
        if compute_capability[0] < _AMPERE:
            raise DeviceUnavailable(
                f"{source}: built for compute capability {_AMPERE}.0 and later, but {gpu_name} has {capability}: "
                f"{remedy}"
            )
    elif compute_capability != record.compute_capability:
        raise DeviceUnavailable(
            f"{source}: built for compute capability {_dotted(record.compute_capability)} ({record.gpu}), "
            f"but {gpu_name} has {capability}: {remedy}"
        )
    elif level == "none" and gpu_name != record.gpu:
        raise DeviceUnavailable(f"{source}: built for {record.gpu}, but this GPU is {gpu_name}: {remedy}")


def parse_version(text: str) -> Version:
    """Parse a version: "10.13.3.9.post1" becomes (10, 13, 3, 9); missing numbers are 0."""
    major, minor, patch, build = [*map(int, re.findall(r"\d+", text)), 0, 0, 0, 0][:4]
    return major, minor, patch, build


def cache_name(tensorrt_version: str, gpu_name: str, compute_capability: tuple[int, int]) -> str:
    """Return the file name of a timing cache, which is valid for one TensorRT version and one GPU model."""
    gpu = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-")
    return f"tensorrt-{tensorrt_version}-{gpu}-sm{''.join(map(str, compute_capability))}.timing"


def driver_version(text: str) -> str:
    """Find the driver's version in the text of /proc/driver/nvidia/version; "unknown" if there is none."""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found.group() if found else "unknown"


def _parsed(record: Mapping[str, Any], source: str) -> PlanRecord:
    least, usual, most = _integers(record, "batch")
    major, minor = _integers(record, "compute_capability")
    return PlanRecord(
        signature=ModelSignature.from_json(json.dumps(record["signature"]), source=source),
        precision=_text(record, "precision"),
        layers={str(name): int(count) for name, count in _mapping(record, "layers").items()},
        batch=(least, usual, most),
        onnx_sha256=_text(record, "onnx_sha256"),
        tensorrt=_text(record, "tensorrt"),
        cuda=_text(record, "cuda"),
        driver=_text(record, "driver"),
        gpu=_text(record, "gpu"),
        compute_capability=(major, minor),
        hardware_compatibility=record["hardware_compatibility"],
        sha256=_text(record, "sha256"),
        size=int(record["size"]),
        rebuild=_text(record, "rebuild"),
        parity={
            str(name): figure if isinstance(figure, str) else float(figure)
            for name, figure in _mapping(record, "parity").items()
        },
        metadata={str(key): str(value) for key, value in _mapping(record, "metadata").items()},
    )


def _text(record: Mapping[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise TypeError(f"{key} is {record[key]!r}, not text")
    return str(record[key])


def _mapping(record: Mapping[str, Any], key: str) -> dict[Any, Any]:
    if not isinstance(record[key], dict):
        raise TypeError(f"{key} is {record[key]!r}, but must be a JSON object")
    return dict(record[key])


def _integers(record: Mapping[str, Any], key: str) -> list[int]:
    return [int(value) for value in record[key]]


def _finite(figure: float | str) -> float | str:
    return figure if isinstance(figure, str) or math.isfinite(figure) else str(figure)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
