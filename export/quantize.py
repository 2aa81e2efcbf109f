"""int8 and fp8 graphs: QuantizeLinear and DequantizeLinear around every convolution, with measured ranges.

One form that ONNX Runtime, OpenVINO and TensorRT all understand: symmetric, one scale for a tensor of activations,
one for each output channel of int8 weights, which are stored as they are computed with.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph import Graph, convolutions
from export.precision import Method
from sar2optical.errors import ExportUnsupported, ParityFailed

Quantized = Literal["int8", "fp8"]

PERCENTILE = 99.99
"""Of absolute activations, for that method. On a trained generator of 32 channels, 46.5 dB against min-max's 43.3."""

FEWEST_CHIPS = 8
"""Under so many windows, ranges are guesses."""

FP8_OPSET = 19
"""The first whose QuantizeLinear gives float8 (ONNX operator changelog)."""

# Activations of int8: symmetric, so -127 to 127.
_INT8_LEVELS = 127
# Weights of int8: CPUs without VNNI add up two products of bytes in 16 bits, which saturate. 2 * 255 * 64 = 32640 is
# the most that fits. On such a CPU an eighth bit spoilt a layer's output by up to a third; giving it up costs 0.4 dB.
_WEIGHT_LEVELS = 63
_FP8_MOST = 448.0  # largest E4M3 number (Micikevicius et al. 2022, arXiv:2209.05433, table 1)

_BINS = 2048
# Entropy calibration compares with as many levels as int8 has on one side of zero (S. Migacz, "8-bit inference with
# TensorRT", GTC 2017).
_ENTROPY_LEVELS = 128
_NEVER = 1e-9
_MOVES = ("DepthToSpace", "Slice")
"""Operators that move values and change none: ranges are the same before and after."""

_log = logging.getLogger(f"sar2optical.{__name__}")


@dataclass(frozen=True)
class Ranges:
    """What each tensor that is quantized was seen to hold."""

    thresholds: Mapping[str, float]
    """Largest absolute value that is told apart; beyond it, values are clipped."""
    method: str


def prepare(model: onnx.ModelProto, kind: Quantized) -> onnx.ModelProto:
    """Bring a float32 generator into the form that is quantized.

    A convolution over a Concat becomes the sum of one over each part: conv(cat(a, b)) = conv_a(a) + conv_b(b). Skips
    and what came up from below then have ranges of their own. It also keeps OpenVINO right on CPUs without VNNI,
    where int8 convolutions behind a Concat were seen to lose their zero point.
    """
    graph = Graph(model, opset=FP8_OPSET if kind == "fp8" else 0)
    producers, channels = graph.producers(), _channels(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        joined = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if joined and joined.op_type == "Concat":
            nodes += _split(graph, node, [(part, channels.get(part, 0)) for part in joined.input])
        else:
            nodes.append(node)
    read = Counter(name for node in nodes for name in node.input)
    graph.nodes = [node for node in nodes if node.op_type != "Concat" or read[node.output[0]]]
    return graph.model()


def _split(graph: Graph, node: onnx.NodeProto, parts: list[tuple[str, int]]) -> list[onnx.NodeProto]:
    """Give a convolution over tensors of so many channels, one after the other, as a sum."""
    weights = graph.weights(node)
    bounds = [0, *np.cumsum([count for _, count in parts]).tolist()]
    if bounds[-1] != weights.shape[1]:
        raise ExportUnsupported(
            f"{node.name}: the channels of {', '.join(name for name, _ in parts)} cannot be told: export it again"
        )
    made: list[onnx.NodeProto] = []
    total = ""
    for k, ((part, _), (low, high)) in enumerate(zip(parts, pairwise(bounds), strict=True)):
        name = f"{node.name}.part{k}"
        kernel = graph.add_constant(f"{node.input[1]}.part{k}", np.ascontiguousarray(weights[:, low:high]))
        conv = helper.make_node("Conv", [part, kernel, *([] if k else node.input[2:])], [name], name)
        conv.attribute.extend(node.attribute)
        made.append(conv)
        if k:
            made.append(helper.make_node("Add", [total, name], [f"{name}.sum"], f"{name}.sum"))
        total = made[-1].output[0]
    made[-1].output[0] = node.output[0]
    return made


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    """Map each tensor to its number of channels."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.input, *inferred.value_info)}
    return {name: dim[1].dim_value for name, dim in dims.items() if len(dim) > 1}


def calibrate(model: onnx.ModelProto, chips: NDArray[np.float32]) -> dict[Method, Ranges]:
    """Run a prepared float32 model on real chips, and see what its convolutions read.

    Parameters
    ----------
    model
        From `prepare`.
    chips
        float32 (n, C, window, window) in [-1, 1], n >= `FEWEST_CHIPS`.

    Returns
    -------
    dict
        Ranges by every method: the largest value; the `PERCENTILE`-th; the one that loses least information.

    Raises
    ------
    ExportUnsupported
        Where there are too few chips.
    """
    if len(chips) < FEWEST_CHIPS:
        raise ExportUnsupported(
            f"{len(chips)} windows to calibrate on, at least {FEWEST_CHIPS} are needed: give more chips, or a scene"
        )
    names = sorted({place.tensor for place in _places(Graph(model)).values()})
    largest = dict.fromkeys(names, 0.0)
    for values in _activations(model, names, chips):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
    histograms = {name: np.zeros(_BINS, np.int64) for name in names}
    for values in _activations(model, names, chips):
        for name, value in values.items():
            histograms[name] += np.histogram(np.abs(value), _BINS, (0.0, largest[name] or 1.0))[0]
    return {
        "minmax": Ranges(largest, "minmax"),
        "percentile": Ranges({k: largest[k] * _percentile(h) for k, h in histograms.items()}, "percentile"),
        "entropy": Ranges({k: largest[k] * _entropy(h) for k, h in histograms.items()}, "entropy"),
    }


def _activations(
    model: onnx.ModelProto, names: list[str], chips: NDArray[np.float32]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Give the tensors of these names, chip by chip."""
    probed = onnx.ModelProto.FromString(model.SerializeToString())
    inputs = {value.name for value in probed.graph.input}
    inner = [name for name in names if name not in inputs]
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(probed.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (given,) = inputs
    for chip in chips:
        found = session.run(inner, {given: chip[None]}) if inner else []  # asked for none, it gives all
        values = dict(zip(inner, found, strict=True))
        yield values | {name: chip for name in names if name in inputs}


def _percentile(histogram: NDArray[np.int64]) -> float:
    """Give the share of the range below which `PERCENTILE` percent lie."""
    reached = np.cumsum(histogram) >= PERCENTILE / 100 * histogram.sum()
    return float(np.argmax(reached) + 1) / _BINS


def _entropy(histogram: NDArray[np.int64]) -> float:
    """Give the share of the range whose quantized distribution is nearest to the true one, by Kullback-Leibler.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, slides 29 to 38. Values beyond are in its last bin.
    """
    counts = histogram.astype(np.float64)
    best, share = np.inf, 1.0
    for stop in range(_ENTROPY_LEVELS, _BINS + 1, _ENTROPY_LEVELS // 8):
        inside = counts[:stop]
        if not inside.any():
            continue
        true = inside.copy()
        true[-1] += counts[stop:].sum()
        level = np.arange(stop) * _ENTROPY_LEVELS // stop
        filled = inside > 0
        mass = np.bincount(level, inside, _ENTROPY_LEVELS)
        spread = np.bincount(level, filled, _ENTROPY_LEVELS)
        approximate = np.where(filled, (mass / np.maximum(spread, 1))[level], 0.0)
        p, q = true / true.sum(), approximate / approximate.sum()
        seen = p > 0  # where q is 0, values come that the levels do not have: very much is lost, not all
        lost = float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], _NEVER))))
        if lost < best:
            best, share = lost, stop / _BINS
    return share


def quantize(
    model: onnx.ModelProto, ranges: Ranges, kind: Quantized, *, keep: frozenset[str] = frozenset()
) -> onnx.ModelProto:
    """Put Q/DQ pairs before a model's convolutions, and its weights into 8 bits.

    Parameters
    ----------
    model
        From `prepare`.
    ranges
        From `calibrate`.
    kind
        int8, or fp8 (E4M3).
    keep
        Names of convolutions that stay in float32.

    Returns
    -------
    onnx.ModelProto
    """
    graph = Graph(model)
    places = _places(graph)
    pairs: dict[str, list[onnx.NodeProto]] = {}
    weights: dict[str, onnx.NodeProto] = {}
    for node in convolutions(graph.nodes):
        if node.name in keep:
            continue
        place = places[node.name]
        if place.tensor not in pairs:
            pairs[place.tensor] = _pair(graph, place.tensor, ranges.thresholds[place.tensor], kind)
        place.reader.input[0] = pairs[place.tensor][-1].output[0]
        name = node.input[1]  # which other convolutions may share
        weights[name] = weights.get(name) or _weights(graph, node, kind)
        node.input[1] = weights[name].output[0]
    nodes = [*weights.values(), *(pair for name in graph.inputs for pair in pairs.get(name, []))]
    for node in graph.nodes:
        nodes.append(node)
        nodes += [pair for name in node.output for pair in pairs.get(name, [])]
    graph.nodes = nodes
    return graph.model()


@dataclass(frozen=True)
class _Place:
    """Where the Q/DQ pair of a convolution's input goes."""

    tensor: str
    """That is quantized."""
    reader: onnx.NodeProto
    """That reads the quantized tensor from then on."""


def _places(graph: Graph) -> dict[str, _Place]:
    """Find, for each convolution, the tensor to quantize: before operators that only move values, to move bytes."""
    producers, readers = graph.producers(), graph.consumers()
    places = {}
    for node in convolutions(graph.nodes):
        reader = node
        while (above := producers.get(reader.input[0])) and above.op_type in _MOVES:
            if len(readers[above.output[0]]) > 1:
                break
            reader = above
        places[node.name] = _Place(reader.input[0], reader)
    return places


def _pair(graph: Graph, tensor: str, threshold: float, kind: Quantized) -> list[onnx.NodeProto]:
    most = _INT8_LEVELS if kind == "int8" else _FP8_MOST
    scale = graph.add_constant(f"{tensor}.scale", np.array(threshold / most or 1.0, np.float32))
    zero = _zero(graph, kind)
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{tensor}.{kind}"], f"{tensor}.quantize"),
        helper.make_node("DequantizeLinear", [f"{tensor}.{kind}", scale, zero], [f"{tensor}.read"], f"{tensor}.read"),
    ]


def _zero(graph: Graph, kind: Quantized) -> str:
    element = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    return graph.add_tensor(helper.make_tensor(f"zero.{kind}", element, [], b"\0", raw=True))


def _weights(graph: Graph, node: onnx.NodeProto, kind: Quantized) -> onnx.NodeProto:
    """Keep a convolution's weights in 8 bits; gives the node that reads them."""
    name, values = node.input[1], graph.weights(node).astype(np.float32)
    out = 0 if node.op_type == "Conv" else 1
    low, scale, zero = f"{name}.{kind}", f"{name}.scale", _zero(graph, kind)
    axis: dict[str, Any] = {}
    if kind == "int8":
        others = tuple(k for k in range(values.ndim) if k != out)
        scales = np.abs(values).max(axis=others, keepdims=True) / _WEIGHT_LEVELS
        scales[scales == 0] = 1
        graph.add_constant(low, np.rint(values / scales).astype(np.int8))
        graph.add_constant(scale, scales.ravel())
        zero, axis = graph.add_constant(f"{name}.zero", np.zeros(scales.size, np.int8)), {"axis": out}
    else:
        # One scale for all: float8 has the range for it, and it is what TensorRT's own tools write.
        whole = np.array(np.abs(values).max() / _FP8_MOST or 1.0, np.float32)
        element = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
        raw = (values / whole).astype(element).tobytes()
        graph.add_tensor(helper.make_tensor(low, TensorProto.FLOAT8E4M3FN, values.shape, raw, raw=True))
        graph.add_constant(scale, whole)
    return helper.make_node("DequantizeLinear", [low, scale, zero], [f"{name}.read"], f"{name}.read", **axis)


@dataclass(frozen=True)
class Searched:
    """The quantized model that a search ended with."""

    model: onnx.ModelProto
    psnr: float
    """Against the reference, in dB, lowest of any chip."""
    method: str
    kept: tuple[str, ...]
    """Convolutions left in float32, most sensitive first."""
    tried: tuple[tuple[str, float], ...]
    """What was tried, and the PSNR that it had."""


def search(
    model: onnx.ModelProto,
    ranges: Mapping[Method, Ranges],
    kind: Quantized,
    measure: Callable[[onnx.ModelProto], float],
    floor: float,
) -> Searched:
    """Quantize all that can be while the parity floor holds.

    The best method of calibration first, with everything quantized. Where that is under the floor, convolutions are
    put back to float32 one after the other, beginning with the one that costs most when it alone is quantized.

    Parameters
    ----------
    model
        From `prepare`.
    ranges
        By method; the best one is taken.
    kind
        int8 or fp8.
    measure
        PSNR in dB of a quantized model against the reference, lowest of any chip.
    floor
        PSNR in dB at which the search stops.

    Returns
    -------
    Searched

    Raises
    ------
    ParityFailed
        Where half of the convolutions in float32 do not reach the floor: such a file is no longer what was asked.
    """
    tried: list[tuple[str, float]] = []

    def attempt(name: str, method: Method, keep: frozenset[str]) -> tuple[float, onnx.ModelProto]:
        candidate = quantize(model, ranges[method], kind, keep=keep)
        found = measure(candidate)
        tried.append((name, found))
        _log.info("%s %s: %.1f dB", kind, name, found)
        return found, candidate

    whole = {method: attempt(f"{method}, all layers", method, frozenset()) for method in ranges}
    method = max(whole, key=lambda name: whole[name][0])
    best, candidate = whole[method]
    names = [node.name for node in convolutions(model.graph.node)]
    kept: list[str] = []
    if best < floor:
        alone = {name: attempt(f"{method}, only {name}", method, frozenset(names) - {name})[0] for name in names}
        for name in sorted(names, key=alone.__getitem__)[: len(names) // 2]:
            kept.append(name)
            best, candidate = attempt(f"{method}, without {', '.join(kept)}", method, frozenset(kept))
            if best >= floor:
                break
        else:
            raise ParityFailed(
                f"{kind} reaches {best:.1f} dB with half of its layers in fp32, {floor:.0f} is asked: "
                "calibrate on other chips, or lower --min-psnr"
            )
    return Searched(candidate, best, method, tuple(kept), tuple(tried))
