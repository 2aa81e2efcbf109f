"""Precisions of a plan's layers, read from TensorRT's engine inspector."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sar2optical.engines.base import Description
from sar2optical.engines.tensorrt_runtime import Library
from sar2optical.errors import ExportUnsupported, ParityFailed
from sar2optical.signature import INPUT

__all__ = ["count_layers", "layers_by_precision", "precision_problem"]

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
    types = [text for entry in tensors for key, text in entry.items() if key.lower().endswith("datatype")]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        types.append(weights.get("Type"))
    words = [word for text in types for word in re.findall(r"[a-z0-9]+", str(text).lower())]
    return {_TYPES[word] for word in words if word in _TYPES}


def count_layers(
    library: Library, plan: bytes, description: Description, batch: int, *, source: str
) -> dict[str, int]:
    """Count a plan's layers by precision, and check that they match the precision of the file.

    Parameters
    ----------
    library
        TensorRT.
    plan
        Serialized plan.
    description
        Description of the ONNX file.
    batch
        Windows per run to inspect the plan with.
    source
        Name of the plan in error messages.

    Raises
    ------
    ExportUnsupported
        If this TensorRT version does not report the types of layers.
    ParityFailed
        If the layers do not match the precision of the file.
    """
    precision, signature = description.precision, description.signature
    trt = library.trt
    loaded = library.deserialize(plan, source=source, remedy="build it again")
    engine = loaded.engine
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED  # nothing runs: no memory is needed
    context = library.create(engine.create_execution_context, strategy)
    # With dynamic shapes, types are known only after a shape is set: without one the report contains "N/A".
    context.set_input_shape(INPUT, (batch, signature.channels, signature.window, signature.window))
    inspector = library.create(engine.create_engine_inspector)
    inspector.execution_context = context
    report = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    del inspector, context, engine  # in this order: each needs the next one
    loaded.release()
    try:
        layers = layers_by_precision(report)
    except ValueError as error:
        raise ExportUnsupported(
            f"{source}: {library.title} does not report the types of layers ({error}): use another TensorRT version"
        ) from error
    if problem := precision_problem(precision, layers):
        raise ParityFailed(f"{source}: {problem}: export the .onnx file again, or in another precision")
    return layers
