"""What an evaluation found, for readers: a table, a file, a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import SarArray
from sar2optical.data.splits import scene_key
from sar2optical.errors import BackendNotInstalled
from sar2optical.training.evaluate import LEVEL, Evaluation, Figure, Result, Scores, WindowScore, encoded
from sar2optical.training.fid import NO_FEATURES

HEADER = ("", "PSNR, dB", "SSIM", "SAM, deg", "L1, levels", "gradient ratio", "FID", "KID")

_NONE = "-"


@dataclass(frozen=True)
class Shown:
    """One row of the picture."""

    label: str
    sar: SarArray
    """(C, H, W), as in `Chips`; the first band is drawn."""
    fake: NDArray[np.float64]
    """(3, H, W) in grey levels."""
    real: NDArray[np.uint8]
    """(3, H, W)."""


def rows(evaluation: Evaluation) -> list[list[str]]:
    """Lay out the figures of all chips; the first row is the header."""
    return [list(HEADER), *(_row(result.name, result.overall, result) for result in evaluation.results)]


def terrain_rows(evaluation: Evaluation) -> list[list[str]]:
    """Lay out the figures by class; empty where chips have none."""
    classes = evaluation.results[0].terrain
    if not classes:
        return []
    header = ["terrain", "chips", "model", *HEADER[1:6]]
    lines = [
        [name, str(scores.chips), result.name, *_figures(scores)]
        for name in classes
        for result in evaluation.results
        for scores in (result.terrain[name],)
    ]
    return [header, *lines]


def notes(evaluation: Evaluation) -> list[str]:
    """Say what the figures are of, a line each."""
    chips, windows = len(evaluation.chips), len(evaluation.windows)
    scenes = len({scene_key(name) for name in evaluation.chips})
    lines = [
        f"{chips} chips, {windows} windows of {evaluation.window} x {evaluation.window}; "
        f"in brackets: {LEVEL:.0%} bootstrap interval over chips" + (" (none: one chip)" if chips < 2 else ""),
        "gradient ratio: below 1 is smoother than the truth",
    ]
    if scenes < chips:
        lines.append(f"the chips are of {scenes} scenes; those of one scene are alike, so intervals are too narrow")
    found = [result.distances for result in evaluation.results if result.distances]
    if not found:
        return [*lines, NO_FEATURES]
    lines.append(f"FID, KID: {found[0].images} windows, {found[0].features} features")
    return lines + sorted({one.note for one in found if one.note})


def text(evaluation: Evaluation) -> str:
    """Lay out tables and notes for a terminal."""
    tables = [_columns(rows(evaluation), 1)]
    if by_terrain := terrain_rows(evaluation):
        tables.append(_columns(by_terrain, 3))
    return "\n\n".join([*tables, "\n".join(notes(evaluation))])


def markdown(evaluation: Evaluation) -> str:
    """Lay out tables and notes as Markdown."""
    tables = [_pipes(rows(evaluation), 1)]
    if by_terrain := terrain_rows(evaluation):
        tables.append(_pipes(by_terrain, 3))
    return "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes(evaluation))]) + "\n"


def as_json(evaluation: Evaluation) -> str:
    """Write every figure; infinite and undefined ones are null."""
    return json.dumps({**evaluation.to_dict(), "notes": notes(evaluation)}, indent=1, allow_nan=False) + "\n"


def chosen(windows: Sequence[WindowScore]) -> list[tuple[str, WindowScore]]:
    """Choose the windows of best, median and worst PSNR; fewer where there are fewer."""
    ranked = sorted(windows, key=lambda one: (-one.psnr, one.chip, one.window))
    places = {0: "best", len(ranked) - 1: "worst"} if len(ranked) > 1 else {0: "only"}
    if len(ranked) > 2:
        places = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    return [(name, ranked[k]) for k, name in places.items()]


def picture(shown: Sequence[Shown], title: str) -> bytes:
    """Draw rows of SAR, prediction and truth as a PNG.

    Raises
    ------
    BackendNotInstalled
        Where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"--picture needs {error.name}: pip install 'sar2optical[train]'") from error
    figure = Canvas(figsize=(9.6, 0.6 + 3.1 * len(shown)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for line, (row, one) in enumerate(zip(axes, shown, strict=True)):
        grey = np.clip((encoded(one.sar)[0] + 1) / 2, 0, 1)
        images: list[NDArray[Any]] = [grey, np.moveaxis(np.rint(np.clip(one.fake, 0, 255)).astype(np.uint8), 0, -1)]
        images.append(np.moveaxis(one.real, 0, -1))
        for ax, image, name in zip(row, images, ("SAR", "fake", "real"), strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if line == 0:
                ax.set_title(name, fontsize=11)
        row[0].set_ylabel(one.label, fontsize=9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _row(name: str, scores: Scores, result: Result) -> list[str]:
    far = result.distances
    ends = [_number(far.fid, 2), _number(far.kid, 4)] if far else [_NONE, _NONE]
    return [name, *_figures(scores), *ends]


def _figures(scores: Scores) -> list[str]:
    return [
        _interval(scores.psnr, 2),
        _interval(scores.ssim, 3),
        _interval(scores.sam, 2),
        _interval(scores.l1, 2),
        _interval(scores.gradient_ratio, 3),
    ]


def _interval(figure: Figure, digits: int) -> str:
    value = _number(figure.value, digits)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{_number(figure.low, digits)}, {_number(figure.high, digits)}]"


def _number(value: float, digits: int) -> str:
    return _NONE if math.isnan(value) else f"{value:.{digits}f}"


def _columns(table: list[list[str]], left: int) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    return "\n".join(lines)


def _pipes(table: list[list[str]], left: int) -> str:
    header, *lines = ([cell.replace("|", "\\|") for cell in line] for line in table)
    rule = [" --- " if k < left else " ---: " for k in range(len(header))]
    return "\n".join(
        ["| " + " | ".join(header) + " |", "|" + "|".join(rule) + "|"] + [f"| {' | '.join(line)} |" for line in lines]
    )
