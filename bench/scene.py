"""A whole scene end to end, against what the engine does by itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from bench.harness import interleaved, median, save
from bench.simulate import SimulatedScene, write_scene
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.auto import windows_per_second
from sar2optical.memory import peak_bytes
from sar2optical.models.zoo import bundled
from sar2optical.scene import SceneOptions
from sar2optical.translate import Report, TranslateOptions, translate
from sar2optical.windows import DEFAULT_OVERLAP


@click.command("scene")
@click.argument("scene", required=False, type=click.Path(path_type=Path))
@click.option("--side", default=8192, show_default=True, help="Of the simulated scene, where none is given.")
@click.option("--model", type=click.Path(path_type=Path), help="The bundled generator where not given.")
@click.option("--band", "bands", multiple=True)
@click.option("--overlap", default=DEFAULT_OVERLAP, show_default=True)
@click.option("--batch-size", default=1, show_default=True)
@click.option("--threads", type=int)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the raw figures.")
def main(
    scene: Path | None,
    side: int,
    model: Path | None,
    bands: tuple[str, ...],
    overlap: int,
    batch_size: int,
    threads: int | None,
    rounds: int,
    out: Path | None,
) -> None:
    """Time a scene against its windows at the engine's own rate, taking turns."""
    options = TranslateOptions(
        engine=EngineOptions(threads=threads, batch=batch_size),
        scene=SceneOptions(bands=bands),
        overlap=overlap,
        overwrite=True,
    )
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        if scene is None:
            scene = Path(folder) / "scene.tif"
            write_scene(scene, SimulatedScene(height=side, width=side, border=False))
        mosaic = Path(folder) / "mosaic.tif"

        def run_scene() -> float:
            reports.append(translate(scene, mosaic, model=model, options=options))
            return reports[-1].windows_run / reports[-1].seconds_windows

        def run_engine() -> float:
            with open_engine(model or bundled(), options=options.engine) as engine:
                side, channels = engine.signature.window, engine.signature.channels
                shape = (200 * batch_size, channels, side, side)
                windows = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
                windows_per_second(engine, windows[: 10 * batch_size])
                return windows_per_second(engine, windows)

        figures = interleaved({"engine": run_engine, "scene": run_scene}, rounds)
    click.echo(_report(reports, figures))
    save(out, "scene", {"windows_per_second": figures, "peak_memory_mb": peak_bytes() / 1e6})


def _report(reports: list[Report], figures: dict[str, list[float]]) -> str:
    last = reports[-1]
    height, width = last.shape
    engine, scene = median(figures["engine"]), median(figures["scene"])
    ratios = [e / s for e, s in zip(figures["engine"], figures["scene"], strict=True)]
    return "\n".join(
        [
            f"scene               {width} x {height}, {last.windows_run} windows, {last.engine}",
            f"engine alone        {engine:.1f} windows/s",
            f"scene, to strips    {scene:.1f} windows/s",
            f"ratio               {median(ratios):.3f} (rounds: {', '.join(f'{r:.3f}' for r in ratios)})",
            f"assembling          {median([r.seconds_mosaic for r in reports]):.1f} s",
            f"in all              {median([r.seconds for r in reports]):.1f} s",
            f"peak memory         {peak_bytes() / 1e6:.0f} MB",
        ]
    )
