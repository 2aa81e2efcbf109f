"""Draw graphs of a run with matplotlib: losses and validation figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sar2optical._utils.files import write_output
from sar2optical.training.journal import Row

__all__ = ["LOSSES", "RESULTS", "draw"]

RESULTS = "results.png"
"""File name of the picture of all figures."""

_ACROSS = 5  # panels in a row of it

LOSSES = {
    "lossD": ("loss_D", "Discriminator"),
    "lossG": ("loss_G", "Generator, weighted sum"),
    "lossG_GAN": ("loss_G_GAN", "Generator, adversarial"),
    "lossG_L1": ("loss_G_L1", "Generator, L1"),
}
"""File name -> column and title of the four graphs of the re-implemented system."""

_VALIDATION = {
    "val_psnr": "PSNR, dB",
    "val_ssim": "SSIM",
    "val_l1": "L1, grey levels",
    "val_gradient_ratio": "gradient energy, fake / real",
    "val_gradient_ratio_2": "fake / real of 2 x 2 means",
    "val_gradient_ratio_4": "fake / real of 4 x 4 means",
    "val_r2": "R2 after a fit",
    "val_r2_low_passed": "R2 of 16 x 16 means",
    "val_corner_share": "corner share",
}


def draw(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Draw `results.png`, all figures of a run, and `lossD.png`, `lossG.png`, `lossG_GAN.png`, `lossG_L1.png`.

    Parameters
    ----------
    folder
        Folder for the graphs.
    rows
        Rows of `metrics.csv`.

    Returns
    -------
    list of Path
        Paths of the graphs.

    Raises
    ------
    OutputUnwritable
        If a file cannot be written.
    """
    from matplotlib.figure import Figure

    drawn = []
    for name, (column, title) in LOSSES.items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        _line(figure.add_subplot(), rows, column, title, "loss")
        drawn.append(_save(figure, folder / f"{name}.png"))
    panels = [(column, title, "loss") for column, title in LOSSES.values()]
    if any("val_psnr" in row for row in rows):
        panels += [(column, "validation", label) for column, label in _VALIDATION.items()]
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.6 * across, 2.6 * down), layout="constrained")
    for position, (column, title, label) in enumerate(panels, 1):
        _line(figure.add_subplot(down, across, position), rows, column, title, label)
    drawn.append(_save(figure, folder / RESULTS))
    return drawn


def _line(axis: Any, rows: Sequence[Row], column: str, title: str, label: str) -> None:
    points = [(row["epoch"], row[column]) for row in rows if column in row]
    if points:
        axis.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 30 else None)
    axis.set(xlabel="epoch", ylabel=label, title=title)
    axis.grid(alpha=0.3)


def _save(figure: Any, path: Path) -> Path:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    write_output(path, data.getvalue())
    return path
