"""Throughput benches; run from the checkout, not installed."""

import sar2optical  # noqa: F401  # first: it switches off the telemetry of ONNX Runtime and OpenVINO
