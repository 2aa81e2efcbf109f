"""Measure the shift consistency of models on a few chips of each terrain class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Pair
from sar2optical.evaluation.evaluate import Evaluation, Sample
from sar2optical.evaluation.predictors import Predict
from sar2optical.evaluation.shifts import SHIFTS, Shifted, shift_consistency, shift_score

__all__ = ["MOST_SHIFTED", "spread_pairs", "with_shifts"]

MOST_SHIFTED = 16
"""Largest number of chips per terrain class. Each chip costs one engine run per shift and one more."""


def spread_pairs(pairs: Sequence[Pair], most: int = MOST_SHIFTED) -> list[Pair]:
    """Choose at most `most` pairs of each terrain class, evenly spread and in order."""
    chosen: list[int] = []
    for terrain in {pair.terrain for pair in pairs}:
        indices = [k for k, pair in enumerate(pairs) if pair.terrain == terrain]
        spread = np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int)
        chosen += [indices[k] for k in spread]
    return [pairs[k] for k in sorted(chosen)]


def with_shifts(
    evaluation: Evaluation,
    predictions: Mapping[str, Predict],
    samples: Iterable[Sample],
    *,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    on_progress: Callable[[], None] | None = None,
) -> Evaluation:
    """Add shift consistency to the results of predictors.

    Predictions are clipped to 0 to 255 first, as for all other figures.

    Parameters
    ----------
    evaluation
        Evaluation to add to; its window is used.
    predictions
        Predictors by the names of their results.
    samples
        Chips to compare on, read once; chips smaller than a window are skipped.
    shifts
        Shifts in rows and columns, see `shift_consistency`.
    on_progress
        Called after each sample.

    Returns
    -------
    Evaluation
        The given one if no chip holds a window.
    """
    side = evaluation.window
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in predictions}
    terrains: list[str] = []
    for sample in samples:
        if min(sample.chips.sar.shape[1:]) < side:
            continue
        for name, predict in predictions.items():
            found[name].append(shift_consistency(_clipped(predict), sample.chips.sar, side, shifts=shifts))
        terrains.append(sample.terrain)
        if on_progress:
            on_progress()
    if not terrains:
        return evaluation
    shifted = {name: _shifted(rows, terrains) for name, rows in found.items()}
    results = tuple(replace(result, shifts=shifted.get(result.name)) for result in evaluation.results)
    return replace(evaluation, results=results)


def _clipped(predict: Predict) -> Predict:
    return lambda sar: np.clip(predict(sar), 0, 255)


def _shifted(rows: Sequence[NDArray[np.float64]], terrains: Sequence[str]) -> Shifted:
    """Score all chips, and the chips of each class."""
    by_class = {
        name: shift_score([row for row, terrain in zip(rows, terrains, strict=True) if terrain == name])
        for name in sorted(set(terrains))
        if name
    }
    return Shifted(shift_score(rows), by_class)
