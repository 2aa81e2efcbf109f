"""STAC: scenes named by an ItemCollection, and an Item beside each mosaic."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import rasterio
from rasterio.warp import transform_geom

from sar2optical.errors import BackendNotInstalled, OptionError, OutputExists
from sar2optical.files import write_output
from sar2optical.raster import POLARISATIONS

_WGS84 = "EPSG:4326"
"""Of an Item's geometry (STAC 1.1: longitude, latitude)."""

_PREFIX = "sar2optical:"
"""Of properties that are ours."""

_TAGS = "SAR2OPTICAL_"
"""And of a mosaic's tags."""

_DENSIFY = 21
"""Points a side of a footprint: sides in a map projection are curves in longitude and latitude."""


@dataclass(frozen=True, kw_only=True)
class SceneItem:
    """A scene that an ItemCollection names."""

    name: str
    href: str
    when: datetime | None


def read_items(path: Path, bands: tuple[str, ...] = ()) -> list[SceneItem]:
    """Read the scenes of an ItemCollection, or of a single Item.

    Parameters
    ----------
    path
        JSON.
    bands
        Polarisations; of an item's assets, the one named after the first that is there is taken: of these, then VH,
        VV, HV, HH; a lone asset whatever its name.

    Raises
    ------
    OptionError
        Where the file is no ItemCollection, or an item has no such asset.
    """
    pystac = _pystac()
    try:
        record = json.loads(path.read_bytes())
        if record.get("type") == "Feature":
            items = [pystac.Item.from_dict(record)]
        else:
            items = list(pystac.ItemCollection.from_dict(record))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pystac.STACError) as error:
        raise OptionError(
            f"{path}: no STAC ItemCollection ({type(error).__name__}): give one, or name scenes"
        ) from error
    for item in items:
        item.set_self_href(str(path.resolve()))
    return [_scene_of(item, bands, path) for item in items]


def _scene_of(item: Any, bands: tuple[str, ...], path: Path) -> SceneItem:
    assets = {key.lower(): asset for key, asset in item.assets.items()}
    wanted = [name.lower() for name in (*bands, "VH", "VV", *POLARISATIONS)]
    key = next((name for name in wanted if name in assets), None)
    if key is None and len(assets) == 1:
        key = next(iter(assets))
    if key is None:
        listed = ", ".join(item.assets) or "none"
        raise OptionError(
            f"{path}: item {item.id} has no asset of a polarisation, but {listed}: name its files instead"
        )
    href = assets[key].href
    local = not re.match(r"[a-z0-9+]+://|/vsi", href)
    return SceneItem(name=item.id, href=str(path.parent / href) if local else href, when=item.datetime)


def write_item(mosaic: Path, *, name: str, when: datetime | None, picture: Path | None) -> Path:
    """Write an Item beside a mosaic, `mosaic.json`: its place, and what its tags tell of the run that made it.

    Parameters
    ----------
    mosaic
        A GeoTIFF.
    name
        The Item's id.
    when
        Acquisition; where None, told from a time in `name`, and where that has none, the mosaic's own is given
        and said to be.
    picture
        A preview of it.

    Returns
    -------
    Path
        Of the Item.

    Raises
    ------
    OutputExists
        Where a file of that name is there which is no Item of ours.
    OutputUnwritable
        Where the folder takes no files.
    """
    pystac = _pystac()
    path = mosaic.with_suffix(".json")
    if path.exists() and not _is_ours(path):
        raise OutputExists(f"{path}: is there, and no Item of ours: move it, or give --no-stac")
    from pystac.extensions.projection import ProjectionExtension

    with rasterio.open(mosaic) as dataset:
        crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
        geometry = footprint(dataset)
        tags = dataset.tags()
    found = when or time_in(name)
    ours = {key.removeprefix(_TAGS).lower(): value for key, value in tags.items() if key.startswith(_TAGS)}
    extra = {f"{_PREFIX}{key}": value for key, value in ours.items()}
    if found is None:
        found = datetime.fromtimestamp(mosaic.stat().st_mtime, UTC)
        extra[f"{_PREFIX}datetime_of"] = "processing"
    item = pystac.Item(id=name, geometry=geometry, bbox=_bounds(geometry), datetime=found, properties=extra)
    if crs is not None:
        code = crs.to_string() if crs.to_epsg() else None
        ProjectionExtension.ext(item, add_if_missing=True).apply(
            code=code, wkt2=None if code else crs.to_wkt(), shape=list(shape), transform=list(transform)[:6]
        )
    item.add_asset(
        "mosaic", pystac.Asset(href=mosaic.name, media_type=pystac.MediaType.COG, roles=["data", "visual"])
    )
    if picture:
        item.add_asset(
            "preview", pystac.Asset(href=picture.name, media_type=pystac.MediaType.PNG, roles=["overview"])
        )
    write_output(path, (json.dumps(item.to_dict(include_self_link=False), indent=1) + "\n").encode())
    return path


def _is_ours(path: Path) -> bool:
    try:
        return any(name.startswith(_PREFIX) for name in json.loads(path.read_bytes())["properties"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def footprint(dataset: Any) -> dict[str, Any] | None:
    """Give a raster's outline as a GeoJSON polygon in longitude and latitude; None where it has no place.

    Of a raster with ground control points, it goes through the ones nearest to its corners.
    """
    height, width = dataset.shape
    gcps, gcp_crs = dataset.gcps
    if gcps and gcp_crs:
        corners = ((0, 0), (0, width), (height, width), (height, 0))
        nearest = [min(gcps, key=lambda g: (g.row - row) ** 2 + (g.col - col) ** 2) for row, col in corners]
        ring, crs = [(point.x, point.y) for point in nearest], gcp_crs
    elif dataset.crs:
        steps = [k / (_DENSIFY - 1) for k in range(_DENSIFY - 1)]
        pixels = [(width * s, 0) for s in steps] + [(width, height * s) for s in steps]
        pixels += [(width * (1 - s), height) for s in steps] + [(0, height * (1 - s)) for s in steps]
        ring, crs = [dataset.transform @ pixel for pixel in pixels], dataset.crs
    else:
        return None
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    moved: dict[str, Any] = json.loads(json.dumps(transform_geom(crs, _WGS84, polygon)))
    ring = moved["coordinates"][0]
    if sum(x * v - u * y for (x, y, *_), (u, v, *_) in pairwise(ring)) < 0:
        ring.reverse()  # counterclockwise, RFC 7946
    return moved


def time_in(name: str) -> datetime | None:
    """Find the first time in a name, as Sentinel-1 products have it: 20210119T031653."""
    match = re.search(r"(?<!\d)(\d{8}T\d{6})(?!\d)", name.upper())
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _bounds(geometry: dict[str, Any] | None) -> list[float] | None:
    if geometry is None:
        return None
    xs, ys = zip(*(point[:2] for point in geometry["coordinates"][0]), strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise BackendNotInstalled("STAC needs pystac: pip install 'sar2optical[cluster]'") from error
    return pystac
