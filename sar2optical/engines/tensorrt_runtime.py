"""Access to TensorRT and TensorRT for RTX, whose Python APIs are nearly the same: log, objects, loading of plans."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sar2optical.engines.slots import is_out_of_memory, one_line
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, ModelUnreadable

__all__ = ["Gpu", "Library", "Loaded", "current_gpu"]

_LONGEST = 240  # characters of an error; TensorRT for RTX appends the layers of the whole graph to some
_NOISE = "Thread context has not been set"  # logged as an error by TensorRT for RTX in every build in a thread

_log = logging.getLogger(__name__)


class Loaded:
    """A loaded plan: its engine, and the runtime that must outlive the engine."""

    def __init__(self, engine: Any, runtime: Any) -> None:
        self.engine = engine
        self.runtime = runtime

    def release(self) -> None:
        """Release both, in this order."""
        self.engine = None
        self.runtime = None

    def __del__(self) -> None:
        self.release()


class Library:
    """One of the two libraries, with a logger of its own.

    Their calls return None on failure and report the reason only in the log. A library keeps the first logger that it
    is given.

    Parameters
    ----------
    trt
        Module `tensorrt` or `tensorrt_rtx`.
    title
        Name in messages.
    """

    def __init__(self, trt: Any, title: str) -> None:
        self.trt = trt
        self.title = f"{title} {trt.__version__}"
        self._errors: deque[str] = deque(maxlen=2)
        self.logger = _logger(trt, self._errors)

    @property
    def version(self) -> str:
        """Version of the library."""
        return str(self.trt.__version__)

    @property
    def reason(self) -> str:
        """Last errors in the log, in one line."""
        return "; ".join(line[:_LONGEST] for line in self._errors) or "no reason was logged"

    def forget(self) -> None:
        """Clear the errors of earlier calls."""
        self._errors.clear()

    def create(self, factory: Callable[..., Any], *arguments: Any) -> Any:
        """Create an object.

        Raises
        ------
        DeviceUnavailable
            If the library does not work on this machine.
        """
        try:
            made = factory(*arguments)
        except (TypeError, RuntimeError) as error:  # raised by the bindings if a factory returns nullptr
            raise self._does_not_work(str(error)) from error
        if made is None:
            raise self._does_not_work(self.reason)
        return made

    def deserialize(self, plan: bytes, *, source: str, remedy: str) -> Loaded:
        """Load a plan whose header and record were checked.

        Parameters
        ----------
        plan
            Contents of the file.
        source, remedy
            File name and remedy, for error messages.

        Returns
        -------
        Loaded

        Raises
        ------
        ModelUnreadable
            If the library does not load the plan.
        DeviceOutOfMemory
            If the weights do not fit the GPU's memory.
        """
        self.forget()
        runtime = self.create(self.trt.Runtime, self.logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = self.reason
            if is_out_of_memory(reason):
                raise DeviceOutOfMemory(
                    f"{source}: the model does not fit the GPU's memory ({reason}): free GPU memory"
                )
            raise ModelUnreadable(f"{source}: {self.title} cannot load the plan ({reason}): {remedy}")
        return Loaded(engine, runtime)

    def _does_not_work(self, reason: str) -> DeviceUnavailable:
        return DeviceUnavailable(
            f"{self.title} does not work on this machine ({one_line(reason)}): check the driver with nvidia-smi, and "
            "install its bindings and its libraries in the same version"
        )


def _logger(trt: Any, errors: deque[str]) -> Any:
    """Make a logger that forwards to Python's log, one level lower, and keeps the last errors.

    The libraries log errors that they recover from; the others are raised as exceptions with these lines.
    """
    levels = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]  # the libraries have no type hints
        def log(self, severity: Any, msg: str) -> None:
            line = " ".join(msg.split())
            if severity in (levels.INTERNAL_ERROR, levels.ERROR) and _NOISE not in line:
                errors.append(line)
                _log.info("%s", line)
            elif severity in (levels.WARNING, levels.INFO):
                _log.debug("%s", line)

    return Logger()


@dataclass(frozen=True)
class Gpu:
    """The current CUDA device of PyTorch."""

    place: torch.device
    """Device."""
    name: str
    """Name of the GPU model."""
    compute_capability: tuple[int, int]
    """Compute capability: major, minor."""


def current_gpu() -> Gpu:
    """Return the current GPU.

    Raises
    ------
    DeviceUnavailable
        If PyTorch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            f"device cuda is not available, because PyTorch {torch.__version__} finds no GPU: check nvidia-smi, and "
            "that torch is a CUDA build, or run the .onnx file with --device cpu"
        )
    index = torch.cuda.current_device()
    return Gpu(
        torch.device("cuda", index), torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    )
