"""Write a STAC Item beside each mosaic."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.warp import transform

from sar2optical._utils.addresses import is_web_address, redacted
from sar2optical._utils.files import write_output
from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.batch.footprint import Point, outline
from sar2optical.errors import BackendNotInstalled, OutputExists
from sar2optical.mosaic.tags import NOTE, NOTE_TAG, OPTIONS_TAG, options_of

__all__ = ["footprint", "is_own", "needs_pystac", "time_in", "write_item", "write_json"]

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

_PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
"""Schema of the processing extension, which pystac has no class for."""

_LINEAGE = (("from", "SOURCE"), ("by the generator", "MODEL"), ("with", "ENGINE"))
"""Words and tags of an Item's lineage."""


def write_item(
    mosaic: Path, *, name: str, when: datetime | None, picture: Path | None, derived_from: Sequence[str] = ()
) -> Path:
    """Write a STAC Item beside a mosaic, `mosaic.json`: its footprint, and what its tags contain about the run.

    Extensions: projection v2.0.0, raster v1.1.0, processing v1.1.0.

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
    derived_from
        Paths or addresses of the scene's files, or of its Item.

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
    pystac = needs_pystac()
    path = mosaic.with_suffix(".json")
    if path.exists() and not is_own(path):
        raise OutputExists(f"{path}: exists and is not an Item of sar2optical: move it, or give --no-stac")
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.raster import RasterBand, RasterExtension

    with rasterio.open(mosaic) as dataset:
        crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
        geometry, bbox = footprint(dataset)
        properties, bands = _properties(dataset.tags()), _bands_of(dataset)
    found = when or time_in(name)
    if found is None:
        found = datetime.fromtimestamp(mosaic.stat().st_mtime, UTC)
        properties[f"{_PREFIX}datetime_of"] = "processing"
    item = pystac.Item(id=name, geometry=geometry, bbox=bbox, datetime=found, properties=properties)
    item.stac_extensions.append(_PROCESSING)
    if crs is not None:
        code = crs.to_string() if crs.to_epsg() else None
        ProjectionExtension.ext(item, add_if_missing=True).apply(
            code=code, wkt2=None if code else crs.to_wkt(), shape=list(shape), transform=list(transform)[:6]
        )
    kinds = pystac.MediaType
    asset = pystac.Asset(href=mosaic.name, media_type=kinds.COG, roles=["data", "visual"])
    asset.extra_fields["bands"] = [{"name": name, "data_type": values["data_type"]} for name, values in bands]
    item.add_asset("mosaic", asset)
    RasterExtension.ext(asset, add_if_missing=True).apply([RasterBand.create(**values) for _, values in bands])
    if picture:
        item.add_asset("preview", pystac.Asset(href=picture.name, media_type=kinds.PNG, roles=["overview"]))
    for source in derived_from:
        item.add_link(pystac.Link("derived_from", _href(source, mosaic.parent)))
    write_json(path, item.to_dict(include_self_link=False))
    return path


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a STAC object atomically."""
    write_output(path, (json.dumps(record, indent=1) + "\n").encode())


def _bands_of(dataset: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the name of each band, its description or else its colour, and its fields of the raster extension."""
    found = []
    for k, kind in enumerate(dataset.dtypes):
        values = {"data_type": kind}
        if (dataset.scales[k], dataset.offsets[k]) != (1, 0):
            values |= {"scale": dataset.scales[k], "offset": dataset.offsets[k]}
        found.append((dataset.descriptions[k] or dataset.colorinterp[k].name, values))
    return found


def _properties(tags: dict[str, str]) -> dict[str, Any]:
    """Return the properties of an Item that follow from its mosaic's tags."""
    properties: dict[str, Any] = {_property(tag): value for tag, value in tags.items() if tag.startswith(_TAGS)}
    description = tags.get("TIFFTAG_IMAGEDESCRIPTION", f"RGB image {NOTE}.").partition(" Model:")[0]
    properties |= {"description": description, _property(NOTE_TAG): NOTE}
    if options := options_of(tags):
        properties[_property(OPTIONS_TAG)] = dict(options.entries)
    software = tags.get(f"{_TAGS}VERSION", "unknown")
    lineage = [f"{label} {tags[_TAGS + name]}" for label, name in _LINEAGE if _TAGS + name in tags]
    properties["processing:software"] = {"sar2optical": software}
    properties["processing:lineage"] = ", ".join([description.removesuffix("."), *lineage])
    return properties


def _property(tag: str) -> str:
    return f"{_PREFIX}{tag.removeprefix(_TAGS).lower()}"


def _href(source: str, folder: Path) -> str:
    """Return the address of a scene without its secrets, or its path relative to a folder."""
    if is_web_address(source) or source.startswith("/vsi"):
        return redacted(source)
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(source).resolve().as_uri()


def is_own(path: Path) -> bool:
    """Return whether a file is an Item or a Collection of this project."""
    try:
        record = json.loads(path.read_bytes())
        return any(name.startswith(_PREFIX) for name in (*record, *record.get("properties", ())))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
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


def needs_pystac() -> Any:
    """Return pystac.

    Raises
    ------
    BackendNotInstalled
        It is not installed.
    """
    try:
        import pystac
    except ImportError as error:
        raise BackendNotInstalled("STAC Items need pystac: pip install 'sar2optical[cluster]'") from error
    return pystac
