"""ONNX Runtime's plugin provider: its states, and runs with the CPU's provider in its place."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines import onnxruntime as ort
from sar2optical.engines import onnxruntime_plugin as plugin
from sar2optical.engines.cards import Card
from sar2optical.engines.registry import bundled
from sar2optical.errors import DeviceUnavailable

ADA, HOPPER = Card("NVIDIA L4", (8, 9)), Card("NVIDIA H200", (9, 0))


@pytest.fixture
def installed(monkeypatch):
    """Install a plugin whose library is missing, on a machine with a card."""
    package = SimpleNamespace(
        __file__=__file__,
        get_ep_name=lambda: "CPUExecutionProvider",
        get_library_path=lambda: "/nowhere/libplugin.so",
    )

    def with_card(card):
        monkeypatch.setitem(sys.modules, plugin.PLUGIN, package)
        monkeypatch.setattr(plugin, "find_spec", lambda name: package)
        monkeypatch.setattr(plugin, "first_card", lambda: card)
        for function in (plugin.plugin_problem, plugin.plugin_devices):
            function.cache_clear()
        return package

    yield with_card
    monkeypatch.undo()
    for function in (plugin.plugin_problem, plugin.plugin_devices):
        function.cache_clear()


def test_without_the_plugin_there_is_none():
    assert plugin.plugin_problem() in ("the plugin is not installed", None)


def test_a_card_that_is_none_of_the_targets_is_named(installed):
    installed(HOPPER)
    assert plugin.plugin_problem() == "TensorRT for RTX does not run on NVIDIA H200 (compute capability 9.0)"


def test_without_a_card_the_driver_is_the_problem(installed):
    installed(None)
    assert plugin.plugin_problem() in ("no NVIDIA driver (libcuda.so.1)", "the NVIDIA driver finds no GPU")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("with error: libcuda.so.1: cannot open shared object file", "no NVIDIA driver"),
        ("with error: libcudart.so.13: cannot open shared object file", "no CUDA runtime library"),
        ("something else", "something else"),
    ],
)
def test_libraries_that_are_missing_are_told_apart(installed, monkeypatch, message, problem):
    installed(ADA)

    def fails(name, path):
        raise RuntimeError(message)

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", fails)
    assert plugin.plugin_problem().startswith(problem)


def test_a_plugin_that_cannot_be_loaded_is_a_problem(installed):
    installed(ADA)
    assert "libplugin.so" in plugin.plugin_problem()


@pytest.fixture
def working(installed, monkeypatch):
    """The CPU's provider in place of the plugin's."""
    installed(ADA)
    given = []
    add = onnxruntime.SessionOptions.add_provider_for_devices
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda name, path: None)
    monkeypatch.setattr(
        onnxruntime.SessionOptions,
        "add_provider_for_devices",
        lambda self, devices, options: (given.append(options), add(self, devices, options))[1],
    )
    monkeypatch.setattr(ort, "_session_options", lambda device: onnxruntime.SessionOptions())
    return given


def test_the_backend_takes_the_plugin_with_the_shapes_of_the_model(working):
    sar = np.random.default_rng(0).uniform(-1, 1, (3, 1, 256, 256)).astype(np.float32)
    with open_engine(bundled(), backend="onnxruntime", options=EngineOptions(device="cpu", batch=3)) as engine:
        expected = engine.run(sar)
    assert working == []
    with open_engine(bundled(), backend="onnxruntime", options=EngineOptions(device="cuda", batch=3)) as engine:
        assert engine.device == "cuda (TensorRT for RTX)"
        np.testing.assert_allclose(engine.run(sar), expected, atol=1e-5)
        engine.use_window(512)
    assert working == [
        {
            "nv_profile_min_shapes": f"sar:1x1x{side}x{side}",
            "nv_profile_opt_shapes": f"sar:3x1x{side}x{side}",
            "nv_profile_max_shapes": f"sar:3x1x{side}x{side}",
        }
        for side in (256, 512)
    ]


def test_a_session_on_another_provider_is_an_error(working, installed):
    installed(ADA).get_ep_name = lambda: "CPUExecutionProvider"
    plugin.plugin_problem()
    sys.modules[plugin.PLUGIN].get_ep_name = lambda: "NvTensorRTRTXExecutionProvider"
    with pytest.raises(DeviceUnavailable, match="the session runs on CPUExecutionProvider"):
        open_engine(bundled(), backend="onnxruntime", options=EngineOptions(device="cuda"))
