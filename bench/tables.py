"""A record as a Markdown table: which columns, and what stands in a cell whose figure is in doubt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.harness import Record, Row, median


@dataclass(frozen=True)
class Columns:
    """Which labels and figures of a bench are shown, by their names in a row, under which titles.

    Labels that a row's name says already are not shown again.
    """

    labels: Mapping[str, str]
    figures: Mapping[str, str]


COLUMNS = {
    "engines": Columns(
        {},
        {"mpx_per_s": "Mpx/s", "latency_ms": "latency, ms", "runs": "runs", "streams": "at once",
         "load_s": "load, s", "first_ms": "first, ms",
         "memory_mb": "memory, MB", "psnr_db": "PSNR, dB", "psnr_min_db": "lowest", "ssim": "SSIM",
         "share_of_matmul": "of the matrix product", "share_of_copy": "of the copy"},
    ),
    "scene": Columns(
        {},
        {"seconds": "seconds", "seconds_mosaic": "COG, s", "windows": "windows", "peak_memory_mb": "peak memory, MB",
         "memory_above_engine_mb": "above the engine, MB", "stage_seconds": "stages, s", "idle": "idle"},
    ),
    "peers": Columns(
        {"version": "version", "installed": "installed", "batch": "batch", "blends": "blends", "streams": "streams",
         "writes_file": "writes a file"},
        {"seconds_outside_engine_per_mpx": "s/Mpx outside the engine", "share_outside_engine": "share outside",
         "peak_memory_mb": "peak memory, MB", "memory_above_engine_mb": "above the engine, MB",
         "memory_above_engine_mb_extrapolated": "25,000 wide, extrapolated, MB",
         "memory_above_engine_mb_wide": "25,000 wide, measured, MB",
         "seam_score": "seams", "seam_score_in_phase": "in phase",
         "worst_difference": "worst pixel", "low_passed_rms": "low-passed RMS",
         "survives": "survives", "crs": "CRS", "gcps": "GCPs", "mask": "mask", "cog": "COG"},
    ),
    "training": Columns(
        {},
        {"first_s": "first step, s", "memory_mb": "memory, MB", "l1": "L1"},
    ),
}  # fmt: skip

_TIMED = re.compile(r"second|_m?s$|per_s$|share|idle")
"""Names of figures that are as doubtful as the speed, where the speed is."""


def markdown(record: Record) -> str:
    """Lay out a record as a table: what rows are, their rate, ratio and figures."""
    columns = COLUMNS.get(record.bench) or Columns(
        _names(row.labels for row in record.rows), _names(row.figures for row in record.rows)
    )
    labels = {key: title for key, title in columns.labels.items() if _any(record.rows, "labels", key)}
    labels.pop("base", None)
    figures = {key: title for key, title in columns.figures.items() if _any(record.rows, "figures", key)}
    parts = {
        key: list(_names(row.figures[key] for row in record.rows if isinstance(row.figures.get(key), Mapping)))
        for key in figures
    }
    based = ["to"] if any("base" in row.labels for row in record.rows) else []
    titles = [title + (f" ({' / '.join(parts[key])})" if parts[key] else "") for key, title in figures.items()]
    units = " or ".join(dict.fromkeys(row.unit for row in record.rows))
    lines = [["", *labels.values(), units, "ratio" if based else "against the first", *based, *titles]]
    lines.append(["---"] * (1 + len(labels)) + ["--:", "--:", *("---" for _ in based)] + ["--:"] * len(figures))
    for row in record.rows:
        told = [cell(row.labels.get(key)) for key in labels]
        base = [safe(record.base(row)) for _ in based]
        measured = [_figure(record, row, key, parts[key]) for key in figures]
        lines.append([safe(row.name), *told, *rate_and_ratio(record, row), *base, *measured])
    return layout(lines)


def layout(lines: list[list[str]]) -> str:
    """Write the lines of a table in Markdown; the second is how columns are aligned."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _names(mappings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {key: key.replace("_", " ") for mapping in mappings for key in mapping}


def _any(rows: Iterable[Row], where: str, key: str) -> bool:
    return any(getattr(row, where).get(key) not in (None, "") for row in rows)


def rate_and_ratio(record: Record, row: Row) -> list[str]:
    """Give a row's median and its ratio to its base, or the words that stand instead of them."""
    ratio, words = record.ratio(row), record.verdict(row)
    doubt = record.doubt(row)
    if not row.samples:
        return [safe(doubt or "-"), "-"]
    told = words if words or ratio is None else f"{ratio.value:.2f}" if ratio.value >= 0.1 else f"{ratio.value:.2g}"
    return [safe(doubt or number(median(row.samples))), safe("-" if told is None or row.trouble else told)]


def _figure(record: Record, row: Row, key: str, parts: list[str]) -> str:
    """Give a figure; none of a row in trouble, and nothing timed of a row whose speed is in doubt."""
    doubtful = row.trouble or (_TIMED.search(key) and record.doubt(row))
    value = None if doubtful else row.figures.get(key)
    share = key.startswith(("share", "idle"))
    if isinstance(value, Mapping):
        return " / ".join(cell(value.get(part), share=share) for part in parts)
    return cell(value, share=share)


def cell(value: Any, *, share: bool = False) -> str:
    """Write one value: a dash for none, yes and no, shares as percentages."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.0%}" if share else number(value)
    return safe(str(value))


def number(value: float) -> str:
    """Write a number with four digits, more where it has more in front of the point; from 100 on, without a point."""
    return f"{value:.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.4g}"


def safe(words: str) -> str:
    """Fit words into a cell of a table: on one line, no column's end, no tag."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def listed(facts: Mapping[str, Any], between: str = "; ") -> str:
    """Write a mapping as a list of names and values."""
    return between.join(
        safe(name.replace("_", " "))
        + (f": {listed(value, ', ')}" if isinstance(value, Mapping) else f" {cell(value)}")
        for name, value in facts.items()
        if value not in (None, "")
    )
