"""Export: a file agrees with its source, or is not written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.build import ExportOptions, export
from export.to_onnx import to_onnx
from export.verify import as_written, chips_from, compare, expect, simulated_chips
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.errors import (
    BackendNotInstalled,
    CheckpointMismatch,
    ExportUnsupported,
    OptionError,
    OutputExists,
    OutputUnwritable,
    ParityFailed,
)
from sar2optical.models.checkpoint import load_generator, save_generator, seed_signature
from sar2optical.models.fold import fold
from sar2optical.models.unet import GeneratorArguments, UNetGenerator
from tests.conftest import BYTES, make_identity, speckle
from tests.graphs import save_small_net


def lively(arguments):
    """Make a generator whose batch norms are as after training."""
    torch.manual_seed(3)
    generator = UNetGenerator(arguments)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
            torch.nn.init.normal_(module.weight, 1, 0.1)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return generator.eval()


@pytest.mark.parametrize("upsampling", [None, "nearest", "bilinear", "bicubic"])
def test_folding_changes_no_output(upsampling):
    generator = lively(GeneratorArguments(in_channels=3, base_channels=4, upsampling=upsampling))
    folded, signature = fold(generator, seed_signature("seed", 3))
    grey = torch.rand(2, 1, 256, 256) * 2 - 1
    with torch.inference_mode():
        expected, found = generator(grey.expand(-1, 3, -1, -1)), folded(grey)
    assert signature.channels == 1
    assert expected.std() > 0.01
    assert (expected - found).abs().max() < 1e-5
    assert not any(isinstance(m, (torch.nn.BatchNorm2d, torch.nn.Dropout)) for m in folded.modules())
    assert any(isinstance(m, torch.nn.Dropout) for m in generator.modules())  # the source is not modified


def test_channels_that_are_not_copies_are_not_folded():
    generator = lively(GeneratorArguments(in_channels=2, base_channels=4))
    two = BYTES.stretch * 2
    from tests.conftest import signature_of

    folded, signature = fold(generator, signature_of(bands=("VV", "VH"), stretch=two, channels=2))
    assert signature.channels == folded.arguments.in_channels == 2


@pytest.mark.parametrize("upsampling", [None, "nearest", "bilinear", "bicubic"])
def test_a_bare_state_dict_of_three_channels_becomes_a_file_of_one(tmp_path, upsampling):
    generator = lively(GeneratorArguments(in_channels=3, base_channels=4, upsampling=upsampling))
    source, out = tmp_path / "pix2pix_gen_7.pth", tmp_path / "model.onnx"
    torch.save(generator.state_dict(), source)
    made = export(source, out, ExportOptions(upsampling=upsampling, windows=()))
    assert made.signature.bands == ("VV",)
    assert made.signature.channels == 1
    assert made.parity.psnr > 100
    grey = np.random.default_rng(0).uniform(-1, 1, (3, 1, 256, 256)).astype(np.float32)
    with torch.inference_mode():
        expected = generator(torch.from_numpy(grey).expand(-1, 3, -1, -1)).numpy()
    with open_engine(out, options=EngineOptions(precision="fp32", batch=3)) as engine:
        assert np.abs(engine.run(grey) - expected).max() < 1e-4


def test_the_file_has_its_metadata(exported):
    model = onnx.load(exported)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(props["sar2optical.signature"])["bands"] == ["VH"]
    assert props["sar2optical.precision"] == "fp32"
    assert float(props["sar2optical.parity_psnr_db"]) > 100
    assert props["sar2optical.parity_chips"].endswith("simulated")
    (sar,), (optical,) = model.graph.input, model.graph.output
    assert (sar.name, optical.name) == ("sar", "optical")
    dims = [d.dim_param or d.dim_value for d in sar.type.tensor_type.shape.dim]
    assert dims == ["N", 1, 256, 256]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Dropout", "BatchNormalization"}
    assert b"/site-packages/" not in exported.read_bytes()  # no trace of the exporting machine


def test_any_batch_runs(exported):
    chips = np.random.default_rng(0).uniform(-1, 1, (5, 1, 256, 256)).astype(np.float32)
    outputs = []
    for batch in (1, 5):
        options = EngineOptions(device="cpu", batch=batch)
        with open_engine(exported, backend="onnxruntime", options=options) as engine:
            runs = [engine.run(chips[k : k + batch]) for k in range(0, 5, batch)]
            outputs.append(np.concatenate(runs))
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("opset", [17, 20])
def test_the_requested_opset_is_written(tmp_path, checkpoint, opset):
    export(checkpoint, tmp_path / "model.onnx", ExportOptions(opset=opset, windows=()))
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset


def test_an_unsupported_opset_is_refused(checkpoint):
    generator, signature = load_generator(checkpoint)
    with pytest.raises(ExportUnsupported, match="opset is 11: give 17 to"):
        to_onnx(*fold(generator, signature), opset=11)


def test_half_storage_halves_the_file_and_runs_in_fp32(tmp_path, exported):
    made = export(exported, tmp_path / "half.onnx", ExportOptions(storage="fp16"))
    assert made.out.stat().st_size < 0.6 * exported.stat().st_size
    assert 50 < made.parity.psnr < 120  # rounded, but not by much
    with open_engine(made.out, options=EngineOptions(precision="fp32")) as engine:
        assert engine.precision == "fp32"


def test_parity_is_measured_on_the_given_chips(tmp_path, exported, make_raster):
    folder = tmp_path / "s1"
    folder.mkdir()
    for k in range(3):
        make_raster(speckle((300, 300), seed=k), f"s1/{k}.png")
    made = export(exported, tmp_path / "model.onnx", ExportOptions(verify_with=tmp_path))
    assert made.parity.chips == 3
    assert made.parity.source == tmp_path.name


def test_chips_of_a_scene_are_valid_windows_as_the_model_sees_them(make_raster):
    grey = speckle((600, 800))
    grey[:, :256] = 0
    chips = chips_from(make_raster(grey, nodata=0), BYTES)
    assert chips.shape == (4, 1, 256, 256)
    np.testing.assert_allclose(chips[0, 0], grey[:256, 256:512] / 127.5 - 1, atol=1e-6)


def test_a_folder_without_a_chip_is_refused(tmp_path, make_raster):
    make_raster(speckle((64, 64)), "small.png")
    with pytest.raises(ExportUnsupported, match="no chip of at least 256 x 256"):
        chips_from(tmp_path, BYTES)
    with pytest.raises(ExportUnsupported, match="no such file or folder"):
        chips_from(tmp_path / "none", BYTES)


def test_simulated_chips_cover_the_range(exported):
    chips = simulated_chips(BYTES)
    assert chips.shape == (8, 1, 256, 256)
    assert -1 <= chips.min() < -0.9
    assert 0.9 < chips.max() <= 1


CHIPS = simulated_chips(BYTES, count=2)


@pytest.fixture(scope="module")
def images(exported):
    return expect(as_written(onnx.load(exported)), CHIPS)


def test_parity_is_measured(exported, images):
    shifted = as_written(onnx.load(exported))
    parity = compare(images, lambda sar: shifted(sar) + np.float32(0.002), CHIPS, source="mine", floor=59)
    assert parity.psnr == pytest.approx(60, abs=0.01)  # 20 log10(2 / 0.002)
    assert parity.max_error == pytest.approx(0.002, rel=0.01)
    assert parity.mean_error == pytest.approx(0.002, rel=0.01)
    assert (parity.chips, parity.source) == (2, "mine")


def test_another_model_fails(tmp_path, images):
    with (
        open_engine(make_identity(tmp_path / "other.onnx", BYTES)) as engine,
        pytest.raises(ParityFailed, match=r"parity is \d+\.\d dB against the source, at least 80"),
    ):
        compare(images, engine.run, CHIPS, source="simulated", floor=80)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda image: image[:, ::-1], "chip 0: the exported model returns BGR instead of RGB"),
        (lambda image: image[:, [1, 2, 0]], "returns GBR instead"),
        (lambda image: np.where(np.arange(256) == 7, np.float32("nan"), image), "returns NaN or infinity"),
        (np.zeros_like, "returns a constant"),
        (lambda image: image + np.float32(0.1), r"parity is 26\.0 dB"),
    ],
    ids=["BGR", "GBR", "NaN", "constant", "brighter"],
)
def test_faults_of_the_exported_model_fail(exported, images, fault, message):
    right = as_written(onnx.load(exported))
    with pytest.raises(ParityFailed, match=message):
        compare(images, lambda sar: fault(right(sar)), CHIPS, source="simulated", floor=80)


def test_one_bad_chip_of_many_fails(exported, images):
    right, calls = as_written(onnx.load(exported)), []

    def sometimes(sar):
        calls.append(1)
        return right(sar) * np.float32(1 if len(calls) == 1 else 0.9)

    with pytest.raises(ParityFailed, match="parity is"):
        compare(images, sometimes, CHIPS, source="simulated", floor=80)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda sar: sar * np.float32("nan"), "returns NaN or infinity, so its weights are damaged"),
        (lambda sar: sar * 0 + np.float32(0.3), "returns one colour for every input"),
        (lambda sar: sar * 0 + np.linspace(-1, 1, 256, dtype=np.float32), "returns the same image for every input"),
        (
            lambda sar: sar * np.random.default_rng().integers(0, 2, sar.shape, dtype=np.int8).astype(np.float32),
            "returns different images for the same chip, as with dropout",
        ),
    ],
    ids=["NaN", "one colour", "one image", "dropout"],
)
def test_sources_that_are_not_trained_generators_fail(fault, message):
    with pytest.raises(ParityFailed, match=message):
        expect(lambda sar: np.repeat(fault(sar), 3, axis=1), CHIPS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("weight", float("nan"), "weights are damaged"), ("weight", 0.0, "one colour for every input")],
    ids=["NaN weights", "a head of zeros"],
)
def test_a_damaged_checkpoint_is_not_exported(tmp_path, checkpoint, name, value, message):
    generator, signature = load_generator(checkpoint)
    head = [module for module in generator.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        getattr(head, name).fill_(value)
    source = tmp_path / "spoilt.pth"
    save_generator(source, generator, signature)
    with pytest.raises(ParityFailed, match=message):
        export(source, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == [source]


def test_a_rewrite_that_swaps_colours_is_not_written(tmp_path, exported, monkeypatch):
    from export import rewrite
    from sar2optical.engines.onnx_graph import Graph

    def swapped(model):
        graph = Graph(model)
        graph.nodes[-1].output[0] = "straight"
        backwards = graph.add_constant("backwards", np.array([2, 1, 0]))
        graph.nodes.append(onnx.helper.make_node("Gather", ["straight", backwards], ["optical"], "swap", axis=1))
        return graph.model()

    monkeypatch.setattr(rewrite, "store_halved", swapped)
    with pytest.raises(ParityFailed, match="returns BGR instead of RGB"):
        export(exported, tmp_path / "model.onnx", ExportOptions(storage="fp16"))
    assert list(tmp_path.iterdir()) == []


def test_an_exported_onnx_file_is_a_source(tmp_path, exported):
    made = export(exported, tmp_path / "again.onnx")
    assert made.signature == BYTES
    assert (made.precision, made.opset, made.subpixel) == ("fp32", 18, False)
    assert made.parity.psnr > 100
    chips = np.random.default_rng(1).uniform(-1, 1, (1, 1, 256, 256)).astype(np.float32)
    with (
        open_engine(exported, backend="onnxruntime") as first,
        open_engine(made.out, backend="onnxruntime") as second,
    ):
        np.testing.assert_array_equal(first.run(chips), second.run(chips))


def test_sub_pixel_form_is_written_on_request_and_refused_if_impossible(tmp_path, exported):
    made = export(exported, tmp_path / "packed.onnx", ExportOptions(subpixel="on"))
    assert made.subpixel
    assert made.parity.psnr > 100
    props = {entry.key: entry.value for entry in onnx.load(made.out).metadata_props}
    assert props["sar2optical.subpixel"] == "on"
    assert "ConvTranspose" not in {node.op_type for node in onnx.load(made.out).graph.node}
    upsampling = save_small_net(
        tmp_path / "upsampling.onnx",
        between=[("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Resize", ["", "two"], {})],
        constants={"two": np.array([1, 1, 2, 2], np.float32)},
    )
    with pytest.raises(
        ExportUnsupported, match="subpixel on has no effect, because this generator has no transposed convolution"
    ):
        export(upsampling, tmp_path / "out.onnx", ExportOptions(subpixel="on"))
    assert not (tmp_path / "out.onnx").exists()
    assert not export(upsampling, tmp_path / "out.onnx").subpixel


def test_below_the_floor_no_file_is_written(tmp_path, exported):
    with pytest.raises(ParityFailed, match="at least 1000 dB is required; no file was written"):
        export(exported, tmp_path / "model.onnx", ExportOptions(min_psnr=1000))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_overwrite(tmp_path, exported):
    out = tmp_path / "model.onnx"
    out.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="--overwrite"):
        export(exported, out)
    assert out.read_bytes() == b"precious"
    export(exported, out, ExportOptions(overwrite=True))
    assert onnx.load(out).graph.name


def test_unknown_kinds_of_sources_and_outputs_are_named(tmp_path, checkpoint):
    with pytest.raises(ExportUnsupported, match=r"\.pth"):
        export(tmp_path / "model.h5", tmp_path / "model.onnx")
    with pytest.raises(ExportUnsupported, match=r"\.onnx"):
        export(checkpoint, tmp_path / "model.tflite")
    with pytest.raises(OutputUnwritable, match="no folder"):
        export(checkpoint, tmp_path / "none" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".plan", ".engine"])
def test_a_plan_without_tensorrt_names_the_extra(tmp_path, exported, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendNotInstalled, match=r"needs tensorrt: pip install 'sar2optical\[tensorrt\]'"):
        export(exported, tmp_path / f"model{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_int8_without_real_data_is_refused_first(tmp_path):
    (tmp_path / "no checkpoint.pth").write_bytes(b"")
    with pytest.raises(OptionError, match="precision int8 needs calibration on real data: give --calibration"):
        export(tmp_path / "no checkpoint.pth", tmp_path / "model.onnx", ExportOptions(precision="int8"))
    assert [path.name for path in tmp_path.iterdir()] == ["no checkpoint.pth"]


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(OptionError, match="storage fp16 applies only to precision fp32, not to int8"):
        ExportOptions(precision="int8", storage="fp16", calibration=Path("chips"))
    with pytest.raises(OptionError, match="opset is 11: give 17 to 23"):
        ExportOptions(opset=11)


def test_a_discriminator_is_not_exported(tmp_path):
    from sar2optical.models.patchgan import Discriminator

    source = tmp_path / "disc.pth"
    torch.save(Discriminator(base_channels=4).state_dict(), source)
    with pytest.raises(CheckpointMismatch, match="not a generator"):
        export(source, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_chips_of_a_scene_are_spread_over_it(make_raster):
    rows = np.repeat(np.arange(1, 9, dtype=np.uint8) * 30, 256)
    scene = make_raster(np.broadcast_to(rows[:, None], (2048, 2048)).copy())
    levels = {round(float((chip.mean() + 1) * 127.5)) for chip in chips_from(scene, BYTES)}
    assert levels == {30, 60, 90, 120, 150, 180, 210, 240}


def test_an_interrupted_export_is_interrupted(checkpoint):
    # PyTorch's exporter wraps all exceptions, also KeyboardInterrupt.
    code = (
        "import sys; from pathlib import Path\n"
        "from export.to_onnx import to_onnx\nfrom sar2optical.models.fold import fold\n"
        "from sar2optical.cli.common import reports_errors\n"
        "from sar2optical.models.checkpoint import load_generator\n"
        "@reports_errors\n"
        "def trace():\n"
        "    folded = fold(*load_generator(Path(sys.argv[1])))\n"
        "    print('ready', flush=True)\n"
        "    to_onnx(*folded)\n"
        "trace()\n"
    )
    for delay in (0.3, 0.8, 1.3):
        with subprocess.Popen(
            [sys.executable, "-c", code, checkpoint], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        if process.returncode:  # 0 if it was faster than the signal
            assert process.returncode == 130, stderr
            assert "Traceback" not in stderr
