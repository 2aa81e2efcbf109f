"""Records of a run: `metrics.csv`, TensorBoard and Comet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from sar2optical._utils.files import write_output
from sar2optical.errors import BackendNotInstalled, OptionError, OutputUnwritable
from sar2optical.training.config import RunOptions

__all__ = ["COLUMNS", "METRICS", "TENSORBOARD", "Journal", "Row", "read_metrics"]

COLUMNS = (
    "step", "epoch", "images_per_s", "learning_rate", "loss_D", "loss_G", "loss_G_GAN", "loss_G_L1", "loss_G_SSIM",
    "loss_G_texture", "loss_G_multiscale_SSIM", "loss_G_correlation", "loss_G_octave", "loss_G_squared",
    "loss_G_shift", "val_psnr", "val_ssim", "val_l1",
    "val_gradient_ratio", "val_gradient_ratio_2", "val_gradient_ratio_4",
    "val_r2", "val_r2_low_passed", "val_corner_share",
)  # fmt: skip
"""Columns of metrics.csv: means since the row before; val_* only after evaluations that define the figure."""

METRICS = "metrics.csv"
"""File name of the table in a run folder."""
TENSORBOARD = "tensorboard"
"""Name of TensorBoard's folder in a run folder."""

Row = Mapping[str, float]


class _Sink(Protocol):
    def write(self, row: Row) -> None: ...
    def close(self) -> None: ...


class Journal:
    """Write the figures of a run to `metrics.csv`, and to TensorBoard and Comet if asked for.

    Parameters
    ----------
    folder
        Run folder: gets `metrics.csv` and, if asked for and installed, `tensorboard/`.
    options
        Choose TensorBoard and Comet.
    settings
        Settings to report to Comet.
    step
        Step that the run resumes from; later rows, written by a killed run after its last save, are dropped.

    Raises
    ------
    BackendNotInstalled
        If Comet is asked for and not installed.
    """

    def __init__(self, folder: Path, options: RunOptions, settings: Mapping[str, Any], *, step: int) -> None:
        self._path = folder / METRICS
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._sinks: list[_Sink] = []
        if options.tensorboard and find_spec("tensorboard"):
            self._sinks.append(_TensorBoard(folder / TENSORBOARD, step))
        if options.comet:
            self._sinks.append(_Comet(options, settings))

    def write(self, row: Row) -> None:
        """Add a row and replace the table on disk atomically.

        Raises
        ------
        OutputUnwritable
            If the file cannot be written.
        """
        self.rows.append(dict(row))
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({k: str(int(v)) if k == "step" else f"{v:.6g}" for k, v in r.items()} for r in self.rows)
        write_output(self._path, text.getvalue().encode())
        for sink in self._sinks:
            sink.write(row)

    def close(self) -> None:
        """Flush and close TensorBoard and Comet."""
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read `metrics.csv`; a missing file has no rows.

    Raises
    ------
    OutputUnwritable
        If the file is not such a table, because training would overwrite it.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{key: float(value) for key, value in row.items() if value} for row in rows if row["step"]]
    except (KeyError, ValueError, TypeError, AttributeError, OSError, csv.Error) as error:
        raise OutputUnwritable(
            f"{path}: not the table of a training run: move it away, or choose another folder"
        ) from error


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder), purge_step=step or None)
        except OSError as error:
            raise OutputUnwritable(
                f"{folder}: cannot be written ({error.strerror}): give --no-tensorboard"
            ) from error

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                group = "validation" if name.startswith("val_") else "training"
                self._writer.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class _Comet:
    def __init__(self, options: RunOptions, settings: Mapping[str, Any]) -> None:
        try:
            import comet_ml
        except ModuleNotFoundError as error:
            raise BackendNotInstalled("--comet needs comet_ml: pip install 'sar2optical[comet]'") from error
        try:
            self._experiment = comet_ml.Experiment(project_name=options.comet, workspace=options.comet_entity)
        except Exception as error:  # many types: no key, no network
            raise OptionError(
                f"--comet: {' '.join(str(error).split())[:120]}: log in to Comet, or remove --comet"
            ) from error
        if options.comet_name:
            self._experiment.set_name(options.comet_name)
        self._experiment.log_parameters(dict(settings))

    def write(self, row: Row) -> None:
        self._experiment.log_metrics(dict(row), step=int(row["step"]), epoch=int(row["epoch"]))

    def close(self) -> None:
        self._experiment.end()
