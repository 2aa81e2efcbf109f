"""Scores of generators on held-out pairs, beside two baselines that look at no neighbourhood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips, Pair, Reading, SarArray, read_pair
from sar2optical.errors import DataError
from sar2optical.metrics import bootstrap_ratios, gradient_energy, l1, psnr, sam, ssim
from sar2optical.training.fid import Distances, Features, distances

if TYPE_CHECKING:
    from sar2optical.engines import Engine
    from sar2optical.models.unet import UNetGenerator

Predict = Callable[[SarArray], NDArray[np.float64]]
"""SAR (C, H, W) as in `Chips` -> optical in grey levels (3, H, W), not rounded, perhaps beyond 0 to 255."""

METRICS = ("psnr", "ssim", "sam", "l1", "gradient_ratio")
"""Figures of each window, in the order of `Scores`."""

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class Score:
    """Means over windows, without intervals: what training watches."""

    psnr: float
    """dB, on grey levels."""
    ssim: float
    """On grey levels, mean of red, green and blue."""
    l1: float
    """Mean absolute error in grey levels."""
    gradient_ratio: float
    """Gradient energy of all predictions over that of all truths: below 1 is smoother than the truth."""
    chips: int
    """Windows scored."""


@dataclass(frozen=True)
class Figure:
    """A mean with its bootstrap interval."""

    value: float
    low: float | None = None
    """Lower end; None where fewer than two chips leave nothing to resample."""
    high: float | None = None


@dataclass(frozen=True)
class Scores:
    """Figures of one predictor on one set of chips."""

    psnr: Figure
    """dB, on grey levels."""
    ssim: Figure
    """On grey levels, mean of red, green and blue."""
    sam: Figure
    """Degrees."""
    l1: Figure
    """Mean absolute error in grey levels."""
    gradient_ratio: Figure
    """See `Score.gradient_ratio`."""
    chips: int
    windows: int


@dataclass(frozen=True)
class Result:
    """What one predictor scored."""

    name: str
    overall: Scores
    terrain: dict[str, Scores]
    """By terrain class; empty where chips have none."""
    distances: Distances | None
    """FID and KID; None without a feature extractor."""


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
    candidates: Mapping[str, Predict],
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
        Extractor for FID and KID, see `sar2optical.training.fid`; without it there are none.
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
    names: list[str] = []
    terrains: list[str] = []
    for sample in samples:
        cut = grid_windows(sample.chips, window)
        if not cut:
            continue
        for name, predict in candidates.items():
            measured, fakes = _predicted(predict, cut)
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
    return Evaluation(results, window, tuple(names), tuple(windows))


def _predicted(
    predict: Predict, windows: Sequence[tuple[SarArray, NDArray[np.uint8]]]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Measure each window: (n, 2, 5); also give the predictions as they would be saved: (n, 3, H, W)."""
    rows, fakes = [], []
    for sar, truth in windows:
        fake = np.clip(predict(sar), 0, 255)
        rows.append(measure(truth, fake))
        fakes.append(np.rint(fake).astype(np.uint8))
    return np.stack(rows), np.stack(fakes)


def measure(truth: NDArray[np.uint8], fake: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compare one window, such that sums over windows divide to means.

    Parameters
    ----------
    truth, fake
        (3, H, W) in grey levels.

    Returns
    -------
    ndarray
        float64 (2, 5): numerators and denominators of `METRICS`.
    """
    angle = sam(truth, fake)
    defined = not math.isnan(angle)  # nothing but black has no angle
    figures = psnr(truth, fake, data_range=255), ssim(truth, fake, data_range=255)
    return np.array(
        [
            [*figures, angle if defined else 0.0, l1(truth, fake), gradient_energy(fake)],
            [1.0, 1.0, float(defined), 1.0, gradient_energy(truth)],
        ]
    )


def _by_terrain(rows: Sequence[NDArray[np.float64]], terrains: NDArray[np.str_]) -> tuple[Scores, dict[str, Scores]]:
    """Add up each chip's windows, then score all chips, and those of each class."""
    tally = np.stack([measured.sum(axis=0) for measured in rows])
    counts = np.array([len(measured) for measured in rows])
    chosen = {str(name): terrains == name for name in np.unique(terrains) if name}
    return (
        _scores(tally, int(counts.sum())),
        {name: _scores(tally[mask], int(counts[mask].sum())) for name, mask in chosen.items()},
    )


def _scores(tally: NDArray[np.float64], windows: int) -> Scores:
    values, low, high = bootstrap_ratios(tally, resamples=RESAMPLES, level=LEVEL, seed=SEED)
    ends = [
        (None, None) if math.isnan(a) or math.isnan(b) else (float(a), float(b))
        for a, b in zip(low, high, strict=True)
    ]
    psnr_, ssim_, sam_, l1_, ratio = (Figure(float(value), *pair) for value, pair in zip(values, ends, strict=True))
    return Scores(psnr_, ssim_, sam_, l1_, ratio, len(tally), windows)


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
    return Score(means["psnr"], means["ssim"], means["l1"], means["gradient_ratio"], len(rows))


def encoded(sar: SarArray) -> NDArray[np.float32]:
    """Bring SAR as in `Chips` to [-1, 1]: bytes by x / 127.5 - 1, encoded values as they are."""
    return sar.astype(np.float32) / np.float32(127.5) - 1 if sar.dtype == np.uint8 else sar.astype(np.float32)


def generator_prediction(generator: UNetGenerator) -> Predict:
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

    Raises
    ------
    DataError
        From the prediction, where the chip has another number of bands than the model.
    """
    signature = engine.signature

    def predict(sar: SarArray) -> NDArray[np.float64]:
        if len(sar) != len(signature.bands):
            raise DataError(
                f"chips of {len(sar)} bands, {signature.name} takes {','.join(signature.bands)}: give chips that fit"
            )
        given = encoded(sar)[None]
        if signature.replicated:
            given = np.repeat(given, signature.channels, axis=1)
        return np.asarray((engine.run(given)[0].astype(np.float64) + 1) * 127.5)

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
