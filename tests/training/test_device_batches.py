"""Windows that are cut and varied on a device; the CPU here, with the same code."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from sar2optical.data import augment
from sar2optical.data.pairs import Chips
from sar2optical.errors import DataError
from sar2optical.models.patchgan import Discriminator, ScaledDiscriminators, with_spectral_norm
from sar2optical.training.batches import Batches
from sar2optical.training.config import TrainConfig
from sar2optical.training.device_batches import DeviceBatches, vary_sar
from tests.training.test_training import TINY, run

CPU = torch.device("cpu")
SMALL = replace(TINY, architecture="detail", window=64, batch=8, windows_on="device")
SHAPES = ((64, 64), (150, 130), (70, 260))


def chips(dtype=np.uint8):
    rng = np.random.default_rng(0)
    found = []
    for shape in SHAPES:
        sar = rng.integers(0, 256, (1, *shape)) if dtype == np.uint8 else rng.uniform(-1, 1, (1, *shape))
        found.append(Chips(sar.astype(dtype), rng.integers(0, 256, (3, *shape), dtype=np.uint8)))
    return found


def positions(window, sources):
    """Chip, row, column, quarter turns and mirroring of a window of bytes (1, side, side), found by comparison."""
    found = []
    for k, (turns, mirrored) in product(range(len(sources)), product(range(4), (False, True))):
        laid = window[0, :, ::-1] if mirrored else window[0]
        laid = np.rot90(laid, -turns)
        chip, side = sources[k].sar[0], laid.shape[0]
        for row, column in np.argwhere(chip[: chip.shape[0] - side + 1, : chip.shape[1] - side + 1] == laid[0, 0]):
            if np.array_equal(chip[row : row + side, column : column + side], laid):
                found.append((k, row, column, turns, mirrored))
    return found


def as_bytes(image):
    return ((image + 1) * 127.5).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("settings", [{}, {"crop": False}, {"flip": False, "turn": False}])
def test_windows_are_cut_from_both_halves_at_one_position(settings):
    sources = chips()
    batches = DeviceBatches(sources, replace(SMALL, **settings), CPU)
    seen = []
    for number in range(4):
        for sar, optical in zip(*batches.batch(number), strict=True):
            ((k, row, column, turns, mirrored),) = positions(as_bytes(sar), sources)
            expected = np.rot90(sources[k].optical[:, row : row + 64, column : column + 64], turns, axes=(1, 2))
            np.testing.assert_array_equal(as_bytes(optical), expected[..., ::-1] if mirrored else expected)
            seen.append((k, row, column, turns, mirrored))
    assert {k for k, *_ in seen} == {0, 1, 2}
    if settings.get("crop", True):
        assert any(row % 64 or column % 64 for _, row, column, *_ in seen)
    else:
        assert not any(row % 64 or column % 64 for _, row, column, *_ in seen)
    alike = {(turns, mirrored) for *_, turns, mirrored in seen}
    assert alike == {(0, False)} if settings.get("flip") is False else len(alike) > 4


def test_a_batch_depends_on_the_seed_its_number_and_the_rank():
    config = replace(SMALL, vary_sar=0.5)
    one, other = (DeviceBatches(chips(), config, CPU) for _ in range(2))
    expected = [one.batch(k) for k in range(3)]
    assert all(
        torch.equal(a, b) for a, b in zip(other.batch(2), expected[2], strict=True)
    )  # does not depend on batch 1
    assert not torch.equal(expected[0][0], expected[1][0])
    assert not torch.equal(DeviceBatches(chips(), replace(config, seed=9), CPU).batch(0)[0], expected[0][0])
    halves = [DeviceBatches(chips(), config, CPU, rank=rank, ranks=2).batch(0)[0] for rank in range(2)]
    assert [len(half) for half in halves] == [4, 4]
    assert not torch.equal(*halves)


def test_chips_are_visited_as_often_as_by_threads():
    whole = Batches(chips(), SMALL)
    assert DeviceBatches(chips(), SMALL, CPU).windows_per_epoch == whole.windows_per_epoch == 1 + 4 + 4


def test_encoded_chips_are_used_unchanged():
    sources = chips(np.float32)
    sar, _ = DeviceBatches(sources, replace(SMALL, flip=False, turn=False), CPU).batch(0)
    for window in sar.numpy():
        assert any(np.isin(window[0, 0], chip.sar).all() for chip in sources)


def test_reduced_windows_are_means_of_power_and_of_colours(monkeypatch):
    monkeypatch.setattr(augment, "ZOOMED", 1.0)
    sources = chips()[1:2]
    config = replace(SMALL, zoom=2, flip=False, turn=False, crop=False)
    sar, optical = (half[0].numpy() for half in DeviceBatches(sources, config, CPU).batch(0))
    cut = Chips(sources[0].sar[:, :128, :128], sources[0].optical[:, :128, :128])
    expected, colours = augment.random_window(
        cut, 64, np.random.default_rng(0), crop=False, flips=False, turns=False, zoom=2
    )
    np.testing.assert_allclose(sar, expected, atol=1e-5)
    np.testing.assert_allclose((optical + 1) * 127.5, colours, atol=0.51)


def test_sar_is_varied_as_much_as_by_threads():
    """The mean, the contrast, and the detail of 2,000 variations of one window, and how far they spread."""
    rng = np.random.default_rng(1)
    image = rng.normal(0, 0.4, (1, 32, 32)).clip(-1, 1).astype(np.float32)
    torch.manual_seed(0)
    ours = vary_sar(torch.from_numpy(np.repeat(image[None], 2000, 0))).numpy()
    theirs = np.stack([augment.vary_sar(image, np.random.default_rng(k)) for k in range(2000)])
    assert ours.min() >= -1
    assert ours.max() <= 1
    for measure in (np.mean, np.std, lambda x, axis: np.diff(x, axis=3).std(axis=axis)):
        a, b = measure(ours, axis=(1, 2, 3)), measure(theirs, axis=(1, 2, 3))
        assert abs(a.mean() - b.mean()) < 4 * np.hypot(a.std(), b.std()) / np.sqrt(2000)
        assert a.std() == pytest.approx(b.std(), rel=0.1)


def test_a_chip_smaller_than_a_window_is_refused():
    with pytest.raises(DataError, match="a chip of 64 x 64 is smaller than the window of 128"):
        DeviceBatches(chips(), replace(SMALL, window=128), CPU)


def test_a_run_from_device_memory_resumes(tmp_path):
    config = replace(TINY, steps=4, windows_on="device", vary_sar=0.5)
    run(tmp_path / "whole", config)
    taken = []
    run(tmp_path / "resumed", config, on_step=taken.append, should_stop=lambda: len(taken) == 1)
    assert run(tmp_path / "resumed", config).finished
    whole, resumed = ((tmp_path / name / "generator.pth").read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed


# Discriminators


def test_discriminators_of_several_scales_see_smaller_images():
    net = ScaledDiscriminators([Discriminator(3, 2, n_layers=1) for _ in range(3)]).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = net(x)
        alone = net.scales[1](torch.nn.functional.avg_pool2d(x, 2))
    assert [tuple(one.shape[2:]) for one in logits] == [(30, 30), (14, 14), (6, 6)]
    assert torch.equal(logits[1], alone)


def test_spectral_norm_bounds_each_convolution():
    torch.manual_seed(0)
    net = with_spectral_norm(Discriminator(3, 4, n_layers=2)).train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    for _ in range(50):  # its power iteration takes a step each time
        net(torch.randn(1, 3, 64, 64))
    convolutions = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 4
    for convolution in convolutions:
        assert torch.linalg.matrix_norm(convolution.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_a_generator_is_trained_against_scaled_discriminators(tmp_path):
    config = TrainConfig(
        steps=3, batch=2, base_channels=2, discriminator_channels=2, discriminator_layers=2, precision="fp32",
        discriminator_scales=2, spectral_norm=True, objective="hinge",
    )  # fmt: skip
    reports = []
    run(tmp_path, config, on_step=reports.append)
    assert all(report.losses.discriminator > 0 for report in reports)
    assert reports[-1].losses.adversarial != 0
    state = torch.load(tmp_path / "state.pth", weights_only=True)["networks"][1]
    assert {name.split(".")[1] for name in state} == {"0", "1"}
    again = run(tmp_path, replace(config, steps=4, decay_from=1.0), restart=True)
    assert again.finished
