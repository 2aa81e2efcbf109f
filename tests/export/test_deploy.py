"""Commands of other tools fit the shapes of the exported file."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.deploy import commands
from sar2optical.engines.registry import bundled, variants
from sar2optical.signature import ModelSignature
from tests.conftest import signature_of

WIDE = signature_of(window=256, windows=(512,))


def test_each_tool_gets_the_shapes_of_an_onnx_file():
    found = commands(Path("my model.onnx"), WIDE, "fp32")
    assert found == {
        "trtexec": "trtexec '--onnx=my model.onnx' --stronglyTyped --noTF32 --minShapes=sar:1x1x256x256 "
        "--optShapes=sar:8x1x256x256 --maxShapes=sar:32x1x256x256",
        "tensorrt_rtx": "tensorrt_rtx '--onnx=my model.onnx' --noTF32 --minShapes=sar:1x1x256x256 "
        "--optShapes=sar:8x1x256x256 --maxShapes=sar:32x1x256x256",
        "benchmark_app": "benchmark_app -m 'my model.onnx' -shape 'sar[1,1,256,256]'",
        "onnxruntime_perf_test": "onnxruntime_perf_test -I -e cpu -f N:1 -f H:256 -f W:256 -m times -r 100 "
        "'my model.onnx'",
    }
    assert "-o 0" in commands(Path("m.onnx"), WIDE, "fp8")["onnxruntime_perf_test"]
    assert "-e cuda" in commands(Path("m.onnx"), WIDE, "bf16")["onnxruntime_perf_test"]


@pytest.mark.parametrize(("rtx", "tool"), [(True, "tensorrt_rtx"), (False, "trtexec")])
def test_a_plan_has_the_tool_of_its_library(rtx, tool):
    found = commands(Path("m.plan"), ModelSignature(name="mine"), "fp16", rtx=rtx)
    channels = ModelSignature(name="mine").channels
    assert found == {tool: f"{tool} --loadEngine=m.plan --shapes=sar:1x{channels}x256x256"}


def test_openvinos_tool_runs_the_command():
    program = shutil.which("benchmark_app", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("benchmark_app is not installed")
    words = shlex.split(commands(variants(bundled())["int8"], WIDE, "int8")["benchmark_app"])
    done = subprocess.run(
        [program, *words[1:], "-niter", "2"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "[1,1,256,256]" in done.stdout.replace(" ", "")
