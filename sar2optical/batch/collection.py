"""Write a STAC Collection and VRTs over all mosaics of a folder, from their Items."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from sar2optical._utils.files import write_output
from sar2optical.batch.stac import is_own, needs_pystac, write_json
from sar2optical.errors import OutputExists
from sar2optical.mosaic.tags import NOTE
from sar2optical.mosaic.vrt import georeference_elements, metadata_elements, to_bytes
from sar2optical.scene import Georeference

__all__ = ["COLLECTION", "VRT", "MosaicItem", "describe_mosaics", "is_own_vrt", "write_collection", "write_vrts"]

COLLECTION = "collection.json"
"""Name of the Collection in the folder of the mosaics."""

VRT = "mosaics.vrt"
"""Name of the VRT over all mosaics that have one CRS; `mosaics-EPSG-32632.vrt` where there are several CRSs."""

_OURS = "SAR2OPTICAL_MOSAICS"
"""Tag of a VRT of this project: the number of its mosaics."""

_MAX_SIDE = 2**31 - 1
"""Most pixels of a raster's side in GDAL."""

_log = logging.getLogger(__name__)

_COLOURS = {"red": "Red", "green": "Green", "blue": "Blue"}


@dataclass(frozen=True, kw_only=True)
class MosaicItem:
    """Fields of a mosaic's Item that a VRT needs."""

    href: str
    """Path of the mosaic, relative to the folder."""
    when: str
    """Time of acquisition (RFC 3339)."""
    crs: str
    """CRS as a code or as WKT."""
    transform: Affine
    """Affine from pixel to map coordinates, without rotation."""
    shape: tuple[int, int]
    """Height and width."""
    bands: tuple[tuple[str, str, float, float], ...]
    """Name and type of each band, scale and offset of its numbers."""


def write_collection(folder: Path) -> Path | None:
    """Write `collection.json` over all Items of this project in a folder, and link the Items to it.

    Parameters
    ----------
    folder
        Folder of mosaics and their Items.

    Returns
    -------
    Path or None
        None if the folder has no Item.

    Raises
    ------
    OutputExists
        A file of that name exists that is not a Collection of this project.
    OutputUnwritable
        The folder is not writable.
    """
    pystac = needs_pystac()
    path = folder / COLLECTION
    if path.exists() and not is_own(path):
        raise OutputExists(f"{path}: exists and is not a Collection of sar2optical: move it, or give --no-stac")
    items = _items_in(folder)
    if not items:
        return None
    name = folder.resolve().name or "mosaics"
    times = sorted(datetime.fromisoformat(record["properties"]["datetime"]) for record in items.values())
    collection = pystac.Collection(
        id=name,
        title=name,
        description=f"RGB images {NOTE}.",
        extent=pystac.Extent(
            pystac.SpatialExtent([_bbox_of(list(items.values()))]),
            pystac.TemporalExtent([[times[0], times[-1]]]),
        ),
        license="other",
    )
    record = collection.to_dict(include_self_link=False)
    record["sar2optical:items"] = len(items)
    record["links"] = [
        {"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"},
        *({"rel": "item", "href": f"./{file}", "type": "application/geo+json"} for file in sorted(items)),
    ]
    for file, item in items.items():
        _link_to_collection(folder / file, item, name)
    write_json(path, record)
    return path


def write_vrts(folder: Path) -> list[Path]:
    """Write a VRT over all mosaics of a folder that have one CRS and the same bands; one for each such group.

    Where mosaics overlap, the latest acquisition covers earlier ones, except at its invalid pixels. Mosaics without
    an affine, or with a rotated one, are in no VRT.

    Returns
    -------
    list of Path
        Paths of the VRTs. VRTs of earlier runs that are no longer needed are deleted.

    Raises
    ------
    OutputExists
        A file of such a name exists that is not a VRT of this project.
    """
    groups = defaultdict(list)
    for record in _items_in(folder).values():
        if (item := _mosaic_of(record)) is not None:
            groups[item.crs, item.bands].append(item)
    written = []
    for number, ((crs, _), items) in enumerate(sorted(groups.items()), 1):
        path = folder / (VRT if len(groups) == 1 else f"mosaics-{_label_of(crs, number)}.vrt")
        path = path.with_stem(f"{path.stem}-{number}") if path in written else path
        if path.exists() and not is_own_vrt(path):
            raise OutputExists(f"{path}: exists and is not a VRT of sar2optical: move it, or give --no-stac")
        if (root := describe_mosaics(items)) is not None:
            write_output(path, to_bytes(root))
            written.append(path)
    for path in folder.glob("mosaics*.vrt"):
        if path not in written and is_own_vrt(path):
            path.unlink()
    return written


def describe_mosaics(items: list[MosaicItem]) -> ET.Element | None:
    """Describe mosaics of one CRS as one raster, in pixels of the finest of them; None if it would be too large."""
    items = sorted(items, key=lambda item: (item.when, item.href))
    pixel = min(((item.transform.a, -item.transform.e) for item in items), key=lambda size: size[0] * size[1])
    west = min(item.transform.c for item in items)
    north = max(item.transform.f for item in items)
    places = [_extent_in(item, west, north, pixel) for item in items]
    width = round(max(col + cols for col, _, cols, _ in places))
    height = round(max(row + rows for _, row, _, rows in places))
    if max(width, height) > _MAX_SIDE:
        return None
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    transform = Affine(pixel[0], 0, west, 0, -pixel[1], north)
    root.extend(georeference_elements(Georeference(crs=CRS.from_user_input(items[0].crs), transform=transform)))
    root.extend(metadata_elements({_OURS: str(len(items)), "TIFFTAG_IMAGEDESCRIPTION": f"RGB images {NOTE}"}))
    for number, (name, kind, scale, offset) in enumerate(items[0].bands, 1):
        band = ET.SubElement(root, "VRTRasterBand", dataType=_gdal_type(kind), band=str(number))
        ET.SubElement(band, "Description").text = name
        if (scale, offset) != (1, 0):
            ET.SubElement(band, "Offset").text, ET.SubElement(band, "Scale").text = repr(offset), repr(scale)
        ET.SubElement(band, "ColorInterp").text = _COLOURS.get(name, "Undefined")
        _add_mosaics(band, items, places, str(number))
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    _add_mosaics(mask, items, places, "mask,1")
    return root


def _add_mosaics(
    band: ET.Element, items: list[MosaicItem], places: list[tuple[float, float, float, float]], number: str
) -> None:
    """Add all mosaics as sources of a band; invalid pixels of a mosaic cover nothing."""
    for item, (col, row, cols, rows) in zip(items, places, strict=True):
        height, width = item.shape
        source = ET.SubElement(band, "ComplexSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = item.href
        ET.SubElement(source, "SourceBand").text = number
        # If the size and type are given, GDAL opens a mosaic only when it reads it.
        ET.SubElement(
            source,
            "SourceProperties",
            RasterXSize=str(width),
            RasterYSize=str(height),
            DataType=band.get("dataType", "Byte"),
        )
        ET.SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=str(width), ySize=str(height))
        ET.SubElement(source, "DstRect", xOff=repr(col), yOff=repr(row), xSize=repr(cols), ySize=repr(rows))
        ET.SubElement(source, "UseMaskBand").text = "true"


def _extent_in(
    item: MosaicItem, west: float, north: float, pixel: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return column, row, width and height of a mosaic in the pixels of a VRT."""
    a, e, c, f = item.transform.a, item.transform.e, item.transform.c, item.transform.f
    edges = (c - west) / pixel[0], (north - f) / pixel[1], item.shape[1] * a / pixel[0], item.shape[0] * -e / pixel[1]
    col, row, cols, rows = (_whole(edge) for edge in edges)
    return col, row, cols, rows


def _whole(edge: float) -> float:
    """Round an edge that is a whole pixel but for float arithmetic."""
    return float(round(edge)) if abs(edge - round(edge)) < 1e-6 * max(1.0, abs(edge)) ** 0.5 else edge


def _gdal_type(kind: str) -> str:
    return {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}[kind]


def _items_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the Items of this project in a folder whose mosaics exist, by file name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == COLLECTION or not is_own(path):
            continue
        record = json.loads(path.read_bytes())
        if record.get("type") != "Feature":
            continue
        try:
            _mosaic_of(record)
            datetime.fromisoformat(record["properties"]["datetime"])
            exists = (folder / record["assets"]["mosaic"]["href"]).exists() and isinstance(record["links"], list)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("%s: is left out of %s and %s: not an Item as written (%r)", path, COLLECTION, VRT, error)
            continue
        if exists:
            found[path.name] = record
    return found


def _mosaic_of(record: dict[str, Any]) -> MosaicItem | None:
    """Read the fields of an Item; None if its mosaic has no affine, or a rotated one."""
    properties, asset = record["properties"], record["assets"]["mosaic"]
    crs = properties.get("proj:code") or properties.get("proj:wkt2")
    numbers = properties.get("proj:transform")
    if not crs or not numbers or not {"bands", "raster:bands"} <= asset.keys():
        return None
    transform = Affine(*numbers)
    if transform.b or transform.d or transform == Affine.identity() or transform.a <= 0 or transform.e >= 0:
        return None
    height, width = properties["proj:shape"]
    return MosaicItem(
        href=asset["href"],
        when=properties["datetime"],
        crs=crs,
        transform=transform,
        shape=(height, width),
        bands=tuple(
            (band["name"], band["data_type"], values.get("scale", 1), values.get("offset", 0))
            for band, values in zip(asset["bands"], asset["raster:bands"], strict=True)
        ),
    )


def _bbox_of(items: list[dict[str, Any]]) -> list[float]:
    """Return west, south, east and north of all Items; -180 to 180 if one crosses the antimeridian."""
    boxes = [item["bbox"] for item in items if item.get("bbox")]
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if any(box[0] > box[2] for box in boxes):
        return [-180.0, south, 180.0, north]
    return [min(box[0] for box in boxes), south, max(box[2] for box in boxes), north]


def _link_to_collection(path: Path, item: dict[str, Any], name: str) -> None:
    """Write the links of an Item to its Collection, where it has none."""
    href = f"./{COLLECTION}"
    others = [link for link in item["links"] if link["rel"] not in ("root", "parent", "collection")]
    links = [{"rel": rel, "href": href, "type": "application/json"} for rel in ("root", "parent", "collection")]
    linked = item | {"links": [*links, *others], "collection": name}
    if linked != item:
        write_json(path, linked)


def _label_of(crs: str, number: int) -> str:
    """Return a CRS as part of a file name."""
    try:
        code = CRS.from_user_input(crs).to_epsg()
    except CRSError:
        code = None
    return f"EPSG-{code}" if code else f"CRS-{number}"


def is_own_vrt(path: Path) -> bool:
    """Return whether a file is a VRT of this project over mosaics."""
    try:
        return _OURS.encode() in path.read_bytes()
    except OSError:
        return False
