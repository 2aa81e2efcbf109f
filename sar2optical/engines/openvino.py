"""ONNX files in OpenVINO: the fastest on Intel and AMD CPUs."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from sar2optical.engines.base import (
    QUANTIZED,
    Description,
    Engine,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.errors import InferenceFailed, ModelUnreadable

_HINTS = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_DEVICE = "CPU"


class OpenVINOEngine(Engine):
    """A model compiled for single windows, and one request for each stream.

    A batch is run window by window. Compiled for two or more, bf16 on a CPU with AMX rounds otherwise than for one
    (OpenVINO 2026.4.1: a grey level in every 700th value), and is no faster (0.98 in bf16, 0.84 in int8, batch 8
    against 1).
    """

    def __init__(self, compiled: Any, description: Description, *, device: str, batch: int) -> None:
        arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        streams = int(compiled.get_property("NUM_STREAMS"))
        quantized = description.precision in QUANTIZED
        super().__init__(
            signature=description.signature,
            backend="openvino",
            device=device,
            # Of other files OpenVINO changes the precision: on a CPU without bf16 it runs a bf16 file in fp32.
            precision=description.precision if quantized else _NAMES.get(arithmetic, arithmetic),
            batch=batch,
            streams=streams,
            self_test=description.self_test,
            fallback=_NAMES.get(arithmetic, arithmetic) if quantized else None,
        )
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        request = self._idle.get()
        try:
            windows = [
                np.array(request.infer([window[None]], share_inputs=True, share_outputs=True)[0]) for window in sar
            ]
            return np.concatenate(windows)
        except Exception as error:  # of many types; none of ours can come out of it
            raise InferenceFailed(f"openvino stopped: {_first_line(error)}") from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Release the compiled model."""
        self._idle = SimpleQueue()


def open(path: Path, options: EngineOptions) -> OpenVINOEngine:
    """Compile an ONNX file for the CPU; see `open_engine`."""
    if options.device != "auto":
        refuse_unless("device", options.device, "openvino", ["cpu"])
    core = openvino.Core()
    model = _read(core, path)
    description = Description.read(_metadata(model), path)
    signature = description.signature
    precision = _arithmetic(core, description.precision, options.precision)
    threads = options.threads or default_threads()
    sides = (signature.channels, signature.window, signature.window)
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],  # said always: OpenVINO's own default is bf16 where it can
        # A stream of its own for each thread: none waits for another at the end of a layer, and a window's
        # arithmetic is the same whatever the number of threads (two threads on one window, in bf16, were seen to
        # round differently from batch to batch).
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # reading and writing want a turn on those cores too
    }
    try:
        model.reshape([1, *sides])
        compiled = core.compile_model(model, _DEVICE, settings)
    except RuntimeError as error:
        raise ModelUnreadable(
            f"{path}: openvino cannot compile it ({_first_line(error)}): export it again"
        ) from error
    device = str(core.get_property(_DEVICE, "FULL_DEVICE_NAME")).strip()
    return OpenVINOEngine(compiled, description, device=f"cpu ({device})", batch=options.batch)


def _read(core: openvino.Core, path: Path) -> openvino.Model:
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise ModelUnreadable(f"{path}: corrupt, or no ONNX model: export it again, or fetch it again") from error


def _metadata(model: openvino.Model) -> dict[str, str]:
    """Read the file's metadata, which OpenVINO keeps among the model's notes on where it came from."""
    try:
        notes = model.get_rt_info(["framework"]).value
    except RuntimeError:
        return {}
    return {str(key): str(value) for key, value in notes.items()}


def _arithmetic(core: openvino.Core, file: str, asked: str) -> str:
    """Choose what layers are computed in that the file does not quantize."""
    here = ["fp32"]
    if "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        here.append("bf16")
    if file in QUANTIZED:
        if asked != "auto":
            refuse_unless("precision", asked, f"openvino and this {file} file", [file])
        # Of the bundled one, on a CPU that has it: 10 % faster, and no further from fp32 (43.0 dB for 42.4).
        return here[-1]
    if asked == "auto":
        return here[-1]
    refuse_unless("precision", asked, "openvino", here)
    return asked


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
