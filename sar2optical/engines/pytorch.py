"""Checkpoints in PyTorch: no export needed, slower on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical.engines.base import (
    EngineBase,
    EngineOptions,
    default_threads,
    refuse_unless,
)
from sar2optical.errors import InferenceFailed
from sar2optical.models.checkpoint import load_generator
from sar2optical.models.unet import UNetGenerator
from sar2optical.signature import ModelSignature


class PyTorchEngine(EngineBase):
    """A generator in eval mode, channels last."""

    def __init__(
        self,
        generator: UNetGenerator,
        signature: ModelSignature,
        *,
        device: str,
        precision: str,
        batch: int,
        streams: int,
    ) -> None:
        where = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
        super().__init__(
            signature=signature,
            backend="pytorch",
            device=f"{device} ({where})",
            precision=precision,
            batch=batch,
            streams=streams,
        )
        self._device = torch.device(device)
        generator.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._generator: UNetGenerator | None = generator
        self._threads_before = torch.get_num_threads()
        if device == "cpu":
            # Each run on its caller's thread: two threads on one window, in bf16, were seen to round differently
            # from batch to batch. PyTorch has one setting for the process, given back by `close`.
            torch.set_num_threads(1)

    @torch.inference_mode()
    def _infer(self, sar: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._generator is not None, "the engine is closed"
        try:
            batch = torch.from_numpy(sar).to(self._device, memory_format=torch.channels_last)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                out = self._generator(batch)
            return np.asarray(out.float().contiguous().cpu().numpy())
        except RuntimeError as error:
            raise InferenceFailed(f"pytorch stopped: {' '.join(str(error).split())[:120]}") from error

    def close(self) -> None:
        """Release the generator, and give PyTorch its threads back."""
        if self._generator is not None:
            torch.set_num_threads(self._threads_before)
        self._generator = None


def open(path: Path, options: EngineOptions) -> PyTorchEngine:
    """Load a checkpoint; see `open_engine`."""
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    device = options.device if options.device != "auto" else here[-1]
    refuse_unless("device", device, "pytorch", here)
    precision = options.precision if options.precision != "auto" else "fp32"
    refuse_unless("precision", precision, "pytorch", ["fp32", "bf16"])
    generator, signature = load_generator(path)
    return PyTorchEngine(
        generator,
        signature,
        device=device,
        precision=precision,
        batch=options.batch,
        streams=(options.threads or default_threads()) if device == "cpu" else 1,
    )
