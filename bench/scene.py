"""Whole scenes of growing size, against what the disk and the engine allow, and against simpler ways."""

from __future__ import annotations

import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from bench.generators import bundled_checkpoint, default_engine
from bench.harness import (
    Figure,
    Record,
    Row,
    device_option,
    here,
    in_a_process,
    in_words,
    json_option,
    median,
    quick_option,
    rounds_option,
    save,
    say,
    table,
    threads_option,
)
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines import EngineOptions, Precision
from sar2optical.engines.autotune import open_model, windows_per_second
from sar2optical.engines.base import default_threads
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import Sar2OpticalError
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.pipeline.stream import STAGES
from sar2optical.scene.raster import GDAL_CACHE_BYTES
from sar2optical.testing import SimulatedScene, write_scene
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

Size = tuple[int, int]
"""Height and width."""

SIZES: tuple[Size, ...] = ((2048, 2048), (4096, 4096), (8192, 8192), (16700, 25000))
_SLOW_UP_TO = 8192 * 8192
"""Pixels that the ways without any overlap of stages are run over; they take minutes beyond, and nothing changes."""
_WINDOW = 256
_EVERY = 0.25
"""Seconds between two looks at the memory."""
_ENGINE_SECONDS = 2.0
"""That the engine alone runs for, at least."""
_GREY = 255

OURS = "ours"
ENGINE = "engine only"
NO_ENGINE = "ours, a generator that does nothing"
COPY = "plain copy of the raster"
PLAIN = "plain rasterio loop, no blending, ONNX Runtime fp32 on the CPU"
SEED = "the seed's way"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One way over one scene; travels to a process of its own."""

    way: str
    scene: Path
    out: Path
    model: Path | None
    options: TranslateOptions
    seed: Path
    """Checkpoint of three channels."""
    seconds: float
    """That the engine alone runs for, at least."""

    @property
    def threads(self) -> int:
        """Of a CPU."""
        return self.options.engine.threads or default_threads()


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What it took."""

    seconds: float
    peak: int
    """Bytes."""
    windows: int = 0
    """That went through a generator."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    memory: Sequence[tuple[float, float]] = ()
    """Seconds since the start, MB."""


def _size(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[Size, ...]:
    sizes = [re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text) for text in given]
    if None in sizes:
        raise click.BadParameter("give HEIGHTxWIDTH, as in 4096x4096")
    return tuple((int(size[1]), int(size[2])) for size in sizes if size)


def _known_ways(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in given if name not in WAYS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of: {'; '.join(WAYS)}")
    return given


@click.command("scene")
@click.option("--size", "sizes", multiple=True, callback=_size, metavar="HEIGHTxWIDTH", help="Of simulated scenes.")
@click.option("--way", "ways", multiple=True, callback=_known_ways, help="Only these.  [all]")
@click.option("--model", type=click.Path(path_type=Path), help="The bundled generator where not given.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep scenes here, and take those that are here.")
@device_option
@threads_option
@rounds_option
@quick_option
@json_option
def main(
    sizes: tuple[Size, ...], ways: tuple[str, ...], model: Path | None, precision: Precision,
    batch_size: int, folder: Path | None, device: str, threads: int | None, rounds: int, quick: bool,
    out: Path | None,
) -> None:  # fmt: skip
    """Translate scenes end to end, taking turns with simpler ways; each in a process of its own."""
    engine = EngineOptions(device=device, precision=precision, threads=threads, batch=batch_size)
    if quick:
        sizes, rounds = sizes or ((256, 512), (512, 512)), 1
    with tempfile.TemporaryDirectory() as temporary:
        record = measured(
            folder or Path(temporary), sizes or SIZES, ways or tuple(WAYS), model, engine,
            rounds=rounds, apart=not quick,
        )  # fmt: skip
    click.echo(report(record))
    save(record, out)


def measured(
    folder: Path, sizes: Sequence[Size], ways: Sequence[str], model: Path | None, engine: EngineOptions,
    *, rounds: int, apart: bool = True,
) -> Record:  # fmt: skip
    """Run the bench; see the command's options. `apart` has each in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = bundled_checkpoint(folder / "seed.pth", channels=3)
    if model is None and engine.device == "cuda":  # where PyTorch has every precision
        model = bundled_checkpoint(folder / "bundled.pth")
    options = TranslateOptions(engine=engine, overwrite=True, restart=True)
    if model is None and engine.device == "cpu" and apart:
        default_engine(engine)  # chosen before any clock runs
    taken: dict[tuple[str, Size], list[Taken]] = {}
    trouble: dict[tuple[str, Size], str] = {}
    scenes = {size: _scene(folder, size) for size in sizes}
    for number in range(rounds):
        for size, way in product(sizes, ways):
            if way in (PLAIN, SEED) and math.prod(size) > _SLOW_UP_TO:
                trouble[way, size] = f"not run over more than {_SLOW_UP_TO / 1e6:.0f} Mpx: it would take minutes"
            task = Task(
                way=way, scene=scenes[size], out=folder / "mosaic.tif", model=model, options=options, seed=seed,
                seconds=_ENGINE_SECONDS if apart else 0.0,
            )  # fmt: skip
            if (way, size) in trouble:
                continue
            try:
                found: Taken = (in_a_process if apart else here)(run, task)
            except (Sar2OpticalError, RuntimeError, MemoryError, OSError, BrokenProcessPool) as error:
                trouble[way, size] = in_words(error)
                say(f"left out: {size[1]} x {size[0]}, {way} ({trouble[way, size]})")
                continue
            taken.setdefault((way, size), []).append(found)
            say(f"round {number + 1}/{rounds}: {size[1]} x {size[0]}, {way}: {found.seconds:.1f} s")
    rows = [_row(way, size, taken, trouble.get((way, size))) for size, way in product(sizes, ways)]
    ours = next((t for (way, _), many in taken.items() if way == OURS for t in many), None)
    return Record(
        bench="scene",
        rows=tuple(rows),
        settings={
            "engine": ours.figures["engine"] if ours else "",
            "device": engine.device,
            "batch": engine.batch,
            "threads": engine.threads or default_threads(),
            "overlap": options.overlap,
            "rounds": rounds,
        },
        series={
            "memory": {_name(way, size): [list(x) for x in many[-1].memory] for (way, size), many in taken.items()},
            "growth_exponent": _growth(taken, ways),
        },
    )


def _scene(folder: Path, size: Size) -> Path:
    path = folder / f"scene-{size[0]}x{size[1]}.tif"
    if not path.exists():
        say(f"simulating {path.name}")
        write_scene(path, SimulatedScene(height=size[0], width=size[1], border=False))
    return path


def run(task: Task) -> Taken:
    """Go one way over one scene."""
    before = resident_bytes()
    with memory_over_time() as memory:
        found = WAYS[task.way](task)
    return replace(found, memory=tuple(memory), figures={**found.figures, "memory_before_mb": before / 1e6})


@contextmanager
def memory_over_time() -> Iterator[list[tuple[float, float]]]:
    """Look at this process's memory now and then: (seconds since the start, MB)."""
    series: list[tuple[float, float]] = []
    done = threading.Event()
    began = time.perf_counter()

    def look() -> None:
        while not done.wait(_EVERY):
            series.append((round(time.perf_counter() - began, 2), round(resident_bytes() / 1e6, 1)))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield series
    finally:
        done.set()
        watch.join()


def _ours(task: Task) -> Taken:
    """As `sar2opt-scene` does it."""
    found = translate(task.scene, task.out, model=task.model, options=task.options)
    return Taken(
        seconds=found.seconds,
        peak=found.peak_memory,
        windows=found.windows_run,
        figures={
            "engine": found.engine,
            "seconds_windows": found.seconds_windows,
            "seconds_mosaic": found.seconds_mosaic,
            "stage_seconds": dict(found.busy),
            "idle": dict(found.idle),
        },
    )


def _without_an_engine(task: Task) -> Taken:
    """The same with a generator of one 1 x 1 convolution: what everything but the engine takes."""
    model = task.out.with_name("nothing.onnx")
    _write_identity(model)
    engine = EngineOptions(device="cpu", threads=task.options.engine.threads)
    options = replace(task.options, engine=engine, backend="onnxruntime")
    return _ours(replace(task, model=model, options=options))


def _write_identity(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    given = onnx.load(str(bundled()))
    kept = {entry.key: entry.value for entry in given.metadata_props if entry.key.endswith("signature")}
    sides: list[list[str | int | None]] = [["N", 1, _WINDOW, _WINDOW], ["N", 3, _WINDOW, _WINDOW]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["sar", "ones"], ["optical"])],
        "nothing",
        [helper.make_tensor_value_info("sar", TensorProto.FLOAT, sides[0])],
        [helper.make_tensor_value_info("optical", TensorProto.FLOAT, sides[1])],
        [numpy_helper.from_array(np.ones((3, 1, 1, 1), np.float32), "ones")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, kept)
    onnx.save(model, str(path))


def _engine_alone(task: Task) -> Taken:
    """As many windows as the scene has, at the rate of an engine that has nothing else to wait for."""
    options = task.options.engine
    files = {"reference": task.model} if task.model else variants(bundled())
    engine, _ = open_model(files, options=options)
    with engine:
        side, channels = engine.signature.window, engine.signature.channels
        count = 4 * engine.batch * engine.streams
        sar = np.random.default_rng(1).random((count, channels, side, side), np.float32)
        windows_per_second(engine, sar)
        times = [count / windows_per_second(engine, sar)]
        while sum(times) < task.seconds:
            times.append(count / windows_per_second(engine, sar))
    return Taken(seconds=sum(times), peak=peak_bytes() - sar.nbytes, windows=count * len(times))


def _plain_copy(task: Task) -> Taken:
    """Read the raster and write it again, by rows of blocks, compressed as the scene is."""
    began = time.perf_counter()
    with (
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES),
        rasterio.open(task.scene) as source,
        rasterio.open(task.out, "w", **source.profile) as target,
    ):
        step = source.block_shapes[0][0]
        for top in range(0, source.height, step):
            window = Window(0, top, source.width, min(step, source.height - top))
            target.write(source.read(window=window), window=window)
    return Taken(seconds=time.perf_counter() - began, peak=peak_bytes())


def _plain_loop(task: Task) -> Taken:
    """Read a window, run ONNX Runtime as it comes in fp32 on it, write it; stretched over the whole scene before."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(str(bundled()), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    began, count = time.perf_counter(), 0
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), rasterio.open(task.scene) as source:
        top = np.percentile(source.read(1, out_shape=(min(source.height, 2048), min(source.width, 2048))), 99)
        with rasterio.open(task.out, "w", **_profile(source.profile)) as target:
            for window in _tiles(source.shape):
                sar = _encoded(source.read(1, window=window, boundless=True, fill_value=0), float(top))
                target.write(_bytes(session.run(None, {name: sar})[0][0], window), window=window)
                count += 1
    return Taken(seconds=time.perf_counter() - began, peak=peak_bytes(), windows=count)


def _seeds_way(task: Task) -> Taken:
    """The whole scene in memory, three equal channels, PyTorch eager in fp32, one window after another."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    device = task.options.engine.device
    generator, _ = load_generator(task.seed)
    generator.to(device)
    torch.set_num_threads(task.threads)
    began, count = time.perf_counter(), 0
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), rasterio.open(task.scene) as source:
        scene = source.read(1)
        profile = _profile(source.profile)
    sar = _encoded(scene, float(np.percentile(scene, 99)))[0, 0]
    rgb = np.zeros((3, *sar.shape), np.uint8)
    with torch.no_grad():
        for window in _tiles(sar.shape):
            rows, cols = window.toslices()
            given = np.zeros((1, 1, _WINDOW, _WINDOW), np.float32)
            given[0, 0, : int(window.height), : int(window.width)] = sar[rows, cols]
            made = generator(torch.from_numpy(given).repeat(1, 3, 1, 1).to(device)).cpu().numpy()
            rgb[:, rows, cols] = _bytes(made[0], window)
            count += 1
    with rasterio.open(task.out, "w", **profile) as target:
        target.write(rgb)
    return Taken(seconds=time.perf_counter() - began, peak=peak_bytes(), windows=count)


def _tiles(shape: tuple[int, int]) -> Iterator[Window]:
    """Give windows side by side; the last ones are cut by the scene's edges."""
    height, width = shape
    for top, left in product(range(0, height, _WINDOW), range(0, width, _WINDOW)):
        yield Window(left, top, min(_WINDOW, width - left), min(_WINDOW, height - top))


def _encoded(dn: NDArray[Any], top: float) -> NDArray[np.float32]:
    """Stretch amplitudes from 0 to `top` over [-1, 1], padded to a window: float32 (1, 1, H, W)."""
    missing = [(0, max(0, _WINDOW - n)) for n in dn.shape]
    share = np.clip(np.pad(dn, missing).astype(np.float32) / max(top, 1e-6), 0, 1)
    sar: NDArray[np.float32] = 2 * share - 1
    return sar[None, None]


def _bytes(image: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    cut = image[:, : int(window.height), : int(window.width)]
    grey: NDArray[np.uint8] = np.round((cut + 1) / 2 * _GREY).astype(np.uint8)
    return grey


def _profile(scene: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: scene[key] for key in ("height", "width", "crs", "transform")}
    return {
        **kept, "driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": _WINDOW,
        "blockysize": _WINDOW, "compress": "deflate", "zlevel": 1, "photometric": "rgb",
    }  # fmt: skip


WAYS: dict[str, Callable[[Task], Taken]] = {
    ENGINE: _engine_alone,
    OURS: _ours,
    NO_ENGINE: _without_an_engine,
    COPY: _plain_copy,
    PLAIN: _plain_loop,
    SEED: _seeds_way,
}
"""In the order of the report; the engine first, for it is what the others of a size are compared with."""


def _name(way: str, size: Size) -> str:
    return f"{size[1]} x {size[0]}, {way}"


def _row(
    way: str, size: Size, all_taken: Mapping[tuple[str, Size], Sequence[Taken]], trouble: str | None
) -> Row:  # fmt: skip
    taken, engine = (all_taken.get((name, size), []) for name in (way, ENGINE))
    labels: dict[str, Figure] = {"width": size[1], "height": size[0], "way": way, "base": _name(ENGINE, size)}
    if trouble or not taken:
        return Row(name=_name(way, size), unit="Mpx/s", labels=labels, trouble=trouble or "not run")
    seconds = [one.seconds for one in taken]
    if way == ENGINE:  # for all of the scene's windows: it has no pixel without data
        count = len(window_grid(size, _WINDOW, DEFAULT_OVERLAP))
        seconds = [one.seconds / one.windows * count for one in taken]
    megapixels = math.prod(size) / 1e6
    last = taken[-1]
    figures = {
        "seconds": median(seconds),
        "peak_memory_mb": max(one.peak for one in taken) / 1e6,
        "memory_above_engine_mb": _above(taken, engine) if way == OURS and engine else None,
        "windows": last.windows if way != ENGINE else None,
        **last.figures,
    }
    for name in ("seconds_windows", "seconds_mosaic"):
        if name in last.figures:
            figures[name] = median([one.figures[name] for one in taken])
    for name in ("stage_seconds", "idle"):
        if name in last.figures:
            figures[name] = {stage: median([one.figures[name][stage] for one in taken]) for stage in STAGES}
    samples = tuple(megapixels / s for s in seconds)
    return Row(name=_name(way, size), unit="Mpx/s", samples=samples, labels=labels, figures=figures)


def _above(taken: Sequence[Taken], engine: Sequence[Taken]) -> float:
    return (max(one.peak for one in taken) - max(one.peak for one in engine)) / 1e6


def _growth(taken: Mapping[tuple[str, Size], Sequence[Taken]], ways: Sequence[str]) -> dict[str, float]:
    """Fit time = c * area ** exponent, by least squares of the logarithms, for each way but the engine alone."""
    found = {}
    for way in ways:
        times = {math.prod(s): median([one.seconds for one in many]) for (w, s), many in taken.items() if w == way}
        if len(times) > 1 and way != ENGINE:
            found[way] = float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])
    return found


def report(record: Record) -> str:
    """Lay the record out for a terminal."""
    rows = [["scene", "s", "Mpx/s", "of the engine's rate", "peak, MB", "waiting: " + " ".join(STAGES)]]
    for row in record.rows:
        if not row.samples:
            rows.append([row.name, "-", "-", row.trouble or "", "-", "-"])
            continue
        doubt, ratio = record.verdict(row), record.ratio(row)
        share = doubt if doubt or ratio is None else f"{ratio.value:.3g}"
        idle = row.figures.get("idle")
        waits = "  ".join(f"{share:.0%}" for share in idle.values()) if idle else "-"
        rows.append(
            [row.name, f"{row.figures['seconds']:.1f}", f"{median(row.samples):.2f}", share or "-",
             f"{row.figures['peak_memory_mb']:.0f}", waits]
        )  # fmt: skip
    growth = ", ".join(f"{way} {value:.2f}" for way, value in record.series["growth_exponent"].items())
    return f"{record.settings['engine']}\n{table(rows)}\ntime grows as area to the power of: {growth}"
