#!/usr/bin/env bash
# What most would guess: a graph whose input declares height and width by name ("H", "W") is optimized as one that
#   declares them as numbers; only memory is planned later.
# What happens: on a CPU, ONNX Runtime fuses Conv + Conv + Add + Relu to two Conv nodes where the sizes are numbers. Where
#   they are names it keeps Add and Relu, and adds three Reshape nodes. SessionOptions.add_free_dimension_override_by_name
#   with the size gives the fused graph again.
# Version: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, on x86-64. Date: 2026-11-27.
# Source: seen here, in the file of `optimized_model_filepath`.
# Why a user cares: a model for images of any size runs more passes over memory, and rounds otherwise than the same model of
#   a fixed size: values of an int8 file fell on other levels. sar2optical opens one session for each size of windows
#   (tests/engines/test_engines.py::test_onnx_runtime_rounds_as_in_a_file_of_one_window).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
ORT_DISABLE_TELEMETRY=1 "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
weights = [numpy_helper.from_array(rng.normal(size=(16, 16, 3, 3)).astype(np.float32), f"w{k}") for k in (0, 1)]


def optimized(sides, override=None):
    """Return the operators that ONNX Runtime runs."""
    nodes = [helper.make_node("Conv", ["x", f"w{k}"], [f"c{k}"], pads=[1] * 4) for k in (0, 1)]
    nodes += [helper.make_node("Add", ["c0", "c1"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, *sides]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", value[:1], value[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = "optimized.onnx"
    for name in "HW" if override else "":
        settings.add_free_dimension_override_by_name(name, override)
    onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load("optimized.onnx").graph.node]


fixed, named, overridden = optimized((64, 64)), optimized(("H", "W")), optimized(("H", "W"), 64)
print("numbers:   ", *fixed)
print("names:     ", *named)
print("overridden:", *overridden)
assert "Add" not in fixed and "Relu" not in fixed, "sizes in numbers are no longer fused"
assert "Add" in named and named.count("Reshape") == 3, "sizes by name are now optimized otherwise"
assert overridden == fixed, "the override no longer gives the fused graph"
PYTHON
echo "as described: with sizes by name, ONNX Runtime fuses fewer operators"
