"""Assemble strips into a cloud-optimized GeoTIFF (COG) with GDAL, and verify it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import rasterio.shutil
from rasterio.windows import Window

from sar2optical.errors import OptionError, OutputUnwritable
from sar2optical.mosaic.overviews import BLOCK, Level
from sar2optical.mosaic.rasters import open_raster
from sar2optical.mosaic.vrt import describe, to_bytes

__all__ = ["COMPRESSIONS", "build_cog", "check_compression", "check_space", "verify_cog"]

_COMPRESS_OPTIONS: dict[str, dict[str, str]] = {
    # 25,000 x 16,700 pixels: level 1 took 18 s and 915 MB, GDAL's default level 6 took 29 s and 926 MB.
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "LEVEL": "1"},
    # 4096 x 4096 pixels: 0.2 s and 42.1 MB (deflate 0.4 s, 42.5 MB); GDAL's default level 9 took 0.6 s and 41.7 MB.
    "zstd": {"COMPRESS": "ZSTD", "PREDICTOR": "YES", "LEVEL": "1"},
    "lzw": {"COMPRESS": "LZW", "PREDICTOR": "YES"},
    "jpeg": {"COMPRESS": "JPEG", "QUALITY": "90"},
    "none": {"COMPRESS": "NONE"},
}
COMPRESSIONS = tuple(_COMPRESS_OPTIONS)
"""Compressions of a COG, the default first."""

_LEAST_OF_STRIPS = {"deflate": 0.7, "zstd": 0.7, "lzw": 0.7, "jpeg": 0.05}
"""Smallest ratio of a COG's size to that of its strips (ZSTD 1); 0.9 was measured on real imagery without loss."""


def check_compression(compress: str) -> None:
    """Refuse a compression that is not one of `COMPRESSIONS`.

    Raises
    ------
    OptionError
        The compression is not supported.
    """
    if compress not in _COMPRESS_OPTIONS:
        known = ", ".join(COMPRESSIONS)
        raise OptionError(f"compression {compress!r} is not supported; choose one of {known}")


def check_space(out: Path, levels: Sequence[Level], *, folder: Path, strips: int, compress: str) -> None:
    """Refuse a COG that cannot fit on the disk, before GDAL starts: libtiff prints many lines on a full disk.

    Parameters
    ----------
    out
        Path of the mosaic, for the message.
    levels
        The mosaic and its overviews.
    folder
        Folder on the disk that the COG is written to.
    strips
        Size of the strips in bytes, overviews included.
    compress
        One of `COMPRESSIONS`.

    Raises
    ------
    OutputUnwritable
        Less space is free than the COG needs at least.
    """
    if compress == "none":
        least = sum(level.height * level.width * 3 for level in levels)
    else:
        least = round(strips * _LEAST_OF_STRIPS[compress])
    free = shutil.disk_usage(folder).free
    if free < least:
        raise OutputUnwritable(
            f"cannot write {out}: it needs at least {least / 1e6:.0f} MB, {free / 1e6:.0f} MB are free there; "
            "free some space, or choose another folder"
        )


def build_cog(
    made: Path, levels: Sequence[Level], *, description: Sequence[ET.Element], compress: str, threads: int
) -> None:
    """Assemble strips into a COG.

    Parameters
    ----------
    made
        Path of the COG, in the folder of the strips. The VRTs that GDAL reads are written there too.
    levels
        The mosaic and its overviews, all strips on disk.
    description
        VRT elements of the georeference and the tags.
    compress
        One of `COMPRESSIONS`.
    threads
        Number of threads that compress.
    """
    folder = made.parent
    for level in levels[1:]:
        (folder / level.vrt_name).write_bytes(to_bytes(describe(level, "masked")))
    mosaic = describe(levels[0], "masked", overviews=levels[1:])
    mosaic.extend(description)
    source = folder / levels[0].vrt_name
    source.write_bytes(to_bytes(mosaic))
    rasterio.shutil.copy(
        source,
        made,
        driver="COG",
        BLOCKSIZE=BLOCK,
        OVERVIEWS="FORCE_USE_EXISTING",
        NUM_THREADS=threads,
        BIGTIFF="IF_SAFER",
        **_COMPRESS_OPTIONS[compress],
    )


def verify_cog(made: Path, levels: Sequence[Level], *, compress: str) -> None:
    """Compare the last block of every level of a COG, and of its mask, with the strips.

    Pixels are not compared with `compress` "jpeg", which is lossy.

    Raises
    ------
    OSError
        The COG differs from its strips.
    """
    with open_raster(made) as cog:
        overviews = len(cog.overviews(1))
    if overviews != len(levels) - 1:
        raise OSError(f"GDAL wrote {overviews} overviews, {len(levels) - 1} were expected")
    for level in levels:
        which = {"overview_level": level.number - 1} if level.number else {}
        with open_raster(made, **which) as cog, open_raster(made.parent / level.vrt_name) as source:
            if cog.shape != level.shape:
                raise OSError(f"GDAL wrote {cog.shape} pixels, {level.shape} were expected")
            last = Window.from_slices(*(((n - 1) // BLOCK * BLOCK, n) for n in level.shape))
            same = np.array_equal(cog.read_masks(1, window=last), source.read_masks(1, window=last))
            pixels = cog.read(window=last)
            if compress != "jpeg":
                same = same and np.array_equal(pixels, source.read(window=last))
        if not same:
            raise OSError("the pixels that GDAL wrote differ from the strips")
