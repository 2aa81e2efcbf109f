"""Windows per second of every engine, against the way the seed runs its generator."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness import interleaved, median, save, table
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.auto import windows_per_second
from sar2optical.metrics import psnr

SEED = "PyTorch eager fp32, one window after another"


@click.command("engines")
@click.option("--base-channels", default=64, show_default=True, help="Width of the generator (random weights).")
@click.option("--windows", default=24, show_default=True, help="Per engine and round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", type=int, help="CPU threads; all where not given.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the raw figures.")
def main(base_channels: int, windows: int, rounds: int, threads: int | None, out: Path | None) -> None:
    """Compare engines on one generator, taking turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        checkpoint, exported = _models(Path(folder), base_channels)
        sar = np.random.default_rng(1).uniform(-1, 1, (windows, 1, 256, 256)).astype(np.float32)
        engines = {
            f"{backend} {precision}": stack.enter_context(
                open_engine(
                    exported,
                    backend=backend,
                    options=EngineOptions(device="cpu", precision=precision, threads=threads),  # type: ignore[arg-type]
                )
            )
            for backend, precision in _available(exported)
        }
        candidates: dict[str, Callable[[], float]] = {SEED: _seed_rate(checkpoint, sar, threads)}
        for name, engine in engines.items():
            candidates[name] = _rate_of(engine, sar)
        figures = interleaved(candidates, rounds)
        parity = _parity(engines, sar)
    click.echo(_report(figures, parity))
    save(out, "engines", {"base_channels": base_channels, "windows_per_second": figures, "psnr_db": parity})


def _models(folder: Path, base_channels: int) -> tuple[Path, Path]:
    import torch

    from export.build import export
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator

    torch.manual_seed(1)
    generator = UNetGenerator(GeneratorArguments(base_channels=base_channels)).eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.05, 0.2)  # untrained statistics would let the signal die out
    checkpoint = folder / "generator.pth"
    torch.save(generator.state_dict(), checkpoint)
    return checkpoint, export(checkpoint, folder / "generator.onnx").out


def _available(exported: Path) -> list[tuple[str, str]]:
    """Backends and precisions that run here."""
    found = [("onnxruntime", "fp32"), ("openvino", "fp32")]
    with open_engine(exported, backend="openvino") as engine:
        if engine.precision != "fp32":
            found.append(("openvino", engine.precision))
    return found


def _seed_rate(checkpoint: Path, sar: NDArray[np.float32], threads: int | None) -> Callable[[], float]:
    """The seed's loop: three equal channels, no folding, a batch of one, eager, contiguous."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    if threads:
        torch.set_num_threads(threads)
    generator, _ = load_generator(checkpoint)
    windows = [torch.from_numpy(window[None].repeat(3, axis=1)) for window in sar]

    def measure() -> float:
        with torch.no_grad():
            generator(windows[0])
            began = time.perf_counter()
            for window in windows:
                generator(window)
            return len(windows) / (time.perf_counter() - began)

    return measure


def _rate_of(engine: Engine, sar: NDArray[np.float32]) -> Callable[[], float]:
    def measure() -> float:
        engine.run(sar[: engine.batch])
        return windows_per_second(engine, sar)

    return measure


def _parity(engines: dict[str, Engine], sar: NDArray[np.float32]) -> dict[str, float]:
    """Lowest PSNR of a few windows against ONNX Runtime in fp32, in dB on [-1, 1]."""
    reference = next(engine for engine in engines.values() if engine.backend == "onnxruntime")
    expected = [reference.run(window[None]) for window in sar[:4]]
    return {
        name: min(psnr(e, engine.run(w[None]), data_range=2) for e, w in zip(expected, sar[:4], strict=True))
        for name, engine in engines.items()
    }


def _report(figures: dict[str, list[float]], parity: dict[str, float]) -> str:
    base = median(figures[SEED])
    rows = [["engine", "windows/s", "against the first", "PSNR, dB"]]
    for name, rates in figures.items():
        rate = median(rates)
        rows.append([name, f"{rate:.1f}", f"{rate / base:.2f}", f"{parity[name]:.1f}" if name in parity else "-"])
    return table(rows)
