"""The ONNX Runtime backend: runs ONNX files on the CPU, CUDA, or the plugin provider of TensorRT for RTX."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sar2optical.engines.adapter import Adapter, Feeds, adapter_of
from sar2optical.engines.base import (
    QUANTIZED,
    Description,
    Engine,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.engines.onnxruntime_plugin import add_plugin, plugin_name, plugin_problem
from sar2optical.engines.registry import two_layers
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed, ModelUnreadable
from sar2optical.signature import ModelSignature

__all__ = ["BoundRuns", "OnnxRuntimeEngine", "cuda_problem", "open", "open_features"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""Execution providers by device. Core ML and DirectML were not yet run on hardware."""

_SETTINGS: dict[str, dict[str, str]] = {
    "cpu": {},
    # No TF32 in fp32; algorithms by heuristic, because a timed search may choose others in the next run.
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    "coreml": {"ModelFormat": "MLProgram"},  # the older format rounds to fp16
    "directml": {},
}
"""Options of each execution provider."""

_RTX = "rtx"
"""Device of the plugin's provider; it copies inputs and outputs itself."""

_WARNINGS, _ERRORS_ONLY, _NOTHING = 2, 3, 4  # ONNX Runtime's log severities

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "alloc_failed")

_NO_MODEL = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel", "NoSuchFile")
"""Exceptions of ONNX Runtime that mean a bad file on any device; by name, because they have no public base class."""

_log = logging.getLogger(__name__)


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session; on a GPU with bound buffers, so that a run allocates nothing and copies once each way.

    The precision is that of the file. On a CPU, ONNX Runtime computes fp16 files in fp32; the engine reports fp32.

    Each window has a session of its own, with height and width fixed. Where they are open, ONNX Runtime fuses fewer
    operators, and rounds otherwise than in a file with a fixed window.
    """

    def __init__(
        self,
        open_for: Callable[[int], Any],
        description: Description,
        *,
        device: str,
        batch: int,
        streams: int,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__(
            signature=description.signature,
            backend="onnxruntime",
            device="cuda (TensorRT for RTX)" if device == _RTX else device,
            precision=description.precision,
            batch=batch,
            streams=streams,
            self_test=description.self_test,
            fallback="fp32" if description.precision in QUANTIZED else None,
        )
        self.adapter = adapter
        self._open_for: Callable[[int], Any] | None = open_for
        self._device = device
        self._session: Any = None
        self._bound: BoundRuns | None = None
        self._resize(description.signature.window)

    def _resize(self, side: int) -> None:
        if self._open_for is not None:
            self._bound = self._session = None  # frees the memory of the other size
            self._session = self._open_for(side)
            self._input = self._session.get_inputs()[0].name
            bound = self._device == "cuda" and self.adapter is None
            self._bound = BoundRuns(self._session, self._device, side) if bound else None

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._session is None:
            raise InferenceFailed(f"{self} is closed: open it again")
        # The last piece of a halved batch is padded to the half: one size of buffers serves all pieces.
        size = max(len(sar), self._at_once)
        try:
            if self._bound is not None:
                return self._bound.run(sar, size)
            return np.asarray(self._session.run(None, {self._input: sar})[0])
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            raise _stopped(error, size) from error

    def _infer_feeds(self, feeds: Feeds) -> NDArray[np.floating]:
        if self._session is None or self.adapter is None:
            raise InferenceFailed(f"{self} is closed: open it again")
        try:
            return np.asarray(self._session.run([self.adapter.output], dict(feeds))[0])
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            raise _stopped(error, self.adapter.batch) from error

    def close(self) -> None:
        """Release the buffers, then the session."""
        self._open_for = None
        self._bound = None
        self._session = None


class BoundRuns:
    """Runs of a session on buffers that stay on its device, for one batch size at a time.

    Parameters
    ----------
    session
        Session with one input and one output, float32.
    device
        Device of the buffers: cuda, or cpu in tests of the same code.
    side
        Height and width of the windows, where the session leaves them open.
    """

    def __init__(self, session: Any, device: str, side: int | None = None) -> None:
        self._session = session
        self._device = device
        self._shapes = [
            [length if isinstance(length, int) else side for length in tensor.shape]
            for tensor in (session.get_inputs()[0], session.get_outputs()[0])
        ]
        self._lock = Lock()  # the buffers serve one run at a time
        self._size = 0
        self._binding: Any = None
        self._sar: Any = None
        self._optical: Any = None

    def run(self, sar: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Translate a batch of at most `size` windows, padded to it; the caller owns the result."""
        with self._lock:
            if size != self._size:
                self._bind(size)
            count = len(sar)
            if count < size:
                sar = np.concatenate((sar, np.zeros((size - count, *sar.shape[1:]), np.float32)))
            self._sar.update_inplace(sar)
            self._binding.synchronize_inputs()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            image: NDArray[np.float32] = np.require(self._optical.numpy(), requirements="O")
            return image[:count]

    def _bind(self, size: int) -> None:
        self._size = 0
        self._binding = self._sar = self._optical = None  # frees the memory of the previous size
        (_, *given), (_, *made) = self._shapes
        new = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._sar, self._optical = (new((size, *sides), np.float32, self._device) for sides in (given, made))
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._sar)
        self._binding.bind_ortvalue_output(self._session.get_outputs()[0].name, self._optical)
        self._size = size


def open(path: Path, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load an ONNX file.

    Parameters
    ----------
    path
        ONNX file with a signature in its metadata.
    options
        Device, precision, threads and batch size.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the file is not an ONNX model, or has no signature.
    DeviceUnavailable
        If the device or the precision is not available, or an operator does not run on the device.
    DeviceOutOfMemory
        If the model does not fit the device's memory.
    """
    device = _device(options.device)
    reading = "cpu" if device == _RTX else device  # the plugin needs the shapes of the signature
    session = _session(path, _settings_of(reading), reading)
    description = Description.read(session.get_modelmeta().custom_metadata_map, path, options.signature)
    batch = max(options.batch_on(device), description.signature.graph.batch or 1)
    adapter = _adapter(session, description.signature, path, batch)
    sides = _free_sides(session, adapter, description.signature)
    # The graph optimizer treats float8 Q/DQ pairs as int8: parity dropped to 10 dB.
    optimize = description.precision != "fp8"
    opened = [session] if optimize and not sides and device == reading else []
    del session

    def open_for(side: int) -> Any:
        if opened:
            return opened.pop()
        settings = _settings_of(device, optimize=optimize)
        for name in sides:
            settings.add_free_dimension_override_by_name(name, side)
        if device == _RTX:
            if adapter is not None:
                raise DeviceUnavailable(
                    f"{path}: has tensors that TensorRT for RTX is not given here: give --device cpu"
                )
            add_plugin(settings, (batch, description.signature.channels, side, side))
        return _session(path, settings, device)

    streams = 1 if device != "cpu" else options.threads or default_threads()
    if device == "cpu" and description.precision == "fp16":
        description = replace(description, precision="fp32")  # ONNX Runtime has no fp16 kernels for the CPU
    if options.precision != "auto":
        refuse_unless("precision", options.precision, "onnxruntime for this file", [description.precision])
    return OnnxRuntimeEngine(open_for, description, device=device, batch=batch, streams=streams, adapter=adapter)


def _adapter(session: Any, signature: ModelSignature, path: Path, batch: int) -> Adapter | None:
    inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]
    return adapter_of(signature, inputs, outputs, source=str(path), batch=batch)


def _free_sides(session: Any, adapter: Adapter | None, signature: ModelSignature) -> list[str]:
    """Return the names of height and width, where the file leaves them open."""
    tensors = {tensor.name: tensor for tensor in session.get_inputs()}
    tensor = tensors[adapter.input] if adapter else session.get_inputs()[0]
    first = 1 if signature.graph.input_layout == "NHWC" else 2
    return [name for name in tensor.shape[first : first + 2] if isinstance(name, str)]


@cache
def cuda_problem() -> str | None:
    """Return the reason why CUDA does not work with ONNX Runtime; None if it works.

    ONNX Runtime lists CUDA if its wheel was built for it. Only opening a session shows whether driver and libraries
    are installed: this opens one on a very small model, once per process.
    """
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "the installed wheel was built without CUDA"
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21
    printed = StringIO()
    if preload:
        with redirect_stdout(printed):  # it prints the names of missing libraries
            preload()  # finds the libraries that pip installed
    settings = _session_options("cuda")
    settings.log_severity_level = _NOTHING
    onnxruntime.set_default_logger_severity(_NOTHING)  # the problem is returned, not logged
    try:
        _new_session(two_layers(), settings, "cuda")  # opening a session is the only proof
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        return _line(next(iter(printed.getvalue().splitlines()), str(error)))
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
    return None


def _device(requested: str) -> str:
    """Choose the device; auto takes CUDA if a session opens there. The plugin's provider comes before CUDA's own."""
    if requested in ("auto", "cuda") and plugin_problem() is None:
        return _RTX
    listed = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if requested == "cpu" or (requested == "auto" and "cuda" not in listed):
        return "cpu"
    refuse_unless("device", requested if requested != "auto" else "cuda", "onnxruntime", listed)
    if requested in ("coreml", "directml"):
        return requested
    problem = cuda_problem()
    if problem is None:
        return "cuda"
    if requested == "auto":
        _log.info("onnxruntime cannot open CUDA (%s): running on the CPU", problem)
        return "cpu"
    raise DeviceUnavailable(
        f"device cuda does not work with onnxruntime ({problem}): run sar2opt-doctor, or give --device cpu"
    )


def _session_options(device: str) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if device != "cpu":
        # Without this, operators that do not run on the device silently run on the CPU.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if device == "directml":
        settings.enable_mem_pattern = False  # DirectML's provider requires it
    return settings


def _settings_of(device: str, *, optimize: bool = True) -> Any:
    """Return the options of an engine's session."""
    settings = _session_options(device)
    if device == "cpu":
        settings.intra_op_num_threads = 1  # one thread per run, and one run per thread
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return settings


def _new_session(path: Path, settings: Any, device: str) -> Any:
    if device == _RTX:
        session, provider = onnxruntime.InferenceSession(path, settings), plugin_name()
    else:
        provider = _PROVIDERS[device]
        session = onnxruntime.InferenceSession(path, settings, providers=[(provider, _SETTINGS[device])])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"the session runs on {session.get_providers()[0]}")
    return session


def _session(path: Path, settings: Any, device: str) -> Any:
    try:
        return _new_session(path, settings, device)
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        kind = type(error).__name__
        if _is_out_of_memory(error):
            raise DeviceOutOfMemory(
                f"{path}: the model does not fit into memory ({_line(error)}): close other programs, or "
                "give another --device"
            ) from error
        if kind == "NotImplemented" or (device != "cpu" and kind not in _NO_MODEL):
            raise DeviceUnavailable(
                f"{path}: onnxruntime does not run its operators on {device} ({_line(error)}): give another "
                "--backend (openvino runs bf16 files) or --device"
            ) from error
        raise ModelUnreadable(
            f"{path}: corrupt, or not an ONNX model: export it again, or download it again"
        ) from error


def _stopped(error: Exception, size: int) -> InferenceFailed:
    if _is_out_of_memory(error):
        return DeviceOutOfMemory(
            f"{size} windows at once do not fit the memory ({_line(error)}): give a smaller --batch-size"
        )
    return InferenceFailed(f"ONNX Runtime failed: {_line(error)}")


def _is_out_of_memory(error: Exception) -> bool:
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def _line(error: Exception | str) -> str:
    return " ".join(str(error).split())[:160]


def open_features(path: Path, channels: int = 3) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Load an ONNX file that computes features of images, on the CPU.

    Parameters
    ----------
    path
        ONNX file with one input, uint8 (N, channels, H, W); its first output is the features.
    channels
        Channels of its input, for errors.

    Returns
    -------
    callable
        Features of uint8 (N, channels, H, W); raises `ModelUnreadable` if the file does not run on its argument.

    Raises
    ------
    ModelUnreadable
        If the file is not an ONNX model.
    """
    session = _session(path, _session_options("cpu"), "cpu")
    name = session.get_inputs()[0].name

    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            return np.asarray(session.run(None, {name: images})[0])
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            what = f"uint8 {images.shape} ({_line(error)}): export it for uint8 (N, {channels}, H, W)"
            raise ModelUnreadable(f"{path}: does not run on {what}") from error

    return run
