"""Areas of interest: a box or polygons, in longitude and latitude or another CRS."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sar2optical._utils.addresses import is_web_address
from sar2optical.errors import OptionError, OptionWithoutEffect
from sar2optical.scene.geocode.target import crs_named

__all__ = ["LONLAT", "Area", "area_of", "box_area", "polygon_area", "read_area"]

LONLAT = "EPSG:4326"
"""CRS of a box by default, and of GeoJSON (RFC 7946): longitude, latitude."""

_log = logging.getLogger(__name__)

_POLYGONS = ("Polygon", "MultiPolygon")
_MOST_NESTED = 20  # GeometryCollections within each other

_Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Area:
    """Area that a mosaic is cut to; made by `box_area`, `polygon_area` or `read_area`."""

    polygons: tuple[tuple[_Ring, ...], ...]
    """Rings of each polygon: points (x, y), without a repeated last one."""
    crs: str
    """CRS of the points."""
    text: str
    """Option that it is from, with its value; for messages."""
    is_box: bool
    """Whether the mosaic has all pixels of the rectangle; otherwise those outside of the polygons are masked."""

    def __str__(self) -> str:
        """Return a text that identifies the area, whatever its file is called."""
        content = hashlib.sha256(repr((self.polygons, self.crs, self.is_box)).encode()).hexdigest()[:16]
        return f"{self.text if self.is_box else 'polygons'} ({self.crs}, {content})"


def area_of(bbox: Sequence[float] | None, bbox_crs: str | None, aoi: Any) -> Area | None:
    """Return the area of options: a box, or polygons as GeoJSON or the path of it; None if neither is given.

    Raises
    ------
    OptionError
        If both are given, or one of them is no area.
    """
    if bbox_crs is not None and bbox is None:
        raise OptionWithoutEffect(f"--bbox-crs {bbox_crs} has no effect without --bbox: give both, or neither")
    if bbox is not None and aoi is not None:
        raise OptionError("--bbox and --aoi are both given: give one of them")
    if bbox is not None:
        return box_area(bbox, bbox_crs or LONLAT)
    if aoi is None:
        return None
    if isinstance(aoi, str | Path):
        return read_area(aoi)
    return polygon_area(getattr(aoi, "__geo_interface__", aoi))


def box_area(bounds: Sequence[float], crs: str = LONLAT) -> Area:
    """Make an area of west, south, east and north.

    Raises
    ------
    OptionError
        If the box is empty, crosses 180 degrees, or has no such CRS.
    """
    try:
        west, south, east, north = map(float, bounds)
    except (TypeError, ValueError) as error:
        raise OptionError(f"bbox is {bounds!r}: give four numbers, west, south, east and north") from error
    text = "--bbox " + " ".join(f"{bound:.12g}" for bound in (west, south, east, north))
    ring = ((west, south), (east, south), (east, north), (west, north))
    if not all(map(math.isfinite, (west, south, east, north))):
        raise OptionError(f"{text}: is not finite: give four numbers, west, south, east and north")
    geographic = crs_named(crs).is_geographic
    if geographic and east < west:
        raise OptionError(f"{text}: crosses 180 degrees: give the part on each side of it in a run of its own")
    if not (west < east and south < north):
        raise OptionError(f"{text}: is empty: give west below east, and south below north")
    if geographic:
        _refuse_beyond(text, ring, "give their CRS (--bbox-crs)")
    return Area(((ring,),), crs, text, is_box=True)


def read_area(path: str | Path) -> Area:
    """Read the polygons of a GeoJSON file.

    Raises
    ------
    OptionError
        If the file cannot be read, or as `polygon_area` does.
    """
    if is_web_address(str(path)):
        raise OptionError(f"--aoi {path}: is on a server: download it, and give its path")
    try:
        record = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise OptionError(f"--aoi {path}: no such file: check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"--aoi {path}: cannot be read ({type(error).__name__}): give GeoJSON, for example by "
            "ogr2ogr aoi.geojson FILE"
        ) from error
    return polygon_area(record, f"--aoi {path}")


def polygon_area(record: Any, text: str = "--aoi") -> Area:
    """Make an area of a GeoJSON object: polygons, features or collections of them.

    Parameters
    ----------
    record
        GeoJSON as a dict. A member `crs` (GeoJSON of 2008) names another CRS than longitude and latitude.
    text
        Where it is from, for messages.

    Raises
    ------
    OptionError
        If it has no polygon, or one that is degenerate or crosses 180 degrees.
    """
    crs = _crs_of(record, text)
    try:
        geometries = list(_geometries(record, _MOST_NESTED))
        polygons = tuple(polygon for geometry in geometries for polygon in _polygons(geometry))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise OptionError(f"{text}: is not GeoJSON of polygons ({error}): export it again") from error
    if not polygons:
        kind = record.get("type") if isinstance(record, Mapping) else type(record).__name__
        raise OptionError(f"{text}: contains no polygon, only {str(kind)[:40]}: give one")
    if others := [str(geometry["type"])[:40] for geometry in geometries if geometry["type"] not in _POLYGONS]:
        _log.warning("%s: only its polygons count, not its %s", text, ", ".join(dict.fromkeys(others)))
    geographic = crs_named(crs).is_geographic
    for ring in (ring for polygon in polygons for ring in polygon):
        _refuse_degenerate(text, ring)
        if geographic:
            _refuse_beyond(text, ring, "export it in longitude and latitude")
            _refuse_crossing(text, ring)
    return Area(polygons, crs, text, is_box=False)


def _crs_of(record: Any, text: str) -> str:
    if not isinstance(record, Mapping) or record.get("crs") is None:
        return LONLAT
    try:
        name = str(record["crs"]["properties"]["name"])
    except (TypeError, KeyError) as error:
        raise OptionError(f"{text}: its crs has no name: export it in longitude and latitude") from error
    # CRS84 is EPSG:4326 with longitude first, as GeoJSON has it in any case.
    return LONLAT if name.upper().endswith("CRS84") else name


def _geometries(record: Any, depth: int) -> Iterator[Any]:
    """Find the geometries of a GeoJSON object that hold no others."""
    kind = record["type"] if depth else ""
    if kind == "FeatureCollection":
        for feature in record["features"]:
            yield from _geometries(feature, depth - 1)
    elif kind == "Feature" and record["geometry"] is not None:
        yield from _geometries(record["geometry"], depth - 1)
    elif kind == "GeometryCollection":
        for geometry in record["geometries"]:
            yield from _geometries(geometry, depth - 1)
    elif kind not in ("", "Feature"):
        yield record


def _polygons(geometry: Any) -> Iterator[tuple[_Ring, ...]]:
    """Return the rings of each polygon of a geometry; none where it is no polygon."""
    if geometry["type"] in _POLYGONS:
        for rings in [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]:
            if rings:
                yield tuple(map(_ring, rings))


def _ring(points: Any) -> _Ring:
    found = [(float(point[0]), float(point[1])) for point in points]
    return tuple(found[:-1] if len(found) > 1 and found[0] == found[-1] else found)


def _refuse_degenerate(text: str, ring: _Ring) -> None:
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in ring):
        raise OptionError(f"{text}: has a point that is not finite: export it again")
    x0, y0 = ring[0] if ring else (0.0, 0.0)
    moved = [(x - x0, y - y0) for x, y in ring]  # far from 0, the products would cancel
    if len(set(ring)) < 3 or not sum(x * v - u * y for (x, y), (u, v) in pairwise([*moved, *moved[:1]])):
        raise OptionError(f"{text}: has a polygon without area ({len(ring)} points): remove it, or export it again")


def _refuse_beyond(text: str, ring: _Ring, remedy: str) -> None:
    """Refuse longitudes and latitudes that there are not."""
    for x, y in ring:
        if abs(x) > 180 or abs(y) > 90:
            raise OptionError(
                f"{text}: {x:.12g} {y:.12g} is outside -180 to 180 (longitude) and -90 to 90 (latitude): "
                f"correct it, or {remedy}"
            )


def _refuse_crossing(text: str, ring: _Ring) -> None:
    """Refuse edges of more than 180 degrees, except those of a map of the whole world."""
    for (x, _), (u, _) in pairwise([*ring, ring[0]]):
        if abs(u - x) > 180 and {x, u} != {-180.0, 180.0}:
            raise OptionError(
                f"{text}: crosses 180 degrees: cut it there (RFC 7946), for example by ogr2ogr -wrapdateline"
            )
