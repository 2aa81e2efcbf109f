"""Engines: the requested device and precision are used, or an error is raised."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnxruntime import InferenceSession

from export.build import ExportOptions, export
from export.verify import simulated_chips
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import (
    DeviceUnavailable,
    InferenceFailed,
    ModelError,
    ModelUnreadable,
    OptionError,
    SignatureError,
)
from tests.conftest import BYTES, make_identity

BACKENDS = ["openvino", "onnxruntime", "pytorch"]


def model_for(backend, exported, checkpoint):
    return checkpoint if backend == "pytorch" else exported


def chips(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 256, 256)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_generators_output(backend, exported, checkpoint):
    import torch

    from sar2optical.models.checkpoint import load_generator

    sar = chips(3)
    generator, _ = load_generator(checkpoint)
    with torch.inference_mode():
        expected = generator(torch.from_numpy(sar)).numpy()
    options = EngineOptions(device="cpu", precision="fp32", batch=2, threads=1)
    with open_engine(model_for(backend, exported, checkpoint), backend=backend, options=options) as engine:
        found = np.concatenate([engine.run(sar[:2]), engine.run(sar[2:])])  # a full batch and a short one
        assert replace(engine.signature, windows=()) == BYTES
        assert (engine.backend, engine.precision) == (backend, "fp32")
        assert engine.device.startswith("cpu")
    assert expected.std() > 0.01
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_caller_owns_the_result(backend, exported, checkpoint):
    options = EngineOptions(device="cpu", threads=1)
    with open_engine(model_for(backend, exported, checkpoint), backend=backend, options=options) as engine:
        first = engine.run(chips(1, seed=1))
        kept = first.copy()
        engine.run(chips(1, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_takes_the_windows_of_the_file(backend, wide, checkpoint):
    import torch

    from sar2optical.models.checkpoint import load_generator
    from sar2optical.models.wide import zero_unused_taps

    generator, _ = load_generator(checkpoint)
    zero_unused_taps(generator, 256)
    options = EngineOptions(device="cpu", precision="fp32", batch=2, threads=1)
    with open_engine(model_for(backend, wide, checkpoint), backend=backend, options=options) as engine:
        assert engine.windows == ((256, 512, 1024, 2048) if backend == "pytorch" else (256, 512))
        before = engine.run(chips(2))
        engine.use_window(512)
        large = np.random.default_rng(1).uniform(-1, 1, (2, 1, 512, 512)).astype(np.float32)
        with torch.inference_mode():
            expected = generator(torch.from_numpy(large)).numpy()
        assert expected.std() > 0.01
        assert np.abs(engine.run(large) - expected).max() < 1e-4
        assert np.abs(engine.run(large[1:]) - expected[1:]).max() < 1e-4
        with pytest.raises(InferenceFailed, match="the engine takes"):
            engine.run(chips(2))
        with pytest.raises(OptionError, match=f"window is 768, but tiny in {backend} takes 256 or 512"):
            engine.use_window(768)
        assert engine.window == 512
        engine.use_window(256)
        np.testing.assert_array_equal(engine.run(chips(2)), before)


def test_onnx_runtime_rounds_as_in_a_file_of_one_window(tmp_path, exported, calibration):
    """With open sides ONNX Runtime 1.32.0 rounds otherwise: findings/onnxruntime_open_sides.sh."""
    options = ExportOptions(precision="int8", calibration=calibration, method="minmax", min_psnr=20, subpixel="on")
    low = export(exported, tmp_path / "low.onnx", options).out
    several = export(low, tmp_path / "several.onnx", ExportOptions(windows=(512,))).out
    sar = simulated_chips(BYTES)
    images = []
    for path in (low, several):
        with open_engine(path, backend="onnxruntime", options=EngineOptions(device="cpu", threads=1)) as engine:
            images.append(np.concatenate([engine.run(chip[None]) for chip in sar]))
    np.testing.assert_array_equal(*images)
    assert images[0].std() > 0.01
    plain = InferenceSession(several, providers=["CPUExecutionProvider"])
    as_it_is = np.concatenate([plain.run(None, {"sar": chip[None]})[0] for chip in sar])
    assert not np.array_equal(as_it_is, images[0])


def test_auto_takes_openvino_on_a_cpu(exported):
    with open_engine(exported) as engine:
        assert engine.backend == "openvino"
        assert engine.precision in ("bf16", "fp32")


def test_openvino_runs_and_reports_requested_fp32(exported):
    with open_engine(exported, options=EngineOptions(precision="fp32")) as engine:
        assert engine.precision == "fp32"


def test_openvino_bf16_is_close_and_not_fp32(exported):
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(DeviceUnavailable, match="bf16"):
            open_engine(exported, options=EngineOptions(precision="bf16"))
        return
    outputs = {}
    for precision in ("fp32", "bf16"):
        with open_engine(exported, options=EngineOptions(precision=precision)) as engine:
            assert engine.precision == precision
            outputs[precision] = engine.run(chips(1))
    difference = np.abs(outputs["fp32"] - outputs["bf16"]).max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_batch_gives_what_single_windows_give(backend, precision):
    """OpenVINO 2026.4.1 compiled for batches rounds bf16 differently than for one window, on a CPU with AMX."""
    coarse = np.random.default_rng(3).uniform(-1, 1, (8, 1, 16, 16))  # with this seed, the seventh window differed
    sar = np.kron(coarse, np.ones((16, 16))).astype(np.float32)
    found = {}
    for batch in (1, 4):
        options = EngineOptions(device="cpu", batch=batch)
        with open_engine(variants(bundled())[precision], backend=backend, options=options) as engine:
            found[batch] = np.concatenate([engine.run(sar[k : k + batch]) for k in range(0, 8, batch)])
    assert found[1].std() > 0.1
    np.testing.assert_array_equal(found[1], found[4])


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_set_the_number_of_concurrent_runs(exported, checkpoint, backend):
    model = model_for(backend, exported, checkpoint)
    for threads in (1, 2):
        with open_engine(model, backend=backend, options=EngineOptions(device="cpu", threads=threads)) as engine:
            assert engine.streams == threads


def test_the_number_of_threads_of_pytorch_is_restored(checkpoint):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_engine(checkpoint, options=EngineOptions(device="cpu")):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("first", [0, 1])
def test_closing_an_engine_of_pytorch_leaves_the_threads_of_another(checkpoint, first):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    engines = [open_engine(checkpoint, options=EngineOptions(device="cpu")) for _ in range(2)]
    try:
        engines[first].close()
        engines[first].close()
        assert torch.get_num_threads() == 1
        engines[1 - first].close()
        assert torch.get_num_threads() == 2
    finally:
        for engine in engines:
            engine.close()
        torch.set_num_threads(before)


def test_an_engine_of_pytorch_that_does_not_open_restores_the_threads(checkpoint, monkeypatch):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr("sar2optical.engines.slots.SlotEngine.__init__", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_engine(checkpoint, options=EngineOptions(device="cpu"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_device_is_an_error(backend, exported, checkpoint):
    import torch

    if torch.cuda.is_available() and backend != "openvino":
        pytest.skip("this machine has the device")
    with pytest.raises(DeviceUnavailable, match="cuda is not available"):
        open_engine(model_for(backend, exported, checkpoint), backend=backend, options=EngineOptions(device="cuda"))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_a_backend_lacks_is_an_error(exported, precision):
    with pytest.raises(DeviceUnavailable, match=f"precision {precision} is not available with onnxruntime"):
        open_engine(exported, backend="onnxruntime", options=EngineOptions(precision=precision))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_file_without_a_signature_is_refused(tmp_path, backend):
    path = make_identity(tmp_path / "bare.onnx", None)
    with pytest.raises(SignatureError, match="no signature"):
        open_engine(path, backend=backend)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_signature_of_another_version_is_refused(tmp_path, backend):
    import onnx

    path = make_identity(tmp_path / "future.onnx", BYTES)
    model = onnx.load(path)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"version": 1', '"version": 99')
    onnx.save(model, path)
    with pytest.raises(SignatureError, match="version 99, but this release reads 1"):
        open_engine(path, backend=backend)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_corrupt_models_are_refused_in_one_line(tmp_path, exported, backend):
    whole = exported.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelUnreadable) as caught:
            open_engine(path, backend=backend)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_kinds_of_files_are_named(tmp_path):
    with pytest.raises(ModelUnreadable, match=r"unknown kind of model '.zip'"):
        open_engine(tmp_path / "model.zip")
    with pytest.raises(ModelUnreadable, match="no such file"):
        open_engine(tmp_path / "none.onnx")


def test_a_backend_that_does_not_run_the_file_is_named(checkpoint):
    with pytest.raises(OptionError, match=r"openvino does not run .pth"):
        open_engine(checkpoint, backend="openvino")


def test_invalid_options_are_refused():
    with pytest.raises(OptionError, match="threads is 0"):
        EngineOptions(threads=0)
    with pytest.raises(OptionError, match="batch size is 0"):
        EngineOptions(batch=0)


def test_input_of_another_shape_is_refused(exported):
    with open_engine(exported) as engine:
        for wrong in (np.zeros((1, 1, 128, 128), np.float32), np.zeros((2, 1, 256, 256), np.float32)):
            with pytest.raises(InferenceFailed, match="the engine takes"):
                engine.run(wrong)
        with pytest.raises(InferenceFailed, match="float64"):
            engine.run(np.zeros((1, 1, 256, 256)))


def odd_model(path, kind):
    """Write a file whose graph does not match its signature."""
    import onnx
    from onnx import TensorProto, helper

    from sar2optical.signature import METADATA_KEY

    element = TensorProto.FLOAT16 if kind == "half" else TensorProto.FLOAT
    side = 128 if kind == "window" else 256
    channels = {"grey": 1, "four": 4}.get(kind, 3)
    inputs = [helper.make_tensor_value_info("sar", element, ["N", 1, side, side])]
    nodes = [helper.make_node("Concat", ["sar"] * channels, ["optical"], axis=1)]
    if kind == "two inputs":
        inputs.append(helper.make_tensor_value_info("more", element, ["N", 1, side, side]))
        nodes = [helper.make_node("Concat", ["sar", "more", "more"], ["optical"], axis=1)]
    output = helper.make_tensor_value_info("optical", element, ["N", channels, side, side])
    graph = helper.make_graph(nodes, "odd", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: BYTES.to_json()})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", ["grey", "four", "two inputs", "half", "window"])
def test_a_file_that_does_not_match_its_signature_is_refused_when_opened(tmp_path, backend, kind):
    path = odd_model(tmp_path / "odd.onnx", kind)
    with pytest.raises(ModelError) as caught:
        open_engine(path, backend=backend, options=EngineOptions(device="cpu"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_first_runs_from_several_threads_do_not_block_each_other(exported):
    # In subprocesses, several times: the hang occurred in one of three.
    code = (
        "import sys, threading, numpy as np; from pathlib import Path\n"
        "from sar2optical.engines import EngineOptions, open_engine\n"
        "with open_engine(Path(sys.argv[1]), options=EngineOptions(threads=2)) as engine:\n"
        "    gate = threading.Barrier(2)\n"
        "    def go():\n"
        "        gate.wait(); engine.run(np.zeros((1, 1, 256, 256), np.float32))\n"
        "    threads = [threading.Thread(target=go) for _ in range(2)]\n"
        "    [t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    for _ in range(6):
        subprocess.run([sys.executable, "-c", code, exported], check=True, timeout=60)
