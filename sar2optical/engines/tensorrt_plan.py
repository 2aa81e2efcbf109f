"""TensorRT plans without TensorRT: the header, the record beside it, and whether the pair fits this machine.

A plan runs with the TensorRT version that built it, on the GPU that it was built for. TensorRT itself says so only
while it loads one, and names no remedy. So `model.plan.json` lies beside `model.plan`: what the model expects, what
it was built with, what was found in it, and the command that builds it again. The plan holds nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OptionError, SignatureError
from sar2optical.signature import ModelSignature

VERSION = 1
"""Of the record's JSON form. A record of another version is refused."""

Version = tuple[int, int, int, int]
"""Of TensorRT: major, minor, patch, build."""

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
"""GPUs that a plan runs on: of the model that built it, of its compute capability, or of Ampere and later."""

LEVELS: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)

_AMPERE = 8  # major compute capability

_MAGIC = 0x74727466  # "ftrt"
_HEADER = struct.Struct("<I20x4B")  # magic, what is not ours to know, version

_TYPES = {
    "float": "fp32", "float32": "fp32", "fp32": "fp32",
    "half": "fp16", "float16": "fp16", "fp16": "fp16",
    "bfloat16": "bf16", "bf16": "bf16",
    "int8": "int8",
    "fp8": "fp8", "float8": "fp8", "fp8e4m3": "fp8", "e4m3": "fp8",
}  # fmt: skip
"""Words of the engine inspector, in lower case."""

_MOVERS = ("reformat", "cast", "constant", "quantize", "dequantize", "noop", "shuffle")
"""Types of layers that compute nothing, in lower case. Half of a Q/DQ pair alone is no int8 arithmetic."""

_LOWER = ("fp16", "bf16", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """What is known of a plan."""

    signature: ModelSignature
    """What the model expects."""
    precision: str
    """Asked for, by the ONNX file."""
    layers: Mapping[str, int]
    """Layers of each precision, as the engine inspector reports them; one that converts counts for both."""
    batch: tuple[int, int, int]
    """Windows per run: fewest, those the plan is tuned for, most."""
    onnx_sha256: str
    """Of the ONNX file, with its weights where they lie outside."""
    tensorrt: str
    """Version that built the plan, and the only one that runs it."""
    cuda: str
    """Version that PyTorch was built with."""
    driver: str
    """Version of NVIDIA's driver. Not compared: a plan is not tied to it."""
    gpu: str
    """Name of the GPU that built it."""
    compute_capability: tuple[int, int]
    hardware_compatibility: HardwareCompatibility = "none"
    sha256: str
    """Of the plan."""
    size: int
    """Of the plan, in bytes."""
    rebuild: str
    """Command that builds the plan again."""
    parity: Mapping[str, float | str] = field(default_factory=dict)
    """How far the plan is from its source."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What else the ONNX file said of itself, its known answer among it."""

    def __post_init__(self) -> None:
        check_profile(self.batch)
        if self.hardware_compatibility not in LEVELS:
            raise ValueError(f"hardware compatibility is {self.hardware_compatibility!r}: one of {', '.join(LEVELS)}")

    def to_json(self) -> str:
        """Write as JSON, for people too; `from_json` reads it back to an equal record.

        But for parity figures that are no finite numbers: JSON has none, so they become text.
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
            What `to_json` wrote.
        source
            Named in errors: the file that held it.

        Raises
        ------
        SignatureError
            Where it is malformed or of another version.
        """
        try:
            record: Any = json.loads(text)
            version = record["version"]
        except (ValueError, TypeError, RecursionError, KeyError) as error:
            raise SignatureError(f"{source}: not readable ({str(text)[:40]!r}): build the plan again") from error
        if version != VERSION:
            raise SignatureError(
                f"{source}: version {version!r}, this release reads {VERSION}: "
                "build the plan again, or use the release that made it"
            )
        try:
            return _parsed(record, source)
        except KeyError as error:
            raise SignatureError(f"{source}: malformed (no {error}): build the plan again") from error
        except SignatureError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise SignatureError(f"{source}: malformed ({error}): build the plan again") from error


def check_profile(batch: tuple[int, int, int]) -> None:
    """Refuse batch sizes that no optimization profile can hold.

    Raises
    ------
    OptionError
        Where they are not three that rise, from 1.
    """
    if len(batch) != 3 or not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise OptionError(f"batch sizes are {batch}: give the fewest, the usual and the most, such as 1, 8, 32")


def record_path(plan: Path) -> Path:
    """Give the place of a plan's record: model.plan -> model.plan.json."""
    return plan.with_name(plan.name + ".json")


def read_header(path: Path) -> Version:
    """Read the TensorRT version that built a plan off its first bytes.

    Raises
    ------
    ModelUnreadable
        Where the file cannot be read, is cut short, or is no plan.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
    except OSError as error:
        raise ModelUnreadable(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if len(start) < _HEADER.size:
        raise ModelUnreadable(f"{path}: {len(start)} bytes, a plan's header alone has {_HEADER.size}: fetch it again")
    magic, *version = _HEADER.unpack(start)
    if magic != _MAGIC:
        raise ModelUnreadable(
            f"{path}: begins with {start[:8]!r}, not as a TensorRT plan does: build it with sar2opt-export"
        )
    major, minor, patch, build = version
    return major, minor, patch, build


def load_record(path: Path) -> PlanRecord:
    """Read the record beside a plan, and check that the two belong together.

    Parameters
    ----------
    path
        The plan.

    Raises
    ------
    SignatureError
        Where there is no record, or one that is not understood.
    ModelUnreadable
        Where the plan is not the one that the record is about.
    """
    beside = record_path(path)
    try:
        text = beside.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SignatureError(
            f"{path}: no {beside.name} beside it, so nothing says what its input means: "
            "keep the two together, or build the plan with sar2opt-export"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SignatureError(f"{beside}: not readable ({error}): build the plan again") from error
    record = PlanRecord.from_json(text, source=str(beside))
    size, digest = path.stat().st_size, None
    if size == record.size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record.sha256:
        found = f"{size} bytes, not {record.size}" if digest is None else f"sha256 {digest[:12]}, not its own"
        raise ModelUnreadable(
            f"{path}: does not belong to {beside.name} ({found}): fetch both again, or build it: {record.rebuild}"
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
    """Refuse a plan that cannot run here, before it is loaded.

    Parameters
    ----------
    record
        From `load_record`.
    header_version
        From `read_header`.
    tensorrt_version, gpu_name, compute_capability
        Of this machine.
    source
        Named in errors: the plan.

    Raises
    ------
    ModelUnreadable
        Where another TensorRT version built it.
    DeviceUnavailable
        Where it was built for other GPUs.
    """
    again = f"build it again here: {record.rebuild}"
    built = _dotted(header_version)
    if header_version != parse_version(record.tensorrt):
        raise ModelUnreadable(
            f"{source}: its header says TensorRT {built}, its record {record.tensorrt}: fetch both again, or {again}"
        )
    if header_version != parse_version(tensorrt_version):
        raise ModelUnreadable(f"{source}: built by TensorRT {built}, {tensorrt_version} is installed: {again}")
    level, here = record.hardware_compatibility, _dotted(compute_capability)
    if level == "ampere_plus":
        if compute_capability[0] < _AMPERE:
            raise DeviceUnavailable(
                f"{source}: built for compute capability {_AMPERE}.0 and later, {gpu_name} has {here}: {again}"
            )
    elif compute_capability != record.compute_capability:
        raise DeviceUnavailable(
            f"{source}: built for compute capability {_dotted(record.compute_capability)} ({record.gpu}), "
            f"{gpu_name} has {here}: {again}"
        )
    elif level == "none" and gpu_name != record.gpu:
        raise DeviceUnavailable(f"{source}: built for {record.gpu}, this GPU is {gpu_name}: {again}")


def parse_version(text: str) -> Version:
    """Read `"10.13.3.9.post1"` as (10, 13, 3, 9); what is not there counts as 0."""
    major, minor, patch, build = [*map(int, re.findall(r"\d+", text)), 0, 0, 0, 0][:4]
    return major, minor, patch, build


def cache_name(tensorrt_version: str, gpu_name: str, compute_capability: tuple[int, int]) -> str:
    """Name the file of a timing cache: timings hold for one TensorRT version and one kind of GPU."""
    gpu = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-")
    return f"tensorrt-{tensorrt_version}-{gpu}-sm{''.join(map(str, compute_capability))}.timing"


def driver_version(text: str) -> str:
    """Find the driver's version in what Linux holds at /proc/driver/nvidia/version; "unknown" where it is not."""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found.group() if found else "unknown"


def layers_by_precision(report: str) -> dict[str, int]:
    """Count the layers that compute in each precision.

    Parameters
    ----------
    report
        JSON of the engine inspector, of a plan built with detailed verbosity. A tensor's type is in "Format/Datatype"
        (TensorRT 10: "Half", or in words, "Row major linear FP16 format") or in "DataType" (11); where shapes are
        dynamic it may be missing, and a layer's weights still have theirs.

    Returns
    -------
    dict
        By the names that precisions have everywhere here. A layer that takes one and gives another counts for both.

    Raises
    ------
    ValueError
        Where it is no such report.
    """
    try:
        layers = json.loads(report)["Layers"]
        counts = Counter(name for layer in layers for name in _precisions_of(layer))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no report of layers: {report[:40]!r}") from error
    return {name: counts[name] for name in ("fp32", *_LOWER) if counts[name]}


def lacking(precision: str, layers: Mapping[str, int]) -> str | None:
    """Say what a plan's layers have against the precision that was asked for; None where nothing."""
    found = ", ".join(f"{count} of {name}" for name, count in layers.items()) or "none of a known type"
    if not layers.get(precision):
        return f"asked {precision}, the plan has no such layer, but {found}"
    if precision == "fp32" and any(layers.get(name) for name in _LOWER):
        return f"asked fp32, the plan has layers: {found}"
    return None


def _precisions_of(layer: Any) -> set[str]:
    if not isinstance(layer, dict):  # a name alone: the plan was built without detailed verbosity
        return set()
    if str(layer.get("LayerType", "")).lower() in _MOVERS:
        return set()
    tensors = [*(layer.get("Inputs") or []), *(layer.get("Outputs") or [])]
    said = [text for tensor in tensors for key, text in tensor.items() if key.lower().endswith("datatype")]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        said.append(weights.get("Type"))
    words = [word for text in said for word in re.findall(r"[a-z0-9]+", str(text).lower())]
    return {_TYPES[word] for word in words if word in _TYPES}


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
        raise TypeError(f"{key} is {record[key]!r}, no text")
    return str(record[key])


def _mapping(record: Mapping[str, Any], key: str) -> dict[Any, Any]:
    if not isinstance(record[key], dict):
        raise TypeError(f"{key} is {record[key]!r}, no table")
    return dict(record[key])


def _integers(record: Mapping[str, Any], key: str) -> list[int]:
    return [int(value) for value in record[key]]


def _finite(figure: float | str) -> float | str:
    return figure if isinstance(figure, str) or math.isfinite(figure) else str(figure)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
