"""U-Net generator: names, shapes and values of the re-implemented system."""

from __future__ import annotations

import json
from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch

from sar2optical.models.unet import GeneratorArguments, UNetGenerator

TABLES = Path(__file__).parent / "seed_tables"
SHAPES = json.loads((TABLES / "seed_state_dict.json").read_text())
GOLDEN = json.loads((TABLES / "seed_golden.json").read_text())

VARIANTS = {
    None: ("generator.transpose", "generator.transpose"),
    "nearest": ("generator.upsampling", "generator.upsampling.nearest"),
    "bilinear": ("generator.upsampling", "generator.upsampling.bilinear"),
    "bicubic": ("generator.upsampling", "generator.upsampling.bicubic"),
}
"""Upsampling, table of shapes, golden values."""

TOLERANCE = 1e-4


def filled(key, i, shape):
    """Weights of the golden values, see seed_model.md; i is the entry's index in the table."""
    n = torch.arange(prod(shape), dtype=torch.float64)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        w = 1 + 0.5 * torch.sin(0.3 * n + i) ** 2
    elif key.endswith("running_mean"):
        w = 0.05 * torch.sin(0.5 * n + i)
    elif len(shape) == 4:
        transposed = "decoder" in key and ".0.1." not in key
        fan = shape[0] * 4 if transposed else prod(shape[1:])
        w = torch.sin(0.7 * n * n % 6.283185307179586 + i) * (2.0 / fan) ** 0.5
    elif key.endswith("weight"):
        w = 1 + 0.1 * torch.sin(0.9 * n + i)
    else:
        w = 0.1 * torch.cos(1.1 * n + i)
    return w.reshape(shape).float()


def filled_state(table):
    return {key: filled(key, i, shape) for i, (key, shape) in enumerate(SHAPES[table].items())}


def golden_input(channels):
    n = torch.arange(channels * 256 * 256, dtype=torch.float64)
    return torch.sin(0.013 * n + 0.00001 * n * n % 6.283185307179586).reshape(1, channels, 256, 256).float()


def empty(upsampling, **arguments):
    """A generator without memory for its weights."""
    with torch.device("meta"):
        return UNetGenerator(GeneratorArguments(upsampling=upsampling, **arguments)).eval()


def shapes(module):
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def scaled(table, by, **ends):
    """Give the table of a narrower generator: every channel count divided but the image's three."""
    return {
        key: [ends.get(key, {}).get(axis, size // by if size >= 64 else size) for axis, size in enumerate(shape)]
        for key, shape in SHAPES[table].items()
    }


@pytest.fixture(scope="module")
def state():
    """The filled tables, each made once: the upsampling modes share theirs."""
    return cache(filled_state)


@pytest.mark.parametrize("upsampling", VARIANTS)
def test_names_and_shapes_are_the_seeds_in_its_order(upsampling):
    table = SHAPES[VARIANTS[upsampling][0]]
    found = shapes(empty(upsampling))
    assert list(found) == list(table)
    assert found == table


@pytest.mark.parametrize("upsampling", VARIANTS)
def test_the_seeds_weights_give_the_seeds_image(state, upsampling):
    table, golden = VARIANTS[upsampling]
    generator = empty(upsampling)
    generator.load_state_dict(state(table), strict=True, assign=True)
    with torch.inference_mode():
        image = generator(golden_input(3))[0]
    assert image.shape == (3, 256, 256)
    for channel, row, column, value in GOLDEN[golden]["values"]:
        assert image[channel, row, column].item() == pytest.approx(value, abs=TOLERANCE)
    assert image.mean().item() == pytest.approx(GOLDEN[golden]["mean"], abs=TOLERANCE)
    assert image.std().item() == pytest.approx(GOLDEN[golden]["std"], abs=TOLERANCE)


def test_the_generator_has_54_million_parameters():
    assert sum(p.numel() for p in empty(None).parameters()) == 54_541_827


@pytest.mark.parametrize("upsampling", VARIANTS)
@pytest.mark.parametrize("base", [1, 16])
def test_base_channels_scale_every_layer(upsampling, base):
    expected = scaled(VARIANTS[upsampling][0], 64 // base)
    assert shapes(empty(upsampling, base_channels=base)) == expected


def test_input_and_output_channels_change_only_the_first_and_last_layers():
    first, head = "encoder.enc1.conv_block.0.weight", "head.0.weight"
    expected = scaled("generator.transpose", 8, **{first: {1: 2}, head: {0: 5}, "head.0.bias": {0: 5}})
    assert shapes(empty(None, in_channels=2, out_channels=5, base_channels=8)) == expected


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return UNetGenerator(GeneratorArguments(in_channels=2, base_channels=4)).eval()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 256), (256, 768)])
def test_any_multiple_of_256_keeps_its_size(narrow, height, width):
    with torch.inference_mode():
        image = narrow(torch.randn(1, 2, height, width))
    assert image.shape == (1, 3, height, width)
    assert image.abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(255, 256), (256, 128), (384, 256), (1, 1)])
def test_sides_that_are_no_multiple_of_256_are_refused(narrow, height, width):
    with pytest.raises(ValueError, match=rf"input is {height} x {width}: pad it to multiples of 256"):
        narrow(torch.zeros(1, 2, height, width))


def test_images_of_a_batch_do_not_see_each_other_in_eval_mode(narrow):
    pair = torch.randn(2, 2, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together, alone = narrow(pair), torch.cat([narrow(pair[:1]), narrow(pair[1:])])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_dropout_acts_in_the_first_three_decoder_blocks_and_only_in_training():
    for upsampling in VARIANTS:
        blocks = dict(empty(upsampling).decoder.named_children())
        rates = {
            name: [m.p for m in block.modules() if isinstance(m, torch.nn.Dropout)] for name, block in blocks.items()
        }
        assert rates == {f"dec{k}": [0.5] if k <= 3 else [] for k in range(1, 9)}
    torch.manual_seed(3)
    generator = UNetGenerator(GeneratorArguments(base_channels=2)).eval()
    x = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        assert torch.equal(generator(x), generator(x))
        for module in generator.modules():
            module.train(isinstance(module, torch.nn.Dropout))
        assert not torch.equal(generator(x), generator(x))


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "base_channels"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, None])
def test_channels_are_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        GeneratorArguments(**{name: value})


def test_an_unknown_upsampling_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'area'.*nearest.*bilinear.*bicubic"):
        GeneratorArguments(upsampling="area")


def test_arguments_rebuild_the_generator():
    arguments = GeneratorArguments(in_channels=1, out_channels=3, base_channels=8, upsampling="bicubic")
    assert arguments.to_dict() == {
        "in_channels": 1,
        "out_channels": 3,
        "base_channels": 8,
        "upsampling": "bicubic",
        "architecture": "pix2pix",
    }
    assert GeneratorArguments(**arguments.to_dict()) == arguments
