"""Throughput benches and the simulated scene they run on; run from the checkout, not installed."""

import sar2optical  # noqa: F401  # before ONNX Runtime and OpenVINO: it switches their telemetry off
