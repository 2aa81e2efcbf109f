"""Shift consistency of models on some chips of each terrain class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Pair
from sar2optical.evaluation import SHIFTS, Shifted, shift_consistency, shift_score
from sar2optical.evaluation.evaluate import Evaluation, Predict, Sample

MOST_SHIFTED = 16
"""Chips of each terrain class, at most: each costs as many engine runs as there are shifts, and one more."""


def spread_pairs(pairs: Sequence[Pair], most: int = MOST_SHIFTED) -> list[Pair]:
    """Choose at most so many pairs of each terrain class, evenly spread from the first to the last, in order."""
    chosen: list[int] = []
    for terrain in {pair.terrain for pair in pairs}:
        places = [k for k, pair in enumerate(pairs) if pair.terrain == terrain]
        spread = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
        chosen += [places[k] for k in spread]
    return [pairs[k] for k in sorted(chosen)]


def with_shifts(
    evaluation: Evaluation,
    predictions: Mapping[str, Predict],
    samples: Iterable[Sample],
    *,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    on_chip: Callable[[], None] | None = None,
) -> Evaluation:
    """Add shift consistency to the results of some predictors.

    Predictions are clipped to 0 to 255 first, as for all figures.

    Parameters
    ----------
    evaluation
        Gives the window's side, and the results to add to.
    predictions
        Names of results to predictors.
    samples
        The chips to compare on, read once; those smaller than a window are left out.
    shifts
        See `shift_consistency`.
    on_chip
        Told after each sample.

    Returns
    -------
    Evaluation
        The same one where no chip holds a window.
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
        if on_chip:
            on_chip()
    if not terrains:
        return evaluation
    shifted = {name: _shifted(rows, terrains) for name, rows in found.items()}
    results = tuple(replace(result, shifts=shifted.get(result.name)) for result in evaluation.results)
    return replace(evaluation, results=results)


def _clipped(predict: Predict) -> Predict:
    return lambda sar: np.clip(predict(sar), 0, 255)


def _shifted(rows: Sequence[NDArray[np.float64]], terrains: Sequence[str]) -> Shifted:
    """Score all chips, and those of each class."""
    by_class = {
        name: shift_score([row for row, terrain in zip(rows, terrains, strict=True) if terrain == name])
        for name in sorted(set(terrains))
        if name
    }
    return Shifted(shift_score(rows), by_class)
