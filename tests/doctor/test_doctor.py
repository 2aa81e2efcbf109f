"""The doctor: its model of two layers, and its checks.

Run as a program, this file writes that model again.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sar2optical.doctor import AREAS, Finding, backends, examine, healthy, installed
from sar2optical.doctor.backends import SIGNATURE, TWO_LAYERS, _convolved, expected_output, kernels, self_test_input
from sar2optical.doctor.installed import _problem, _requirements
from sar2optical.doctor.machine import instructions, memory_limit
from sar2optical.engines.cards import Card
from sar2optical.signature import METADATA_KEY


def two_layers() -> onnx.ModelProto:
    """Convolution, ReLU, convolution, with the doctor's weights and a dynamic batch."""
    side = SIGNATURE.window
    nodes = [
        helper.make_node("Conv", ["sar", "first"], ["sum"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "second"], ["optical"], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "two-layers",
        [helper.make_tensor_value_info("sar", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info("optical", TensorProto.FLOAT, ["N", 3, side, side])],
        [numpy_helper.from_array(k, name) for k, name in zip(kernels(), ("first", "second"), strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: SIGNATURE.to_json()})
    return model


def test_the_bundled_model_is_the_one_made_here():
    assert onnx.load(TWO_LAYERS) == two_layers()


def test_its_output_is_that_of_an_independent_runtime():
    from onnx.reference import ReferenceEvaluator

    (expected,) = ReferenceEvaluator(two_layers()).run(None, {"sar": self_test_input()})
    np.testing.assert_allclose(expected_output(), expected, atol=1e-6)
    assert expected_output().std() > 0.1
    assert np.abs(expected_output()).max() < 1


def test_its_output_is_exact_in_ten_bits():
    # So TF32, the default of CUDA libraries for fp32, gives the expected output.
    def rounded(values):
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)

    hidden = np.maximum(_convolved(self_test_input(), kernels()[0]), 0)
    assert hidden.max() > 0.5
    for values in (self_test_input(), *kernels(), hidden):
        np.testing.assert_array_equal(rounded(values), values)


def test_the_report_is_complete_and_in_order():
    findings = examine(("python", "gpu", "machine", "extras"))
    order = [AREAS.index(finding.area) for finding in findings]
    assert order == sorted(order)
    by_name = {finding.name: finding for finding in findings}
    assert by_name["Python"].state == by_name["numpy"].state == by_name["CPU"].state == "ok"
    assert {"NVIDIA driver", "CUDA libraries", "memory", "this folder", "export"} <= by_name.keys()
    for finding in findings:
        assert finding.state in ("ok", "absent", "warning"), finding
        assert finding.state != "warning" or finding.remedy, finding
    assert healthy(findings)


def test_rasters_are_written():
    states = {finding.name: finding.state for finding in examine(("rasters",))}
    assert {states[name] for name in ("GTiff", "COG", "PNG", "PROJ", "writing a COG", "writing ZSTD")} == {"ok"}


def test_only_broken_findings_are_unhealthy():
    def finding(state):
        return Finding("python", "x", state, "y")

    assert healthy([finding("ok"), finding("absent"), finding("warning")])
    assert not healthy([finding("ok"), finding("broken")])


def test_the_requirements_of_the_package_are_read():
    found = _requirements()
    assert ("rasterio", "1.4") in found[None]
    assert ("dask", "2024.8") in found["cluster"]
    assert ("tensorrt-cu13", "10.13") in found["tensorrt"]
    assert not any(wheel == "sar2optical" for wheels in found.values() for wheel, _ in wheels)


def test_missing_and_old_wheels_are_problems():
    assert _problem("numpy", "1.26") is None
    assert _problem("numpy", "99").endswith("99 or later is needed")
    assert _problem("no-such-wheel", "1") == "no-such-wheel is not installed"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["avx2"], "AVX2; no VNNI: int8 is less fast; no BF16: --precision bf16 is not faster, or not available"),
        (["avx2", "avx_vnni"], "AVX2, AVX-VNNI; no BF16: --precision bf16 is not faster, or not available"),
        (["avx2", "avx512f", "amx_int8", "amx_bf16"], "AVX2, AVX-512, AMX-BF16, AMX-INT8"),
        ([], "none that speed up models; no AVX2: models are slow; no VNNI: int8 is less fast; no BF16: --precision "
             "bf16 is not faster, or not available"),
    ],
)  # fmt: skip
def test_missing_instructions_are_reported_with_their_effects(flags, words):
    assert instructions(flags) == words


@pytest.mark.parametrize(
    ("line", "file", "text", "limit"),
    [
        ("0::/a/b", "a/memory.max", "1000\n", 1000),
        ("0::/outside/the/container", "memory.max", "2000\n", 2000),
        ("0::/a", "a/memory.max", "max\n", None),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", "3000\n", 3000),
        ("3:cpuset:/a", "a/memory.max", "1\n", None),
    ],
)
def test_the_lowest_limit_of_nested_groups_counts(tmp_path, line, file, text, limit):
    path = tmp_path / "root" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (tmp_path / "groups").write_text(f"{line}\n")
    assert memory_limit(tmp_path / "root", tmp_path / "groups") == limit


if __name__ == "__main__":
    onnx.save(two_layers(), TWO_LAYERS)


@pytest.mark.parametrize(
    ("state", "card", "text"),
    [
        ("absent", None, "builds plans; running them needs a GPU: no driver"),
        (
            "ok",
            Card("NVIDIA H100", (9, 0)),
            r"builds plans; it does not run on NVIDIA H100 \(compute capability 9.0\)",
        ),
    ],
)
def test_tensorrt_for_rtx_builds_and_names_what_it_lacks(monkeypatch, state, card, text):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(backends, "driver", lambda: Finding("gpu", "NVIDIA driver", state, "no driver", "install it"))
    monkeypatch.setattr(backends, "first_card", lambda: card)
    (found,) = backends.tensorrt_rtx()
    assert found.state == "warning"
    assert re.search(text, found.detail)
    assert found.remedy


def test_onnxruntimes_gpu_wheel_beside_the_plugin_is_a_fault(monkeypatch):
    wheels = {"onnxruntime-gpu": "1.32.0", "onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"}
    monkeypatch.setattr(installed, "_installed", lambda: wheels)
    (found,) = installed.plugin_conflict()
    assert found.state == "broken"
    assert "pip uninstall -y onnxruntime-gpu" in found.remedy
    monkeypatch.setattr(installed, "_installed", lambda: {"onnxruntime": "1.32.0"})
    assert list(installed.plugin_conflict()) == []
