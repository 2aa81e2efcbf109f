"""Directories of TIFF files, written and read; files of GDAL and tifffile too. Sources as in the module."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.io import MemoryFile

from sar2optical.mosaic.tiff import (
    BYTE_COUNTS,
    COMPRESSION,
    HEIGHT,
    OFFSETS,
    SUBFILE,
    TILE_WIDTH,
    WIDTH,
    Entry,
    NotTiff,
    ascii_entry,
    header,
    long_entry,
    numbers,
    read_directories,
)

# Values that fit into an entry and values that do not, of odd and even length; 12: doubles.
DIRECTORIES = [
    {
        WIDTH: long_entry([70000]), HEIGHT: Entry(3, 1, b"\x05\0"), 258: Entry(3, 3, struct.pack("<3H", 8, 8, 8)),
        270: ascii_entry("größe"), 305: ascii_entry("ab"), OFFSETS: long_entry([1, 2**32 - 1, 3]),
        33550: Entry(12, 3, struct.pack("<3d", 10.5, -1 / 3, 0)), 65000: Entry(7, 5, b"\0\1\2\3\4"),
    },
    {SUBFILE: long_entry([4]), BYTE_COUNTS: long_entry([], big=False)},
    {WIDTH: long_entry([2**40, 1], big=True)},
]  # fmt: skip


@pytest.mark.parametrize("note", [b"", b"odd", b"even"])
@pytest.mark.parametrize("big", [False, True])
def test_directories_are_read_as_they_were_written(big, note):
    file = header(DIRECTORIES, note=note, big=big)
    assert file[:4] == (b"II+\0" if big else b"II*\0")
    assert file[(16 if big else 8) :].startswith(note)
    assert read_directories(file) == DIRECTORIES
    assert read_directories(file + b"pixels") == DIRECTORIES


def test_a_header_by_hand():
    found = header([{WIDTH: Entry(3, 1, b"\x07\0"), 305: ascii_entry("abcd")}])
    expected = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2)
    expected += struct.pack("<HHIHH", 256, 3, 1, 7, 0)
    expected += struct.pack("<HHII", 305, 2, 5, 38)  # 8 + 2 + 2 x 12 + 4
    expected += struct.pack("<I", 0) + b"abcd\0\0"  # values begin at even offsets
    assert found == expected


def test_the_length_does_not_depend_on_values():
    def made(value, *, big):
        entries = {OFFSETS: long_entry([value] * 5, big=big), BYTE_COUNTS: long_entry([value])}
        return header([entries, entries], note=b"abc", big=big)

    assert len(made(0, big=False)) == len(made(2**32 - 1, big=False))
    assert len(made(0, big=True)) == len(made(2**32 - 1, big=True)) > len(made(0, big=False))


@pytest.mark.parametrize("big", [False, True])
def test_a_file_that_ends_early_is_not_a_tiff(big):
    file = header(DIRECTORIES, note=b"note", big=big)
    for length in range(len(file)):
        with pytest.raises(NotTiff):
            read_directories(file[:length])


@pytest.mark.parametrize("big", [False, True])
def test_a_damaged_file_gives_directories_or_is_not_a_tiff(big):
    file = header(DIRECTORIES, note=b"note", big=big)
    refused = 0
    for at in range(len(file)):
        for changed in (*(file[at] ^ 1 << bit for bit in range(8)), 0, 255):
            data = bytearray(file)
            data[at] = changed
            try:
                found = read_directories(bytes(data))
            except NotTiff:
                refused += 1
            else:
                assert all(len(entry.data) >= entry.count for one in found for entry in one.values())
    assert refused > 100


def test_directories_in_a_circle_are_read_once():
    file = bytearray(header([{WIDTH: long_entry([5])}]))
    file[-4:] = struct.pack("<I", 8)
    assert read_directories(bytes(file)) == [{WIDTH: long_entry([5])}]


@pytest.mark.parametrize(
    "file", [b"", b"II", b"MM\0*\0\0\0\x08", b"II*\0", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff"]
)
def test_other_files_are_not_little_endian_tiffs(file):
    with pytest.raises(NotTiff):
        read_directories(file)


def test_a_file_without_an_image_has_no_directory():
    assert read_directories(b"II*\0\0\0\0\0") == []


def test_only_unsigned_integers_are_numbers():
    assert numbers(Entry(3, 2, b"\1\0\2\0")).tolist() == [1, 2]
    assert numbers(long_entry([2**32 - 1])).tolist() == [2**32 - 1]
    assert numbers(long_entry([2**40], big=True)).tolist() == [2**40]
    for entry in (ascii_entry("a"), Entry(12, 1, bytes(8)), Entry(9, 1, bytes(4))):
        with pytest.raises(NotTiff, match=f"has type {entry.kind}"):
            numbers(entry)


def by_gdal(pixels, **options):
    count, height, width = pixels.shape
    gcps = [GroundControlPoint(row, col, 7 + col, 45 - row, 1 / 3) for row in (0, 50) for col in (0, 9, 70)]
    profile = {"count": count, "height": height, "width": width, "dtype": "uint8", "gcps": gcps, "crs": "EPSG:4326"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile, **options) as dataset:
            dataset.write(pixels)
            dataset.update_tags(MODEL="größe <b>")
        return memory.read()


def by_tifffile(pixels, *, bigtiff, tile):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder="<") as writer:
        for image in (pixels, pixels[:, ::2, ::2]):
            colours = np.ascontiguousarray(image.transpose(1, 2, 0))
            writer.write(colours, photometric="rgb", tile=tile, description="size", metadata=None)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 90, 130), np.uint8)
FILES = {
    "GDAL": lambda: by_gdal(PIXELS, tiled=True, blockxsize=64, blockysize=64, interleave="pixel", compress="deflate"),
    "GDAL, BigTIFF": lambda: by_gdal(PIXELS, tiled=True, blockxsize=16, blockysize=16, bigtiff="yes"),
    "tifffile": lambda: by_tifffile(PIXELS, bigtiff=False, tile=(64, 64)),
    "tifffile, BigTIFF": lambda: by_tifffile(PIXELS, bigtiff=True, tile=(16, 32)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_are_read_as_tifffile_reads_them(tmp_path, name):
    (tmp_path / "file.tif").write_bytes(FILES[name]())
    found = read_directories((tmp_path / "file.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "file.tif") as file:
        assert len(found) == len(file.pages) == (1 if "GDAL" in name else 2)
        for ours, page in zip(found, file.pages, strict=True):
            assert sorted(ours) == sorted(tag.code for tag in page.tags)
            for tag in page.tags:
                assert (ours[tag.code].kind, ours[tag.code].count) == (tag.dtype, tag.count)
            assert tuple(numbers(ours[OFFSETS])) == page.dataoffsets
            assert tuple(numbers(ours[BYTE_COUNTS])) == page.databytecounts
            assert (numbers(ours[HEIGHT])[0], numbers(ours[WIDTH])[0]) == page.shape[:2]
            assert numbers(ours[TILE_WIDTH])[0] == page.tilewidth
            assert numbers(ours[COMPRESSION])[0] == page.compression
    # All values, by a file that holds the same directories and is read by tifffile again.
    (tmp_path / "again.tif").write_bytes(header(found, big="Big" in name))
    with tifffile.TiffFile(tmp_path / "file.tif") as file, tifffile.TiffFile(tmp_path / "again.tif") as again:
        for page, copy in zip(file.pages, again.pages, strict=True):
            assert {tag.code: tag.value for tag in page.tags} == {tag.code: tag.value for tag in copy.tags}


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_that_end_early_give_the_directories_or_are_not_tiffs(name):
    file = FILES[name]()
    whole, complete = read_directories(file), []
    for length in range(0, len(file), 1 if len(file) < 40_000 else 7):
        try:
            assert read_directories(file[:length]) == whole
            complete.append(length)
        except NotTiff:
            assert not complete  # once everything is there, more bytes change nothing
