"""The objective of pix2pix: conditional GAN plus L1 (Isola et al. 2017, equations 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of the cross entropies of real logits against 1 and fake logits against 0.

    The mean halves the objective, which slows the discriminator down against the generator
    (Isola et al. 2017, section 3.3).
    """
    real, fake = real.float(), fake.float()
    on_real = binary_cross_entropy_with_logits(real, torch.ones_like(real))
    on_fake = binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return (on_real + on_fake) / 2


def adversarial_loss(fake: Tensor) -> Tensor:
    """Cross entropy of fake logits against 1: the generator wants to be believed."""
    fake = fake.float()
    return binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def reconstruction_loss(optical: Tensor, fake: Tensor) -> Tensor:
    """Mean absolute difference of images in [-1, 1]."""
    return l1_loss(fake.float(), optical)
