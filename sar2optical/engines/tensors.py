"""Engines that take and give PyTorch tensors on their device: pixels need not cross the bus between stages."""

from __future__ import annotations

from abc import abstractmethod

import torch

from sar2optical.engines.base import Engine
from sar2optical.errors import DeviceOutOfMemory

__all__ = ["TensorEngine"]


class TensorEngine(Engine):
    """An engine that also runs tensors. Subclasses set `tensor_device` and implement `_infer_tensors`."""

    tensor_device: torch.device
    """Device of the tensors."""

    def run_tensors(self, sar: torch.Tensor) -> torch.Tensor:
        """Translate a batch on the current stream; does not wait for the device.

        Not thread-safe: one thread runs tensors at a time.

        Parameters
        ----------
        sar
            float32 (N, C, H, W) on `tensor_device`, in [-1, 1]; as in `Engine.run`.

        Returns
        -------
        Tensor
            float32 (N, 3, H, W) on the same device, valid until the next run. Not checked for NaN.

        Raises
        ------
        InferenceFailed
            If the library stops.
        """
        count = len(sar)
        while True:
            size = self._at_once
            try:
                if size >= count:
                    return self._infer_tensors(sar, size)[:count]
                parts = []
                for k in range(0, count, size):
                    part = sar[k : k + size]
                    parts.append(self._infer_tensors(part, size)[: len(part)].clone())
            except DeviceOutOfMemory:
                if size == 1:
                    raise
                self._halve(size)
                continue
            return torch.cat(parts)

    @abstractmethod
    def _infer_tensors(self, sar: torch.Tensor, size: int) -> torch.Tensor:
        """Translate at most `size` windows, padded to it: another size could pick other kernels, see `Engine.run`."""
