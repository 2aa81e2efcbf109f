"""The provider of TensorRT for RTX that is installed beside ONNX Runtime as a plugin; not yet run on hardware."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime

from sar2optical.engines.cards import first_card
from sar2optical.engines.rtx_cards import runs_on
from sar2optical.signature import INPUT

__all__ = ["PLUGIN", "add_plugin", "plugin_devices", "plugin_name", "plugin_problem"]

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""Package of the plugin: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13."""

_LIBRARIES = {
    "libcuda.so.1": "no NVIDIA driver (libcuda.so.1)",
    "libcudart.so": "no CUDA runtime library (libcudart.so.13): pip install nvidia-cuda-runtime",
}
"""Problems by the library that the plugin's loader names."""


@cache
def plugin_problem() -> str | None:
    """Return the reason why the plugin does not work; None if it works."""
    if find_spec(PLUGIN) is None:
        return "the plugin is not installed"
    card = first_card()
    if card is None:
        return _LIBRARIES["libcuda.so.1"] if not _loads("libcuda.so.1") else "the NVIDIA driver finds no GPU"
    if not runs_on(card.compute_capability):
        major, minor = card.compute_capability
        return f"TensorRT for RTX does not run on {card.name} (compute capability {major}.{minor})"
    try:
        return None if plugin_devices() else "the plugin finds no GPU of its own"
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        text = " ".join(str(error).split())
        return next((problem for library, problem in _LIBRARIES.items() if library in text), text[-160:])


def plugin_name() -> str:
    """Return the name of the plugin's provider."""
    return str(import_module(PLUGIN).get_ep_name())


@cache
def plugin_devices() -> Sequence[Any]:
    """Register the plugin; return ONNX Runtime's devices of its provider.

    Raises
    ------
    Exception
        ONNX Runtime's, if the plugin cannot be loaded.
    """
    plugin = import_module(PLUGIN)
    folder = Path(str(plugin.__file__)).parent
    for library in folder.glob("libcudart.so.*"):  # has the name that the linker looks for, but not as its file name
        _loads(str(library))
    onnxruntime.register_execution_provider_library(plugin_name(), plugin.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin_name()]


def add_plugin(settings: Any, shape: tuple[int, int, int, int]) -> None:
    """Run a session on the plugin's provider.

    Parameters
    ----------
    settings
        `onnxruntime.SessionOptions`; the session is then opened without a list of providers.
    shape
        Shape of the input: largest number of windows, channels, height, width.
    """
    most, *sides = shape
    fewest, largest = (f"{INPUT}:{'x'.join(map(str, (count, *sides)))}" for count in (1, most))
    profile = {
        "nv_profile_min_shapes": fewest,
        "nv_profile_opt_shapes": largest,
        "nv_profile_max_shapes": largest,
    }
    settings.add_provider_for_devices(plugin_devices()[:1], profile)


def _loads(library: str) -> bool:
    with suppress(OSError):
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        return True
    return False
