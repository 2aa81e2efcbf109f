"""Windows wider than a generator's own: which ones it takes, and the kernel taps that training never reached.

pix2pix's U-Net halves 256 x 256 eight times. Its last convolution sees 2 x 2 pixels and its first transposed
convolution one, so the outer twelve of their 4 x 4 taps only ever meet padding. Their gradient is 0: they keep their
random start. In a wider window they meet pixels, and would add noise. Set to zero they change nothing: each of their
products was a product with padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sar2optical.models.generator import Generator

__all__ = ["WIDEST", "Axis", "larger_windows", "used_taps", "zero_unused_taps"]

WIDEST = 2048
"""Largest window of `larger_windows`: wider ones gain little speed and need much memory."""

_FACTORS = (2, 4, 8)


def larger_windows(window: int) -> tuple[int, ...]:
    """Return the larger windows that a fully convolutional generator is exported for, ascending."""
    return tuple(factor * window for factor in _FACTORS if factor * window <= WIDEST)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A convolution along one axis of its image."""

    kernel: int
    """Number of taps."""
    stride: int
    """Stride."""
    padding: int
    """Padding before the first pixel; of a transposed convolution, pixels cropped there."""
    dilation: int = 1
    """Distance of two taps."""
    given: int
    """Pixels of the input."""
    made: int
    """Pixels of the output."""
    transposed: bool = False
    """Whether it is a transposed convolution."""

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether each tap meets a pixel anywhere, bool (kernel,).

        Tap k of a convolution reads pixel o * stride - padding + k * dilation for output o; that of a transposed one
        writes pixel i * stride - padding + k * dilation for input i.
        """
        count, limit = (self.given, self.made) if self.transposed else (self.made, self.given)
        taps, steps = np.ogrid[: self.kernel, :count]
        met = steps * self.stride - self.padding + taps * self.dilation
        used: NDArray[np.bool_] = ((met >= 0) & (met < limit)).any(axis=1)
        return used


def used_taps(rows: Axis, cols: Axis) -> NDArray[np.bool_]:
    """Return which taps of a kernel meet a pixel, bool (rows.kernel, cols.kernel)."""
    return rows.used[:, None] & cols.used


def zero_unused_taps(generator: Generator, window: int) -> None:
    """Set all taps to zero that meet only padding in windows of this size, in place.

    Parameters
    ----------
    generator
        Generator in eval mode.
    window
        Height and width of the windows that the generator was trained on.
    """
    import torch

    for name, used in _used_by_layer(generator, window).items():
        if not used.all():
            weight = generator.get_submodule(name).weight
            assert isinstance(weight, torch.Tensor)
            with torch.no_grad():
                weight[..., ~torch.from_numpy(used)] = 0


def _used_by_layer(generator: Generator, window: int) -> dict[str, NDArray[np.bool_]]:
    """Map the names of a generator's convolutions to the taps that meet a pixel."""
    import torch
    from torch import nn

    found: dict[str, NDArray[np.bool_]] = {}
    hooks = []
    for name, layer in generator.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):

            def note(layer, given, made, name=name):  # type: ignore[no-untyped-def]
                found[name] = used_taps(*(_axis(layer, k, given[0].shape, made.shape) for k in (-2, -1)))

            hooks.append(layer.register_forward_hook(note))
    # One real window: the first run on PyTorch's meta device imports its compiler, which took 1 to 6 s.
    device = next(generator.parameters()).device
    with torch.inference_mode():
        generator(torch.zeros(1, generator.arguments.in_channels, window, window, device=device))
    for hook in hooks:
        hook.remove()
    return found


def _axis(layer, axis: int, given, made) -> Axis:  # type: ignore[no-untyped-def]
    """Describe one axis of a layer, -2 or -1, with the shapes of its input and output."""
    return Axis(
        kernel=layer.kernel_size[axis],
        stride=layer.stride[axis],
        padding=layer.padding[axis],
        dilation=layer.dilation[axis],
        given=given[axis],
        made=made[axis],
        transposed=layer.transposed,
    )
