"""Convert pairs from different sources to one radiometry, so that one generator can be trained on all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from sar2optical._utils.files import write_output
from sar2optical.data.exposure import refuse_misfit
from sar2optical.data.optical import Indices
from sar2optical.data.pairs import Pair, Reading, encoded, read_pair
from sar2optical.data.sar_bands import parse_band, polarisation_of
from sar2optical.signature import Bound, ModelSignature, Stretch, Unit

__all__ = ["STRETCH", "harmonise", "png"]

STRETCH = Stretch(Bound(1, True), Bound(99, True))
"""Stretch of the SAR: dB between the 1st and the 99th percentile of the chip. A gain moves both percentiles, so
calibrated and uncalibrated chips agree, and so do chips that were already stretched in dB between other bounds."""


def harmonise(
    pairs: Sequence[Pair],
    out: Path,
    *,
    unit: Unit | None = None,
    band: str = "VV",
    optical_max: float = 3000.0,
    rgb: Indices | None = None,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Write pairs as 8-bit PNG files: SAR in dB (see `STRETCH`) and RGB.

    Parameters
    ----------
    pairs
        Pairs to convert; SAR chips must have different names, even in different folders.
    out
        Folder to write `s1` and `s2` to, with files named after the SAR chips.
    unit
        Unit of the SAR files' values, or of the values before they were scaled to 8 bits: `amplitude` or `db`. None
        detects it per file and writes bytes unchanged.
    band
        Index from 1 or polarisation, for SAR files with several bands.
    optical_max, rgb
        See `Reading`.
    on_progress
        Called after each pair.

    Raises
    ------
    DataError
        If a pair cannot be read, or 16-bit optical chips become white or black.
    OutputUnwritable
        If a file cannot be written.
    """
    signature = ModelSignature(name="harmonised", bands=(polarisation_of(band),), unit="db", stretch=(STRETCH,))
    reading = Reading(
        signature=signature,
        unit=unit,
        bands=(band,) if parse_band(band)[0].isdecimal() else (),
        optical_max=optical_max,
        rgb=rgb,
        min_side=1,
    )
    refuse_misfit(pairs, reading)
    for half in ("s1", "s2"):
        (out / half).mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        chips = read_pair(pair, reading)
        grey = np.rint((encoded(chips.sar) + 1) * 127.5).astype(np.uint8)
        for half, image in (("s1", grey), ("s2", chips.optical)):
            write_output(out / half / f"{pair.sar.stem}.png", png(image))
        if on_progress:
            on_progress()


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode (C, H, W) grey levels as a PNG file."""
    count, height, width = image.shape
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="PNG", count=count, height=height, width=width, dtype="uint8") as file:
            file.write(image)
        return bytes(memory.read())
