"""Scores of generators on held-out pairs, beside per-pixel baselines and the SAR picture itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips, Pair, Reading, SarArray, encoded, read_pair
from sar2optical.errors import DataError
from sar2optical.evaluation import (
    METRICS,
    DarkArea,
    Score,
    Scores,
    Shifted,
    better_sign,
    corner_share,
    dark_areas,
    measure,
    radar_picture,
    scores_of,
)
from sar2optical.evaluation.fid import Distances, Features, distances
from sar2optical.evaluation.figures import LEVEL, RESAMPLES, SEED
from sar2optical.evaluation.metrics import bootstrap_ratios
from sar2optical.signature import listed

if TYPE_CHECKING:
    from sar2optical.engines import Engine
    from sar2optical.models.generator import Generator

Predict = Callable[[SarArray], NDArray[np.float64]]
"""SAR (C, H, W) as in `Chips` -> optical in grey levels (3, H, W), not rounded, perhaps beyond 0 to 255."""


@dataclass(frozen=True)
class SeesTruth:
    """A baseline that is shown the truth: a bound to compare with, and no prediction."""

    choose: Callable[[SarArray, NDArray[np.uint8]], NDArray[np.float64]]
    """SAR as for `Predict`, optical truth (3, H, W) -> optical in grey levels (3, H, W)."""


Candidate = Predict | SeesTruth


@dataclass(frozen=True)
class Result:
    """What one predictor scored."""

    name: str
    overall: Scores
    terrain: dict[str, Scores]
    """By terrain class; empty where chips have none."""
    distances: Distances | None
    """FID and KID; None without a feature extractor."""
    shifts: Shifted | None = None
    """Shift consistency; None where it was not measured."""


@dataclass(frozen=True)
class WindowScore:
    """A window's PSNR with the first predictor: what pictures are chosen by."""

    chip: int
    """Index of its name in `Evaluation.chips`."""
    window: int
    """Index among its grid windows."""
    psnr: float


@dataclass(frozen=True)
class Evaluation:
    """All predictors on the same windows."""

    results: tuple[Result, ...]
    window: int
    """Side in pixels."""
    chips: tuple[str, ...]
    """Names, in the order that they were read."""
    windows: tuple[WindowScore, ...]
    truth_corner_share: float
    """Mean of the truth's `corner_share`: what a prediction's is compared with; nan where all windows are flat."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON: infinite and undefined figures are null."""
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
    """A pair with its name and class."""

    name: str
    terrain: str
    chips: Chips


def read_samples(pairs: Sequence[Pair], root: Path, reading: Reading | None = None) -> Iterator[Sample]:
    """Read pairs one after another; errors are those of `read_pair`."""
    for pair in pairs:
        name = pair.sar.relative_to(root).as_posix() if pair.sar.is_relative_to(root) else str(pair.sar)
        yield Sample(name, pair.terrain, read_pair(pair, reading))


def evaluate(
    candidates: Mapping[str, Candidate],
    samples: Iterable[Sample],
    *,
    window: int,
    features: Features | None = None,
    on_chip: Callable[[], None] | None = None,
) -> Evaluation:
    """Score predictors on every whole window of the samples.

    Means are over windows. Intervals are percentiles (Efron 1979) of the mean over chips drawn with replacement:
    windows of one chip show one place at one time, so they are drawn together. All predictors see the same draws.

    Parameters
    ----------
    candidates
        Names to predictors; pictures are chosen by the first.
    samples
        Read once, in order.
    window
        Side in pixels.
    features
        Extractor for FID and KID, see `sar2optical.evaluation.fid`; without it there are none.
    on_chip
        Told after each sample.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError
        Where no sample holds a whole window.
    """
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
    real: list[NDArray[np.float64]] = []
    seen: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
    corners: list[float] = []
    names: list[str] = []
    terrains: list[str] = []
    for sample in samples:
        cut = grid_windows(sample.chips, window)
        if not cut:
            continue
        corners += [corner_share(truth) for _, truth in cut]
        areas = [dark_areas(encoded(sar)[0]) for sar, _ in cut]
        for name, candidate in candidates.items():
            measured, fakes = _predicted(candidate, cut, areas)
            rows[name].append(measured)
            if features:
                seen[name].append(features(fakes))
        if features:
            real.append(features(np.stack([truth for _, truth in cut])))
        names.append(sample.name)
        terrains.append(sample.terrain)
        if on_chip:
            on_chip()
    if not names:
        raise DataError(f"no chip holds a window of {window}: give larger chips")
    results = tuple(
        Result(
            name,
            *_by_terrain(rows[name], np.array(terrains)),
            distances(np.concatenate(real), np.concatenate(seen[name])) if features else None,
        )
        for name in candidates
    )
    of_first = enumerate(rows[next(iter(candidates))])
    windows = [WindowScore(chip, k, float(row[0, 0])) for chip, found in of_first for k, row in enumerate(found)]
    defined = [share for share in corners if not math.isnan(share)]
    truth_corner = float(np.mean(defined)) if defined else float("nan")
    return Evaluation(results, window, tuple(names), tuple(windows), truth_corner)


def _predicted(
    candidate: Candidate, windows: Sequence[tuple[SarArray, NDArray[np.uint8]]], areas: Sequence[Sequence[DarkArea]]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Measure each window: (n, 2, 14); also give the predictions as they would be saved: (n, 3, H, W)."""
    rows, fakes = [], []
    for (sar, truth), dark in zip(windows, areas, strict=True):
        found = candidate.choose(sar, truth) if isinstance(candidate, SeesTruth) else candidate(sar)
        fake = np.clip(found, 0, 255)
        rows.append(measure(truth, fake, dark))
        fakes.append(np.rint(fake).astype(np.uint8))
    return np.stack(rows), np.stack(fakes)


def _by_terrain(rows: Sequence[NDArray[np.float64]], terrains: NDArray[np.str_]) -> tuple[Scores, dict[str, Scores]]:
    """Add up each chip's windows, then score all chips, and those of each class."""
    tally = np.stack([measured.sum(axis=0) for measured in rows])
    counts = np.array([len(measured) for measured in rows])
    chosen = {str(name): terrains == name for name in np.unique(terrains) if name}
    return (
        scores_of(tally, int(counts.sum())),
        {name: scores_of(tally[mask], int(counts[mask].sum())) for name, mask in chosen.items()},
    )


def score(predict: Predict, pairs: Sequence[Chips], *, window: int = 256) -> Score:
    """Score a prediction on every whole window of the pairs, without intervals.

    Raises
    ------
    DataError
        Where no chip holds a whole window.
    """
    rows = [
        measure(optical, np.clip(predict(sar), 0, 255))
        for pair in pairs
        for sar, optical in grid_windows(pair, window)
    ]
    if not rows:
        raise DataError(f"no chip holds a window of {window}: give larger chips")
    values, _, _ = bootstrap_ratios(np.stack([np.sum(rows, axis=0)]))
    means = dict(zip(METRICS, map(float, values), strict=True))
    watched = {field.name: means[field.name] for field in fields(Score) if field.name in means}
    return Score(**watched, chips=len(rows))


def generator_prediction(generator: Generator) -> Predict:
    """Predict with a generator in eval mode, in float32, where its weights are."""
    import torch

    @torch.inference_mode()
    def predict(sar: SarArray) -> NDArray[np.float64]:
        given = torch.from_numpy(encoded(sar)[None]).to(next(generator.parameters()).device)
        if len(sar) == 1:  # a generator of more channels takes copies of its band
            given = given.expand(-1, generator.arguments.in_channels, -1, -1)
        return np.asarray((generator(given)[0].double().cpu().numpy() + 1) * 127.5)

    return predict


def engine_prediction(engine: Engine) -> Predict:
    """Predict with an engine, as scenes are translated; a single band is repeated where the model wants copies.

    A window smaller than the model's is mirrored at its bottom and right edges, as a scene that is smaller, and the
    output is cut to it.

    Raises
    ------
    DataError
        From the prediction, where the chip has another number of bands than the model.
    """
    signature = engine.signature

    def predict(sar: SarArray) -> NDArray[np.float64]:
        if len(sar) != len(signature.bands):
            raise DataError(
                f"chips of {len(sar)} bands, {signature.name} takes {listed(*signature.bands)}: give chips that fit"
            )
        height, width = sar.shape[1:]
        lacking = [(0, max(0, signature.window - side)) for side in (height, width)]
        given = np.pad(encoded(sar), [(0, 0), *lacking], mode="reflect")[None]
        if signature.replicated:
            given = np.repeat(given, signature.channels, axis=1)
        return np.asarray((engine.run(given)[0, :, :height, :width].astype(np.float64) + 1) * 127.5)

    return predict


def mean_colour(train: Iterable[Chips]) -> Predict:
    """Predict the training pairs' mean colour everywhere."""
    return _mean_colour(_moments(train))


def linear_fit(train: Iterable[Chips]) -> Predict:
    """Predict each colour as offset + slope * SAR level of each band, least squares over the training pixels."""
    return _linear_fit(_moments(train))


def baselines(train: Iterable[Chips], fitted_on: str = "") -> dict[str, Predict]:
    """Fit both baselines, reading the chips once; `fitted_on` goes into their names, in brackets."""
    moments, note = _moments(train), f" ({fitted_on})" if fitted_on else ""
    return {f"mean colour{note}": _mean_colour(moments), f"linear fit{note}": _linear_fit(moments)}


def radar(sar: SarArray) -> NDArray[np.float64]:
    """Give the SAR picture itself, its first band repeated as three colours."""
    return radar_picture(encoded(sar)[0])


RADAR: Mapping[str, Candidate] = {
    "radar": radar,
    "radar, better sign": SeesTruth(lambda sar, truth: better_sign(truth, radar(sar))),
}
"""The SAR picture, and whichever of it and its negative fits the truth better, window by window."""


def _moments(train: Iterable[Chips]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum products over pixels: (1 + C, 1 + C) of 1 and the SAR bands, (1 + C, 3) of those with the colours."""
    own: NDArray[np.float64] | None = None
    cross = np.zeros(0)
    for chips in train:
        bands = encoded(chips.sar).reshape(len(chips.sar), -1).astype(np.float64)
        design = np.concatenate((np.ones((1, bands.shape[1])), bands))
        colours = chips.optical.reshape(3, -1).astype(np.float64)
        own = design @ design.T + (0 if own is None else own)
        cross = design @ colours.T + (0 if not cross.size else cross)
    if own is None:
        raise DataError("no chips to fit baselines on: give a folder with s1 and s2")
    return own, cross


def _mean_colour(moments: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Predict:
    own, cross = moments
    colour = cross[0] / own[0, 0]
    return lambda sar: np.broadcast_to(colour[:, None, None], (3, *sar.shape[1:]))


def _linear_fit(moments: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Predict:
    own, cross = moments
    # Of least norm, so SAR of one level everywhere gives the mean colour, and not an error.
    weights = np.linalg.lstsq(own / own[0, 0], cross / own[0, 0], rcond=None)[0]

    def predict(sar: SarArray) -> NDArray[np.float64]:
        return np.asarray(weights[0][:, None, None] + np.tensordot(weights[1:].T, encoded(sar), axes=1))

    return predict


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
