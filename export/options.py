"""What an export is asked for, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.half import BF16_OPSET
from export.precision import FLOORS, HALF_STORAGE_FLOOR, OPSETS, Method, Precision, Storage, Subpixel
from export.quantize import FP8_OPSET, Searched
from export.verify import Parity
from sar2optical.errors import OptionError
from sar2optical.signature import ModelSignature

LEAST_OPSETS: dict[Precision, int] = {"bf16": BF16_OPSET, "fp8": FP8_OPSET}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that changes an exported file, beside its source."""

    precision: Precision | None = None
    """Of the graph; where None, that of an ONNX source, and fp32 of a checkpoint."""
    opset: int | None = None
    """Of the standard operators; what the precision needs, at least."""
    storage: Storage = "fp32"
    """How a float32 graph keeps its weights. fp16 halves the file; they are rounded once, and run in fp32."""
    subpixel: Subpixel = "auto"
    """auto: in bf16 and fp8, because TensorRT and its tools ask for it; in int8 where it is faster here."""
    calibration: Path | None = None
    """Folder of real chips, or a scene; int8 and fp8 need it."""
    method: Method | None = None
    """Of calibration; the best of all where None."""
    verify_with: Path | None = None
    """Folder of real chips, or a scene; what was calibrated on, or else simulated chips, where None."""
    min_psnr: float | None = None
    """Least PSNR in dB of the worst chip; `FLOORS` where None."""
    signature: Path | None = None
    """JSON file, for an ONNX source that carries no signature."""
    upsampling: str | None = None
    """Mode of a bare state dict whose decoder upsamples."""
    plan: Mapping[str, Any] | None = None
    """How a TensorRT plan is built: fields of `PlanOptions`."""
    overwrite: bool = False
    """Replace the output."""

    @property
    def floor(self) -> float:
        """Least PSNR in dB that passes."""
        return self.floor_of(self.precision or "fp32")

    def floor_of(self, precision: Precision) -> float:
        """Least PSNR in dB that passes in a precision that the source may have brought."""
        if self.min_psnr is not None:
            return self.min_psnr
        return HALF_STORAGE_FLOOR if (self.storage, precision) == ("fp16", "fp32") else FLOORS[precision]

    def __post_init__(self) -> None:
        if self.opset is not None and self.opset not in OPSETS:
            raise OptionError(f"opset is {self.opset}: give {OPSETS[0]} to {OPSETS[-1]}")
        needed = LEAST_OPSETS.get(self.precision or "fp32", 0)
        if self.opset is not None and self.opset < needed:
            raise OptionError(f"opset is {self.opset}: {self.precision} needs {needed}: leave it out")
        if self.min_psnr is not None and not 0 <= self.min_psnr < float("inf"):
            raise OptionError(f"min-psnr is {self.min_psnr}: give a number of dB")
        if self.storage == "fp16" and self.precision not in (None, "fp32"):
            raise OptionError(
                f"storage fp16 with precision {self.precision}: only fp32 graphs store their weights so"
            )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made."""

    out: Path
    megabytes: float
    signature: ModelSignature
    precision: Precision
    parity: Parity
    opset: int
    subpixel: bool
    """Whether transposed convolutions are in sub-pixel form."""
    emulated: bool = False
    """Whether parity is of the roundings, emulated in float32: no CPU library here does them."""
    searched: Searched | None = None
    """How an 8-bit file came to be."""
