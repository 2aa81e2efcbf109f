"""GPU engines: tests that need no GPU, and tests marked gpu that do."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sar2optical.engines import EngineOptions, open_engine, pytorch, slots
from sar2optical.engines import onnxruntime as ort
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed
from sar2optical.evaluation.metrics import psnr
from sar2optical.models.checkpoint import load_generator
from sar2optical.signature import METADATA_KEY, PRECISION_KEY
from tests.conftest import BYTES

SIDE = BYTES.window


def chips(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, SIDE, SIDE)).astype(np.float32)


def expected(checkpoint, sar):
    generator, _ = load_generator(checkpoint)
    with torch.inference_mode():
        return generator(torch.from_numpy(sar)).numpy()


def open_with(backend, model, **options):
    return open_engine(model, backend=backend, options=EngineOptions(**{"device": "cpu", "threads": 1, **options}))


# ONNX Runtime.


def test_runs_on_bound_buffers_are_plain_runs(exported):
    sar = chips(3)
    with open_with("onnxruntime", exported, batch=3) as engine:
        plain = engine.run(sar)
        bound = ort.BoundRuns(engine._session, "cpu")
        first, short = bound.run(sar, 3), bound.run(sar[:2], 3)
        other_size = bound.run(sar[1:], 2)
    assert plain.std() > 0.01
    np.testing.assert_array_equal(first, plain)  # and not overwritten by later runs
    np.testing.assert_array_equal(short, plain[:2])
    np.testing.assert_array_equal(other_size, plain[1:])


def test_bound_buffers_have_the_size_of_the_window(wide):
    sar = np.random.default_rng(2).uniform(-1, 1, (2, 1, 512, 512)).astype(np.float32)
    with open_with("onnxruntime", wide, batch=2) as engine:
        engine.use_window(512)
        plain = engine.run(sar)
        for session in (engine._session, onnxruntime.InferenceSession(wide, providers=["CPUExecutionProvider"])):
            np.testing.assert_allclose(ort.BoundRuns(session, "cpu", 512).run(sar, 2), plain, atol=1e-5)
    assert plain.std() > 0.01


def test_bound_buffers_serve_one_run_at_a_time(exported):
    sar = chips(6)
    with open_with("onnxruntime", exported) as engine, ThreadPoolExecutor(3) as pool:
        bound = ort.BoundRuns(engine._session, "cpu")
        found = list(pool.map(lambda k: bound.run(sar[k : k + 1], 1), range(6)))
        for k, image in enumerate(found):
            np.testing.assert_array_equal(image, engine.run(sar[k : k + 1]))


class Small:
    """Bound runs on a device whose memory fits `most` windows."""

    def __init__(self, inner, most):
        self.inner, self.most, self.sizes = inner, most, []

    def run(self, sar, size):
        self.sizes.append(size)
        if size > self.most:
            # ONNX Runtime's message on a GPU without free memory.
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
                "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 536870912"
            )
        return self.inner.run(sar, size)


def test_onnxruntime_without_memory_halves_the_batch(exported, caplog):
    sar = chips(5)
    with open_with("onnxruntime", exported, batch=5) as engine:
        plain = engine.run(sar)
        engine._bound = small = Small(ort.BoundRuns(engine._session, "cpu"), 2)
        with caplog.at_level(logging.WARNING):
            found, again = engine.run(sar), engine.run(sar)
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_array_equal(again, plain)
    assert small.sizes == [5, 2, 2, 2, 2, 2, 2]  # the last window is padded: no third size
    assert len(caplog.records) == 1
    assert "out of memory with 5 windows at once; continuing with 2" in caplog.text


def test_onnxruntime_without_memory_for_one_window_is_an_error(exported):
    with open_with("onnxruntime", exported) as engine:
        engine._bound = Small(None, 0)
        with pytest.raises(DeviceOutOfMemory, match=r"1 windows at once do not fit .*: give a smaller --batch"):
            engine.run(chips(1))


def identity_in(path, element, precision):
    """Write a file that casts, convolves with ones, and casts back."""
    side = BYTES.window
    one = np.zeros((3, 1, 1, 1), np.float32) + 1
    weights = numpy_helper.from_array(one.astype(helper.tensor_dtype_to_np_dtype(element)), "weights")
    nodes = [
        helper.make_node("Cast", ["sar"], ["half"], to=element),
        helper.make_node("Conv", ["half", "weights"], ["colours"]),
        helper.make_node("Cast", ["colours"], ["optical"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("sar", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info("optical", TensorProto.FLOAT, ["N", 3, side, side])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: BYTES.to_json(), PRECISION_KEY: precision})
    onnx.save(model, path)
    return path


def test_onnxruntime_reports_fp32_for_an_fp16_file_on_a_cpu(tmp_path):
    path = identity_in(tmp_path / "half.onnx", TensorProto.FLOAT16, "fp16")
    sar = chips(1)
    for precision in ("auto", "fp32"):
        with open_with("onnxruntime", path, precision=precision) as engine:
            assert engine.precision == "fp32"
            np.testing.assert_allclose(engine.run(sar), np.repeat(sar, 3, axis=1), atol=1e-3)
    with pytest.raises(DeviceUnavailable, match=r"precision fp16 is not available .* this file: give fp32"):
        open_with("onnxruntime", path, precision="fp16")


def test_onnxruntime_refuses_a_bf16_file_on_a_cpu_and_names_openvino(tmp_path):
    path = identity_in(tmp_path / "brain.onnx", TensorProto.BFLOAT16, "bf16")
    with pytest.raises(
        DeviceUnavailable, match=r"does not run its operators on cpu .* \(openvino runs bf16 files\)"
    ) as caught:
        open_with("onnxruntime", path)
    assert "\n" not in str(caught.value)
    with open_with("openvino", path) as engine:
        assert engine.run(chips(1)).std() > 0.5


@pytest.fixture
def lists_cuda(monkeypatch):
    """Make ONNX Runtime list CUDA, as its GPU wheel does on a machine without a GPU."""
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: list(ort._PROVIDERS.values()))
    ort.cuda_problem.cache_clear()
    yield
    ort.cuda_problem.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA opens on this machine")
def test_auto_takes_cuda_only_if_it_opens(exported, lists_cuda, caplog):
    with caplog.at_level(logging.INFO), open_with("onnxruntime", exported, device="auto") as engine:
        assert engine.device == "cpu"
        assert engine.run(chips(1)).std() > 0.01
    assert "onnxruntime cannot open CUDA (" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA opens on this machine")
def test_requested_cuda_that_does_not_open_is_an_error(exported, lists_cuda):
    with pytest.raises(DeviceUnavailable, match=r"cuda does not work with onnxruntime .*give --device cpu"):
        open_with("onnxruntime", exported, device="cuda")


# PyTorch.


def short_of_memory(engine, most):
    """Make the generator fail as on a GPU whose memory fits `most` windows; return the sizes of its batches."""
    sizes = []

    def before(_, given):
        sizes.append(len(given[0]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    slot = engine._idle.get()
    slot.network.generator.register_forward_pre_hook(before)
    engine._idle.put(slot)
    return sizes


def test_pytorch_without_memory_halves_the_batch(checkpoint, caplog):
    sar = chips(5)
    with open_with("pytorch", checkpoint, batch=5) as engine:
        sizes = short_of_memory(engine, 2)
        with caplog.at_level(logging.WARNING):
            found, again = engine.run(sar), engine.run(sar)
    np.testing.assert_allclose(found, expected(checkpoint, sar), atol=1e-5)
    np.testing.assert_array_equal(found, again)
    assert sizes == [5, 2, 2, 2, 2, 2, 2]
    assert len(caplog.records) == 1


def test_pytorch_without_memory_for_one_window_is_an_error(checkpoint):
    with open_with("pytorch", checkpoint) as engine:
        short_of_memory(engine, 0)
        with pytest.raises(DeviceOutOfMemory, match=r"1 windows at once do not fit .*: give a smaller --batch"):
            engine.run(chips(1))


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_memory_errors_of_other_libraries_count(words):
    assert isinstance(slots.stopped(RuntimeError(words), 4, "PyTorch"), DeviceOutOfMemory)
    assert not isinstance(slots.stopped(RuntimeError("CUDA error: invalid argument"), 4, "it"), DeviceOutOfMemory)


def test_below_fp32_convolutions_are_converted_and_statistics_are_not(checkpoint):
    sar = chips(2)
    with open_with("pytorch", checkpoint, precision="bf16", batch=2) as engine:
        found = engine.run(sar)
        slot = engine._idle.get()
        kinds = {type(module).__name__: module for module in slot.network.generator.modules()}
        engine._idle.put(slot)
    assert kinds["Conv2d"].weight.dtype == kinds["ConvTranspose2d"].weight.dtype == torch.bfloat16
    assert kinds["BatchNorm2d"].running_var.dtype == kinds["BatchNorm2d"].weight.dtype == torch.float32
    reference = expected(checkpoint, sar)
    assert 35 < psnr(reference, found, data_range=2.0) < 100


def test_fp16_needs_a_gpu(checkpoint):
    with pytest.raises(DeviceUnavailable, match="fp16 is not available with pytorch on cpu: give fp32 or bf16"):
        open_with("pytorch", checkpoint, precision="fp16")


@pytest.mark.parametrize("backend", ["pytorch", "onnxruntime"])
def test_a_closed_engine_refuses_to_run(exported, checkpoint, backend):
    engine = open_with(backend, checkpoint if backend == "pytorch" else exported)
    engine.close()
    engine.close()
    with pytest.raises(InferenceFailed, match="closed: open it again"):
        engine.run(chips(1))


def test_settings_of_cudnn_are_restored():
    def read():
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, cudnn.enabled

    before = read()
    settings = pytorch._settings(torch.device("cuda"))
    assert read() == (False, True, False, True)
    settings.close()
    assert read() == before
    assert before[:2] == (True, False)


class Stream:
    """A fake CUDA stream."""

    def synchronize(self):
        pass


class Event(Stream):
    def record(self, stream):
        pass


def slot_of(checkpoint, monkeypatch):
    """Make a slot that treats the CPU as a GPU."""
    from threading import Lock

    generator, signature = load_generator(checkpoint)
    slot = slots.Slot(pytorch._Module(generator, torch.float32), signature, torch.device("cpu"), Lock())
    slot._stream, slot._done = Stream(), Event()
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return slot


def test_a_graph_is_recorded_once_per_size_and_replayed_on_the_buffers(checkpoint, monkeypatch):
    class Graph:
        """Replays as CUDA does: the same work, on the same memory."""

        made = 0
        replays = 0

        def __init__(self):
            Graph.made += 1

        def replay(self):
            Graph.replays += 1
            slot.network.run(slot._sar, slot._optical, slot._stream)

    slot = slot_of(checkpoint, monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: nullcontext())
    first, second = chips(2, seed=1), chips(1, seed=2)
    images = [slot.run(first, 2), slot.run(second, 2)]  # the second is padded to the first's size
    np.testing.assert_allclose(images[0], expected(checkpoint, first), atol=1e-5)
    np.testing.assert_allclose(images[1], expected(checkpoint, second), atol=1e-5)
    assert (Graph.made, Graph.replays) == (1, 2)
    slot.run(second, 1)
    assert (Graph.made, Graph.replays) == (2, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="graphs can be recorded on this machine")
def test_without_graphs_kernels_run_one_by_one(checkpoint, monkeypatch, caplog):
    slots._warn_of_graphs.cache_clear()
    slot = slot_of(checkpoint, monkeypatch)
    sar = chips(2)
    with caplog.at_level(logging.WARNING):
        found = [slot.run(sar, 2), slot.run(sar[:1], 1)]
    assert slot._graph is None
    np.testing.assert_allclose(found[0], expected(checkpoint, sar), atol=1e-5)
    np.testing.assert_allclose(found[1], expected(checkpoint, sar[:1]), atol=1e-5)
    assert [record.message.split(" (")[0] for record in caplog.records] == ["CUDA graphs are not available"]


# On a GPU.


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


FLOORS = {"fp32": 90.0, "fp16": 50.0, "bf16": 35.0}
"""PSNR in dB, on [-1, 1], that each precision reaches on this small generator."""


@on_gpu
@pytest.mark.parametrize("precision", FLOORS)
def test_pytorch_on_a_gpu_gives_the_generators_output(checkpoint, precision):
    sar = chips(7)
    with open_with("pytorch", checkpoint, device="cuda", precision=precision, batch=4) as engine:
        found = np.concatenate([engine.run(sar[:4]), engine.run(sar[4:])])
        np.testing.assert_array_equal(engine.run(sar[:4]), found[:4])
        held = [engine._idle.get() for _ in range(pytorch.STREAMS)]
        assert any(slot._graph is not None for slot in held)
        for slot in held:
            engine._idle.put(slot)
        assert (engine.precision, engine.device[:4]) == (precision, "cuda")
    assert psnr(expected(checkpoint, sar), found, data_range=2.0) > FLOORS[precision]


@on_gpu
@pytest.mark.parametrize("backend", ["pytorch", "onnxruntime"])
def test_batches_in_flight_on_a_gpu_do_not_mix(exported, checkpoint, backend):
    if backend == "onnxruntime" and (problem := ort.cuda_problem()):
        pytest.skip(f"ONNX Runtime has no CUDA here: {problem}")
    sar = chips(24)
    model = checkpoint if backend == "pytorch" else exported
    with open_with(backend, model, device="cuda", batch=2) as engine, ThreadPoolExecutor(4) as pool:
        found = np.concatenate(list(pool.map(lambda k: engine.run(sar[2 * k : 2 * k + 2]), range(12))))
    assert psnr(expected(checkpoint, sar), found, data_range=2.0) > FLOORS["fp32"]


@on_gpu
def test_a_full_gpu_halves_the_batch(checkpoint, caplog):
    # The generator is narrow: 256 windows of it take about 1 GB.
    free, total = torch.cuda.mem_get_info()
    with open_with("pytorch", checkpoint, device="cuda", batch=1) as engine:
        sar = chips(1)
        reference = engine.run(sar)
    torch.cuda.set_per_process_memory_fraction(min(0.3e9, free) / total)
    try:
        with open_with("pytorch", checkpoint, device="cuda", batch=256) as engine:
            found = engine.run(np.repeat(sar, 256, axis=0))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "out of memory with 256 windows at once" in caplog.text
    assert np.abs(found - reference).max() < 1e-4


@on_gpu
def test_onnxruntime_on_a_gpu_gives_the_generators_output(exported, checkpoint):
    if problem := ort.cuda_problem():
        pytest.skip(f"ONNX Runtime has no CUDA here: {problem}")
    sar = chips(7)
    with open_with("onnxruntime", exported, device="cuda", batch=4) as engine:
        found = np.concatenate([engine.run(sar[:4]), engine.run(sar[4:])])
        assert engine.device == "cuda"
    assert psnr(expected(checkpoint, sar), found, data_range=2.0) > FLOORS["fp32"]
