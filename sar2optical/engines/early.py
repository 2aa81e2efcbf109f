"""Load what a GPU needs while a scene is opened: PyTorch takes seconds to import, and CUDA to start."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from threading import Thread

from sar2optical.engines.base import Description, EngineOptions
from sar2optical.engines.opening import gpu_backends
from sar2optical.signature import ModelSignature

__all__ = ["load_early"]

_log = logging.getLogger(__name__)


def load_early(path: Path, backend: str, options: EngineOptions) -> ModelSignature | None:
    """Begin to load PyTorch and to start CUDA in a thread, if PyTorch will run a model on the GPU.

    Parameters
    ----------
    path
        Model.
    backend, options
        See `sar2optical.engines.opening.open_engine`.

    Returns
    -------
    ModelSignature or None
        Signature of the model, for what can be done meanwhile; None if nothing is loaded early.
    """
    if (
        options.signature is not None
        or "torch" in sys.modules
        or backend not in ("auto", "pytorch")
        or "pytorch" not in gpu_backends(path, options)
    ):
        return None
    Thread(target=_start_cuda, name="cuda", daemon=True).start()
    try:
        import onnx

        from sar2optical.engines.onnx_graph import metadata_of

        return Description.read(metadata_of(onnx.load(path, load_external_data=False)), path).signature
    except Exception as error:  # protobuf's errors have no root of their own; opening the engine names the cause
        _log.debug("%s: is not read early (%s)", path, error)
        return None


def _start_cuda() -> None:
    try:
        import torch

        pixel = torch.zeros((1, 1, 1, 1), device="cuda")
        torch.nn.functional.conv2d(pixel, pixel)  # loads cuDNN
    except Exception as error:  # the engine that is opened next names the cause
        _log.debug("CUDA is not started early (%s)", error)
