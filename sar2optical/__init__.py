"""Translate Sentinel-1 SAR into optical-looking RGB.

::

    import sar2optical as s2o

    with s2o.open_scene("scene.tif", bands=["VH"]) as scene:
        sar = scene.read()
    with s2o.open_engine() as engine:
        rgb = s2o.predict(sar, engine)
    report = s2o.translate("scene.tif", "mosaic.tif", preview="preview.png")

The public functions are loaded when they are first used.
"""

import os as _os
import sys as _sys
from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

# Two libraries send usage data when they are imported, and write to the home folder. They are switched off here,
# before any other module of the package imports them; child processes inherit the environment variable.
# ONNX Runtime 1.32: Privacy.md, "Disabling Telemetry". OpenVINO 2026.4: a module of None cannot be imported.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = _version("sar2optical")

__all__ = [
    "Sar2OpticalError",
    "__version__",
    "errors",
    "estimate",
    "open_engine",
    "open_mosaic",
    "open_scene",
    "predict",
    "translate",
]

_API = ("estimate", "open_engine", "open_mosaic", "open_scene", "predict", "translate")

if _TYPE_CHECKING:
    from sar2optical import errors
    from sar2optical.api import estimate, open_engine, open_mosaic, open_scene, predict, translate
    from sar2optical.errors import Sar2OpticalError


def __getattr__(name: str) -> _Any:
    if name in _API:
        found = getattr(_import_module("sar2optical.api"), name)
    elif name == "Sar2OpticalError":
        found = _import_module("sar2optical.errors").Sar2OpticalError
    elif name == "errors":
        found = _import_module("sar2optical.errors")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_import_module("sar2optical._moved").install()
