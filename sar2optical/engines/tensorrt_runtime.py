"""Access to the TensorRT library: its log, the GPU, creating objects and loading plans."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorrt
import torch

from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, ModelUnreadable

__all__ = ["LOGGER", "Gpu", "Logger", "create", "current_gpu", "deserialize", "is_out_of_memory", "one_line"]

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation")

_log = logging.getLogger(__name__)


class Logger(tensorrt.ILogger):  # type: ignore[misc]  # TensorRT has no type hints
    """Forwards TensorRT's log to Python's, and keeps the last errors.

    TensorRT's calls return None on failure and report the reason only in the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[str] = deque(maxlen=4)

    def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
        """Log a line, one level below TensorRT's.

        TensorRT logs errors that it recovers from; the others are raised as exceptions with these lines.
        """
        line, levels = " ".join(msg.split()), tensorrt.ILogger.Severity
        if severity in (levels.INTERNAL_ERROR, levels.ERROR):
            self._errors.append(line)
            _log.info("%s", line)
        elif severity in (levels.WARNING, levels.INFO):
            _log.debug("%s", line)

    def forget(self) -> None:
        """Clear the errors of earlier calls."""
        self._errors.clear()

    @property
    def reason(self) -> str:
        """Last errors, in one line."""
        return "; ".join(self._errors)[-300:] or "no reason was logged"


LOGGER = Logger()
"""Logger of the process: TensorRT keeps the first one that it is given."""


@dataclass(frozen=True)
class Gpu:
    """The current CUDA device of PyTorch."""

    index: int
    """Index of the device."""
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
            f"device cuda is not available: PyTorch {torch.__version__} finds no GPU: check nvidia-smi and that "
            "torch is a CUDA build, or run the .onnx file with --device cpu"
        )
    index = torch.cuda.current_device()
    return Gpu(index, torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))


def create(factory: Callable[..., Any], *arguments: Any) -> Any:
    """Create a TensorRT object.

    Parameters
    ----------
    factory, arguments
        Callable of TensorRT, and its arguments.

    Raises
    ------
    DeviceUnavailable
        If TensorRT returns none, for example because its libraries do not work with the driver.
    """
    try:
        made = factory(*arguments)
    except (TypeError, RuntimeError) as error:  # raised by the bindings if a factory returns nullptr
        raise _does_not_work(str(error)) from error
    if made is None:
        raise _does_not_work(LOGGER.reason)
    return made


def deserialize(plan: bytes, *, source: str, remedy: str) -> tuple[Any, Any]:
    """Load a plan whose header and record were checked.

    Parameters
    ----------
    plan
        Contents of the file.
    source, remedy
        File name and remedy, for error messages.

    Returns
    -------
    engine, runtime
        In the order in which they must be released, also when an error drops both.

    Raises
    ------
    ModelUnreadable
        If TensorRT does not load the plan.
    DeviceOutOfMemory
        If the weights do not fit the GPU's memory.
    """
    LOGGER.forget()
    runtime = create(tensorrt.Runtime, LOGGER)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = LOGGER.reason
        if is_out_of_memory(reason):
            raise DeviceOutOfMemory(f"{source}: the model does not fit the GPU's memory ({reason}): free GPU memory")
        raise ModelUnreadable(f"{source}: TensorRT {tensorrt.__version__} cannot load the plan ({reason}): {remedy}")
    return engine, runtime


def one_line(error: Exception | str) -> str:
    """Shorten an error to one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def is_out_of_memory(reason: str) -> bool:
    """Return True if an error message of TensorRT or CUDA means that memory is exhausted."""
    return any(sign in reason.lower() for sign in _OUT_OF_MEMORY)


def _does_not_work(reason: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"TensorRT {tensorrt.__version__} does not work on this machine ({one_line(reason)}): check the driver with "
        "nvidia-smi, and that tensorrt and its libraries have the same version"
    )
