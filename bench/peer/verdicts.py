"""Ours against the best of the others, in figures and in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.harness import Record, Row, median, ratio_cells, ratios_of, table, unreliable

PLAIN = "plain loop, no blending"
OURS = "sar2optical, same engine"
DEFAULT = "sar2optical, default engine"
AS_IT_LOADS = "generator as it loads"

_OUTSIDE = "seconds_outside_engine_per_mpx"
_EXTRAPOLATED = "memory_above_engine_mb_extrapolated"
_WIDE = "memory_above_engine_mb_wide"
_SPEED = {
    "s/Mpx outside": _OUTSIDE,
    "share": "share_outside_engine",
    "windows/s in it": "engine_windows_per_second",
    "peak MB": "peak_memory_mb",
    "above MB": "memory_above_engine_mb",
    "25k MB (extrapolated)": _EXTRAPOLATED,
}
_LOOKS = {
    "seams": "seam_score",
    "in phase": "seam_score_in_phase",
    "worst": "worst_difference",
    "low-passed": "low_passed_rms",
}
_ALIVE = ("crs", "gcps", "mask", "cog")
_LABELS = ("blends", "streams")


def verdicts(rows: Sequence[Row]) -> dict[str, float | str | None]:
    """Compare ours with the best of the tools: ratios, of which more is better but for time outside and seams."""
    by_name = {row.name: row for row in rows}
    ours, default = by_name[OURS], by_name[DEFAULT]
    others = [row for row in rows if row.samples and row.name not in (PLAIN, OURS, DEFAULT)]
    peers = [row for row in others if not row.labels.get("as_it_loads")]
    documented = [row for row in others if row.labels.get("as_it_loads")]
    found: dict[str, float | str | None] = {"same engine / plain loop": _times(ours, by_name[PLAIN])}
    if not peers or not ours.samples:
        return found
    best = _fastest(peers)
    found |= {
        "fastest peer": best.name,
        "same engine / fastest peer": _times(ours, best),
        "default engine / fastest peer": _times(default, best),
        f"default engine / fastest peer, {AS_IT_LOADS}": _times(default, _fastest(documented))
        if documented
        else None,
        **{f"{name}, same engine / least of the peers": _over(name, ours, peers) for name in _compared()},
    }
    holding = [row for row in peers if not row.labels["streams"] and row.figures.get(_EXTRAPOLATED)]
    if holding and (wide := default.figures.get(_WIDE)):
        least = min(holding, key=lambda row: float(row.figures[_EXTRAPOLATED]))
        found |= {
            f"least memory of those that hold the scene, 25,000 wide, extrapolated, MB ({least.name})": float(
                least.figures[_EXTRAPOLATED]
            ),
            "memory above the engine's own, 25,000 wide, ours, measured, MB": float(wide),
            "ours / least of those that hold the scene": float(wide) / float(least.figures[_EXTRAPOLATED]),
        }
    # In whose time, as in ours, there is all that it takes to have a file that lies where it should.
    whole = [row for row in peers if row.labels["blends"] and row.labels["writes_file"]]
    if whole:
        found |= {
            "fastest peer that blends and writes a georeferenced file": _fastest(whole).name,
            "same engine / it": _times(ours, _fastest(whole)),
            f"{_OUTSIDE}, same engine / least of such peers": _over(_OUTSIDE, ours, whole),
        }
    return found


def report(record: Record) -> str:
    """Lay out what was found in two tables and the verdicts."""
    speed = [["", "Mpx/s", "ratio", *_SPEED]]
    looks = [["", *_LOOKS, *_ALIVE, *_LABELS]]
    for row in record.rows:
        alive = row.figures.get("survives") or {}
        speed.append([row.name, *ratio_cells(record, row), *(_said(row.figures.get(key)) for key in _SPEED.values())])
        looks.append(
            [
                row.name,
                *(_said(row.figures.get(key)) for key in _LOOKS.values()),
                *(_said(alive.get(key)) for key in _ALIVE),
                *(_said(row.labels.get(key)) for key in _LABELS),
            ]
        )
    lines = [f"{name}: {_said(value)}" for name, value in record.series["verdicts"].items()]
    return "\n\n".join([table(speed), table(looks), "\n".join(lines)])


def _compared() -> tuple[str, ...]:
    return (_OUTSIDE, "seam_score", "seam_score_in_phase")


def _fastest(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: median(row.samples))


def _times(row: Row, other: Row) -> float | str:
    """Compare two rows, in words where they do not hold."""
    ratios = ratios_of(row.samples, other.samples)
    return unreliable(ratios) or median(ratios)


def _over(figure: str, row: Row, others: Sequence[Row]) -> float | None:
    least = min(float(other.figures[figure]) for other in others)
    return float(row.figures[figure]) / least if least else None


def _said(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.4g}"
