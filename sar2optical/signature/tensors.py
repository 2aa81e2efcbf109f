"""Tensors of an engine file's graph, and what its output bands are."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from sar2optical.signature.scaling import RANGES

__all__ = ["LAYOUTS", "MODES", "TYPES", "Graph", "Layout", "Noise", "Output", "Reflectance", "TensorType"]

Layout = Literal["NCHW", "NHWC"]
"""Order of a tensor's axes: batch, channels, height, width; or batch, height, width, channels."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

TensorType = Literal["fp32", "fp16"]
"""Type of a tensor's numbers."""

TYPES: tuple[TensorType, ...] = get_args(TensorType)

MODES = ("rgb", "all")
"""Words that stand for several output bands; no band may have one of these names."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Second input of a graph: normally distributed numbers, drawn for each window from a seed and its position."""

    name: str
    """Name of the tensor."""
    shape: tuple[int, ...]
    """Shape for one window, without the batch."""
    type: TensorType = "fp32"
    """Type of its numbers."""
    seed: int = 0
    """Seed of the run; with the row and the column of a window's first pixel in the scene, it gives the numbers."""

    def __post_init__(self) -> None:
        if not self.name or not self.shape or any(length < 1 for length in self.shape):
            raise ValueError(f"noise {self.name!r} has shape {list(self.shape)}: give a name and positive lengths")
        if self.type not in TYPES or self.seed < 0:
            raise ValueError(f"noise is {self.type}, seed {self.seed}: give fp32 or fp16, and a seed of 0 or more")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Names, layout and type of the tensors. The default is that of files that `sar2opt-export` writes."""

    input: str | None = None
    """Name of the input; None: the first one, and the only one but for the noise."""
    input_layout: Layout = "NCHW"
    """Layout of the input."""
    input_type: TensorType = "fp32"
    """Type of the input."""
    output: str | None = None
    """Name of the output; None: the only one."""
    output_layout: Layout = "NCHW"
    """Layout of the output."""
    output_type: TensorType = "fp32"
    """Type of the output."""
    batch: int | None = None
    """Windows per run, if the graph fixes it; None: any number."""
    noise: Noise | None = None
    """Second input, of random numbers; None: there is none."""

    def __post_init__(self) -> None:
        for which, layout, kind in (
            ("input", self.input_layout, self.input_type),
            ("output", self.output_layout, self.output_type),
        ):
            if layout not in LAYOUTS or kind not in TYPES:
                raise ValueError(
                    f"{which} has layout {layout} and type {kind}: give one of the layouts {', '.join(LAYOUTS)}, and "
                    f"one of the types {', '.join(TYPES)}"
                )
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}: give 1 or more, or free")


@dataclass(frozen=True, kw_only=True)
class Reflectance:
    """Numbers of a model as reflectance: number * scale + offset."""

    scale: float = 1.0
    """Factor."""
    offset: float = 0.0
    """Summand."""

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and isfinite(self.offset) and self.scale > 0):
            raise ValueError(f"reflectance has scale {self.scale:g}, offset {self.offset:g}: give a scale above 0")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Bands of the output, what their numbers are, and how they are shown as colours."""

    bands: tuple[str, ...] = ("red", "green", "blue")
    """Names, in the order of the model."""
    values: tuple[float, float] | Reflectance = (-1.0, 1.0)
    """Range of the numbers, or how they become reflectance."""
    rgb: tuple[str, ...] = ("red", "green", "blue")
    """Names of the bands that are shown as red, green and blue."""
    shown: tuple[float, float] = (-1.0, 1.0)
    """Values that are shown as 0 and 255: in the range, or reflectance."""

    def __post_init__(self) -> None:
        if not self.bands or len(set(self.bands)) != len(self.bands) or not all(self.bands):
            raise ValueError(f"output bands are {list(self.bands)}: give each a name of its own")
        if any(band in MODES or "," in band for band in self.bands):
            raise ValueError(
                f"output bands are {list(self.bands)}: rgb and all are no names, and names have no comma"
            )
        if len(self.rgb) != 3 or not set(self.rgb) <= set(self.bands):
            raise ValueError(f"rgb is {list(self.rgb)}: give three of the output bands {', '.join(self.bands)}")
        if not isinstance(self.values, Reflectance) and self.values not in RANGES:
            ranges = ", ".join(str(list(known)) for known in RANGES)
            raise ValueError(f"range is {list(self.values)}: give one of {ranges}, or reflectance")
        if not (all(map(isfinite, self.shown)) and self.shown[0] < self.shown[1]):
            raise ValueError(f"shown is {list(self.shown)}: give two numbers, the lower one first")

    @property
    def gain(self) -> tuple[float, float]:
        """Factor and summand that turn the model's numbers into values; 1 and 0 for a range."""
        return (self.values.scale, self.values.offset) if isinstance(self.values, Reflectance) else (1.0, 0.0)

    @property
    def plausible(self) -> tuple[float, float]:
        """Lowest and highest value; of reflectance, that of bright clouds and of noise below 0."""
        return (-0.2, 2.0) if isinstance(self.values, Reflectance) else self.values
