"""Amplify a generator's detail: train its last blocks to draw its own output with stronger octaves.

A generator trained to explain as much of the truth as possible draws faint detail: the less it can predict of an
octave, the fainter. Amplified, this detail looks as sharp as an optical image and correlates with the truth as
before, whereas detail that a discriminator or a texture term adds is invented.

The earlier blocks keep their weights and batch-norm statistics, so the position of the detail does not change. No
optical image is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sar2optical.models.detail import DetailGenerator
from sar2optical.training.losses import correlation_loss, octave_loss, reconstruction_loss, ssim_loss

__all__ = ["SIGMAS", "amplified", "amplify"]

SIGMAS = (0.8, 1.6, 3.2, 6.4)
"""Sigmas in pixels of the Gaussian blurs that separate the octaves."""
_TRAINED = ("decoder.dec4", "decoder.dec5", "decoder.dec6", "head")
_WEIGHTS = (100.0, 30.0, 3.0, 20.0)  # L1, SSIM, octave, correlation
_DECAY_FROM = 0.4


def amplified(image: Tensor, gains: Sequence[float]) -> Tensor:
    """Multiply each octave of an image by a gain.

    Parameters
    ----------
    image
        float32 (N, C, H, W), sides of at least 20 pixels; padded by reflection.
    gains
        One gain per sigma, the finest first; the k-th multiplies the difference between the blurs before and after
        the k-th sigma, which are applied one after the other.

    Returns
    -------
    Tensor
        float32 (N, C, H, W), with an unchanged mean.
    """
    result = finer = image
    for sigma, gain in zip(SIGMAS, gains, strict=True):
        coarser = _blurred(finer, sigma)
        result = result + (gain - 1) * (finer - coarser)
        finer = coarser
    return result


def amplify(
    generator: DetailGenerator,
    windows: Callable[[int], tuple[Tensor, Sequence[Sequence[float]]]],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.99,
    precision: torch.dtype = torch.float32,
) -> DetailGenerator:
    """Train the last blocks of a copy of the generator towards its amplified outputs.

    Parameters
    ----------
    generator
        Generator to start from; it is not changed.
    windows
        Function of the step that returns SAR, float32 (N, C, H, W) in [-1, 1], and the gains of each window.
    steps
        Number of updates; the learning rate falls linearly to 0 after 40 % of them.
    learning_rate
        Learning rate of Adam.
    ema_decay
        Decay of the moving average of the weights, which is returned.
    precision
        Dtype of the convolutions.

    Returns
    -------
    DetailGenerator
        The moving average, in eval mode.
    """
    teacher = copy.deepcopy(generator).eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    trained = [p.requires_grad_() for name, p in student.named_parameters() if name.startswith(_TRAINED)]
    average = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(trained, learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (steps - step) / (steps * (1 - _DECAY_FROM)))
        sar, gains = windows(step)
        with torch.autocast(sar.device.type, precision, enabled=precision != torch.float32):
            with torch.no_grad():
                plain = teacher(sar).float()
            drawn = student(sar).float().contiguous()
        target = torch.cat([amplified(one[None], some) for one, some in zip(plain, gains, strict=True)]).clamp(-1, 1)
        terms = (reconstruction_loss, ssim_loss, octave_loss, correlation_loss)
        loss = sum(weight * term(target, drawn) for weight, term in zip(_WEIGHTS, terms, strict=True))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), student.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
    return average


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    channels = image.shape[1]
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    padded = pad(image, (reach, reach, reach, reach), mode="reflect")
    return conv2d(conv2d(padded, kernel[..., None], groups=channels), kernel[..., None, :], groups=channels)
