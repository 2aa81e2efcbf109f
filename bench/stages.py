"""Stages of a scene: seconds and bytes of each, beside the limits of the machine.

Clocks of the product are used where there are any; other functions are wrapped for the time of a run.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.harness import table
from bench.limits import BUS_DOWN, BUS_UP, DISK_READ, DISK_WRITE, MEMORY, UNIT
from sar2optical.mosaic import strip_store
from sar2optical.pipeline import run, stream
from sar2optical.pipeline.job import Job
from sar2optical.pipeline.options import Report
from sar2optical.scene.sampling import parts_of
from sar2optical.scene.scene import Scene

__all__ = [
    "ENGINE_ALONE",
    "Meter",
    "Stage",
    "as_figures",
    "forced_device_path",
    "metered",
    "slowest",
    "stage_table",
    "stages_of",
    "with_engine_alone",
]  # fmt: skip

ENGINE_ALONE = "engine alone, GB/s"
"""Limit of the engine's stage: the rate of the engine without a scene."""

_MOST_WRITERS = 4  # threads that write strips, see sar2optical.mosaic.strip_store


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Work of one stage over a scene."""

    name: str
    seconds: float
    """Seconds at work, summed over its threads."""
    threads: int = 1
    """Threads, or other workers, that share the work."""
    moved: int = 0
    """Bytes that it takes from the stage before, or gives to the next one, whichever are more."""
    limit: str = ""
    """Name of the machine's limit that its rate is compared with; empty where none applies."""

    @property
    def per_thread(self) -> float:
        """Seconds that each thread is at work: the least time of the scene if nothing else were to do."""
        return self.seconds / self.threads

    @property
    def rate(self) -> float | None:
        """Return the GB/s of all threads while they are at work; None where nothing is timed or moved."""
        return self.moved / self.per_thread / 1e9 if self.seconds > 0 and self.moved else None


@dataclass
class Meter:
    """Seconds and bytes of wrapped functions, by stage; thread-safe."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    moved: Counter[str] = field(default_factory=Counter)
    job: Job | None = None
    """The job that ran."""
    on_device: bool = False
    """Whether the job's pixels stayed on a device."""
    _events: list[tuple[str, Any, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stage: str, seconds: float, moved: int) -> None:
        """Add work to a stage."""
        with self._lock:
            self.seconds[stage] += seconds
            self.moved[stage] += moved

    def timed(
        self, stage: str, work: Callable[..., Any], size: Callable[..., int], mark: Callable[[], Any] | None = None
    ) -> Callable[..., Any]:
        """Wrap a function.

        Parameters
        ----------
        stage
            Name of the stage.
        work
            Function to wrap.
        size
            Returns the bytes that a call moves, from its result and its arguments.
        mark
            Makes an event of a GPU's stream, by whose clock the function is timed; None: by the host's.
        """

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            first, began = mark() if mark else None, time.perf_counter()
            made = work(*args, **kwargs)
            took = 0.0 if mark else time.perf_counter() - began
            self.add(stage, took, size(made, *args))
            if mark:
                self._events.append((stage, first, mark()))
            return made

        return wrapped

    def collect(self) -> None:
        """Add the times of a GPU's events; its work must be finished."""
        while self._events:
            stage, first, last = self._events.pop()
            last.synchronize()
            self.add(stage, first.elapsed_time(last) / 1000, 0)


@contextmanager
def forced_device_path(forced: bool = True) -> Iterator[None]:
    """Take the device path with every engine that takes tensors, also on a CPU."""
    if not forced:
        yield
        return
    with patch.object(stream, "takes_device_path", lambda engine: hasattr(engine, "tensor_device")):
        yield


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure the stages of one scene that is translated inside the block."""
    meter = Meter()
    with ExitStack() as stack:

        def wrap(owner: Any, name: str, stage: str, size: Callable[..., int], mark: Any = None) -> None:
            stack.enter_context(patch.object(owner, name, meter.timed(stage, getattr(owner, name), size, mark)))

        wrap(Scene, "_raw_samples", "sample", lambda *_: 0)
        wrap(strip_store, "compressed", "compress", lambda _, rgba, *__: int(rgba.nbytes))
        wrap(strip_store, "halve", "overviews", lambda _, rgba: int(rgba.nbytes))
        wrap(strip_store, "write_with_half", "strips to disk", lambda _, path, *__: int(path.stat().st_size))
        chosen, streamed = stream.takes_device_path, stream.stream

        def choose(engine: Any) -> bool:
            meter.on_device = chosen(engine)
            if meter.on_device:  # imports PyTorch: not before the run does
                _wrap_device(wrap, engine.tensor_device)
            return meter.on_device

        def keep_job(job: Job, *args: Any, **kwargs: Any) -> Any:
            meter.job = job
            return streamed(job, *args, **kwargs)

        stack.enter_context(patch.object(stream, "takes_device_path", choose))
        stack.enter_context(patch.object(run, "stream", keep_job))
        yield meter
        meter.collect()


def _wrap_device(wrap: Callable[..., None], device: Any) -> None:
    import torch

    from sar2optical.engines.tensors import TensorEngine
    from sar2optical.pipeline.device.bus import Bus

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    on_stream = mark if device.type == "cuda" else None
    wrap(Bus, "to_device", "up", lambda _, bus, tensor: int(tensor.nbytes), on_stream)
    wrap(Bus, "fetch", "down", lambda _, bus, tensor: int(tensor.nbytes), on_stream)
    wrap(TensorEngine, "run_tensors", "engine", lambda made, _, sar: int(made.nbytes + sar.nbytes), on_stream)


def stages_of(report: Report, meter: Meter, out: Path, *, threads: int) -> list[Stage]:
    """Collect the stages of a run, in the order of the data.

    Parameters
    ----------
    report, meter
        Of the run.
    out
        The mosaic.
    threads
        Threads that compress strips.
    """
    job = meter.job
    assert job is not None, "the run streamed a scene"
    scene, busy, seconds = job.scene, report.busy, meter.seconds
    opening = report.seconds - report.seconds_windows - report.seconds_mosaic
    stored = len(scene.polarisations) * np.dtype(scene.dtype).itemsize
    sampled = sum(
        (part.rows[1] - part.rows[0]) * (min(part.cols[1], scene.shape[1]) - part.cols[0])
        for part in parts_of(scene.shape, scene.block)
    )
    pixels = math.prod(report.shape)
    readers = min(scene.readers, job.ahead)
    first = [
        Stage(name="open, sample, start the engine", seconds=opening),
        Stage(
            name="sample", seconds=seconds["sample"], threads=scene.readers, moved=stored * sampled, limit=DISK_READ
        ),
        Stage(name="read", seconds=busy["read"], threads=readers, moved=stored * pixels, limit=DISK_READ),
    ]
    last = [
        Stage(name="write (caller)", seconds=busy["write"], moved=4 * pixels, limit=MEMORY),
        *(
            Stage(name=name, seconds=seconds[name], threads=threads, moved=meter.moved[name], limit=MEMORY)
            for name in ("overviews", "compress")
        ),
        Stage(
            name="strips to disk", seconds=seconds["strips to disk"], threads=min(threads, _MOST_WRITERS),
            moved=meter.moved["strips to disk"], limit=DISK_WRITE,
        ),
        Stage(name="assemble", seconds=report.seconds_mosaic, moved=out.stat().st_size, limit=DISK_WRITE),
    ]  # fmt: skip
    found = [*first, *(_on_device if meter.on_device else _on_host)(report, meter, job), *last]
    return [stage for stage in found if stage.seconds > 0]  # a small scene has no overviews


def _on_device(report: Report, meter: Meter, _: Job) -> list[Stage]:
    """Return the stages of the device path; all but the first are timed by the GPU where there is one."""
    busy = report.busy
    queueing = Stage(name="queue work (caller)", seconds=busy["encode"] + busy["infer"] + busy["blend"])
    limits = {"up": BUS_UP, "engine": ENGINE_ALONE, "down": BUS_DOWN}
    moving = [
        Stage(name=name, seconds=meter.seconds[name], moved=meter.moved[name], limit=limit)
        for name, limit in limits.items()
    ]
    gpu = [Stage(name="GPU, all of its work", seconds=report.gpu_busy)] if report.gpu_busy else []
    return [queueing, *moving, *gpu]


def _on_host(report: Report, _: Meter, job: Job) -> list[Stage]:
    busy, streams, engine = report.busy, job.engine.streams, job.engine
    side = job.grid.window
    moved = 4 * (engine.signature.channels + 3) * side * side * report.windows_run
    return [
        Stage(name="encode", seconds=busy["encode"], threads=streams),
        Stage(name="engine", seconds=busy["infer"], threads=streams, moved=moved, limit=ENGINE_ALONE),
        Stage(name="weight", seconds=busy["weight"], threads=streams),
        Stage(name="blend", seconds=busy["blend"]),
    ]


def slowest(stages: Sequence[Stage], seconds: float) -> str:
    """Name the stage whose threads are longest at work, in one line; `seconds` are those of the whole scene."""
    worst = max(stages, key=lambda stage: stage.per_thread)
    return (
        f"slowest stage: {worst.name}, {worst.per_thread:.2f} s of {seconds:.2f} s a thread "
        f"({worst.per_thread / seconds:.0%}, {worst.threads} threads)"
    )


def stage_table(stages: Sequence[Stage], limits: Mapping[str, float], seconds: float) -> str:
    """Lay out stages: bytes, seconds per thread, share of the scene's time, rate, and share of the limit."""
    head = ["stage", "GB", "threads", "busy, s a thread", "of the scene", "GB/s", "of its limit", "limit, GB/s"]
    rows = [head]
    for stage in stages:
        rate, limit = stage.rate, limits.get(stage.limit)
        rows.append(
            [
                stage.name,
                f"{stage.moved / 1e9:.3g}" if stage.moved else "-",
                str(stage.threads),
                f"{stage.per_thread:.3g}",
                f"{stage.per_thread / seconds:.0%}",
                "-" if rate is None else f"{rate:.3g}",
                "-" if rate is None or limit is None else f"{rate / limit:.0%}",
                "-" if limit is None else f"{limit:.3g} ({stage.limit.removesuffix(UNIT)})",
            ]
        )
    return table(rows)


def with_engine_alone(stages: Sequence[Stage], seconds: float | None) -> dict[str, float]:
    """Return the limit of the engine's stage, if `seconds` of the engine alone over the same windows are known."""
    moved = sum(stage.moved for stage in stages if stage.limit == ENGINE_ALONE)
    return {ENGINE_ALONE: moved / seconds / 1e9} if seconds and moved else {}


def as_figures(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return stages as a record keeps them."""
    return [asdict(stage) for stage in stages]
