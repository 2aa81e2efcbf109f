"""Objectives: adversarial terms in three forms, and how far an image is from the true one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, l1_loss, mse_loss, relu, softplus

from sar2optical.training.config import Objective

_SIDE = 11  # of the SSIM window, and its sigma (Wang et al. 2004, section III-B)
_SIGMA = 1.5
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # same source; the range of [-1, 1] is 2
_BOX = 32  # pixels; a texture is judged over a few of its grains
_SSIM_SCALES = (2, 4)  # at full resolution, pairs that lie some pixels apart cost SSIM whatever is drawn
_CORRELATION_SCALES = (1, 4, 16)
_OCTAVES = {1: 0.3, 2: 1.0, 4: 1.0, 8: 1.0}  # block side: weight; little for single pixels, where a chequerboard fits
_LEAST_BOX = 4  # blocks; under so many, a box is no sample of a texture
_FLAT = 1e-5  # gradient energy, or variance, that counts as none: 0.4 grey levels


def discriminator_loss(real: Tensor, fake: Tensor, objective: Objective = "vanilla") -> Tensor:
    """Say how badly a discriminator tells real from fake: the mean over both halves.

    The mean halves the objective, which slows the discriminator down against the generator
    (Isola et al. 2017, section 3.3).

    Parameters
    ----------
    real, fake
        Logits of any shape.
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
    """Say how little a generator is believed: the same sources' terms for fake logits; "hinge" may be negative."""
    fake = fake.float()
    if objective == "vanilla":
        return softplus(-fake).mean()
    if objective == "lsgan":
        return (fake - 1).square().mean()
    return -fake.mean()


def reconstruction_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Mean absolute difference of images in [-1, 1]."""
    return l1_loss(fake.float(), optical)


def squared_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Mean squared difference of images in [-1, 1]."""
    return mse_loss(fake.float(), optical.float())


def ssim_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """1 - SSIM, mean over images, channels and full windows (Wang et al. 2004, equation 13).

    Parameters
    ----------
    optical, fake
        (N, C, H, W) in [-1, 1], sides of 11 or more.
    """
    x, y = optical.float().contiguous(), fake.float().contiguous()
    mean_x, mean_y, xx, yy, xy = _smooth(torch.cat((x, y, x * x, y * y, x * y), 1)).chunk(5, 1)
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x.square() + yy - mean_y.square()
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    return 1 - (luminance * (2 * covariance + _C2) / (variances + _C2)).mean()


def texture_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compare how much detail there is, not where: squared error of local gradient energy, over its mean square.

    L1 and SSIM both reward a blur where details cannot be told from the SAR image. The energy of details can be told:
    cities have it, water has not. The error is squared because the energy that is then expected of an image is the
    true one's mean, and not its median, which is lower.

    Parameters
    ----------
    optical, fake
        (N, C, H, W) in [-1, 1], sides of 32 or more.

    Returns
    -------
    Tensor
        float32 scalar; 0 for equal energies in all boxes of 32 x 32 pixels, near 1 for a flat fake.
    """
    real, made = _local_energy(optical.float()), _local_energy(fake.float())
    return (made - real).square().mean() / real.square().mean().clamp_min(1e-12)


def multiscale_ssim_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """1 - SSIM after averaging blocks of 2 x 2 and of 4 x 4 pixels, mean of both.

    Parameters
    ----------
    optical, fake
        (N, C, H, W) in [-1, 1], sides of 44 or more.
    """
    losses = [ssim_loss(_averaged(optical, k), _averaged(fake, k)) for k in _SSIM_SCALES]
    return torch.stack(losses).mean()


def correlation_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """1 - Pearson's correlation, mean over images and three scales: single pixels, blocks of 4 x 4 and of 16 x 16.

    Colours of an image count by their share of its variance. Gain and offset of an image do not count, so chips that
    were stretched one by one to different brightness can be learned from together. The square of the correlation is
    the share of variance that is explained after the best fit of gain and offset.

    Parameters
    ----------
    optical, fake
        (N, C, H, W) in [-1, 1], sides of 32 or more.

    Returns
    -------
    Tensor
        float32 scalar from 0 to 2; 1 for a flat fake.
    """
    return torch.stack([_uncorrelated(_averaged(optical, k), _averaged(fake, k)) for k in _CORRELATION_SCALES]).mean()


def octave_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Compare how much detail there is in each octave, not where; see `texture_loss`.

    Images are averaged over blocks of 1, 2, 4 and 8 pixels. `texture_loss` sees single pixels only, and was satisfied
    by a chequerboard of one pixel. Errors are those of the root of local gradient energy: its slope does not vanish
    where the fake is flat.

    Detail is asked for in brightness. In colour it is only held down to the true image's: asked for there too, it
    came as pink and green grains, which cost the energy no more than grey ones.

    Parameters
    ----------
    optical, fake
        (N, 3, H, W) in [-1, 1], sides of 72 or more.

    Returns
    -------
    Tensor
        float32 scalar; 0 for equal energies in all boxes and octaves, near 3.3 for a flat fake.
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
    """RGB -> brightness, red against blue, green against both: orthonormal, so energies add up to those of RGB."""
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
    """Mean squared step to the right and down: (N, C, H, W) -> (N, 1, h, w), a box of 32 every 16 pixels."""
    return avg_pool2d(_energy(image).mean(1, keepdim=True), _BOX, _BOX // 2)


def _energy(image: Tensor) -> Tensor:
    """Squared step to the right and down, at each pixel: (N, C, H, W) -> (N, C, H - 1, W - 1)."""
    right = image.diff(dim=-1)[..., :-1, :]
    down = image.diff(dim=-2)[..., :-1]
    return right.square() + down.square()


def _smooth(x: Tensor) -> Tensor:
    """Gaussian-weighted mean of each full window: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    offsets = torch.arange(_SIDE, dtype=x.dtype, device=x.device) - _SIDE // 2
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, _SIDE)
    rows = conv2d(x, kernel[..., None], groups=x.shape[1])
    return conv2d(rows, kernel[..., None, :], groups=x.shape[1])
