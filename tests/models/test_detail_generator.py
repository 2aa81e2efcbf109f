"""The detail generator: shapes, checkpoints, export; no chequerboard, and single pixels reach the head."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.options import ExportOptions
from export.to_onnx import to_onnx
from export.verify import as_written, simulated_chips
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import plain
from sar2optical.errors import CheckpointMismatch
from sar2optical.evaluation import corner_share
from sar2optical.evaluation.metrics import psnr
from sar2optical.models.checkpoint import load_generator, save_generator
from sar2optical.models.detail import DetailGenerator
from sar2optical.models.fold import fold
from sar2optical.models.generator import build_generator
from sar2optical.models.unet import GeneratorArguments, UNetGenerator
from sar2optical.signature import ModelSignature
from tests.models.test_checkpoint import same_state

ARGUMENTS = GeneratorArguments(in_channels=1, base_channels=6, architecture="detail")
SIGNATURE = ModelSignature(name="detail", bands=("VV|VH",))


@pytest.fixture(scope="module")
def generator():
    """Make a generator with random weights and batch-norm statistics."""
    torch.manual_seed(3)
    made = DetailGenerator(ARGUMENTS)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(4, 1, 128, 128) * 2 - 1)
    return made.eval()


@torch.inference_mode()
def image_of(made, sar):
    return made(torch.from_numpy(sar)).numpy()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_the_architecture_is_built_by_its_name():
    assert isinstance(build_generator(ARGUMENTS), DetailGenerator)
    assert isinstance(build_generator(replace(ARGUMENTS, architecture="pix2pix")), UNetGenerator)
    with pytest.raises(ValueError, match="architecture is 'resnet'"):
        GeneratorArguments(architecture="resnet")
    with pytest.raises(ValueError, match="upsampling 'nearest' has no effect"):
        GeneratorArguments(architecture="detail", upsampling="nearest")


def test_sides_are_multiples_of_64(generator):
    assert image_of(generator, noise(2, 1, 64, 192)).shape == (2, 3, 64, 192)
    with pytest.raises(ValueError, match="input is 96 x 64: pad it to multiples of 64"):
        image_of(generator, noise(1, 1, 96, 64))


def test_channels_are_those_of_the_documented_widths():
    shapes = {key: tuple(value.shape) for key, value in DetailGenerator(ARGUMENTS).state_dict().items()}
    assert shapes["encoder.enc1.conv_block.0.weight"] == (6, 1, 6, 6)
    assert shapes["encoder.enc6.conv_block.0.weight"] == (48, 48, 3, 3)
    assert shapes["decoder.dec6.conv_block.0.weight"] == (4, 12, 3, 3)
    assert shapes["head.conv_block.0.weight"] == (3, 1 + 4, 3, 3)
    assert shapes["head.to_colour.0.weight"] == (3, 3, 3, 3)


def test_a_checkpoint_gives_the_same_generator_back(tmp_path, generator):
    path = tmp_path / "detail.pth"
    save_generator(path, generator, SIGNATURE)
    loaded, signature = load_generator(path)
    assert isinstance(loaded, DetailGenerator)
    assert loaded.arguments == ARGUMENTS
    assert signature == SIGNATURE
    assert same_state(loaded, generator)


def test_weights_of_the_other_architecture_are_refused(tmp_path, generator):
    path = tmp_path / "wrong.pth"
    save_generator(path, generator, SIGNATURE)
    content = torch.load(path, weights_only=True)
    content["arguments"]["architecture"] = "pix2pix"
    torch.save(content, path)
    with pytest.raises(CheckpointMismatch, match="keys do not fit the generator"):
        load_generator(path)


def test_a_single_pixel_of_the_sar_image_reaches_the_head(generator):
    """Without the decoder's features, a pixel changes the image where the head's two kernels reach it."""
    alone = copy.deepcopy(generator)
    with torch.no_grad():
        alone.head.conv_block[0].weight[:, 1:] = 0
    sar = noise(1, 1, 128, 128)
    other = sar.copy()
    other[0, 0, 60, 70] *= -1
    changed = np.abs(image_of(alone, other) - image_of(alone, sar))[0].sum(axis=0)
    rows, cols = np.nonzero(changed)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (58, 62, 68, 72)


def test_fresh_weights_draw_no_chequerboard(generator):
    """On smooth input, random transposed convolutions leave their pattern, and bilinear upsampling leaves none."""
    rows, cols = np.mgrid[:256, :256] / 40
    smooth = (0.8 * np.sin(rows) * np.cos(cols)).astype(np.float32)[None, None]
    torch.manual_seed(3)
    transposed = UNetGenerator(GeneratorArguments(in_channels=1, base_channels=6))
    with torch.no_grad():
        transposed(torch.from_numpy(np.concatenate([smooth, -smooth])))
        pattern = corner_share(transposed.train()(torch.from_numpy(np.concatenate([smooth, -smooth])))[0].numpy())
    assert corner_share(image_of(generator, smooth)[0]) < 0.02
    assert pattern > 0.02


@pytest.mark.parametrize("copies", [1, 3])
def test_the_exported_graph_gives_the_generators_image(copies):
    """Batch norm and copied channels are folded in both convolutions that read the SAR image."""
    torch.manual_seed(copies)
    made = DetailGenerator(replace(ARGUMENTS, in_channels=copies)).eval()
    signature = replace(SIGNATURE, channels=copies)
    folded, described = fold(made, signature)
    assert described.channels == 1
    sar = noise(2, 1, 256, 256)
    expected = image_of(made, np.repeat(sar, copies, axis=1))
    model = to_onnx(folded, described)
    assert np.abs(as_written(model)(sar) - expected).max() < 1e-4
    assert expected.std() > 0.01
    assert {node.op_type for node in plain(model).graph.node} >= {"Conv", "Resize"}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_every_precision_is_exported_and_verified(tmp_path, generator, calibration, precision):
    from export.build import export

    source = tmp_path / "detail.pth"
    save_generator(source, generator, SIGNATURE)
    out = tmp_path / f"detail.{precision}.onnx"
    export(source, out, ExportOptions(precision=precision, calibration=calibration, min_psnr=25, windows=(256, 512)))
    assert onnx.load(out).graph.node
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    with open_engine(out, backend=backend, options=EngineOptions(device="cpu")) as engine:
        sar = simulated_chips(SIGNATURE, 1)
        made, expected = engine.run(sar), image_of(generator, sar)
        engine.use_window(512)
        wide = engine.run(np.tile(sar, (2, 2)))
    assert expected.std() > 0.1
    assert psnr(expected, made, data_range=2.0) > 23
    assert psnr(image_of(generator, np.tile(sar, (2, 2))), wide, data_range=2.0) > 23
