"""Loaded, runnable generators: one module per library, opened with `open_engine`.

Names are loaded when they are first used, so that commands show their help without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sar2optical.engines.base import Engine, EngineOptions, Precision
    from sar2optical.engines.opening import open_engine

__all__ = ["Engine", "EngineOptions", "Precision", "open_engine"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "opening" if name == "open_engine" else "base"
    return getattr(import_module(f"{__name__}.{module}"), name)
