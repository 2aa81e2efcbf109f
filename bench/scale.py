"""A whole IW scene against one a quarter as high, and against what the engine does by itself: time and memory."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.harness import median, save, table
from bench.simulate import SimulatedScene, write_scene
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.auto import windows_per_second
from sar2optical.memory import peak_bytes
from sar2optical.models.zoo import bundled, variants
from sar2optical.translate import Report, TranslateOptions, translate

_ENGINE_WINDOWS = 400


@dataclass(frozen=True)
class _Alone:
    """The engine by itself, in a process of its own."""

    rate: float
    """Windows a second."""
    peak: int
    """Bytes."""


@click.command("scale")
@click.argument("scene", required=False, type=click.Path(path_type=Path))
@click.option("--height", default=16700, show_default=True)
@click.option("--width", default=25000, show_default=True)
@click.option("--precision", default="int8", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where scenes and mosaics go; a temporary one.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the raw figures.")
def main(
    scene: Path | None, height: int, width: int, precision: str, rounds: int, folder: Path | None, out: Path | None
) -> None:
    """Translate a scene, and one a quarter as high, in turn with the engine alone; each in a process of its own.

    Scenes that FOLDER holds from an earlier time (full.tif, quarter.tif) are taken as they are.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        scenes = {"quarter": place / "quarter.tif", "full": scene or place / "full.tif"}
        for name, path in scenes.items():
            if not path.exists():
                click.echo(f"simulating {path}")
                high = height // 4 if name == "quarter" else height
                write_scene(path, SimulatedScene(height=high, width=width))
        rows: list[tuple[_Alone, dict[str, Report]]] = []
        for number in range(rounds):
            alone = _in_a_process(_engine, precision)
            reports = {
                name: _in_a_process(_scene, path, place / "mosaic.tif", precision) for name, path in scenes.items()
            }
            rows.append((alone, reports))
            click.echo(_row(number, alone, reports), err=True)
    click.echo(_report(rows))
    save(out, "scale", {"precision": precision, "rounds": [_figures(alone, reports) for alone, reports in rows]})


def _in_a_process(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        return worker.submit(function, *args).result()


def _engine(precision: Any) -> _Alone:
    files = variants(bundled())
    with open_engine(files.get(precision, bundled()), options=EngineOptions(precision=precision)) as engine:
        side, channels = engine.signature.window, engine.signature.channels
        windows = np.random.default_rng(1).uniform(-1, 1, (_ENGINE_WINDOWS, channels, side, side)).astype(np.float32)
        windows_per_second(engine, windows[:40])
        rate = windows_per_second(engine, windows)
    return _Alone(rate, peak_bytes() - windows.nbytes)


def _scene(path: Path, mosaic: Path, precision: Any) -> Report:
    options = TranslateOptions(engine=EngineOptions(precision=precision), overwrite=True, restart=True)
    return translate(path, mosaic, options=options)


def _figures(alone: _Alone, reports: dict[str, Report]) -> dict[str, Any]:
    return {
        "engine_windows_per_second": alone.rate,
        "engine_peak_memory": alone.peak,
        **{
            name: {
                "windows_run": report.windows_run,
                "seconds_windows": report.seconds_windows,
                "seconds_mosaic": report.seconds_mosaic,
                "seconds": report.seconds,
                "peak_memory": report.peak_memory,
                "idle": dict(report.idle),
            }
            for name, report in reports.items()
        },
    }


def _row(number: int, alone: _Alone, reports: dict[str, Report]) -> str:
    told = ", ".join(f"{name} {report.seconds:.1f} s" for name, report in reports.items())
    return f"round {number + 1}: engine {alone.rate:.1f} windows/s, {told}"


def _report(rows: list[tuple[_Alone, dict[str, Report]]]) -> str:
    lines = [["", "quarter", "full"]]

    def add(name: str, figure: Callable[[_Alone, Report], float], form: str) -> None:
        cells = [median([figure(alone, reports[kind]) for alone, reports in rows]) for kind in ("quarter", "full")]
        lines.append([name, *(format(cell, form) for cell in cells)])

    add("windows run", lambda _, r: r.windows_run, ".0f")
    add("engine alone, windows/s", lambda a, _: a.rate, ".1f")
    add("scene, windows/s", lambda _, r: r.windows_run / r.seconds_windows, ".1f")
    add("time / (windows / engine's rate)", lambda a, r: r.seconds_windows * a.rate / r.windows_run, ".3f")
    add("assembling, s", lambda _, r: r.seconds_mosaic, ".1f")
    add("in all, s", lambda _, r: r.seconds, ".1f")
    add("peak memory, MB", lambda _, r: r.peak_memory / 1e6, ".0f")
    add("above the engine's own, MB", lambda a, r: (r.peak_memory - a.peak) / 1e6, ".0f")
    last = rows[-1][1]
    area = last["full"].shape[0] / last["quarter"].shape[0]
    ratio = median([reports["full"].seconds / reports["quarter"].seconds for _, reports in rows])
    memory = median([reports["full"].peak_memory / reports["quarter"].peak_memory for _, reports in rows])
    last_line = f"{area:.2f} times the area: {ratio:.2f} times the time, {memory:.3f} times the memory"
    return "\n".join([last["full"].engine, table(lines), last_line])
