"""Tables of a record: Markdown for the page, text for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bench.harness import Record, Row, number, ratio_cells, table

COLUMNS: dict[str, dict[str, str]] = {
    "engines": {
        "mpx_per_s": "Mpx/s", "latency_ms": "latency, ms", "runs": "runs", "streams": "streams",
        "load_s": "load, s", "first_ms": "first run, ms", "memory_mb": "memory, MB", "psnr_db": "PSNR, dB",
        "psnr_min_db": "lowest PSNR, dB", "ssim": "SSIM", "share_of_matmul": "share of matrix product",
        "share_of_copy": "share of copy rate",
    },
    "scene": {
        "seconds": "seconds", "seconds_mosaic": "COG, s", "windows": "windows", "peak_memory_mb": "peak memory, MB",
        "memory_above_engine_mb": "memory above engine, MB", "stage_seconds": "stages, s", "idle": "idle",
    },
    "peers": {
        "version": "version", "installed": "installed", "batch": "batch", "blends": "blends", "streams": "streams",
        "writes_file": "writes a file", "seconds_outside_engine_per_mpx": "s/Mpx outside engine",
        "share_outside_engine": "share outside engine", "peak_memory_mb": "peak memory, MB",
        "memory_above_engine_mb": "memory above engine, MB",
        "memory_above_engine_mb_extrapolated": "25,000 wide, extrapolated, MB",
        "memory_above_engine_mb_wide": "25,000 wide, measured, MB", "seam_score": "seams",
        "seam_score_in_phase": "seams in phase", "worst_difference": "largest difference",
        "low_passed_rms": "low-passed RMS", "survives": "kept", "crs": "CRS", "gcps": "GCPs", "mask": "mask",
        "cog": "COG",
    },
    "seams": {
        "windows": "windows", "seam_score": "edges / elsewhere", "seam_score_in_phase": "edges / elsewhere, in phase",
        "low_passed_rms": "low-passed RMS to the reference",
    },
    "gpu-check": {"seconds": "seconds"},
    "training": {"first_s": "first step, s", "memory_mb": "memory, MB", "l1": "L1"},
}  # fmt: skip
"""Labels and figures that a bench's table has, by their keys in a row, with titles; all for other benches."""

_TERMINAL = {
    "engines": ("latency_ms", "memory_mb", "psnr_db", "share_of_matmul"),
    "scene": ("seconds", "peak_memory_mb", "idle"),
}
"""Columns of the terminal's table where the page has more."""

_TIMED = re.compile(r"second|_m?s$|per_s$|share|idle")
"""Figures that are as unreliable as the rate where that is unreliable."""

_CAPTIONS = {
    "engines": "Windows per second by engine, precision and batch size",
    "scene": "Megapixels per second from scene file to mosaic, and of parts of that work",
    "peers": "Megapixels per second of the same generator over the same scene in other tools",
    "gpu-check": "Megapixels per second of the command `sar2opt-scene`, start of Python included",
    "training": "Images per second of a training step",
    "seams": "Steps at window edges by overlap",
    "guard": "Ratios that `python -m bench guard` compares with",
}


def caption(record: Record) -> str:
    """Describe what a record's table compares, and on which machine."""
    return f"{_CAPTIONS.get(record.bench, record.bench)}, on {record.machine.title}."


def markdown(record: Record) -> str:
    """Lay out a record as a Markdown table: names, labels, rates, ratios and figures."""
    (head, *rows), left = _lines(record, _columns(record))
    rule = ["---" if k in left else "--:" for k in range(len(head))]
    return layout([head, rule, *([safe(text) for text in row] for row in rows)])


def terminal(record: Record) -> str:
    """Lay out a record for a terminal, with its ceilings and growth exponents."""
    columns = _columns(record)
    shown = _TERMINAL.get(record.bench, tuple(columns))
    lines, _ = _lines(record, {key: title for key, title in columns.items() if key in shown})
    notes = {
        "ceilings": record.ceilings,
        "time grows with the area to the power of": record.series.get("growth_exponent", {}),
    }
    return "\n".join([table(lines), *(f"{title}: {listed(values)}" for title, values in notes.items() if values)])


def layout(lines: list[list[str]]) -> str:
    """Write rows of cells as a Markdown table, unpadded: a changed cell changes one line."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(record: Record) -> dict[str, str]:
    every = {key: key.replace("_", " ") for row in record.rows for key in (*row.labels, *row.figures)}
    columns = COLUMNS.get(record.bench, every)
    used = {key for row in record.rows for key in columns if _value(row, key) not in (None, "")}
    return {key: title for key, title in columns.items() if key in used - {"base"}}


def _lines(record: Record, columns: Mapping[str, str]) -> tuple[list[list[str]], set[int]]:
    """Return header and rows, and the numbers of the columns to align left."""
    labels = [key for key in columns if any(key in row.labels for row in record.rows)]
    figures = [key for key in columns if key not in labels]
    stages = {key: _keys(row.figures.get(key) for row in record.rows) for key in figures}
    based, rated = any("base" in row.labels for row in record.rows), any(row.unit for row in record.rows)
    units = " or ".join(dict.fromkeys(row.unit for row in record.rows))
    head = ["", *(columns[key] for key in labels)]
    head += [units, "ratio" if based else "ratio to the first row"] if rated else []
    head += ["compared with"] if based else []
    head += [columns[key] + (f" ({' / '.join(stages[key])})" if stages[key] else "") for key in figures]
    rows = [
        [
            row.name,
            *(cell(row.labels.get(key)) for key in labels),
            *(ratio_cells(record, row) if rated else []),
            *([record.base(row)] if based else []),
            *(_figure(record, row, key, stages[key]) for key in figures),
        ]
        for row in record.rows
    ]
    return [head, *rows], {*range(len(labels) + 1), *([len(labels) + 3] if based else [])}


def _keys(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value))


def _value(row: Row, key: str) -> Any:
    return row.labels[key] if key in row.labels else row.figures.get(key)


def _figure(record: Record, row: Row, key: str, stages: list[str]) -> str:
    """Format a figure: a dash in a row without a valid rate, and for timings of a row with an unreliable one."""
    hidden = row.trouble or (_TIMED.search(key) and record.unreliable_rate(row))
    value = None if hidden else row.figures.get(key)
    share = key.startswith(("share", "idle"))
    if isinstance(value, Mapping):
        return " / ".join(cell(value.get(stage), share=share) for stage in stages)
    return cell(value, share=share)


def cell(value: Any, *, share: bool = False) -> str:
    """Format one value: a dash for none, yes and no, shares as percentages."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.0%}" if share else number(value)
    return str(value)


def safe(text: str) -> str:
    """Escape text for a cell of a Markdown table: one line, no column separator, no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def listed(values: Mapping[str, Any], separator: str = "; ") -> str:
    """Write a mapping as a list of names and values."""
    return separator.join(
        safe(name.replace("_", " "))
        + (f": {listed(value, ', ')}" if isinstance(value, Mapping) else f" {safe(cell(value))}")
        for name, value in values.items()
        if value not in (None, "")
    )
