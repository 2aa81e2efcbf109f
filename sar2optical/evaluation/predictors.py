"""Predictors that an evaluation compares: generators, engines, per-pixel baselines and the SAR image itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.pairs import Chips, SarArray, encoded
from sar2optical.errors import DataError
from sar2optical.evaluation.detail import better_sign, radar_picture
from sar2optical.signature import listed

if TYPE_CHECKING:
    from sar2optical.engines import Engine
    from sar2optical.models.generator import Generator

__all__ = [
    "RADAR",
    "Candidate",
    "Predict",
    "SeesTruth",
    "baselines",
    "engine_prediction",
    "generator_prediction",
    "linear_fit",
    "mean_colour",
    "radar",
]

Predict = Callable[[SarArray], NDArray[np.float64]]
"""SAR (C, H, W) as in `Chips` -> optical (3, H, W) in grey levels, unrounded and unclipped."""


@dataclass(frozen=True)
class SeesTruth:
    """Baseline that sees the truth: an upper bound to compare with, not a prediction."""

    choose: Callable[[SarArray, NDArray[np.uint8]], NDArray[np.float64]]
    """SAR as for `Predict` and optical truth (3, H, W) -> optical (3, H, W) in grey levels."""


Candidate = Predict | SeesTruth


def generator_prediction(generator: Generator) -> Predict:
    """Make a predictor from a generator in eval mode; runs in float32 on the device of its weights."""
    import torch

    @torch.inference_mode()
    def predict(sar: SarArray) -> NDArray[np.float64]:
        given = torch.from_numpy(encoded(sar)[None]).to(next(generator.parameters()).device)
        if len(sar) == 1:  # a generator with more channels expects copies of the band
            given = given.expand(-1, generator.arguments.in_channels, -1, -1)
        return np.asarray((generator(given)[0].double().cpu().numpy() + 1) * 127.5)

    return predict


def engine_prediction(engine: Engine) -> Predict:
    """Make a predictor from an engine; a single band is repeated if the model expects copies of it.

    A window smaller than the model's is padded by reflection at its bottom and right edges, as a small scene is, and
    the output is cropped to it.

    Raises
    ------
    DataError
        The model's signature needs version 2. Raised by the predictor if a chip's number of bands is not the model's.
    """
    signature = engine.signature
    if not signature.is_version_1:
        raise DataError(
            f"{signature.name}: evaluation does not support a signature of version 2: give a model with a "
            "signature of version 1"
        )

    def predict(sar: SarArray) -> NDArray[np.float64]:
        if len(sar) != len(signature.bands):
            raise DataError(
                f"the chips have {len(sar)} bands, but {signature.name} takes {listed(*signature.bands)}: "
                "give chips with these bands, or choose them with --band"
            )
        height, width = sar.shape[1:]
        lacking = [(0, max(0, signature.window - side)) for side in (height, width)]
        given = np.pad(encoded(sar), [(0, 0), *lacking], mode="reflect")[None]
        if signature.replicated:
            given = np.repeat(given, signature.channels, axis=1)
        return np.asarray((engine.run(given)[0, :, :height, :width].astype(np.float64) + 1) * 127.5)

    return predict


def mean_colour(train: Iterable[Chips]) -> Predict:
    """Make a predictor that gives the mean colour of the training pairs for every pixel."""
    return _mean_colour(_moments(train))


def linear_fit(train: Iterable[Chips]) -> Predict:
    """Make a predictor of each colour as offset + slope * SAR level per band, by least squares over all pixels."""
    return _linear_fit(_moments(train))


def baselines(train: Iterable[Chips], fitted_on: str = "") -> dict[str, Predict]:
    """Fit both per-pixel baselines in one pass over the chips; `fitted_on` is appended to their names in brackets."""
    moments, note = _moments(train), f" ({fitted_on})" if fitted_on else ""
    return {f"mean colour{note}": _mean_colour(moments), f"linear fit{note}": _linear_fit(moments)}


def radar(sar: SarArray) -> NDArray[np.float64]:
    """Predict the SAR image itself: its first band, repeated as three colours."""
    return radar_picture(encoded(sar)[0])


RADAR: Mapping[str, Candidate] = {
    "radar": radar,
    "radar, better sign": SeesTruth(lambda sar, truth: better_sign(truth, radar(sar))),
}
"""The SAR image, and for each window the SAR image or its negative, whichever fits the truth better."""


def _moments(train: Iterable[Chips]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum products over all pixels: (1 + C, 1 + C) of 1 and the SAR bands, (1 + C, 3) of these with the colours."""
    own: NDArray[np.float64] | None = None
    cross = np.zeros(0)
    for chips in train:
        bands = encoded(chips.sar).reshape(len(chips.sar), -1).astype(np.float64)
        design = np.concatenate((np.ones((1, bands.shape[1])), bands))
        colours = chips.optical.reshape(3, -1).astype(np.float64)
        own = design @ design.T + (0 if own is None else own)
        cross = design @ colours.T + (0 if not cross.size else cross)
    if own is None:
        raise DataError("no chips to fit the baselines on: give a folder that holds s1 and s2")
    return own, cross


def _mean_colour(moments: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Predict:
    own, cross = moments
    colour = cross[0] / own[0, 0]
    return lambda sar: np.broadcast_to(colour[:, None, None], (3, *sar.shape[1:]))


def _linear_fit(moments: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Predict:
    own, cross = moments
    # The least-norm solution gives the mean colour where the SAR has a single level; a direct solve would fail.
    weights = np.linalg.lstsq(own / own[0, 0], cross / own[0, 0], rcond=None)[0]

    def predict(sar: SarArray) -> NDArray[np.float64]:
        return np.asarray(weights[0][:, None, None] + np.tensordot(weights[1:].T, encoded(sar), axes=1))

    return predict
