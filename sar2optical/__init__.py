"""Sentinel-1 radar to optical-looking RGB."""

import os as _os
import sys as _sys
from importlib.metadata import version as _version

# Two libraries send usage data when they are imported, and write to the home folder. Both are told not to before any
# module of ours imports them; processes that we start inherit the first. Python runs this before all other modules.
# ONNX Runtime 1.32: Privacy.md, "Disabling Telemetry". OpenVINO 2026.4: a module of None cannot be imported.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = _version("sar2optical")
