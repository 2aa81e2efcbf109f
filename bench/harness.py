"""Fair comparisons on shared machines: candidates take turns, medians of their rounds are compared."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sar2optical import __version__


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let each candidate measure itself once per round, in turn.

    What slows the machine for a while slows all of them, so ratios hold where single figures do not.

    Returns
    -------
    dict
        Each candidate's figures, in rounds' order.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            figures[name].append(measure())
    return figures


def table(rows: list[list[str]]) -> str:
    """Lay out rows in columns; the first row is the header, all columns but the first to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def save(path: Path | None, name: str, figures: Any) -> None:
    """Write raw figures with what they were taken on."""
    if path is None:
        return
    record = {
        "bench": name,
        "version": __version__,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "taken": time.strftime("%Y-%m-%d"),
        "figures": figures,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def median(figures: list[float]) -> float:
    """Give the middle figure."""
    return statistics.median(figures)
