"""Training: objectives, schedules, batches, resume, and refusals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sar2optical.data.pairs import Chips, Pair
from sar2optical.errors import (
    CheckpointMismatch,
    DataError,
    DeviceUnavailable,
    ModelUnreadable,
    OptionError,
    TrainingDiverged,
)
from sar2optical.evaluation.evaluate import score
from sar2optical.evaluation.metrics import gradient_energy, ssim
from sar2optical.evaluation.predictors import mean_colour
from sar2optical.models import detail, unet
from sar2optical.models.checkpoint import load_generator
from sar2optical.training import loop
from sar2optical.training.batches import Batches, to_tensor
from sar2optical.training.config import MULTIPLES, RunOptions, TrainConfig
from sar2optical.training.journal import read_metrics
from sar2optical.training.loop import TrainingJob, train
from sar2optical.training.losses import (
    adversarial_loss,
    correlation_loss,
    discriminator_loss,
    multiscale_ssim_loss,
    octave_loss,
    reconstruction_loss,
    squared_loss,
    ssim_loss,
    texture_loss,
)
from sar2optical.training.networks import choose_precision
from sar2optical.training.shifting import shift_loss, shift_of, with_shifted
from sar2optical.training.trainer import Trainer
from tests.conftest import BYTES, speckle

pytestmark = pytest.mark.usefixtures("no_graphs")

TINY = TrainConfig(steps=4, batch=2, base_channels=2, discriminator_channels=2, precision="fp32")
QUIET = RunOptions(tensorboard=False, workers=0, threads=1)


def pairs(count=2, size=256):
    """Make pairs whose optical images follow the SAR level, which can be learned."""
    chips = []
    for k in range(count):
        sar = np.kron(speckle((size // 32, size // 32), seed=k), np.ones((32, 32))).astype(np.uint8)
        chips.append(Chips(sar[None], np.stack([sar // 2, 255 - sar, sar // 3 + 60])))
    return chips


def weights(net):
    return torch.cat([v.double().ravel() for v in net.state_dict().values()])


def flat(content):
    """Leaves of nested dicts and lists."""
    if isinstance(content, dict):
        return [leaf for key, value in content.items() for leaf in (key, *flat(value))]
    if isinstance(content, (list, tuple)):
        return [leaf for value in content for leaf in flat(value)]
    return [content]


def run(out, config=TINY, chips=None, **kwargs):
    """Train with further arguments of `train` and of the job."""
    calls = {name: kwargs.pop(name) for name in ("on_step", "should_stop") if name in kwargs}
    settings = {"options": QUIET, **kwargs}
    return train(TrainingJob(chips=chips or pairs(), config=config, signature=BYTES, out=out, **settings), **calls)


def steps(trainer, batches, count):
    return [trainer.advance([batches.batch(trainer.step)]) for _ in range(count)]


# --- objectives


def test_the_objectives_are_those_of_their_sources():
    zero, large = torch.zeros(1, 1, 3, 3), torch.full((1, 1, 3, 3), 20.0)
    assert discriminator_loss(zero, zero).item() == pytest.approx(math.log(2))  # a coin's toss, mean of both
    assert discriminator_loss(large, -large).item() == pytest.approx(0, abs=1e-6)
    assert adversarial_loss(zero).item() == pytest.approx(math.log(2))
    assert adversarial_loss(-large).item() == pytest.approx(20, rel=1e-4)
    assert discriminator_loss(zero + 0.5, zero + 0.5, "lsgan").item() == pytest.approx(0.25)
    assert adversarial_loss(zero + 3, "lsgan").item() == pytest.approx(4)
    assert discriminator_loss(zero + 2, zero - 2, "hinge").item() == 0  # beyond the margin
    assert discriminator_loss(zero, zero + 1, "hinge").item() == pytest.approx(1.5)
    assert adversarial_loss(zero + 3, "hinge").item() == pytest.approx(-3)
    assert reconstruction_loss(zero, zero + 0.25).item() == pytest.approx(0.25)
    assert squared_loss(zero, zero + 0.25).item() == pytest.approx(0.0625)


def test_the_ssim_that_is_trained_on_is_the_one_that_is_reported():
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (3, 64, 64)).astype(np.float32)
    fake = (0.5 * real + rng.normal(0, 0.1, real.shape)).astype(np.float32)
    loss = ssim_loss(torch.from_numpy(real[None]), torch.from_numpy(fake[None])).item()
    assert 1 - loss == pytest.approx(ssim(real, fake, data_range=2), abs=1e-5)
    assert ssim_loss(torch.from_numpy(real[None]), torch.from_numpy(real[None])).item() == pytest.approx(0, abs=1e-6)


def test_texture_is_the_amount_of_detail_not_its_position():
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(0, 0.2, (1, 3, 128, 128)).astype(np.float32))
    moved = torch.roll(real, 37, dims=-1)
    assert reconstruction_loss(real, moved).item() > 0.2
    assert texture_loss(real, moved).item() < 0.02
    assert texture_loss(real, torch.zeros_like(real)).item() == pytest.approx(1, abs=0.01)
    assert texture_loss(real, real).item() == 0
    # Twice the contrast has four times the energy: (4 - 1) ** 2.
    assert texture_loss(real, 2 * real).item() == pytest.approx(9, rel=0.01)
    assert gradient_energy(real[0].numpy()) == pytest.approx(2 * 2 * 0.2**2, rel=0.02)


def image_of_noise(side=128, seed=0, spread=0.2):
    noise = np.random.default_rng(seed).normal(0, spread, (1, 3, side, side))
    return torch.from_numpy(noise.astype(np.float32))


def grown(image, by):
    """Each pixel as a block of by x by."""
    return torch.nn.functional.interpolate(image, scale_factor=by)


def test_a_chequerboard_satisfies_the_texture_loss_and_not_the_octave_loss():
    real = grown(image_of_noise(32), 4)
    rows, cols = np.mgrid[:128, :128]
    pattern = torch.from_numpy(((rows + cols) % 2 * 2.0 - 1).astype(np.float32)).expand(1, 3, -1, -1)
    # As much gradient energy as the truth: (2 a) ** 2 in both directions.
    pattern = pattern * math.sqrt(gradient_energy(real[0].numpy()) / 8)
    assert texture_loss(real, pattern).item() < 0.1
    # It vanishes in means of 2 x 2, 4 x 4 and 8 x 8, so the loss is near 1 for each of these octaves.
    assert octave_loss(real, pattern).item() == pytest.approx(3, abs=0.3)
    assert octave_loss(real, torch.zeros_like(real)).item() == pytest.approx(3.3, abs=0.3)


def test_detail_in_colour_does_not_replace_detail_in_brightness():
    grey = image_of_noise(32)[:, :1].expand(-1, 3, -1, -1)
    real = grown(grey, 4)
    grains = real * torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1) * math.sqrt(3 / 2)  # as much energy, without grey
    assert gradient_energy(grains[0].numpy()) == pytest.approx(gradient_energy(real[0].numpy()), rel=1e-5)
    flat = octave_loss(real, torch.zeros_like(real)).item()
    assert octave_loss(real, grains).item() > 2 * flat
    # The loss does not ask for detail in colour.
    coloured = real + grains
    assert octave_loss(coloured, real).item() == pytest.approx(0, abs=1e-6)
    assert octave_loss(real, coloured).item() > 1


def test_the_octave_loss_is_the_amount_of_detail_not_its_position():
    real = grown(image_of_noise(32)[:, :1].expand(-1, 3, -1, -1), 8)
    assert octave_loss(real, real).item() == 0
    assert octave_loss(real, torch.roll(real, 64, dims=-1)).item() < 0.2
    # Twice the contrast is twice the root of the energy: (2 - 1) ** 2 in each octave.
    assert octave_loss(real, 2 * real).item() == pytest.approx(3.3, rel=0.02)
    assert octave_loss(real, -real).item() == pytest.approx(0, abs=1e-6)


def test_correlation_does_not_see_gain_and_offset():
    real = grown(image_of_noise(16), 8)
    assert correlation_loss(real, 0.3 * real + 0.5).item() == pytest.approx(0, abs=0.01)
    assert correlation_loss(real, -real).item() == pytest.approx(2, abs=0.01)
    assert correlation_loss(real, torch.zeros_like(real)).item() == pytest.approx(1, abs=1e-6)
    # Noise of equal variance beside the signal: 1 / sqrt(2) at single pixels, next to 1 after averaging 16 x 16.
    smooth = grown(image_of_noise(8, spread=0.5), 16)
    noise = image_of_noise(128, seed=1, spread=float(smooth.std()))
    shares = [1 / math.sqrt(1 + 1 / k**2) for k in (1, 4, 16)]
    assert 1 - correlation_loss(smooth, smooth + noise).item() == pytest.approx(np.mean(shares), abs=0.02)


def test_colours_count_by_their_variance_in_the_correlation():
    real = grown(image_of_noise(16), 8)
    real[:, 1:] *= 0.01
    fake = real.clone()
    fake[:, 1:] *= -1
    assert correlation_loss(real, fake).item() < 0.02


def test_multiscale_ssim_forgives_what_single_pixels_do():
    real = grown(image_of_noise(16), 8)
    noisy = real + image_of_noise(128, seed=2, spread=0.1)
    assert multiscale_ssim_loss(real, real).item() == pytest.approx(0, abs=1e-6)
    assert multiscale_ssim_loss(real, noisy).item() < 0.5 * ssim_loss(real, noisy).item()
    blocks = [torch.nn.functional.avg_pool2d(image, 2)[0].numpy() for image in (real, noisy)]
    quarters = [torch.nn.functional.avg_pool2d(image, 4)[0].numpy() for image in (real, noisy)]
    expected = 1 - np.mean([ssim(*blocks, data_range=2), ssim(*quarters, data_range=2)])
    assert multiscale_ssim_loss(real, noisy).item() == pytest.approx(expected, abs=1e-5)


def test_shifted_copies_are_compared_where_they_show_the_same():
    image = image_of_noise(128)
    for shift in ((0, 1), (3, 17)):
        both = with_shifted(image, shift)
        assert both.shape == (2, 3, 128, 128)
        torch.testing.assert_close(both[1, :, 0, 0], image[0, :, shift[0], shift[1]])
        assert shift_loss(both, shift).item() == 0  # what a pointwise generator gives
    # Columns that alternate wherever the window begins: 1 apart after an odd shift, equal after an even one.
    stripes = (torch.arange(128) % 2).float().expand(2, 3, 128, 128)
    assert shift_loss(stripes, (0, 3)).item() == 1
    assert shift_loss(stripes, (5, 2)).item() == 0
    assert len({shift_of(1, step) for step in range(100)}) > 50
    assert shift_of(1, 7) == shift_of(1, 7)


def test_the_learning_rate_is_constant_then_falls_to_0():
    config = TrainConfig(learning_rate=2e-4, decay_from=0.5)
    rates = [config.rate_at(step, 1000) for step in (0, 499, 500, 750, 999)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 1e-4, 4e-7])
    constant = replace(config, decay_from=1.0)
    assert [constant.rate_at(step, 1000) for step in (0, 999)] == [2e-4, 2e-4]


def test_invalid_settings_are_refused():
    for change, said in [
        ({"batch": 1}, "batch is 1: give 2 or more"),
        ({"window": 300}, "multiple of 256, or use architecture detail, which takes multiples of 64"),
        ({"window": 128}, "multiple of 256, or use architecture detail"),
        ({"window": 100, "architecture": "detail"}, "window is 100: give a multiple of 64"),
        ({"window": 0, "architecture": "detail"}, "window is 0"),
        ({"objective": "wgan"}, "vanilla or lsgan or hinge"),
        ({"gan_from": 2.0}, "from 0 to 1"),
        ({"l1_weight": float("nan")}, "l1_weight is nan"),
        ({"learning_rate": 0.0}, "more than 0"),
        ({"steps": 0}, "steps is 0"),
    ]:
        with pytest.raises(OptionError, match=said):
            TrainConfig(**change)
    with pytest.raises(OptionError, match="workers"):
        RunOptions(workers=-1)


# --- batches


def test_windows_have_the_sides_that_the_generators_take():
    assert MULTIPLES == {"pix2pix": unet.MULTIPLE, "detail": detail.MULTIPLE}
    assert TrainConfig(window=192, architecture="detail").window == 192


def test_windows_depend_only_on_the_seed_and_their_number():
    chips, config = pairs(4, 512), replace(TINY, batch=4)
    whole = Batches(chips, config)
    expected = [whole.batch(k) for k in range(6)]
    with Batches(chips, config, workers=3) as ahead:
        for k in range(6):
            assert all(torch.equal(a, b) for a, b in zip(ahead.batch(k), expected[k], strict=True))
    halves = [Batches(chips, config, rank=r, ranks=2) for r in range(2)]
    for k in range(6):
        both = [torch.cat(pair) for pair in zip(*(half.batch(k) for half in halves), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(both, expected[k], strict=True))
    assert torch.equal(Batches(chips, config).batch(5)[0], expected[5][0])  # does not depend on batch 4
    assert not torch.equal(Batches(chips, replace(config, seed=1)).batch(0)[0], expected[0][0])


def test_an_epoch_visits_each_chip_as_often_as_windows_fit_into_it():
    flat = [Chips(np.full((1, side, side), k, np.uint8), np.zeros((3, side, side), np.uint8))
            for k, side in enumerate((256, 512, 300))]  # fmt: skip
    batches = Batches(flat, TINY)
    assert batches.windows_per_epoch == 1 + 4 + 1
    for epoch in range(2):
        seen = torch.cat([batches.batch(3 * epoch + k)[0][:, 0, 0, 0] for k in range(3)])
        assert Counter(((seen + 1) * 127.5).round().int().tolist()) == {0: 1, 1: 4, 2: 1}


class Regions(list):
    """Chips with classes, as a store has them."""

    def __init__(self, chips, names):
        super().__init__(chips)
        self.pairs = [Pair(Path("a"), Path("b"), name) for name in names]


def test_small_classes_are_visited_more_often_where_they_are_balanced():
    chips = Regions(pairs(18), ["large"] * 16 + ["small"] * 2)

    def visits(balance):
        counts = Counter(Batches(chips, replace(TINY, balance=balance))._visits.tolist())
        return counts[0], counts[17]

    assert visits(0.0) == (1, 1)
    assert visits(0.5) == (1, 3)  # the root of 16 / 2, rounded
    assert visits(1.0) == (1, 8)


def test_varied_sar_leaves_the_optical_half_alone():
    chips = pairs(1, 512)
    plain, varied, again = (
        [Batches(chips, replace(TINY, vary_sar=vary)).batch(k) for k in range(8)] for vary in (0.0, 0.5, 0.5)
    )
    for one, other in zip(plain, varied, strict=True):
        torch.testing.assert_close(one[1], other[1])
    same = [
        torch.equal(a, b)
        for one, other in zip(plain, varied, strict=True)
        for a, b in zip(one[0], other[0], strict=True)
    ]
    assert 0.2 < np.mean(same) < 0.8  # half of the windows
    assert all(sar.abs().max() <= 1 for sar, _ in varied)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(varied, again, strict=True))


def test_a_state_from_before_a_setting_existed_resumes_with_its_default(tmp_path):
    run(tmp_path, replace(TINY, steps=2, decay_from=1.0))
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    for name in ("architecture", "balance", "octave_weight"):
        del state["config"][name]
    torch.save(state, tmp_path / "state.pth")
    assert run(tmp_path, replace(TINY, steps=3, decay_from=1.0)).step == 3
    with pytest.raises(CheckpointMismatch, match=r"octave_weight 0\.0/2\.0"):
        run(tmp_path, replace(TINY, steps=3, decay_from=1.0, octave_weight=2.0))


def test_images_are_scaled_as_in_pix2pix():
    given = to_tensor(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    assert given.flatten().tolist() == pytest.approx([-1, -0.6, 1])
    encoded = np.float32([[[[-1, 0.25]]]])
    assert torch.equal(to_tensor(encoded), torch.from_numpy(encoded))


# --- steps


def test_training_learns(tmp_path):
    config = replace(TINY, steps=60, base_channels=4, learning_rate=2e-3, ema_decay=0.9)
    chips, losses = pairs(1), []
    trained = run(tmp_path, config, chips, validation=chips, on_step=lambda report: losses.append(report.losses.l1))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert trained.score.psnr > 1 + score(mean_colour(chips), chips).psnr


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "lsgan"},
        {"objective": "hinge"},
        {"discriminator": "pixel"},
        {"conditional": False},
        {"upsampling": "nearest"},
        {"gan_weight": 0.0},
        {"ssim_weight": 10.0, "texture_weight": 1.0},
        {"multiscale_ssim_weight": 10.0, "correlation_weight": 1.0, "octave_weight": 1.0},
        {"l1_weight": 0.0, "squared_weight": 10.0},
        {"architecture": "detail"},
        {"shift_weight": 5.0},
        {"discriminator_layers": 2},
        {"ema_decay": 0.0},
        {"precision": "bf16", "channels_last": False},
    ],
    ids=str,
)
def test_every_setting_has_an_effect(change):
    trainer = Trainer(replace(TINY, **change), BYTES, steps=4)
    before = [weights(net) for net in (trainer.generator, trainer.discriminator)]
    losses = steps(trainer, Batches(pairs(), TINY), 2)[-1]
    after = [weights(net) for net in (trainer.generator, trainer.discriminator)]
    assert all(math.isfinite(value) for value in vars(losses).values())
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]) == (change.get("gan_weight") == 0)
    for name in ("ssim", "texture", "multiscale_ssim", "correlation", "octave", "squared", "shift"):
        assert (getattr(losses, name) > 0) == (f"{name}_weight" in change)
    assert (trainer.result is trainer.average) == (change.get("ema_decay") != 0)


def test_the_discriminator_is_used_from_the_given_step():
    trainer = Trainer(replace(TINY, gan_from=0.5), BYTES, steps=4)
    losses = steps(trainer, Batches(pairs(), TINY), 4)
    assert [loss.discriminator > 0 for loss in losses] == [False, False, True, True]


def test_accumulated_passes_see_the_same_fakes_and_update_statistics_once():
    """Two equal batches: the mean of their gradients is one batch's, but for the dropout."""
    batch = Batches(pairs(), TINY).batch(0)
    one, two = (Trainer(replace(TINY, accumulate=n), BYTES, steps=4) for n in (1, 2))
    for trainer in (one, two):
        for module in trainer.generator.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    a, b = one.advance([batch]), two.advance([batch, batch])
    assert b.l1 == pytest.approx(a.l1, rel=1e-5)
    assert b.discriminator == pytest.approx(a.discriminator, rel=1e-5)
    assert b.adversarial == pytest.approx(a.adversarial, rel=1e-4)
    norms = [m for m in two.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {4} or all(norm.momentum == 0.1 for norm in norms)
    for p, q in zip(one.generator.parameters(), two.generator.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=5e-5)  # a step of Adam is 2e-4


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's own, while it compiles
def test_the_compiled_step_runs_compiled_and_gives_the_same():
    """A backend that counts: every pass runs in graphs, all of them made in the first step, none broken."""
    made, runs = [], []

    def counting(graph, _):
        made.append(graph)

        def call(*inputs):
            runs.append(len(made))
            return graph(*inputs)

        return call

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    batches = Batches(pairs(), TINY)
    eager = steps(Trainer(TINY, BYTES, steps=4), batches, 3)
    trainer = Trainer(replace(TINY, compile=True), BYTES, steps=4, backend=counting)
    first = steps(trainer, batches, 1)
    graphs, per_step = len(made), len(runs)
    assert graphs == per_step == 3  # the generator, the discriminator's loss, the generator's losses
    assert not torch._dynamo.utils.counters["graph_break"]
    later = steps(trainer, batches, 2)
    assert len(made) == graphs
    assert len(runs) == 3 * per_step
    for a, b in zip(eager, first + later, strict=True):
        assert list(vars(b).values()) == pytest.approx(list(vars(a).values()), rel=1e-4)


def test_two_ranks_apply_the_mean_of_their_gradients_and_end_with_equal_weights(tmp_path):
    script = Path(__file__).with_name("two_ranks.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        script,
        tmp_path,
    ]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pth", weights_only=True) for r in range(2)]
    assert len(ranks[0]["own"]) == 4  # two networks, two steps
    for own0, own1, mean0, mean1 in zip(
        ranks[0]["own"], ranks[1]["own"], ranks[0]["mean"], ranks[1]["mean"], strict=True
    ):
        assert not torch.equal(own0, own1)
        torch.testing.assert_close(mean0, (own0 + own1) / 2, rtol=1e-5, atol=1e-7)
        assert torch.equal(mean0, mean1)
    assert torch.equal(ranks[0]["generator"], ranks[1]["generator"])
    assert torch.equal(ranks[0]["discriminator"], ranks[1]["discriminator"])
    assert not torch.equal(ranks[0]["generator"], ranks[0]["first"])


def test_bf16_is_taken_where_the_hardware_has_it_and_fp16_not_on_a_cpu():
    able = torch.cpu.get_capabilities()
    expected = "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    assert choose_precision("auto", "cpu") == expected
    assert choose_precision("bf16", "cpu") == "bf16"
    with pytest.raises(DeviceUnavailable, match="bf16 or fp32"):
        choose_precision("fp16", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused(tmp_path):
    with pytest.raises(DeviceUnavailable, match="cuda"):
        run(tmp_path, options=replace(QUIET, device="cuda"))


# --- runs


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    config = replace(TINY, steps=6, ssim_weight=5.0)
    run(tmp_path / "whole", config)
    for stop in (1, 2, 5):
        taken = []
        part = run(
            tmp_path / f"resumed{stop}", config,
            on_step=taken.append, should_stop=lambda stop=stop, taken=taken: len(taken) == stop - 1,
        )  # fmt: skip
        assert part.step == stop
        assert not part.finished
        assert run(tmp_path / f"resumed{stop}", config).finished
        whole, resumed = tmp_path / "whole", tmp_path / f"resumed{stop}"
        assert (whole / "generator.pth").read_bytes() == (resumed / "generator.pth").read_bytes()
        states = [torch.load(folder / "state.pth", weights_only=True) for folder in (whole, resumed)]
        for a, b in zip(*(flat(state) for state in states), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    run(tmp_path / "other", replace(config, seed=2))
    assert (tmp_path / "other" / "generator.pth").read_bytes() != (tmp_path / "whole" / "generator.pth").read_bytes()


def test_the_saved_generator_loads_with_its_signature(tmp_path):
    trained = run(tmp_path)
    generator, signature = load_generator(trained.generator)
    assert signature == BYTES
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert torch.equal(weights(generator), torch.cat([v.double().ravel() for v in state["networks"][2].values()]))


def test_only_the_newest_numbered_generators_stay(tmp_path):
    run(tmp_path, options=replace(QUIET, save_every=1, keep=2))
    assert sorted(p.name for p in tmp_path.glob("generator-*")) == ["generator-0000003.pth", "generator-0000004.pth"]
    run(tmp_path / "all", options=replace(QUIET, save_every=1, keep=0))
    assert len(list((tmp_path / "all").glob("generator-*"))) == 4


def test_a_run_writes_metrics_graphs_and_sheets(tmp_path, monkeypatch):
    monkeypatch.undo()  # of no_graphs
    chips = pairs()
    options = RunOptions(save_every=1, eval_every=2, workers=0, threads=1)
    trained = run(tmp_path, chips=chips, validation=chips, options=options)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert ["val_psnr" in row for row in rows] == [False, True, False, True]
    for name in ("psnr", "gradient_ratio_2", "gradient_ratio_4", "r2", "r2_low_passed", "corner_share"):
        assert rows[-1][f"val_{name}"] == pytest.approx(getattr(trained.score, name), rel=1e-4)
    for name in ("lossD", "lossG", "lossG_GAN", "lossG_L1", "results", "sheet-0000002", "sheet-0000004"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.fixture
def psnrs(monkeypatch):
    """Replace the PSNR of each evaluation by the next of a list."""
    figures = []

    def scored(*args, **options):
        return replace(score(*args, **options), psnr=figures.pop(0))

    monkeypatch.setattr(loop, "score", scored)
    return figures


@pytest.mark.usefixtures("no_graphs")
def test_the_best_generator_is_kept_beside_the_last(tmp_path, psnrs):
    psnrs += [10.0, 12.0, 12.0, 11.0]
    trained = run(tmp_path, validation=pairs(), options=replace(QUIET, eval_every=1, save_every=1, keep=0))
    assert trained.best == (2, 12.0)
    assert not trained.ended_early
    best, second, last = (
        weights(load_generator(tmp_path / f"{name}.pth")[0]) for name in ("best", "generator-0000002", "generator")
    )
    assert torch.equal(best, second)
    assert not torch.equal(best, last)


@pytest.mark.usefixtures("no_graphs")
def test_a_run_without_progress_ends_early_also_when_it_is_resumed(tmp_path, psnrs):
    config = replace(TINY, steps=9, decay_from=1.0)
    options = replace(QUIET, eval_every=1, save_every=1, patience=2)
    psnrs += [10.0, 12.0, 11.0]
    stops = iter((False, False, True))
    first = run(tmp_path, config, validation=pairs(), options=options, should_stop=lambda: next(stops))
    assert (first.step, first.finished, first.best) == (3, False, (2, 12.0))
    psnrs += [11.5]
    ended = run(tmp_path, config, validation=pairs(), options=options)
    assert (ended.step, ended.finished, ended.ended_early, ended.best) == (4, True, True, (2, 12.0))
    again = run(tmp_path, config, validation=pairs(), options=options)  # needs no evaluation
    assert (again.step, again.finished) == (4, True)
    psnrs += [13.0, 12.0]
    further = run(
        tmp_path, config, validation=pairs(), options=replace(options, patience=3), should_stop=lambda: len(psnrs) < 2
    )
    assert (further.step, further.best) == (6, (5, 13.0))


def test_the_discriminator_is_as_wide_as_the_generator(tmp_path):
    narrow = replace(TINY, base_channels=4, discriminator_channels=None)
    assert narrow.discriminator_width == 4
    assert narrow.to_dict()["discriminator_channels"] == 4
    run(tmp_path, replace(narrow, steps=1))
    run(tmp_path, replace(narrow, steps=1, discriminator_channels=4))  # the same run
    with pytest.raises(CheckpointMismatch, match="discriminator_channels 4/64"):
        run(tmp_path, replace(narrow, steps=1, discriminator_channels=64))


def test_rows_after_the_last_save_of_a_killed_run_are_replaced(tmp_path):
    run(tmp_path, replace(TINY, decay_from=1.0), should_stop=(tmp_path / "metrics.csv").exists)
    table = tmp_path / "metrics.csv"
    step = int(read_metrics(table)[-1]["step"])
    table.write_text(table.read_text() + f"{step + 1},9,9,9,9,9,9,9,9,9,,,,\n")
    run(tmp_path, replace(TINY, decay_from=1.0))
    rows = read_metrics(table)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss_D"] < 9 for row in rows)


def test_a_state_with_other_settings_is_refused(tmp_path):
    run(tmp_path)
    before = (tmp_path / "state.pth").read_bytes()
    with pytest.raises(CheckpointMismatch, match="base_channels 2/4"):
        run(tmp_path, replace(TINY, base_channels=4))
    assert (tmp_path / "state.pth").read_bytes() == before
    assert run(tmp_path, replace(TINY, base_channels=4), restart=True).finished


def test_a_file_that_is_not_a_state_is_refused(tmp_path):
    for content, said in [(b"hello", "not a checkpoint"), (b"", "corrupt")]:
        (tmp_path / "state.pth").write_bytes(content)
        with pytest.raises(ModelUnreadable, match=said):
            run(tmp_path)
        assert (tmp_path / "state.pth").read_bytes() == content
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pth")
    with pytest.raises(ModelUnreadable, match="not the state of a training run"):
        run(tmp_path)


def test_first_weights_come_from_files_of_the_same_width(tmp_path):
    trained = run(tmp_path / "first")
    state = torch.load(tmp_path / "first" / "state.pth", weights_only=True)
    torch.save(state["networks"][1], tmp_path / "d.pth")
    trainer = Trainer(TINY, BYTES, steps=4)
    trainer.start_from(trained.generator, tmp_path / "d.pth")
    assert torch.equal(weights(trainer.generator), weights(load_generator(trained.generator)[0]))
    assert torch.equal(weights(trainer.average), weights(trainer.generator))
    assert torch.equal(trainer.discriminator.state_dict()["model.model.0.conv_block.0.weight"],
                       state["networks"][1]["model.model.0.conv_block.0.weight"])  # fmt: skip
    with pytest.raises(CheckpointMismatch, match="does not fit"):
        Trainer(replace(TINY, base_channels=4), BYTES, steps=4).start_from(trained.generator, None)
    with pytest.raises(CheckpointMismatch):  # a generator instead of a discriminator
        trainer.start_from(None, trained.generator)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path):
    config = replace(TINY, steps=8)
    run(tmp_path, config, should_stop=lambda: True)
    before = (tmp_path / "state.pth").read_bytes()
    broken = [Chips(np.full((1, 256, 256), np.nan, np.float32), chip.optical) for chip in pairs()]
    with pytest.raises(TrainingDiverged, match="lower --learning-rate"):
        run(tmp_path, config, broken)
    assert (tmp_path / "state.pth").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The losses of a step are those of the weights before it, so the last step can break them unnoticed."""
    with pytest.raises(TrainingDiverged, match="weights are not finite"):
        run(tmp_path, replace(TINY, steps=1, learning_rate=1e38, gan_weight=0.0))
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert state["step"] == 0
    assert all(bool(torch.isfinite(leaf).all()) for leaf in flat(state["networks"]) if isinstance(leaf, torch.Tensor))
    assert not (tmp_path / "generator.pth").exists()


def test_bytes_and_encoded_values_may_be_mixed():
    sar = np.linspace(0, 255, 256 * 256).astype(np.uint8).reshape(1, 256, 256)
    optical = np.zeros((3, 256, 256), np.uint8)
    chips = [Chips(sar, optical), Chips(sar.astype(np.float32) / 127.5 - 1, optical)]
    both, _ = Batches(chips, replace(TINY, crop=False, flip=False, turn=False)).batch(0)
    assert both.min() == -1
    assert both.max() == 1
    torch.testing.assert_close(both[0], both[1])


def test_a_run_with_a_constant_learning_rate_may_be_extended(tmp_path):
    constant = replace(TINY, decay_from=1.0)
    run(tmp_path, replace(constant, steps=2))
    assert run(tmp_path, constant).step == 4
    run(tmp_path / "falling", replace(TINY, steps=2))
    with pytest.raises(CheckpointMismatch, match="steps 2/4"):
        run(tmp_path / "falling", TINY)


def test_a_discriminator_with_a_loss_near_0_stops_the_run(monkeypatch):
    """All-white images, and a generator that does not learn to make them."""
    monkeypatch.setattr("sar2optical.training.trainer._PATIENCE", 20)
    config = replace(TINY, architecture="detail", window=64, discriminator="pixel", discriminator_channels=4,
                     objective="hinge", conditional=False, gan_weight=1e-9, l1_weight=1e-9, learning_rate=0.05,
                     decay_from=1.0)  # fmt: skip
    trainer = Trainer(config, BYTES, steps=2000)
    sar = torch.zeros(2, 1, 64, 64)
    batch = (sar, torch.ones(2, 3, 64, 64))
    for group in trainer._optimizers[0].param_groups:
        group["params"] = []  # this generator is not updated

    def until_it_stops():
        for _ in range(1000):
            trainer.advance([batch])

    with pytest.raises(TrainingDiverged, match="--discriminator-channels"):
        until_it_stops()
    assert 20 <= trainer.step < 1000


def test_missing_and_small_chips_are_refused(tmp_path):
    with pytest.raises(DataError, match="smaller than the window of 256"):
        run(tmp_path, chips=pairs(1, size=128))
    with pytest.raises(DataError, match="no training pair"):
        train(TrainingJob(chips=[], config=TINY, signature=BYTES, out=tmp_path, options=QUIET))
