"""Loaded, runnable generators: one module per library, opened with `open_engine`."""

from sar2optical.engines.base import Engine, EngineOptions, Precision
from sar2optical.engines.opening import open_engine

__all__ = ["Engine", "EngineOptions", "Precision", "open_engine"]
