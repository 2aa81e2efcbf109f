"""Build generators by the name of their architecture."""

from __future__ import annotations

from typing import TypeAlias

from sar2optical.models.detail import DetailGenerator
from sar2optical.models.unet import GeneratorArguments, UNetGenerator

__all__ = ["READS_SAR", "Generator", "build_generator"]

Generator: TypeAlias = UNetGenerator | DetailGenerator

READS_SAR = {
    "pix2pix": ("encoder.enc1.conv_block.0",),
    "detail": ("encoder.enc1.conv_block.0", "head.conv_block.0"),
}
"""Names of the convolutions whose first input channels are the SAR image, by architecture."""


def build_generator(arguments: GeneratorArguments) -> Generator:
    """Build a generator with random weights.

    Parameters
    ----------
    arguments
        Architecture, channels and width.
    """
    return DetailGenerator(arguments) if arguments.architecture == "detail" else UNetGenerator(arguments)
