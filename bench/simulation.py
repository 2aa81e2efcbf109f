"""Check the model of `bench outlook`: scenes with a generator that does nothing and stages that sleep."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tabulate import tabulate

from bench.methods import write_identity
from bench.model import slowed
from bench.simulated import Size, simulated_scene
from bench.stages import metered
from sar2optical.engines import EngineOptions
from sar2optical.engines.base import Engine
from sar2optical.mosaic.writer import MosaicWriter
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.scene import Scene

__all__ = ["compared"]

_SIZE: Size = (2048, 2048)
_SLEEPS = (0.05, 0.2)  # seconds a piece; of the engine a sixteenth, it has that many more runs
_STAGES: dict[str, tuple[type, str, str]] = {
    "read": (Scene, "read_stored", "read"),
    "engine": (Engine, "run", "infer"),
    "write (caller)": (MosaicWriter, "write", "write"),
}
"""Class and method of each stage that is slowed down, and its clock."""


def compared(size: Size = _SIZE) -> str:
    """Run scenes with one slowed stage each, and tabulate predicted and measured seconds of windows."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scene, model = simulated_scene(folder, size), folder / "identity.onnx"
        write_identity(model)

        def run() -> tuple[Report, dict[str, int]]:
            options = TranslateOptions(engine=EngineOptions(device="cpu"), overwrite=True, restart=True)
            with metered() as meter:
                report = translate(scene, folder / "mosaic.tif", model=model, options=options)
            assert meter.job is not None, "the run streamed a scene"
            return report, {
                "read": min(meter.job.scene.readers, meter.job.ahead), "engine": meter.job.engine.streams
            }  # fmt: skip

        run()  # libraries start
        base, threads = run()
        rows.append(["none", "-", "-", f"{base.seconds_windows:.2f}", "-"])
        for name, (owner, method, clock) in _STAGES.items():
            share = threads.get(name, 1)
            for sleep in (one / 16 if name == "engine" else one for one in _SLEEPS):
                with _slowed(owner, method, sleep) as calls:
                    found, _ = run()
                expected = slowed(
                    base.seconds_windows, base.busy[clock] / share, sleep=sleep, calls=calls(), threads=share
                )
                ratio = found.seconds_windows / expected
                rows.append(
                    [
                        name,
                        f"{sleep * calls() / share:.2f}",
                        f"{expected:.2f}",
                        f"{found.seconds_windows:.2f}",
                        f"{ratio:.2f}",
                    ]
                )
    head = ["slowed stage", "sleep a thread, s", "predicted, s", "measured, s", "ratio"]
    text: str = tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True)
    return text


@contextmanager
def _slowed(owner: type, method: str, sleep: float) -> Iterator[Callable[[], int]]:
    """Let each call of a method sleep; yield a function that counts the calls."""
    plain, times = getattr(owner, method), []

    def slow(*args: Any, **kwargs: Any) -> Any:
        times.append(1)
        time.sleep(sleep)
        return plain(*args, **kwargs)

    with patch.object(owner, method, slow):
        yield lambda: len(times)
