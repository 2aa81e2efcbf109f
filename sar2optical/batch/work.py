"""Scenes to translate, and the outcome of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sar2optical._utils.addresses import redacted
from sar2optical.pipeline.options import Report
from sar2optical.scene.sources import Source

__all__ = ["Outcome", "State", "Work"]

State = Literal["done", "there", "failed"]
"""State of a scene: "done", its mosaic was made now; "there", it existed before; "failed", there is none."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Work:
    """A scene, and the path of its mosaic."""

    source: Source
    """Path or address of the scene, or those of its files."""
    out: Path
    """Path of the mosaic."""
    preview: Path | None = None
    """Path of the preview (.png), if one is wanted."""

    def __repr__(self) -> str:
        # Dask logs the arguments of tasks that fail.
        return f"Work({redacted(str(self.source))!r}, {str(self.out)!r})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of translating one scene."""

    work: Work
    state: State
    error: str = ""
    """Why it failed; empty if it did not."""
    report: Report | None = None
    """Report of the run, if the state is "done"."""
