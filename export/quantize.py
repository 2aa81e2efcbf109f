"""Quantize graphs to int8 or fp8: Q/DQ pairs at the inputs of convolutions, with calibrated ranges.

The form is one that ONNX Runtime, OpenVINO and TensorRT all support: symmetric, one scale for each tensor of
activations, one for each output channel of int8 weights, and weights stored in 8 bits.
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

from export.precision import Method
from sar2optical.engines.onnx_graph import Graph, convolutions
from sar2optical.errors import ExportUnsupported, ParityFailed

__all__ = [
    "FEWEST_CHIPS",
    "FP8_OPSET",
    "PERCENTILE",
    "Quantized",
    "Ranges",
    "Searched",
    "calibrate",
    "prepare",
    "quantize",
    "search",
]

Quantized = Literal["int8", "fp8"]
"""8-bit precisions."""

PERCENTILE = 99.99
"""Percentile of absolute activations: 46.5 dB on a trained generator of 32 channels, against 43.3 dB with minmax."""

FEWEST_CHIPS = 8
"""Least number of windows to calibrate on."""

FP8_OPSET = 19
"""First opset whose QuantizeLinear returns float8 (ONNX operator changelog)."""

_INT8_LEVELS = 127  # activations are symmetric: -127 to 127
# int8 weights: CPUs without VNNI add two products of bytes in 16 bits, which saturate; 2 * 255 * 64 = 32640 is the
# largest sum that fits. On such a CPU 8-bit weights changed a layer's output by up to a third; 7 bits cost 0.4 dB.
_WEIGHT_LEVELS = 63
_FP8_MAX = 448.0  # largest E4M3 number (Micikevicius et al. 2022, arXiv:2209.05433, table 1)

_BINS = 2048
_ENTROPY_LEVELS = 128  # int8 levels on one side of zero (see `_entropy`)
_EPSILON = 1e-9
_MOVES = ("DepthToSpace", "Slice")
"""Operators that move values without changing them, so that ranges are the same before and after."""

_log = logging.getLogger(f"sar2optical.{__name__}")


@dataclass(frozen=True)
class Ranges:
    """Calibrated ranges of the tensors to quantize."""

    thresholds: Mapping[str, float]
    """Largest absolute value of each tensor; larger values are clipped."""
    method: str
    """Calibration method."""


def prepare(model: onnx.ModelProto, kind: Quantized) -> onnx.ModelProto:
    """Rewrite a float32 generator to the form that `quantize` expects.

    A convolution of a Concat becomes a sum of convolutions: conv(cat(a, b)) = conv_a(a) + conv_b(b). Skip connections
    and the decoder's tensors then have separate ranges. This also avoids a fault of OpenVINO on CPUs without VNNI:
    int8 convolutions after a Concat were seen to lose their zero point.
    """
    graph = Graph(model, opset=FP8_OPSET if kind == "fp8" else 0)
    producers, channels = graph.producers(), _channels(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        joined = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if joined and joined.op_type == "Concat":
            nodes += _split(graph, node, [(name, channels.get(name, 0)) for name in joined.input])
        else:
            nodes.append(node)
    read = Counter(name for node in nodes for name in node.input)
    graph.nodes = [node for node in nodes if node.op_type != "Concat" or read[node.output[0]]]
    return graph.model()


def _split(graph: Graph, node: onnx.NodeProto, joined: list[tuple[str, int]]) -> list[onnx.NodeProto]:
    """Split a convolution of concatenated tensors, given with their numbers of channels, into a sum."""
    weights = graph.weights(node)
    bounds = [0, *np.cumsum([count for _, count in joined]).tolist()]
    if bounds[-1] != weights.shape[1]:
        raise ExportUnsupported(
            f"{node.name}: unknown number of channels of {', '.join(name for name, _ in joined)}: export it again"
        )
    made: list[onnx.NodeProto] = []
    total = ""
    for k, ((tensor, _), (low, high)) in enumerate(zip(joined, pairwise(bounds), strict=True)):
        name = f"{node.name}.part{k}"
        kernel = graph.add_constant(f"{node.input[1]}.part{k}", np.ascontiguousarray(weights[:, low:high]))
        conv = helper.make_node("Conv", [tensor, kernel, *([] if k else node.input[2:])], [name], name)
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
    """Run a prepared float32 model on real chips, and measure the inputs of its convolutions.

    Parameters
    ----------
    model
        From `prepare`.
    chips
        float32 (n, C, window, window) in [-1, 1], n >= `FEWEST_CHIPS`.

    Returns
    -------
    dict
        Ranges by method: the largest value, the `PERCENTILE`-th percentile, and the one of least entropy loss.

    Raises
    ------
    ExportUnsupported
        If there are fewer than `FEWEST_CHIPS` chips.
    """
    if len(chips) < FEWEST_CHIPS:
        raise ExportUnsupported(
            f"calibration has {len(chips)} windows, at least {FEWEST_CHIPS} are needed: give more chips, or a scene"
        )
    names = sorted({pair.tensor for pair in _pair_positions(Graph(model)).values()})
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
    """Yield the tensors of these names, chip by chip."""
    probed = onnx.ModelProto.FromString(model.SerializeToString())
    inputs = {value.name for value in probed.graph.input}
    inner = [name for name in names if name not in inputs]
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(probed.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (given,) = inputs
    for chip in chips:
        found = session.run(inner, {given: chip[None]}) if inner else []  # an empty list would return all outputs
        values = dict(zip(inner, found, strict=True))
        yield values | {name: chip for name in names if name in inputs}


def _percentile(histogram: NDArray[np.int64]) -> float:
    """Return the fraction of the range below which `PERCENTILE` percent of the values lie."""
    reached = np.cumsum(histogram) >= PERCENTILE / 100 * histogram.sum()
    return float(np.argmax(reached) + 1) / _BINS


def _entropy(histogram: NDArray[np.int64]) -> float:
    """Return the fraction of the range with the least Kullback-Leibler divergence of its quantized distribution.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, slides 29 to 38. Clipped values count in the last
    bin.
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
        seen = p > 0  # q may be 0 here: a large loss, not an infinite one
        lost = float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], _EPSILON))))
        if lost < best:
            best, share = lost, stop / _BINS
    return share


def quantize(
    model: onnx.ModelProto, ranges: Ranges, kind: Quantized, *, keep: frozenset[str] = frozenset()
) -> onnx.ModelProto:
    """Insert Q/DQ pairs before a model's convolutions, and store its weights in 8 bits.

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
        Quantized model.
    """
    graph = Graph(model)
    positions = _pair_positions(graph)
    pairs: dict[str, list[onnx.NodeProto]] = {}
    weights: dict[str, onnx.NodeProto] = {}
    for node in convolutions(graph.nodes):
        if node.name in keep:
            continue
        position = positions[node.name]
        tensor = position.tensor
        if tensor not in pairs:
            pairs[tensor] = _pair(graph, tensor, ranges.thresholds[tensor], kind)
        position.reader.input[0] = pairs[tensor][-1].output[0]
        name = node.input[1]  # convolutions may share weights
        weights[name] = weights.get(name) or _weights(graph, node, kind)
        node.input[1] = weights[name].output[0]
    nodes = [*weights.values(), *(pair for name in graph.inputs for pair in pairs.get(name, []))]
    for node in graph.nodes:
        nodes.append(node)
        nodes += [pair for name in node.output for pair in pairs.get(name, [])]
    graph.nodes = nodes
    return graph.model()


@dataclass(frozen=True)
class _PairPosition:
    """Position of the Q/DQ pair of a convolution's input."""

    tensor: str
    """Tensor to quantize."""
    reader: onnx.NodeProto
    """Node that reads the quantized tensor."""


def _pair_positions(graph: Graph) -> dict[str, _PairPosition]:
    """Find the tensor to quantize for each convolution: before operators that only move values."""
    producers, readers = graph.producers(), graph.consumers()
    positions = {}
    for node in convolutions(graph.nodes):
        reader = node
        while (above := producers.get(reader.input[0])) and above.op_type in _MOVES:
            if len(readers[above.output[0]]) > 1:
                break
            reader = above
        positions[node.name] = _PairPosition(reader.input[0], reader)
    return positions


def _pair(graph: Graph, tensor: str, threshold: float, kind: Quantized) -> list[onnx.NodeProto]:
    largest = _INT8_LEVELS if kind == "int8" else _FP8_MAX
    scale = graph.add_constant(f"{tensor}.scale", np.array(threshold / largest or 1.0, np.float32))
    zero = _zero(graph, kind)
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{tensor}.{kind}"], f"{tensor}.quantize"),
        helper.make_node("DequantizeLinear", [f"{tensor}.{kind}", scale, zero], [f"{tensor}.read"], f"{tensor}.read"),
    ]


def _zero(graph: Graph, kind: Quantized) -> str:
    element = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    return graph.add_tensor(helper.make_tensor(f"zero.{kind}", element, [], b"\0", raw=True))


def _weights(graph: Graph, node: onnx.NodeProto, kind: Quantized) -> onnx.NodeProto:
    """Store a convolution's weights in 8 bits; return the node that dequantizes them."""
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
        # One scale for all weights: float8 has the range for it, and TensorRT's own tools do so too.
        whole = np.array(np.abs(values).max() / _FP8_MAX or 1.0, np.float32)
        element = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
        raw = (values / whole).astype(element).tobytes()
        graph.add_tensor(helper.make_tensor(low, TensorProto.FLOAT8E4M3FN, values.shape, raw, raw=True))
        graph.add_constant(scale, whole)
    return helper.make_node("DequantizeLinear", [low, scale, zero], [f"{name}.read"], f"{name}.read", **axis)


@dataclass(frozen=True)
class Searched:
    """Result of a search."""

    model: onnx.ModelProto
    """Quantized model."""
    psnr: float
    """PSNR in dB against the reference, lowest of all chips."""
    method: str
    """Calibration method."""
    kept: tuple[str, ...]
    """Convolutions left in float32, most sensitive first."""
    tried: tuple[tuple[str, float], ...]
    """Attempts, with their PSNR in dB."""


def search(
    model: onnx.ModelProto,
    ranges: Mapping[Method, Ranges],
    kind: Quantized,
    measure: Callable[[onnx.ModelProto], float],
    floor: float,
) -> Searched:
    """Quantize as many convolutions as the parity floor allows.

    Quantizes all convolutions with the best calibration method first. If that is below the floor, convolutions return
    to float32 one by one, starting with the one that costs most when it alone is quantized.

    Parameters
    ----------
    model
        From `prepare`.
    ranges
        Ranges by method.
    kind
        int8 or fp8.
    measure
        Function that returns the PSNR in dB of a quantized model against the reference, lowest of all chips.
    floor
        PSNR in dB at which the search stops.

    Raises
    ------
    ParityFailed
        If the floor is not reached with half of the convolutions in float32.
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
                f"{kind} reaches {best:.1f} dB with half of its layers in fp32, at least {floor:.0f} dB is required: "
                "calibrate on other chips, or lower --min-psnr"
            )
    return Searched(candidate, best, method, tuple(kept), tuple(tried))
