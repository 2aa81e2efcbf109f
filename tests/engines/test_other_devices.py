"""Devices without hardware here: their lists and errors, and what can be seen with the CPU in their place."""

from __future__ import annotations

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from sar2optical.engines import EngineOptions, autotune, open_engine, pytorch
from sar2optical.engines import openvino as ov
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import DeviceUnavailable

CHIP = np.random.default_rng(0).uniform(-1, 1, (1, 1, 256, 256)).astype(np.float32)


def opened(backend, device, path=None, **options):
    return open_engine(path or bundled(), backend=backend, options=EngineOptions(device=device, **options))


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("openvino", "gpu", "device gpu is not available with openvino: give cpu"),
        ("auto", "gpu", "device gpu is not available with openvino: give cpu"),
        ("openvino", "cuda", "device cuda is not available with openvino"),
        ("pytorch", "mps", "device mps is not available with pytorch: give cpu"),
        ("auto", "mps", "device mps is not available with pytorch: give cpu"),
        ("onnxruntime", "directml", "device directml is not available with onnxruntime: give cpu"),
        ("auto", "coreml", "device coreml is not available with onnxruntime: give cpu"),
    ],
)
def test_a_device_that_this_machine_lacks_is_refused(backend, device, message):
    with pytest.raises(DeviceUnavailable, match=message):
        opened(backend, device)


def test_a_device_of_other_files_is_named(checkpoint):
    with pytest.raises(DeviceUnavailable, match=r"device gpu does not run .pth files: give cpu or cuda or mps"):
        opened("auto", "gpu", checkpoint)


def test_auto_measures_and_chooses_for_cpus_only(monkeypatch):
    asked = []
    monkeypatch.setattr(autotune, "open_engine", lambda file, **given: asked.append((file, given["options"].device)))
    autotune.open_model(variants(bundled()), options=EngineOptions(device="gpu"))
    assert asked == [(bundled(), "gpu")]


class Core:
    """OpenVINO with Intel graphics, which are its CPU."""

    def __init__(self):
        self.inner = real_core()
        self.compiled = []

    available_devices = ("CPU", "GPU.0", "GPU.1")

    def read_model(self, path):
        return self.inner.read_model(path)

    def get_property(self, device, name):
        if device == "GPU" and name == "OPTIMIZATION_CAPABILITIES":
            return ["FP32", "FP16", "INT8"]
        return self.inner.get_property("CPU", name)

    def compile_model(self, model, device, settings):
        self.compiled.append((device, dict(settings)))
        return self.inner.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": openvino.Type.f32})


real_core = openvino.Core


def test_openvino_compiles_for_intel_graphics_in_fp16(monkeypatch):
    made = []
    monkeypatch.setattr(ov.openvino, "Core", lambda: made.append(Core()) or made[-1])
    with opened("openvino", "gpu") as engine:
        assert engine.device.startswith("gpu (")
        assert engine.run(CHIP).std() > 0.01
    assert made[0].compiled == [("GPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f16, "NUM_STREAMS": 2})]


def test_directml_and_core_ml_open_by_name(monkeypatch):
    from sar2optical.engines import onnxruntime as ort

    names = {"directml": "DmlExecutionProvider", "coreml": "CoreMLExecutionProvider"}
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*names.values(), "CPUExecutionProvider"])
    for device, provider in names.items():
        assert ort._device(device) == device
        assert ort._PROVIDERS[device] == provider
        assert ort._session_options(device).get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert not ort._session_options("directml").enable_mem_pattern
    # The wheel here has neither: that is an error, not a run on the CPU.
    with pytest.warns(UserWarning, match="not in available provider names"), pytest.raises(DeviceUnavailable):
        opened("onnxruntime", "directml")


def test_a_device_without_streams_copies_before_it_returns(checkpoint, monkeypatch):
    """On Apple's GPU an asynchronous copy to the host could still be running."""
    waits = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda self, src, non_blocking=False: (waits.append(non_blocking), copy(self, src))[1]
    )
    with opened("pytorch", "cpu", checkpoint) as engine:
        engine.run(CHIP)
    assert waits
    assert not any(waits)


def test_apples_gpu_has_no_bf16():
    assert pytorch._precisions("mps") == ["fp32", "fp16"]
