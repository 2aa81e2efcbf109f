"""Open engines by path or name."""

from __future__ import annotations

from pathlib import Path

from sar2optical.api.keywords import engine_options, model_path, naming_keywords
from sar2optical.engines import Engine
from sar2optical.engines.autotune import open_model
from sar2optical.engines.registry import bundled, variants
from sar2optical.signature import ModelSignature

__all__ = ["open_engine"]


def open_engine(
    model: str | Path | None = None,
    *,
    signature: ModelSignature | str | Path | None = None,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
) -> Engine:
    """Open a generator for `predict`; close it with `engine.close()` or a `with` block.

    Parameters
    ----------
    model
        Path of an engine file (.onnx, .pth, .plan), or a published name; the bundled generator by default.
    signature
        Path of a JSON file that describes an .onnx model, or a `ModelSignature`, instead of the one in the file.
    backend
        auto, openvino, onnxruntime, pytorch or tensorrt.
    device
        auto, cpu or cuda.
    precision
        auto, fp32, fp16, bf16, int8 or fp8.
    threads
        CPU threads; all by default.
    batch
        Windows per run; None: 1 on a CPU, 32 on a GPU, that of a plan.

    Returns
    -------
    Engine

    Raises
    ------
    Sar2OpticalError
        ModelUnreadable, SignatureError, BackendNotInstalled, DeviceUnavailable or OptionError.
    """
    with naming_keywords():
        options = engine_options(device, precision, threads, batch, signature)
        engine, _ = open_model(variants(model_path(model) or bundled()), backend=backend, options=options)
    return engine
