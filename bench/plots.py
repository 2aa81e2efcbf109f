"""Plots of a record, of rows with reliable rates. Uses matplotlib without a display."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.harness import Record, Row, median

_COLOURS = {"fp32": "C0", "bf16": "C1", "fp16": "C4", "int8": "C2", "fp8": "C3"}
_MARKERS = "osD^vPX*<>"
_LOG_FROM = 4
"""Ratio of a ceiling to the fastest rate from which on the axis is logarithmic."""
_WITH_MEMORY = ("ours", "reference baseline")
"""Methods whose memory is drawn: lines of all methods cannot be distinguished."""
_EQUAL = 140.0
"""PSNR in dB at which identical images are drawn, beyond the resolution of float32."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sar2optical",  # names of clip paths, random otherwise: a second run gives the same bytes
    "svg.fonttype": "none",  # text stays text: small files and diffs
    "font.size": 9,
}


@dataclass(frozen=True)
class Plot:
    """One picture of a record."""

    name: str
    caption: str
    draw: Callable[[Any], None]
    """Draws onto a matplotlib axis."""


def plots_of(record: Record) -> list[Plot]:
    """Return the plots of a record, without drawing them."""
    rows, plots, on = reliable_rows(record), [], f"on {record.machine.title}"
    batched = [row for row in rows if row.labels.get("batch")]
    scored = [row for row in rows if row.figures.get("psnr_db") is not None]
    sized = [row for row in rows if row.labels.get("width") and row.labels.get("height")]
    if record.bench == "engines" and batched:
        text = f"Throughput by batch size, {on}. Dashed: limit of the machine's matrix product."
        plots.append(Plot("throughput", text, lambda axis: _throughput(axis, record, batched)))
    if record.bench == "engines" and scored:
        text = (
            f"Rate and PSNR of each engine at its best batch size, {on}. The line joins the Pareto-optimal engines."
        )
        plots.append(Plot("frontier", text, lambda axis: _frontier(axis, scored)))
    if record.bench == "scene" and sized:
        plots.append(Plot("area", f"Time by area of the scene, {on}.", lambda axis: _area(axis, sized)))
    if record.series.get("memory"):
        plots.append(Plot("memory", f"Memory over time, {on}.", lambda axis: _memory(axis, record)))
    return plots


def svg(plot: Plot) -> bytes:
    """Draw a plot as SVG; a version of matplotlib gives the same bytes each time."""
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):  # not the user's style
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.add_subplot()
        axis.grid(alpha=0.3)
        plot.draw(axis)
        if axis.get_legend_handles_labels()[0]:
            figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()


def reliable_rows(record: Record) -> list[Row]:
    """Return the rows with reliable rates."""
    return [row for row in record.rows if row.samples and record.unreliable_rate(row) is None]


def engine_of(row: Row) -> str:
    """Return the name of a row's engine, without the batch size."""
    labels = row.labels
    words = [str(labels[key]) for key in ("backend", "precision", "way") if labels.get(key)]
    words += [f"{labels['threads']} threads"] if labels.get("threads") else []
    words += ["without transfers"] if labels.get("transfers") == "off" else []
    return " ".join(words) or row.name


def _grouped(rows: list[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _looks(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Return each engine's style: colour by precision, marker by library and method, hollow without transfers."""
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    return {
        engine_of(row): {
            "color": _colour(row.labels.get("precision")),
            "marker": _MARKERS[kinds.index(_kind(row)) % len(_MARKERS)],
            "fillstyle": "none" if row.labels.get("transfers") == "off" else "full",
            "label": engine_of(row),
        }
        for row in rows
    }


def _kind(row: Row) -> tuple[object, ...]:
    return tuple(row.labels.get(key) or None for key in ("backend", "way", "threads"))


def _throughput(axis: Any, record: Record, rows: list[Row]) -> None:
    looks = _looks(rows)
    for name, line in _grouped(rows, engine_of).items():
        points = sorted((row.labels["batch"], median(row.samples)) for row in line)
        axis.plot(*zip(*points, strict=True), **looks[name])
    for precision, ceiling in record.settings.get("ceiling_windows_per_s", {}).items():
        axis.axhline(ceiling, linestyle="--", color=_colour(precision), label=f"ceiling, {precision}")
    batches = sorted({int(str(row.labels["batch"])) for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, labels=[str(batch) for batch in batches])
    axis.set(xlabel="batch", ylabel=rows[0].unit)
    ceilings = record.settings.get("ceiling_windows_per_s", {}).values()
    if max(ceilings, default=0) > _LOG_FROM * max(median(row.samples) for row in rows):
        axis.set_yscale("log")
    else:
        axis.set_ylim(0)


def _frontier(axis: Any, rows: list[Row]) -> None:
    best = [max(line, key=lambda row: median(row.samples)) for line in _grouped(rows, engine_of).values()]
    points = {engine_of(row): (min(float(row.figures["psnr_db"]), _EQUAL), median(row.samples)) for row in best}
    looks = _looks(best)
    kept = frontier(list(points.values()))
    for name, point in points.items():
        axis.plot(*point, linestyle="none", **looks[name])
        if point in kept:  # labels of all would overlap
            axis.annotate(name, point, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7)
    axis.plot(*zip(*kept, strict=True), color="0.6", zorder=0)
    axis.margins(x=0.15)
    axis.set(xlabel=f"PSNR against fp32, dB (at most {_EQUAL:.0f})", ylabel=rows[0].unit)
    axis.set_ylim(0, 1.1 * max(speed for _, speed in points.values()))


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points, from left to right: no other point is larger in both values."""
    return sorted(p for p in set(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points))


def _area(axis: Any, rows: list[Row]) -> None:
    for (method, line), marker in zip(_grouped(rows, _method).items(), _MARKERS * len(rows), strict=False):
        areas = [float(str(row.labels["width"])) * float(str(row.labels["height"])) / 1e6 for row in line]
        seconds = [
            row.figures.get("seconds") or area / median(row.samples) for area, row in zip(areas, line, strict=True)
        ]
        axis.plot(*zip(*sorted(zip(areas, seconds, strict=True)), strict=True), marker=marker, label=method)
    axis.set(xlabel="Mpx", ylabel="seconds", xscale="log", yscale="log")


def _method(row: Row) -> str:
    return str(row.labels.get("way") or row.name)


def _memory(axis: Any, record: Record) -> None:
    drawn = {row.name for row in record.rows if not row.trouble and row.labels.get("way", "ours") in _WITH_MEMORY}
    for name, points in record.series["memory"].items():
        if points and name in drawn:
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
    axis.set(xlabel="seconds", ylabel="memory, MB", ylim=(0, None))


def _colour(precision: object) -> str:
    return _COLOURS.get(str(precision), "0.4")
