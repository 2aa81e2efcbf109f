#!/usr/bin/env bash
# What most would guess: an engine of TensorRT for RTX for compute capability 8.0 runs on a newer data-centre GPU too, as CUDA code
#   with PTX does; ComputeCapability.CURRENT on that GPU builds for it, or the build is refused there.
# What happens: on an H200 (9.0) engines for SM80, SM89, SM120, several, CURRENT and no target all build in under half a second, and
#   none loads: get_engine_validity gives INVALID, deserialize_cuda_engine None, with "The engine cannot run on this GPU, which has
#   compute capability 9.0 ... TensorRT-RTX does not support this compute capability". The engine without a target names
#   "8.0 8.6 8.9 12.0 12.1 >12.0": Hopper and data-centre Blackwell (10.x) are left out on purpose.
# Version: tensorrt-rtx-cu13 1.7.1.116, onnx 1.23.2, numpy 2.4.6. Date: 2026-11-27. Needs a GPU; without one it prints what builds.
# Source: seen on an H200, driver for CUDA 13.0.
# Why a user cares: a plan that a laptop runs does not run on the server. sar2optical refuses such cards before it loads anything
#   (sar2optical/engines/rtx_cards.py), and `auto` takes PyTorch in bf16 there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tensorrt-rtx-cu13==1.7.1.116 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import tensorrt_rtx as trt
from onnx import TensorProto, helper


class Log(trt.ILogger):
    last = ""

    def log(self, severity, message):
        if severity == trt.ILogger.Severity.ERROR and not message.startswith("Thread context"):
            Log.last = message


given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy")
graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "one", [given], [made])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
logger, capabilities = Log(), trt.ComputeCapability
for targets in (["SM80"], ["SM89"], ["SM120"], ["SM80", "SM86", "SM89", "SM120"], ["CURRENT"], []):
    Log.last = ""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model)
    config = builder.create_builder_config()
    if targets:
        config.num_compute_capabilities = len(targets)
        for k, target in enumerate(targets):
            config.set_compute_capability(getattr(capabilities, target), k)
    plan = builder.build_serialized_network(network, config)
    engine = plan and trt.Runtime(logger).deserialize_cuda_engine(plan)
    print(f"{' '.join(targets) or 'no target':<22} built {plan is not None!s:<5} loads {bool(engine)!s:<5} {Log.last[:220]}")
PYTHON
