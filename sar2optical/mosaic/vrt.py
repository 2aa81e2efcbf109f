"""Strips on disk as one raster: GDAL's VRT, with overviews, georeference and tags."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from sar2optical.mosaic.overviews import Level
from sar2optical.scene import Georeference


def describe(level: Level, kind: str, overviews: list[Level] | None = None) -> ET.Element:
    """Describe a level's strips as one raster.

    Parameters
    ----------
    level
        Its strips lie beside the VRT.
    kind
        "masked" (three bands and a mask), "rgba" or "rgb".
    overviews
        Their VRTs lie beside this one.
    """
    root = ET.Element("VRTDataset", rasterXSize=str(level.width), rasterYSize=str(level.height))
    colours = ("Red", "Green", "Blue", "Alpha")[: 4 if kind == "rgba" else 3]
    for number, colour in enumerate(colours, start=1):
        band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        ET.SubElement(band, "ColorInterp").text = colour
        for overview in overviews or []:  # the mask's overviews are these ones' masks
            element = ET.SubElement(band, "Overview")
            ET.SubElement(element, "SourceFilename", relativeToVRT="1").text = overview.vrt_name
            ET.SubElement(element, "SourceBand").text = str(number)
        _add_strips(band, level, number)
    if kind == "masked":
        mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        _add_strips(mask, level, 4)
    return root


def _add_strips(band: ET.Element, level: Level, number: int) -> None:
    """Say that a band of a VRT is this one of the strips."""
    for row, rows in level.strips:
        source = ET.SubElement(band, "SimpleSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = level.strip_name(row)
        ET.SubElement(source, "SourceBand").text = str(number)
        # With the size and type given, GDAL opens a strip only when it reads it.
        size = {"RasterXSize": str(level.width), "RasterYSize": str(rows)}
        ET.SubElement(source, "SourceProperties", size, DataType="Byte")
        extent = {"xOff": "0", "xSize": str(level.width), "ySize": str(rows)}
        ET.SubElement(source, "SrcRect", extent, yOff="0")
        ET.SubElement(source, "DstRect", extent, yOff=str(row))


def place_of(georeference: Georeference) -> list[ET.Element]:
    """Where a VRT lies, every number as repr gives it, which reads back as the same float."""
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
            place = {"Pixel": gcp.col, "Line": gcp.row, "X": gcp.x, "Y": gcp.y, "Z": gcp.z or 0.0}
            attributes = {key: repr(float(value)) for key, value in place.items()}
            ET.SubElement(elements[-1], "GCP", attributes, Id=str(gcp.id or ""))
    return elements


def metadata_of(tags: Mapping[str, str]) -> ET.Element:
    """Give a VRT's tags."""
    element = ET.Element("Metadata")
    for key, value in tags.items():
        # To GDAL a transform is of pixel corners either way; for this tag it makes up a CRS where none is.
        if key != "AREA_OR_POINT":
            ET.SubElement(element, "MDI", key=str(key)).text = str(value)
    return element


def to_bytes(root: ET.Element) -> bytes:
    """Write a VRT out."""
    text: str = ET.tostring(root, encoding="unicode")
    return text.encode(errors="replace")  # file names that are no UTF-8 may be in the tags
