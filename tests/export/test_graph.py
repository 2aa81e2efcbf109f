"""Editing of graphs: checked copies, with the metadata of the file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sar2optical.engines.onnx_graph import Graph, metadata_of, opset_of, plain, with_metadata
from sar2optical.engines.onnx_half import store_halved
from sar2optical.errors import ExportUnsupported
from tests.graphs import conv, initializers, kinds, model_of, run

THIRD = np.full((3, 1, 1, 1), 1 / 3, np.float32)
ONES = np.ones((1, 1, 8, 8), np.float32)


def one_layer(**constants):
    return model_of([conv("only", "sar", "w", "optical", side=1)], {"w": THIRD, **constants})


def test_a_rewrite_does_not_modify_its_model():
    model = one_layer()
    before = model.SerializeToString()
    graph = Graph(model)
    graph.nodes[0].input[1] = graph.add_constant("other", 3 * THIRD)
    assert run(graph.model(), ONES)[0, :, 0, 0] == pytest.approx([1, 1, 1])
    assert model.SerializeToString() == before
    assert run(model, ONES)[0, :, 0, 0] == pytest.approx([1 / 3] * 3)


def test_unused_initializers_are_dropped():
    model = Graph(one_layer(spare=np.zeros(1000, np.float32))).model()
    assert list(initializers(model)) == ["w"]


def test_a_lower_opset_is_converted_and_a_higher_one_kept():
    model = one_layer()
    assert opset_of(Graph(model, opset=22).model()) == 22
    assert opset_of(Graph(model, opset=11).model()) == 18


def test_producers_and_consumers_of_a_tensor_are_found():
    nodes = [
        conv("a", "sar", "w", "x", side=1),
        helper.make_node("Relu", ["x"], ["y"], "b"),
        helper.make_node("Add", ["x", "y"], ["optical"], "c"),
    ]
    graph = Graph(model_of(nodes, {"w": THIRD}))
    assert {name: node.name for name, node in graph.producers().items()} == {"x": "a", "y": "b", "optical": "c"}
    assert [node.name for node in graph.consumers()["x"]] == ["b", "c"]


def test_plain_undoes_half_storage():
    model = plain(store_halved(one_layer()))
    assert kinds(model) == ["Conv"]
    weights = numpy_helper.to_array(next(iter(initializers(model).values())))
    assert weights.dtype == np.float32
    assert float(weights.flat[0]) == 0.333251953125  # 1/3 in 11 bits
    np.testing.assert_array_equal(run(model, ONES), run(store_halved(one_layer()), ONES))


def test_plain_makes_constant_nodes_initializers():
    constant = helper.make_node("Constant", [], ["w"], "kept", value=numpy_helper.from_array(THIRD))
    model = plain(model_of([constant, conv("only", "sar", "w", "optical", side=1)], {}))
    assert kinds(model) == ["Conv"]
    assert list(initializers(model)) == ["w"]
    assert run(model, ONES)[0, :, 0, 0] == pytest.approx([1 / 3] * 3)


def test_metadata_are_replaced_and_not_repeated():
    model = with_metadata(with_metadata(one_layer(), {"a": "1", "b": "2"}), {"b": "3"})
    assert metadata_of(model) == {"a": "1", "b": "3"}
    assert len(model.metadata_props) == 2
    assert metadata_of(Graph(model).model()) == {"a": "1", "b": "3"}


def test_weights_that_are_computed_are_refused_in_one_line():
    nodes = [helper.make_node("Abs", ["v"], ["w"], "made"), conv("only", "sar", "w", "optical", side=1)]
    graph = Graph(model_of(nodes, {"v": THIRD}))
    with pytest.raises(
        ExportUnsupported, match=r"^tensor w is computed in the graph.*export the model with constant folding$"
    ):
        graph.weights(graph.nodes[1])


def test_an_invalid_graph_is_refused_in_one_line():
    graph = Graph(one_layer())
    graph.nodes[0].input[1] = graph.add_tensor(helper.make_tensor("w16", TensorProto.FLOAT16, (3, 1, 1, 1), [1] * 3))
    with pytest.raises(ExportUnsupported, match=r"cannot be rewritten.*checkpoint, or another --precision") as caught:
        graph.model()
    assert "\n" not in str(caught.value)
