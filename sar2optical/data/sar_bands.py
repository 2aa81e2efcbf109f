"""Select the bands of SAR chips by index or polarisation, and find the polarisation of unnamed bands."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sar2optical.data.chipfile import RGB, opened
from sar2optical.errors import DataError, OptionError
from sar2optical.scene import SceneOptions
from sar2optical.scene.raster import open_raster
from sar2optical.signature import alternatives, listed

__all__ = ["name_bands", "parse_band", "polarisation_of", "refuse_other_names", "without_names"]

_log = logging.getLogger(__name__)

_ASKED = re.compile(r"(\d+)(?:=([A-Za-z|]+))?")
_DUAL = ("VV", "VH")
"""Order of Sentinel-1's dual-polarisation bands: IW1SDV products, SEN12MS, Google Earth Engine."""


def parse_band(text: str) -> tuple[str, str | None]:
    """Parse a band as users give it.

    Parameters
    ----------
    text
        "2", "VH" or "2=VH": index of a band, polarisation, or both.

    Returns
    -------
    selector, polarisation
        Index or polarisation to select by; the polarisation given for an index, or None.

    Raises
    ------
    OptionError
        If the text has another form.
    """
    match = _ASKED.fullmatch(text)
    if match:
        return match[1], match[2].upper() if match[2] else None
    if not text or "=" in text:
        raise OptionError(f"--band is {text!r}: give an index (2), a polarisation (VH), or both (2=VH)")
    return text, None


def polarisation_of(text: str) -> str:
    """Get the name of a band as users give it: its polarisation, else its index."""
    selector, named = parse_band(text)
    return named or selector


def refuse_other_names(path: Path, asked: Sequence[str], polarisations: Sequence[str | None]) -> None:
    """Refuse a file that names a band differently from the name given with its index.

    Parameters
    ----------
    path
        Path of the SAR chip.
    asked
        Bands as users give them.
    polarisations
        Polarisations of the selected bands by the file's names, or None.

    Raises
    ------
    DataError
        If a name differs.
    """
    for text, found in zip(asked, polarisations, strict=False):
        selector, named = parse_band(text)
        if named and found and found not in alternatives(named):
            raise DataError(
                f"{path}: band {selector} is named {found}, not {listed(named)}: give --band {selector}={found}"
            )


def without_names(path: Path, wanted: Sequence[str]) -> str | None:
    """Explain how to choose a band if a file has several without names; None for other files and colour images."""
    if not wanted:
        return None
    with opened(path) as file:
        pictured = file.colorinterp[:3] == RGB
    names = _names(path)
    if pictured or len(names) < 2 or any(names):
        return None
    order = f"; Sentinel-1's order is {', '.join(_DUAL)}" if len(names) == len(_DUAL) else ""
    choice = _DUAL.index(wanted[0]) + 1 if wanted[0] in _DUAL and order else 1
    return (
        f"{path}: {len(names)} bands without names, but {listed(*wanted)} is needed: "
        f"give its number with --band, such as --band {choice}{order}"
    )


def name_bands(asked: tuple[str, ...], chip: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the polarisations of the bands to train a generator on.

    The polarisation of an index is the one given ("2=VH"), else the file's name. In a file of two bands without
    names, bands 1 and 2 are taken as VV and VH, Sentinel-1's order, if band 1 is brighter, as VV is over land and
    water; this is logged. Otherwise the band is refused, because a wrong name in the signature would mislead users of
    the generator.

    Parameters
    ----------
    asked
        Bands as users give them.
    chip
        Path of a SAR chip of the training data.

    Returns
    -------
    names, reading
        Polarisations for the signature, and bands for `Reading.bands`: empty if all were given by polarisation.

    Raises
    ------
    DataError, SceneError
        If the chip is unreadable, has no such band, or the polarisation of a band is unknown.
    """
    parsed = [parse_band(text) for text in asked]
    if not any(selector.isdecimal() for selector, _ in parsed):
        return asked, ()
    names = tuple(
        named or (_polarisation(chip, int(selector)) if selector.isdecimal() else selector)
        for selector, named in parsed
    )
    reading = tuple(
        f"{selector}={name}" if selector.isdecimal() else selector
        for (selector, _), name in zip(parsed, names, strict=True)
    )
    return names, reading


def _polarisation(chip: Path, index: int) -> str:
    names = _names(chip)
    if not 1 <= index <= len(names):
        raise DataError(f"{chip}: no band {index}, the file has {len(names)}: give --band 1 to {len(names)}")
    if known := names[index - 1]:
        return known
    if len(names) == len(_DUAL) and not any(names) and _first_is_brighter(chip):
        name = _DUAL[index - 1]
        _log.info(
            "band %d is taken as %s: two bands without names are assumed to be %s, Sentinel-1's order; give "
            "--band %d=NAME if that is wrong", index, name, ", ".join(_DUAL), index,
        )  # fmt: skip
        return name
    raise DataError(f"{chip}: unknown polarisation of band {index}: give --band {index}=VV or --band {index}=VH")


def _names(path: Path) -> list[str | None]:
    """List each band's polarisation by the file's names, or None; alpha is omitted."""
    with opened(path) as file:
        count = file.count
    names: list[str | None] = []
    for index in range(1, count + 1):
        try:
            with open_raster(path, _DUAL[:1], SceneOptions(bands=(str(index),))) as bands:
                names.append(bands.polarisations[0])
        except LookupError:  # alpha
            continue
    return names


def _first_is_brighter(path: Path) -> bool:
    with open_raster(path, _DUAL, SceneOptions(bands=("1", "2"))) as bands:
        height, width = bands.shape
        (first, second), valid = bands.read((0, height), (0, width))
    return bool(valid.any() and np.median(first[valid]) > np.median(second[valid]))
