"""Four models with the habits of other exporters, and what each computes, written again in numpy.

Nothing here uses the package but its signature's JSON form, which each record below shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

REFLECTANCES = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")


@dataclass(frozen=True)
class Foreign:
    """A model: its graph, its record, and the layers that `network` computes."""

    name: str
    model: onnx.ModelProto
    record: dict
    layers: tuple
    last: object
    """Function of the last layer's values."""
    shape: tuple[int, int]
    """Rows and columns of its test scene."""
    overlap: int

    @property
    def window(self):
        return self.record["window"]

    def save(self, folder):
        """Write model and record; return their paths."""
        path, signature = folder / f"{self.name}.onnx", folder / f"{self.name}.json"
        onnx.save(self.model, path)
        signature.write_text(json.dumps(self.record))
        return path, signature

    def network(self, planes):
        """Compute the output, float64 (K, H, W), of input planes (C, H, W)."""
        for k, (weights, bias) in enumerate(self.layers):
            planes = convolved(planes, weights, bias)
            if k + 1 < len(self.layers):
                planes = np.maximum(planes, 0)
        return self.last(planes)


def convolved(planes, weights, bias):
    """Correlate with 3 x 3 kernels, zeros beyond the border."""
    _, height, width = planes.shape
    padded = np.pad(planes.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weights), height, width)) + bias[:, None, None]
    for down in range(3):
        for across in range(3):
            part = padded[:, down : down + height, across : across + width]
            out += np.einsum("oc,chw->ohw", weights[:, :, down, across].astype(np.float64), part)
    return out


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def layer(rng, given, made, *, dtype=np.float32, gain=1.0):
    weights = rng.normal(0, gain / np.sqrt(9 * given), (made, given, 3, 3)).astype(dtype)
    return weights, rng.normal(0, 0.2, made).astype(dtype)


def graph(nodes, layers, inputs, outputs, *, opset, extra=None):
    constants = {f"w{k}": weights for k, (weights, _) in enumerate(layers)}
    constants |= {f"b{k}": bias for k, (_, bias) in enumerate(layers)} | (extra or {})
    made = helper.make_graph(
        nodes, "foreign", inputs, outputs, [numpy_helper.from_array(v, name) for name, v in constants.items()]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def convolutions(given):
    """Make the nodes of two layers; they end in "raw"."""
    return [
        helper.make_node("Conv", [given, "w0", "b0"], ["low"], pads=[1] * 4),
        helper.make_node("Relu", ["low"], ["bent"]),
        helper.make_node("Conv", ["bent", "w1", "b1"], ["raw"], pads=[1] * 4),
    ]


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def sigmoid_model():
    """Sigmoid to [0, 1], NCHW, names and dynamic axes as PyTorch's exporter likes them."""
    rng = np.random.default_rng(1)
    layers = (layer(rng, 1, 4, gain=2), layer(rng, 4, 3, gain=3))
    nodes = [*convolutions("input.1"), helper.make_node("Sigmoid", ["raw"], ["42"])]
    made = graph(
        nodes, layers, [value("input.1", TensorProto.FLOAT, "batch", 1, 32, 32)],
        [value("42", TensorProto.FLOAT, "batch", 3, 32, 32)], opset=17,
    )  # fmt: skip
    record = {
        "version": 2, "name": "sigmoid", "bands": ["VV"], "unit": "db",
        "scaling": [{"stretch": ["-25", "0"], "to": [0, 1]}],
        "window": 32, "channels": 1, "pixel_size": 10, "batch": "free",
        "input": {"name": "input.1", "layout": "NCHW", "type": "fp32"},
        "output": {
            "name": "42", "layout": "NCHW", "type": "fp32", "bands": ["red", "green", "blue"], "range": [0, 1],
            "rgb": ["red", "green", "blue"],
        },
    }  # fmt: skip
    return Foreign("sigmoid", made, record, layers, sigmoid, (141, 75), 8)


def nhwc_model():
    """NHWC in [0, 255] both ways, names, opset and static batch as TensorFlow's converter leaves them."""
    rng = np.random.default_rng(2)
    layers = (layer(rng, 1, 4, gain=0.02), layer(rng, 4, 3, gain=2))
    nodes = [
        helper.make_node("Transpose", ["serving_default:0"], ["nchw"], perm=[0, 3, 1, 2]),
        *convolutions("nchw"),
        helper.make_node("Transpose", ["raw"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Sigmoid", ["nhwc"], ["unit"]),
        helper.make_node("Mul", ["unit", "bytes"], ["StatefulPartitionedCall:0"]),
    ]
    made = graph(
        nodes, layers, [value("serving_default:0", TensorProto.FLOAT, 1, 48, 48, 1)],
        [value("StatefulPartitionedCall:0", TensorProto.FLOAT, 1, 48, 48, 3)],
        opset=13, extra={"bytes": np.array(255, np.float32)},
    )  # fmt: skip
    record = {
        "version": 2, "name": "nhwc", "bands": ["VH"], "unit": "amplitude",
        "scaling": [{"stretch": ["0", "0.5"], "to": [0, 255]}],
        "window": 48, "channels": 1, "batch": 1,
        "input": {"name": "serving_default:0", "layout": "NHWC", "type": "fp32"},
        "output": {
            "name": "StatefulPartitionedCall:0", "layout": "NHWC", "type": "fp32",
            "bands": ["red", "green", "blue"], "range": [0, 255], "rgb": ["red", "green", "blue"],
        },
    }  # fmt: skip
    return Foreign("nhwc", made, record, layers, lambda raw: 255 * sigmoid(raw), (141, 100), 16)


def reflectance_model():
    """VV and VH, standardized, to twelve reflectances with scale and offset, in windows of 224."""
    rng = np.random.default_rng(3)
    layers = (layer(rng, 2, 4, gain=1.5), layer(rng, 4, 12, gain=2))
    nodes = [
        *convolutions("s1"),
        helper.make_node("Sigmoid", ["raw"], ["unit"]),
        helper.make_node("Mul", ["unit", "most"], ["scaled"]),
        helper.make_node("Add", ["scaled", "least"], ["s2"]),
    ]
    made = graph(
        nodes, layers, [value("s1", TensorProto.FLOAT, "n", 2, "h", "w")],
        [value("s2", TensorProto.FLOAT, "n", 12, "h", "w")],
        opset=18, extra={"most": np.array(5000, np.float32), "least": np.array(1000, np.float32)},
    )  # fmt: skip
    record = {
        "version": 2, "name": "reflectance", "bands": ["VV", "VH"], "unit": "db",
        "scaling": [{"mean": -11.5, "std": 4.5, "clip": [-30, 5]}, {"mean": -18, "std": 5}],
        "window": 224, "channels": 2, "pixel_size": 10, "batch": "free",
        "input": {"name": "s1", "layout": "NCHW", "type": "fp32"},
        "output": {
            "name": "s2", "layout": "NCHW", "type": "fp32", "bands": list(REFLECTANCES),
            "reflectance": {"scale": 0.0001, "offset": -0.1},
            "rgb": ["B4", "B3", "B2"], "shown": [0, 0.4],
        },
    }  # fmt: skip
    return Foreign("reflectance", made, record, layers, lambda raw: 1000 + 5000 * sigmoid(raw), (420, 260), 32)


def noise_model():
    """Half precision in and out, and a second input of normally distributed noise."""
    rng = np.random.default_rng(4)
    layers = (layer(rng, 3, 4, dtype=np.float16, gain=1.5), layer(rng, 4, 3, dtype=np.float16, gain=1.5))
    nodes = [
        helper.make_node("Concat", ["z", "image"], ["both"], axis=1),
        *convolutions("both"),
        helper.make_node("Tanh", ["raw"], ["fake"]),
    ]
    half = TensorProto.FLOAT16
    made = graph(
        nodes, layers, [value("z", half, "N", 2, 40, 40), value("image", half, "N", 1, 40, 40)],
        [value("fake", half, "N", 3, 40, 40)], opset=16,
    )  # fmt: skip
    record = {
        "version": 2, "name": "noise", "bands": ["VV"], "unit": "db",
        "scaling": [{"stretch": ["-25", "0"], "to": [-1, 1]}],
        "window": 40, "channels": 1, "batch": "free",
        "input": {"name": "image", "layout": "NCHW", "type": "fp16"},
        "output": {
            "name": "fake", "layout": "NCHW", "type": "fp16", "bands": ["red", "green", "blue"], "range": [-1, 1],
            "rgb": ["red", "green", "blue"],
        },
        "noise": {"name": "z", "shape": [2, 40, 40], "type": "fp16", "distribution": "normal", "seed": 5},
    }  # fmt: skip
    return Foreign("noise", made, record, layers, np.tanh, (141, 90), 12)


FOREIGN = {made.name: made for made in (sigmoid_model(), nhwc_model(), reflectance_model(), noise_model())}
