"""Helpers for networks in training: build, initialise, load, average, choose the precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from sar2optical.errors import CheckpointMismatch, DeviceUnavailable
from sar2optical.models.patchgan import Discriminator, ScaledDiscriminators, with_spectral_norm
from sar2optical.signature import ModelSignature
from sar2optical.training.config import Precision, TrainConfig

__all__ = [
    "blend_in",
    "build_discriminator",
    "choose_precision",
    "initialized",
    "load_strictly",
    "statistics_kept",
]

_RGB = 3
_N = TypeVar("_N", bound=nn.Module)


def choose_precision(asked: Precision, device: str) -> Precision:
    """Choose the precision: "auto" takes bf16 if the hardware computes in it, else fp32.

    A CPU without AVX512-BF16 or AMX-BF16 emulates bf16, many times slower than fp32.

    Raises
    ------
    DeviceUnavailable
        If fp16 is asked for on a CPU, where convolutions have no fp16 gradient.
    """
    if asked == "fp16" and device == "cpu":
        raise DeviceUnavailable("--precision fp16 is not available for training on a CPU: give bf16 or fp32")
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities() if device == "cpu" else {}
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def initialized(net: _N) -> _N:
    """Initialise weights as pix2pix: N(0, 0.02), batch norm N(1, 0.02), biases 0 (Isola et al. 2017, 6.2)."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return net.train()


def build_discriminator(config: TrainConfig, signature: ModelSignature) -> nn.Module:
    """Build the discriminator that the settings describe, with initial weights."""
    channels = _RGB + (signature.channels if config.conditional else 0)
    nets = [
        Discriminator(
            channels,
            config.discriminator_width,
            kind=config.discriminator,
            n_layers=config.discriminator_layers,
        )
        for _ in range(config.discriminator_scales)
    ]
    net = initialized(nets[0] if len(nets) == 1 else ScaledDiscriminators(nets))
    return with_spectral_norm(net) if config.spectral_norm else net


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm unchanged during forward passes in training mode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def load_strictly(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict without missing keys, unknown keys or other shapes.

    Raises
    ------
    CheckpointMismatch
        If it does not fit; the message names the first key that differs.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        own = net.state_dict()
        odd = next((k for k in own if k not in state or state[k].shape != own[k].shape), next(iter(state), "nothing"))
        found, wanted = (tuple(s[odd].shape) if odd in s else "absent" for s in (state, own))
        raise CheckpointMismatch(
            f"{path}: does not fit this network ({odd} is {found}, expected {wanted}): give the options of that "
            "file's network, or another file"
        ) from error


@torch.no_grad()
def blend_in(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Update the moving average with the current weights and batch-norm statistics."""
    for kept, new in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
