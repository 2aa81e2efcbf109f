"""Read scenes from a STAC ItemCollection, and write a STAC Item beside each mosaic."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.warp import transform

from sar2optical._utils.addresses import is_web_address
from sar2optical._utils.files import write_output
from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.batch.footprint import Point, outline
from sar2optical.errors import BackendNotInstalled, OptionError, OutputExists
from sar2optical.mosaic.tags import NOTE, NOTE_TAG, OPTIONS_TAG, options_of
from sar2optical.scene.band_names import POLARISATIONS

__all__ = ["SceneItem", "footprint", "read_items", "time_in", "write_item"]

_WGS84 = "EPSG:4326"
"""CRS of an Item's geometry (STAC 1.1: longitude, latitude)."""

_PREFIX = "sar2optical:"
"""Prefix of this project's properties in an Item."""

_TAGS = "SAR2OPTICAL_"
"""Prefix of this project's tags in a mosaic."""

_SIDE = 20
"""Minimum number of segments a side of a footprint: straight sides on a map are curves in longitude and latitude."""

_LONGEST = 15.0
"""Degrees of longitude above which a segment is halved, as happens near a pole."""

_HALVINGS = 10

_NO_SCENE = {"thumbnail", "overview", "metadata"}
"""Roles of assets that are not data (STAC's list of asset roles), also used as their names."""


@dataclass(frozen=True, kw_only=True)
class SceneItem:
    """A scene of an ItemCollection."""

    name: str
    """Id of the Item."""
    href: str
    """Path or address of the scene."""
    when: datetime | None
    """Time of acquisition, if the Item contains one."""
    error: str = ""
    """Why the Item contains no scene; `href` is then empty."""


def read_items(path: Path, bands: tuple[str, ...] = ()) -> list[SceneItem]:
    """Read the scenes of an ItemCollection, of an array of Items, or of a single Item.

    An Item without a scene is returned with its error, so that the others can be translated.

    Parameters
    ----------
    path
        Path of the JSON file.
    bands
        Preferred polarisations. The scene is the asset named after the first of these that the Item has, then of VH,
        VV, HV, HH; an Item's only asset may have any name.

    Raises
    ------
    OptionError
        The file contains no Items.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"{path}: is not a STAC ItemCollection ({type(error).__name__}): give one, or the scenes themselves"
        ) from error
    return [_scene_of(item, bands, path, number) for number, item in enumerate(_items_of(record, path), 1)]


def _items_of(record: Any, path: Path) -> list[Any]:
    """Return the possible Items of a JSON document."""
    if isinstance(record, list):
        return record
    kind = record.get("type") if isinstance(record, dict) else type(record).__name__
    if kind == "Feature":
        return [record]
    if isinstance(record, dict) and isinstance(record.get("features"), list):
        return list(record["features"])
    if kind in ("Collection", "Catalog"):
        raise OptionError(
            f"{path}: is a STAC {kind}, which contains no Items: give an ItemCollection, for example a saved search"
        )
    raise OptionError(
        f"{path}: is not a STAC ItemCollection but {str(kind)[:40]}: give one, or the scenes themselves"
    )


def _scene_of(item: Any, bands: tuple[str, ...], path: Path, number: int) -> SceneItem:
    """Read the needed fields of one Item, which may be any JSON value."""
    found = item.get("id") if isinstance(item, dict) else None
    name = str(found) if isinstance(found, str | int) and str(found).strip() else f"item-{number}"
    name = name.encode(errors="replace").decode()  # JSON may contain half of a surrogate pair
    try:
        return SceneItem(name=name, href=_located(_asset_of(item, bands), path), when=_when(item))
    except ValueError as error:
        return SceneItem(name=name, href="", when=None, error=f"{path}: item {name}: {error}")


def _asset_of(item: Any, bands: tuple[str, ...]) -> str:
    """Return the address of the asset that is the scene.

    Raises
    ------
    ValueError
        There is none; the message contains reason and remedy.
    """
    if not isinstance(item, dict):
        raise ValueError(f"is not a STAC Item but {type(item).__name__}: give Items")  # noqa: TRY004
    if item.get("type") in ("Collection", "Catalog"):
        raise ValueError(f"is a STAC {item['type']}: give an ItemCollection")
    assets = item.get("assets")
    if not isinstance(assets, dict) or not assets:
        raise ValueError("has no assets: give the paths or addresses of its rasters instead")
    keys = {str(key).lower(): key for key in assets}
    wanted = [name.lower() for name in (*bands, "VH", "VV", *POLARISATIONS)]
    key = next((keys[name] for name in wanted if name in keys), None)
    if key is None and len(assets) == 1 and not _is_not_data(*next(iter(assets.items()))):
        key = next(iter(assets))
    if key is None:
        listed = ", ".join(map(str, assets))
        raise ValueError(f"has no asset named after a polarisation, only {listed}: give its files instead")
    asset = assets[key]
    href = asset.get("href") if isinstance(asset, dict) else None
    if not isinstance(href, str) or not href.strip():
        raise ValueError(f"asset {key} has no address (href): give its file instead")
    return href.strip()


def _is_not_data(key: str, asset: Any) -> bool:
    roles = asset.get("roles") if isinstance(asset, dict) else None
    return str(key).lower() in _NO_SCENE or bool(_NO_SCENE.intersection(map(str, roles or ())))


def _located(href: str, path: Path) -> str:
    """Return an address unchanged, and a path relative to the folder of the ItemCollection."""
    if href.lower().startswith("file://"):
        return unquote(urlsplit(href).path)
    return href if is_web_address(href) or href.startswith("/vsi") else str(path.parent / href)


def _when(item: dict[str, Any]) -> datetime | None:
    """Return an Item's time, or the start of its interval; None if it has no valid one."""
    properties = item.get("properties")
    given = properties if isinstance(properties, dict) else {}
    for key in ("datetime", "start_datetime"):
        try:
            found = datetime.fromisoformat(str(given.get(key)))
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def write_item(mosaic: Path, *, name: str, when: datetime | None, picture: Path | None) -> Path:
    """Write a STAC Item beside a mosaic, `mosaic.json`: its footprint, and what its tags contain about the run.

    Parameters
    ----------
    mosaic
        Path of a GeoTIFF.
    name
        Id of the Item.
    when
        Time of acquisition. None: the first time in `name`; without one, the time of the mosaic, and the property
        `sar2optical:datetime_of` is then "processing".
    picture
        Path of a preview of the mosaic.

    Returns
    -------
    Path
        Path of the Item.

    Raises
    ------
    BackendNotInstalled
        pystac is not installed.
    OutputExists
        A file of that name exists that is not an Item of this project.
    OutputUnwritable
        The folder is not writable.
    """
    pystac = _pystac()
    path = mosaic.with_suffix(".json")
    if path.exists() and not _is_own_item(path):
        raise OutputExists(f"{path}: exists and is not an Item of sar2optical: move it, or give --no-stac")
    from pystac.extensions.projection import ProjectionExtension

    with rasterio.open(mosaic) as dataset:
        crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
        geometry, bbox = footprint(dataset)
        properties = _properties(dataset.tags())
    found = when or time_in(name)
    if found is None:
        found = datetime.fromtimestamp(mosaic.stat().st_mtime, UTC)
        properties[f"{_PREFIX}datetime_of"] = "processing"
    item = pystac.Item(id=name, geometry=geometry, bbox=bbox, datetime=found, properties=properties)
    if crs is not None:
        code = crs.to_string() if crs.to_epsg() else None
        ProjectionExtension.ext(item, add_if_missing=True).apply(
            code=code, wkt2=None if code else crs.to_wkt(), shape=list(shape), transform=list(transform)[:6]
        )
    kinds = pystac.MediaType
    item.add_asset("mosaic", pystac.Asset(href=mosaic.name, media_type=kinds.COG, roles=["data", "visual"]))
    if picture:
        item.add_asset("preview", pystac.Asset(href=picture.name, media_type=kinds.PNG, roles=["overview"]))
    write_output(path, (json.dumps(item.to_dict(include_self_link=False), indent=1) + "\n").encode())
    return path


def _properties(tags: dict[str, str]) -> dict[str, Any]:
    """Return the properties of an Item that follow from its mosaic's tags."""
    properties: dict[str, Any] = {_property(tag): value for tag, value in tags.items() if tag.startswith(_TAGS)}
    properties |= {"description": f"RGB image {NOTE}.", _property(NOTE_TAG): NOTE}
    if options := options_of(tags):
        properties[_property(OPTIONS_TAG)] = dict(options.entries)
    return properties


def _property(tag: str) -> str:
    return f"{_PREFIX}{tag.removeprefix(_TAGS).lower()}"


def _is_own_item(path: Path) -> bool:
    try:
        return any(name.startswith(_PREFIX) for name in json.loads(path.read_bytes())["properties"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def footprint(dataset: Any) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return a raster's outline in longitude and latitude, and its bounding box; None without georeference.

    An affine transform is preferred to GCPs. With GCPs, the outline connects those nearest to the raster's corners,
    and those between them in the same row or column. See `footprint.outline` for the antimeridian.
    """
    gcps, gcp_crs = dataset.gcps
    try:
        if dataset.crs and dataset.transform != Affine.identity():
            ring = _ring_of_affine(dataset)
        elif gcps and gcp_crs:
            points = _border(gcps, dataset.shape)
            ring = _lonlat(gcp_crs, [(point.x, point.y) for point in points])
        else:
            return None, None
    except (RasterioError, CPLE_BaseError):  # outside the area where the projection is defined
        return None, None
    if len(ring) < 3 or not all(math.isfinite(x) and math.isfinite(y) for x, y in ring):
        return None, None
    return outline(ring)


def _ring_of_affine(dataset: Any) -> list[Point]:
    """Return points along the border of a raster, in steps that are short in longitude too."""
    height, width = dataset.shape
    corners = [(0.0, 0.0), (0.0, height), (width, height), (width, 0.0)]
    steps = [k / _SIDE for k in range(_SIDE)]
    pixels = [
        (a + (c - a) * s, b + (d - b) * s) for (a, b), (c, d) in pairwise([*corners, corners[0]]) for s in steps
    ]
    for _ in range(_HALVINGS):
        ring = _lonlat(dataset.crs, [dataset.transform @ pixel for pixel in pixels])
        long = [abs((b[0] - a[0] + 180) % 360 - 180) > _LONGEST for a, b in pairwise([*ring, ring[0]])]
        if not any(long) or dataset.crs.is_geographic:
            break
        ends = pairwise([*pixels, pixels[0]])
        pixels = [
            point
            for (a, b), halve in zip(ends, long, strict=True)
            for point in ([a, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)] if halve else [a])
        ]
    return ring


def _border(gcps: Any, shape: tuple[int, int]) -> list[Any]:
    """Return the GCPs along the border, counterclockwise in the raster."""
    height, width = shape
    corners = [
        min(gcps, key=lambda g: (g.row - row) ** 2 + (g.col - col) ** 2)
        for row, col in ((0, 0), (height, 0), (height, width), (0, width))
    ]
    border = []
    for a, b in pairwise([*corners, corners[0]]):
        between = [g for g in gcps if _lies_between(g, a, b)]
        border += [a, *sorted(between, key=lambda g: abs(g.row - a.row) + abs(g.col - a.col))]
    return border


def _lies_between(gcp: Any, a: Any, b: Any) -> bool:
    """Return whether a GCP is between two others in the same row or column."""
    if a.row == b.row == gcp.row:
        return bool(min(a.col, b.col) < gcp.col < max(a.col, b.col))
    return bool(a.col == b.col == gcp.col and min(a.row, b.row) < gcp.row < max(a.row, b.row))


def _lonlat(crs: Any, points: list[Point]) -> list[Point]:
    xs, ys = transform(crs, _WGS84, [x for x, _ in points], [y for _, y in points])
    return list(zip(xs, ys, strict=True))


def time_in(name: str) -> datetime | None:
    """Find the first time in a name, in the format of Sentinel-1 products: 20210119T031653."""
    match = re.search(r"(?<!\d)(\d{8}T\d{6})(?!\d)", name.upper())
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise BackendNotInstalled("STAC Items need pystac: pip install 'sar2optical[cluster]'") from error
    return pystac
