"""ONNX files in ONNX Runtime."""

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

from sar2optical.engines.base import (
    QUANTIZED,
    Description,
    Engine,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.engines.registry import two_layers
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed, ModelUnreadable

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_SETTINGS: dict[str, dict[str, str]] = {
    "cpu": {},
    # fp32 is fp32, not TF32; and algorithms are chosen by rule, not by a race that another run may decide otherwise.
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
}
"""Of the providers."""

_WARNINGS, _ERRORS_ONLY, _NOTHING = 2, 3, 4  # ONNX Runtime's log severities

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "alloc_failed")

_NO_MODEL = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel", "NoSuchFile")
"""ONNX Runtime's names for what is wrong with a file, on whatever device: its exceptions have no public root."""

_log = logging.getLogger(__name__)


class OnnxRuntimeEngine(Engine):
    """A session; on a GPU with buffers there, so that a run allocates nothing and copies once each way.

    The precision is the file's; on a CPU, ONNX Runtime computes an fp16 file in fp32, and that is what it reports.
    """

    def __init__(self, session: Any, description: Description, *, device: str, batch: int, streams: int) -> None:
        super().__init__(
            signature=description.signature,
            backend="onnxruntime",
            device=device,
            precision=description.precision,
            batch=batch,
            streams=streams,
            self_test=description.self_test,
            fallback="fp32" if description.precision in QUANTIZED else None,
        )
        self._session = session
        self._input = session.get_inputs()[0].name
        self._bound = BoundRuns(session, device) if device != "cpu" else None

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._session is None:
            raise InferenceFailed(f"{self} is closed: open it again")
        # What is left of a batch that was halved for want of memory is padded to the half.
        size = max(len(sar), self._at_once)
        try:
            if self._bound is not None:
                return self._bound.run(sar, size)
            return np.asarray(self._session.run(None, {self._input: sar})[0])
        except Exception as error:  # its exceptions have no public root
            raise _stopped(error, size) from error

    def close(self) -> None:
        """Release the session, and its buffers before it."""
        self._bound = None
        self._session = None


class BoundRuns:
    """Runs of a session on buffers where it computes, of one batch size at a time.

    Parameters
    ----------
    session
        With one input and one output, float32.
    device
        Where its buffers are: cuda or cpu. A CPU gains nothing from them, but runs the same code in tests.
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._shapes = session.get_inputs()[0].shape, session.get_outputs()[0].shape
        self._turn = Lock()  # buffers are those of one run
        self._size = 0
        self._binding: Any = None
        self._sar: Any = None
        self._optical: Any = None

    def run(self, sar: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Translate a batch of at most `size`, padded to it; the result is the caller's own."""
        with self._turn:
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
        self._binding = self._sar = self._optical = None  # what another size needed is needed now
        (_, *given), (_, *made) = self._shapes
        new = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._sar, self._optical = (new((size, *sides), np.float32, self._device) for sides in (given, made))
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._sar)
        self._binding.bind_ortvalue_output(self._session.get_outputs()[0].name, self._optical)
        self._size = size


def open(path: Path, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load an ONNX file; see `open_engine`."""
    device = _device(options.device)
    settings = _session_options(device)
    streams = 1
    if device == "cpu":
        streams = options.threads or default_threads()
        settings.intra_op_num_threads = 1  # each run on its caller's thread, as many at once as there are threads
    session = _session(path, settings, device)
    description = Description.read(session.get_modelmeta().custom_metadata_map, path)
    if description.precision == "fp8":
        # Its optimizer takes float8 pairs for int8 ones, and was seen to make another image of them (10 dB).
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = _session(path, settings, device)
    if device == "cpu" and description.precision == "fp16":
        description = replace(description, precision="fp32")  # what its CPU kernels compute such a file in
    if options.precision != "auto":
        refuse_unless("precision", options.precision, "onnxruntime and this file", [description.precision])
    return OnnxRuntimeEngine(session, description, device=device, batch=options.batch, streams=streams)


@cache
def cuda_problem() -> str | None:
    """Say why nothing runs on CUDA here; None where it does.

    ONNX Runtime lists CUDA wherever its wheel was built for it. Whether driver and libraries are there shows only
    when a session is opened: here, one of a very small model, once per process.
    """
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "this wheel has no CUDA"
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21
    said = StringIO()
    if preload:
        with redirect_stdout(said):  # it prints what is missing
            preload()  # libraries that came with pip are found by no one else
    settings = _session_options("cuda")
    settings.log_severity_level = _NOTHING
    onnxruntime.set_default_logger_severity(_NOTHING)  # what it would log is returned
    try:
        _new_session(two_layers(), settings, "cuda")  # the one proof that it opens
    except Exception as error:  # its exceptions have no public root
        return _line(next(iter(said.getvalue().splitlines()), str(error)))
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
    return None


def _device(asked: str) -> str:
    """Choose where to run; auto takes CUDA where it opens."""
    listed = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if asked == "cpu" or (asked == "auto" and "cuda" not in listed):
        return "cpu"
    refuse_unless("device", asked if asked != "auto" else "cuda", "onnxruntime", listed)
    trouble = cuda_problem()
    if trouble is None:
        return "cuda"
    if asked == "auto":
        _log.info("onnxruntime lists CUDA and cannot open it (%s): it runs on the CPU", trouble)
        return "cpu"
    raise DeviceUnavailable(
        f"device cuda does not work with onnxruntime here ({trouble}): see sar2opt-doctor, or give --device cpu"
    )


def _session_options(device: str) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if device != "cpu":
        # It would run on the CPU what it cannot run there, with a log line.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings


def _new_session(path: Path, settings: Any, device: str) -> Any:
    providers = [(_PROVIDERS[device], _SETTINGS[device])]
    session = onnxruntime.InferenceSession(path, settings, providers=providers)
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise RuntimeError(f"it took {session.get_providers()[0]}")
    return session


def _session(path: Path, settings: Any, device: str) -> Any:
    try:
        return _new_session(path, settings, device)
    except Exception as error:  # its exceptions have no public root
        kind = type(error).__name__
        if _is_out_of_memory(error):
            raise DeviceOutOfMemory(f"{path}: memory does not hold it ({_line(error)}): free some") from error
        if kind == "NotImplemented" or (device != "cpu" and kind not in _NO_MODEL):
            raise DeviceUnavailable(
                f"{path}: has operators that onnxruntime does not run on {device} ({_line(error)}): give another "
                "--backend (openvino runs bf16 files) or --device"
            ) from error
        raise ModelUnreadable(f"{path}: corrupt, or no ONNX model: export it again, or fetch it again") from error


def _stopped(error: Exception, size: int) -> InferenceFailed:
    if _is_out_of_memory(error):
        return DeviceOutOfMemory(
            f"memory does not hold {size} windows at once ({_line(error)}): give a smaller --batch-size"
        )
    return InferenceFailed(f"onnxruntime stopped: {_line(error)}")


def _is_out_of_memory(error: Exception) -> bool:
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def _line(error: Exception | str) -> str:
    return " ".join(str(error).split())[:160]


def open_features(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Load an ONNX file that turns images into features, to run on the CPU.

    Parameters
    ----------
    path
        One input, uint8 (N, 3, H, W); the first output is taken.

    Returns
    -------
    callable
        Raises `ModelUnreadable` where the file does not run on its argument.

    Raises
    ------
    ModelUnreadable
        Where the file is no ONNX model.
    """
    session = _session(path, _session_options("cpu"), "cpu")
    name = session.get_inputs()[0].name

    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            return np.asarray(session.run(None, {name: images})[0])
        except Exception as error:  # its exceptions have no public root
            reason = " ".join(str(error).split())[:100]
            raise ModelUnreadable(f"{path}: does not run on uint8 {images.shape} ({reason}): export it so") from error

    return run
