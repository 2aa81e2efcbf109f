"""Windows per second of every engine, against the way the seed runs its generator."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness import interleaved, median, save, table
from sar2optical.engines import Engine, EngineOptions, Precision, open_engine
from sar2optical.engines.auto import windows_per_second
from sar2optical.errors import DeviceUnavailable
from sar2optical.metrics import psnr

SEED = "PyTorch eager fp32, one window after another"
_SCORED = 16
"""Windows that parity is measured on, at most."""


@click.command("engines")
@click.option("--base-channels", default=64, show_default=True, help="Width of the generator (fresh weights).")
@click.option(
    "--chips",
    type=click.Path(path_type=Path, exists=True),
    help="Real SAR chips (a folder) or a scene: batch norm's statistics and int8's ranges are taken from them, and "
    "parity is measured on them. Noise and no int8 where not given.",
)
@click.option("--windows", default=24, show_default=True, help="Per engine and round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", type=int, help="CPU threads; all where not given.")
@click.option("--batch-size", default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the raw figures.")
def main(
    base_channels: int,
    chips: Path | None,
    windows: int,
    rounds: int,
    threads: int | None,
    batch_size: int,
    device: str,
    out: Path | None,
) -> None:
    """Compare engines on one generator, taking turns."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        sar = _windows(chips, windows)
        checkpoint = _checkpoint(folder, base_channels, sar)
        files = _exported(checkpoint, chips)
        shared = EngineOptions(device=device, threads=threads, batch=batch_size)
        candidates: dict[str, Callable[[], float]] = {SEED: _seed_rate(checkpoint, sar, threads)}
        engines = {}
        for title, engine in _opened(checkpoint, files, shared):
            engines[title] = stack.enter_context(engine)
            candidates[title] = _rate_of(engine, sar)
        figures = interleaved(candidates, rounds)
        parity = _parity(engines, sar)
    click.echo(_report(figures, parity))
    record = {"base_channels": base_channels, "batch": batch_size, "device": device, "real_chips": chips is not None}
    save(out, "engines", {**record, "windows_per_second": figures, "psnr_db": parity})


def _windows(chips: Path | None, count: int) -> NDArray[np.float32]:
    """Take real windows, each as often as it takes; noise where there are none."""
    if chips is None:
        return np.random.default_rng(1).uniform(-1, 1, (count, 1, 256, 256)).astype(np.float32)
    from export.verify import chips_from
    from sar2optical.models.checkpoint import seed_signature

    return np.resize(chips_from(chips, seed_signature("seed", 1), most=count), (count, 1, 256, 256))


def _checkpoint(folder: Path, base_channels: int, sar: NDArray[np.float32]) -> Path:
    """Make a generator with fresh weights, whose batch norm has seen the windows: untrained, its signal dies out."""
    import torch

    from sar2optical.models.unet import GeneratorArguments, UNetGenerator

    torch.manual_seed(1)
    generator = UNetGenerator(GeneratorArguments(base_channels=base_channels))
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all that comes
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        generator(torch.from_numpy(sar[:16]).expand(-1, 3, -1, -1))
    checkpoint = folder / "generator.pth"
    torch.save(generator.state_dict(), checkpoint)
    return checkpoint


def _exported(checkpoint: Path, chips: Path | None) -> dict[str, Path]:
    """Export the files that are compared; by what tells them apart."""
    from export.build import ExportOptions, export

    def made(name: str, **options: object) -> Path:
        settings = ExportOptions(verify_with=chips, **options)  # type: ignore[arg-type]
        return export(checkpoint, checkpoint.with_name(f"{name}.onnx"), settings).out

    files = {"fp32": made("fp32")}
    if chips is not None:
        quantized = {"precision": "int8", "calibration": chips, "min_psnr": 30.0}
        files["int8"] = made("int8", **quantized, subpixel="off")
        files["int8, sub-pixel"] = made("int8-subpixel", **quantized, subpixel="on")
    return files


def _opened(checkpoint: Path, files: dict[str, Path], shared: EngineOptions) -> Iterator[tuple[str, Engine]]:
    """Open what runs here: each file in each backend, and the precisions that a backend makes by itself."""
    for backend, title, file, precision in _ways(checkpoint, files, shared.device):
        options = replace(shared, precision=precision)
        try:
            yield f"{backend} {title}", open_engine(file, backend=backend, options=options)
        except DeviceUnavailable as error:
            click.echo(f"left out: {backend} {title} ({error})", err=True)


def _ways(checkpoint: Path, files: dict[str, Path], device: str) -> list[tuple[str, str, Path, Precision]]:
    from sar2optical.training.networks import choose_precision

    backends = ("onnxruntime",) if device == "cuda" else ("onnxruntime", "openvino")
    ways: list[tuple[str, str, Path, Precision]] = [
        (backend, title, file, "fp32" if title == "fp32" else "auto")
        for title, file in files.items()
        for backend in backends
    ]
    if device == "cuda":
        lower: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
        return [*ways, *(("pytorch", precision, checkpoint, precision) for precision in lower)]
    ways.append(("openvino", "bf16", files["fp32"], "bf16"))
    if choose_precision("auto", "cpu") == "bf16":  # elsewhere it is emulated, many times slower
        ways.append(("pytorch", "bf16", checkpoint, "bf16"))
    return ways


def _seed_rate(checkpoint: Path, sar: NDArray[np.float32], threads: int | None) -> Callable[[], float]:
    """The seed's loop: three equal channels, no folding, a batch of one, eager, contiguous."""
    import torch

    from sar2optical.engines.base import default_threads
    from sar2optical.models.checkpoint import load_generator

    generator, _ = load_generator(checkpoint)
    windows = [torch.from_numpy(window[None].repeat(3, axis=1)) for window in sar]

    def measure() -> float:
        before = torch.get_num_threads()  # of an engine in PyTorch, which runs a thread for each window
        torch.set_num_threads(threads or default_threads())
        try:
            with torch.no_grad():
                generator(windows[0])
                began = time.perf_counter()
                for window in windows:
                    generator(window)
                return len(windows) / (time.perf_counter() - began)
        finally:
            torch.set_num_threads(before)

    return measure


def _rate_of(engine: Engine, sar: NDArray[np.float32]) -> Callable[[], float]:
    def measure() -> float:
        engine.run(sar[: engine.batch])
        return windows_per_second(engine, sar)

    return measure


def _parity(engines: dict[str, Engine], sar: NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    """Mean and lowest PSNR of windows against ONNX Runtime in fp32, in dB on [-1, 1]."""
    reference = engines["onnxruntime fp32"]
    windows = sar[:_SCORED]
    expected = [reference.run(window[None]) for window in windows]
    figures = {}
    for name, engine in engines.items():
        found = [psnr(e, engine.run(w[None]), data_range=2) for e, w in zip(expected, windows, strict=True)]
        figures[name] = (float(np.mean(found)), min(found))
    return figures


def _report(figures: dict[str, list[float]], parity: dict[str, tuple[float, float]]) -> str:
    base = median(figures[SEED])
    rows = [["engine", "windows/s", "against the first", "PSNR mean, dB", "lowest"]]
    for name, rates in figures.items():
        rate = median(rates)
        scores = [f"{score:.1f}" for score in parity[name]] if name in parity else ["-", "-"]
        rows.append([name, f"{rate:.1f}", f"{rate / base:.2f}", *scores])
    return table(rows)
