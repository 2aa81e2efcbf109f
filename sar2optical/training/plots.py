"""Pictures of a run: the losses, the validation figures, a sheet of chips. matplotlib, without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import OutputUnwritable
from sar2optical.files import write_whole
from sar2optical.training.journal import Row

LOSSES = {
    "lossD": ("loss_D", "Discriminator"),
    "lossG": ("loss_G", "Generator, weighted sum"),
    "lossG_GAN": ("loss_G_GAN", "Generator, adversarial"),
    "lossG_L1": ("loss_G_L1", "Generator, L1"),
}
"""File name -> column and title: the four graphs of the re-implemented system."""

_VALIDATION = {
    "val_psnr": "PSNR, dB",
    "val_ssim": "SSIM",
    "val_l1": "L1, grey levels",
    "val_gradient_ratio": "gradient energy, fake / real",
}


def draw(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Draw `lossD.png`, `lossG.png`, `lossG_GAN.png`, `lossG_L1.png`, and `validation.png` where there are figures.

    Parameters
    ----------
    folder
        Where to.
    rows
        Of `metrics.csv`.

    Returns
    -------
    list of Path
        What was drawn.

    Raises
    ------
    OutputUnwritable
        Where the disk takes no more.
    """
    from matplotlib.figure import Figure

    drawn = []
    for name, (column, title) in LOSSES.items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        _line(figure.add_subplot(), rows, column, title, "loss")
        drawn.append(_save(figure, folder / f"{name}.png"))
    if any("val_psnr" in row for row in rows):
        figure = Figure(figsize=(9, 6), layout="constrained")
        for place, (column, label) in enumerate(_VALIDATION.items(), 1):
            _line(figure.add_subplot(2, 2, place), rows, column, "", label)
        drawn.append(_save(figure, folder / "validation.png"))
    return drawn


def sheet(
    path: Path, chips: Sequence[tuple[NDArray[Any], NDArray[np.float64], NDArray[np.uint8]]], title: str
) -> None:
    """Draw chips in rows: SAR, fake, real.

    Parameters
    ----------
    path
        PNG.
    chips
        SAR (C, H, W), uint8 or float32 in [-1, 1]; fake, grey levels (3, H, W); optical uint8 (3, H, W).
    title
        Above them.

    Raises
    ------
    OutputUnwritable
        Where the disk takes no more.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.5 * len(chips) + 0.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(chips), 3, squeeze=False)
    for row, (sar, fake, optical) in zip(axes, chips, strict=True):
        grey = sar[0] if sar.dtype == np.uint8 else (sar[0] + 1) * 127.5
        row[0].imshow(grey, cmap="gray", vmin=0, vmax=255)
        row[1].imshow(np.clip(fake, 0, 255).round().astype(np.uint8).transpose(1, 2, 0))
        row[2].imshow(optical.transpose(1, 2, 0))
    for axis, name in zip(axes[0], ("SAR", "fake", "real"), strict=True):
        axis.set_title(name)
    for axis in axes.flat:
        axis.set_axis_off()
    _save(figure, path)


def _line(axis: Any, rows: Sequence[Row], column: str, title: str, label: str) -> None:
    points = [(row["epoch"], row[column]) for row in rows if column in row]
    if points:
        axis.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 30 else None)
    axis.set(xlabel="epoch", ylabel=label, title=title)
    axis.grid(alpha=0.3)


def _save(figure: Any, path: Path) -> Path:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise OutputUnwritable(f"{path}: cannot be written ({error.strerror}): free space") from error
    return path
