"""Training: the objective, the schedule, going on where it stopped, and scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sar2optical.data.pairs import Chips
from sar2optical.errors import DataError, ModelUnreadable, OptionError
from sar2optical.models.checkpoint import load_generator
from sar2optical.training.config import TrainConfig
from sar2optical.training.evaluate import generator_prediction, linear_fit, mean_colour, score
from sar2optical.training.loop import Trainer, train
from sar2optical.training.losses import adversarial_loss, discriminator_loss, reconstruction_loss
from tests.conftest import BYTES, speckle

TINY = TrainConfig(steps=4, batch=2, base_channels=2, discriminator_channels=2)


def pairs(count=2, size=256):
    """Optical images that follow the SAR level, so there is something to learn."""
    chips = []
    for k in range(count):
        sar = np.kron(speckle((size // 32, size // 32), seed=k), np.ones((32, 32))).astype(np.uint8)
        chips.append(Chips(sar[None], np.stack([sar // 2, 255 - sar, sar // 3 + 60])))
    return chips


def weights(generator):
    return torch.cat([v.double().ravel() for v in generator.state_dict().values()])


def test_the_objective_is_cross_entropy_and_l1():
    zero, large = torch.zeros(1, 1, 3, 3), torch.full((1, 1, 3, 3), 20.0)
    assert discriminator_loss(zero, zero).item() == pytest.approx(math.log(2))  # a coin's toss, mean of both
    assert discriminator_loss(large, -large).item() == pytest.approx(0, abs=1e-6)
    assert adversarial_loss(zero).item() == pytest.approx(math.log(2))
    assert adversarial_loss(-large).item() == pytest.approx(20, rel=1e-4)
    assert reconstruction_loss(zero, zero + 0.25).item() == pytest.approx(0.25)


def test_the_learning_rate_is_constant_then_falls_to_nothing():
    config = TrainConfig(steps=1000, learning_rate=2e-4, decay_from=0.5)
    rates = [config.rate_at(step) for step in (0, 499, 500, 750, 999)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 1e-4, 4e-7])


def test_a_run_that_goes_on_ends_where_an_uninterrupted_one_does(tmp_path):
    chips = pairs()
    whole = train(chips, TINY, BYTES, tmp_path / "whole")
    trainer = Trainer(TINY)  # two of four steps, then gone
    for _ in range(2):
        trainer.advance(chips)
    (tmp_path / "parts").mkdir()
    trainer.save(tmp_path / "parts" / "state.pth")
    del trainer
    resumed = train(chips, TINY, BYTES, tmp_path / "parts")
    assert torch.equal(weights(whole), weights(resumed))
    other = train(chips, replace(TINY, seed=2), BYTES, tmp_path / "other")
    assert not torch.equal(weights(whole), weights(other))


def test_training_learns(tmp_path):
    config = replace(TINY, steps=60, base_channels=4, learning_rate=2e-3, ema_decay=0.9)
    chips, losses = pairs(1), []
    generator = train(chips, config, BYTES, tmp_path, on_step=lambda report: losses.append(report.l1))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert score(generator_prediction(generator), chips).psnr > 1 + score(mean_colour(chips), chips).psnr


def test_what_is_kept_loads_with_its_signature(tmp_path):
    average = train(pairs(), TINY, BYTES, tmp_path)
    generator, signature = load_generator(tmp_path / "generator.pth")
    assert signature == BYTES
    assert torch.equal(weights(generator), weights(average))


def test_a_state_of_other_settings_is_not_gone_on_with(tmp_path):
    train(pairs(), TINY, BYTES, tmp_path)
    with pytest.raises(ModelUnreadable, match="other settings"):
        train(pairs(), replace(TINY, steps=9), BYTES, tmp_path)


def test_chips_smaller_than_a_window_are_refused(tmp_path):
    with pytest.raises(DataError, match="smaller than the window of 256"):
        train(pairs(1, size=128), TINY, BYTES, tmp_path)


def test_baselines_give_what_they_say():
    level = np.arange(256, dtype=np.uint8).repeat(256).reshape(1, 256, 256)
    linear = np.stack([level[0] // 1, 255 - level[0], np.full((256, 256), 7, np.uint8)])
    chips = [Chips(level, linear)]
    assert score(linear_fit(chips), chips).psnr > 60  # the truth is linear in the level
    assert score(linear_fit(chips), chips).chips == 1
    colour = mean_colour(chips)(level)
    assert colour[:, 0, 0] == pytest.approx([127.5, 127.5, 7])
    # Mean squared error of a ramp of 0 to 255 about its mean is (256^2 - 1) / 12, in two of three bands.
    error = 2 / 3 * (256**2 - 1) / 12
    assert score(mean_colour(chips), chips).psnr == pytest.approx(10 * math.log10(255**2 / error))


def test_a_batch_of_one_is_refused():
    with pytest.raises(OptionError, match="batch is 1: give 2 or more"):
        TrainConfig(batch=1)
