#!/usr/bin/env bash
# What most would guess: an ONNX operator that TensorRT for RTX parses and builds in fp16 also builds in bf16, on cards with
#   bf16; and a graph that it cannot build is refused by the parser, which names the node.
# What happens: ConvTranspose builds in fp32 and fp16 for every card. In bf16 the parser accepts it, and the build fails for
#   every card with "Could not infer output types for operation ... deconv". A bf16 Conv builds.
# Version: tensorrt-rtx-cu13 1.7.1.116, onnx 1.23.2, numpy 2.4.6, without GPU and driver. Date: 2026-11-27.
# Source: seen here.
# Why a user cares: pix2pix and most U-Nets upsample by ConvTranspose, and bf16 is the usual precision of training.
#   sar2opt-export --precision bf16 rewrites them as convolutions and a pixel shuffle
#   (tests/export/test_rtx.py::test_a_bf16_transposed_convolution_is_refused_with_the_layer).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13==1.7.1.116 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import tensorrt_rtx as trt
from onnx import TensorProto, helper

KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


class Log(trt.ILogger):
    last = ""

    def log(self, severity, message):
        if severity == trt.ILogger.Severity.ERROR:
            Log.last = message


def model(operator, kind):
    """Return a graph that casts, convolves, and casts back."""
    element = KINDS[kind]
    values = np.zeros((8, 8, 4, 4), np.float32).astype(helper.tensor_dtype_to_np_dtype(element))
    weights = helper.make_tensor("w", element, values.shape, values.tobytes(), raw=True)
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], to=element),
        helper.make_node(operator, ["low", "w"], ["made"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Cast", ["made"], ["y"], to=TensorProto.FLOAT),
    ]
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, s, s]) for n, s in (("x", 16), ("y", None)))
    graph = helper.make_graph(nodes, "one", [given], [made], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


def built(data, logger):
    """Return whether the parser and the builder accept a model."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(data)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM120, 0)
    return parsed, parsed and builder.build_serialized_network(network, config) is not None


logger = Log()
for operator in ("Conv", "ConvTranspose"):
    for kind in KINDS:
        Log.last = ""
        parsed, done = built(model(operator, kind), logger)
        print(f"{operator:<14} {kind}  parsed {parsed!s:<5}  built {done!s:<5}  {Log.last[:150]}")
PYTHON
