"""Discriminators: PatchGAN of any depth, and PixelGAN.

Source: Isola et al. 2017, section 6.1.2. Outputs are logits, one per patch, without a sigmoid.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["Discriminator", "DiscriminatorKind", "ScaledDiscriminators", "with_spectral_norm"]

DiscriminatorKind = Literal["patch", "pixel"]

_MAX_WIDTH = 8  # in units of base_channels


class _Block(nn.Module):
    """Conv -> BatchNorm (optional) -> LeakyReLU(0.2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, normalize: bool) -> None:
        super().__init__()
        padding = kernel // 4  # 1 for 4 x 4, 0 for 1 x 1
        layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=not normalize)]
        if normalize:
            layers.append(nn.BatchNorm2d(out_channels))
        self.conv_block = nn.Sequential(*layers, nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x)
        return out


class _Stack(nn.Module):
    """Hold the layers under the name `model`, as in the published checkpoints."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


def _patch_layers(in_channels: int, base: int, n_layers: int) -> list[nn.Module]:
    layers: list[nn.Module] = [_Block(in_channels, base, 4, 2, normalize=False)]
    channels = base
    for k in range(1, n_layers + 1):
        width = base * min(2**k, _MAX_WIDTH)
        stride = 2 if k < n_layers else 1
        layers.append(_Block(channels, width, 4, stride, normalize=True))
        channels = width
    return [*layers, nn.Conv2d(channels, 1, 4, 1, 1)]


def _pixel_layers(in_channels: int, base: int) -> list[nn.Module]:
    return [
        _Block(in_channels, base, 1, 1, normalize=False),
        _Block(base, 2 * base, 1, 1, normalize=True),
        nn.Conv2d(2 * base, 1, 1),
    ]


class Discriminator(nn.Module):
    """Classify an image as real or generated, patch by patch.

    Parameters
    ----------
    in_channels
        Channels of cat([sar, optical]) if conditional, else of the optical image.
    base_channels
        Channels of the first layer.
    kind
        "patch" classifies overlapping patches, "pixel" single pixels.
    n_layers
        Depth of "patch", at least 1: 1 sees 16 x 16 pixels, 3 sees 70 x 70. Ignored for "pixel".
    """

    def __init__(
        self,
        in_channels: int = 6,
        base_channels: int = 64,
        *,
        kind: DiscriminatorKind = "patch",
        n_layers: int = 3,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers is {n_layers}: give 1 or more")
        if kind == "patch":
            layers = _patch_layers(in_channels, base_channels, n_layers)
        elif kind == "pixel":
            layers = _pixel_layers(in_channels, base_channels)
        else:
            raise ValueError(f"discriminator kind is {kind!r}: give patch or pixel")
        self.model = _Stack(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, 1, h, w)."""
        out: Tensor = self.model(x)
        return out


class ScaledDiscriminators(nn.Module):
    """Discriminators, each for images of half the size of the one before (Wang et al. 2018, section 3.2).

    Parameters
    ----------
    discriminators
        Discriminators, the first for images at full size.
    """

    def __init__(self, discriminators: list[Discriminator]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(discriminators)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> logits of each scale; the k-th sees x averaged over 2 ** k pixels."""
        return tuple(net(avg_pool2d(x, 2**k) if k else x) for k, net in enumerate(self.scales))


def with_spectral_norm(net: nn.Module) -> nn.Module:
    """Replace batch norm by spectral norm: divide each convolution's weights by their largest singular value.

    This limits how fast the output changes with the input, so the discriminator overfits a small data set more slowly
    (Miyato et al. 2018).
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                spectral_norm(child)
    return net
