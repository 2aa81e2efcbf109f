"""Scale SAR values to model input, and model output to bytes, as `sar2optical.scene.encoder` does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sar2optical.scene.encoder import POWER_OF, Encoding
from sar2optical.signature import Unit

__all__ = ["decode", "encode"]


def encode(encodings: Sequence[Encoding], values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Stretch bands to [-1, 1] and clip them; invalid pixels become 0; see `Encoding.encode`.

    Parameters
    ----------
    encodings
        One per band.
    values
        uint16 or float32 (bands, H, W) in the scene's unit.
    valid
        bool (H, W); None: all pixels are valid.

    Returns
    -------
    Tensor
        float32 (bands, H, W), a new one.
    """
    encoded = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    for encoding, band, out in zip(encodings, values, encoded, strict=True):
        out.copy_(band)
        _convert(out, encoding.source, encoding.target)
        out.sub_(_float32(encoding.low)).mul_(_float32(2 / (encoding.high - encoding.low))).sub_(1).clamp_(-1, 1)
    if valid is not None:
        encoded.masked_fill_(~valid, 0)
    return encoded


def _convert(values: torch.Tensor, source: Unit, target: Unit) -> None:
    """Convert between units in place; see `sar2optical.scene.encoder.convert`, which has refused what cannot be."""
    if source == target or {source, target} == {"dn", "amplitude"}:
        return
    if target == "db":
        values.clamp_(min=0).log10_().mul_(10 * POWER_OF[source])
    elif source == "db":
        values.div_(10 * POWER_OF[target]).clamp_(max=38)
        torch.pow(10, values, out=values)
    elif target == "power":
        values.clamp_(min=0).square_()
    else:
        values.clamp_(min=0).sqrt_()


def decode(image: torch.Tensor) -> torch.Tensor:
    """Convert model output to bytes; see `sar2optical.scene.decoding.decode`.

    Parameters
    ----------
    image
        float32, any shape, in [-1, 1].

    Returns
    -------
    Tensor
        uint8 of the same shape.
    """
    return image.mul(127.5).add_(128).clamp_(0, 255).to(torch.uint8)


def _float32(value: float) -> float:
    """Round to float32, as numpy's scalars are there."""
    return float(torch.tensor(value, dtype=torch.float32))
