"""Surgery on ONNX graphs: what every rewriting needs."""

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

CONVOLUTIONS = ("Conv", "ConvTranspose")
"""Operators with weights; all others of a generator only move or bend what these compute."""

_MOVES = ("Identity", "Cast", "Transpose", "Reshape", "DepthToSpace", "Slice")  # that change no value


class Graph:
    """A copy of a model, being rewritten.

    Parameters
    ----------
    model
        Left as it is.
    opset
        Least version of the standard operators; converted to where the model's is lower.

    Attributes
    ----------
    nodes
        In an order in which each comes after those that it reads.
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
        """Give an initializer's values; None where the name is no initializer's."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def weights(self, node: onnx.NodeProto) -> NDArray[np.generic]:
        """Give the weights of a convolution, which `plain` has made an initializer."""
        return self.known(node.input[1])

    def known(self, name: str) -> NDArray[np.generic]:
        """Give an initializer's values.

        Raises
        ------
        ExportUnsupported
            Where the name is no initializer's.
        """
        values = self.constant(name)
        if values is None:
            raise ExportUnsupported(f"{name} is computed in the graph, not kept: export it with constant folding")
        return values

    def add_constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Keep an initializer, and give its name back."""
        self._constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def add_tensor(self, tensor: TensorProto) -> str:
        """Keep an initializer of a type that numpy has not, and give its name back."""
        self._constants[tensor.name] = tensor
        return str(tensor.name)

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Map each tensor to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Map each tensor to the nodes that read it."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                readers[name].append(node)
        return readers

    def model(self) -> onnx.ModelProto:
        """Give the rewritten model, checked, without initializers that nothing reads.

        Raises
        ------
        ExportUnsupported
            Where an operator does not take what it would be given.
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
                f"this graph cannot be written so ({reason}): give the checkpoint, or another --precision"
            ) from error
        return model


def opset_of(model: onnx.ModelProto) -> int:
    """Give the version of a model's standard operators."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make constants initializers, and undo half storage: weights that are cast when loaded become float32."""
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
    """Give a node's attribute, lists as lists."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Give the model's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def with_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> onnx.ModelProto:
    """Give a copy with these entries added, in place of those of equal names."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    helper.set_model_props(copied, {**metadata_of(model), **entries})
    return copied


def convolutions(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Give the nodes with weights, in order."""
    return [node for node in nodes if node.op_type in CONVOLUTIONS]


def ends_in_tanh(model: onnx.ModelProto) -> bool:
    """Say whether the output is that of a Tanh, so that its range is [-1, 1] whatever it was seen to give."""
    name = model.graph.output[0].name
    for node in reversed(model.graph.node):
        if name in node.output:
            if node.op_type not in _MOVES:
                return bool(node.op_type == "Tanh")
            name = node.input[0]
    return False
