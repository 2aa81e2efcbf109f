"""Devices and processes of a training run."""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric

from sar2optical._utils.cores import usable_cores
from sar2optical.errors import DeviceUnavailable, OptionError
from sar2optical.training.config import RunOptions

__all__ = ["launched"]


def launched(options: RunOptions) -> Fabric:
    """Choose the devices of a run, and start its processes.

    Raises
    ------
    DeviceUnavailable, OptionError
        If a device is not available, or the number differs from torchrun's.
    """
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), usable_cores()))
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("--device cuda is not available on this machine: give --device cpu")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # processes that torchrun started on this machine
    if started and options.devices not in (None, started):
        raise OptionError(
            f"--devices is {options.devices}, but torchrun started {started} processes: remove --devices"
        )
    devices = options.devices or started or 1
    try:
        fabric = Fabric(accelerator=device, devices=devices, strategy="ddp" if devices > 1 else "auto")
    except Exception as error:  # Fabric raises many types
        raise DeviceUnavailable(
            f"{devices} x {device}: device not available ({' '.join(str(error).split())[:120]}): give --device cpu"
        ) from error
    fabric.launch()
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"  # all windows have one size
    return fabric
