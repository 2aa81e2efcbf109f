"""Score predictors on held-out pairs, with bootstrap intervals and by terrain class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips, Pair, Reading, SarArray, encoded, read_pair
from sar2optical.errors import DataError
from sar2optical.evaluation.dark import DarkArea, dark_areas
from sar2optical.evaluation.detail import corner_share
from sar2optical.evaluation.fid import Distances, Features, distances
from sar2optical.evaluation.metrics import bootstrap_ratios
from sar2optical.evaluation.predictors import Candidate, Predict, SeesTruth
from sar2optical.evaluation.scores import (
    LEVEL,
    METRICS,
    RESAMPLES,
    SEED,
    Figure,
    Score,
    Scores,
    figure_of,
    measure,
    scores_of,
)
from sar2optical.evaluation.shifts import Shifted

__all__ = ["Evaluation", "Result", "Sample", "WindowScore", "evaluate", "read_samples", "score"]


@dataclass(frozen=True)
class Result:
    """Scores of one predictor."""

    name: str
    overall: Scores
    terrain: dict[str, Scores]
    """Scores by terrain class; empty if the chips have no classes."""
    distances: Distances | None
    """FID and KID; None without a feature extractor."""
    shifts: Shifted | None = None
    """Shift consistency; None if it was not measured."""
    lpips: Figure | None = None
    """LPIPS, mean over windows; None without a network for it."""
    per_chip: tuple[dict[str, float], ...] = ()
    """Figures of each chip, by name (`METRICS`, and lpips), in the order of `Evaluation.chips`."""


@dataclass(frozen=True)
class WindowScore:
    """PSNR of the first predictor on one window; used to choose the windows to draw."""

    chip: int
    """Index of the chip's name in `Evaluation.chips`."""
    window: int
    """Index of the window among the chip's grid windows."""
    psnr: float
    """PSNR in dB."""


@dataclass(frozen=True)
class Evaluation:
    """Results of all predictors on the same windows."""

    results: tuple[Result, ...]
    window: int
    """Side of the windows in pixels."""
    chips: tuple[str, ...]
    """Names of the chips, in reading order."""
    windows: tuple[WindowScore, ...]
    truth_corner_share: float
    """Mean `corner_share` of the truth, to compare the predictions' with; nan if all windows are flat."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; infinite and undefined figures become null."""
        record = {
            "window": self.window,
            "chips": list(self.chips),
            "windows": len(self.windows),
            "interval": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "resampled": "chips"},
            "results": [asdict(result) for result in self.results],
        }
        finite: dict[str, Any] = _finite(record)
        return finite


@dataclass(frozen=True)
class Sample:
    """A pair with its name and terrain class."""

    name: str
    terrain: str
    """Terrain class; empty if there is none."""
    chips: Chips


def read_samples(pairs: Sequence[Pair], root: Path, reading: Reading | None = None) -> Iterator[Sample]:
    """Read pairs one after another; raises what `read_pair` raises."""
    for pair in pairs:
        name = pair.sar.relative_to(root).as_posix() if pair.sar.is_relative_to(root) else str(pair.sar)
        yield Sample(name, pair.terrain, read_pair(pair, reading))


def evaluate(
    candidates: Mapping[str, Candidate],
    samples: Iterable[Sample],
    *,
    window: int,
    features: Features | None = None,
    lpips: Features | None = None,
    on_progress: Callable[[], None] | None = None,
) -> Evaluation:
    """Score predictors on every whole window of the samples.

    Means are over windows. Intervals are percentiles (Efron 1979) of the mean over chips drawn with replacement:
    the windows of one chip are correlated, so they are drawn together. All predictors see the same draws.

    Parameters
    ----------
    candidates
        Predictors by name; the first one decides which windows are drawn.
    samples
        Pairs to score; read once, in order.
    window
        Side of the windows in pixels.
    features
        Feature extractor for FID and KID, see `sar2optical.evaluation.fid`; None skips both.
    lpips
        Network for LPIPS, see `sar2optical.evaluation.fid.open_lpips`; None skips it.
    on_progress
        Called after each sample.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError
        If no sample holds a whole window.
    """
    tally = _Tally(candidates, features, lpips)
    for sample in samples:
        windows = grid_windows(sample.chips, window)
        if not windows:
            continue
        tally.add(sample, windows)
        if on_progress:
            on_progress()
    if not tally.chips:
        raise _no_window(window)
    return Evaluation(tally.results(), window, tuple(tally.chips), tally.window_scores(), tally.truth_corner_share())


class _Tally:
    """Measurements of all predictors, collected chip by chip."""

    def __init__(
        self, candidates: Mapping[str, Candidate], features: Features | None, lpips: Features | None
    ) -> None:
        self._candidates, self._features, self._lpips = candidates, features, lpips
        self._perceived: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
        self._rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
        self._fake: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
        self._real: list[NDArray[np.float64]] = []
        self._corners: list[float] = []
        self._terrains: list[str] = []
        self.chips: list[str] = []

    def add(self, sample: Sample, windows: Sequence[tuple[SarArray, NDArray[np.uint8]]]) -> None:
        """Measure all predictors on the windows of one chip."""
        self._corners += [corner_share(truth) for _, truth in windows]
        areas = [dark_areas(encoded(sar)[0]) for sar, _ in windows]
        real = np.stack([truth for _, truth in windows])
        for name, candidate in self._candidates.items():
            measured, fakes = _predicted(candidate, windows, areas)
            self._rows[name].append(measured)
            if self._features:
                self._fake[name].append(self._features(fakes))
            if self._lpips:
                self._perceived[name].append(self._lpips(np.concatenate([real, fakes], axis=1))[:, 0])
        if self._features:
            self._real.append(self._features(real))
        self.chips.append(sample.name)
        self._terrains.append(sample.terrain)

    def results(self) -> tuple[Result, ...]:
        """Compute the scores of each predictor."""
        terrains = np.array(self._terrains)
        return tuple(
            Result(
                name,
                *_by_terrain(self._rows[name], terrains),
                self._distances(name),
                lpips=figure_of(self._perceived[name]) if self._lpips else None,
                per_chip=tuple(self._of_chip(name, k) for k in range(len(self.chips))),
            )
            for name in self._candidates
        )

    def _of_chip(self, name: str, k: int) -> dict[str, float]:
        with np.errstate(divide="ignore", invalid="ignore"):  # a figure may be undefined on a chip
            above, below = self._rows[name][k].sum(axis=0)
            found = dict(zip(METRICS, (above / below).tolist(), strict=True))
        return found | ({"lpips": float(self._perceived[name][k].mean())} if self._lpips else {})

    def _distances(self, name: str) -> Distances | None:
        return distances(np.concatenate(self._real), np.concatenate(self._fake[name])) if self._features else None

    def window_scores(self) -> tuple[WindowScore, ...]:
        """List the PSNR of the first predictor on each window."""
        rows = enumerate(self._rows[next(iter(self._candidates))])
        return tuple(WindowScore(chip, k, float(row[0, 0])) for chip, found in rows for k, row in enumerate(found))

    def truth_corner_share(self) -> float:
        """Average the truth's corner share over the windows that are not flat."""
        defined = [share for share in self._corners if not math.isnan(share)]
        return float(np.mean(defined)) if defined else float("nan")


def _predicted(
    candidate: Candidate, windows: Sequence[tuple[SarArray, NDArray[np.uint8]]], areas: Sequence[Sequence[DarkArea]]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Measure each window, (n, 2, 14), and return the predictions as they would be saved, (n, 3, H, W)."""
    rows, fakes = [], []
    for (sar, truth), dark in zip(windows, areas, strict=True):
        found = candidate.choose(sar, truth) if isinstance(candidate, SeesTruth) else candidate(sar)
        fake = np.clip(found, 0, 255)
        rows.append(measure(truth, fake, dark))
        fakes.append(np.rint(fake).astype(np.uint8))
    return np.stack(rows), np.stack(fakes)


def _by_terrain(rows: Sequence[NDArray[np.float64]], terrains: NDArray[np.str_]) -> tuple[Scores, dict[str, Scores]]:
    """Add up each chip's windows, then score all chips and the chips of each class."""
    tally = np.stack([measured.sum(axis=0) for measured in rows])
    counts = np.array([len(measured) for measured in rows])
    masks = {str(name): terrains == name for name in np.unique(terrains) if name}
    return (
        scores_of(tally, int(counts.sum())),
        {name: scores_of(tally[mask], int(counts[mask].sum())) for name, mask in masks.items()},
    )


def score(predict: Predict, pairs: Sequence[Chips], *, window: int = 256) -> Score:
    """Score a predictor on every whole window of the pairs, without intervals.

    Parameters
    ----------
    predict
        Predictor to score.
    pairs
        Chips of at least one window.
    window
        Side of the windows in pixels.

    Raises
    ------
    DataError
        If no chip holds a whole window.
    """
    rows = [
        measure(optical, np.clip(predict(sar), 0, 255))
        for pair in pairs
        for sar, optical in grid_windows(pair, window)
    ]
    if not rows:
        raise _no_window(window)
    values, _, _ = bootstrap_ratios(np.stack([np.sum(rows, axis=0)]))
    means = dict(zip(METRICS, map(float, values), strict=True))
    watched = {field.name: means[field.name] for field in fields(Score) if field.name in means}
    return Score(**watched, chips=len(rows))


def _no_window(window: int) -> DataError:
    return DataError(f"no chip holds a window of {window} x {window} pixels: give larger chips or a smaller --window")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
