"""Windows wider than the generator's own: the taps that training never reached are set to zero, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sar2optical.models.generator import build_generator
from sar2optical.models.unet import GeneratorArguments
from sar2optical.models.wide import Axis, larger_windows, used_taps, zero_unused_taps

INNER = np.zeros((4, 4), bool)
INNER[1:3, 1:3] = True
"""The four taps of a 4 x 4 kernel that meet pixels at the bottleneck of pix2pix's U-Net."""

LAST, FIRST = "encoder.enc8.conv_block.0", "decoder.dec1.conv_block.0"
"""The last convolution of the encoder, and the first one of the decoder."""


def generator_of(**arguments):
    """Make a narrow generator whose batch norms are as after training."""
    torch.manual_seed(5)
    generator = build_generator(GeneratorArguments(in_channels=1, base_channels=2, **arguments)).eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    return generator


def image_of(generator, side):
    sar = torch.rand((1, 1, side, side), generator=torch.Generator().manual_seed(side)) * 2 - 1
    with torch.inference_mode():
        return generator(sar).numpy()


def zeroed(generator, window):
    """Set unused taps to zero; return the shape of weights that changed and which taps did, by layer."""
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    zero_unused_taps(generator, window)
    after = generator.state_dict()
    changed = {name: value != before[name] for name, value in after.items() if not torch.equal(value, before[name])}
    assert all((after[name][where] == 0).all() for name, where in changed.items())
    return {name.removesuffix(".weight"): where.numpy() for name, where in changed.items()}


@pytest.mark.parametrize(
    ("kernel", "stride", "given", "made", "transposed", "used"),
    [
        (4, 2, 2, 1, False, [0, 1, 1, 0]),  # the last convolution of pix2pix's encoder at 256
        (4, 2, 1, 2, True, [0, 1, 1, 0]),  # the first transposed one of its decoder
        (4, 2, 4, 2, False, [1, 1, 1, 1]),  # both at 512
        (4, 2, 2, 4, True, [1, 1, 1, 1]),
        (3, 1, 2, 2, False, [1, 1, 1]),  # the first convolution of an upsampling decoder at 256, after the upsampling
        (3, 1, 1, 1, False, [0, 1, 0]),
    ],
)
def test_a_tap_is_used_if_it_meets_a_pixel(kernel, stride, given, made, transposed, used):
    axis = Axis(kernel=kernel, stride=stride, padding=1, given=given, made=made, transposed=transposed)
    assert axis.used.tolist() == used
    assert (used_taps(axis, axis) == np.outer(used, used)).all()


def test_taps_that_meet_only_padding_have_no_gradient_in_training():
    """Why they are set to zero: they are not weights that training found, but the numbers it started with."""
    generator = generator_of().train()
    sar = torch.rand(2, 1, 256, 256) * 2 - 1
    (generator(sar) - 0.3).abs().mean().backward()
    for name in (LAST, FIRST):
        gradient = generator.get_submodule(name).weight.grad.numpy()
        assert not gradient[..., ~INNER].any()
        assert gradient[..., INNER].any()
    assert generator.get_submodule("encoder.enc7.conv_block.0").weight.grad.ne(0).float().mean() > 0.9


@pytest.mark.parametrize("upsampling", [None, "nearest", "bilinear", "bicubic"])
def test_exactly_those_taps_become_zero_and_the_own_window_keeps_every_bit(upsampling):
    generator = generator_of(upsampling=upsampling)
    own, wide = image_of(generator, 256), image_of(generator, 512)
    changed = zeroed(generator, 256)
    # After an upsampling, all nine taps of the decoder's first convolution meet pixels: there are 2 x 2.
    assert list(changed) == ([LAST, FIRST] if upsampling is None else [LAST])
    for where in changed.values():
        assert (where == ~INNER).all()
    assert image_of(generator, 256).tobytes() == own.tobytes()
    assert own.std() > 0.01
    assert np.abs(image_of(generator, 512) - wide).max() > 0.01  # there the taps met pixels


def test_a_generator_trained_on_wider_windows_keeps_all_taps():
    assert zeroed(generator_of(), 512) == {}


def test_detail_has_pixels_under_every_tap():
    """A window of 256 is 4 x 4 at its bottleneck; in one of 64 it is one pixel, under the middle of nine taps."""
    generator = generator_of(architecture="detail")
    assert zeroed(generator, 256) == {}
    assert zeroed(generator, 128) == {}
    own = image_of(generator, 64)
    changed = zeroed(generator, 64)
    assert list(changed) == ["encoder.enc6.conv_block.0", "decoder.dec1.conv_block.0"]
    middle = np.outer([0, 1, 0], [0, 1, 0]).astype(bool)
    assert all((where == ~middle).all() for where in changed.values())
    assert image_of(generator, 64).tobytes() == own.tobytes()


@pytest.mark.parametrize(
    ("window", "larger"), [(256, (512, 1024, 2048)), (64, (128, 256, 512)), (1024, (2048,)), (2048, ())]
)
def test_larger_windows_are_2_4_and_8_times_the_own_up_to_2048(window, larger):
    assert larger_windows(window) == larger
