"""Units of SAR values: guess a raster's unit from its dtype, its names and its values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import UnitsMismatch, UnitsUnknown
from sar2optical.signature import Unit

__all__ = ["NAMES", "NO_UNIT", "Hint", "could_be", "guess_unit", "refuse_impossible", "unit_of"]


@dataclass(frozen=True)
class Hint:
    """What a file says about the unit of one of its bands."""

    path: str
    """Path of the file, for messages."""
    dtype: str
    """Data type of the stored values; float32 for integers with a scale or an offset."""
    names: tuple[str, ...]
    """Band description, unit tags, file name; the most reliable first."""


def unit_of(hints: Sequence[Hint], samples: Sequence[NDArray[np.float32]]) -> tuple[Unit, str]:
    """Guess the unit of a scene from its first band, and check that the other bands have it too.

    Parameters
    ----------
    hints
        One for each band.
    samples
        By band: float32 (n,), valid values, as stored. Not empty.

    Returns
    -------
    unit, reason

    Raises
    ------
    UnitsUnknown
        If the unit of the first band is ambiguous.
    UnitsMismatch
        If another band has another unit.
    """
    first = hints[0]
    try:
        unit, reason = guess_unit(first.dtype, first.names, samples[0])
    except UnitsUnknown as error:
        raise UnitsUnknown(f"{first.path}: {error}") from error
    for k, (hint, sample) in enumerate(zip(hints[1:], samples[1:], strict=True), 2):
        if not _agrees(unit, hint, sample):
            lowest, median, highest = (float(v) for v in np.percentile(sample, (0, 50, 100)))
            raise UnitsMismatch(
                f"{hint.path}: band 1 of the scene is {unit} ({reason}), but band {k} has {hint.dtype} values from "
                f"{lowest:.4g} to {highest:.4g}, median {median:.4g}: give all bands in one unit"
            )
    return unit, reason


def _agrees(unit: Unit, hint: Hint, sample: NDArray[np.float32]) -> bool:
    """Return whether a band has a unit: by its own names and values, or by its values if these are ambiguous."""
    try:
        return guess_unit(hint.dtype, hint.names, sample)[0] == unit
    except UnitsUnknown:
        lowest, median, highest = (float(v) for v in np.percentile(sample, (0, 50, 100)))
    if unit == "db":
        return _looks_like_db(lowest, median, highest)
    if unit in ("byte", "dn"):
        return lowest >= 0 and (hint.dtype == "uint8") == (unit == "byte") and highest > _BRIGHTEST["amplitude"]
    return 0 <= median <= _BRIGHTEST[unit]


def refuse_impossible(unit: Unit, hints: Sequence[Hint], samples: Sequence[NDArray[np.float32]]) -> None:
    """Check that valid values are possible in the unit that the user gives.

    Bytes pass in any unit: they are values of that unit, scaled to 8 bits.

    Parameters
    ----------
    unit
        Unit that the user gives.
    hints, samples
        As in `unit_of`.

    Raises
    ------
    UnitsUnknown
        If they are not.
    """
    for hint, sample in zip(hints, samples, strict=True):
        median = float(np.median(sample))
        if hint.dtype != "uint8" and not could_be(unit, median):
            raise UnitsUnknown(
                f"{hint.path}: --units {unit} given, but the median of the values is {median:.4g}: give other "
                "--units, or --scale (0.01 for hundredths of dB)"
            )


def guess_unit(dtype: str, names: tuple[str, ...], sample: NDArray[np.float32]) -> tuple[Unit, str]:
    """Guess a raster's unit from its dtype, its names and tags, and its values.

    Names take precedence. Values that contradict them, or leave two units possible, are an error: with a wrong unit
    the image would look plausible and be wrong.

    Parameters
    ----------
    dtype
        Data type of the stored values.
    names
        Band description, unit tags, file name; the most reliable first.
    sample
        float32 (n,), valid values, as stored. Not empty.

    Returns
    -------
    unit, reason
        The reason completes a sentence after "because".

    Raises
    ------
    UnitsUnknown
        If names and values contradict one another, or the unit is ambiguous.
    """
    lowest, median, highest = (float(v) for v in np.percentile(sample, (0, 50, 100)))
    seen = f"{dtype} values from {lowest:.4g} to {highest:.4g}, median {median:.4g}"
    named = _named_unit(names, seen)
    if named:
        unit, reason = named
        if dtype == "uint8":
            raise UnitsUnknown(
                f"{reason}, but {seen} are already scaled to 8 bits: give --units byte if they are a grey picture, "
                f"or --units {unit} if they are {_SPELLED.get(unit, unit)} scaled to 8 bits"
            )
        if unit == "db" and not _looks_like_db(lowest, median, highest):
            raise UnitsUnknown(f"{reason}, but {seen} are not all dB: give --units (and --scale), or --nodata")
        if unit == "amplitude" and np.issubdtype(np.dtype(dtype), np.integer):
            return "dn", f"{reason}, and {dtype} values are uncalibrated"
        if unit in _BRIGHTEST and not 0 <= median <= _BRIGHTEST[unit]:
            raise UnitsUnknown(f"{reason}, but {seen} are not {unit}: give --units")
        return unit, reason
    if dtype == "uint8":
        return "byte", "uint8, assumed to be already scaled to 8 bits"
    # uint16 as in ESA's measurements; other integers have no common meaning.
    if dtype == "uint16" and lowest >= 0 and highest > 255:
        return "dn", f"{seen}"
    if dtype.startswith("float") and median <= _SURELY_DB and _looks_like_db(lowest, median, highest):
        return "db", f"{seen}"
    raise UnitsUnknown(
        f"{seen} could be several units: give --units dn, amplitude, power, db or byte "
        "(and --nodata or --scale, where the file lacks them)"
    )


_MEDIANS = (-60.0, 30.0)
"""Lowest and highest median of a scene in dB, with a margin: VH of calm water is at the noise, -35 dB; cities are
above 0."""


def could_be(unit: Unit, median: float) -> bool:
    """Return whether a scene's median is possible in a unit: dB within `_MEDIANS`, other units not below 0."""
    lowest, highest = _MEDIANS if unit == "db" else (0.0, float("inf"))
    return lowest <= median <= highest


# Lowest and highest backscatter in dB of a Sentinel-1 product, with a margin: noise equivalent sigma0 is about
# -22 to -35 dB, noise removal leaves values far below it; bright targets reach about +35 dB.
_DB_LOWEST, _DB_HIGHEST = -100.0, 60.0

_SPELLED: dict[Unit, str] = {"db": "dB", "dn": "DN"}
"""Spelling of units in messages, where it is not that of `--units`."""

_SURELY_DB = -6.0
"""Highest median of dB without a name: natural logarithms of VH and phases in radians are above it."""

# Highest median of a scene in linear units: +10 dB. Incidence angles in degrees are above it.
_BRIGHTEST: dict[Unit, float] = {"power": 10.0, "amplitude": 3.2, "dn": float("inf")}

NAMES: tuple[tuple[str, Unit, str], ...] = (
    # ASF HyP3: ..._RTC30_G_gpuned_...: g/s for gamma0/sigma0, then p/d/a for power/dB/amplitude.
    (r"_[gs]p[uw][nf][ec][dm](_|$|\.)", "power", "HyP3 file name of power"),
    (r"_[gs]d[uw][nf][ec][dm](_|$|\.)", "db", "HyP3 file name of dB"),
    (r"_[gs]a[uw][nf][ec][dm](_|$|\.)", "amplitude", "HyP3 file name of amplitude"),
    # As a word of its own: hexadecimal ids in ESA's names contain "db" too.
    (r"(^|[^a-z0-9])(db|decibels?)($|[^a-z0-9])", "db", "its name or tag is dB"),
    # ESA's normalised radar backscatter: ...-vv-g-log.vrt over ...-vv-g-lin.tif.
    (r"-[vh]{2}-[gs]-log(_|$|\.)", "db", "its NRB file name means dB"),
    (r"-[vh]{2}-[gs]-lin(_|$|\.)", "power", "its NRB file name means linear power"),
    (r"rtc-s1|opera_l2_rtc", "power", "OPERA RTC-S1 is linear gamma0"),
    (r"\.rtc\.|[_-]rtc\.(tiff?|vrt)$", "power", "its name contains RTC, which means linear gamma0"),
    (r"s1_grd_float", "power", "Earth Engine's S1_GRD_FLOAT is linear"),
    (
        r"(^|[^a-z])(gamma0|sigma0)[-_](ellipsoid|terrain|rtc)($|[^a-z])",
        "power",
        "its name is that of linear backscatter in Sentinel Hub, openEO and pyroSAR",
    ),
    (r"linear power", "power", "its tag is linear power"),
    (
        r"(^|[^a-z])(sigma0|gamma0|beta0|sigma_0|gamma_0)_[vh]{2}($|[^a-z])",
        "power",
        "its SNAP band name means linear power",
    ),
    # SNAP appends each step to the product's name: ..._Orb_NR_Cal_TC; in dB it ends in _dB, matched above.
    (r"^s1[a-d]_.*_cal(_|$|\.)", "power", "its SNAP file name means calibrated power"),
    (r"(^|[^a-z])intensity_[vh]{2}($|[^a-z])", "power", "its SNAP band name means intensity"),
    (r"(^|[^a-z])amplitude_[vh]{2}($|[^a-z])", "dn", "its SNAP band name means uncalibrated amplitude"),
    # TIFFTAG_IMAGEDESCRIPTION of a measurement file: "Sentinel-1A IW GRD HR L1", and "SM" or "S3" for IW.
    (r"^sentinel-1[a-d]? \w+ grd", "dn", "tagged GRD by ESA's processor"),
    (r"(^|[^a-z0-9])(linear|power)($|[^a-z0-9])", "power", "its name or tag is linear power"),
    (r"(^|[^a-z0-9])(amplitude|magnitude|sqrt)($|[^a-z0-9])", "amplitude", "its name or tag is amplitude"),
)
"""Pattern of a lower-case name, unit that it means, and the reason. The browser demo (`web/`) uses them too."""


NO_UNIT = (
    (r"(^|[^a-z0-9])(ln|natural[ _-]?log(arithm)?|log[ _]?e|np|nepers?)($|[^a-z0-9])", "a natural logarithm"),
    (r"(?<!-[gs]-)(?<![a-z0-9])log($|[^a-z0-9])", "a logarithm"),
    (r"(^|[^a-z0-9])(phase|radians?|rad)($|[^a-z0-9])", "a phase"),
    (r"^(m|mm|cm|met(re|er)s?|deg(rees?)?|degc|k|celsius|kelvin)$", "another quantity"),
)
"""Names of quantities whose values look like dB."""


def _named_unit(names: tuple[str, ...], seen: str) -> tuple[Unit, str] | None:
    """Find the unit in the first name that contains one.

    Raises
    ------
    UnitsUnknown
        If that name contains two, or a unit that is not one of backscatter.
    """
    for name in names:
        for pattern, what in NO_UNIT:
            if re.search(pattern, name.lower()):
                raise UnitsUnknown(
                    f"its name or tag is that of {what} ({name}), with {seen}: give backscatter, or give --units"
                )
        found = [(unit, reason) for pattern, unit, reason in NAMES if re.search(pattern, name.lower())]
        if found:
            unit, reason = _agreed(found, f"({name}), with {seen}")
            return unit, f"{reason} ({name})"
    return None


def _agreed(found: list[tuple[Unit, str]], where: str) -> tuple[Unit, str]:
    """Return the unit that all matches of a name agree on. dB of any quantity is dB; DN agree with amplitude."""
    units = {"amplitude" if unit == "dn" else unit for unit, _ in found}
    if "db" in units:
        return next(one for one in found if one[0] == "db")
    if len(units) > 1:
        raise UnitsUnknown(f"its name or tag contains {' and '.join(sorted(units))} {where}: give --units")
    return found[0]


def _looks_like_db(lowest: float, median: float, highest: float) -> bool:
    # Power after noise removal may be in this range too, partly below 0; its median is higher.
    return _DB_LOWEST <= lowest < 0 and highest <= _DB_HIGHEST and -45 <= median < -0.5
