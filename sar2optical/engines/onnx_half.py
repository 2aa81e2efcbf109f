"""Rewrite graphs to fp16 or bf16, with float32 input and output; store float32 weights as fp16."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sar2optical.engines.onnx_graph import Graph, convolutions

__all__ = ["BF16_OPSET", "HALVES", "emulate", "halve", "store_halved"]

HALVES: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
"""ONNX types of the 16-bit precisions."""

BF16_OPSET = 22
"""First opset whose Conv accepts bfloat16 (ONNX operator changelog)."""

_FLOAT32 = ("Resize", "BatchNormalization")
"""Operators whose constants stay float32: scale factors, and variances that may be small."""


def halve(model: onnx.ModelProto, precision: Literal["fp16", "bf16"]) -> onnx.ModelProto:
    """Rewrite a folded generator to 16 bits.

    Batch norm must be folded in float32 before, so that its small variances are not rounded.

    Parameters
    ----------
    model
        float32 model; not modified.
    precision
        fp16 has 11 significant bits up to 65504; bf16 has 8 bits in float32's range.

    Returns
    -------
    onnx.ModelProto
        Model with casts after its inputs and before its outputs; bf16 in opset 22 or higher.
    """
    graph = Graph(model, opset=BF16_OPSET if precision == "bf16" else 0)
    kind = HALVES[precision]
    inner = {name: f"{name}.{precision}" for name in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        for name, values in _narrowed(graph, node).items():
            inner[name] = graph.add_tensor(_rounded(f"{name}.{precision}", values, kind))
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    graph.nodes = [
        *(helper.make_node("Cast", [name], [inner[name]], f"{name}.cast", to=kind) for name in graph.inputs),
        *graph.nodes,
        *(
            helper.make_node("Cast", [inner[name]], [name], f"{name}.cast", to=TensorProto.FLOAT)
            for name in graph.outputs
        ),
    ]
    return graph.model()


def emulate(model: onnx.ModelProto, precision: Literal["fp16", "bf16"]) -> onnx.ModelProto:
    """Emulate 16-bit rounding in a float32 graph: round constants and the output of each operator, as `halve` does.

    CPU libraries without 16-bit arithmetic do not round. Sums are float32, as in hardware with 16-bit arithmetic.
    """
    graph = Graph(model)
    kind = HALVES[precision]
    made: list[onnx.NodeProto] = []

    def rounded(name: str) -> str:
        made.append(helper.make_node("Cast", [name], [f"{name}.low"], f"{name}.low", to=kind))
        made.append(
            helper.make_node("Cast", [f"{name}.low"], [f"{name}.round"], f"{name}.round", to=TensorProto.FLOAT)
        )
        return f"{name}.round"

    renamed = {name: rounded(name) for name in graph.inputs}
    for node in graph.nodes:
        renamed |= {name: rounded(name) for name in _narrowed(graph, node) if name not in renamed}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        made.append(node)
        for k, name in enumerate(node.output):
            if name in graph.outputs:
                node.output[k] = f"{name}.exact"
                made.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.low"], f"{name}.low", to=kind))
                made.append(helper.make_node("Cast", [f"{name}.low"], [name], f"{name}.round", to=TensorProto.FLOAT))
            else:
                renamed[name] = rounded(name)
    graph.nodes = made
    return graph.model()


def store_halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store float32 weights as float16 with a Cast to float32 behind each; engines fold the cast when they load."""
    graph = Graph(model)
    casts = []
    for node in convolutions(graph.nodes):
        for name in node.input[1:]:
            low = graph.add_tensor(_rounded(f"{name}.fp16", graph.stored(name), TensorProto.FLOAT16))
            casts.append(helper.make_node("Cast", [low], [f"{name}.fp32"], f"{name}.cast", to=TensorProto.FLOAT))
        node.input[1:] = [f"{name}.fp32" for name in node.input[1:]]
    graph.nodes = [*casts, *graph.nodes]
    return graph.model()


def _narrowed(graph: Graph, node: onnx.NodeProto) -> dict[str, NDArray[np.generic]]:
    """Select the constants of a node that become 16-bit."""
    if node.op_type in _FLOAT32:
        return {}
    values = {name: graph.constant(name) for name in node.input}
    return {name: found for name, found in values.items() if found is not None and found.dtype == np.float32}


def _rounded(name: str, values: NDArray[np.generic], kind: int) -> TensorProto:
    with np.errstate(over="ignore"):  # infinite values fail the verification
        low = values.astype(np.float32).astype(helper.tensor_dtype_to_np_dtype(kind))
    return helper.make_tensor(name, kind, low.shape, low.tobytes(), raw=True)
