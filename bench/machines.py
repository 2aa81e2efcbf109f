"""What each measured machine does: a table and three plots, for somebody who chooses one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bench.harness import Record, Row, median, number
from bench.plots import Plot, reliable_rows
from bench.tables import layout, safe

__all__ = ["Machine", "machines_of", "plots_of_machines", "section"]

WHOLE = 25_000 * 16_700
"""Pixels of a whole IW scene, 417.5 Mpx."""

_TEXT = """## Which machine

What the machines of the records below do, and what limits them. A whole scene is an IW GRD product of
25,000 x 16,700 pixels (417 Mpx); where a record measured a smaller scene, its time is scaled by the area. Windows are
of 256 x 256 pixels. Training: the generator of pix2pix (64 channels), in the fastest precision.

On a CPU the engine takes most of the time: buy cores with VNNI or AMX (int8, bf16). On a data centre GPU the engine
waits: starting PyTorch, reading and compressing take most of a scene's time, so buy cores and disk for it, or
translate several scenes at once.
"""


class _Result(Protocol):
    @property
    def record(self) -> Record: ...


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Figures of one kind of machine; None where no record has them."""

    title: str
    cores: int
    gpu: str
    seconds: float | None = None
    """Seconds of a whole scene."""
    size: str = ""
    """Size of the scene that was measured."""
    windows: float | None = None
    """Windows per second of the fastest engine."""
    engine: str = ""
    images: float | None = None
    """Training images per second."""


def machines_of(groups: Sequence[Sequence[_Result]]) -> list[Machine]:
    """Collect the figures of each machine from its records; machines without any are left out."""
    found = [_machine([result.record for result in group]) for group in groups]
    return [one for one in found if one.seconds or one.windows or one.images]


def _machine(records: list[Record]) -> Machine:
    machine = records[0].machine
    rows = {bench: [row for x in records if x.bench == bench for row in reliable_rows(x)] for bench in _BENCHES}
    whole = [row for x in records if x.bench == "gpu-check" for row in x.rows if row.samples]  # a few rounds only
    scenes = whole or [row for row in rows["scene"] if row.labels.get("way") == "ours"]
    scenes += [row for row in rows["guard"] if row.name.endswith(", ours")] if not scenes else []
    engines = [row for row in rows["engines"] if row.labels.get("transfers") in ("on", None)]
    engines += [row for row in rows["guard"] if row.name.startswith("engines: ")] if not engines else []
    scene = max(scenes, key=_pixels, default=None)
    engine, step = _fastest(engines), _fastest(rows["training"])
    return Machine(
        title=machine.title,
        cores=machine.cores,
        gpu=machine.gpu or "",
        seconds=WHOLE / 1e6 / median(scene.samples) if scene else None,
        size=_size(scene) if scene else "",
        windows=median(engine.samples) if engine else None,
        engine=engine.name.removeprefix("engines: ") if engine else "",
        images=median(step.samples) if step else None,
    )


_BENCHES = ("scene", "engines", "training", "guard")


def _fastest(rows: list[Row]) -> Row | None:
    return max(rows, key=lambda row: median(row.samples), default=None)


def _pixels(row: Row) -> int:
    return int(str(row.labels.get("width", 0))) * int(str(row.labels.get("height", 0)))


def _size(row: Row) -> str:
    if _pixels(row):
        return f"{row.labels['width']} x {row.labels['height']}"
    head = row.name.removeprefix("scene: ").split(",")[0]
    return head if " x " in head else "25000 x 16700"


def section(machines: list[Machine], plots: dict[str, Plot], folder: str) -> str:
    """Write the section: text, table, plots."""
    head = ["machine", "whole scene", "measured on", "windows/s", "engine", "training, images/s"]
    lines = [head, ["---", "--:", "---", "--:", "---", "--:"]]
    for one in machines:
        lines.append([
            safe(one.title),
            _duration(one.seconds),
            one.size or "-",
            number(one.windows) if one.windows else "-",
            safe(one.engine) or "-",
            number(one.images) if one.images else "-",
        ])  # fmt: skip
    pictures = [f"![{plot.caption}]({folder}/{name})\n" for name, plot in plots.items()]
    return "\n".join([_TEXT, layout(lines), *pictures])


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def plots_of_machines(machines: list[Machine]) -> dict[str, Plot]:
    """Return three plots by the names of their files; none for a single machine."""
    if len(machines) < 2:
        return {}
    kinds: dict[str, tuple[str, Callable[[Machine], float | None]]] = {
        "scene": ("Seconds of a whole scene of 417 Mpx.", lambda one: one.seconds),
        "windows": ("Windows of 256 x 256 per second, fastest engine.", lambda one: one.windows),
        "training": ("Training images per second.", lambda one: one.images),
    }
    return {
        f"machines-{name}.svg": Plot(name, text, partial(_bars, machines=machines, of=of, text=text))
        for name, (text, of) in kinds.items()
    }


def _bars(axis: Any, *, machines: list[Machine], of: Callable[[Machine], float | None], text: str) -> None:
    known = [(one.title, value) for one in machines if (value := of(one)) is not None]
    bars = axis.barh([name for name, _ in known], [value for _, value in known], color="#4a6b86", height=0.6)
    axis.bar_label(bars, labels=[f" {number(value)}" for _, value in known])
    axis.margins(x=0.12)
    axis.set_xlabel(text.rstrip("."))
    axis.invert_yaxis()
