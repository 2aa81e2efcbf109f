"""Methods of `bench scene`: the package, the engine alone, and simpler programs, each over one scene."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from bench.generators import one_node_model
from bench.stages import as_figures, metered, stages_of
from sar2optical._utils.memory import peak_bytes, resident_bytes
from sar2optical.engines import Engine, EngineOptions
from sar2optical.engines.autotune import open_model, windows_per_second
from sar2optical.engines.base import default_threads
from sar2optical.engines.registry import bundled, variants
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.raster import GDAL_CACHE_BYTES

WINDOW = 256
_MEMORY_PERIOD = 0.25  # seconds between two readings
_GREY = 255
_QUEUED = 8
"""Batches that are queued for a device before it is waited for."""

OURS = "ours"
ENGINE = "engine only"
IDENTITY = "ours, identity generator"
COPY = "plain copy of the raster"
PLAIN = "plain rasterio loop, no blending, ONNX Runtime fp32 on the CPU"
REFERENCE = "reference baseline"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One method over one scene; passed to a process of its own."""

    method: str
    scene: Path
    out: Path
    model: Path | None
    """Engine file; the bundled generator where None."""
    options: TranslateOptions
    checkpoint: Path
    """Checkpoint of the reference baseline, with three input channels."""
    seconds: float
    """Least duration of the engine alone."""

    @property
    def threads(self) -> int:
        """Number of CPU threads."""
        return self.options.engine.threads or default_threads()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measurements of a method over a scene."""

    seconds: float
    peak: int
    """Peak memory in bytes."""
    windows: int = 0
    """Number of windows that the generator ran on."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    memory: Sequence[tuple[float, float]] = ()
    """Memory over time: seconds since the start, MB."""

    def __str__(self) -> str:
        """Return the duration, for progress lines."""
        return f"{self.seconds:.1f} s"


def run(task: Task) -> Sample:
    """Run a method over a scene and record its memory."""
    before = resident_bytes()
    with _memory_over_time() as memory:
        found = METHODS[task.method](task)
    return replace(found, memory=tuple(memory), figures={**found.figures, "memory_before_mb": before / 1e6})


@contextmanager
def _memory_over_time() -> Iterator[list[tuple[float, float]]]:
    """Record this process's memory periodically: seconds since the start, MB."""
    series: list[tuple[float, float]] = []
    done = threading.Event()
    began = time.perf_counter()

    def record() -> None:
        while not done.wait(_MEMORY_PERIOD):
            series.append((round(time.perf_counter() - began, 2), round(resident_bytes() / 1e6, 1)))

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield series
    finally:
        done.set()
        thread.join()


def _ours(task: Task) -> Sample:
    """Translate as `sar2opt-scene` does."""
    with metered() as meter:
        found = translate(task.scene, task.out, model=task.model, options=task.options)
    stages = stages_of(found, meter, task.out, threads=task.threads)
    return Sample(
        seconds=found.seconds,
        peak=found.peak_memory,
        windows=found.windows_run,
        figures={
            "engine": found.engine,
            "seconds_windows": found.seconds_windows,
            "seconds_mosaic": found.seconds_mosaic,
            "stage_seconds": dict(found.busy),
            "idle": dict(found.idle),
            "gpu_busy": found.gpu_busy,
            "moved": list(found.moved),
            "stages": as_figures(stages),
            "stages_seconds": found.seconds,
        },
    )


def _identity(task: Task) -> Sample:
    """Translate with a generator of one 1 x 1 convolution: the cost of everything but the engine."""
    model = task.out.with_name("identity.onnx")
    write_identity(model)
    engine = EngineOptions(device="cpu", threads=task.options.engine.threads)
    options = replace(task.options, engine=engine)
    return _ours(replace(task, model=model, options=options))


def write_identity(path: Path) -> None:
    """Write a generator of one 1 x 1 convolution, which copies the band to all colours."""
    import onnx

    source = onnx.load(str(bundled()))
    signature = {entry.key: entry.value for entry in source.metadata_props if entry.key.endswith("signature")}
    sides = ["N", 1, "H", "W"], ["N", 3, "H", "W"]
    kinds = (onnx.TensorProto.FLOAT,) * 2
    model = one_node_model("Conv", ("sar", "optical"), kinds, sides, np.ones((3, 1, 1, 1), np.float32))
    onnx.helper.set_model_props(model, signature)
    onnx.save(model, str(path))


def _engine_alone(task: Task) -> Sample:
    """Run the engine on random windows for `task.seconds`, with nothing else to wait for."""
    options = task.options.engine
    files = {"reference": task.model} if task.model else variants(bundled())
    engine, _ = open_model(files, backend=task.options.backend, options=options)
    with engine:
        engine.use_window(task.options.window or engine.signature.default_window)
        side, channels = engine.window, engine.signature.channels
        count = 4 * engine.batch * engine.streams
        sar = np.random.default_rng(1).random((count, channels, side, side), np.float32)
        windows_per_second(engine, sar)
        times = [count / windows_per_second(engine, sar)]
        while sum(times) < task.seconds:
            times.append(count / windows_per_second(engine, sar))
        peak = peak_bytes() - sar.nbytes
        figures = {"window": side, "seconds_on_device": _seconds_on_device(engine, sar[: engine.batch], task.seconds)}
    return Sample(seconds=sum(times), peak=peak, windows=count * len(times), figures=figures)


def _seconds_on_device(engine: Engine, sar: NDArray[np.float32], seconds: float) -> float | None:
    """Return the seconds per window of an engine on tensors that stay on its device; None if it takes none."""
    device = getattr(engine, "tensor_device", None)
    if device is None:
        return None
    import torch

    from sar2optical.engines.tensors import TensorEngine

    assert isinstance(engine, TensorEngine)
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with torch.inference_mode():
        windows, count = torch.from_numpy(sar).to(device), 0
        engine.run_tensors(windows)
        wait()
        began = time.perf_counter()
        while count == 0 or time.perf_counter() - began < seconds:
            for _ in range(_QUEUED):
                engine.run_tensors(windows)
            wait()
            count += _QUEUED * len(windows)
        return (time.perf_counter() - began) / count


def _plain_copy(task: Task) -> Sample:
    """Copy the raster by rows of blocks, with the scene's compression."""
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
    return Sample(seconds=time.perf_counter() - began, peak=peak_bytes())


def _plain_loop(task: Task) -> Sample:
    """Read, run and write one window after another with rasterio and ONNX Runtime in fp32, default settings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(str(bundled()), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    began, count = time.perf_counter(), 0
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), rasterio.open(task.scene) as source:
        top = np.percentile(source.read(1, out_shape=(min(source.height, 2048), min(source.width, 2048))), 99)
        with rasterio.open(task.out, "w", **_profile(source.profile)) as target:
            for window in _windows(source.shape):
                sar = _encoded(source.read(1, window=window, boundless=True, fill_value=0), float(top))
                target.write(_bytes(session.run(None, {name: sar})[0][0], window), window=window)
                count += 1
    return Sample(seconds=time.perf_counter() - began, peak=peak_bytes(), windows=count)


def _reference(task: Task) -> Sample:
    """Hold the whole scene in memory, repeat the band three times, run PyTorch eager in fp32 window by window."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    device = task.options.engine.device
    generator, _ = load_generator(task.checkpoint)
    generator.to(device)
    torch.set_num_threads(task.threads)
    began, count = time.perf_counter(), 0
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), rasterio.open(task.scene) as source:
        scene = source.read(1)
        profile = _profile(source.profile)
    sar = _encoded(scene, float(np.percentile(scene, 99)))[0, 0]
    rgb = np.zeros((3, *sar.shape), np.uint8)
    with torch.no_grad():
        for window in _windows(sar.shape):
            rows, cols = window.toslices()
            padded = np.zeros((1, 1, WINDOW, WINDOW), np.float32)
            padded[0, 0, : int(window.height), : int(window.width)] = sar[rows, cols]
            image = generator(torch.from_numpy(padded).repeat(1, 3, 1, 1).to(device)).cpu().numpy()
            rgb[:, rows, cols] = _bytes(image[0], window)
            count += 1
    with rasterio.open(task.out, "w", **profile) as target:
        target.write(rgb)
    return Sample(seconds=time.perf_counter() - began, peak=peak_bytes(), windows=count)


def _windows(shape: tuple[int, int]) -> Iterator[Window]:
    """Yield windows side by side; the scene's edges cut the last ones."""
    height, width = shape
    for top, left in product(range(0, height, WINDOW), range(0, width, WINDOW)):
        yield Window(left, top, min(WINDOW, width - left), min(WINDOW, height - top))


def _encoded(dn: NDArray[Any], top: float) -> NDArray[np.float32]:
    """Stretch amplitudes from [0, top] to [-1, 1], padded to a window: float32 (1, 1, H, W)."""
    missing = [(0, max(0, WINDOW - n)) for n in dn.shape]
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
        **kept, "driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": WINDOW,
        "blockysize": WINDOW, "compress": "deflate", "zlevel": 1, "photometric": "rgb",
    }  # fmt: skip


METHODS: dict[str, Callable[[Task], Sample]] = {
    ENGINE: _engine_alone,
    OURS: _ours,
    IDENTITY: _identity,
    COPY: _plain_copy,
    PLAIN: _plain_loop,
    REFERENCE: _reference,
}
"""In the order of the table; the engine first, because rows of a size are compared with it."""
