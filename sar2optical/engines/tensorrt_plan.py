"""Records of plans: read a plan's header and record, and check that they fit this machine.

A plan runs only with the library and version that built it, and on the GPUs that it was built for. The libraries
report a mismatch late and without a remedy. So a record, `model.plan.json`, is stored beside `model.plan`: the
signature, the versions and GPUs, and the command that builds it again. The plan itself contains no data of this
package. Needs neither TensorRT nor TensorRT for RTX.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from sar2optical.engines.rtx_cards import CARDS
from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OptionError, SignatureError
from sar2optical.signature import ModelSignature, read_record

__all__ = [
    "LEVELS",
    "TITLES",
    "VERSION",
    "HardwareCompatibility",
    "OnProgress",
    "PlanOptions",
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
"""Version of a library: major, minor, patch, build."""

OnProgress = Callable[[str, int, int], None]
"""Called during a build with a phase, its completed steps and all its steps; phases nest. The builder's threads call
it."""

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
"""GPUs that a plan of TensorRT runs on: the same model, the same compute capability, or Ampere and later."""

LEVELS: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
"""Levels of hardware compatibility."""

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
"""Names of the libraries in messages, by backend."""

_AMPERE = 8  # major compute capability
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_HEADER = struct.Struct("<4s20x4B")  # magic, undocumented bytes, version


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of a plan."""

    batch: tuple[int, int, int] = (1, 8, 32)
    """Windows per run: minimum, optimum (kernels are chosen for it), maximum."""
    workspace: int | None = None
    """Limit in bytes of the GPU memory that a kernel may use as workspace; None: no limit. TensorRT only."""
    timing_cache: Path | None = None
    """Folder of timing caches, one file for each version and GPU model; None: no cache. TensorRT only."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Other GPUs that the plan runs on; none is the fastest. TensorRT only."""
    target: tuple[str, ...] = ()
    """Names of the cards that the plan runs on, see `targets_named`; empty: all. TensorRT for RTX only."""
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


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Record of a plan."""

    signature: ModelSignature
    """What the model expects; its windows are those of the plan's profiles."""
    precision: str
    """Precision of the ONNX file."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Number of layers by precision, from the engine inspector; a layer that converts counts for both. Empty for
    TensorRT for RTX, which chooses kernels when the plan is loaded."""
    batch: tuple[int, int, int]
    """Windows per run: minimum, optimum, maximum."""
    onnx_sha256: str
    """SHA-256 of the ONNX file and its external weights."""
    library: str = "tensorrt"
    """Backend that runs the plan, key of `TITLES`."""
    tensorrt: str
    """Version of the library that built the plan; no other version runs it."""
    targets: tuple[str, ...] = ()
    """Cards that a plan of TensorRT for RTX runs on: values of `CARDS`."""
    cuda: str = "none"
    """CUDA version of PyTorch."""
    driver: str = "none"
    """Version of NVIDIA's driver; not checked, because plans run with other drivers."""
    gpu: str = "none"
    """Name of the GPU that built the plan; none: built without one."""
    compute_capability: tuple[int, int] = (0, 0)
    """Compute capability of that GPU: major, minor."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Level of hardware compatibility of a plan of TensorRT."""
    sha256: str
    """SHA-256 of the plan."""
    size: int
    """Size of the plan in bytes."""
    rebuild: str
    """Command that builds the plan again."""
    parity: Mapping[str, float | str] = field(default_factory=dict)
    """Parity of the plan with its source: fields of `export.verify.Parity`; or "not run" with the reason."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Other metadata of the ONNX file, including its self-test."""

    def __post_init__(self) -> None:
        check_profile(self.batch)
        if self.hardware_compatibility not in LEVELS:
            raise ValueError(
                f"hardware compatibility is {self.hardware_compatibility!r}: give one of {', '.join(LEVELS)}"
            )
        if self.library not in TITLES:
            raise ValueError(f"library is {self.library!r}: give one of {', '.join(TITLES)}")

    def to_json(self) -> str:
        """Write as indented JSON; `from_json` reads it back to an equal record.

        Infinite and NaN parity figures become text, because JSON has no such numbers.
        """
        record = {"version": VERSION, **{entry.name: getattr(self, entry.name) for entry in fields(self)}}
        record["signature"] = json.loads(self.signature.to_json())
        record["parity"] = {name: _finite(figure) for name, figure in self.parity.items()}
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
        record = read_record(text, versions=(VERSION,), source=source, name="record", remedy="build the plan again")
        try:
            signature = ModelSignature.from_json(json.dumps(record["signature"]), source=source)
            given = {name: read(record[name], name) for name, read in _READERS.items() if _is_needed(name, record)}
            return cls(signature=signature, **given)
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


def read_header(path: Path) -> tuple[str, Version]:
    """Read which library built a plan, a key of `TITLES`, and its version, from the plan's first bytes.

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
    magic, major, minor, patch, build = _HEADER.unpack(start)
    if magic not in _MAGIC:
        raise ModelUnreadable(
            f"{path}: not a TensorRT plan (starts with {start[:8]!r}): build it with sar2opt-export"
        )
    return _MAGIC[magic], (major, minor, patch, build)


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
    installed: str,
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
    installed, gpu_name, compute_capability
        Version of the library, and GPU of this machine.
    source
        Name of the plan in error messages.

    Raises
    ------
    ModelUnreadable
        If another version built the plan.
    DeviceUnavailable
        If the plan was built for other GPUs.
    """
    remedy = f"build it again on this machine: {record.rebuild}"
    built = f"{TITLES[record.library]} {_dotted(header_version)}"
    if header_version != parse_version(record.tensorrt):
        raise ModelUnreadable(
            f"{source}: was built by {built}, but its record names version {record.tensorrt}: download both again, "
            f"or {remedy}"
        )
    if header_version != parse_version(installed):
        raise ModelUnreadable(f"{source}: was built by {built}, but {installed} is installed: {remedy}")
    level, capability = record.hardware_compatibility, _dotted(compute_capability)
    if record.library == "tensorrt_rtx":
        fits, wanted = CARDS.get(compute_capability) in record.targets, ", ".join(record.targets)
    elif level == "ampere_plus":
        fits, wanted = compute_capability[0] >= _AMPERE, f"compute capability {_AMPERE}.0 and later"
    else:
        wanted = f"compute capability {_dotted(record.compute_capability)} ({record.gpu})"
        fits = compute_capability == record.compute_capability
    if not fits:
        raise DeviceUnavailable(
            f"{source}: was built for {wanted}, but {gpu_name} has compute capability {capability}: {remedy}"
        )
    if record.library == "tensorrt" and level == "none" and gpu_name != record.gpu:
        raise DeviceUnavailable(f"{source}: was built for {record.gpu}, but this GPU is {gpu_name}: {remedy}")


def parse_version(text: str) -> Version:
    """Parse a version: "10.13.3.9.post1" becomes (10, 13, 3, 9); missing numbers are 0."""
    major, minor, patch, build = [*map(int, re.findall(r"\d+", text)), 0, 0, 0, 0][:4]
    return major, minor, patch, build


def cache_name(library: str, version: str, gpu_name: str, ending: str) -> str:
    """Return the file name of a cache, which is valid for one version of a library and one GPU model."""
    gpu = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-")
    return f"{library}-{version}-{gpu}-{ending}"


def driver_version(text: str | None = None) -> str:
    """Find the driver's version in the text of Linux's /proc/driver/nvidia/version; "unknown" if there is none."""
    if text is None:
        try:
            text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        except OSError:
            text = ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found.group() if found else "unknown"


def _is_needed(name: str, record: Mapping[str, Any]) -> bool:
    """Return True if a field is in the JSON form, or has no default."""
    entry = next(entry for entry in fields(PlanRecord) if entry.name == name)
    return name in record or (entry.default is MISSING and entry.default_factory is MISSING)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, not text")
    return value


def _pairs(read: Callable[[Any], Any]) -> Callable[[Any, str], dict[str, Any]]:
    def pairs(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"{name} is {value!r}, but must be a JSON object")
        return {str(key): read(entry) for key, entry in value.items()}

    return pairs


def _several(count: int) -> Callable[[Any, str], tuple[int, ...]]:
    def several(value: Any, name: str) -> tuple[int, ...]:
        if len(value) != count:
            raise ValueError(f"{name} is {value}, not {count} numbers")
        return tuple(int(entry) for entry in value)

    return several


_READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(
        ("precision", "onnx_sha256", "library", "tensorrt", "cuda", "driver", "gpu", "sha256", "rebuild"), _text
    ),
    "layers": _pairs(int),
    "batch": _several(3),
    "targets": lambda value, name: tuple(_text(entry, name) for entry in value),
    "compute_capability": _several(2),
    "hardware_compatibility": _text,
    "size": lambda value, _: int(value),
    "parity": _pairs(lambda figure: figure if isinstance(figure, str) else float(figure)),
    "metadata": _pairs(str),
}
"""Readers of the record's fields but the signature, by name."""


def _finite(figure: float | str) -> float | str:
    return figure if isinstance(figure, str) or math.isfinite(figure) else str(figure)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
