"""Signature of a generator: its input bands, unit and scaling, its tensors and its output; see docs/signature.md."""

from __future__ import annotations

from sar2optical.signature.model import (
    BATCH_AXIS,
    INPUT,
    METADATA_KEY,
    OUTPUT,
    PRECISION_KEY,
    VERSION,
    ModelSignature,
    alternatives,
    listed,
    read_record,
)
from sar2optical.signature.scaling import UNITS, Bound, Scaling, Standardize, Stretch, Unit
from sar2optical.signature.tensors import Graph, Noise, Output, Reflectance, TensorType

__all__ = [
    "BATCH_AXIS",
    "INPUT",
    "METADATA_KEY",
    "OUTPUT",
    "PRECISION_KEY",
    "UNITS",
    "VERSION",
    "Bound",
    "Graph",
    "ModelSignature",
    "Noise",
    "Output",
    "Reflectance",
    "Scaling",
    "Standardize",
    "Stretch",
    "TensorType",
    "Unit",
    "alternatives",
    "listed",
    "read_record",
]
