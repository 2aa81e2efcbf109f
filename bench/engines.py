"""Windows per second of every engine, precision and batch, against the way the seed runs its generator."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench import resident
from bench.ceilings import COPY, ceilings, product_name
from bench.generators import Work, bundled_checkpoint, default_engine, fresh_checkpoint, work_of
from bench.harness import (
    Record,
    Row,
    device_option,
    here,
    in_a_process,
    in_words,
    json_option,
    quick_option,
    ratio_cells,
    rounds_option,
    save,
    say,
    table,
    threads_option,
)
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines import EngineOptions, Precision, open_engine
from sar2optical.engines.base import default_threads
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import OptionError, Sar2OpticalError
from sar2optical.evaluation.metrics import psnr, ssim
from sar2optical.testing import SimulatedScene, write_scene

SEED = "the seed's way: PyTorch eager, one window after another"
_BATCHES = {"cpu": (1, 4, 16, 64, 128), "cuda": (1, 4, 16, 64, 128, 256)}
_SECONDS, _ITERATIONS = 3.0, 10
"""That each candidate runs for at least, over all rounds."""
_SCORED = 16
"""Windows that parity is measured on."""
_FLOOR = 30.0
"""dB on [-1, 1], of each window against fp32: under it an image is another image."""
_EQUAL = 999.0
"""PSNR in dB of equal images, for JSON has no infinity."""
_SIDE = 256
_PERCENTILES = {"median": 50, "p90": 90, "p95": 95, "p99": 99}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of running a generator."""

    backend: str
    precision: str
    file: Path
    batch: int = 1
    kind: str = "engine"
    """engine: as the tool runs it; seed; or what PyTorch does on a GPU with windows that are there already."""
    form: str = ""
    """Of the file, where there are several of a precision."""

    @property
    def name(self) -> str:
        """Tell it from the others."""
        if self.kind == "seed":
            return SEED
        what = " ".join(filter(None, (self.backend, self.precision, self.form)))
        return f"{what}, batch {self.batch}" + ("" if self.kind == "engine" else f", {self.kind}, no transfers")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all candidates share; travels to their processes."""

    device: str
    threads: int | None
    seconds: float
    """Of each candidate in each round, at least."""
    iterations: int
    """Likewise."""
    apart: bool
    """Each in a process of its own."""
    sar: Path
    """Windows, as NumPy saves them."""

    def windows(self, count: int) -> NDArray[np.float32]:
        """Give so many windows, each as often as it takes."""
        stored = np.load(self.sar)
        return np.resize(stored, (count, *stored.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one candidate did in one round."""

    rate: float
    """Windows per second."""
    latencies: list[float]
    """Seconds of each run."""
    streams: int
    """Runs that were in flight together."""
    load_s: float
    first_s: float
    memory: int
    """Bytes that it took: resident on a CPU, on the GPU there."""
    images: NDArray[np.float32] | None = field(default=None, repr=False)
    """Of the first windows, where they were asked for."""


@click.command("engines")
@click.option("--base-channels", type=int, help="Fresh weights of this width (64: the seed's) for the bundled ones.")
@click.option(
    "--chips",
    type=click.Path(path_type=Path, exists=True),
    help="Real SAR chips (a folder) or a scene, for int8's ranges and for parity. A simulated scene where not given.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Windows a run.  [1 to 128, on a GPU to 256]",
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Engines whose names begin so, as `openvino int8`.  [all]"
)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="On a GPU, compiled too.")
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    base_channels: int | None, chips: Path | None, batches: tuple[int, ...], only: tuple[str, ...], compiled: bool,
    device: str, threads: int | None, rounds: int, quick: bool, out: Path | None,
) -> None:  # fmt: skip
    """Compare engines on one generator, taking turns."""
    if quick:
        batches, rounds = batches or (1,), 1
    with tempfile.TemporaryDirectory() as name:
        record = measured(
            Path(name), base_channels, chips, batches or _BATCHES[device], compiled=compiled, device=device,
            threads=threads, rounds=rounds, seconds=0.0 if quick else _SECONDS / rounds,
            apart=device == "cpu" and not quick, only=lambda way: not only or way.name.startswith(only),
        )  # fmt: skip
    click.echo(report(record))
    save(record, out)


def measured(
    folder: Path, base_channels: int | None, chips: Path | None, batches: Sequence[int], *, compiled: bool,
    device: str, threads: int | None, rounds: int, seconds: float, apart: bool,
    only: Callable[[Way], bool] = lambda _: True,
) -> Record:  # fmt: skip
    """Run the bench; see the command's options. `only` leaves candidates out; `apart` has each in its own process."""
    sar = _windows(folder, chips)
    settings = Settings(
        device=device, threads=threads, seconds=seconds, iterations=math.ceil(_ITERATIONS / rounds) if seconds else 1,
        apart=apart, sar=folder / "sar.npy",
    )  # fmt: skip
    np.save(settings.sar, sar)
    files = _files(folder, base_channels, sar, chips or folder / "scene.tif", device)
    every = _ways(files, device, batches, compiled=compiled)
    ways = [way for way in every if only(way)]
    if not ways:
        raise OptionError(f"no engine has such a name: there are {', '.join(way.name for way in every)}")
    tops: list[dict[str, float]] = []
    # PyTorch's convolutions on a GPU are in TF32 where nobody asks for fp32, and the seed does not.
    seed = Way(
        backend="pytorch", precision="fp32" if device == "cpu" else "tf32", file=files["seed"], kind="seed"
    )  # fmt: skip
    samples, trouble = _sampled([seed, *ways], settings, rounds, tops)
    limits = {name: statistics.median(top[name] for top in tops) for name in tops[0]}
    work = work_of(files["torch"])
    reference = next(
        (images for way in ways if way.precision == "fp32" and (images := _images_of(samples, way)) is not None), None
    )
    rows = [_row(way, samples.get(way, []), trouble.get(way), reference, limits, work) for way in (seed, *ways)]
    return Record(
        bench="engines",
        rows=tuple(rows),
        settings={
            "generator": "bundled" if base_channels is None else f"fresh weights, base_channels {base_channels}",
            "windows": str(chips.name) if chips else "of a simulated scene",
            "gflop_per_window": work.flop / 1e9,
            "device": device,
            "threads": threads or default_threads(),
            "rounds": rounds,
            "sar2opt-scene takes": default_engine(EngineOptions(threads=threads))
            if base_channels is None and apart
            else None,
            "ceiling_windows_per_s": {
                name.split()[0]: limit * 1e12 / work.flop for name, limit in limits.items() if "product" in name
            },
        },
        ceilings=limits,
    )


def _sampled(
    ways: Sequence[Way], settings: Settings, rounds: int, tops: list[dict[str, float]]
) -> tuple[dict[Way, list[Sample]], dict[Way, str]]:
    """Let the ways take turns, and the ceilings with them; what stops one is noted, and it has no further turn."""
    samples: dict[Way, list[Sample]] = {}
    trouble: dict[Way, str] = {}
    # On a CPU each in a process of its own, so that memory is its own, and settings too. A GPU tells of its memory
    # itself, and a context there takes seconds to make.
    run = in_a_process if settings.apart else here
    for number in range(rounds):
        tops.append(run(ceilings, settings.device, threads=settings.threads, quick=not settings.seconds))
        for way in ways:
            if way in trouble:
                continue
            try:
                sample = run(sample_of, way, settings, images=number == 0)
            except (Sar2OpticalError, RuntimeError, MemoryError, ImportError, OSError, BrokenProcessPool) as error:
                trouble[way] = in_words(error)
                say(f"left out: {way.name} ({trouble[way]})")
                continue
            samples.setdefault(way, []).append(sample)
            say(f"round {number + 1}/{rounds}: {way.name}: {sample.rate:.1f} windows/s")
    return samples, trouble


def sample_of(way: Way, settings: Settings, *, images: bool = False) -> Sample:
    """Open a way, run it, close it."""
    before, began = _memory(settings.device), time.perf_counter()
    with _opened(way, settings) as (run, streams):
        load = time.perf_counter() - began
        sar = settings.windows(way.batch)
        began = time.perf_counter()
        run(sar)
        first = time.perf_counter() - began
        rate, latencies = timed(run, sar, streams, settings.seconds, settings.iterations)
        taken = _memory(settings.device, peak=True) - before
        made = _images(run, settings, way.batch) if images and way.kind in ("engine", "seed") else None
    return Sample(
        rate=rate, latencies=latencies, streams=streams, load_s=load, first_s=first, memory=max(taken, 0), images=made
    )  # fmt: skip


def timed(
    run: Callable[[NDArray[np.float32]], object],
    sar: NDArray[np.float32],
    streams: int,
    seconds: float,
    iterations: int,
) -> tuple[float, list[float]]:
    """Run batches, as many at once as there are streams, for so long and so often at least.

    Returns
    -------
    rate, latencies
        Windows per second; seconds of each run.
    """

    def one(_: int) -> float:
        began = time.perf_counter()
        run(sar)
        return time.perf_counter() - began

    with ThreadPoolExecutor(streams) as pool:
        warm = list(pool.map(one, range(streams)))  # and a guess at how many runs it takes
        latencies: list[float] = []
        began = time.perf_counter()
        while not latencies or len(latencies) < iterations or time.perf_counter() - began < seconds:
            left = max(seconds - (time.perf_counter() - began), 0.0)
            count = max(iterations - len(latencies), math.ceil(streams * left / min(warm)), 1)
            # As many as the streams take in turns: none is left alone on the cores at the end.
            latencies += pool.map(one, range(math.ceil(count / streams) * streams))
        return len(latencies) * len(sar) / (time.perf_counter() - began), latencies


@contextmanager
def _opened(way: Way, settings: Settings) -> Iterator[tuple[Callable[[NDArray[np.float32]], object], int]]:
    """Give what runs a batch, and how many batches may be in flight."""
    if way.kind == "seed":
        yield _seed(way.file, settings), 1
        return
    if way.kind != "engine":
        with resident.opened(way.file, way.kind, way.precision, way.batch) as run:
            yield run, 1
        return
    precision: Precision = way.precision  # type: ignore[assignment]
    options = EngineOptions(
        device=settings.device, precision=precision, threads=settings.threads, batch=way.batch
    )  # fmt: skip
    # Without the run that `open_engine` tries an engine out with: the first one has a figure of its own here.
    with import_module(f"sar2optical.engines.{way.backend}").open(way.file, options) as engine:
        yield engine.run, engine.streams


def _seed(checkpoint: Path, settings: Settings) -> Callable[[NDArray[np.float32]], object]:
    """The seed's loop: three equal channels, no folding, a batch of one, eager, contiguous, back to the CPU."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    generator, _ = load_generator(checkpoint)
    generator.to(settings.device)
    torch.set_num_threads(settings.threads or default_threads())

    def run(sar: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            given = torch.from_numpy(sar).expand(-1, 3, -1, -1).to(settings.device)
            made: NDArray[np.float32] = generator(given).cpu().numpy()
            return made

    return run


def _images(run: Callable[[NDArray[np.float32]], Any], settings: Settings, batch: int) -> NDArray[np.float32]:
    sar = settings.windows(max(batch, _SCORED))
    return np.concatenate([run(sar[k : k + batch]) for k in range(0, _SCORED, batch)])[:_SCORED]


def _windows(folder: Path, chips: Path | None) -> NDArray[np.float32]:
    """Take windows from real chips, or from a scene that is made here."""
    from export.verify import chips_from

    if chips is None:
        chips = folder / "scene.tif"
        write_scene(chips, SimulatedScene(height=4 * _SIDE, width=4 * _SIDE, border=False))
    with open_engine(bundled(), backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        signature = engine.signature
    return np.resize(chips_from(chips, signature, most=_SCORED), (_SCORED, 1, _SIDE, _SIDE))


def _files(
    folder: Path, base_channels: int | None, sar: NDArray[np.float32], chips: Path, device: str
) -> dict[str, Path]:
    """Make, or find, the files that are compared, by what tells them apart; seed and torch are checkpoints."""
    from export.build import ExportOptions, export

    def made(name: str, **options: Any) -> Path:
        say(f"exporting {name}")
        return export(files["torch"], folder / f"{name}.onnx", ExportOptions(verify_with=chips, **options)).out

    if base_channels is None:
        files = {
            "seed": bundled_checkpoint(folder / "seed.pth", channels=3),
            "torch": bundled_checkpoint(folder / "torch.pth"),
            **variants(bundled()),
        }
    else:
        checkpoint = fresh_checkpoint(folder / "seed.pth", base_channels, sar)
        files = {"seed": checkpoint, "torch": checkpoint}
        files["fp32"] = made("fp32")
        files["int8"] = made("int8", precision="int8", calibration=chips, min_psnr=30.0)
    for precision in ("fp16", "bf16") if device == "cuda" else ():
        try:
            files[precision] = made(precision, precision=precision)
        except Sar2OpticalError as error:
            say(f"left out: files in {precision} ({error})")
    return files


def _ways(files: Mapping[str, Path], device: str, batches: Iterable[int], *, compiled: bool) -> list[Way]:
    """List what there is to try here; what does not open is a row that says so."""
    from sar2optical.training.networks import choose_precision

    batches = list(batches)
    backends: dict[str, list[str]] = (
        {"onnxruntime": ["fp32", "fp16", "bf16", "int8"], "pytorch": ["fp32", "fp16", "bf16"]}
        if device == "cuda"
        else {"onnxruntime": ["fp32", "int8"], "openvino": ["fp32", "bf16", "int8"], "pytorch": ["fp32", "bf16"]}
    )
    if device == "cpu" and choose_precision("auto", "cpu") != "bf16":  # PyTorch emulates it, many times slower
        backends["pytorch"].remove("bf16")

    def file_of(backend: str, precision: str) -> Path:
        if backend == "pytorch":
            return files["torch"]
        return files["fp32"] if backend == "openvino" and precision == "bf16" else files[precision]

    ways = [
        Way(backend=backend, precision=precision, file=file_of(backend, precision), batch=batch)
        for backend, precisions in backends.items()
        for precision in precisions
        for batch in batches
        if backend != "onnxruntime" or precision in files
    ]
    if device == "cuda":
        kinds = ["eager", "graph", *(["compiled"] if compiled else [])]
        ways += [
            Way(backend="pytorch", precision=precision, file=files["torch"], batch=batch, kind=kind)
            for kind in kinds
            for precision in ("fp32", "bf16")
            for batch in batches
            if kind != "compiled" or (precision == "bf16" and batch in (batches[0], batches[-1]))
        ]
    return ways


def _images_of(samples: Mapping[Way, Sequence[Sample]], way: Way) -> NDArray[np.float32] | None:
    """Give a way's images. Those of the first in fp32, which every backend vouches for, are the reference."""
    return samples[way][0].images if way.kind == "engine" and way in samples else None


def _row(
    way: Way, samples: Sequence[Sample], trouble: str | None, reference: NDArray[np.float32] | None,
    limits: Mapping[str, float], work: Work,
) -> Row:  # fmt: skip
    labels: dict[str, Any] = {"backend": way.backend, "precision": way.precision, "batch": way.batch}
    if way.kind != "engine":
        labels |= {"way": way.kind, "transfers": "on" if way.kind == "seed" else "off"}
    if trouble or not samples:
        return Row(name=way.name, unit="windows/s", labels=labels, trouble=trouble or "not run")
    rates = tuple(sample.rate for sample in samples)
    rate = statistics.median(rates)
    taken = [1000 * seconds for sample in samples for seconds in sample.latencies]
    limit = limits.get(product_name(way.precision))
    parity = _parity(samples[0].images, reference)
    figures = {
        "mpx_per_s": rate * _SIDE**2 / 1e6,
        "latency_ms": {name: float(np.percentile(taken, q)) for name, q in _PERCENTILES.items()},
        "runs": len(taken),
        "streams": samples[0].streams,
        "load_s": statistics.median(sample.load_s for sample in samples),
        "first_ms": 1000 * statistics.median(sample.first_s for sample in samples),
        "memory_mb": max(sample.memory for sample in samples) / 1e6,
        "share_of_matmul": rate * work.flop / (limit * 1e12) if limit else None,
        "share_of_copy": rate * work.least_bytes(way.precision, way.batch) / (limits[COPY] * 1e9),
        **parity,
    }
    lowest = parity.get("psnr_min_db", _EQUAL)
    trouble = f"parity failed: {lowest:.0f} dB, at least {_FLOOR:.0f} expected" if lowest < _FLOOR else None
    return Row(name=way.name, unit="windows/s", samples=rates, labels=labels, figures=figures, trouble=trouble)


def _parity(images: NDArray[np.float32] | None, reference: NDArray[np.float32] | None) -> dict[str, float]:
    """Compare images with those in fp32, on [-1, 1]; nothing where there are none, or they are the same ones."""
    if images is None or reference is None or images is reference:
        return {}
    pairs = list(zip(reference, images, strict=True))
    found = [psnr(expected, image, data_range=2) for expected, image in pairs]
    alike = [ssim(expected, image, data_range=2) for expected, image in pairs]
    # Images that are equal bit by bit have no finite figure.
    figures = {"psnr_db": float(np.mean(found)), "psnr_min_db": min(found), "ssim": float(np.mean(alike))}
    return {name: min(value, _EQUAL) for name, value in figures.items()}


def _memory(device: str, *, peak: bool = False) -> int:
    if device == "cpu":
        return peak_bytes() if peak else resident_bytes()
    import torch

    if not peak:
        torch.cuda.empty_cache()  # what earlier candidates held
    free, total = torch.cuda.mem_get_info()
    return total - free


def report(record: Record) -> str:
    """Lay the record out for a terminal."""
    head = ["engine", "windows/s", "against the first", "p99, ms", "MB", "PSNR, dB", "of ceiling"]
    rows = [head]
    for row in record.rows:
        found = row.figures
        latency = found.get("latency_ms", {}).get("p99")
        cells = (latency, found.get("memory_mb"), found.get("psnr_db"))
        share = found.get("share_of_matmul")
        rows.append(
            [row.name, *ratio_cells(record, row), *("-" if x is None else f"{x:.1f}" for x in cells),
             "-" if share is None else f"{share:.0%}"]
        )  # fmt: skip
    limits = "; ".join(f"{name} {value:.3g}" for name, value in record.ceilings.items())
    return f"{table(rows)}\nceilings: {limits}"
