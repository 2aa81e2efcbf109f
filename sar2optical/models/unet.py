"""The generator "pix2pix": pix2pix's U-Net in the variant with a 3 x 3 head.

Structure and parameter names are those of the published checkpoints, so these load strictly. Eight halvings take
256 x 256 to 1 x 1: sides must be multiples of 256.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
section 6.1.1, with batch normalisation also at the bottleneck and in the last decoder block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = [
    "DEPTH",
    "MULTIPLE",
    "Architecture",
    "Decoder",
    "DownBlock",
    "Encoder",
    "GeneratorArguments",
    "UNetGenerator",
    "UpBlock",
    "Upsampling",
    "refuse_sides",
]

Upsampling = Literal["nearest", "bilinear", "bicubic"]
Architecture = Literal["pix2pix", "detail"]

DEPTH = 8
"""Number of halvings."""
MULTIPLE = 2**DEPTH
"""Height and width must be multiples of this."""

# Channels of each level in units of base_channels (Isola et al. 2017, C64-C128-C256-C512-C512-...).
_ENCODER_WIDTHS = (1, 2, 4, 8, 8, 8, 8, 8)
_DECODER_WIDTHS = (8, 8, 8, 8, 4, 2, 1, 1)
_DROPOUT_BLOCKS = 3


@dataclass(frozen=True, kw_only=True)
class GeneratorArguments:
    """Arguments that rebuild a generator; saved with its weights."""

    in_channels: int = 3
    """SAR channels."""
    out_channels: int = 3
    """Optical channels: red, green, blue."""
    base_channels: int = 64
    """Channels of the first level; those of other levels are multiples of it."""
    upsampling: Upsampling | None = None
    """Mode of upsampling before a 3 x 3 convolution; None uses transposed convolution. Only for "pix2pix"."""
    architecture: Architecture = "pix2pix"
    """"pix2pix" is `UNetGenerator`, "detail" is `sar2optical.models.detail.DetailGenerator`."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "base_channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a positive integer")
        if self.upsampling is not None and self.upsampling not in get_args(Upsampling):
            raise ValueError(f"upsampling is {self.upsampling!r}: give {', '.join(get_args(Upsampling))} or None")
        if self.architecture not in get_args(Architecture):
            raise ValueError(
                f"architecture is {self.architecture!r}: give one of {', '.join(get_args(Architecture))}"
            )
        if self.architecture == "detail" and self.upsampling is not None:
            raise ValueError(f"upsampling {self.upsampling!r} has no effect on architecture 'detail': remove it")

    def to_dict(self) -> dict[str, Any]:
        """Convert the arguments to plain values."""
        return asdict(self)


class DownBlock(nn.Module):
    """Halve height and width: Conv 4 x 4, stride 2 -> BatchNorm (optional) -> LeakyReLU(0.2)."""

    def __init__(self, in_channels: int, out_channels: int, *, normalize: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=not normalize)]
        if normalize:
            layers.append(nn.BatchNorm2d(out_channels))
        self.conv_block = nn.Sequential(*layers, nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / 2, W / 2)."""
        out: Tensor = self.conv_block(x)
        return out


class UpBlock(nn.Module):
    """Double height and width: up-convolution -> BatchNorm -> Dropout(0.5) (optional) -> ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, upsampling: Upsampling | None, dropout: bool) -> None:
        super().__init__()
        up: nn.Module
        if upsampling is None:
            up = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=False)
        else:
            up = nn.Sequential(
                nn.Upsample(scale_factor=2, mode=upsampling),
                nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            )
        layers: list[nn.Module] = [up, nn.BatchNorm2d(out_channels)]
        if dropout:
            layers.append(nn.Dropout(0.5))
        self.conv_block = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, 2 H, 2 W)."""
        out: Tensor = self.conv_block(x)
        return out


class Encoder(nn.Module):
    """Eight down blocks; returns the output of every level, for the skip connections."""

    def __init__(self, in_channels: int, base_channels: int) -> None:
        super().__init__()
        channels = in_channels
        for level, width in enumerate(_ENCODER_WIDTHS, 1):
            out_channels = width * base_channels
            self.add_module(f"enc{level}", DownBlock(channels, out_channels, normalize=level > 1))
            channels = out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> eight tensors, the k-th (N, C_k, H / 2^k, W / 2^k)."""
        levels = []
        for block in self.children():
            x = block(x)
            levels.append(x)
        return levels


class Decoder(nn.Module):
    """Eight up blocks; from the second on, the input is the skip connection concatenated with the previous output."""

    def __init__(self, base_channels: int, upsampling: Upsampling | None) -> None:
        super().__init__()
        channels = _ENCODER_WIDTHS[-1] * base_channels
        skips = (0, *reversed(_ENCODER_WIDTHS[:-1]))
        for level, (width, skip) in enumerate(zip(_DECODER_WIDTHS, skips, strict=True), 1):
            block = UpBlock(
                channels + skip * base_channels,
                width * base_channels,
                upsampling=upsampling,
                dropout=level <= _DROPOUT_BLOCKS,
            )
            self.add_module(f"dec{level}", block)
            channels = width * base_channels

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Encoder levels -> (N, base, H, W)."""
        blocks = iter(self.children())
        x: Tensor = next(blocks)(levels[-1])
        for block, skip in zip(blocks, reversed(levels[:-1]), strict=True):
            x = block(torch.cat((skip, x), dim=1))  # skip first, the order of the published weights
        return x


class UNetGenerator(nn.Module):
    """Generator "pix2pix": SAR in [-1, 1] to optical in [-1, 1].

    Parameters
    ----------
    arguments
        Channels, width and mode of upsampling.
    """

    def __init__(self, arguments: GeneratorArguments | None = None) -> None:
        super().__init__()
        self.arguments = arguments or GeneratorArguments()
        base = self.arguments.base_channels
        self.encoder = Encoder(self.arguments.in_channels, base)
        self.decoder = Decoder(base, self.arguments.upsampling)
        self.head = nn.Sequential(nn.Conv2d(base, self.arguments.out_channels, 3, padding=1), nn.Tanh())

    def forward(self, sar: Tensor) -> Tensor:
        """Translate SAR images to optical images.

        Parameters
        ----------
        sar
            float (N, in_channels, H, W) in [-1, 1]; H and W multiples of 256.

        Returns
        -------
        Tensor
            float (N, out_channels, H, W) in [-1, 1].

        Raises
        ------
        ValueError
            If H or W is not a multiple of 256.
        """
        refuse_sides(sar, MULTIPLE)
        out: Tensor = self.head(self.decoder(self.encoder(sar)))
        return out


def refuse_sides(sar: Tensor, multiple: int) -> None:
    """Refuse an image whose height or width is not a multiple of `multiple`.

    Raises
    ------
    ValueError
        If it is refused.
    """
    height, width = sar.shape[-2:]
    if not torch.compiler.is_compiling() and (height % multiple or width % multiple):
        raise ValueError(f"input is {height} x {width}: pad it to multiples of {multiple}")
