"""Write a first signature of an ONNX file, from what the file itself shows.

What a graph cannot show is null: unit, scaling, ground resolution, often the range of the output. The reader of
signatures refuses null, so that a person has to correct it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import ExportUnsupported, ModelUnreadable
from sar2optical.signature import ModelSignature, Stretch, TensorType

__all__ = ["describe", "write_first"]

_TYPES: dict[int, TensorType] = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
_MOST_CHANNELS = 64
_TRIED = 256
"""Side of the windows that a file with a free height and width is run on."""

_RANGES = {"Tanh": [-1, 1], "Sigmoid": [0, 1]}
"""Ranges of the functions that fix them, by ONNX's operator."""

_KEEP = ("Identity", "Cast", "Transpose", "Reshape", "DepthToSpace", "Slice")
"""Operators that change no value."""

_INPUTS = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
"""Ranges of simulated input whose output is observed."""


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a graph."""

    name: str
    type: TensorType
    shape: tuple[int | None, ...]
    """Lengths; None where the file leaves them open."""

    @property
    def layout(self) -> str | None:
        """NCHW or NHWC; None where the shape fits both or none."""
        return {(True, False): "NCHW", (False, True): "NHWC"}.get((self._are_channels(1), self._are_channels(3)))

    def _are_channels(self, axis: int) -> bool:
        length, sides = self.shape[axis], [self.shape[k] for k in ((2, 3) if axis == 1 else (1, 2))]
        square = sides[0] == sides[1] and (sides[0] is None or sides[0] > _MOST_CHANNELS // 8)
        return length is not None and length <= _MOST_CHANNELS and square

    @property
    def channels(self) -> int | None:
        """Number of channels, if the layout shows it."""
        return None if self.layout is None else self.shape[1 if self.layout == "NCHW" else 3]

    @property
    def side(self) -> int | None:
        """Height and width, if the file fixes them."""
        return None if self.layout is None else self.shape[2 if self.layout == "NCHW" else 1]


def describe(path: Path) -> str:
    """Describe an ONNX file as JSON of a signature of version 2.

    Parameters
    ----------
    path
        ONNX file of any exporter.

    Returns
    -------
    str
        JSON. `observed` holds what was measured; the reader of signatures ignores it.

    Raises
    ------
    ModelUnreadable
        If the file is not an ONNX model.
    ExportUnsupported
        If no input or output can be an image, or a tensor has another type.
    """
    try:
        model = onnx.load(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf's and ONNX Runtime's have no common base class
        raise ModelUnreadable(f"{path}: corrupt, or not an ONNX model: export it again") from error
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [_tensor(value, path) for value in model.graph.input if value.name not in stored]
    outputs = [_tensor(value, path) for value in model.graph.output]
    image, made = _image(inputs, path, "input"), _image(outputs, path, "output")
    others = [tensor for tensor in inputs if tensor is not image] if image else inputs[1:]
    runs, bands = _observed(session, image, made, others) if image and made else ([], None)
    record = _record(model, path.stem, image, made, bands) | _noise(others, known=image is not None)
    record["batch"] = inputs[0].shape[0] or "free"
    shapes = {
        kind: [f"{tensor.name}: {tensor.type} {list(tensor.shape)}" for tensor in tensors]
        for kind, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    return json.dumps({**record, "observed": {**shapes, "runs": runs}}, indent=1) + "\n"


def write_first(model: Path, out: Path | None, *, overwrite: bool) -> str:
    """Write what `describe` returns, and return what to do next; without a path, return the description itself."""
    if out is None:
        return describe(model)
    refuse_existing(out, overwrite=overwrite)
    write_output(out, describe(model).encode())
    return f"{out}: replace each null by what is true of the model, see docs/signature.md\n"


def _record(
    model: onnx.ModelProto, name: str, image: _Tensor | None, made: _Tensor | None, bands: int | None
) -> dict[str, Any]:
    channels = image.channels if image else None
    return {
        "version": 2,
        "name": name,
        "bands": [None] * (channels or 1),
        "unit": None,
        "scaling": [None] * (channels or 1),
        "window": image.side if image else None,
        "channels": channels,
        "pixel_size": None,
        "input": _entry(image),
        "output": {
            **_entry(made),
            "bands": [None] * ((made.channels if made else None) or bands or 1),
            "range": _RANGES.get(_last_operator(model, made.name) or "") if made else None,
            "rgb": None,
        },
    }


def _noise(others: list[_Tensor], *, known: bool) -> dict[str, Any]:
    """Return the part of a second input; all of it is null where it may as well be the image."""
    if not others:
        return {}
    other = others[0]
    shown = {"name": other.name, "shape": list(other.shape[1:]), "type": other.type} if known else {}
    return {"noise": {**dict.fromkeys(("name", "shape", "type", "distribution")), **shown}}


def _entry(tensor: _Tensor | None) -> dict[str, str | None]:
    if tensor is None:
        return dict.fromkeys(("name", "layout", "type"))
    return {"name": tensor.name, "layout": tensor.layout, "type": tensor.type}


def _tensor(value: onnx.ValueInfoProto, path: Path) -> _Tensor:
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise ExportUnsupported(f"{path}: {value.name} is {name}: export the model with fp32 or fp16 tensors")
    lengths = (entry.dim_value if entry.HasField("dim_value") else None for entry in kind.shape.dim)
    return _Tensor(value.name, _TYPES[kind.elem_type], tuple(lengths))


def _image(tensors: list[_Tensor], path: Path, kind: str) -> _Tensor | None:
    """Return the tensor that is an image: the only one of four axes; None where there are several."""
    images = [tensor for tensor in tensors if len(tensor.shape) == 4]
    if not images:
        shapes = "; ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in tensors)
        raise ExportUnsupported(
            f"{path}: no {kind} is an image, with four axes ({shapes}): give a model that turns images into images"
        )
    return images[0] if len(images) == 1 else None


def _observed(
    session: Any, image: _Tensor, made: _Tensor, others: list[_Tensor]
) -> tuple[list[dict[str, Any]], int | None]:
    """Run simulated chips of several ranges; return the ranges of the output, and its number of bands."""
    if image.layout is None or any(length is None for other in others for length in other.shape[1:]):
        return [], None
    side = image.side or _TRIED
    bands = ("VV",) * (image.channels or 1)
    chip = self_test_input(
        ModelSignature(
            name="", bands=bands, stretch=(Stretch.parse("0", "1"),) * len(bands), channels=len(bands), window=side
        )
    )
    found, count = [], None
    for low, high in _INPUTS:
        sar = np.repeat(low + (chip + 1) / 2 * (high - low), image.shape[0] or 1, axis=0)
        sar = sar.transpose(0, 2, 3, 1) if image.layout == "NHWC" else sar
        feeds = {image.name: sar.astype(_dtype(image))}
        for other in others:
            shape = (len(sar), *(length or 1 for length in other.shape[1:]))
            feeds[other.name] = np.random.default_rng(0).standard_normal(shape).astype(_dtype(other))
        try:
            output = session.run([made.name], feeds)[0].astype(np.float32)
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            found.append({"input": [low, high], "error": " ".join(str(error).split())[:160]})
            continue
        found.append({"input": [low, high], "output": [_number(output.min()), _number(output.max())]})
        count = output.shape[1 if made.layout == "NCHW" else 3] if made.layout else None
    return found, count


def _dtype(tensor: _Tensor) -> type[np.floating]:
    return np.float16 if tensor.type == "fp16" else np.float32


def _number(value: np.floating) -> float | str:
    """Return a number as JSON has it: NaN and infinity as text."""
    return round(float(value), 6) if np.isfinite(value) else str(value)


def _last_operator(model: onnx.ModelProto, name: str) -> str | None:
    """Return the operator that gives the output its values."""
    for node in reversed(model.graph.node):
        if name in node.output:
            if node.op_type not in _KEEP:
                return str(node.op_type)
            name = node.input[0]
    return None
