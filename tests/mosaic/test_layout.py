"""The COG's bytes: laid out as GDAL's COG driver lays them out, which is given the same pixels at every level."""

from __future__ import annotations

import itertools
import struct
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from sar2optical.mosaic import cog as cog_module
from sar2optical.mosaic.coding import COMPRESSIONS
from sar2optical.mosaic.overviews import levels_of
from sar2optical.mosaic.tiff import OFFSETS, numbers, read_directories
from sar2optical.mosaic.vrt import describe, georeference_elements, metadata_elements, to_bytes
from tests.mosaic.test_writer import GEOREFERENCES, NORTH_UP, colours, halved, opened, write

TAGS = {"MODEL": "unet <b> & 'a'", "ü": "é → 光", "TIFFTAG_SOFTWARE": "sar2optical", "AREA_OR_POINT": "Area"}

# As in `sar2optical.mosaic.coding`, for the COG driver.
DRIVER_OPTIONS = {
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "LEVEL": 1},
    "zstd": {"COMPRESS": "ZSTD", "PREDICTOR": "YES", "LEVEL": 1},
    "lzw": {"COMPRESS": "LZW", "PREDICTOR": "YES"},
    "jpeg": {"COMPRESS": "JPEG", "QUALITY": 90},
    "webp": {"COMPRESS": "WEBP", "QUALITY": 90},
    "none": {"COMPRESS": "NONE"},
}

# Smaller than a block; one block; multiples of a block; one pixel more; far from it.
SHAPES = [(1, 1), (40, 64), (64, 64), (128, 192), (129, 65), (300, 210)]


def by_the_driver(out, rgb, valid, *, compress, blocksize, georeference, tags):
    """Write the same mosaic with GDAL's COG driver, which takes the overviews as they are."""
    folder = out.parent / "driver"
    folder.mkdir()
    levels = levels_of(valid.shape, blocksize)
    for level in levels:
        level.strips.append((0, level.height))
        profile = {"count": 3, "height": level.height, "width": level.width, "dtype": "uint8", "photometric": "rgb"}
        path = folder / level.strip_name(0)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), opened(path, mode="w", driver="GTiff", **profile) as dataset:
            dataset.write(np.where(valid, rgb, 0))
            dataset.write_mask(valid)
        rgb, valid = halved(rgb, valid)
    for level in levels:
        described = describe(level, "masked", overviews=levels[1:] if level.number == 0 else ())
        if level.number == 0:
            described.extend([*georeference_elements(georeference), *metadata_elements(tags)])
        (folder / level.vrt_name).write_bytes(to_bytes(described))
    options = {"BLOCKSIZE": blocksize, "OVERVIEWS": "FORCE_USE_EXISTING", **DRIVER_OPTIONS[compress]}
    with quietly():
        rasterio.shutil.copy(folder / levels[0].vrt_name, out, driver="COG", **options)


@contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def both(tmp_path, shape, **settings):
    """Write a mosaic by the writer and by GDAL's COG driver; return both paths, and pixels and validity."""
    settings = {"compress": "deflate", "blocksize": 64, "georeference": NORTH_UP, "tags": TAGS, **settings}
    rgb, valid = colours(*shape)
    valid[-1, -1] = True
    if settings["compress"] in ("jpeg", "webp"):  # which are not made for noise
        rgb = np.stack(np.broadcast_arrays(*np.ogrid[0 : shape[0], 0 : shape[1]], np.uint8(90))).astype(np.uint8)
    write(tmp_path / "ours.tif", rgb, valid, rows=37, **settings)
    by_the_driver(tmp_path / "theirs.tif", rgb, valid, **settings)
    return tmp_path / "ours.tif", tmp_path / "theirs.tif", rgb, valid


def assert_alike(ours, theirs):
    """Compare what GDAL and tifffile read of two files."""
    with opened(ours) as one, opened(theirs) as two:
        assert one.profile == two.profile
        assert one.tags() == two.tags()
        assert one.tags(ns="IMAGE_STRUCTURE") == two.tags(ns="IMAGE_STRUCTURE")
        assert one.tag_namespaces() == two.tag_namespaces()
        assert (one.crs, one.transform) == (two.crs, two.transform)
        assert one.mask_flag_enums == two.mask_flag_enums
        assert one.colorinterp == two.colorinterp
        assert [point.asdict() for point in one.gcps[0]] == [point.asdict() for point in two.gcps[0]]
        assert one.gcps[1] == two.gcps[1]
        overviews = one.overviews(1)
        assert overviews == two.overviews(1)
    for which in ({}, *({"overview_level": level} for level in range(len(overviews)))):
        with opened(ours, **which) as one, opened(theirs, **which) as two:
            assert one.shape == two.shape
            if one.profile.get("compress") != "webp":  # the driver's edges are wrong, see findings/gdal_webp_edges.sh
                np.testing.assert_array_equal(one.read(), two.read())
            np.testing.assert_array_equal(one.read_masks(), two.read_masks())
    with tifffile.TiffFile(ours) as one, tifffile.TiffFile(theirs) as two:
        # tifffile's order is the file's.
        assert [kind(page) for page in one.pages] == [kind(page) for page in two.pages]
        for ours_page, theirs_page in zip(one.pages, two.pages, strict=True):
            assert values(ours_page) == values(theirs_page)


def kind(page):
    return (
        int(page.subfiletype),
        page.shape,
        page.tile,
        int(page.compression),
        int(page.photometric),
        int(page.predictor),
    )


def values(page):
    """Return the tags of a directory by number, without offsets and byte counts of its blocks."""
    unequal = {324, 325}
    return {tag.code: tag.value for tag in page.tags if tag.code not in unequal}


def assert_laid_out(path):
    """Check the rules of https://gdal.org/drivers/raster/cog.html by hand; tifffile reads the directories."""
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        big = file.is_bigtiff
        directories = [page.offset for page in file.pages]
        pages = [
            (int(page.subfiletype), page.imagewidth, page.dataoffsets, page.databytecounts) for page in file.pages
        ]
    # The structural note comes directly behind the first bytes, the first directory directly behind it.
    begin = 16 if big else 8
    size = int(data[begin + 30 : begin + 36])
    assert data[begin : begin + 43] == b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % size
    assert directories[0] == begin + 43 + size + (43 + size) % 2
    assert directories == sorted(directories)
    # All directories and their values before the first block.
    offsets = [offset for *_, found, _ in pages for offset in found]
    assert max(directories) < min(offsets)
    # Mosaic, its mask, overviews from large to small, their masks likewise.
    (mosaic, mask), rest = pages[:2], pages[2:]
    assert (mosaic[0], mask[0]) == (0, 4)
    overviews, masks = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    assert {page[0] for page in overviews} <= {1}
    assert {page[0] for page in masks} <= {5}
    widths = [page[1] for page in (mosaic, *overviews)]
    assert widths == sorted(widths, reverse=True) == [page[1] for page in (mask, *masks)]
    # Blocks of the smallest overview first, row by row, each with its mask; lengths before them, 4 bytes repeated.
    blocks = []
    for image, its_mask in reversed([(mosaic, mask), *zip(overviews, masks, strict=True)]):
        for k in range(len(image[2])):
            blocks += [(image[2][k], image[3][k]), (its_mask[2][k], its_mask[3][k])]
    at = blocks[0][0] - 4
    for offset, count in blocks:
        assert offset == at + 4
        assert count > 0
        assert struct.unpack_from("<I", data, at) == (count,)
        assert data[offset + count : offset + count + 4] == data[offset + count - 4 : offset + count]
        at = offset + count + 4
    assert at == len(data)
    with quietly():
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def note_of(path):
    """Return what is before the first directory, without the first bytes of the file: about 217 bytes."""
    data = path.read_bytes()
    begin = 16 if data[2:3] == b"+" else 8
    size = 43 + int(data[begin + 30 : begin + 36])
    return data[begin : begin + size]


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_compression_and_size_is_as_by_the_driver(tmp_path, compress, shape):
    ours, theirs, rgb, valid = both(tmp_path, shape, compress=compress)
    assert_alike(ours, theirs)
    assert_laid_out(ours)
    assert note_of(ours) == note_of(theirs)
    with opened(ours) as found:  # the known answer beside the comparison
        np.testing.assert_array_equal(found.dataset_mask() != 0, valid)
        if compress not in ("jpeg", "webp"):
            np.testing.assert_array_equal(found.read(), np.where(valid, rgb, 0))


@pytest.mark.parametrize("name", GEOREFERENCES)
def test_every_georeference_is_as_by_the_driver(tmp_path, name):
    ours, theirs, *_ = both(tmp_path, (100, 71), georeference=GEOREFERENCES[name])
    assert_alike(ours, theirs)
    assert_laid_out(ours)


@pytest.mark.parametrize("shape", [(512, 512), (513, 600), (300, 40)], ids=str)
@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_blocks_of_512_are_as_by_the_driver(tmp_path, shape, compress):
    ours, theirs, *_ = both(tmp_path, shape, blocksize=512, compress=compress, tags={})
    assert_alike(ours, theirs)
    assert note_of(ours) == note_of(theirs)
    assert_laid_out(ours)


def test_the_checks_detect_another_order(tmp_path):
    """The checks of this file reject a TIFF whose directories come behind its pixels."""
    rgb, _ = colours(100, 100)
    profile = {"count": 3, "height": 100, "width": 100, "dtype": "uint8", "transform": Affine(1, 0, 0, 0, -1, 0)}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **profile) as dataset:
        dataset.write(rgb)
    with pytest.raises((AssertionError, ValueError)):
        assert_laid_out(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(40, 50), (300, 210)], ids=str)
@pytest.mark.parametrize("compress", ["deflate", "jpeg", "none"])
def test_a_bigtiff_has_the_same_pixels(tmp_path, monkeypatch, shape, compress):
    ours, *_ = both(tmp_path, shape, compress=compress)
    monkeypatch.setattr(cog_module, "BIG_FROM", 1000)
    (tmp_path / "big").mkdir()
    big, theirs, *_ = both(tmp_path / "big", shape, compress=compress)
    assert (ours.read_bytes()[:4], big.read_bytes()[:4]) == (b"II*\0", b"II+\0")
    assert_alike(big, ours)
    assert_laid_out(big)
    assert note_of(big) == note_of(theirs)
    blocks = min(int(numbers(image[OFFSETS])[0]) for image in read_directories(ours.read_bytes()))
    assert big.read_bytes().endswith(ours.read_bytes()[blocks - 4 :])


def test_a_file_is_a_bigtiff_where_32_bits_may_not_hold_its_offsets(tmp_path, monkeypatch):
    assert cog_module.BIG_FROM == 2**32
    write(tmp_path / "out.tif", *colours(100, 100), blocksize=64)
    size = (tmp_path / "out.tif").stat().st_size
    for limit, form in ((size, b"+"), (size + 10_000, b"*")):  # a BigTIFF's directories are a little larger
        monkeypatch.setattr(cog_module, "BIG_FROM", limit)
        write(tmp_path / "out.tif", *colours(100, 100), blocksize=64, overwrite=True)
        assert (tmp_path / "out.tif").read_bytes()[2:3] == form


def test_tifffile_decodes_the_same_pixels(tmp_path):
    for compress, big in itertools.product(("deflate", "none"), (False, True)):
        rgb, valid = colours(130, 70)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cog_module, "BIG_FROM", 0 if big else 2**32)
            write(tmp_path / "out.tif", rgb, valid, blocksize=64, compress=compress, overwrite=True)
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            assert file.is_bigtiff == big
            np.testing.assert_array_equal(file.pages[0].asarray(), np.where(valid, rgb, 0).transpose(1, 2, 0))
            np.testing.assert_array_equal(file.pages[1].asarray() != 0, valid)
            smaller = np.where(halved(rgb, valid)[1], halved(rgb, valid)[0], 0)
            np.testing.assert_array_equal(file.pages[2].asarray(), smaller.transpose(1, 2, 0))
