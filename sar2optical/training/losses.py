"""Losses: adversarial objectives, and distances between a generated image and the truth."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, l1_loss, mse_loss, relu, softplus

from sar2optical.training.config import Objective

__all__ = [
    "adversarial_loss",
    "correlation_loss",
    "discriminator_loss",
    "multiscale_ssim_loss",
    "octave_loss",
    "reconstruction_loss",
    "squared_loss",
    "ssim_loss",
    "texture_loss",
]

_SIDE = 11  # of the SSIM window, and its sigma (Wang et al. 2004, section III-B)
_SIGMA = 1.5
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # same source; the range of [-1, 1] is 2
_BOX = 32  # pixels; large enough for several grains of a texture
_SSIM_SCALES = (2, 4)  # at full resolution, misregistered pairs dominate SSIM
_CORRELATION_SCALES = (1, 4, 16)
_OCTAVES = {1: 0.3, 2: 1.0, 4: 1.0, 8: 1.0}  # block side: weight; low for single pixels, where a chequerboard fits
_LEAST_BOX = 4  # blocks; a smaller box does not sample a texture
_FLAT = 1e-5  # gradient energy or variance treated as 0: 0.4 grey levels


def discriminator_loss(real: Tensor, fake: Tensor, objective: Objective = "vanilla") -> Tensor:
    """Compute the discriminator's loss, mean over real and fake.

    The mean halves the objective, which slows the discriminator relative to the generator (Isola et al. 2017,
    section 3.3).

    Parameters
    ----------
    real, fake
        Logits of real and generated images, of any shape.
    objective
        "vanilla": cross entropy against 1 and 0 (Goodfellow et al. 2014); "lsgan": squared distance from 1 and 0
        (Mao et al. 2017, equation 9); "hinge": max(0, 1 - real) and max(0, 1 + fake) (Lim and Ye 2017).

    Returns
    -------
    Tensor
        float32 scalar.
    """
    real, fake = real.float(), fake.float()
    if objective == "vanilla":
        halves = softplus(-real).mean(), softplus(fake).mean()
    elif objective == "lsgan":
        halves = (real - 1).square().mean(), fake.square().mean()
    else:
        halves = relu(1 - real).mean(), relu(1 + fake).mean()
    return (halves[0] + halves[1]) / 2


def adversarial_loss(fake: Tensor, objective: Objective = "vanilla") -> Tensor:
    """Compute the generator's adversarial loss, see `discriminator_loss`; "hinge" may be negative."""
    fake = fake.float()
    if objective == "vanilla":
        return softplus(-fake).mean()
    if objective == "lsgan":
        return (fake - 1).square().mean()
    return -fake.mean()


def reconstruction_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute the mean absolute difference of images in [-1, 1]."""
    return l1_loss(fake.float(), optical)


def squared_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute the mean squared difference of images in [-1, 1]."""
    return mse_loss(fake.float(), optical.float())


def ssim_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute 1 - SSIM, mean over images, channels and full windows (Wang et al. 2004, equation 13).

    Parameters
    ----------
    optical, fake
        Images (N, C, H, W) in [-1, 1], sides of at least 11 pixels.
    """
    x, y = optical.float().contiguous(), fake.float().contiguous()
    mean_x, mean_y, xx, yy, xy = _smooth(torch.cat((x, y, x * x, y * y, x * y), 1)).chunk(5, 1)
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x.square() + yy - mean_y.square()
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    return 1 - (luminance * (2 * covariance + _C2) / (variances + _C2)).mean()


def texture_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute the squared error of local gradient energy, divided by its mean square.

    Compares the amount of detail, not its position. L1 and SSIM reward blur where details cannot be predicted from
    the SAR image, but the energy of details can: cities have it, water does not. The error is squared so that its
    minimum is at the mean of the true energy, not at the median, which is lower.

    Parameters
    ----------
    optical, fake
        Images (N, C, H, W) in [-1, 1], sides of at least 32 pixels.

    Returns
    -------
    Tensor
        float32 scalar; 0 for equal energies in all boxes of 32 x 32 pixels, near 1 for a flat image.
    """
    real, made = _local_energy(optical.float()), _local_energy(fake.float())
    return (made - real).square().mean() / real.square().mean().clamp_min(1e-12)


def multiscale_ssim_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute 1 - SSIM after averaging blocks of 2 x 2 and of 4 x 4 pixels, mean of both.

    Parameters
    ----------
    optical, fake
        Images (N, C, H, W) in [-1, 1], sides of at least 44 pixels.
    """
    losses = [ssim_loss(_averaged(optical, k), _averaged(fake, k)) for k in _SSIM_SCALES]
    return torch.stack(losses).mean()


def correlation_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compute 1 - Pearson's correlation, mean over images and three scales: pixels, 4 x 4 and 16 x 16 blocks.

    The colours of an image are weighted by their share of its variance. Gain and offset have no effect, so chips that
    were stretched individually can be used together. The square of the correlation is the share of variance that is
    explained after the best fit of gain and offset.

    Parameters
    ----------
    optical, fake
        Images (N, C, H, W) in [-1, 1], sides of at least 32 pixels.

    Returns
    -------
    Tensor
        float32 scalar from 0 to 2; 1 for a flat image.
    """
    return torch.stack([_uncorrelated(_averaged(optical, k), _averaged(fake, k)) for k in _CORRELATION_SCALES]).mean()


def octave_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compare the amount of detail in each octave, not its position; see `texture_loss`.

    Images are averaged over blocks of 1, 2, 4 and 8 pixels, because `texture_loss`, which sees single pixels only,
    was minimised by a one-pixel chequerboard. The error is that of the root of local gradient energy, whose gradient
    does not vanish for a flat image.

    The loss asks for detail in brightness. In colour it only penalises more detail than the truth has: asking for
    detail there gave pink and green grains, which have the same energy as grey ones.

    Parameters
    ----------
    optical, fake
        Images (N, 3, H, W) in [-1, 1], sides of at least 72 pixels.

    Returns
    -------
    Tensor
        float32 scalar; 0 for equal energies in all boxes and octaves, near 3.3 for a flat image.
    """
    optical, fake = _opponent(optical), _opponent(fake)
    total = torch.zeros((), device=fake.device)
    for side, weight in _OCTAVES.items():
        box = max(2 * _BOX // side, _LEAST_BOX) if side > 1 else _BOX
        real, made = (
            (avg_pool2d(_energy(_averaged(image, side)), box, box // 2) + _FLAT).sqrt() for image in (optical, fake)
        )
        error = (made - real) / real.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
        error = torch.cat((error[:, :1], relu(error[:, 1:])), dim=1)
        total = total + weight * error.square().mean(dim=(0, 2, 3)).sum()
    return total


def _opponent(image: Tensor) -> Tensor:
    """Convert RGB to brightness, red - blue and green - magenta: orthonormal, so the energies add up to RGB's."""
    red, green, blue = image.float().unbind(1)
    axes = (red + green + blue) / 3**0.5, (red - blue) / 2**0.5, (2 * green - red - blue) / 6**0.5
    return torch.stack(axes, dim=1)


def _averaged(image: Tensor, side: int) -> Tensor:
    return image.float() if side == 1 else avg_pool2d(image.float(), side)


def _uncorrelated(optical: Tensor, fake: Tensor) -> Tensor:
    x, y = (image.flatten(2) - image.flatten(2).mean(2, keepdim=True) for image in (optical, fake))
    xx, yy, xy = (x * x).mean(2), (y * y).mean(2), (x * y).mean(2)
    correlation = xy / (xx * yy + _FLAT**2).sqrt()
    share = xx / (xx.sum(1, keepdim=True) + _FLAT)
    return 1 - (share * correlation).sum(1).mean()


def _local_energy(image: Tensor) -> Tensor:
    """Average `_energy` over channels and boxes of 32 pixels, every 16 pixels: (N, C, H, W) -> (N, 1, h, w)."""
    return avg_pool2d(_energy(image).mean(1, keepdim=True), _BOX, _BOX // 2)


def _energy(image: Tensor) -> Tensor:
    """Sum the squared forward differences along both axes: (N, C, H, W) -> (N, C, H - 1, W - 1)."""
    right = image.diff(dim=-1)[..., :-1, :]
    down = image.diff(dim=-2)[..., :-1]
    return right.square() + down.square()


def _smooth(x: Tensor) -> Tensor:
    """Compute the Gaussian-weighted mean of each full window: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    offsets = torch.arange(_SIDE, dtype=x.dtype, device=x.device) - _SIDE // 2
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, _SIDE)
    rows = conv2d(x, kernel[..., None], groups=x.shape[1])
    return conv2d(rows, kernel[..., None, :], groups=x.shape[1])
