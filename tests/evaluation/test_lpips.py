"""LPIPS over a network of the user's, and the figures of each chip."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from sar2optical.data.pairs import Chips
from sar2optical.errors import ModelUnreadable
from sar2optical.evaluation import report
from sar2optical.evaluation.evaluate import Sample, evaluate
from sar2optical.evaluation.fid import open_lpips
from sar2optical.evaluation.metrics import psnr


class Perceived(torch.nn.Module):
    """LPIPS's form with two fixed layers: normalised features, squared difference, weights, mean over the image."""

    def forward(self, pairs):
        scaled = pairs.float() / 127.5 - 1
        real, fake = scaled[:, :3], scaled[:, 3:]
        fine = self.distance(real, fake)
        coarse = self.distance(torch.nn.functional.avg_pool2d(real, 4), torch.nn.functional.avg_pool2d(fake, 4))
        return (0.3 * fine + 0.7 * coarse).unsqueeze(1)

    def distance(self, real, fake):
        difference = self.normalised(real) - self.normalised(fake)
        return (difference * difference).sum(1).mean((1, 2))

    def normalised(self, x):
        return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def expected(real, fake):
    """Compute the same slowly, for one pair."""
    total = 0.0
    for weight, side in ((0.3, 1), (0.7, 4)):
        halves = []
        for image in (real, fake):
            blocks = (image / 127.5 - 1).reshape(3, 16 // side, side, 16 // side, side).mean((2, 4))
            halves.append(blocks / (np.sqrt((blocks**2).sum(0)) + 1e-10))
        total += weight * ((halves[0] - halves[1]) ** 2).sum(0).mean()
    return total


@pytest.fixture
def network(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Perceived()), str(tmp_path / "lpips.pt"))
    return tmp_path / "lpips.pt"


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 255, (2, 4, 3, 16, 16)).astype(np.uint8)


def test_lpips_and_the_figures_of_each_chip(network, images):
    truths, fakes = images
    samples = [Sample(f"{k}", "", Chips(np.full((1, 16, 16), k, np.uint8), truth)) for k, truth in enumerate(truths)]
    predictions = {
        "noise": lambda sar: fakes[int(sar[0, 0, 0])].astype(float),
        "truth": lambda sar: truths[int(sar[0, 0, 0])].astype(float),
    }
    evaluation = evaluate(predictions, samples, window=16, lpips=open_lpips(network))
    noise, truth = evaluation.results
    wanted = [expected(real, fake) for real, fake in zip(truths, fakes, strict=True)]
    assert noise.lpips.value == pytest.approx(np.mean(wanted), rel=1e-5)
    assert noise.lpips.low < noise.lpips.value < noise.lpips.high
    assert truth.lpips.value == 0
    assert [chip["lpips"] for chip in noise.per_chip] == pytest.approx(wanted, rel=1e-5)
    psnrs = [psnr(real, fake.astype(float), data_range=255) for real, fake in zip(truths, fakes, strict=True)]
    assert [chip["psnr"] for chip in noise.per_chip] == pytest.approx(psnrs)
    record = json.loads(report.as_json(evaluation))
    assert [chip["ssim"] for chip in record["results"][0]["per_chip"]] == pytest.approx(
        [chip["ssim"] for chip in noise.per_chip]
    )
    assert record["results"][1]["per_chip"][0]["psnr"] is None  # infinite
    assert f"{noise.lpips.value:.3f}" in report.text(evaluation)
    assert "LPIPS: no network" not in report.text(evaluation)
    assert "LPIPS: no network given (--lpips FILE)" in report.text(evaluate(predictions, samples, window=16))


def test_a_network_that_gives_no_distances_is_refused(tmp_path, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.trace(
            lambda pairs: pairs.float().mean((2, 3)), torch.zeros(1, 6, 16, 16, dtype=torch.uint8)
        )
        torch.jit.save(module, str(tmp_path / "six.pt"))
    with pytest.raises(ModelUnreadable, match=r"must return one distance per pair, \(N, 1\)"):
        open_lpips(tmp_path / "six.pt")(images.reshape(4, 6, 16, 16))
