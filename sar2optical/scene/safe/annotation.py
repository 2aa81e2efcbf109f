"""Read a product's manifest and annotations: XML to numbers and tables.

The standard library reads them rather than xarray-sentinel (0.9.6): of the noise of a GRD product, that one reads
only the first swath, and none before IPF 2.90; its `interp` gives NaN beyond the last vector; and it takes 1.7 s and
a dozen libraries for what takes 0.1 s here. The tests compare the two.

Source: "Sentinel-1 Product Specification", S1-RS-MDA-52-7441.
"""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import OptionError, SceneUnreadable
from sar2optical.scene.safe.calibrate import AzimuthBlock, Calibration, LookUpTable, Noise
from sar2optical.scene.safe.files import ProductFiles, damaged

__all__ = ["processor_version", "read_calibration", "read_noise", "read_size"]

_LUT: dict[Calibration, str] = {"sigma0": "sigmaNought", "gamma0": "gamma", "beta0": "betaNought"}
"""Element of a calibration vector that contains A."""

_A_RANGE = (1e-3, 1e9)
"""Possible values of A, with a wide margin: about 500 in real products."""

_NOISE_RANGE = (0.0, 1e12)
"""Possible values of noise in DN squared, and of its factor along azimuth: about 1000 and 1 in real products."""

_NOISE_SINCE = (2, 50)
"""First IPF version whose noise vectors have the measurement's scale (MPC-0392)."""


def processor_version(files: ProductFiles) -> tuple[int, int]:
    """Check that a product is a Sentinel-1 GRD, and return the version of the processor (IPF) that produced it.

    Returns
    -------
    major, minor

    Raises
    ------
    SceneUnreadable
        If it is another product, or its manifest is missing or damaged.
    """
    if "manifest.safe" not in files.names:
        raise damaged(files.path, "it has no manifest.safe")
    manifest = files.xml("manifest.safe")
    kinds = {element.text for element in manifest.iter() if element.tag.endswith("}productType")}
    family = {element.text for element in manifest.iter() if element.tag.endswith("}familyName")}
    if not any("SENTINEL-1" in (name or "") for name in family):
        raise SceneUnreadable(f"{files.path}: is not a Sentinel-1 product: give a Sentinel-1 GRD product")
    if kinds != {"GRD"}:
        kind = " and ".join(sorted(kind or "nothing" for kind in kinds)) or "of unknown type"
        raise SceneUnreadable(
            f"{files.path}: is {kind}, but GRD is needed: give the GRD product of the same acquisition"
        )
    versions = [
        element.get("version", "")
        for element in manifest.iter()
        if element.tag.endswith("}software") and element.get("name") == "Sentinel-1 IPF"
    ]
    # The first entry is the step that produced this product; the others produced its inputs.
    match = re.fullmatch(r"0*(\d{1,3})\.(\d{1,3})", versions[0]) if versions else None
    if not match:
        raise damaged(files.path, f"manifest.safe has no valid processor version ({versions[:1]})")
    return int(match[1]), int(match[2])


def read_size(files: ProductFiles, name: str) -> tuple[int, int]:
    """Read the lines and samples of a measurement from its annotation.

    Raises
    ------
    SceneUnreadable
        If the annotation is missing or damaged.
    """
    annotation = files.xml(name)
    lines, samples = (_integer(files, name, annotation, tag) for tag in ("numberOfLines", "numberOfSamples"))
    return lines, samples


def read_calibration(files: ProductFiles, name: str, calibration: Calibration) -> LookUpTable:
    """Read A of a calibration.

    Parameters
    ----------
    files
        The product's files.
    name
        Name of the calibration annotation.
    calibration
        sigma0, gamma0 or beta0.

    Raises
    ------
    SceneUnreadable
        If the annotation is missing or damaged.
    """
    return _table(files, name, files.xml(name), "calibrationVector", _LUT[calibration], _A_RANGE)


def read_noise(files: ProductFiles, name: str, annotation: str, version: tuple[int, int]) -> Noise:
    """Read the thermal noise: by range and azimuth since IPF 2.90, by range alone before.

    Parameters
    ----------
    files
        The product's files.
    name, annotation
        Names of the noise annotation and of the measurement's.
    version
        Version of the processor, from `processor_version`.

    Raises
    ------
    OptionError
        If the noise cannot be subtracted: the product is too old, or the noise is removed already.
    SceneUnreadable
        If an annotation is missing or damaged.
    """
    if version < _NOISE_SINCE:
        raise OptionError(
            f"{files.path}: was processed by IPF {version[0]}.{version[1]:02}, whose noise tables have another scale "
            "than the measurement: leave out --denoise, or give a product of IPF 2.50 or later"
        )
    if (files.xml(annotation).findtext(".//thermalNoiseCorrectionPerformed") or "").strip() == "true":
        raise OptionError(f"{files.path}: its thermal noise is removed already: leave out --denoise")
    root = files.xml(name)
    new = root.find(".//noiseRangeVector") is not None
    tags = ("noiseRangeVector", "noiseRangeLut") if new else ("noiseVector", "noiseLut")
    across = _table(files, name, root, *tags, _NOISE_RANGE)
    return Noise(across, tuple(_azimuth_block(files, name, block) for block in root.iter("noiseAzimuthVector")))


def _azimuth_block(files: ProductFiles, name: str, block: ElementTree.Element) -> AzimuthBlock:
    first_line, last_line, first_pixel, last_pixel = (
        _integer(files, name, block, tag)
        for tag in ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
    )
    at, factors = _numbers(files, name, block, "line"), _numbers(files, name, block, "noiseAzimuthLut")
    if len(at) != len(factors) or (np.diff(at) <= 0).any() or not _within(factors, _NOISE_RANGE):
        raise damaged(files.path, f"{name} has a noiseAzimuthVector that is invalid")
    return AzimuthBlock((first_line, last_line), (first_pixel, last_pixel), at, factors)


def _table(
    files: ProductFiles,
    name: str,
    root: ElementTree.Element,
    vector: str,
    tag: str,
    bounds: tuple[float, float],
) -> LookUpTable:
    """Read a table, and check its order and its values."""
    vectors = list(root.iter(vector))
    if not vectors:
        raise damaged(files.path, f"{name} has no {vector}")
    lines = [_integer(files, name, element, "line") for element in vectors]
    pixels = tuple(_numbers(files, name, element, "pixel") for element in vectors)
    values = tuple(_numbers(files, name, element, tag) for element in vectors)
    if any(upper >= lower for upper, lower in pairwise(lines)):
        raise damaged(files.path, f"{name} has a {vector} whose line is out of order")
    for line, at, found in zip(lines, pixels, values, strict=True):
        if len(at) != len(found) or (np.diff(at) <= 0).any() or not _within(found, bounds):
            raise damaged(files.path, f"{name} has a {vector} at line {line} whose {tag} is invalid")
    return LookUpTable(np.array(lines, np.float64), pixels, values)


def _integer(files: ProductFiles, name: str, element: ElementTree.Element, tag: str) -> int:
    text = (element.findtext(f".//{tag}") or "").strip()
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise damaged(files.path, f"{name} gives {tag} as {text[:20]!r}")
    return int(text)


def _numbers(files: ProductFiles, name: str, element: ElementTree.Element, tag: str) -> NDArray[np.float64]:
    text = element.findtext(tag) or ""
    try:
        numbers = np.array(text.split(), np.float64)
    except ValueError as error:
        raise damaged(files.path, f"{name} gives {tag} as {text[:20]!r}...") from error
    if not numbers.size or not np.isfinite(numbers).all():
        raise damaged(files.path, f"{name} has a {tag} without numbers only")
    return numbers


def _within(values: NDArray[np.float64], bounds: tuple[float, float]) -> bool:
    return bool((values >= bounds[0]).all() and (values <= bounds[1]).all())
