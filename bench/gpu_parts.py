"""Parts of `bench gpu-check`, each of which returns an outcome."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from bench.harness import execute, one_line, say, take_turns
from bench.limits import limits
from bench.machine import this_machine, versions
from bench.methods import ENGINE, OURS, Sample, Task, run
from bench.stages import Stage, forced_device_path, slowest, stage_table, with_engine_alone
from sar2optical._utils.psnr import psnr
from sar2optical.engines import EngineOptions, Precision
from sar2optical.engines.base import default_threads
from sar2optical.engines.registry import bundled
from sar2optical.errors import DeviceUnavailable, EngineError, ExportError, ModelError
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

__all__ = ["Outcome", "Seconds", "parity", "rtx", "scene_turns", "stages_of_scene", "tests_marked_gpu", "this_card"]

ROOT = Path(__file__).parents[1]
FLOORS = {"fp32": 60.0, "fp16": 50.0, "bf16": 40.0}
"""Least PSNR in dB of the mosaic's bytes. Half a percent of pixels off by one level give 71 dB."""

OURS_NAME, OTHER_NAME = "this tree", "other tree"
_TESTS_SECONDS = 400
_SCENE_SECONDS = 300
_SCENE = "from sar2optical.cli.scene import main; main()"
_FORCED = (
    f"from bench.stages import forced_device_path\nwith forced_device_path():\n {_SCENE.replace('; ', chr(10) + ' ')}"
)


_CHECKPOINT = (
    "import sys\nfrom pathlib import Path\nfrom bench.generators import bundled_checkpoint\n"
    "bundled_checkpoint(Path(sys.argv[1]))"
)


@dataclass(frozen=True)
class Outcome:
    """Result of a part."""

    passed: bool | None
    """None: the part has nothing to check on this machine."""
    text: str

    def __str__(self) -> str:
        """Return the result for a line of output."""
        return f"{ {True: 'passed', False: 'FAILED', None: 'skipped'}[self.passed] }, {self.text}"


class Seconds(float):
    """A duration."""

    def __str__(self) -> str:
        """Return it for progress lines."""
        return f"{float(self):.2f} s"


def this_card() -> Outcome:
    """Describe the card, its driver, and the versions."""
    machine = this_machine()
    return Outcome(
        True if machine.gpu else None,
        f"{machine.gpu or 'no NVIDIA GPU'}; {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB; "
        + f"{_cuda()}; "
        + ", ".join(f"{name} {version}" for name, version in versions().items()),
    )


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"CUDA {torch.version.cuda}, cuDNN {cudnn}"


def tests_marked_gpu(device: str) -> Outcome:
    """Run the tests that are marked gpu; on a CPU all of them are skipped."""
    if find_spec("pytest") is None:
        return Outcome(False, "pytest is not installed: pip install pytest")
    tests = ROOT / "tests"
    files = sorted(path for path in tests.rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8"))
    # Without plugins: a machine may lack those of the whole suite, whose options are then unknown.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rfE", "-W", "ignore::pytest.PytestConfigWarning"]
    environment = {**_environment(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [*command, *map(str, files)], cwd=ROOT, env=environment, capture_output=True, text=True,
            check=False, timeout=_TESTS_SECONDS,
        )  # fmt: skip
        lines = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
        for line in [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))][:20]:
            say(line)
        ran = re.search(r"\b\d+ passed", lines[-1])
        passed = done.returncode == 0 and bool(ran)
        if device == "cpu" and done.returncode == 0 and not ran:
            return Outcome(None, f"no CUDA device: {lines[-1].strip('= ')}")
        return Outcome(passed, lines[-1].strip("= "))
    return Outcome(False, f"the tests were stopped after {_TESTS_SECONDS} s")


def parity(scene: Path, folder: Path, device: str, precisions: Sequence[Precision]) -> tuple[Outcome, dict[str, Any]]:
    """Compare mosaics of the device path with that of the fp32 engine on the CPU, in each precision.

    Returns
    -------
    outcome, figures
        Figures by precision: share of equal bytes, largest difference, PSNR.
    """
    reference = _mosaic(scene, folder / "reference.tif", "auto", EngineOptions(device="cpu", precision="fp32"))
    found: dict[str, Any] = {}
    lines, passed = [], True
    for precision in precisions:
        options = EngineOptions(device=device, precision=precision)
        try:
            with forced_device_path(device == "cpu"):
                pixels = _mosaic(scene, folder / f"{precision}.tif", "pytorch", options)
        except DeviceUnavailable as error:
            lines.append(f"{precision} not available")
            say(f"{precision}: {error}")
            passed = passed and device == "cpu"
            continue
        found[precision] = figures = compared(reference, pixels)
        good = figures["psnr_db"] >= FLOORS[precision] and (precision != "fp32" or figures["largest"] <= 2)
        passed = passed and good
        lines.append(
            f"{precision} {figures['equal']:.2%} equal, largest difference {figures['largest']}, "
            f"{figures['psnr_db']:.1f} dB{'' if good else f' (at least {FLOORS[precision]:.0f} expected)'}"
        )
    return Outcome(passed and bool(found), "; ".join(lines)), found


def compared(reference: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return share of equal bytes, largest difference and PSNR (999 for equal images) of two uint8 images."""
    off = np.abs(reference.astype(np.int16) - other)
    ratio = psnr(reference, other, data_range=255)
    return {"equal": float(np.mean(off == 0)), "largest": int(off.max()), "psnr_db": min(ratio, 999.0)}


def _mosaic(scene: Path, out: Path, backend: str, engine: EngineOptions) -> np.ndarray[Any, Any]:
    """Translate a scene, and return the pixels: uint8 (3, height, width)."""
    options = TranslateOptions(backend=backend, engine=engine, overwrite=True, restart=True)
    translate(scene, out, options=options)
    with rasterio.open(out) as mosaic:
        pixels: np.ndarray[Any, Any] = mosaic.read()
    return pixels


def rtx(device: str) -> Outcome:
    """Describe in one line whether TensorRT for RTX runs on this card; in a process of its own: it may crash."""
    if find_spec("tensorrt_rtx") is None:
        return Outcome(None, "TensorRT for RTX is not installed")
    return execute(device == "cuda", _rtx, device)


def _rtx(device: str) -> Outcome:
    from sar2optical.engines import tensorrt_rtx
    from sar2optical.engines.rtx_cards import runs_on
    from sar2optical.engines.tensorrt_runtime import current_gpu

    title, options = tensorrt_rtx.LIBRARY.title, EngineOptions(device="auto", precision="fp16")
    known = None
    if device == "cuda":
        gpu = current_gpu()
        known = runs_on(gpu.compute_capability)
        title += f" on {gpu.name}, compute capability {'.'.join(map(str, gpu.compute_capability))}"
    if known:
        return Outcome(True, f"{title}: {_rtx_rate(options)}")
    lines = []
    for target in ("sm80", "current") if device == "cuda" else ("sm80",):
        try:
            plan, *_ = tensorrt_rtx.build_for(bundled(), options, target)
            lines.append(f"{target}: builds {len(plan) / 1e6:.1f} MB")
            if device == "cuda":
                tensorrt_rtx.LIBRARY.deserialize(plan, source=target, remedy="see above")
                lines[-1] += ", loads"
        except (EngineError, ModelError, ExportError) as error:
            lines.append(f"{target}: {' '.join(str(error).split())[:200]}")
    return Outcome(None, f"{title}: {'; '.join(lines)}")


def _rtx_rate(options: EngineOptions) -> str:
    """Return windows/s and PSNR to PyTorch in fp32 of TensorRT for RTX, on random windows."""
    from sar2optical.engines.autotune import windows_per_second
    from sar2optical.engines.opening import open_engine

    with open_engine(bundled(), backend="pytorch", options=EngineOptions(device="cuda", precision="fp32")) as engine:
        side = engine.window
        few = np.random.default_rng(1).uniform(-1, 1, (4, engine.signature.channels, side, side)).astype(np.float32)
        expected = engine.run(few)
    with open_engine(bundled(), backend="tensorrt_rtx", options=options) as engine:
        ratio = psnr(expected, engine.run(few), data_range=2.0)
        sar = np.repeat(few, engine.batch * engine.streams, axis=0)
        rate = max(windows_per_second(engine, sar) for _ in range(3))
        return f"{engine.precision} runs, {rate:.0f} windows/s with transfers, batch {engine.batch}, {ratio:.1f} dB"


def stages_of_scene(
    scene: Path, folder: Path, device: str, precision: Precision, batch: int | None
) -> tuple[str, dict[str, Any]]:
    """Translate a scene once in a process of its own, with the clocks of all stages.

    Returns
    -------
    text, figures
        Table of stages with the slowest one in a line; limits, stages and other figures of the run for the record.
    """
    engine = EngineOptions(device=device, precision=precision, batch=batch)
    task = Task(
        method=OURS, scene=scene, out=folder / "mosaic.tif", model=bundled(), checkpoint=Path(),
        seconds=1.0 if device == "cuda" else 0.0,
        options=TranslateOptions(backend=_backend(device), engine=engine, overwrite=True, restart=True),
    )  # fmt: skip
    separate = device == "cuda"
    ours: Sample = execute(separate, _run, task, device)
    known = limits(folder, device, threads=default_threads(), quick=not separate)
    with rasterio.open(scene) as raster:
        count = len(window_grid(raster.shape, 256, DEFAULT_OVERLAP))
    alone: Sample = execute(separate, run, replace(task, method=ENGINE))
    took, stages = ours.figures["stages_seconds"], [Stage(**fields) for fields in ours.figures["stages"]]
    least = (alone.figures["seconds_on_device"] or alone.seconds / alone.windows) * count
    known |= with_engine_alone(stages, least)
    windows, mosaic, busy = (ours.figures[key] for key in ("seconds_windows", "seconds_mosaic", "gpu_busy"))
    head = (
        f"stages of one run, {ours.figures['engine']}, {took:.2f} s: windows {windows:.2f} s, mosaic {mosaic:.2f} s; "
        f"GPU busy {busy:.2f} s; engine alone {least:.2f} s ({least / took:.0%} of the run)"
    )
    text = f"{head}\n{stage_table(stages, known, took)}\n{slowest(stages, took)}"
    kept = {key: ours.figures[key] for key in ("engine", "stages", "stages_seconds", "seconds_windows")}
    kept |= {key: ours.figures[key] for key in ("seconds_mosaic", "gpu_busy", "moved")}
    kept["seconds_engine_alone"] = least
    return text, {"limits": known, "run": {**kept, "peak_memory_mb": ours.peak / 1e6}}


def _backend(device: str) -> str:
    """Return the backend of a scene: on a CPU the one that takes tensors."""
    return "pytorch" if device == "cpu" else "auto"


def _run(task: Task, device: str) -> Sample:
    with forced_device_path(device == "cpu"):
        return run(task)


def scene_turns(
    scene: Path, folder: Path, device: str, precision: Precision, *,
    batch: int | None = None, against: Path | None = None, rounds: int = 3,
) -> tuple[dict[str, list[Seconds]], dict[str, str]]:  # fmt: skip
    """Time the command `sar2opt-scene` of this tree and of another one in turn, start of Python included.

    The other tree runs its own bundled generator as a checkpoint, which every version runs in PyTorch.

    Returns
    -------
    samples, failures
        By tree: seconds of each round; error messages.
    """
    common = ["--device", device, "--precision", precision, "--overwrite", "--restart", "-q"]
    common += ["--batch-size", str(batch)] if batch else []
    timed = folder / "timed.tif"

    def run_in(tree: Path, code: str, *arguments: str) -> Seconds:
        timed.unlink(missing_ok=True)
        took = _python(tree, folder, code, str(scene), str(timed), *common, *arguments)
        if not timed.exists():
            raise RuntimeError("the command ended without an error, but wrote no mosaic")
        return took

    ours = _FORCED if device == "cpu" else _SCENE
    turns: dict[str, Callable[[int], Seconds]] = {
        OURS_NAME: lambda _: run_in(ROOT, ours, "--backend", _backend(device))
    }
    if against is not None:
        tree, checkpoint = against.resolve(), folder / "other.pth"
        try:
            _python(tree, folder, _CHECKPOINT, str(checkpoint))
        except RuntimeError as error:
            return take_turns(turns, rounds, on_progress=say)[0], {OTHER_NAME: one_line(error)}
        turns[OTHER_NAME] = lambda _: run_in(tree, _SCENE, "--backend", "pytorch", "--model", str(checkpoint))
    return take_turns(turns, rounds, on_progress=say)


def _python(tree: Path, folder: Path, code: str, *arguments: str) -> Seconds:
    """Run Python code in a folder with the package of a tree; return its seconds, start included."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=_environment(tree), cwd=folder, capture_output=True,
            text=True, check=False, timeout=_SCENE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the command was stopped after {_SCENE_SECONDS} s") from error
    took = Seconds(time.perf_counter() - began)
    if done.returncode:
        raise RuntimeError(f"the command ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return took


def _environment(tree: Path) -> dict[str, str]:
    """Return the environment in which Python imports the package of a tree, before one that is installed."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(tree), *([before] if before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
