"""The export stage: generator checkpoints to verified files that engines run."""

import sar2optical  # noqa: F401  # before ONNX Runtime and OpenVINO: it switches their telemetry off
