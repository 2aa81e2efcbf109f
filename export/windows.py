"""Windows that an exported file takes: dynamic height and width, and no tap that never met a pixel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import InferenceError

from sar2optical.engines.onnx_graph import attribute, convolutions, metadata_of
from sar2optical.errors import ExportUnsupported, OptionError
from sar2optical.models.wide import Axis, used_taps
from sar2optical.signature import BATCH_AXIS, METADATA_KEY, OUTPUT, ModelSignature

__all__ = ["choose_windows", "has_dynamic_sides", "with_windows"]

_SIDES = ("H", "W")
"""Names of the dynamic height and width."""

_SUMMARIES = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "Shape")
"""Operators whose output has the same size for every window."""

_BETWEEN = 5  # nodes between a convolution in sub-pixel form and its shuffle: activation, cast, Q/DQ pair

_Shapes = dict[str, tuple[int, ...]]


def choose_windows(
    signature: ModelSignature, requested: Sequence[int] | None, auto: int | None, default: Sequence[int]
) -> ModelSignature:
    """Return a signature with the windows that a file shall take.

    Parameters
    ----------
    signature
        Signature of the source.
    requested
        Heights and widths, with or without the model's own; empty for its own only; None for the default.
    auto
        Window that `--window auto` shall take; None: that of the source, or the model's own if the file does not
        take that one.
    default
        Larger windows of an export without a request.

    Raises
    ------
    OptionError
        If a size is not a multiple of the model's own, or `auto` is none of the sizes.
    """
    own, wanted = signature.window, default if requested is None else requested
    for side in wanted:
        if side < own or side % own:
            raise OptionError(
                f"window {side} is not a multiple of {own}, the window of {signature.name}: give --windows "
                f"{own},{2 * own},{4 * own}, or --windows own"
            )
    sides = tuple(sorted({own, *wanted}))
    if auto not in (None, *sides):
        raise OptionError(
            f"auto window {auto} is not a window of the file, which takes {', '.join(map(str, sides))}: give one of "
            f"these, or add {auto} to --windows"
        )
    chosen = signature.auto_window if auto is None else auto
    return replace(signature, windows=sides[1:], auto_window=chosen if chosen in sides[1:] else None)


def has_dynamic_sides(model: onnx.ModelProto) -> bool:
    """Return True if a graph's input leaves height and width open."""
    constants = {tensor.name for tensor in model.graph.initializer}  # old files list weights among the inputs
    inputs = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in constants]
    return all(not dim.HasField("dim_value") for dims in inputs for dim in dims[2:])


def with_windows(
    model: onnx.ModelProto, signature: ModelSignature, source: Path, *, dynamic: bool
) -> onnx.ModelProto:
    """Return a copy of a graph for the windows of a signature, which is added to its metadata.

    Only the declared sizes change, and weights that do not reach the output in the model's own window. So the image
    of its own window stays the same, bit by bit.

    Parameters
    ----------
    model
        Graph with the input `sar` and the output `optical`.
    signature
        Signature with the windows that the file shall take.
    source
        File, for errors.
    dynamic
        Leave height and width open; must be true if the signature has larger windows.

    Raises
    ------
    ExportUnsupported
        If a node fixes the size of its image.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if signature.windows:
        try:
            shapes = _shapes(made, signature.window)
        except InferenceError:
            shapes = {}  # of another exporter's operator: the verification runs each size
        if shapes:
            _refuse_fixed_sizes(made, signature, shapes, source)
            _zero_unused_taps(made, shapes)
    for value in (made.graph.input[0], made.graph.output[0]):
        _declare(value, BATCH_AXIS, *(_SIDES if dynamic else (signature.window,) * 2))
    helper.set_model_props(made, {**metadata_of(model), METADATA_KEY: signature.to_json()})
    return made


def _declare(value: onnx.ValueInfoProto, batch: int | str, height: int | str, width: int | str) -> None:
    channels = value.type.tensor_type.shape.dim[1].dim_value
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [batch, channels, height, width]))


def _shapes(model: onnx.ModelProto, side: int) -> _Shapes:
    """Infer the shapes of all tensors for one window of a size; unknown ones are missing.

    Raises
    ------
    InferenceError
        If a node does not fit a window of this size.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.value_info[:]
    _declare(probe.graph.input[0], 1, side, side)
    probe.graph.output[0].type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(probe, strict_mode=True, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    dims = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return {name: tuple(shape) for name, shape in dims.items() if shape and all(shape)}


def _refuse_fixed_sizes(model: onnx.ModelProto, signature: ModelSignature, own: _Shapes, source: Path) -> None:
    """Refuse a graph with a node that gives the same size for every window, such as a Reshape to constants."""
    side = signature.windows[0]
    try:
        shapes = _shapes(model, side)
    except InferenceError as error:
        found = re.search(r"op_type:(.*?), node name: (.*?)\): ", str(error))
        raise _fixed(source, f"{found[2]} ({found[1]})" if found else "a node", side) from error
    if shapes.get(OUTPUT, (1, 3, side, side)) == (1, 3, side, side):
        return  # where the shape is unknown, the verification at this size shows it
    growth = (side // signature.window) ** 2
    grown = {
        name
        for name, shape in shapes.items()
        if name in own and shape[0] == own[name][0] and np.prod(shape) == growth * np.prod(own[name])
    }
    for node in model.graph.node:
        known = [name for name in node.output if name in shapes and name in own]
        if node.op_type not in _SUMMARIES and grown & {*node.input} and not grown.issuperset(known):
            raise _fixed(source, f"{node.name} ({node.op_type})", side)
    height, width = shapes[OUTPUT][-2:]
    raise _fixed(source, f"a node before the output, {height} x {width},", side)


def _fixed(source: Path, node: str, side: int) -> ExportUnsupported:
    return ExportUnsupported(
        f"{source}: {node} fixes the size of the image, so the graph does not take windows of {side}: export it from "
        "the checkpoint, or leave out --windows"
    )


def _zero_unused_taps(model: onnx.ModelProto, shapes: _Shapes) -> None:
    """Set all taps to zero that meet only padding in windows of these sizes; see `sar2optical.models.wide`."""
    masks: dict[str, NDArray[np.bool_]] = {}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in convolutions(model.graph.node):
        tensor = stored.get(_stored_name(model, node.input[1]))
        if tensor is None or not {node.input[0], node.output[0]} <= shapes.keys():
            continue
        unused = _unused(model, node, tuple(tensor.dims), shapes)
        masks[tensor.name] = masks.get(tensor.name, np.True_) & unused  # convolutions may share weights
    for name, unused in masks.items():
        if unused.any():
            values = numpy_helper.to_array(stored[name]).copy()
            values[unused] = 0
            stored[name].CopyFrom(numpy_helper.from_array(values, name))


def _stored_name(model: onnx.ModelProto, name: str) -> str:
    """Follow weights through Cast and DequantizeLinear to the initializer."""
    for node in model.graph.node:
        if name in node.output and node.op_type in ("Cast", "DequantizeLinear"):
            return str(node.input[0])
    return name


def _unused(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: tuple[int, ...], shapes: _Shapes
) -> NDArray[np.bool_]:
    """Return which weights of a convolution never meet a pixel, bool of the weights' shape."""
    given, made = shapes[node.input[0]], shapes[node.output[0]]
    if len(weights) != 4 or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return np.zeros(weights, np.bool_)
    if given[2:] == (1, 1) and weights[2:] == (2, 2) and _is_shuffled(model, node):
        return _unused_in_cells(weights)
    strides, pads, dilations = (
        list(attribute(node, name, [usual] * 4))  # type: ignore[call-overload]
        for name, usual in (("strides", 1), ("pads", 0), ("dilations", 1))
    )
    rows, cols = (
        Axis(
            kernel=weights[2 + k],
            stride=strides[k],
            padding=pads[k],
            dilation=dilations[k],
            given=given[2 + k],
            made=made[2 + k],
            transposed=node.op_type == "ConvTranspose",
        )
        for k in (0, 1)
    )
    return np.broadcast_to(~used_taps(rows, cols), weights)


def _is_shuffled(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Return True if a convolution is a transposed one in sub-pixel form; see `export.subpixel`."""
    return any(after.op_type == "DepthToSpace" for after in islice(_after(model, node), _BETWEEN))


def _after(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Follow a node's output as long as one node reads it."""
    while True:
        readers = [other for other in model.graph.node if node.output[0] in other.input]
        if len(readers) != 1:
            return
        (node,) = readers
        yield node


def _unused_in_cells(weights: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which weights of the sub-pixel form never meet a pixel where its input is one pixel.

    Cell j holds the pixels 2 j - 1 and 2 j, and reads the inputs j - 1 and j. Of the cells 0 and 1 the crop keeps the
    pixels 0 and 1: the second pixel of cell 0, which reads the input by its second tap, and the first one of cell 1,
    by its first.
    """
    unused = np.ones((2, 2, weights[0] // 4, weights[1], 2, 2), np.bool_)
    for row, col in np.ndindex(2, 2):
        unused[row, col, :, :, row, col] = False
    return unused.reshape(weights)
