"""Rewrite transposed convolutions as convolutions and a pixel shuffle (sub-pixel form).

The sums are the same. Libraries have more and faster kernels for Conv than for ConvTranspose, above all in int8, bf16
and fp8.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sar2optical.engines.onnx_graph import Graph, attribute, convolutions

__all__ = ["can_be_rewritten", "subpixel"]

_FEW = 4  # output channels; with fewer, kernels are mostly idle
_CROP = ("subpixel.from", "subpixel.to", "subpixel.axes")


def subpixel(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a generator in sub-pixel form (Shi et al. 2016, arXiv:1609.05158, for the shuffle).

    ConvTranspose(4, stride 2, padding 1) becomes Conv(2, padding 1) with four times the channels, one per pixel of a
    2 x 2 cell, DepthToSpace, and a crop of one pixel on each side. With o = 2 i - 1 + k (o output, i input, k tap),
    cell j holds the pixels 2 j - 1 and 2 j, and takes its inputs from i = j - 1 and i = j: pixel a takes taps a + 2
    and a.

    Likewise a last Conv(3, padding 1) with few output channels becomes Conv(4, stride 2, padding 1), which computes
    2 x 2 pixels at once. The activation after a convolution moves before the shuffle.

    Parameters
    ----------
    model
        float32 model (see `plain`); not modified.

    Returns
    -------
    onnx.ModelProto
        Model with the same result in exact arithmetic; unchanged if there is nothing to rewrite.
    """
    graph = Graph(model)
    readers = graph.consumers()
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.nodes:
        if node.output[0] in replaced:
            continue
        kernel = _transposed(graph, node) if _is_doubling(node) else None
        strides, crop = [1, 1], True
        if kernel is None and _is_head(graph, node):
            kernel, strides, crop = _strided(graph.weights(node)), [2, 2], False
        if kernel is None:
            nodes.append(node)
            continue
        following = readers[node.output[0]]
        activation = following[0] if len(following) == 1 and following[0].op_type in ("Relu", "Tanh") else None
        if activation is not None:
            replaced.add(activation.output[0])
        nodes += _replacement(graph, node, activation, kernel, strides=strides, crop=crop)
    graph.nodes = nodes
    return graph.model()


def can_be_rewritten(model: onnx.ModelProto) -> bool:
    """Return True if a model has transposed convolutions that `subpixel` rewrites."""
    return any(_is_doubling(node) for node in convolutions(model.graph.node))


def _is_doubling(node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "ConvTranspose"
        and attribute(node, "strides") == [2, 2]
        and attribute(node, "pads") == [1, 1, 1, 1]
        and attribute(node, "group", 1) == 1
        and attribute(node, "dilations", [1, 1]) == [1, 1]
        and attribute(node, "output_shape") is None
        and attribute(node, "output_padding", [0, 0]) == [0, 0]
        and attribute(node, "kernel_shape") == [4, 4]
    )


def _is_head(graph: Graph, node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "Conv"
        and attribute(node, "pads") == [1, 1, 1, 1]
        and attribute(node, "strides", [1, 1]) == [1, 1]
        and attribute(node, "group", 1) == 1
        and attribute(node, "dilations", [1, 1]) == [1, 1]
        and graph.weights(node).shape[2:] == (3, 3)
        and graph.weights(node).shape[0] < _FEW
    )


def _transposed(graph: Graph, node: onnx.NodeProto) -> NDArray[np.generic]:
    """Rearrange weights (in, out, 4, 4) to (2, 2, out, in, 2, 2): cell row, cell column, out, in, kernel."""
    weights = graph.weights(node)
    assert weights.shape[2:] == (4, 4)
    kernel = np.empty((2, 2, weights.shape[1], weights.shape[0], 2, 2), weights.dtype)
    for row, col in np.ndindex(2, 2):
        taps = weights[:, :, [row + 2, row], :][:, :, :, [col + 2, col]]
        kernel[row, col] = taps.transpose(1, 0, 2, 3)
    return kernel


def _strided(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    """Rearrange weights (out, in, 3, 3) to (2, 2, out, in, 4, 4)."""
    kernel = np.zeros((2, 2, *weights.shape[:2], 4, 4), weights.dtype)
    for row, col in np.ndindex(2, 2):
        kernel[row, col, :, :, row : row + 3, col : col + 3] = weights
    return kernel


def _replacement(
    graph: Graph,
    node: onnx.NodeProto,
    activation: onnx.NodeProto | None,
    kernel: NDArray[np.generic],
    *,
    strides: list[int],
    crop: bool,
) -> list[onnx.NodeProto]:
    """Make the nodes that replace a convolution and its activation."""
    name = node.name
    inputs = [node.input[0], graph.add_constant(f"{node.input[1]}.cells", kernel.reshape(-1, *kernel.shape[3:]))]
    if len(node.input) > 2:
        bias = graph.stored(node.input[2])
        inputs.append(graph.add_constant(f"{node.input[2]}.cells", np.tile(bias, 4)))
    side = kernel.shape[-1]
    out = (activation or node).output[0]
    made = [
        helper.make_node(
            "Conv", inputs, [f"{name}.cells"], name, kernel_shape=[side, side], pads=[1] * 4, strides=strides
        )
    ]
    if activation is not None:
        made.append(
            helper.make_node(activation.op_type, [made[-1].output[0]], [f"{name}.activated"], activation.name)
        )
    shuffled = f"{name}.shuffled" if crop else out
    made.append(
        helper.make_node("DepthToSpace", [made[-1].output[0]], [shuffled], f"{name}.shuffle", blocksize=2, mode="DCR")
    )
    if crop:
        for constant, values in zip(_CROP, ([1, 1], [-1, -1], [2, 3]), strict=True):
            graph.add_constant(constant, np.array(values, np.int64))
        made.append(helper.make_node("Slice", [shuffled, *_CROP], [out], f"{name}.crop"))
    return made
