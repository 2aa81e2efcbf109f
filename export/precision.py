"""Names of precisions, and the parity that each must keep."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32"]
"""What `--precision` takes. The precision is in the graph, so each is a way to rewrite it."""

Storage = Literal["fp32", "fp16"]
"""How float32 graphs keep their weights."""

FLOORS: dict[Storage, float] = {"fp32": 80.0, "fp16": 50.0}
"""Least PSNR in dB, on [-1, 1], of an exported file against its source.

Measured on the seed's generator, ONNX Runtime in float32 keeps 158 dB: under 80 something is wrong. Float16
weights keep 60 to 75 dB; 50 dB is a mean error of under half a grey level.
"""

OPSETS = range(17, 24)
"""Opsets that can be asked for: 17 is what older TensorRT and ONNX Runtime releases read, 23 the newest that
PyTorch 2.13's exporter was seen to write."""

DEFAULT_OPSET = 18
"""What PyTorch's exporter writes by itself; others are converted from it."""
