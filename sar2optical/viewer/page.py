"""Data of the page, as JSON: layers, window grid, georeference, provenance, and values under the cursor."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sar2optical.errors import OptionError
from sar2optical.mosaic.tags import NOTE, NOTE_TAG, options_of
from sar2optical.scene.bands import Georeference
from sar2optical.scene.geocode.coordinates import WGS84, crs_name, reproject
from sar2optical.scene.geocode.placement import Placement, placement_of
from sar2optical.tiling.windows import window_grid
from sar2optical.viewer.exhibit import Exhibit, Layer
from sar2optical.viewer.pyramid import TILE
from sar2optical.viewer.tiles import GAIN

__all__ = ["MaybePlaced", "page_data", "pixel_size", "placed", "provenance", "scene_title", "size_text", "values_at"]

_EARTH = 6_371_008.8
"""Mean radius of the Earth in metres (IUGG)."""

_NAMES = {
    NOTE_TAG: "Note",
    "SAR2OPTICAL_SOURCE": "Scene",
    "SAR2OPTICAL_BANDS": "Bands",
    "SAR2OPTICAL_UNITS": "Unit of the scene",
    "SAR2OPTICAL_STRETCH": "Stretch",
    "SAR2OPTICAL_MODEL": "Model",
    "SAR2OPTICAL_MODEL_SHA256": "Model, SHA-256",
    "SAR2OPTICAL_ENGINE": "Engine",
    "SAR2OPTICAL_WINDOW": "Window",
    "SAR2OPTICAL_OVERLAP": "Overlap",
    "SAR2OPTICAL_AREA": "Area",
    "SAR2OPTICAL_GEOCODING": "Geocoding",
    "SAR2OPTICAL_VERSION": "sar2optical",
    "TIFFTAG_DATETIME": "Made (UTC)",
    "SAR2OPTICAL_RUN": "Run",
}
"""Tags that the page shows, in its order, with their names there."""

_UNITS = {"db": "dB", "dn": "DN"}

_ENCODING = re.compile(r"^(\w+) as (\w+), (.+)$")
"""A band's part of the stretch, as `Encoding.__str__` writes it: source, target, bounds."""

_DATE = re.compile(r"^(\d{4}):(\d{2}):(\d{2})\b")
"""Date of TIFF 6.0, section 8 (DateTime)."""

MaybePlaced = Placement | None


def scene_title(exhibit: Exhibit) -> str:
    """Return the name of the scene's file, or the names of its files."""
    return " + ".join(source.rstrip("/").rpartition("/")[2] for source in exhibit.radar.bands.sources)


def provenance(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and values of a mosaic's tags for display; empty if the run left none."""
    found = [(name, _readable(tag, tags[tag])) for tag, name in _NAMES.items() if tags.get(tag)]
    options = options_of(tags)
    if options:
        shown = ("nodata", "scale", "compress", "geocode", "calibration", "denoise")
        found += [(f"Option {name}", options.entries[name]) for name in shown if name in options.entries]
    return found


def _readable(tag: str, value: str) -> str:
    """Write units and dates as people do; a value of another form is left as it is."""
    if tag == "SAR2OPTICAL_UNITS":
        return _UNITS.get(value, value)
    if tag == "SAR2OPTICAL_STRETCH":
        return "; ".join(_ENCODING.sub(_readable_stretch, part) for part in value.split("; "))
    if tag == "TIFFTAG_DATETIME":
        return _DATE.sub(r"\1-\2-\3", value)
    return value


def _readable_stretch(found: re.Match[str]) -> str:
    source, target, bounds = found.groups()
    origin = "" if source == target else f", computed from {_UNITS.get(source, source)}"
    return f"{bounds} {_UNITS.get(target, target)}{origin}"


def placed(exhibit: Exhibit) -> MaybePlaced:
    """Return the placement of the mosaic's grid; None where it has no usable georeference."""
    mosaic = exhibit.mosaics[0].picture

    class _Grid:
        path, shape, georeference = str(mosaic.path), mosaic.shape, mosaic.georeference

    try:
        return placement_of(_Grid, "")  # type: ignore[arg-type]
    except OptionError:
        return None


def page_data(exhibit: Exhibit, placement: MaybePlaced) -> dict[str, Any]:
    """Collect what the page needs to know, as JSON."""
    grid, note = _window_grid(exhibit)
    truth = exhibit.truth
    return {
        "title": scene_title(exhibit),
        "note": NOTE,
        "shape": exhibit.shape,
        "shapes": exhibit.shapes,
        "tile": TILE,
        "radar": [
            {"name": name, "tiles": f"tiles/radar-{k}", "stretch": _stretch_text(exhibit, k)}
            for k, name in enumerate(exhibit.radar.names)
        ],
        "unit": exhibit.radar.unit,
        "mosaics": [_mosaic_data(layer, k, exhibit) for k, layer in enumerate(exhibit.mosaics)],
        "truth": {"name": truth.picture.path.name, "tiles": "tiles/truth", "note": truth.picture.note}
        if truth
        else None,
        "size": size_text(placement, exhibit.shape),
        "metres": metres[0] if (metres := pixel_size(placement, exhibit.shape)) else None,
        "georeference": _georeference_text(exhibit.mosaics[0].picture.georeference),
        "grid": grid,
        "gridNote": note,
    }


def _mosaic_data(layer: Layer, k: int, exhibit: Exhibit) -> dict[str, Any]:
    picture = layer.picture
    return {
        "name": picture.path.name,
        "file": f"files/{k}" if layer.levels is None else None,
        "tiles": f"tiles/mosaic-{k}",
        "mask": f"tiles/mask-{k}",
        "difference": f"tiles/difference-{k}" if exhibit.truth else None,
        "gain": GAIN,
        "provenance": provenance(picture.tags),
    }


def _stretch_text(exhibit: Exhibit, band: int) -> str:
    low, high = exhibit.radar.stretch[band]
    unit = "dB" if exhibit.radar.in_db else _UNITS.get(exhibit.radar.unit or "", exhibit.radar.unit or "")
    return f"{low:.4g} to {high:.4g} {unit}".strip()


def _window_grid(exhibit: Exhibit) -> tuple[dict[str, Any] | None, str]:
    """Return the windows of the run, in pixels of the mosaic; None and the reason where the tags do not tell."""
    tags = exhibit.mosaics[0].picture.tags
    try:
        window, overlap = int(tags["SAR2OPTICAL_WINDOW"]), int(tags["SAR2OPTICAL_OVERLAP"])
    except (KeyError, ValueError):
        return None, "the mosaic's tags do not contain its windows"
    if "SAR2OPTICAL_GEOCODING" in tags and "SAR2OPTICAL_AREA" in tags:
        return None, "the windows of a part of a geocoded scene are not known"
    try:
        grid = window_grid(exhibit.radar.bands.shape, window, overlap)
    except OptionError:
        return None, "the mosaic's tags contain impossible windows"
    top, left = exhibit.radar.offset
    rows, cols = [row - top for row in grid.rows], [col - left for col in grid.cols]
    return {"window": window, "overlap": overlap, "rows": rows, "cols": cols}, ""


def _georeference_text(found: Georeference) -> str:
    if found.transform is not None:
        return crs_name(found.crs) if found.crs else "an affine without a CRS"
    if found.gcps:
        return f"{len(found.gcps)} control points ({crs_name(found.gcp_crs) if found.gcp_crs else 'no CRS'})"
    return "none"


def pixel_size(placement: MaybePlaced, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Compute width and height of a pixel in the middle of the grid, in metres on the sphere (haversine formula)."""
    if placement is None:
        return None
    middle = shape[0] / 2, shape[1] / 2
    sizes = []
    for axis in (1, 0):
        span = min(100.0, float(shape[axis]))
        ends = [np.full(2, centre) for centre in middle]
        ends[axis] = middle[axis] + np.array([-span / 2, span / 2])
        lon, lat = (np.radians(degrees) for degrees in _geographic(placement, *ends))
        half = (
            np.sin((lat[1] - lat[0]) / 2) ** 2 + np.cos(lat[0]) * np.cos(lat[1]) * np.sin((lon[1] - lon[0]) / 2) ** 2
        )
        sizes.append(2 * _EARTH * math.asin(min(1.0, math.sqrt(half))) / span)
    return (sizes[0], sizes[1]) if all(math.isfinite(size) and size > 0 for size in sizes) else None


def size_text(placement: MaybePlaced, shape: tuple[int, int]) -> str:
    """Return the size of the grid, and of a pixel if known: one number if its sides differ by at most 1 %."""
    text = f"{shape[1]} x {shape[0]} pixels"
    size = pixel_size(placement, shape)
    if size is None:
        return text
    width, height = size
    square = abs(width - height) <= 0.01 * height
    return f"{text}, about {width:.3g} m each" if square else f"{text}, about {width:.3g} x {height:.3g} m each"


def _geographic(placement: Placement, rows: Any, cols: Any) -> tuple[Any, Any]:
    x, y = placement.to_map(rows, cols)
    return reproject(placement.crs, WGS84, x, y)


def values_at(exhibit: Exhibit, placement: MaybePlaced, row: int, col: int) -> dict[str, Any]:
    """Read the values of one pixel from the files.

    Parameters
    ----------
    exhibit, placement
        What is shown, and its placement.
    row, col
        Pixel of the grid.

    Returns
    -------
    dict
        `radar`: value of each band in the scene's unit, None where invalid. `mosaics`, `truth`: bytes of red, green
        and blue, None where invalid. `map`, `lonlat`: coordinates of the pixel's centre, None where unknown.

    Raises
    ------
    SceneUnreadable
        If a file cannot be read.
    """
    rows, cols = (row, row + 1), (col, col + 1)
    radar = [_number(value) for value in exhibit.radar_levels.read(0, rows, cols)[:, 0, 0]]
    places: dict[str, Any] = {"map": None, "lonlat": None}
    if placement is not None:
        centre = np.array([row + 0.5]), np.array([col + 0.5])
        x, y = placement.to_map(*centre)
        lon, lat = _geographic(placement, *centre)
        places = {"map": [_number(x[0]), _number(y[0])], "lonlat": [_number(lon[0]), _number(lat[0])]}
    return {
        "row": row,
        "col": col,
        "radar": radar,
        "mosaics": [_bytes(layer, row, col) for layer in exhibit.mosaics],
        "truth": _bytes(exhibit.truth, row, col) if exhibit.truth else None,
        **places,
    }


def _bytes(layer: Layer, row: int, col: int) -> list[int] | None:
    rgb, valid = layer.picture.read((row, row + 1), (col, col + 1))
    return [int(value) for value in rgb[:, 0, 0]] if valid[0, 0] else None


def _number(value: Any) -> float | None:
    """Return a JSON number with the fewest digits that round to the same value of its type; None if not finite."""
    return json.loads(str(value)) if np.isfinite(value) else None
