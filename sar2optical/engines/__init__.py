"""Loaded, runnable generators: one module per library, opened through `open_engine`."""

from sar2optical.engines.base import Engine, EngineOptions, Precision, open_engine

__all__ = ["Engine", "EngineOptions", "Precision", "open_engine"]
