"""Measure windows per second of each engine, precision and batch size, and of the reference baseline."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.candidates import SCORED, SIDE, Candidate, Run, Settings, candidates, chip_windows, engine_files, opened
from bench.ceilings import COPY, ceilings, product_name
from bench.generators import Work, default_engine, work_of
from bench.harness import (
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
from bench.tables import terminal
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines import EngineOptions
from sar2optical.engines.base import default_threads
from sar2optical.errors import OptionError
from sar2optical.evaluation.metrics import psnr, ssim

_BATCHES = {"cpu": (1, 4, 16, 64, 128), "cuda": (1, 4, 16, 64, 128, 256)}
_SECONDS, _ITERATIONS = 3.0, 10
"""Least duration and number of runs of each candidate, over all rounds."""
_MIN_PSNR = 30.0
"""Least PSNR in dB of each window against fp32, with values in [-1, 1]."""
_EQUAL = 999.0
"""PSNR in dB of identical images: JSON has no infinity."""
_PERCENTILES = {"median": 50, "p90": 90, "p95": 95, "p99": 99}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the bench; those of the command have the command's meaning."""

    batches: Sequence[int]
    base_channels: int | None = None
    chips: Path | None = None
    compiled: bool = False
    device: str = "cpu"
    threads: int | None = None
    rounds: int
    seconds: float
    """Least duration of each candidate in each round; 0: one run."""
    separate: bool = True
    """Run each candidate in a process of its own."""
    only: tuple[str, ...] = ()
    """Beginnings of the names of candidates; empty: all."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measurements of one candidate in one round."""

    rate: float
    """Windows per second."""
    latencies: list[float]
    """Duration of each run in seconds."""
    streams: int
    """Number of batches that ran at once."""
    load_s: float
    first_s: float
    memory: int
    """Bytes: resident memory on a CPU, GPU memory on a GPU."""
    images: NDArray[np.float32] | None = field(default=None, repr=False)
    """Images of the first windows, if requested: float32 (16, 3, 256, 256)."""

    def __str__(self) -> str:
        """Return the rate, for progress lines."""
        return f"{self.rate:.1f} windows/s"


# As many parameters as options: click passes each by its name.
@click.command("engines")
@click.option("--base-channels", type=int, help="Compare new weights of this width instead of the bundled generator.")
@click.option(
    "--chips",
    type=click.Path(path_type=Path, exists=True),
    help="Folder of SAR chips, or a scene, for int8 calibration and PSNR.  [a simulated scene]",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Windows per run.  [1 to 128, on a GPU to 256]",
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Engines whose names begin with NAME, as `openvino int8`.  [all]"
)
@click.option(
    "--compile/--no-compile", "compiled", default=False, show_default=True, help="Include torch.compile on a GPU."
)
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    base_channels: int | None, chips: Path | None, batches: tuple[int, ...], only: tuple[str, ...], compiled: bool,
    device: str, threads: int | None, rounds: int, quick: bool, out: Path | None,
) -> None:  # fmt: skip
    """Compare engines on one generator; candidates take turns."""
    if quick:
        batches, rounds = batches or (1,), 1
    options = Options(
        batches=batches or _BATCHES[device], base_channels=base_channels, chips=chips, compiled=compiled,
        device=device, threads=threads, rounds=rounds, seconds=0.0 if quick else _SECONDS / rounds,
        separate=device == "cpu" and not quick, only=only,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        record = measured(Path(name), options)
    click.echo(terminal(record))
    save(record, out)


def measured(folder: Path, options: Options) -> Record:
    """Run the bench, with its files in `folder`."""
    device, chips = options.device, options.chips or folder / "scene.tif"
    sar = chip_windows(chips, simulate=options.chips is None)
    settings = Settings(
        device=device, threads=options.threads, seconds=options.seconds, sar=folder / "sar.npy",
        iterations=math.ceil(_ITERATIONS / options.rounds) if options.seconds else 1,
    )  # fmt: skip
    np.save(settings.sar, sar)
    files = engine_files(folder, options.base_channels, sar, chips, device)
    every = candidates(files, device, options.batches, compiled=options.compiled)
    chosen = [one for one in every if not options.only or one.name.startswith(options.only)]
    if not chosen:
        raise OptionError(
            f"no engine's name starts with {options.only!r}: choose from {', '.join(one.name for one in every)}"
        )
    # On a GPU PyTorch's convolutions run in TF32 by default, and so does the reference baseline.
    precision = "fp32" if device == "cpu" else "tf32"
    found = [Candidate(backend="pytorch", precision=precision, file=files["seed"], kind="seed"), *chosen]
    samples, failures, limits = _sampled(found, settings, options)
    work = work_of(files["torch"])
    fp32 = (one.name for one in chosen if one.kind == "engine" and one.precision == "fp32" and one.name in samples)
    reference = samples[name][0].images if (name := next(fp32, None)) else None
    rows = [_row(one, samples.get(one.name, []), failures.get(one.name), reference, limits, work) for one in found]
    bundled = options.base_channels is None
    by_itself = default_engine(EngineOptions(threads=options.threads)) if bundled and options.separate else None
    return Record(
        bench="engines",
        rows=tuple(rows),
        settings={
            "generator": "bundled" if bundled else f"fresh weights, base_channels {options.base_channels}",
            "windows": options.chips.name if options.chips else "of a simulated scene",
            "gflop_per_window": work.flop / 1e9,
            "device": device,
            "threads": options.threads or default_threads(),
            "rounds": options.rounds,
            "sar2opt-scene takes": by_itself,
            "ceiling_windows_per_s": {
                name.split()[0]: limit * 1e12 / work.flop for name, limit in limits.items() if "product" in name
            },
        },
        ceilings=limits,
    )


def _sampled(
    found: Sequence[Candidate], settings: Settings, options: Options
) -> tuple[dict[str, list[Sample]], dict[str, str], dict[str, float]]:
    """Return samples and failures by candidate, and the medians of the ceilings, measured in each round."""
    tops: list[dict[str, float]] = []

    def limits() -> None:
        quick = not settings.seconds
        tops.append(execute(options.separate, ceilings, settings.device, threads=settings.threads, quick=quick))

    # On a CPU each candidate has a process, so that memory and threads are its own. On a GPU the driver reports
    # memory, and a new process would need seconds for its context.
    def sample(candidate: Candidate, number: int) -> Sample:
        return execute(options.separate, sample_of, candidate, settings, images=number == 0)

    turns = {candidate.name: partial(sample, candidate) for candidate in found}
    samples, failures = take_turns(turns, options.rounds, on_progress=say, each_round=limits)
    return samples, failures, {name: median([top[name] for top in tops]) for name in tops[0]}


def sample_of(candidate: Candidate, settings: Settings, *, images: bool = False) -> Sample:
    """Open a candidate, run it and close it."""
    before, began = _memory(settings.device), time.perf_counter()
    with opened(candidate, settings) as (run, streams):
        load = time.perf_counter() - began
        sar = settings.windows(candidate.batch)
        began = time.perf_counter()
        run(sar)
        first = time.perf_counter() - began
        rate, latencies = timed(run, sar, streams, settings.seconds, settings.iterations)
        memory = max(_memory(settings.device, peak=True) - before, 0)
        scored = images and candidate.kind in ("engine", "seed")
        return Sample(
            rate=rate, latencies=latencies, streams=streams, load_s=load, first_s=first, memory=memory,
            images=_images(run, settings, candidate.batch) if scored else None,
        )  # fmt: skip


def timed(
    run: Run, sar: NDArray[np.float32], streams: int, seconds: float, iterations: int
) -> tuple[float, list[float]]:
    """Run batches, `streams` at once, for at least `seconds` and `iterations`.

    Returns
    -------
    rate, latencies
        Windows per second; duration of each run in seconds.
    """

    def one(_: int) -> float:
        began = time.perf_counter()
        run(sar)
        return time.perf_counter() - began

    with ThreadPoolExecutor(streams) as pool:
        warm = list(pool.map(one, range(streams)))
        latencies: list[float] = []
        began = time.perf_counter()
        while not latencies or len(latencies) < iterations or time.perf_counter() - began < seconds:
            left = max(seconds - (time.perf_counter() - began), 0.0)
            count = max(iterations - len(latencies), math.ceil(streams * left / min(warm)), 1)
            # A multiple of the streams: no run is alone on the cores at the end.
            latencies += pool.map(one, range(math.ceil(count / streams) * streams))
        return len(latencies) * len(sar) / (time.perf_counter() - began), latencies


def _images(run: Run, settings: Settings, batch: int) -> NDArray[np.float32]:
    sar = settings.windows(max(batch, SCORED))
    images: list[Any] = [run(sar[k : k + batch]) for k in range(0, SCORED, batch)]
    return np.concatenate(images)[:SCORED]


def _row(
    candidate: Candidate, samples: Sequence[Sample], failure: str | None, reference: NDArray[np.float32] | None,
    limits: Mapping[str, float], work: Work,
) -> Row:  # fmt: skip
    precision, batch = candidate.precision, candidate.batch
    labels: dict[str, Any] = {"backend": candidate.backend, "precision": precision, "batch": batch}
    if candidate.kind != "engine":
        labels |= {"way": candidate.kind, "transfers": "on" if candidate.kind == "seed" else "off"}
    if failure or not samples:
        return Row(name=candidate.name, unit="windows/s", labels=labels, trouble=failure or "not run")
    rates = tuple(sample.rate for sample in samples)
    rate = median(rates)
    milliseconds = [1000 * seconds for sample in samples for seconds in sample.latencies]
    limit = limits.get(product_name(precision))
    parity = _parity(samples[0].images, reference)
    figures = {
        "mpx_per_s": rate * SIDE**2 / 1e6,
        "latency_ms": {name: float(np.percentile(milliseconds, q)) for name, q in _PERCENTILES.items()},
        "runs": len(milliseconds),
        "streams": samples[0].streams,
        "load_s": median([sample.load_s for sample in samples]),
        "first_ms": 1000 * median([sample.first_s for sample in samples]),
        "memory_mb": max(sample.memory for sample in samples) / 1e6,
        "share_of_matmul": rate * work.flop / (limit * 1e12) if limit else None,
        "share_of_copy": rate * work.least_bytes(precision, batch) / (limits[COPY] * 1e9),
        **parity,
    }
    lowest = parity.get("psnr_min_db", _EQUAL)
    failed = f"PSNR {lowest:.0f} dB, at least {_MIN_PSNR:.0f} dB required" if lowest < _MIN_PSNR else None
    return Row(name=candidate.name, unit="windows/s", samples=rates, labels=labels, figures=figures, trouble=failed)


def _parity(images: NDArray[np.float32] | None, reference: NDArray[np.float32] | None) -> dict[str, float]:
    """Compare images with fp32 images, in [-1, 1]; empty without images and for the reference itself."""
    if images is None or reference is None or images is reference:
        return {}
    pairs = list(zip(reference, images, strict=True))
    found = [psnr(expected, image, data_range=2) for expected, image in pairs]
    alike = [ssim(expected, image, data_range=2) for expected, image in pairs]
    figures = {"psnr_db": float(np.mean(found)), "psnr_min_db": min(found), "ssim": float(np.mean(alike))}
    return {name: min(value, _EQUAL) for name, value in figures.items()}


def _memory(device: str, *, peak: bool = False) -> int:
    if device == "cpu":
        return peak_bytes() if peak else resident_bytes()
    import torch

    if not peak:
        torch.cuda.empty_cache()  # memory that earlier candidates held
    free, total = torch.cuda.mem_get_info()
    return total - free
