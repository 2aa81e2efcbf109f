"""Bands of SAR chips: by index, by polarisation, and which polarisation a band without a name is."""

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

_log = logging.getLogger(__name__)

_ASKED = re.compile(r"(\d+)(?:=([A-Za-z|]+))?")
_DUAL = ("VV", "VH")
"""Order of Sentinel-1's dual polarisation: IW1SDV products, SEN12MS, Google Earth Engine."""


def parse_band(text: str) -> tuple[str, str | None]:
    """Read a band as users give it.

    Parameters
    ----------
    text
        "2", "VH", or "2=VH": the index of a band, and which polarisation it is.

    Returns
    -------
    selector, polarisation
        Index or polarisation to select by; the polarisation that is claimed for an index, or None.

    Raises
    ------
    OptionError
        Where the text is neither.
    """
    match = _ASKED.fullmatch(text)
    if match:
        return match[1], match[2].upper() if match[2] else None
    if not text or "=" in text:
        raise OptionError(f"band {text!r}: give an index (2), a polarisation (VH), or both (2=VH)")
    return text, None


def polarisation_of(text: str) -> str:
    """Give what a band as users give it is called: its polarisation, else its index."""
    selector, named = parse_band(text)
    return named or selector


def refuse_other_names(path: Path, asked: Sequence[str], polarisations: Sequence[str | None]) -> None:
    """Refuse a file whose own name for a band is not the one that was given with the index.

    Parameters
    ----------
    path
        Of the SAR chip.
    asked
        Bands as users give them.
    polarisations
        Of the bands that were selected, as the file names them.

    Raises
    ------
    DataError
    """
    for text, found in zip(asked, polarisations, strict=False):
        selector, named = parse_band(text)
        if named and found and found not in alternatives(named):
            raise DataError(
                f"{path}: band {selector} is {found} by its name, not {listed(named)}: give --band {selector}={found}"
            )


def without_names(path: Path, wanted: Sequence[str]) -> str | None:
    """Say how to choose bands of a file that names none of several; None for others and colour pictures."""
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
        f"{path}: {len(names)} bands without names, {listed(*wanted)} is wanted: "
        f"give --band with its number, such as --band {choice}{order}"
    )


def name_bands(asked: tuple[str, ...], chip: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find out which polarisations the bands are that a generator will be trained on.

    An index is what the file calls it, else what is said ("2=VH"). In a file of two bands without names, 1 and 2 are
    VV and VH, Sentinel-1's order, where band 1 is the brighter one, as VV is over land and water (a log line says
    so). Anything else is refused: a wrong name in the signature would mislead whoever uses the generator.

    Parameters
    ----------
    asked
        Bands as users give them.
    chip
        SAR chip of the training data.

    Returns
    -------
    names, reading
        Polarisations for the signature, and `Reading.bands`: empty where all were given by polarisation.

    Raises
    ------
    DataError, SceneError
        Where the chip is unreadable, has no such band, or a band's polarisation is not known.
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
        raise DataError(f"{chip}: no band {index}, it has {len(names)}: give --band 1 to {len(names)}")
    if known := names[index - 1]:
        return known
    if len(names) == len(_DUAL) and not any(names) and _first_is_brighter(chip):
        name = _DUAL[index - 1]
        _log.info(
            "band %d is taken for %s: two bands without names are %s in Sentinel-1's order; say --band %d=NAME where "
            "they are others", index, name, ", ".join(_DUAL), index,
        )  # fmt: skip
        return name
    raise DataError(
        f"{chip}: nothing tells which polarisation band {index} is: give --band {index}=VV or --band {index}=VH"
    )


def _names(path: Path) -> list[str | None]:
    """Give each band's polarisation as the file names it; bands without alpha."""
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
