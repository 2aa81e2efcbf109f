"""Make pictures without a georeference: PNG and JPEG outputs, and small previews."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import rasterio.shutil

from sar2optical.errors import OptionError
from sar2optical.mosaic.coding import BlockCoding, encode
from sar2optical.mosaic.overviews import Level, halve
from sar2optical.mosaic.rasters import no_georeference_warning, open_raster
from sar2optical.mosaic.vrt import describe, to_bytes

__all__ = ["check_picture", "encode_preview", "write_picture"]

_JPEG_LONGEST = 65500
"""libjpeg's JPEG_MAX_DIMENSION."""

_ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""Last bytes of a complete file, by GDAL driver."""


def check_picture(out: Path, driver: str, shape: tuple[int, int], coding: BlockCoding) -> None:
    """Refuse a picture that its format cannot hold.

    Raises
    ------
    OptionError
        A side is too long for JPEG, or a PNG or JPEG would have other bands than one or three of bytes.
    """
    if driver != "COG" and (coding.dtype != "uint8" or coding.bands not in (1, 3)):
        raise OptionError(
            f"{out.name}: a {driver} has 1 or 3 bands of uint8, the mosaic has {coding.bands} of {coding.dtype}: "
            "give a name that ends in .tif"
        )
    if driver == "JPEG" and max(shape) > _JPEG_LONGEST:
        raise OptionError(
            f"{out.name}: a JPEG has at most {_JPEG_LONGEST} pixels a side, the mosaic has {max(shape)}: "
            "give a name that ends in .png or .tif"
        )


def write_picture(made: Path, mosaic: Level, *, driver: str, all_valid: bool, comment: str) -> None:
    """Write strips as a PNG or JPEG with a comment; GDAL would write georeference and tags to a sidecar.

    Parameters
    ----------
    made
        Path of the picture, in the folder of the strips. The VRT that GDAL reads is written there too.
    mosaic
        Level 0, all strips on disk.
    driver
        "PNG" or "JPEG".
    all_valid
        Whether all pixels are valid; otherwise a PNG gets an alpha band.
    comment
        Comment of the picture.

    Raises
    ------
    OSError
        GDAL wrote an incomplete file.
    """
    source = made.parent / "mosaic.vrt"
    colours = "rgba" if driver == "PNG" and not all_valid else "rgb"
    source.write_bytes(to_bytes(describe(mosaic, colours)))
    options = {"QUALITY": 95} if driver == "JPEG" else {}
    rasterio.shutil.copy(source, made, driver=driver, COMMENT=comment, **options)
    ending = _ENDINGS[driver]
    with made.open("rb") as file:
        file.seek(-len(ending), os.SEEK_END)
        if file.read() != ending:
            raise OSError("GDAL wrote an incomplete file")


def encode_preview(folder: Path, levels: Sequence[Level], *, longest: int, comment: str) -> bytes:
    """Encode a small PNG of a mosaic, with an alpha band where some pixels are invalid.

    Parameters
    ----------
    folder
        Run folder, where the strips are.
    levels
        The mosaic and its overviews, all strips on disk.
    longest
        Maximum number of pixels a side. The mosaic is halved until it fits.
    comment
        Comment of the picture.
    """
    number = next((n for n, level in enumerate(levels) if max(level.shape) <= longest), -1)
    source = folder / "overview-0.vrt"
    source.write_bytes(to_bytes(describe(levels[number], "rgba")))
    with open_raster(source) as dataset:
        picture = dataset.read()
    while max(picture.shape) > longest:
        picture = halve(picture)
    with no_georeference_warning():
        bands = picture[:-1] if picture[-1].all() else picture
        return encode(bands, driver="PNG", COMMENT=comment)
