"""Our own way over the scene, in a process of its own like the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.peer.protocol import Job, Outcome
from bench.peer.resident import forget_peak
from sar2optical._utils.memory import peak_bytes
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model, windows_per_second
from sar2optical.engines.registry import bundled, variants
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.prepare import check_outputs, prepared
from sar2optical.pipeline.run import execute
from sar2optical.tiling.windows import WindowGrid

_SECONDS_ALONE = 0.5


def run(job: Job) -> Outcome:
    """Do what `translate` does, with an engine that is open and warm: other tools are given a loaded generator too.

    Parameters
    ----------
    job
        Without a checkpoint: the bundled generator, as the command line runs it where nothing is asked for.
    """
    model = Path(job.checkpoint) if job.checkpoint else bundled()
    options = TranslateOptions(
        engine=EngineOptions(precision="fp32" if job.checkpoint else "auto", threads=job.threads, batch=job.batch),
        overlap=job.overlap,
        overwrite=True,
    )
    began = time.perf_counter()
    engine, file = open_model(variants(model), backend=options.backend, options=options.engine)
    with engine:
        opening = time.perf_counter() - began

        @contextmanager
        def opened(*_: object) -> Iterator[tuple[Engine, Path]]:
            yield engine, file

        def mosaic(scene: str) -> tuple[Report, WindowGrid]:
            check_outputs(scene, Path(job.out), options)
            with prepared(scene, Path(job.out), model=model, options=options, opener=opened) as found:
                return execute(found, Path(job.out), options), found.grid

        forget_peak()
        mosaic(job.warm_up)
        held = peak_bytes()
        began = time.perf_counter()
        report, plan = mosaic(job.scene)
        seconds, peak = time.perf_counter() - began, peak_bytes()
        return Outcome(
            seconds=seconds,
            seconds_engine=min(report.windows_run / _rate_alone(engine), report.busy["infer"] / engine.streams),
            windows=report.windows_run,
            peak_bytes=peak,
            engine_bytes=held,
            rows=plan.rows,
            cols=plan.cols,
            engine=report.engine,
            stages=_stages(report.busy, seconds, report.seconds_windows, report.seconds_mosaic),
            seconds_opening=opening,
        )


def _rate_alone(engine: Engine) -> float:
    """Measure windows per second with nothing beside the engine, at its best.

    In a run it shares the cores with all other stages, and what they take from it would pass for its own time.
    """
    shape = (8 * engine.batch * engine.streams, engine.signature.channels, engine.window, engine.window)
    windows = np.random.default_rng(1).random(shape, np.float32)
    rates = [windows_per_second(engine, windows)]
    while sum(len(windows) / rate for rate in rates) < _SECONDS_ALONE:
        rates.append(windows_per_second(engine, windows))
    return max(rates)


def _stages(busy: Mapping[str, float], seconds: float, windows: float, mosaic: float) -> dict[str, float]:
    """Tell where the time went: before the first window, streaming, assembling; and what threads did meanwhile."""
    return {"preparing": seconds - windows - mosaic, "streaming": windows, "assembling": mosaic, **busy}
