"""Names of precisions, and the parity that each must keep."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""What `--precision` takes. The precision is in the graph, so each is a way to rewrite it."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Those that want real chips to calibrate on."""

Storage = Literal["fp32", "fp16"]
"""How float32 graphs keep their weights."""

Method = Literal["minmax", "percentile", "entropy"]
"""How the range of a tensor is taken from what it was seen to hold."""

Subpixel = Literal["auto", "on", "off"]
"""Whether transposed convolutions are written in sub-pixel form."""

FLOORS: dict[Precision, float] = {"fp32": 80.0, "fp16": 50.0, "bf16": 50.0, "int8": 40.0, "fp8": 38.0}
"""Least PSNR in dB, on [-1, 1], of an exported file against its source, for the worst chip.

Measured on the seed's generator, ONNX Runtime in float32 keeps 158 dB: under 80 something is wrong. 16 bits keep 55
to 97 dB; 50 dB is a mean error of under half a grey level. 8 bits with one layer in float32 kept 42 dB on the bundled
generator; float8 has fewer significant bits than int8, and range that a generator does not need.
"""

HALF_STORAGE_FLOOR = 50.0
"""Likewise of float32 graphs with float16 weights, which keep 60 to 75 dB."""

OPSETS = range(17, 24)
"""Opsets that can be asked for: 17 is what older TensorRT and ONNX Runtime releases read, 23 the newest that
PyTorch 2.13's exporter was seen to write."""

DEFAULT_OPSET = 18
"""What PyTorch's exporter writes by itself; others are converted from it."""
