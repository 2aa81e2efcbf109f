"""Copies between the host and a device, counted."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

__all__ = ["Bus", "Fetched"]


class Bus:
    """Copies to and from one device, on its current stream, through page-locked memory that PyTorch reuses.

    Parameters
    ----------
    device
        The device; with a CPU, copies are plain copies.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.up = 0
        """Bytes to the device so far."""
        self.down = 0
        """Bytes from the device so far."""
        self._pinned = device.type == "cuda"

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Make a tensor on the host that copies without waiting."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._pinned)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor from `host` to the device."""
        self.up += tensor.nbytes
        return tensor.to(self.device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor) -> Fetched:
        """Begin to copy a tensor to the host."""
        self.down += tensor.nbytes
        host = self.host(tuple(tensor.shape), tensor.dtype)
        host.copy_(tensor, non_blocking=True)
        return Fetched(host, self.mark())

    def mark(self) -> torch.cuda.Event | None:
        """Mark this point of the stream; None on a CPU, which has none."""
        if not self._pinned:
            return None
        # Blocking: a core that does not spin can read and write rasters.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class Fetched:
    """A tensor on its way to the host."""

    def __init__(self, host: torch.Tensor, done: torch.cuda.Event | None) -> None:
        self._host = host
        self.done = done
        """Event after the copy."""

    def array(self) -> NDArray[Any]:
        """Wait for the copy, and return it."""
        if self.done is not None:
            self.done.synchronize()
        array: NDArray[Any] = self._host.numpy()
        return array
