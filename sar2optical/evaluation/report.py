"""Reports of an evaluation: text tables, Markdown, JSON and a picture of windows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import SarArray, encoded
from sar2optical.data.splits import scene_key
from sar2optical.errors import BackendNotInstalled
from sar2optical.evaluation.evaluate import Evaluation, Result, WindowScore
from sar2optical.evaluation.fid import NO_FEATURES, NO_LPIPS
from sar2optical.evaluation.scores import LEVEL, Figure, Scores
from sar2optical.evaluation.shift_runs import MOST_SHIFTED
from sar2optical.evaluation.shifts import SHIFTS, ShiftScore

__all__ = [
    "DETAIL",
    "HEADER",
    "SHIFTED",
    "Shown",
    "as_json",
    "chosen",
    "detail_rows",
    "markdown",
    "notes",
    "picture",
    "rows",
    "shift_rows",
    "terrain_detail_rows",
    "terrain_rows",
    "terrain_shift_rows",
    "text",
]

HEADER = ("", "PSNR, dB", "SSIM", "SAM, deg", "L1, levels", "FID", "KID", "LPIPS")
DETAIL = (
    "detail", "R2", "R2 low-passed", "PSNR fitted, dB", "low-passed, dB", "gradient 1", "2", "4", "8", "corner share",
    "dark areas",
)  # fmt: skip
SHIFTED = ("shifted windows", "mean, dB", "worst, dB", "chips")
"""Header of the table of shift consistency; `HEADER` and `DETAIL` are those of the other tables."""

_NONE = "-"


@dataclass(frozen=True)
class Shown:
    """One row of the picture: SAR, prediction and truth of a window."""

    label: str
    sar: SarArray
    """SAR (C, H, W), as in `Chips`; the first band is drawn."""
    fake: NDArray[np.float64]
    """Prediction (3, H, W) in grey levels."""
    real: NDArray[np.uint8]
    """Truth (3, H, W)."""


def rows(evaluation: Evaluation) -> list[list[str]]:
    """Table the figures of all chips; the first row is the header."""
    return [list(HEADER), *(_row(result.name, result.overall, result) for result in evaluation.results)]


def detail_rows(evaluation: Evaluation) -> list[list[str]]:
    """Table R2 and the detail by scale of all chips; the first row is the header."""
    return [list(DETAIL), *([result.name, *_detail(result.overall)] for result in evaluation.results)]


def shift_rows(evaluation: Evaluation) -> list[list[str]]:
    """Table the shift consistency; empty if it was not measured."""
    lines = [[one.name, *_shifts(one.shifts.overall)] for one in evaluation.results if one.shifts]
    return [list(SHIFTED), *lines] if lines else []


def terrain_rows(evaluation: Evaluation) -> list[list[str]]:
    """Table the figures by terrain class; empty if the chips have no classes."""
    header = ["terrain", "chips", "model", *HEADER[1:5]]
    return _by_class(evaluation, header, _figures, chips=True)


def terrain_detail_rows(evaluation: Evaluation) -> list[list[str]]:
    """Table `detail_rows` by terrain class; empty if the chips have no classes."""
    return _by_class(evaluation, ["terrain", "model", *DETAIL[1:]], _detail, chips=False)


def terrain_shift_rows(evaluation: Evaluation) -> list[list[str]]:
    """Table `shift_rows` by terrain class; empty if the chips have no classes or it was not measured."""
    lines = [
        [name, result.name, *_shifts(result.shifts.terrain[name])]
        for name in evaluation.results[0].terrain
        for result in evaluation.results
        if result.shifts and name in result.shifts.terrain
    ]
    return [["terrain", "model", *SHIFTED[1:]], *lines] if lines else []


def notes(evaluation: Evaluation) -> list[str]:
    """Explain the figures, one line per note."""
    chips, windows = len(evaluation.chips), len(evaluation.windows)
    scenes = len({scene_key(name) for name in evaluation.chips})
    lines = [
        f"{chips} chips, {windows} windows of {evaluation.window} x {evaluation.window}; "
        f"in brackets: {LEVEL:.0%} bootstrap interval over chips" + (" (none: one chip)" if chips < 2 else ""),
    ]
    if scenes < chips:
        lines.append(
            f"the chips come from {scenes} scenes; chips of one scene are alike, so the intervals are too narrow"
        )
    lines += _detail_notes(evaluation)
    if not evaluation.results[0].lpips:
        lines.append(NO_LPIPS)
    found = [result.distances for result in evaluation.results if result.distances]
    if not found:
        return [*lines, NO_FEATURES]
    lines.append(f"FID, KID: {found[0].images} windows, {found[0].features} features")
    return lines + sorted({one.note for one in found if one.note})


def _detail_notes(evaluation: Evaluation) -> list[str]:
    lines = [
        "R2: share of the truth's variance explained, after fitting gain (0 or more) and offset to each window and "
        "colour, mean over windows; PSNR fitted: PSNR after the same fit",
        "low-passed: the same after averaging blocks of 16 x 16 pixels",
        "gradient 1, 2, 4, 8: gradient energy divided by the truth's, after averaging blocks of this side in pixels; "
        "below 1 is smoother than the truth",
        "corner share: share of the gradient energy at the highest frequencies of both axes; 1 for a one-pixel "
        f"chequerboard, {_number(evaluation.truth_corner_share, 4)} for the truth",
        "dark areas: share of the areas that are dark in SAR and truth, mostly water, where the prediction is also "
        "darker than the surroundings",
        "the JSON file (--json) has the intervals of all detail figures, and the figures of each chip",
        "radar: the SAR image itself; better sign: the SAR image or its negative, chosen by the truth for each "
        "window: an upper bound, not a prediction",
    ]
    if any(result.shifts for result in evaluation.results):
        shifts = ", ".join(f"({down}, {right})" for down, right in SHIFTS)
        lines.append(
            f"shifted windows: PSNR between the output of a window and that of a window shifted by {shifts} pixels, "
            f"on the ground that both show; at most {MOST_SHIFTED} chips of each terrain class, spread over the set "
            "and padded by reflection; models only: per-pixel baselines do not depend on the window"
        )
    return lines


def text(evaluation: Evaluation) -> str:
    """Format tables and notes for a terminal."""
    return "\n\n".join([*(_columns(*table) for table in _tables(evaluation)), "\n".join(notes(evaluation))])


def markdown(evaluation: Evaluation) -> str:
    """Format tables and notes as Markdown."""
    tables = [_pipes(*table) for table in _tables(evaluation)]
    return "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes(evaluation))]) + "\n"


def _tables(evaluation: Evaluation) -> list[tuple[list[list[str]], int]]:
    """List the tables that have rows, each with its number of text columns."""
    tables = [
        (rows(evaluation), 1),
        (detail_rows(evaluation), 1),
        (shift_rows(evaluation), 1),
        (terrain_rows(evaluation), 3),
        (terrain_detail_rows(evaluation), 2),
        (terrain_shift_rows(evaluation), 2),
    ]
    return [table for table in tables if table[0]]


def as_json(evaluation: Evaluation) -> str:
    """Format every figure as JSON; infinite and undefined ones are null."""
    return json.dumps({**evaluation.to_dict(), "notes": notes(evaluation)}, indent=1, allow_nan=False) + "\n"


def chosen(windows: Sequence[WindowScore]) -> list[tuple[str, WindowScore]]:
    """Choose the windows with the best, median and worst PSNR; fewer if there are fewer windows."""
    ranked = sorted(windows, key=lambda one: (-one.psnr, one.chip, one.window))
    ranks = {0: "best", len(ranked) - 1: "worst"} if len(ranked) > 1 else {0: "only"}
    if len(ranked) > 2:
        ranks = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    return [(name, ranked[k]) for k, name in ranks.items()]


def picture(shown: Sequence[Shown], title: str) -> bytes:
    """Draw rows of SAR, prediction and truth; returns a PNG file.

    Raises
    ------
    BackendNotInstalled
        If matplotlib is missing.
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
    return [name, *_figures(scores), *ends, _interval(result.lpips, 3) if result.lpips else _NONE]


def _figures(scores: Scores) -> list[str]:
    return [
        _interval(scores.psnr, 2),
        _interval(scores.ssim, 3),
        _interval(scores.sam, 2),
        _interval(scores.l1, 2),
    ]


def _detail(scores: Scores) -> list[str]:
    """Format the columns of `DETAIL`; only R2 gets intervals, to keep the table narrow."""
    agreement = _number(scores.dark_agreement.value, 2)
    ratios = (scores.gradient_ratio, scores.gradient_ratio_2, scores.gradient_ratio_4, scores.gradient_ratio_8)
    return [
        _interval(scores.r2, 3),
        _interval(scores.r2_low_passed, 3),
        _number(scores.psnr_fitted.value, 2),
        _number(scores.psnr_fitted_low_passed.value, 2),
        *(_number(ratio.value, 3) for ratio in ratios),
        _number(scores.corner_share.value, 4),
        f"{agreement} of {scores.dark_areas}" if scores.dark_areas else _NONE,
    ]


def _shifts(score: ShiftScore) -> list[str]:
    return [_number(score.mean, 2), _number(score.worst, 2), str(score.chips)]


def _by_class(
    evaluation: Evaluation, header: list[str], figures: Callable[[Scores], list[str]], *, chips: bool
) -> list[list[str]]:
    lines = [
        [name, *([str(scores.chips)] if chips else []), result.name, *figures(scores)]
        for name in evaluation.results[0].terrain
        for result in evaluation.results
        for scores in (result.terrain[name],)
    ]
    return [header, *lines] if lines else []


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
