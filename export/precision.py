"""Names of precisions and other choices, and the parity floor of each precision."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "DEFAULT_OPSET",
    "FLOORS",
    "HALF_STORAGE_FLOOR",
    "OPSETS",
    "PRECISIONS",
    "QUANTIZED",
    "Method",
    "Precision",
    "Storage",
    "Subpixel",
]

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""Precision of a graph."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All precisions."""

QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that are calibrated on real chips."""

Storage = Literal["fp32", "fp16"]
"""Type in which a float32 graph stores its weights."""

Method = Literal["minmax", "percentile", "entropy"]
"""Calibration method: how the range of a tensor follows from its values."""

Subpixel = Literal["auto", "on", "off"]
"""Whether transposed convolutions are written in sub-pixel form."""

FLOORS: dict[Precision, float] = {"fp32": 80.0, "fp16": 50.0, "bf16": 50.0, "int8": 40.0, "fp8": 38.0}
"""Least PSNR in dB, on [-1, 1], of an exported file against its source, for the worst chip.

Measured on the reference generator: ONNX Runtime in float32 reaches 158 dB, so a value below 80 dB means an error; 16
bits reach 55 to 97 dB. 50 dB is a mean error below half a grey level. int8 with one layer in float32 reached 42 dB on
the bundled generator; float8 has fewer significant bits than int8, and a range that a generator does not need.
"""

HALF_STORAGE_FLOOR = 50.0
"""Least PSNR in dB of float32 graphs with float16 weights, which reach 60 to 75 dB."""

OPSETS = range(17, 24)
"""Supported opsets: older TensorRT and ONNX Runtime releases read 17; 23 is the newest that PyTorch 2.13 exports."""

DEFAULT_OPSET = 18
"""Opset of PyTorch's exporter; others are converted from it."""
