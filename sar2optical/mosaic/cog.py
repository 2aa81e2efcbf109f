"""Lay out a cloud-optimized GeoTIFF (COG) from strips, whose blocks it takes as they are, and verify it.

The order is that of GDAL's COG driver (https://gdal.org/drivers/raster/cog.html): directories, then the blocks of the
smallest overview first and those of the mosaic last, the mask's beside the pixels'.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import rasterio.shutil
from rasterio.io import MemoryFile
from rasterio.windows import Window

from sar2optical._utils.files import write_all
from sar2optical.errors import OutputUnwritable
from sar2optical.mosaic.coding import metadata_of
from sar2optical.mosaic.overviews import Level
from sar2optical.mosaic.rasters import no_georeference_warning, open_raster
from sar2optical.mosaic.strips import Strip, block_offsets, block_sizes
from sar2optical.mosaic.tiff import (
    BIG_FROM,
    BYTE_COUNTS,
    HEIGHT,
    METADATA,
    OFFSETS,
    SUBFILE,
    WIDTH,
    Directory,
    ascii_entry,
    header,
    long_entry,
    read_directories,
)
from sar2optical.mosaic.vrt import to_bytes

__all__ = ["build_cog", "verify_cog"]

_STRUCTURE = """LAYOUT=IFDS_BEFORE_DATA
BLOCK_ORDER=ROW_MAJOR
BLOCK_LEADER=SIZE_AS_UINT4
BLOCK_TRAILER=LAST_4_BYTES_REPEATED
KNOWN_INCOMPATIBLE_EDITION=NO
 MASK_INTERLEAVED_WITH_IMAGERY=YES
"""
"""Promises to readers, as GDAL's COG driver writes them; GDAL overwrites the blank when it changes the file."""

_NOTE = f"GDAL_STRUCTURAL_METADATA_SIZE={len(_STRUCTURE):06d} bytes\n{_STRUCTURE}\0".encode()

# fmt: off
_METADATA_START, _METADATA_END = "<GDALMetadata>\n", "</GDALMetadata>"

_OF_PIXELS = frozenset({
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347,
    530, 532,
})
# fmt: on
"""Tags that describe how pixels are stored (TIFF 6.0); all others describe the image."""

_REDUCED, _IS_MASK = 1, 4  # bits of the tag SUBFILE


@dataclass(frozen=True)
class _Stored:
    """Blocks of a level on disk."""

    level: Level
    image: Directory
    mask: Directory
    sizes: npt.NDArray[np.int64]
    """int64 `(blocks, 2)`: bytes of the pixels and of the mask of each block."""
    body: int
    """Bytes of all blocks, with their lengths and repeated bytes."""


def build_cog(
    made: Path, levels: Sequence[Level], *, run: str, description: Sequence[ET.Element], out: Path, threads: int
) -> None:
    """Lay out strips as a COG.

    Parameters
    ----------
    made
        Path of the COG, in the folder of the strips.
    levels
        The mosaic and its overviews, all strips on disk.
    run
        Fingerprint of the run, which each strip must carry.
    description
        VRT elements of the georeference, the tags and the bands.
    out
        Path of the mosaic, for messages.
    threads
        Number of threads that read and check strips.

    Raises
    ------
    StripDamaged
        A strip is damaged, or another run has overwritten it.
    OutputUnwritable
        The disk cannot hold the COG.
    OSError
        The disk is full or not writable.
    """
    stored = [_stored(level, made.parent, run) for level in levels]
    described = _described(made.parent, description)
    size = sum(one.body for one in stored)
    big = size + len(_header(stored, described, big=True)) >= BIG_FROM
    begin = _header(stored, described, big=big)
    _check_space(out, made.parent, len(begin) + size)
    with (
        made.open("wb") as file,
        ThreadPoolExecutor(threads, "strips") as pool,
        ThreadPoolExecutor(1, "disk") as disk,
    ):
        file.write(begin)
        flushed = disk.submit(os.fsync, file.fileno())
        for strip in _strips(made.parent, levels[::-1], run, pool, ahead=threads):
            write_all(file, strip.body)
            if flushed.done():  # the disk writes while strips are read
                flushed.result()
                flushed = disk.submit(os.fsync, file.fileno())
        flushed.result()


def _check_space(out: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputUnwritable(
            f"cannot write {out}: it needs {needed / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free there: "
            "free some space, or choose another folder"
        )


def _stored(level: Level, folder: Path, run: str) -> _Stored:
    """Read the directories of a level's strips."""
    heads = [Strip.read_head(folder / level.strip_name(row), run) for row, _ in level.strips]
    sizes = np.concatenate([block_sizes(*head) for head in heads])
    return _Stored(level, *heads[0], sizes, body=int(block_offsets(sizes, 0)[-1, 1] + sizes[-1, 1] + 4))


def _strips(
    folder: Path, levels: Sequence[Level], run: str, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[Strip]:
    """Read and check strips in threads, some ahead of the one that is written."""
    paths = [folder / level.strip_name(row) for level in levels for row, _ in level.strips]
    reading = deque(pool.submit(Strip.read, path, run) for path in paths[:ahead])
    for following in [*paths[ahead:], *[None] * len(reading)]:
        strip = reading.popleft().result()
        if following:
            reading.append(pool.submit(Strip.read, following, run))
        yield strip


def _described(folder: Path, description: Sequence[ET.Element]) -> Directory:
    """Return georeference and tags as GDAL writes them to a GeoTIFF."""
    root = ET.Element("VRTDataset", rasterXSize="1", rasterYSize="1")
    root.extend(description)
    source = folder / "mosaic.vrt"
    source.write_bytes(to_bytes(root))
    with no_georeference_warning(), MemoryFile(ext=".tif") as memory:
        rasterio.shutil.copy(source, memory.name, driver="GTiff", ENDIANNESS="LITTLE")
        (directory,) = read_directories(memory.read())
    found = {tag: entry for tag, entry in directory.items() if tag not in _OF_PIXELS}
    return _noted(found, _items_of_domains(description))


def _header(stored: Sequence[_Stored], described: Directory, *, big: bool) -> bytes:
    """Make everything before the first block."""
    without_offsets = header(_directories(stored, described, big=big, start=0), note=_NOTE, big=big)
    return header(_directories(stored, described, big=big, start=len(without_offsets)), note=_NOTE, big=big)


def _directories(stored: Sequence[_Stored], described: Directory, *, big: bool, start: int) -> list[Directory]:
    """Make the directories of the mosaic, its mask, the overviews and their masks, if blocks begin at `start`."""
    pairs = []
    for one in reversed(stored):  # the smallest overview first
        pairs.append(_pair(one, start, big=big))
        start += one.body
    (image, mask), *overviews = pairs[::-1]
    return [
        {**image, **_noted(described, metadata_of(image))},
        mask,
        *(image for image, _ in overviews),
        *(mask for _, mask in overviews),
    ]


def _noted(described: Directory, items: str) -> Directory:
    """Add items to GDAL's metadata, which is XML."""
    if not items:
        return described
    held = described.get(METADATA) or ascii_entry(_METADATA_START + _METADATA_END)
    text = held.data.rstrip(b"\0").decode()
    return {**described, METADATA: ascii_entry(text.replace(_METADATA_END, f"{items}{_METADATA_END}"))}


def _items_of_domains(description: Sequence[ET.Element]) -> str:
    """Return the metadata of domains as items of GDAL's XML: its GeoTIFF driver leaves them out."""
    items = ET.Element("items")
    for metadata in (element for element in description if element.get("domain")):
        for entry in metadata:
            item = ET.SubElement(items, "Item", name=entry.get("key", ""), domain=metadata.get("domain", ""))
            item.text = entry.text
    return "".join(f"  {ET.tostring(item, encoding='unicode')}\n" for item in items)


def _pair(one: _Stored, start: int, *, big: bool) -> tuple[Directory, Directory]:
    offsets = block_offsets(one.sizes, start)
    reduced = _REDUCED if one.level.number else 0
    pair = []
    for k, directory in enumerate((one.image, one.mask)):
        kind = reduced | (_IS_MASK if k else 0)
        changed = {
            **({SUBFILE: long_entry([kind])} if kind else {}),  # 0 is the default, left out as by GDAL
            WIDTH: long_entry([one.level.width]),
            HEIGHT: long_entry([one.level.height]),
            OFFSETS: long_entry(offsets[:, k], big=big),
            BYTE_COUNTS: long_entry(one.sizes[:, k]),
        }
        kept = {tag: entry for tag, entry in directory.items() if tag in _OF_PIXELS}
        pair.append(kept | changed)
    return pair[0], pair[1]


def verify_cog(made: Path, levels: Sequence[Level], *, run: str) -> None:
    """Compare the last block of every level of a COG, and of its mask, with the strips.

    Raises
    ------
    OSError
        The COG differs from its strips.
    """
    with open_raster(made) as cog:
        overviews = len(cog.overviews(1))
    if overviews != len(levels) - 1:
        raise OSError(f"the file has {overviews} overviews instead of {len(levels) - 1}")
    for level in levels:
        which = {"overview_level": level.number - 1} if level.number else {}
        row, rows = level.strips[-1]
        col = (level.width - 1) // level.block * level.block
        with open_raster(made, **which) as cog:
            if cog.shape != level.shape:
                raise OSError(f"a level of the file has shape {cog.shape} instead of {level.shape}")
            last = Window.from_slices((row, row + rows), (col, level.width))
            found = np.concatenate((cog.read(window=last), cog.read_masks(1, window=last)[None]))
        expected = Strip.read(made.parent / level.strip_name(row), run).pixels(col)
        if not np.array_equal(found, expected):
            raise OSError("the pixels of the file differ from those of the strips")
