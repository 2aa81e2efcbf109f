"""Scores of a generator on held-out pairs, beside two baselines that look at no neighbourhood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips
from sar2optical.metrics import psnr, ssim
from sar2optical.models.unet import UNetGenerator
from sar2optical.training.loop import to_tensor

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""SAR bytes (1, H, W) -> optical in grey levels (3, H, W)."""


@dataclass(frozen=True)
class Score:
    """Means over chips."""

    psnr: float
    """dB, on grey levels."""
    ssim: float
    """On grey levels, mean of red, green and blue."""
    chips: int


def score(predict: Predict, pairs: Sequence[Chips], *, window: int = 256) -> Score:
    """Score a prediction on every whole window of the pairs."""
    scores = []
    for pair in pairs:
        for sar, optical in grid_windows(pair, window):
            fake = np.clip(predict(sar), 0, 255)
            scores.append([metric(optical, fake, data_range=255) for metric in (psnr, ssim)])
    means = np.mean(scores, axis=0)
    return Score(float(means[0]), float(means[1]), len(scores))


def generator_prediction(generator: UNetGenerator) -> Predict:
    """Predict with a generator in eval mode, in float32."""

    @torch.inference_mode()
    def predict(sar: NDArray[np.uint8]) -> NDArray[np.float64]:
        fake = generator(to_tensor(sar[None]))[0]
        return np.asarray((fake.double().numpy() + 1) * 127.5)

    return predict


def mean_colour(train: Sequence[Chips]) -> Predict:
    """Predict the training pairs' mean colour everywhere."""
    colour = np.mean([pair.optical.mean(axis=(1, 2)) for pair in train], axis=0)
    return lambda sar: np.broadcast_to(colour[:, None, None], (3, *sar.shape[1:]))


def linear_fit(train: Sequence[Chips]) -> Predict:
    """Predict each colour as offset + slope * SAR level, least squares over the training pixels."""
    sar = np.concatenate([pair.sar.ravel() for pair in train]).astype(np.float64)
    fits = []
    for band in range(3):
        optical = np.concatenate([pair.optical[band].ravel() for pair in train]).astype(np.float64)
        slope = np.mean((sar - sar.mean()) * (optical - optical.mean())) / sar.var()
        fits.append((optical.mean() - slope * sar.mean(), slope))
    return lambda level: np.stack([offset + slope * level[0].astype(np.float64) for offset, slope in fits])
