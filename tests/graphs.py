"""Graphs of a few operators, small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.verify import as_written
from tests.conftest import save_onnx, signature_of

SMALL = signature_of(name="small", window=64)
"""The signature of small nets."""


def model_of(nodes, constants, *, side=8, channels=1, colours=3, opset=18):
    """Make a graph from `sar` to `optical`; the output's size follows from the nodes."""
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("sar", TensorProto.FLOAT, ["N", channels, side, side])],
        [helper.make_tensor_value_info("optical", TensorProto.FLOAT, ["N", colours, None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def conv(name, given, weights, made, *, kind="Conv", side=3, **attributes):
    inputs = [given, *([weights] if isinstance(weights, str) else weights)]
    attributes = {"kernel_shape": [side, side], "pads": [side // 2] * 4, **attributes}
    return helper.make_node(kind, inputs, [made], name, **attributes)


def run(model, sar):
    return as_written(model)(np.asarray(sar, np.float32))


def kinds(model):
    return [node.op_type for node in model.graph.node]


def initializers(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


def skipping_net(*, side=16):
    """Make a small generator to quantize: three convolutions, the last one of a Concat."""
    rng = np.random.default_rng(4)
    constants = {
        "first.w": rng.normal(0, 0.4, (4, 1, 3, 3)).astype(np.float32),
        "first.b": rng.normal(0, 0.1, 4).astype(np.float32),
        "middle.w": rng.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32),
        "last.w": rng.normal(0, 0.2, (3, 8, 3, 3)).astype(np.float32),
        "last.b": rng.normal(0, 0.1, 3).astype(np.float32),
    }
    nodes = [
        conv("first", "sar", ["first.w", "first.b"], "low"),
        helper.make_node("Relu", ["low"], ["skip"], "bend"),
        conv("middle", "skip", "middle.w", "deep"),
        helper.make_node("Concat", ["skip", "deep"], ["both"], "join", axis=1),
        conv("last", "both", ["last.w", "last.b"], "colours"),
        helper.make_node("Tanh", ["colours"], ["optical"], "tanh"),
    ]
    return model_of(nodes, constants, side=side)


def save_small_net(path, *, between=(), constants=None, signature=SMALL, gain=1.0):
    """Write a net of two convolutions; `between` are (operator, its other inputs, its attributes)."""
    rng = np.random.default_rng(6)
    weights = {
        "first.w": rng.normal(0, 0.4, (8, 1, 3, 3)).astype(np.float32) * np.float32(gain),
        "first.b": rng.normal(0, 0.1, 8).astype(np.float32) * np.float32(gain),
        "last.w": rng.normal(0, 0.2, (3, 8, 3, 3)).astype(np.float32) / np.float32(gain),
    }
    nodes, made = [conv("first", "sar", ["first.w", "first.b"], "low")], "low"
    for operator, others, attributes in between:
        nodes.append(helper.make_node(operator, [made, *others], [f"{made}+"], f"{made}.{operator}", **attributes))
        made += "+"
    nodes += [conv("last", made, "last.w", "colours"), helper.make_node("Tanh", ["colours"], ["optical"], "tanh")]
    return save_onnx(path, nodes, {**weights, **(constants or {})}, signature)
