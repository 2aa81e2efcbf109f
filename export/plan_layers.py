"""Precisions of a plan's layers, read from TensorRT's engine inspector; needs no TensorRT."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

__all__ = ["layers_by_precision", "precision_problem"]

_TYPES = {
    "float": "fp32", "float32": "fp32", "fp32": "fp32",
    "half": "fp16", "float16": "fp16", "fp16": "fp16",
    "bfloat16": "bf16", "bf16": "bf16",
    "int8": "int8",
    "fp8": "fp8", "float8": "fp8", "fp8e4m3": "fp8", "e4m3": "fp8",
}  # fmt: skip
"""Precisions by the engine inspector's words, in lower case."""

_MOVERS = ("reformat", "cast", "constant", "quantize", "dequantize", "noop", "shuffle")
"""Types of layers that only move or convert data, in lower case; a single Quantize is no int8 arithmetic."""

_LOWER = ("fp16", "bf16", "int8", "fp8")


def layers_by_precision(report: str) -> dict[str, int]:
    """Count the layers that compute in each precision.

    Parameters
    ----------
    report
        JSON of the engine inspector, for a plan built with detailed verbosity. The type of a tensor is in
        "Format/Datatype" (TensorRT 10: "Half", or in words, "Row major linear FP16 format") or in "DataType" (11).
        With dynamic shapes it may be missing; the weights of a layer still have a type.

    Returns
    -------
    dict
        Number of layers by precision. A layer that converts from one precision to another counts for both.

    Raises
    ------
    ValueError
        If the text is not such a report.
    """
    try:
        layers = json.loads(report)["Layers"]
        counts = Counter(name for layer in layers for name in _precisions_of(layer))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a report of layers: {report[:40]!r}") from error
    return {name: counts[name] for name in ("fp32", *_LOWER) if counts[name]}


def precision_problem(precision: str, layers: Mapping[str, int]) -> str | None:
    """Describe why a plan's layers do not match the requested precision; None if they match.

    Parameters
    ----------
    precision
        Precision of the ONNX file.
    layers
        From `layers_by_precision`.
    """
    found = ", ".join(f"{count} {name}" for name, count in layers.items()) or "none of a known type"
    if not layers.get(precision):
        return f"the plan has no {precision} layers (found: {found})"
    if precision == "fp32" and any(layers.get(name) for name in _LOWER):
        return f"the plan has layers below fp32 (found: {found})"
    return None


def _precisions_of(layer: Any) -> set[str]:
    if not isinstance(layer, dict):  # only a name: the plan was built without detailed verbosity
        return set()
    if str(layer.get("LayerType", "")).lower() in _MOVERS:
        return set()
    tensors = [*(layer.get("Inputs") or []), *(layer.get("Outputs") or [])]
    types = [text for tensor in tensors for key, text in tensor.items() if key.lower().endswith("datatype")]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        types.append(weights.get("Type"))
    words = [word for text in types for word in re.findall(r"[a-z0-9]+", str(text).lower())]
    return {_TYPES[word] for word in words if word in _TYPES}
