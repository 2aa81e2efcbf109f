"""Sub-pixel form of transposed convolutions: other operators, the same image."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from export.subpixel import can_be_rewritten, subpixel
from export.verify import simulated_chips
from sar2optical.engines.onnx_graph import plain
from tests.conftest import BYTES
from tests.graphs import conv, kinds, model_of, run

RNG = np.random.default_rng(2)


def up(name, given, weights, made, **changes):
    return conv(
        name, given, weights, made, kind="ConvTranspose", side=4, **{"strides": [2, 2], "pads": [1] * 4} | changes
    )


def doubling(weights, *, side=2, then=None, **changes):
    """Make a model of one transposed convolution and an activation."""
    constants = {"w": weights}
    if then is None:
        nodes = [up("up", "sar", "w", "optical", **changes)]
    else:
        nodes = [up("up", "sar", "w", "wide", **changes), helper.make_node(then, ["wide"], ["optical"], "activation")]
    return model_of(nodes, constants, side=side, channels=weights.shape[0], colours=weights.shape[1])


def scattered(sar, weights):
    """Compute ConvTranspose(4, stride 2, padding 1) from its definition: each input pixel adds to 4 x 4 outputs."""
    count, _, height, width = sar.shape
    painted = np.zeros((count, weights.shape[1], 2 * height + 2, 2 * width + 2))
    for row, col in np.ndindex(height, width):
        patch = np.einsum("ni,iokl->nokl", sar[:, :, row, col], weights)
        painted[:, :, 2 * row : 2 * row + 4, 2 * col : 2 * col + 4] += patch
    return painted[:, :, 1:-1, 1:-1]


def test_a_transposed_convolution_computed_by_hand():
    weights = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    sar = np.array([[[[1, 2], [3, 4]]]], np.float32)
    model = doubling(weights)
    rewritten = subpixel(model)
    assert kinds(rewritten) == ["Conv", "DepthToSpace", "Slice"]
    found = run(rewritten, sar)
    assert found[0, 0, 0, 0] == 1 * 6  # one input, by its tap (1, 1)
    assert found[0, 0, 1, 1] == 1 * 11 + 2 * 9 + 3 * 3 + 4 * 1  # all four
    assert found[0, 0, 3, 3] == 4 * 11
    np.testing.assert_array_equal(found, scattered(sar, weights))
    np.testing.assert_array_equal(found, run(model, sar))


@pytest.mark.parametrize("then", [None, "Relu", "Tanh", "Sigmoid"])
def test_channels_biases_and_activations_are_kept(then):
    weights = RNG.normal(0, 0.3, (5, 6, 4, 4)).astype(np.float32)
    model = doubling(weights, side=7, then=then)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32) / 6, "b"))
    model.graph.node[0].input.append("b")
    sar = RNG.normal(0, 1, (2, 5, 7, 7)).astype(np.float32)
    expected, rewritten = run(model, sar), subpixel(model)
    assert expected.shape == (2, 6, 14, 14)
    assert expected.std() > 0.1
    assert np.abs(run(rewritten, sar) - expected).max() < 1e-5
    if then in ("Relu", "Tanh"):  # before the shuffle, where libraries fuse it into the convolution
        assert kinds(rewritten) == ["Conv", then, "DepthToSpace", "Slice"]


def test_an_activation_of_a_shared_output_stays_after_the_shuffle():
    weights = RNG.normal(0, 0.3, (1, 4, 4, 4)).astype(np.float32)
    nodes = [
        up("up", "sar", "w", "wide"),
        helper.make_node("Relu", ["wide"], ["bent"], "activation"),
        helper.make_node("Add", ["wide", "bent"], ["optical"], "sum"),
    ]
    model = model_of(nodes, {"w": weights}, side=4, colours=4)
    sar = RNG.normal(0, 1, (1, 1, 4, 4)).astype(np.float32)
    assert kinds(subpixel(model)) == ["Conv", "DepthToSpace", "Slice", "Relu", "Add"]
    assert np.abs(run(subpixel(model), sar) - run(model, sar)).max() < 1e-5


def test_the_last_convolution_computes_four_pixels_at_once():
    weights = np.zeros((3, 2, 3, 3), np.float32)
    weights[0, 0, 1, 1] = 1  # red: the first channel itself
    weights[1, 1, 0, 0] = 2  # green: twice the second, from up left
    model = model_of([conv("head", "sar", "w", "optical")], {"w": weights}, side=6, channels=2)
    sar = RNG.normal(0, 1, (1, 2, 6, 6)).astype(np.float32)
    rewritten = subpixel(model)
    assert kinds(rewritten) == ["Conv", "DepthToSpace"]
    found = run(rewritten, sar)
    np.testing.assert_array_equal(found[0, 0], sar[0, 0])
    np.testing.assert_array_equal(found[0, 1, 1:, 1:], 2 * sar[0, 1, :-1, :-1])
    assert not found[0, 1, 0].any()
    assert not can_be_rewritten(model)  # such a convolution alone does not count


@pytest.mark.parametrize(
    ("side", "changes"),
    [
        (4, {"strides": [1, 1]}),
        (4, {"strides": [2, 2], "pads": [0, 0, 0, 0]}),
        (4, {"strides": [2, 2], "output_padding": [1, 1]}),
        (4, {"strides": [2, 2], "group": 2}),
        (2, {"strides": [2, 2], "pads": [0, 0, 0, 0]}),
        (3, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ],
    ids=str,
)
def test_other_transposed_convolutions_are_not_rewritten(side, changes):
    group = changes.get("group", 1)
    weights = RNG.normal(0, 0.3, (4, 4 // group, side, side)).astype(np.float32)
    model = doubling(weights, side=5, kernel_shape=[side, side], **changes) if group == 1 else None
    if model is None:
        model = model_of([up("up", "sar", "w", "optical", **changes)], {"w": weights}, side=5, channels=4, colours=4)
    sar = RNG.normal(0, 1, (1, 4, 5, 5)).astype(np.float32)
    assert not can_be_rewritten(model)
    assert kinds(subpixel(model)) == ["ConvTranspose"]
    np.testing.assert_array_equal(run(subpixel(model), sar), run(model, sar))


def test_a_missing_kernel_shape_does_not_count_as_four():
    weights = RNG.normal(0, 0.3, (2, 4, 3, 3)).astype(np.float32)
    model = doubling(weights, side=5)
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(
        [helper.make_attribute("strides", [2, 2]), helper.make_attribute("pads", [1] * 4)]
    )
    assert kinds(subpixel(model)) == ["ConvTranspose"]


@pytest.mark.parametrize("changes", [{"group": 3}, {"dilations": [2, 2]}], ids=str)
def test_other_last_convolutions_are_not_rewritten(changes):
    weights = RNG.normal(0, 0.3, (3, 3 // changes.get("group", 1), 3, 3)).astype(np.float32)
    model = model_of([conv("head", "sar", "w", "optical", **changes)], {"w": weights}, side=8, channels=3)
    sar = RNG.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    assert kinds(subpixel(model)) == ["Conv"]
    np.testing.assert_array_equal(run(subpixel(model), sar), run(model, sar))


def test_a_whole_generator_gives_the_same_image(exported):
    model = plain(onnx.load(exported))
    rewritten = subpixel(model)
    assert kinds(model).count("ConvTranspose") == 8
    assert "ConvTranspose" not in kinds(rewritten)
    assert kinds(rewritten).count("DepthToSpace") == 9  # and the head
    sar = simulated_chips(BYTES, count=2)
    expected = run(model, sar)
    assert expected.std() > 0.01
    assert np.abs(run(rewritten, sar) - expected).max() < 1e-5
