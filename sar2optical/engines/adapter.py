"""Adapt the tensors of other exporters' graphs: layout, type, names, a fixed batch and random numbers.

`Engine.run` takes and gives float32 NCHW everywhere. Graphs with other tensors are fed here, in numpy, for all
backends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import InferenceFailed, SignatureError
from sar2optical.signature import Graph, ModelSignature, Noise, TensorType

__all__ = ["Adapter", "Feeds", "Place", "Tensor", "adapter_of", "noise_of"]

Feeds = Mapping[str, NDArray[np.floating]]
"""Inputs of a graph by name."""

Place = tuple[int, int]
"""Row and column of a window's first pixel in the scene."""

Tensor = tuple[str, Sequence[Any]]
"""Type of an input as its library names it, and its lengths; not an int where the file leaves a length open.
Empty if the file gives no shape."""

_TYPES: dict[TensorType, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
_NAMES = {"tensor(float)": "fp32", "f32": "fp32", "tensor(float16)": "fp16", "f16": "fp16"}
"""Types as ONNX Runtime and OpenVINO name them. OpenVINO casts others silently: -0.5 becomes 0 for a graph that takes
integers."""

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def noise_of(noise: Noise, place: Place) -> NDArray[np.float32]:
    """Draw the random numbers of one window.

    Seed and position alone decide them: batch size, resumption and workers do not; see decision record 0016.

    Returns
    -------
    ndarray
        float32 of the noise's shape, normally distributed with mean 0 and standard deviation 1.
    """
    return np.random.default_rng([noise.seed, *place]).standard_normal(noise.shape, np.float32)


class Adapter:
    """Inputs and output of a graph whose tensors differ from ours.

    Parameters
    ----------
    graph
        Tensors of the graph.
    inputs
        The graph's inputs by name.
    outputs
        Names of its outputs.
    source
        Path of the file, for errors.
    batch
        Windows per run, where the graph takes any number.

    Raises
    ------
    SignatureError
        The graph has no tensor of a name that the signature gives, an input that it does not name, several outputs
        where it names none, or an input of another type.
    """

    def __init__(
        self, graph: Graph, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, source: str, batch: int
    ) -> None:
        self._graph = graph
        self.input = graph.input or next(iter(inputs))
        """Name of the input."""
        self.output = graph.output or outputs[0]
        """Name of the output."""
        self.batch = graph.batch or batch
        """Windows per run."""
        named = [self.input, *([graph.noise.name] if graph.noise else [])]
        for kind, wanted, has in (("input", named, list(inputs)), ("output", [self.output], outputs)):
            if missing := [name for name in wanted if name not in has]:
                raise SignatureError(
                    f"{source}: has no {kind} {missing[0]!r}, only {', '.join(has)}: "
                    "correct the name in the signature"
                )
        if further := [name for name in inputs if name not in named]:
            raise SignatureError(
                f"{source}: has a further input {further[0]!r}, which is not in the signature: describe it "
                'under "noise" in the signature, or export the model without it'
            )
        if graph.output is None and len(outputs) > 1:
            raise SignatureError(
                f"{source}: has several outputs ({', '.join(outputs)}): give the name of the image in the signature"
            )
        types = {self.input: graph.input_type} | ({graph.noise.name: graph.noise.type} if graph.noise else {})
        for name, said in types.items():
            kind = inputs[name][0]
            if (found := _NAMES.get(kind, kind)) != said:
                raise SignatureError(
                    f"{source}: input {name!r} is {found}, the signature says {said}: correct the signature, or "
                    "export the model with fp32 or fp16 inputs"
                )

    def shapes(self, channels: int, side: int, *, batch: int) -> dict[str, list[int]]:
        """Return the shapes of the inputs by name, for windows of one size."""
        nhwc = self._graph.input_layout == "NHWC"
        found = {self.input: [batch, side, side, channels] if nhwc else [batch, channels, side, side]}
        if self._graph.noise:
            found[self._graph.noise.name] = [batch, *self._graph.noise.shape]
        return found

    def run(
        self, infer: Callable[[Feeds], NDArray[np.floating]], sar: NDArray[np.float32], places: Sequence[Place]
    ) -> NDArray[np.float32]:
        """Translate windows in runs of `batch`, the last one padded.

        Parameters
        ----------
        infer
            Function that runs the graph once.
        sar
            float32 (N, C, H, W).
        places
            Where each window is.

        Returns
        -------
        ndarray
            float32 (N, K, H, W).
        """
        images = []
        for k in range(0, len(sar), self.batch):
            part = sar[k : k + self.batch]
            image = infer(self._feeds(part, places[k : k + self.batch]))
            images.append(self._taken(image)[: len(part)])
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _feeds(self, sar: NDArray[np.float32], places: Sequence[Place]) -> Feeds:
        graph, lacking = self._graph, self.batch - len(sar)
        if graph.input_layout == "NHWC":
            sar = sar.transpose(_TO_NHWC)
        feeds = {self.input: _filled(sar, lacking, _TYPES[graph.input_type])}
        if graph.noise:
            if len(places) != len(sar):
                raise InferenceFailed(f"{len(sar)} windows at {len(places)} places: give the place of each window")
            drawn = np.stack([noise_of(graph.noise, place) for place in places])
            feeds[graph.noise.name] = _filled(drawn, lacking, _TYPES[graph.noise.type])
        return feeds

    def _taken(self, image: NDArray[np.floating]) -> NDArray[np.float32]:
        if self._graph.output_layout == "NHWC" and image.ndim == 4:
            image = image.transpose(_TO_NCHW)
        return np.ascontiguousarray(image, np.float32)


def _filled(values: NDArray[np.float32], lacking: int, dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """Return contiguous numbers of a type, with windows of 0 behind the given ones."""
    if lacking:
        values = np.concatenate((values, np.zeros((lacking, *values.shape[1:]), np.float32)))
    return np.ascontiguousarray(values, dtype)


def _shown(lengths: Sequence[int | None]) -> str:
    return f"({', '.join('any' if length is None else str(length) for length in lengths)})"


def adapter_of(
    signature: ModelSignature, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, source: str, batch: int
) -> Adapter | None:
    """Make the adapter of an ONNX file; None if its tensors are ours.

    Arguments and errors are those of `Adapter`. A length that the file fixes and the signature contradicts is a
    `SignatureError`, too: OpenVINO would run the file in the other length.
    """
    adapter = Adapter(signature.graph, inputs, outputs, source=source, batch=batch)
    for side in signature.sides:
        for name, said in adapter.shapes(signature.channels, side, batch=adapter.batch).items():
            lengths = [length if isinstance(length, int) else None for length in inputs[name][1] or ()]
            if not lengths:  # the file gives no shape
                continue
            if len(lengths) != len(said) or any(a not in (None, b) for a, b in zip(lengths, said, strict=True)):
                raise SignatureError(
                    f"{source}: input {name!r} takes {_shown(lengths)}, the signature and the batch size say "
                    f"{_shown(said)}: correct the signature"
                )
    return None if signature.graph == Graph() else adapter
