"""Export generators to verified ONNX files and TensorRT plans."""

import sar2optical  # noqa: F401  # before ONNX Runtime and OpenVINO, to switch their telemetry off
