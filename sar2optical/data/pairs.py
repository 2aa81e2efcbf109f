"""Pairs of SAR and optical chips: partners found by name, read as arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from sar2optical.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """Two files of one place."""

    sar: Path
    optical: Path


@dataclass(frozen=True)
class Chips:
    """A pair, read."""

    sar: NDArray[np.uint8]
    """(1, H, W), grey levels."""
    optical: NDArray[np.uint8]
    """(3, H, W), red, green, blue."""


def find_pairs(root: Path) -> list[Pair]:
    """Find every `s1` folder under `root` with its `s2` beside it; partners have equal names.

    SEN1-2 names carry `_s1_` and `_s2_` in those places.

    Parameters
    ----------
    root
        Holds `s1/` and `s2/`, or folders that do (one per terrain class).

    Returns
    -------
    list of Pair
        Sorted by path.

    Raises
    ------
    DataError
        Where there is no pair, or a chip has no partner.
    """
    pairs = []
    for folder in sorted(path for path in root.rglob("s1") if path.is_dir()):
        for sar in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            optical = folder.with_name("s2") / sar.name.replace("_s1_", "_s2_")
            if not optical.is_file():
                raise DataError(f"{sar}: its partner {optical} is missing: add it, or remove the chip")
            pairs.append(Pair(sar, optical))
    if not pairs:
        raise DataError(f"{root}: no pairs: needs folders s1 and s2 with chips of equal names")
    return pairs


def read_pair(pair: Pair) -> Chips:
    """Read both chips of a pair.

    Raises
    ------
    DataError
        Where a file is unreadable, not 8 bit, or the sizes differ.
    """
    sar, optical = _read_bytes(pair.sar)[:1], _read_bytes(pair.optical)
    if len(optical) < 3:
        raise DataError(f"{pair.optical}: {len(optical)} bands: an optical chip has red, green and blue")
    if sar.shape[1:] != optical.shape[1:]:
        raise DataError(f"{pair.sar} is {sar.shape[1:]}, {pair.optical} is {optical.shape[1:]}: sizes must agree")
    return Chips(sar, optical[:3])


def _read_bytes(path: Path) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips have no place on Earth
            with rasterio.open(path) as chip:
                values = np.asarray(chip.read())
    except (RasterioError, OSError) as error:
        raise DataError(f"{path}: not readable ({error}): fetch it again") from error
    if values.dtype != np.uint8:
        raise DataError(f"{path}: {values.dtype}: chips are 8 bit")
    return values
