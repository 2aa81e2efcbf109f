"""Present strips on disk as one raster: GDAL's virtual format (VRT), with overviews, georeference and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from sar2optical.mosaic.overviews import Level
from sar2optical.scene import Georeference

__all__ = ["BandNotes", "band_elements", "describe", "georeference_elements", "metadata_elements", "to_bytes"]


_DATA_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}
"""GDAL's names of types."""

_MASK = "mask,1"
"""Name of the mask among a file's bands."""


def describe(level: Level, kind: str, overviews: Sequence[Level] = ()) -> ET.Element:
    """Describe the strips of a level as one raster.

    Parameters
    ----------
    level
        Level to describe; its strips are in the folder of the VRT.
    kind
        "masked" (bands and a mask), "rgba" (bands and alpha) or "rgb"; of one or three bands of bytes.
    overviews
        Levels of its overviews, whose VRTs are in the same folder.
    """
    root = ET.Element("VRTDataset", rasterXSize=str(level.width), rasterYSize=str(level.height))
    colours = _colours(level.bands, level.dtype)
    for number, colour in enumerate([*colours, "Alpha"] if kind == "rgba" else colours, start=1):
        band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        ET.SubElement(band, "ColorInterp").text = colour
        for overview in overviews:  # GDAL takes the overviews of the mask from the masks of these
            element = ET.SubElement(band, "Overview")
            ET.SubElement(element, "SourceFilename", relativeToVRT="1").text = overview.vrt_name
            ET.SubElement(element, "SourceBand").text = str(number)
        _add_strips(band, level, str(number) if number <= level.bands else _MASK)
    if kind == "masked":
        mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        _add_strips(mask, level, _MASK)
    return root


def _colours(bands: int, dtype: str) -> list[str]:
    return ["Red", "Green", "Blue"] if (bands, dtype) == (3, "uint8") else ["Gray", *["Undefined"] * (bands - 1)]


@dataclass(frozen=True, kw_only=True)
class BandNotes:
    """What a GeoTIFF says about its bands, beside their pixels."""

    names: tuple[str, ...] = ()
    """Name of each band; empty: they have none."""
    scale: float = 1.0
    """Factor from stored numbers to values."""
    offset: float = 0.0
    """Summand."""


def band_elements(bands: int, dtype: str, notes: BandNotes | None) -> list[ET.Element]:
    """Return the VRT elements of the bands of a GeoTIFF, without sources."""
    elements = []
    for number, colour in enumerate(_colours(bands, dtype), start=1):
        band = ET.Element("VRTRasterBand", dataType=_DATA_TYPES[dtype], band=str(number))
        if notes:
            if notes.names:
                ET.SubElement(band, "Description").text = notes.names[number - 1]
            ET.SubElement(band, "Offset").text = repr(notes.offset)
            ET.SubElement(band, "Scale").text = repr(notes.scale)
        ET.SubElement(band, "ColorInterp").text = colour
        elements.append(band)
    return elements


def _add_strips(band: ET.Element, level: Level, number: str) -> None:
    """Add all strips of a level as sources of a VRT band: band `number` of each strip, or its mask."""
    for row, rows in level.strips:
        source = ET.SubElement(band, "SimpleSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = level.strip_name(row)
        ET.SubElement(source, "SourceBand").text = number
        # If the size and type are given, GDAL opens a strip only when it reads it.
        size = {"RasterXSize": str(level.width), "RasterYSize": str(rows)}
        ET.SubElement(source, "SourceProperties", size, DataType="Byte")
        extent = {"xOff": "0", "xSize": str(level.width), "ySize": str(rows)}
        ET.SubElement(source, "SrcRect", extent, yOff="0")
        ET.SubElement(source, "DstRect", extent, yOff=str(row))


def georeference_elements(georeference: Georeference) -> list[ET.Element]:
    """Return the VRT elements of a georeference, numbers written by repr so that they read back as the same float."""
    elements = []
    if georeference.crs is not None:
        elements.append(ET.Element("SRS"))
        elements[-1].text = georeference.crs.to_wkt(version="WKT2_2019")
    if georeference.transform is not None:
        numbers = (repr(float(number)) for number in georeference.transform.to_gdal())
        elements.append(ET.Element("GeoTransform"))
        elements[-1].text = ", ".join(numbers)
    if georeference.gcps:
        crs = georeference.gcp_crs
        projection = crs.to_wkt(version="WKT2_2019") if crs is not None else ""
        elements.append(ET.Element("GCPList", Projection=projection))
        for gcp in georeference.gcps:
            position = {"Pixel": gcp.col, "Line": gcp.row, "X": gcp.x, "Y": gcp.y, "Z": gcp.z or 0.0}
            attributes = {key: repr(float(value)) for key, value in position.items()}
            ET.SubElement(elements[-1], "GCP", attributes, Id=str(gcp.id or ""))
    return elements


def metadata_elements(tags: Mapping[str, str]) -> list[ET.Element]:
    """Return the VRT elements of tags, one for each domain: "DOMAIN:NAME" is a tag of a domain of its own."""
    elements = {"": ET.Element("Metadata")}
    for key, value in tags.items():
        # GDAL's transforms always refer to pixel corners; with this tag it would invent a missing CRS.
        if key == "AREA_OR_POINT":
            continue
        domain, _, name = key.rpartition(":")
        if domain not in elements:
            elements[domain] = ET.Element("Metadata", domain=domain)
        ET.SubElement(elements[domain], "MDI", key=name).text = str(value)
    return list(elements.values())


def to_bytes(root: ET.Element) -> bytes:
    """Encode a VRT as XML."""
    text: str = ET.tostring(root, encoding="unicode")
    return text.encode(errors="replace")  # tags may contain file names that are not UTF-8
