"""Names of generators to files; needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

BUNDLED = "generator.onnx"
"""The generator that comes with the package, see `weights/MODEL_CARD.md`."""


def bundled() -> Path:
    """Give the file of the bundled generator."""
    return Path(str(files("sar2optical") / "weights" / BUNDLED))
