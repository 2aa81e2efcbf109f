"""ONNX files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sar2optical.engines.base import (
    EngineBase,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.errors import DeviceUnavailable, InferenceFailed, ModelUnreadable, SignatureError
from sar2optical.signature import METADATA_KEY, ModelSignature

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3  # ONNX Runtime's log severity


class OnnxRuntimeEngine(EngineBase):
    """A session."""

    def __init__(self, session: Any, signature: ModelSignature, *, device: str, batch: int, streams: int) -> None:
        super().__init__(
            signature=signature,
            backend="onnxruntime",
            device=device,
            precision="fp32",
            batch=batch,
            streams=streams,
        )
        self._session = session
        self._input = session.get_inputs()[0].name

    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(self._session.run(None, {self._input: sar})[0])
        except Exception as error:  # its exceptions have no public root
            raise InferenceFailed(f"onnxruntime stopped: {' '.join(str(error).split())[:120]}") from error

    def close(self) -> None:
        """Release the session."""
        self._session = None


def open(path: Path, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load an ONNX file; see `open_engine`."""
    here = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    device = options.device if options.device != "auto" else "cpu"
    refuse_unless("device", device, "onnxruntime", here)
    if options.precision != "auto":
        refuse_unless("precision", options.precision, "onnxruntime", ["fp32"])
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    streams = 1
    if device == "cpu":
        streams = options.threads or default_threads()
        settings.intra_op_num_threads = 1  # each run on its caller's thread, as many at once as there are threads
    else:
        # Its wheel lists CUDA on machines without a GPU, and would fall back with a log line.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = _session(path, settings, device)
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise SignatureError(
            f"{path}: carries no signature, so nothing says what its input means: export it with sar2opt-export"
        )
    signature = ModelSignature.from_json(metadata[METADATA_KEY], source=str(path))
    return OnnxRuntimeEngine(session, signature, device=device, batch=options.batch, streams=streams)


def _session(path: Path, settings: Any, device: str) -> Any:
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[_PROVIDERS[device]])
    except Exception as error:  # its exceptions have no public root
        if device != "cpu":
            raise DeviceUnavailable(
                f"device {device} does not work with onnxruntime here ({str(error)[:120]}): give --device cpu"
            ) from error
        raise ModelUnreadable(f"{path}: corrupt, or no ONNX model: export it again, or fetch it again") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise DeviceUnavailable(f"device {device} does not work with onnxruntime here: give --device cpu")
    return session


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
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    session = _session(path, settings, "cpu")
    name = session.get_inputs()[0].name

    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            return np.asarray(session.run(None, {name: images})[0])
        except Exception as error:  # its exceptions have no public root
            reason = " ".join(str(error).split())[:100]
            raise ModelUnreadable(f"{path}: does not run on uint8 {images.shape} ({reason}): export it so") from error

    return run
