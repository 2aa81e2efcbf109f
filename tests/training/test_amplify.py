"""Amplified detail of a generator."""

from __future__ import annotations

import math

import pytest
import torch

from sar2optical.models.detail import DetailGenerator
from sar2optical.models.unet import GeneratorArguments
from sar2optical.training.amplify import SIGMAS, amplified, amplify
from sar2optical.training.networks import initialized


def waves(period, size=128):
    """A wave along the columns; its period divides twice the size less two, so mirroring continues it."""
    return torch.cos(2 * math.pi * torch.arange(size) / period).expand(1, 3, size, size).double()


def test_gains_of_1_and_the_mean_are_neutral():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(amplified(image, (1, 1, 1, 1)), image)
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(amplified(flat, (5, 4, 3, 2)), flat)


@pytest.mark.parametrize("period", [4, 16, 64])
def test_a_wave_is_amplified_by_the_gain_of_its_octave(period):
    """A Gaussian blur leaves exp(-2 (pi sigma / period) ** 2) of a wave; blurs after one another multiply."""
    gains, left, expected = (5.0, 4.0, 3.0, 2.0), 1.0, 1.0
    for sigma, gain in zip(SIGMAS, gains, strict=True):
        after = left * math.exp(-2 * (math.pi * sigma / period) ** 2)
        expected += (gain - 1) * (left - after)
        left = after
    wave = waves(period)
    found = amplified(wave, gains)[..., 48:80, 48:80]
    factor = (found * wave[..., 48:80, 48:80]).sum() / wave[..., 48:80, 48:80].square().sum()
    assert factor.item() == pytest.approx(expected, rel=0.02)


def test_only_the_last_blocks_are_trained():
    torch.manual_seed(0)
    arguments = GeneratorArguments(architecture="detail", base_channels=4, in_channels=1)
    generator = initialized(DetailGenerator(arguments))
    sar = torch.rand(4, 1, 128, 128) * 2 - 1
    with torch.no_grad():  # something to amplify, and batch norm's statistics
        generator.head.to_colour[0].weight.mul_(10)
        for _ in range(20):
            generator(sar)
    generator.eval()
    gains = [(3.0, 3.0, 2.0, 1.5)] * 4
    made = amplify(generator, lambda step: (sar, gains), steps=60, learning_rate=3e-3)
    with torch.no_grad():
        before, after = generator(sar), made(sar)
        target = amplified(before, gains[0]).clamp(-1, 1)
    assert (after - target).abs().mean() < 0.5 * (before - target).abs().mean()
    kept, changed = generator.state_dict(), made.state_dict()
    others = {name for name, value in kept.items() if not torch.equal(value, changed[name])}
    assert others
    assert {name.split(".")[1] for name in others if name.startswith("decoder")} <= {"dec4", "dec5", "dec6"}
    assert not any(name.startswith("encoder") or "running" in name for name in others)
    assert not made.training
