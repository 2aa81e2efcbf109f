"""Discriminators: those of the re-implemented system, at any depth."""

from __future__ import annotations

import pytest
import torch

from sar2optical.models.patchgan import Discriminator
from tests.models.test_unet import GOLDEN, SHAPES, TOLERANCE, filled_state, golden_input, shapes

KINDS = {
    "discriminator.patch3": {"n_layers": 3},
    "discriminator.patch1": {"n_layers": 1},
    "discriminator.pixel": {"kind": "pixel"},
}


@pytest.mark.parametrize(("name", "arguments"), KINDS.items())
def test_names_and_shapes_are_the_seeds_in_its_order(name, arguments):
    found = shapes(Discriminator(**arguments))
    assert list(found) == list(SHAPES[name])
    assert found == SHAPES[name]


@pytest.mark.parametrize(("name", "arguments"), KINDS.items())
def test_the_seeds_weights_give_the_seeds_logits(name, arguments):
    discriminator = Discriminator(**arguments).eval()
    discriminator.load_state_dict(filled_state(name), strict=True)
    with torch.inference_mode():
        logits = discriminator(golden_input(6))
    golden = GOLDEN[name]
    assert logits.shape == (1, 1, *golden["shape"])
    for row, column, value in golden["values"]:
        assert logits[0, 0, row, column].item() == pytest.approx(value, abs=TOLERANCE)
    assert logits.mean().item() == pytest.approx(golden["mean"], abs=TOLERANCE)
    assert logits.std().item() == pytest.approx(golden["std"], abs=TOLERANCE)


@pytest.mark.parametrize(("depth", "side"), [(1, 126), (2, 62), (3, 30), (4, 14), (5, 6)])
def test_a_deeper_one_gives_fewer_logits(depth, side):
    """Each stride of 2 halves the side; the two last convolutions take one pixel each: 256 / 2 ** n - 2."""
    discriminator = Discriminator(base_channels=2, n_layers=depth).eval()
    with torch.inference_mode():
        assert discriminator(torch.zeros(2, 6, 256, 256)).shape == (2, 1, side, side)


@pytest.mark.parametrize(("depth", "seen"), [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_a_logit_sees_the_patch_of_its_depth(depth, seen):
    """Isola et al. 2017 name them by these sizes; measured here by which input pixels a logit's slope reaches."""
    torch.manual_seed(depth)
    discriminator = Discriminator(in_channels=1, base_channels=2, n_layers=depth).eval()
    side = 2 ** (depth + 1) * 3 + seen
    side += -side % 2**depth
    x = torch.randn(1, 1, side, side, requires_grad=True)
    logits = discriminator(x)
    middle = logits.shape[-1] // 2
    (slope,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    rows = slope[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == seen


def test_a_pixel_logit_depends_on_one_pixel():
    torch.manual_seed(0)
    discriminator = Discriminator(in_channels=3, base_channels=4, kind="pixel").eval()
    x = torch.randn(1, 3, 9, 7)
    changed = x.clone()
    changed[0, :, 4, 2] += 1
    with torch.inference_mode():
        before, after = discriminator(x), discriminator(changed)
    assert before.shape == (1, 1, 9, 7)
    assert (before != after).nonzero().tolist() == [[0, 0, 4, 2]]


def test_channels_stop_growing_at_eight_times_the_base():
    widths = [
        m.out_channels
        for m in Discriminator(in_channels=4, base_channels=2, n_layers=5).modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert widths == [2, 4, 8, 16, 16, 16, 1]


def test_logits_are_not_bounded():
    torch.manual_seed(0)
    discriminator = Discriminator(in_channels=1, base_channels=4).eval()
    with torch.inference_mode():
        logits = discriminator(1000 * torch.randn(1, 1, 64, 64))
    assert logits.abs().max() > 1


@pytest.mark.parametrize(("arguments", "said"), [({"n_layers": 0}, "n_layers is 0"), ({"kind": "image"}, "'image'")])
def test_invalid_discriminator_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Discriminator(**arguments)
