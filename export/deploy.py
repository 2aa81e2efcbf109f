"""Commands of other vendors' tools that run an exported file, for use where this package is not installed."""

from __future__ import annotations

import shlex
from pathlib import Path

from sar2optical.signature import BATCH_AXIS, INPUT, ModelSignature

__all__ = ["commands"]

_BATCH = (1, 8, 32)
_NO_OPTIMIZER = ["-o", "0"]  # ONNX Runtime's optimizer treats float8 pairs as int8


def commands(out: Path, signature: ModelSignature, precision: str, *, rtx: bool = False) -> dict[str, str]:
    """Return the command of each tool that measures the speed of a file, in the model's own window.

    Parameters
    ----------
    out
        ONNX file or plan.
    signature
        Signature of the file.
    precision
        Precision of the file.
    rtx
        Whether a plan is one of TensorRT for RTX.

    Returns
    -------
    dict
        Commands by tool: trtexec (TensorRT), tensorrt_rtx (TensorRT for RTX), benchmark_app (OpenVINO) and
        onnxruntime_perf_test. Options are those of TensorRT 10, TensorRT for RTX 1.4, OpenVINO 2026 and ONNX Runtime.
    """
    sides = (signature.channels, signature.window, signature.window)
    fewest, usual, most = (f"{INPUT}:{'x'.join(map(str, (count, *sides)))}" for count in _BATCH)
    if out.suffix.lower() != ".onnx":
        tool = "tensorrt_rtx" if rtx else "trtexec"
        return {tool: shlex.join([tool, f"--loadEngine={out}", f"--shapes={fewest}"])}
    shapes = [f"--minShapes={fewest}", f"--optShapes={usual}", f"--maxShapes={most}"]
    exact = ["--noTF32"] if precision == "fp32" else []
    static = ",".join(map(str, (1, *sides)))
    sized = {BATCH_AXIS: 1, **({"H": signature.window, "W": signature.window} if signature.windows else {})}
    named = [word for name, size in sized.items() for word in ("-f", f"{name}:{size}")]
    optimizer = _NO_OPTIMIZER if precision == "fp8" else []
    device = "cuda" if precision in ("fp16", "bf16") else "cpu"  # without 16-bit kernels for CPUs
    found = {
        "trtexec": ["trtexec", f"--onnx={out}", "--stronglyTyped", *exact, *shapes],
        "tensorrt_rtx": ["tensorrt_rtx", f"--onnx={out}", *exact, *shapes],
        "benchmark_app": ["benchmark_app", "-m", str(out), "-shape", f"{INPUT}[{static}]"],
        "onnxruntime_perf_test": [
            "onnxruntime_perf_test", "-I", "-e", device, *optimizer, *named, "-m", "times", "-r", "100", str(out)
        ],
    }  # fmt: skip
    return {tool: shlex.join(words) for tool, words in found.items()}
