"""What auto takes on a GPU, and our ONNX files read back into PyTorch."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sar2optical.engines import EngineOptions, autotune, open_engine, opening
from sar2optical.engines.cards import Card, first_card
from sar2optical.engines.onnx_graph import metadata_of, with_metadata
from sar2optical.engines.onnx_module import read_generator
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import CheckpointMismatch, DeviceUnavailable, ModelUnreadable
from sar2optical.evaluation.metrics import psnr

ADA, HOPPER = Card("NVIDIA GeForce RTX 4090", (8, 9)), Card("NVIDIA H100", (9, 0))


@pytest.fixture
def machine(monkeypatch):
    """Set the card and the installed libraries of this machine."""

    def become(card, *installed, cuda=False):
        monkeypatch.setattr(opening, "first_card", lambda: card)
        monkeypatch.setattr(opening, "find_spec", lambda name: name in installed or None)
        monkeypatch.setattr(opening, "_has_cuda_build", lambda name: name in installed)
        monkeypatch.setattr(opening, "cuda_opens", lambda: cuda)

    return become


@pytest.mark.parametrize(
    ("card", "installed", "cuda", "found"),
    [
        (ADA, ("tensorrt_rtx", "torch", "onnx"), True, ("tensorrt_rtx", "pytorch", "onnxruntime")),
        (HOPPER, ("tensorrt_rtx", "torch", "onnx"), True, ("pytorch", "onnxruntime")),
        (ADA, ("tensorrt_rtx", "onnx"), True, ("onnxruntime",)),
        (ADA, ("torch", "onnx"), False, ("pytorch",)),
        (ADA, ("torch",), False, ()),
        (None, ("tensorrt_rtx", "torch", "onnx"), False, ()),
    ],
)
def test_the_card_and_the_installed_libraries_decide(machine, card, installed, cuda, found):
    machine(card, *installed, cuda=cuda)
    assert opening.gpu_backends(bundled(), EngineOptions()) == found
    assert opening.gpu_backends(bundled(), EngineOptions(device="cpu")) == ()


def test_other_files_have_one_backend(machine, checkpoint):
    machine(ADA, "tensorrt_rtx", "torch", "onnx", cuda=True)
    assert opening.gpu_backends(checkpoint, EngineOptions()) == ()


def test_a_backend_that_does_not_open_the_file_gives_way_to_the_next(machine, monkeypatch, caplog):
    machine(ADA, "tensorrt_rtx", "torch", "onnx", "onnxruntime", cuda=True)
    tried, opened = [], opening._opened

    def without_gpu(chosen, path, options):
        tried.append((chosen.name, options.device))
        if options.device == "cpu":
            return opened(chosen, path, options)
        raise DeviceUnavailable(f"no {chosen.name} here")

    monkeypatch.setattr(opening, "_opened", without_gpu)
    with caplog.at_level(logging.INFO), open_engine(bundled()) as engine:
        assert engine.backend == "onnxruntime"
    assert tried == [("tensorrt_rtx", "auto"), ("pytorch", "auto"), ("onnxruntime", "auto"), ("onnxruntime", "cpu")]
    assert "pytorch is not used on the GPU: no pytorch here" in caplog.text
    assert "no backend runs generator.onnx on the GPU (no onnxruntime here): running on the CPU" in caplog.text
    with pytest.raises(DeviceUnavailable, match="no onnxruntime here"):
        open_engine(bundled(), options=EngineOptions(device="cuda"))


def test_on_a_gpu_auto_takes_the_reference_file(machine, monkeypatch):
    machine(ADA, "torch", "onnx", "onnxruntime")
    asked = []
    monkeypatch.setattr(autotune, "open_engine", lambda file, **given: asked.append((file, given["backend"])))
    autotune.open_model(variants(bundled()))
    assert asked == [(bundled(), "auto")]


def test_without_a_driver_there_is_no_card():
    card = first_card()
    assert card is None or card.compute_capability >= (3, 0)


@pytest.mark.parametrize("name", ["bundled", "exported"])
def test_our_onnx_files_run_in_pytorch(name, request):
    path = bundled() if name == "bundled" else request.getfixturevalue("exported")
    options = EngineOptions(device="cpu", precision="fp32", batch=2)
    side = 256
    sar = np.random.default_rng(0).uniform(-1, 1, (2, 1, side, side)).astype(np.float32)
    images = []
    for backend in ("onnxruntime", "pytorch"):
        with open_engine(path, backend=backend, options=options) as engine:
            images.append(engine.run(sar))
            assert engine.precision == "fp32"
    assert psnr(*images, data_range=2.0) > 100
    assert images[0].std() > 0.01


def test_they_run_in_each_window_of_the_file():
    for side in (512, 256):
        sar = np.random.default_rng(side).uniform(-1, 1, (1, 1, side, side)).astype(np.float32)
        images = []
        for backend in ("onnxruntime", "pytorch"):
            with open_engine(bundled(), backend=backend, options=EngineOptions(device="cpu")) as engine:
                engine.use_window(side)
                images.append(engine.run(sar))
        assert psnr(*images, data_range=2.0) > 100


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_the_mode_of_upsampling_is_read_from_the_graph(tmp_path, mode):
    import torch

    from export.build import ExportOptions, export
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator

    torch.manual_seed(1)
    generator = UNetGenerator(GeneratorArguments(in_channels=1, base_channels=4, upsampling=mode))
    torch.save(generator.state_dict(), tmp_path / "g.pth")
    export(tmp_path / "g.pth", tmp_path / "g.onnx", ExportOptions(upsampling=mode, windows=()))
    read, signature, _ = read_generator(tmp_path / "g.onnx")
    assert read.arguments.upsampling == mode
    assert signature.channels == 1


def changed(tmp_path, change):
    model = onnx.load(bundled())
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    return path


def test_files_of_another_precision_are_left_to_others(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"is int8; PyTorch reads fp32 files .*: give --backend onnxruntime"):
        read_generator(variants(bundled())["int8"])
    path = tmp_path / "plain.onnx"
    model = onnx.load(bundled())
    kept = {key: value for key, value in metadata_of(model).items() if key != "sar2optical.known_answer"}
    onnx.helper.set_model_props(model, kept)
    onnx.save(with_metadata(model, {}), path)
    with pytest.raises(CheckpointMismatch, match="is without a self-test"):
        read_generator(path)
    path.write_bytes(b"hello")
    with pytest.raises(ModelUnreadable, match="corrupt, or not an ONNX model"):
        read_generator(path)


def test_weights_of_another_network_are_refused(tmp_path):
    def rename(model):
        for tensor in model.graph.initializer:
            tensor.name = tensor.name.replace("decoder.dec1", "decoder.first")
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name.replace("decoder.dec1", "decoder.first") for name in names]

    with pytest.raises(CheckpointMismatch, match="its weights are not those of a generator"):
        read_generator(changed(tmp_path, rename))


def test_another_image_is_refused(tmp_path):
    def disturb(model):
        (tensor,) = [t for t in model.graph.initializer if t.name.startswith("head.to_colour.0.weight")]
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))

    with pytest.raises(CheckpointMismatch, match=r"PyTorch computes another image from its weights \(.* dB"):
        read_generator(changed(tmp_path, disturb))
