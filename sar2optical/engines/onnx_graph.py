"""Editing of ONNX graphs, shared by all rewrites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sar2optical.errors import ExportUnsupported

__all__ = [
    "CONVOLUTIONS",
    "Graph",
    "attribute",
    "convolutions",
    "ends_in_tanh",
    "metadata_of",
    "opset_of",
    "plain",
    "with_metadata",
]

CONVOLUTIONS = ("Conv", "ConvTranspose")
"""Operators with weights; the other operators of a generator move values or apply elementwise functions."""

_MOVES = ("Identity", "Cast", "Transpose", "Reshape", "DepthToSpace", "Slice")  # operators that change no value


class Graph:
    """An editable copy of a model.

    Parameters
    ----------
    model
        Model to copy.
    opset
        Least opset of the standard operators; a model with a lower one is converted.

    Attributes
    ----------
    nodes
        Nodes in topological order.
    """

    def __init__(self, model: onnx.ModelProto, *, opset: int = 0) -> None:
        found = opset_of(model)
        if found < opset:
            self._model = onnx.version_converter.convert_version(model, opset)
            del self._model.graph.value_info[:]
        else:
            self._model = onnx.ModelProto.FromString(model.SerializeToString())
        self.nodes: list[onnx.NodeProto] = list(self._model.graph.node)
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [value.name for value in self._model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self._model.graph.output]

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return an initializer's values; None if the name is not that of an initializer."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def weights(self, node: onnx.NodeProto) -> NDArray[np.generic]:
        """Return the weights of a convolution; `plain` makes them initializers."""
        return self.stored(node.input[1])

    def stored(self, name: str) -> NDArray[np.generic]:
        """Return an initializer's values, which must be stored in the graph.

        Raises
        ------
        ExportUnsupported
            If the name is not that of an initializer.
        """
        values = self.constant(name)
        if values is None:
            raise ExportUnsupported(
                f"tensor {name} is computed in the graph, but must be an initializer: export the model with constant "
                "folding"
            )
        return values

    def add_constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add an initializer; return its name."""
        self._constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def add_tensor(self, tensor: TensorProto) -> str:
        """Add an initializer of a type that numpy does not have; return its name."""
        self._constants[tensor.name] = tensor
        return str(tensor.name)

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Map each tensor to the node that computes it."""
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Map each tensor to the nodes that read it."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                readers[name].append(node)
        return readers

    def model(self) -> onnx.ModelProto:
        """Return the edited model, checked, without unused initializers.

        Raises
        ------
        ExportUnsupported
            If the model is not valid ONNX, for example if an operator does not support a type.
        """
        graph = self._model.graph
        used = {name for node in self.nodes for name in node.input}
        nodes, constants = list(self.nodes), [t for name, t in self._constants.items() if name in used]
        model = helper.make_model(
            helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), constants),
            opset_imports=list(self._model.opset_import),
            ir_version=self._model.ir_version,
        )
        model.metadata_props.extend(self._model.metadata_props)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ExportUnsupported(
                f"this graph cannot be rewritten ({reason}): give the checkpoint, or another --precision"
            ) from error
        return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of a model's standard operators."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Constant nodes into initializers, and fp16 weights behind a Cast into float32 ones."""
    graph = Graph(model)
    kept = []
    for node in graph.nodes:
        tensor = attribute(node, "value") if node.op_type == "Constant" else None
        values = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        if isinstance(tensor, TensorProto):
            graph.add_constant(node.output[0], numpy_helper.to_array(tensor))
        elif values is not None and attribute(node, "to") == TensorProto.FLOAT:
            graph.add_constant(node.output[0], values.astype(np.float32))
        else:
            kept.append(node)
    graph.nodes = kept
    return graph.model()


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return the value of a node's attribute, or the default."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def with_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> onnx.ModelProto:
    """Return a copy with these metadata entries added or replaced."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    helper.set_model_props(copied, {**metadata_of(model), **entries})
    return copied


def convolutions(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Select the convolutions, in order."""
    return [node for node in nodes if node.op_type in CONVOLUTIONS]


def ends_in_tanh(model: onnx.ModelProto) -> bool:
    """Return True if the output comes from a Tanh, which guarantees the range [-1, 1]."""
    name = model.graph.output[0].name
    for node in reversed(model.graph.node):
        if name in node.output:
            if node.op_type not in _MOVES:
                return bool(node.op_type == "Tanh")
            name = node.input[0]
    return False
