"""Measure the cost and effect of overlaps: windows, steps at window edges, patches of differing brightness."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import rasterio
from numpy.typing import NDArray

from bench.harness import Record, Row, save
from bench.tables import terminal
from sar2optical.engines import EngineOptions
from sar2optical.evaluation.metrics import low_passed_rms
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.tiling.seams import seam_score
from sar2optical.tiling.windows import window_grid

_PATTERN = 16  # pixels: coarsest pattern of transposed convolutions that was observed to step at edges

REFERENCE = 192
"""Overlap of the reference mosaic: 16 windows cover each pixel."""


@click.command("seams")
@click.argument("scene", type=click.Path(path_type=Path))
@click.option("--overlap", "overlaps", type=int, multiple=True, default=(0, 16, 32, 64, 96, 128), show_default=True)
@click.option("--model", type=click.Path(path_type=Path), help="Engine file.  [the bundled generator]")
@click.option("--band", "bands", multiple=True)
@click.option("--window", default=256, show_default=True, help="Side of the model's window, in pixels.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the record to this file.")
def main(
    scene: Path, overlaps: tuple[int, ...], model: Path | None, bands: tuple[str, ...], window: int, out: Path | None
) -> None:
    """Measure the seams of SCENE's mosaic for several overlaps."""
    with tempfile.TemporaryDirectory() as folder:

        def mosaic(overlap: int) -> tuple[Report, NDArray[np.uint8], NDArray[np.bool_]]:
            options = TranslateOptions(
                engine=EngineOptions(precision="fp32"),
                scene=SceneOptions(bands=bands),
                overlap=overlap,
                compress="none",
                overwrite=True,
            )
            path = Path(folder) / "mosaic.tif"
            report = translate(scene, path, model=model, options=options)
            with rasterio.open(path) as dataset:
                return report, dataset.read(), dataset.dataset_mask() == 255

        _, reference, valid = mosaic(REFERENCE)
        rows = []
        for overlap in overlaps:
            report, image, _ = mosaic(overlap)
            grid = window_grid(report.shape, window, overlap)
            figures = {
                "overlap": overlap,
                "windows": report.windows_run,
                "seam_score": seam_score(image, valid, grid.rows, grid.cols, window),
                "seam_score_in_phase": seam_score(image, valid, grid.rows, grid.cols, window, period=_PATTERN),
                "low_passed_rms": low_passed_rms(reference, image, valid),
            }
            rows.append(Row(name=f"overlap {overlap}", unit="", figures=figures))
    record = Record(bench="seams", rows=tuple(rows), settings={"scene": scene.name, "reference": REFERENCE})
    click.echo(terminal(record))
    save(record, out)
