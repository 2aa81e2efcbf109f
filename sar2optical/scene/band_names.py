"""Bands by name: their polarisations, the bands that a model needs, and layers that are no backscatter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp

from sar2optical._utils.addresses import redacted
from sar2optical.errors import BandNotFound, SceneUnreadable
from sar2optical.signature import alternatives, listed

__all__ = [
    "POLARISATIONS",
    "POLARISATION_WORD",
    "choose_bands",
    "is_lone",
    "other_layer",
    "polarisation_of_name",
    "polarisations_of",
    "refuse_other_layers",
]

POLARISATIONS = ("VV", "VH", "HH", "HV")

POLARISATION_WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(POLARISATIONS)})(?![A-Za-z])", re.IGNORECASE)
"""A polarisation as a word of its own in a file's name."""

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

_SUBDATASET = re.compile(r'[A-Za-z0-9_]+:(?:"[^"]+"|[^":]+):(?P<path>[^:]+)')
"""Name of a subdataset: DRIVER:"file":path (GDAL, raster drivers' documentation)."""

_NO_BACKSCATTER = (
    (
        r"inc_map(_ell)?|(projected_?)?(local_?)?incidence_?angle(_?from_?ellipsoid|_?map)?|angle|lia",
        "an angle",
    ),
    (r"dem|elevation|altitude", "heights"),
    (r"ls_map|(layover_?)?(shadow_?)?mask(_layover_shadow)?", "a mask"),
    (r"rgb", "a colour picture"),
    (
        r"(unw_?)?phase|coh(erence)?|unw(rapped)?|interferogram|simulated_?image|ratio|difference|(los_)?disp(lacement)?",
        "computed from several images",
    ),
    (
        r"number_of_looks|(simulated_?)?(scattering_?)?area|rtc_anf\w*|shadow_?mask|nesz|noise",
        "a noise level, an area or a count",
    ),
)
"""Patterns of words that name other layers in products of HyP3, OPERA, SNAP and Earth Engine."""


def polarisations_of(dataset: Any) -> dict[int, str | None]:
    """Find the polarisation of each band except alpha.

    It is read from the band's description and tags; for a lone band, also from the file's tags and name.

    Parameters
    ----------
    dataset
        Open rasterio dataset.

    Returns
    -------
    dict
        By band index, from 1: a polarisation, several of them joined by "and", or None where no name is found.

    Raises
    ------
    SceneUnreadable
        If alpha is the only band.
    """
    named: dict[int, str | None] = {}
    for index, kind in zip(dataset.indexes, dataset.colorinterp, strict=True):
        if kind != ColorInterp.alpha:
            texts = [dataset.descriptions[index - 1] or "", *_tag_texts(dataset.tags(index))]
            named[index] = _single_polarisation(texts)
    if not named:
        raise SceneUnreadable(f"{dataset.name}: has no band except alpha: give the SAR raster")
    first = next(iter(named))
    if named[first] is None and is_lone(dataset, named):
        file = _tag_texts(dataset.tags())
        named[first] = _single_polarisation(file) or polarisation_of_name(redacted(dataset.name))
    return named


def polarisation_of_name(name: str) -> str | None:
    """Find the polarisation in a file's name.

    Of a subdataset (NETCDF:"file.nc":VV), the path inside the file is searched instead, from its last part up.
    """
    inside = _SUBDATASET.fullmatch(name)
    if not inside:
        return _single_polarisation([Path(name).stem])
    parts = reversed(inside["path"].split("/"))
    return next(filter(None, (_single_polarisation([part]) for part in parts)), None)


def is_lone(dataset: Any, named: Mapping[int, str | None]) -> bool:
    """Return whether a raster has one band of values: a single band, or grey saved as red, green and blue."""
    return len(named) == 1 or dataset.colorinterp[:3] == RGB


def _tag_texts(tags: Mapping[str, str]) -> list[str]:
    keys = ("pol", "band_1", "band_name", "long_name", "description")
    pattern = r"polari[sz]ations?$"
    return [value for key, value in tags.items() if key.lower() in keys or re.search(pattern, key.lower())]


def _single_polarisation(texts: list[str]) -> str | None:
    """Find the polarisation in texts; several are joined by "and", which matches no band of a model."""
    one = "|".join(POLARISATIONS)
    pattern = rf"(?<![A-Z])(?:{one})+(?![A-Z])"
    words = [word for text in texts for form in (text, text.upper()) for word in re.findall(pattern, form)]
    found = {name for word in words for name in re.findall(one, word)}
    if not found and any("_1SDH_" in text.upper() for text in texts):  # DH: dual polarisation HH and HV
        found = {"HH", "HV"}
    if not found:  # ESA's code of single-polarisation products (_1SSV_), and that of backscatter archives (GRDH1VVA)
        found = {2 * code for text in texts for code in re.findall(r"_1SS([VH])_", text.upper())}
        found |= {name for text in texts for name in re.findall(r"GRD[FHM]1(VV|VH|HH|HV)[A-Z]_", text.upper())}
    return " and ".join(sorted(found)) or None


def choose_bands(
    name: str,
    named: Mapping[int, str | None],
    model_bands: tuple[str, ...],
    asked: tuple[str, ...],
    *,
    lone: bool,
) -> tuple[int, ...]:
    """Choose the bands to read.

    Parameters
    ----------
    name
        Name of the raster, for messages.
    named
        Polarisations by band index, from `polarisations_of`.
    model_bands
        Polarisations that the model needs, in its order.
    asked
        Indices or polarisations that the user gives, one per band of the model; empty: chosen by `model_bands`.
    lone
        Whether the raster has one band of values, see `is_lone`.

    Returns
    -------
    tuple of int
        Band indices from 1, one per band of the model.

    Raises
    ------
    BandNotFound
        If no band, or more than one, fits.
    """
    if asked:
        if len(asked) != len(model_bands):
            raise BandNotFound(
                f"{name}: {len(asked)} bands asked for, the model needs {len(model_bands)} "
                f"({listed(*model_bands)}): give --band once for each of them"
            )
        return tuple(_asked_band(name, named, band) for band in asked)
    first = next(iter(named))
    if len(model_bands) == 1 and lone and named[first] in (None, *alternatives(model_bands[0])):
        return (first,)
    indices = []
    for band in model_bands:
        held = [[index for index, found in named.items() if found == one] for one in alternatives(band)]
        matches = next(filter(None, held), [])
        if len(matches) > 1:
            raise BandNotFound(
                f"{name}: {len(matches)} bands are {listed(band)}, the file has {_listed(named)}: "
                f"give --band {' or '.join(map(str, matches))}"
            )
        if not matches:
            raise BandNotFound(
                f"{name}: the model was trained on {listed(band)}, the file has {_listed(named)}: "
                f"give --band {_unambiguous(named)} to use that one anyway"
            )
        indices.append(matches[0])
    return tuple(indices)


def _asked_band(name: str, named: Mapping[int, str | None], band: str) -> int:
    if band.isdecimal():
        index = int(band)
        if index in named:
            return index
    else:
        matches = [index for index, found in named.items() if found == band.upper()]
        if len(matches) == 1:
            return matches[0]
    raise BandNotFound(f"{name}: no band {band}, the file has {_listed(named)}: give one of those")


def _unambiguous(named: Mapping[int, str | None]) -> str:
    """Return a value of --band that selects the first band."""
    first = next(iter(named))
    name = named[first]
    return name if name in POLARISATIONS and list(named.values()).count(name) == 1 else str(first)


def _listed(named: Mapping[int, str | None]) -> str:
    return ", ".join(f"{index} ({name or 'not named'})" for index, name in named.items())


def other_layer(name: str) -> str | None:
    """Return what a band or file contains where its name (without suffix) shows that it is not backscatter."""
    for pattern, what in _NO_BACKSCATTER:
        if re.search(rf"(^|[^a-z0-9])({pattern})(_?([vh]{{2}}|db))*$|^({pattern})_", name.lower()):
            return what
    return None


def refuse_other_layers(dataset: Any, named: Mapping[int, str | None], indices: tuple[int, ...]) -> None:
    """Check that bands are backscatter, by their names; for a lone band, also by the file's name.

    Raises
    ------
    BandNotFound
        If a name is that of another layer.
    """
    for index in indices:
        texts = [dataset.descriptions[index - 1] or ""]
        if len(named) == 1:
            texts.append(Path(redacted(dataset.name)).stem)
        for text in texts:
            if what := other_layer(text):
                raise BandNotFound(
                    f"{dataset.name}: {text} is {what}, not backscatter: give the VV or VH file or band"
                )
