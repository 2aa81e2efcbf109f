"""Candidates of `bench engines`: their files, and how each runs a batch of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import resident
from bench.generators import bundled_checkpoint, fresh_checkpoint
from bench.harness import say
from sar2optical.engines import EngineOptions, Precision, open_engine
from sar2optical.engines.base import default_threads
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import Sar2OpticalError
from sar2optical.testing import SimulatedScene, write_scene

REFERENCE = "reference baseline: PyTorch eager, one window after another"
SIDE = 256
"""Side of a window, in pixels."""
SCORED = 16
"""Number of windows for PSNR and SSIM."""

Run = Callable[[NDArray[np.float32]], object]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine, its file and its batch size."""

    backend: str
    precision: str
    file: Path
    batch: int = 1
    kind: str = "engine"
    """engine: as the package runs it; seed: the reference baseline; eager, graph or compiled: PyTorch on windows that
    are on the GPU."""

    @property
    def name(self) -> str:
        """Name of the row."""
        if self.kind == "seed":
            return REFERENCE
        suffix = "" if self.kind == "engine" else f", {self.kind}, no transfers"
        return f"{self.backend} {self.precision}, batch {self.batch}{suffix}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all candidates share; passed to their processes."""

    device: str
    threads: int | None
    """CPU threads; all cores where None."""
    seconds: float
    """Least duration of each candidate in each round."""
    iterations: int
    """Least number of runs of each candidate in each round."""
    sar: Path
    """Windows as a .npy file: float32 (N, 1, 256, 256) in [-1, 1]."""

    def windows(self, count: int) -> NDArray[np.float32]:
        """Return `count` windows, repeated if there are fewer."""
        stored = np.load(self.sar)
        return np.resize(stored, (count, *stored.shape[1:]))


def candidates(
    files: Mapping[str, Path], device: str, batches: Sequence[int], *, compiled: bool
) -> tuple[Candidate, ...]:
    """List the candidates of a device; those that do not open become rows with the reason."""
    from sar2optical.training.networks import choose_precision

    if device == "cuda":
        backends = {"onnxruntime": ["fp32", "fp16", "bf16", "int8"], "pytorch": ["fp32", "fp16", "bf16"]}
    else:
        native = ["bf16"] if choose_precision("auto", "cpu") == "bf16" else []  # else emulated, many times slower
        backends = {
            "onnxruntime": ["fp32", "int8"],
            "openvino": ["fp32", "bf16", "int8"],
            "pytorch": ["fp32", *native],
        }

    def file_of(backend: str, precision: str) -> Path:
        if backend == "pytorch":
            return files["torch"]
        return files["fp32"] if backend == "openvino" and precision == "bf16" else files[precision]

    found = [
        Candidate(backend=backend, precision=precision, file=file_of(backend, precision), batch=batch)
        for backend, precisions in backends.items()
        for precision in precisions
        for batch in batches
        if backend != "onnxruntime" or precision in files
    ]
    if device == "cuda":
        found += [
            Candidate(backend="pytorch", precision=precision, file=files["torch"], batch=batch, kind=kind)
            for kind in ("eager", "graph", *(["compiled"] if compiled else []))
            for precision in ("fp32", "bf16")
            for batch in batches
            if kind != "compiled" or (precision == "bf16" and batch in (batches[0], batches[-1]))
        ]
    return tuple(found)


def chip_windows(chips: Path, *, simulate: bool) -> NDArray[np.float32]:
    """Return the windows for PSNR: float32 (16, 1, 256, 256) of chips, or of a scene that `simulate` writes there."""
    from export.verify import chips_from

    if simulate:
        write_scene(chips, SimulatedScene(height=4 * SIDE, width=4 * SIDE, border=False))
    with open_engine(bundled(), backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        signature = engine.signature
    return np.resize(chips_from(chips, signature, most=SCORED), (SCORED, 1, SIDE, SIDE))


def engine_files(
    folder: Path, base_channels: int | None, sar: NDArray[np.float32], chips: Path, device: str
) -> dict[str, Path]:
    """Return the engine files by precision; `seed` and `torch` are checkpoints with three channels and one.

    Missing files are exported into `folder`. `base_channels` None: files of the bundled generator.
    """
    from export.build import ExportOptions, export

    def exported(name: str, **options: Any) -> Path:
        say(f"exporting {name}")
        return export(
            files["torch"], folder / f"{name}.onnx", ExportOptions(verify_with=chips, windows=(), **options)
        ).out

    if base_channels is None:
        files = {
            "seed": bundled_checkpoint(folder / "seed.pth", channels=3),
            "torch": bundled_checkpoint(folder / "torch.pth"),
            **variants(bundled()),
        }
    else:
        checkpoint = fresh_checkpoint(folder / "seed.pth", base_channels, sar)
        files = {"seed": checkpoint, "torch": checkpoint}
        files["fp32"] = exported("fp32")
        files["int8"] = exported("int8", precision="int8", calibration=chips, min_psnr=30.0)
    for precision in ("fp16", "bf16") if device == "cuda" else ():
        try:
            files[precision] = exported(precision, precision=precision)
        except Sar2OpticalError as error:
            say(f"left out: {precision} files ({error})")
    return files


@contextmanager
def opened(candidate: Candidate, settings: Settings) -> Iterator[tuple[Run, int]]:
    """Yield a function that runs a batch, and how many batches may run at once."""
    if candidate.kind == "seed":
        yield _reference(candidate.file, settings), 1
    elif candidate.kind != "engine":
        with resident.opened(candidate.file, candidate.kind, candidate.precision, candidate.batch) as run:
            yield run, 1
    else:
        precision: Precision = candidate.precision  # type: ignore[assignment]
        options = EngineOptions(
            device=settings.device, precision=precision, threads=settings.threads, batch=candidate.batch
        )
        # Not `open_engine`: it runs the engine once, and the first run has a figure of its own.
        with import_module(f"sar2optical.engines.{candidate.backend}").open(candidate.file, options) as engine:
            yield engine.run, engine.streams


def _reference(checkpoint: Path, settings: Settings) -> Run:
    """Return the reference baseline: three equal channels, nothing folded, eager, contiguous, back to the CPU."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    generator, _ = load_generator(checkpoint)
    generator.to(settings.device)
    torch.set_num_threads(settings.threads or default_threads())

    def run(sar: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            batch = torch.from_numpy(sar).expand(-1, 3, -1, -1).to(settings.device)
            images: NDArray[np.float32] = generator(batch).cpu().numpy()
            return images

    return run
