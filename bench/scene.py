"""Measure whole scenes from file to mosaic, beside the engine alone, a plain copy and simpler programs."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np

from bench.generators import bundled_checkpoint, default_engine
from bench.harness import (
    Figure,
    Record,
    Row,
    device_option,
    execute,
    json_option,
    median,
    quick_option,
    rounds_option,
    save,
    say,
    take_turns,
    threads_option,
)
from bench.limits import limits
from bench.methods import ENGINE, IDENTITY, METHODS, OURS, PLAIN, REFERENCE, Sample, Task, run
from bench.simulated import Size, simulated_scene
from bench.stages import Stage, slowest, stage_table, with_engine_alone
from bench.tables import terminal
from sar2optical.engines import EngineOptions, Precision
from sar2optical.engines.base import default_threads
from sar2optical.pipeline.flow import STAGES
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

SIZES: tuple[Size, ...] = ((2048, 2048), (4096, 4096), (8192, 8192), (16700, 25000))
_SLOW_UP_TO = 8192 * 8192
"""Largest scene in pixels for methods without overlapping stages: beyond, they take minutes and scale linearly."""
_ENGINE_SECONDS = 2.0
"""Least duration of the engine alone."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the bench; those of the command have the command's meaning."""

    sizes: Sequence[Size]
    methods: Sequence[str] = tuple(METHODS)
    model: Path | None = None
    engine: EngineOptions
    rounds: int
    separate: bool = True
    """Run each method in a process of its own."""


def _sizes(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[Size, ...]:
    return tuple(size for text in values if (size := size_of(context, option, text)))


def size_of(_: click.Context, __: click.Parameter, value: str | None) -> Size | None:
    """Read HEIGHTxWIDTH; None for an option that is not given."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", value)
    if found is None:
        raise click.BadParameter("give HEIGHTxWIDTH, as in 4096x4096")
    return int(found[1]), int(found[2])


def _known(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in values if name not in METHODS]:
        raise click.BadParameter(f"{unknown[0]!r} is unknown: choose from {'; '.join(METHODS)}")
    return values


# As many parameters as options: click passes each by its name.
@click.command("scene")
@click.option(
    "--size", "sizes", multiple=True, callback=_sizes, metavar="HEIGHTxWIDTH", help="Size of a simulated scene."
)
@click.option(
    "--way",
    "methods",
    multiple=True,
    callback=_known,
    metavar="METHOD",
    help="Run only this method; may be repeated.  [all]",
)
@click.option("--model", type=click.Path(path_type=Path), help="Engine file.  [the bundled generator]")
@click.option("--precision", default="auto", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Windows per run.  [that of a run]")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep scenes in this folder and reuse them.")
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    sizes: tuple[Size, ...], methods: tuple[str, ...], model: Path | None, precision: Precision,
    batch_size: int | None, folder: Path | None, device: str, threads: int | None, rounds: int, quick: bool,
    out: Path | None,
) -> None:  # fmt: skip
    """Translate scenes end to end; methods take turns, each in a process of its own."""
    engine = EngineOptions(device=device, precision=precision, threads=threads, batch=batch_size)
    if quick:
        sizes, rounds = sizes or ((256, 512), (512, 512)), 1
    options = Options(
        sizes=sizes or SIZES, methods=methods or tuple(METHODS), model=model, engine=engine, rounds=rounds,
        separate=not quick,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        record = measured(folder or Path(temporary), options)
    click.echo(f"{record.settings['engine']}\n{terminal(record)}")
    for text in stage_tables(record):
        click.echo(f"\n{text}")
    save(record, out)


def measured(folder: Path, options: Options) -> Record:
    """Run the bench, with scenes and mosaics in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    engine, model = options.engine, options.model
    checkpoint = bundled_checkpoint(folder / "seed.pth", channels=3)
    if model is None and engine.device == "cuda":  # PyTorch has every precision there
        model = bundled_checkpoint(folder / "bundled.pth")
    if model is None and engine.device == "cpu" and options.separate:
        default_engine(engine)  # chosen before any measurement
    translation = TranslateOptions(engine=engine, overwrite=True, restart=True)
    scenes = {size: simulated_scene(folder, size) for size in options.sizes}
    tasks = {
        (method, size): Task(
            method=method, scene=scenes[size], out=folder / "mosaic.tif", model=model, options=translation,
            checkpoint=checkpoint, seconds=_ENGINE_SECONDS if options.separate else 0.0,
        )
        for size, method in product(options.sizes, options.methods)
    }  # fmt: skip
    turns = {
        _name(*key): partial(_sample, options.separate, task) for key, task in tasks.items() if not _too_large(*key)
    }
    samples, failures = take_turns(turns, options.rounds, on_progress=say)
    rows = [_row(*key, samples, _too_large(*key) or failures.get(_name(*key))) for key in tasks]
    ours = (sample for (method, size) in tasks if method == OURS for sample in samples.get(_name(method, size), []))
    return Record(
        bench="scene",
        rows=tuple(rows),
        settings={
            "engine": sample.figures["engine"] if (sample := next(ours, None)) else "",
            "device": engine.device,
            "batch": engine.batch or engine.batch_on("cpu" if engine.device == "cpu" else "cuda"),
            "threads": engine.threads or default_threads(),
            "overlap": translation.overlap,
            "rounds": options.rounds,
        },
        ceilings=limits(
            folder, engine.device, threads=engine.threads or default_threads(), quick=not options.separate
        ),
        series={
            "memory": {name: [list(point) for point in many[-1].memory] for name, many in samples.items()},
            "growth_exponent": _growth(samples, options),
        },
    )


def stage_tables(record: Record) -> list[str]:
    """Lay out the stages of the package's own rows, each with the slowest one in a line."""
    engines = {_size_of_row(row): row.figures for row in record.rows if row.labels.get("way") == ENGINE}
    found = []
    for row in record.rows:
        if row.labels.get("way") not in (OURS, IDENTITY) or "stages" not in row.figures:
            continue
        stages, took = [Stage(**fields) for fields in row.figures["stages"]], row.figures["stages_seconds"]
        engine = engines.get(_size_of_row(row), {}) if row.labels["way"] == OURS else {}
        alone = engine.get("seconds")
        if any(stage.name == "up" for stage in stages) and engine.get("seconds_on_device"):
            alone = engine["seconds_on_device"] * row.figures["windows"]
        known = {**record.ceilings, **with_engine_alone(stages, alone)}
        found.append(f"{row.name}\n{stage_table(stages, known, took)}\n{slowest(stages, took)}")
    return found


def _size_of_row(row: Row) -> tuple[Figure, Figure]:
    return row.labels["width"], row.labels["height"]


def _sample(separate: bool, task: Task, _: int) -> Sample:
    return execute(separate, run, task)


def _name(method: str, size: Size) -> str:
    return f"{size[1]} x {size[0]}, {method}"


def _too_large(method: str, size: Size) -> str | None:
    if method in (PLAIN, REFERENCE) and math.prod(size) > _SLOW_UP_TO:
        return f"not run over more than {_SLOW_UP_TO / 1e6:.0f} Mpx: it would take minutes"
    return None


def _row(method: str, size: Size, samples: Mapping[str, Sequence[Sample]], failure: str | None) -> Row:
    name = _name(method, size)
    mine, engine = (samples.get(other, []) for other in (name, _name(ENGINE, size)))
    labels: dict[str, Figure] = {"width": size[1], "height": size[0], "way": method, "base": _name(ENGINE, size)}
    if failure or not mine:
        return Row(name=name, unit="Mpx/s", labels=labels, trouble=failure or "not run")
    seconds = [one.seconds for one in mine]
    if method == ENGINE:  # scaled to all windows of the scene, which has no nodata
        count = len(window_grid(size, mine[0].figures["window"], DEFAULT_OVERLAP))
        seconds = [one.seconds / one.windows * count for one in mine]
    last = mine[-1]
    peak = max(one.peak for one in mine)
    figures = {
        "seconds": median(seconds),
        "peak_memory_mb": peak / 1e6,
        "memory_above_engine_mb": (peak - max(one.peak for one in engine)) / 1e6
        if method == OURS and engine
        else None,
        "windows": last.windows if method != ENGINE else None,
        **last.figures,
    }
    for key in ("seconds_windows", "seconds_mosaic"):
        if key in last.figures:
            figures[key] = median([one.figures[key] for one in mine])
    for key in ("stage_seconds", "idle"):
        if key in last.figures:
            figures[key] = {stage: median([one.figures[key][stage] for one in mine]) for stage in STAGES}
    rates = tuple(math.prod(size) / 1e6 / s for s in seconds)
    return Row(name=name, unit="Mpx/s", samples=rates, labels=labels, figures=figures)


def _growth(samples: Mapping[str, Sequence[Sample]], options: Options) -> dict[str, float]:
    """Fit time = c * area ** exponent by least squares of the logarithms, for each method but the engine alone."""
    found = {}
    for method in options.methods:
        many = {math.prod(size): samples.get(_name(method, size)) for size in options.sizes}
        times = {area: median([one.seconds for one in some]) for area, some in many.items() if some}
        if len(times) > 1 and method != ENGINE:
            found[method] = float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])
    return found
