"""The generator "detail": a U-Net that keeps fine detail and draws no chequerboard.

Differences from pix2pix's U-Net (`sar2optical.models.unet`):

- The SAR image itself is concatenated with the features before the head: a skip connection at full resolution.
- The decoder convolves, then upsamples bilinearly by two. A transposed convolution leaves a pattern of its stride
  (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").
- The encoder averages 4 x 4 pixels with stride 2 before it convolves. A strided convolution aliases detail finer than
  its stride, so the output changes when the window moves by a pixel (Zhang 2019, "Making Convolutional Networks
  Shift-Invariant Again").
- Six halvings, so sides must be multiples of 64, and a window of 256 x 256 is 4 x 4 at the bottleneck, where every
  kernel still covers pixels and not only padding.
- No dropout: variation comes from the data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sar2optical.models.unet import GeneratorArguments, refuse_sides

__all__ = [
    "DEPTH",
    "MULTIPLE",
    "Decoder",
    "DetailGenerator",
    "DownBlock",
    "Encoder",
    "FirstBlock",
    "Head",
    "UpBlock",
]

DEPTH = 6
"""Number of halvings."""
MULTIPLE = 2**DEPTH
"""Height and width must be multiples of this."""

_WIDTHS = (1, 2, 4, 8, 8, 8)
"""Channels of each level in units of base_channels, as in Isola et al. 2017, section 6.1.1."""
_FULL = 2 / 3
"""Channels at full resolution, in units of base_channels; few, because memory traffic dominates the cost there."""
_HEAD = 1 / 2
"""Channels between the head's two convolutions, in units of base_channels."""


class FirstBlock(nn.Module):
    """Halve height and width of the SAR image: Conv 6 x 6, stride 2 -> BatchNorm -> LeakyReLU(0.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 6, 2, 2, bias=False), nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / 2, W / 2)."""
        out: Tensor = self.conv_block(x)
        return out


class DownBlock(nn.Module):
    """Halve height and width: mean of 4 x 4, stride 2 -> Conv 3 x 3 -> BatchNorm -> LeakyReLU(0.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4, 2, 1, count_include_pad=False)
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / 2, W / 2)."""
        out: Tensor = self.conv_block(self.pool(x))
        return out


class UpBlock(nn.Module):
    """Double height and width: Conv 3 x 3 -> BatchNorm -> ReLU -> bilinear upsampling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, 2 H, 2 W)."""
        out: Tensor = self.conv_block(x)
        return out


class Encoder(nn.Module):
    """Six down blocks; returns the output of every level, for the skip connections."""

    def __init__(self, in_channels: int, base_channels: int) -> None:
        super().__init__()
        channels = in_channels
        for level, width in enumerate(_WIDTHS, 1):
            kind = FirstBlock if level == 1 else DownBlock
            self.add_module(f"enc{level}", kind(channels, width * base_channels))
            channels = width * base_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> six tensors, the k-th (N, C_k, H / 2^k, W / 2^k)."""
        levels = []
        for block in self.children():
            x = block(x)
            levels.append(x)
        return levels


class Decoder(nn.Module):
    """Six up blocks; from the second on, the input is the skip connection concatenated with the previous output."""

    def __init__(self, base_channels: int, full_channels: int) -> None:
        super().__init__()
        channels = _WIDTHS[-1] * base_channels
        for level, width in enumerate(reversed(_WIDTHS[:-1]), 1):
            self.add_module(f"dec{level}", UpBlock(channels, width * base_channels))
            channels = 2 * width * base_channels
        self.add_module(f"dec{DEPTH}", UpBlock(channels, full_channels))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Encoder levels -> (N, full, H, W)."""
        blocks = iter(self.children())
        x: Tensor = next(blocks)(levels[-1])
        for block, skip in zip(blocks, reversed(levels[:-1]), strict=True):
            x = block(torch.cat((skip, x), dim=1))
        return x


class Head(nn.Module):
    """Convert SAR image and features to RGB: Conv 3 x 3 -> BatchNorm -> ReLU -> Conv 3 x 3 -> tanh."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.to_colour = nn.Sequential(nn.Conv2d(hidden, out_channels, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        out: Tensor = self.to_colour(self.conv_block(x))
        return out


class DetailGenerator(nn.Module):
    """Generator "detail": SAR in [-1, 1] to optical in [-1, 1].

    Parameters
    ----------
    arguments
        Channels and width; `architecture` must be "detail".
    """

    def __init__(self, arguments: GeneratorArguments | None = None) -> None:
        super().__init__()
        self.arguments = arguments or GeneratorArguments(architecture="detail")
        base, bands = self.arguments.base_channels, self.arguments.in_channels
        full, hidden = (max(1, round(base * share)) for share in (_FULL, _HEAD))
        self.encoder = Encoder(bands, base)
        self.decoder = Decoder(base, full)
        self.head = Head(bands + full, hidden, self.arguments.out_channels)

    def forward(self, sar: Tensor) -> Tensor:
        """Translate (N, in_channels, H, W) to (N, out_channels, H, W), as `UNetGenerator.forward`.

        Raises ValueError if H or W is not a multiple of 64.
        """
        refuse_sides(sar, MULTIPLE)
        out: Tensor = self.head(torch.cat((sar, self.decoder(self.encoder(sar))), dim=1))
        return out
