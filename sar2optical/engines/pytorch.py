"""The PyTorch backend: runs checkpoints without an export, and our ONNX files read back; on a GPU as CUDA graphs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock

import torch
from torch import nn

from sar2optical.engines.base import EngineOptions, default_threads, refuse_unless
from sar2optical.engines.self_test import SelfTest
from sar2optical.engines.slots import Network, SlotEngine, one_line
from sar2optical.errors import DeviceOutOfMemory
from sar2optical.models.checkpoint import load_generator
from sar2optical.models.generator import Generator
from sar2optical.models.wide import larger_windows, zero_unused_taps
from sar2optical.signature import ModelSignature

__all__ = ["DTYPES", "STREAMS", "PyTorchEngine", "open"]

STREAMS = 4
"""Batches in flight on a GPU: while one is computed, others are copied, encoded and blended. An H200 ran 6,200
windows/s of a narrow generator in bf16 with two streams, 10,900 with three, 13,600 with four."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Types of the arithmetic, by the name of the precision."""

_TENSOR_CORES = (7, 0)  # first compute capability that is faster in fp16 than in fp32 on every card


class PyTorchEngine(SlotEngine):
    """A generator in eval mode, in channels-last layout, with one slot for each batch in flight.

    In fp16 and bf16, convolutions run in that precision. Batch norms keep their statistics in fp32, because 8
    significant bits are too few for them. Input and output are fp32.

    Parameters
    ----------
    generator
        Generator; moved to the device and converted in place.
    signature
        What the generator expects.
    device
        CPU, or one CUDA device.
    precision
        Key of `DTYPES`.
    batch
        Windows per run.
    streams
        Batches in flight at once.
    self_test
        Input and output stored in an ONNX file; None for a checkpoint.
    """

    def __init__(
        self,
        generator: Generator,
        signature: ModelSignature,
        *,
        device: torch.device,
        precision: str,
        batch: int,
        streams: int,
        self_test: SelfTest | None = None,
    ) -> None:
        cuda = device.type == "cuda"
        where = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
        dtype = DTYPES[precision]
        generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in generator.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.to(dtype)
        self._settings = _hold_settings(device.type)
        try:
            super().__init__(
                [_Module(generator, dtype) for _ in range(streams)],
                device,
                signature=signature,
                backend="pytorch",
                device=f"{device.type} ({where})",
                precision=precision,
                batch=batch,
                streams=streams,
                self_test=self_test,
            )
        except BaseException:
            self._settings.close()
            raise

    def close(self) -> None:
        """Wait for the batches in flight, release the generator and restore PyTorch's settings."""
        super().close()
        self._settings.close()


class _Module(Network):
    """A generator that all slots share."""

    name = "PyTorch"

    def __init__(self, generator: Generator, dtype: torch.dtype) -> None:
        self.generator: Generator | None = generator
        self._dtype = dtype

    def prepare(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Do nothing: PyTorch takes any buffers."""

    def run(self, sar: torch.Tensor, optical: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Translate on the current stream."""
        assert self.generator is not None, "the engine is closed"
        optical.copy_(self.generator(sar.to(self._dtype, memory_format=torch.channels_last)))

    def close(self) -> None:
        """Release the generator."""
        self.generator = None


def open(path: Path, options: EngineOptions) -> PyTorchEngine:
    """Load a checkpoint, or one of our fp32 ONNX files.

    A checkpoint also takes the larger windows that an export of it takes by default. Precision auto is fp32 for a
    checkpoint and on a CPU; for an ONNX file on a GPU it is bf16, or the fastest that the GPU has.

    Parameters
    ----------
    path
        Checkpoint (`.pth`), see `load_generator`, or `.onnx`, see `read_generator`.
    options
        Device, precision, threads and batch size.

    Raises
    ------
    ModelError
        If the file cannot be loaded.
    DeviceUnavailable
        If the device or the precision is not available.
    DeviceOutOfMemory
        If the generator does not fit the GPU's memory.
    """
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    kind = options.device if options.device != "auto" else available[-1]
    available += ["mps"] if torch.backends.mps.is_available() else []
    refuse_unless("device", kind, "pytorch", available)
    self_test = None
    if from_onnx := path.suffix.lower() == ".onnx":
        from sar2optical.engines.onnx_module import read_generator

        generator, signature, self_test = read_generator(path)
    else:
        generator, signature = load_generator(path)
        zero_unused_taps(generator, signature.window)
        signature = replace(signature, windows=signature.windows or larger_windows(signature.window))
    precisions = _precisions(kind)
    automatic = precisions[-1] if from_onnx and kind == "cuda" else "fp32"
    precision = automatic if options.precision == "auto" else options.precision
    refuse_unless("precision", precision, f"pytorch on {kind}", precisions)
    cuda = kind == "cuda"
    try:
        return PyTorchEngine(
            generator,
            signature,
            device=torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device(kind),
            precision=precision,
            batch=options.batch_on(kind),
            streams=STREAMS if cuda else 1 if kind == "mps" else options.threads or default_threads(),
            self_test=self_test,
        )
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            f"{path}: the model does not fit the GPU's memory ({one_line(error)}): free GPU memory"
        ) from error


def _precisions(kind: str) -> list[str]:
    """List the precisions of a device; the last one is the fastest on a GPU."""
    if kind == "mps":
        return ["fp32", "fp16"]
    if kind == "cpu":
        return ["fp32", "bf16"]
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ["fp32", "fp16", "bf16"]
    return ["fp32", "fp16"] if torch.cuda.get_device_capability() >= _TENSOR_CORES else ["fp16", "fp32"]


_lock = Lock()
_held: dict[str, tuple[int, ExitStack]] = {}
"""Open engines, and what restores PyTorch's settings, by kind of device."""


def _hold_settings(kind: str) -> ExitStack:
    """Change process-wide settings of PyTorch until the last engine on this kind of device is closed."""
    with _lock:
        users, restoring = _held.get(kind) or (0, _settings(kind))
        _held[kind] = (users + 1, restoring)
    held = ExitStack()
    held.callback(_release_settings, kind)
    return held


def _release_settings(kind: str) -> None:
    with _lock:
        users, restoring = _held.pop(kind)
        if users > 1:
            _held[kind] = (users - 1, restoring)
        else:
            restoring.close()


def _settings(kind: str) -> ExitStack:
    """Change process-wide settings of PyTorch until the stack is closed."""
    stack = ExitStack()
    if kind == "cpu":
        # One thread per run: with two threads on one window, bf16 rounded differently from batch to batch.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
    else:
        # No TF32 in fp32; deterministic, so that a resumed run gives the same pixels.
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        stack.enter_context(flags)
    return stack
