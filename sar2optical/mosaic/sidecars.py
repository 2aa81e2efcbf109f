"""Georeference of pictures in files beside them: a world file, and GDAL's `.aux.xml`."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from affine import Affine

from sar2optical.errors import OptionError, OptionWithoutEffect, OutputExists
from sar2optical.mosaic.vrt import georeference_elements, to_bytes
from sar2optical.scene import Georeference

__all__ = ["refuse_sidecars", "sidecars_of"]

_WORLD = {".png": ".pgw", ".jpg": ".jgw", ".jpeg": ".jgw"}
"""Suffix of a picture's world file."""


def refuse_sidecars(out: Path, georeference: Georeference, *, overwrite: bool) -> None:
    """Refuse files beside a picture that cannot be written, before any work is done.

    Raises
    ------
    OptionWithoutEffect
        The output is a GeoTIFF, which contains its georeference.
    OptionError
        The scene has no georeference.
    OutputExists
        One of the files exists, and `overwrite` is false.
    """
    if out.suffix.lower() not in _WORLD:
        raise OptionWithoutEffect(
            f"--worldfile has no effect on {out.name}, which contains its georeference: leave out --worldfile"
        )
    files = sidecars_of(out, georeference)
    if not files:
        raise OptionError(f"{out}: the scene has no georeference for a world file: leave out --worldfile")
    for path in files:
        if path.exists() and not overwrite:
            raise OutputExists(f"{path} exists: give --overwrite to replace it, or choose another name")


def sidecars_of(out: Path, georeference: Georeference) -> dict[Path, bytes]:
    """Return the files beside a picture by path.

    The world file (ESRI) has six lines: the affine, with the centre of the first pixel as its origin; control points
    have none. `OUT.aux.xml` is GDAL's own, with the CRS.
    """
    files = {}
    elements = georeference_elements(georeference)
    if georeference.transform is not None:
        a, b, c, d, e, f = (georeference.transform @ Affine.translation(0.5, 0.5))[:6]
        text = "".join(f"{value!r}\n" for value in (a, d, b, e, c, f))
        files[out.with_suffix(_WORLD[out.suffix.lower()])] = text.encode()
    if elements:
        root = ET.Element("PAMDataset")
        root.extend(elements)
        files[out.with_name(f"{out.name}.aux.xml")] = to_bytes(root)
    return files
