"""The OpenVINO backend: runs ONNX files on the CPU, the fastest on Intel and AMD CPUs, and on Intel graphics.

Intel graphics (device gpu) were not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from sar2optical.engines.adapter import Adapter, Feeds, Tensor, adapter_of
from sar2optical.engines.base import (
    QUANTIZED,
    Description,
    Engine,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.errors import InferenceFailed, ModelUnreadable

__all__ = ["OpenVINOEngine", "open"]

_HINTS = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_STREAMS_ON_GPU = 2  # one window is copied while another is computed


class OpenVINOEngine(Engine):
    """A model compiled for single windows, with one request for each stream.

    A batch runs window by window. A model compiled for larger batches rounds bf16 differently on a CPU with AMX
    (OpenVINO 2026.4.1: one grey level in every 700th value), and is no faster (batch 8 against 1: 0.98 times the
    speed in bf16, 0.84 times in int8).
    """

    def __init__(
        self,
        compile_for: Callable[[int], Any],
        description: Description,
        *,
        device: str,
        batch: int,
        adapter: Adapter | None = None,
    ) -> None:
        compiled = compile_for(description.signature.window)
        arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        streams = int(compiled.get_property("NUM_STREAMS"))
        quantized = description.precision in QUANTIZED
        super().__init__(
            signature=description.signature,
            backend="openvino",
            device=device,
            # OpenVINO may change the precision of other files: it runs bf16 files in fp32 on a CPU without bf16.
            precision=description.precision if quantized else _NAMES.get(arithmetic, arithmetic),
            batch=batch,
            streams=streams,
            self_test=description.self_test,
            fallback=_NAMES.get(arithmetic, arithmetic) if quantized else None,
        )
        self.adapter = adapter
        self._compile_for: Callable[[int], Any] | None = compile_for
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._make_requests(compiled)

    def _resize(self, side: int) -> None:
        if self._compile_for is not None:
            self._idle = SimpleQueue()  # frees the memory of the other size
            self._make_requests(self._compile_for(side))

    def _make_requests(self, compiled: Any) -> None:
        for _ in range(self.streams):
            self._idle.put(compiled.create_infer_request())

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._request() as request:
            windows = [
                np.array(request.infer([window[None]], share_inputs=True, share_outputs=True)[0]) for window in sar
            ]
            return windows[0] if len(windows) == 1 else np.concatenate(windows)

    def _infer_feeds(self, feeds: Feeds) -> NDArray[np.floating]:
        with self._request() as request:
            assert self.adapter is not None
            return np.array(request.infer(dict(feeds), share_inputs=True, share_outputs=True)[self.adapter.output])

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """Lend a request to one run."""
        if self._compile_for is None:
            raise InferenceFailed(f"{self} is closed: open it again")
        request = self._idle.get()
        try:
            yield request
        except Exception as error:  # of many types, none of them ours
            raise InferenceFailed(f"OpenVINO failed: {_last_line(error)}") from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Release the compiled model."""
        self._compile_for = None
        self._idle = SimpleQueue()


def open(path: Path, options: EngineOptions) -> OpenVINOEngine:
    """Compile an ONNX file for the CPU or Intel graphics.

    Parameters
    ----------
    path
        ONNX file with a signature in its metadata.
    options
        Device, precision, threads and batch size.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the file is not an ONNX model, cannot be compiled, or has no signature.
    DeviceUnavailable
        If the device or the precision is not available.
    """
    core = openvino.Core()
    place = _place(core, options.device)
    model = _read(core, path)
    description = Description.read(_metadata(model), path, options.signature)
    signature = description.signature
    inputs = {tensor.any_name: _type_and_lengths(tensor) for tensor in model.inputs}
    outputs = [tensor.any_name for tensor in model.outputs]
    adapter = adapter_of(signature, inputs, outputs, source=str(path), batch=1)
    asked = options.precision
    if asked == "auto" and not signature.is_version_1 and description.precision not in QUANTIZED:
        asked = "fp32"  # nobody has measured what bf16 does to this model's output
    precision = _arithmetic(core, place, description.precision, asked)
    settings = _settings(place, precision, options.threads or default_threads())

    def compile_for(side: int) -> Any:
        try:
            if adapter is None:
                model.reshape([1, signature.channels, side, side])
            else:
                model.reshape(adapter.shapes(signature.channels, side, batch=adapter.batch))
            return core.compile_model(model, place, settings)
        except RuntimeError as error:
            raise ModelUnreadable(
                f"{path}: OpenVINO cannot compile the model ({_last_line(error)}): export it again"
            ) from error

    device = str(core.get_property(place, "FULL_DEVICE_NAME")).strip()
    kind = "cpu" if place == "CPU" else "gpu"
    return OpenVINOEngine(
        compile_for,
        description,
        device=f"{kind} ({device})",
        batch=max(options.batch_on("cpu"), signature.graph.batch or 1),
        adapter=adapter,
    )


def _settings(place: str, precision: str, threads: int) -> dict[str, Any]:
    if place != "CPU":
        return {"INFERENCE_PRECISION_HINT": _HINTS[precision], "NUM_STREAMS": _STREAMS_ON_GPU}
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],  # explicit: OpenVINO's default is bf16 on some CPUs
        # One stream per thread: no thread waits for another at the end of a layer, and the arithmetic of a window
        # does not depend on the number of threads (with two threads on one window, bf16 rounded differently from
        # batch to batch).
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # reading and writing use the same cores
    }


def _place(core: openvino.Core, requested: str) -> str:
    """Return OpenVINO's name of a device: CPU, or GPU for Intel graphics (GPU.0, GPU.1 where there are several)."""
    found = {name.partition(".")[0].lower() for name in core.available_devices}
    device = requested if requested != "auto" else "cpu"
    refuse_unless("device", device, "openvino", [name for name in ("cpu", "gpu") if name in found])
    return device.upper()


def _read(core: openvino.Core, path: Path) -> openvino.Model:
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise ModelUnreadable(
            f"{path}: corrupt, or not an ONNX model: export it again, or download it again"
        ) from error


def _type_and_lengths(tensor: Any) -> Tensor:
    shape = tensor.get_partial_shape()
    lengths = [length.get_length() if length.is_static else None for length in shape] if shape.rank.is_static else []
    return tensor.element_type.get_type_name(), lengths


def _metadata(model: openvino.Model) -> dict[str, str]:
    """Read the file's metadata, which OpenVINO keeps as runtime info under "framework"."""
    try:
        notes = model.get_rt_info(["framework"]).value
    except RuntimeError:
        return {}
    return {str(key): str(value) for key, value in notes.items()}


def _arithmetic(core: openvino.Core, place: str, file: str, requested: str) -> str:
    """Choose the precision of the layers that the file does not quantize; auto takes the last one."""
    half = "bf16" if place == "CPU" else "fp16"
    available = ["fp32"]
    if half.upper() in core.get_property(place, "OPTIMIZATION_CAPABILITIES"):
        available.append(half)
    if file in QUANTIZED:
        if requested != "auto":
            refuse_unless("precision", requested, f"openvino for this {file} file", [file])
        # Bundled int8 file on a CPU with bf16: 10 % faster than with fp32, and as close (43.0 dB against 42.4 dB).
        return available[-1]
    if requested == "auto":
        return available[-1]
    refuse_unless("precision", requested, "openvino", available)
    return requested


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
