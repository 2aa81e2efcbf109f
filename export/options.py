"""Options and result of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.precision import FLOORS, HALF_STORAGE_FLOOR, OPSETS, Method, Precision, Storage, Subpixel
from export.quantize import FP8_OPSET, Searched
from export.verify import Parity
from sar2optical.engines.onnx_half import BF16_OPSET
from sar2optical.errors import OptionError
from sar2optical.signature import ModelSignature

__all__ = ["LEAST_OPSETS", "ExportOptions", "Exported", "Runtime"]

Runtime = Literal["tensorrt", "rtx"]
"""Libraries that run a plan: TensorRT, or TensorRT for RTX."""

LEAST_OPSETS: dict[Precision, int] = {"bf16": BF16_OPSET, "fp8": FP8_OPSET}
"""Lowest opsets of precisions that need a newer one than `DEFAULT_OPSET`."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export."""

    precision: Precision | None = None
    """Precision of the graph; None: that of an ONNX source, fp32 for a checkpoint."""
    opset: int | None = None
    """Opset of the standard operators; None: 18, or higher if the precision needs it."""
    windows: tuple[int, ...] | None = None
    """Heights and widths that an ONNX file takes, multiples of the model's own; empty: its own only. None: for a
    checkpoint its own times 1, 2, 4 and 8, up to 2048; for an ONNX source those that it takes."""
    auto_window: int | None = None
    """Window that `--window auto` takes with this file, one of its windows. None: that of the source, else the
    model's own."""
    storage: Storage = "fp32"
    """Type in which a float32 graph stores its weights. fp16 halves the file; the arithmetic stays fp32."""
    subpixel: Subpixel = "auto"
    """Sub-pixel form. auto: on for bf16 and fp8, as TensorRT and its tools require; for int8 if it is faster."""
    calibration: Path | None = None
    """Folder of real chips, or a scene, to calibrate int8 and fp8 on."""
    method: Method | None = None
    """Calibration method; None: the one with the highest parity."""
    verify_with: Path | None = None
    """Folder of real chips, or a scene, to verify on; None: the calibration data, or else simulated chips."""
    min_psnr: float | None = None
    """Least PSNR in dB of the worst chip; None: see `FLOORS`."""
    signature: Path | None = None
    """JSON file with the signature, for an ONNX source that has none."""
    upsampling: str | None = None
    """Upsampling mode of a bare state dict whose decoder upsamples."""
    runtime: Runtime | None = None
    """Library that runs a plan; None: TensorRT."""
    plan: Mapping[str, Any] | None = None
    """Fields of `PlanOptions`, for a plan."""
    overwrite: bool = False
    """Replace the output."""

    @property
    def floor(self) -> float:
        """Least PSNR in dB that passes."""
        return self.floor_of(self.precision or "fp32")

    def floor_of(self, precision: Precision) -> float:
        """Least PSNR in dB that passes in a precision."""
        if self.min_psnr is not None:
            return self.min_psnr
        return HALF_STORAGE_FLOOR if (self.storage, precision) == ("fp16", "fp32") else FLOORS[precision]

    def __post_init__(self) -> None:
        if self.opset is not None and self.opset not in OPSETS:
            raise OptionError(f"opset is {self.opset}: give {OPSETS[0]} to {OPSETS[-1]}")
        needed = LEAST_OPSETS.get(self.precision or "fp32", 0)
        if self.opset is not None and self.opset < needed:
            raise OptionError(f"opset is {self.opset}, but {self.precision} needs {needed} or higher: remove --opset")
        if self.min_psnr is not None and not 0 <= self.min_psnr < float("inf"):
            raise OptionError(f"min-psnr is {self.min_psnr}: give a finite number of dB, 0 or more")
        if self.storage == "fp16" and self.precision not in (None, "fp32"):
            raise OptionError(
                f"storage fp16 applies only to precision fp32, not to {self.precision}: remove --storage"
            )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export."""

    out: Path
    """Path of the exported file."""
    megabytes: float
    """Size of the file."""
    signature: ModelSignature
    """Signature of the model."""
    precision: Precision
    """Precision of the graph."""
    parity: Parity
    """Parity of the file with its source."""
    wide_psnr: Mapping[int, float] = field(default_factory=dict)
    """PSNR in dB against the source in each larger window that the file takes."""
    opset: int
    """Opset of the standard operators."""
    subpixel: bool
    """Whether transposed convolutions are in sub-pixel form."""
    emulated: bool = False
    """Whether parity was measured on 16-bit roundings emulated in float32, because CPU libraries do not round so."""
    searched: Searched | None = None
    """Result of the quantization search, of an 8-bit file."""
    not_run: str = ""
    """Reason why a plan was not run; its parity is then that of the ONNX graph that it was built from."""
    targets: tuple[str, ...] = ()
    """Cards that a plan of TensorRT for RTX runs on."""
