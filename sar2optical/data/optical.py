"""Read optical chips: choose the bands of red, green and blue, and convert 16-bit values to bytes."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from sar2optical.data.chipfile import RGB, opened, refuse_damaged
from sar2optical.errors import DataError

__all__ = ["KNOWN_ORDERS", "Indices", "Stored", "read_stored", "to_bytes"]

_log = logging.getLogger(__name__)

Indices: TypeAlias = tuple[int, int, int]
"""Indices of red, green and blue, from 1."""

Stored: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]"
"""Stored values of an optical chip."""

KNOWN_ORDERS: dict[int, tuple[Indices, str]] = {
    12: ((4, 3, 2), "Sentinel-2 L2A: B1 to B8, B8A, B9, B11, B12"),
    13: ((4, 3, 2), "Sentinel-2 L1C and SEN12MS: B1 to B8, B8A, B9 to B12"),
}
"""Band orders by number of unnamed bands; sources: ESA, Sentinel-2 products specification; Schmitt et al. 2019,
"SEN12MS", section 3. Files of 10 or 4 bands are not listed, because several orders are in use."""

_COLOURS = ("red", "green", "blue")
_EXACT = ({"red", "r", "b4", "b04"}, {"green", "g", "b3", "b03"}, {"blue", "b", "b2", "b02"})
_NUMBERS = ("4", "3", "2")  # Sentinel-2 bands (ESA, Sentinel-2 products specification)
_BAND = re.compile(r"(?<![a-z0-9])(?:b(?:0?[1-9]|1[0-2]|8a)|(?:red|green|blue|nir|swir|rededge)\d*)(?![a-z0-9])")
_NAME_TAGS = ("bandname", "band_name", "name", "long_name", "description")
_OPAQUE = 0.5
"""Smallest share of an alpha band's values that are 0 or the maximum; few reflectances are."""


def read_stored(path: Path, rgb: Indices | None = None) -> Stored:
    """Read the stored values of red, green and blue.

    Parameters
    ----------
    path
        Path of the optical chip.
    rgb
        Bands of red, green and blue. None uses band names, colour interpretation, or a known order.

    Returns
    -------
    ndarray
        uint8, uint16 or int16 (3, H, W).

    Raises
    ------
    DataError
        If the file is unreadable, damaged or of another dtype, or its bands of red, green and blue are unknown.
    """
    refuse_damaged(path)
    with opened(path) as chip:
        stored = np.asarray(chip.read(list(_indices(chip, path, rgb))))
    if stored.dtype not in (np.uint8, np.uint16, np.int16):
        raise DataError(
            f"{path}: dtype is {stored.dtype}: give optical chips of 8 bits, or of 16 bits (reflectance x 10000)"
        )
    return stored


def to_bytes(stored: Stored, optical_max: float) -> NDArray[np.uint8]:
    """Convert stored values of any shape to grey levels; `optical_max` becomes 255, bytes are unchanged."""
    if stored.dtype == np.uint8:
        return np.asarray(stored, np.uint8)
    # Adding half a level rounds, as for model output.
    levels = np.clip(stored * np.float32(255 / optical_max) + np.float32(0.5), 0, 255)
    return np.asarray(levels, np.uint8)


def _indices(chip: Any, path: Path, asked: Indices | None) -> Indices:
    """Choose the bands: as given, by names, by colour interpretation, or by a known order."""
    if chip.count < 3:
        raise DataError(f"{path}: {chip.count} bands: give an optical chip with red, green and blue")
    if asked:
        if max(asked) > chip.count:
            raise DataError(f"{path}: no band {max(asked)}: give --rgb numbers from 1 to {chip.count}")
        return asked
    names = [_name(chip, index) for index in chip.indexes]
    if any(_BAND.search(name) for name in names):
        return _by_names(names, path)
    kinds = list(chip.colorinterp)
    if all(kinds.count(kind) == 1 for kind in RGB):
        _refuse_reflectance_as_alpha(chip, path)
        red, green, blue = (kinds.index(kind) + 1 for kind in RGB)
        return _logged((red, green, blue), "by colour interpretation")
    plain = [index for index, kind in zip(chip.indexes, kinds, strict=True) if kind != ColorInterp.alpha]
    if len(plain) == 3:
        return plain[0], plain[1], plain[2]
    if len(plain) in KNOWN_ORDERS:
        indices, order = KNOWN_ORDERS[len(plain)]
        return _logged(indices, f"{len(plain)} bands without names, assumed order: {order}")
    raise DataError(
        f"{path}: {len(plain)} bands without names, so red, green and blue are unknown: give their numbers with "
        "--rgb, such as --rgb 3 2 1"
    )


def _name(chip: Any, index: int) -> str:
    """Get a band's name in lower case: its description, else a tag, else an empty string."""
    tags = {key.lower(): value for key, value in chip.tags(index).items()}
    texts = [chip.descriptions[index - 1], *(tags.get(key) for key in _NAME_TAGS)]
    return next((text.strip().lower() for text in texts if text), "")


def _by_names(names: list[str], path: Path) -> Indices:
    found = [_matches(names, exact, colour, number)
             for exact, colour, number in zip(_EXACT, _COLOURS, _NUMBERS, strict=True)]  # fmt: skip
    if all(len(matches) == 1 for matches in found):
        red, green, blue = (matches[0] for matches in found)
        return _logged((red, green, blue), "by band names")
    lacking = next(k for k, matches in enumerate(found) if len(matches) != 1)
    shown = ", ".join(f"{index} ({name or 'not named'})" for index, name in enumerate(names, 1))
    problem = "several bands are named" if found[lacking] else "no band is named"
    raise DataError(
        f"{path}: {problem} {_COLOURS[lacking]} (B{_NUMBERS[lacking]} of Sentinel-2); the bands are {shown}: "
        "give --rgb with the numbers of red, green and blue"
    )


def _matches(names: list[str], exact: set[str], colour: str, number: str) -> list[int]:
    """Find the bands of one colour: those with exactly this name, else those that contain it as a word."""
    same = [index for index, name in enumerate(names, 1) if name in exact]
    if same:
        return same
    # Excludes red edge, infra-red and coastal blue.
    pattern = (
        rf"(?<![a-z0-9])b0?{number}(?![a-z0-9])|"
        rf"(?<![a-z])(?<!infra[-_ ])(?<!coastal[-_ ]){colour}(?![a-z])(?![-_ ]?edge)"
    )
    return [index for index, name in enumerate(names, 1) if re.search(pattern, name)]


def _refuse_reflectance_as_alpha(chip: Any, path: Path) -> None:
    """Refuse a fourth band that GDAL calls alpha only by its default for four bands of bytes."""
    if list(chip.colorinterp) != [*RGB, ColorInterp.alpha]:
        return
    alpha = np.asarray(chip.read(4))
    full = np.iinfo(alpha.dtype).max if np.issubdtype(alpha.dtype, np.integer) else 1
    if np.mean((alpha == 0) | (alpha == full)) < _OPAQUE:
        raise DataError(
            f"{path}: the fourth band is marked as alpha, but its values are not those of an alpha band, so "
            "red, green and blue are unknown: give their numbers with --rgb, such as --rgb 3 2 1"
        )


def _logged(indices: Indices, reason: str) -> Indices:
    if indices != (1, 2, 3):
        _log_once(f"optical chips: bands {', '.join(map(str, indices))} are red, green and blue ({reason})")
    return indices


@cache
def _log_once(text: str) -> None:
    """Log a message that applies to many chips only once."""
    _log.info(text)
