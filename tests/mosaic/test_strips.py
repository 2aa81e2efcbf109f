"""One strip on disk: whole and of its run, or not used, whichever of its bytes is damaged."""

from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio
import tifffile

from sar2optical.mosaic.coding import COMPRESSIONS, BlockCoding
from sar2optical.mosaic.strips import Strip, StripDamaged, block_offsets, write_strip
from sar2optical.mosaic.tiff import OFFSETS, numbers

RUN = "0123abcd"


def rgba_of(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    rgba = rng.integers(0, 256, (4, rows, width), np.uint8)
    rgba[3] = np.where(rng.random((rows, width)) > 0.3, 255, 0)
    rgba[:3, rgba[3] == 0] = 0
    return rgba


def strip_at(folder, rgba, **coding):
    path = folder / "strip-00000000.tif"
    write_strip(path, rgba, RUN, BlockCoding(**coding))
    return path


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize(
    "shape", [(16, 16), (16, 1), (5, 40), (1, 1), (16, 16 * 8 + 3)]
)  # 8 blocks are compressed at once
def test_a_strip_is_read_as_it_was_written(tmp_path, compress, shape):
    rgba = rgba_of(*shape)
    strip = Strip.read(strip_at(tmp_path, rgba, compress=compress, blocksize=16), RUN)
    assert strip.shape == shape
    assert strip.lossy == (compress in ("jpeg", "webp"))
    found = strip.pixels()
    np.testing.assert_array_equal(found[3], rgba[3])
    if not strip.lossy:
        np.testing.assert_array_equal(found, rgba)


def test_a_strip_is_a_tiff_with_run_name_and_lengths_around_each_block(tmp_path):
    path = strip_at(tmp_path, rgba_of(16, 40), compress="deflate", blocksize=16)
    data = path.read_bytes()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        image, mask = file.pages
        run, name, digest = image.description.split(" ")
        assert (run, name, len(digest)) == (RUN, path.name, 64)
        assert mask.subfiletype == 4
        at = image.dataoffsets[0] - 4
        for k in range(3):
            for page in (image, mask):
                size = page.databytecounts[k]
                assert page.dataoffsets[k] == at + 4
                assert int.from_bytes(data[at : at + 4], "little") == size
                assert data[at + 4 + size : at + 8 + size] == data[at + size : at + 4 + size]
                at += size + 8
    assert at == len(data)
    with rasterio.open(path) as dataset:
        assert dataset.block_shapes[0] == (16, 16)


def test_offsets_of_blocks_by_hand():
    # 4 bytes of length, 10 of pixels, 4 repeated, 4 of length, 3 of mask, 4 repeated: the next pixels begin 33 later.
    assert block_offsets(np.array([[10, 3], [7, 5]]), 100).tolist() == [[104, 122], [133, 148]]


@pytest.mark.parametrize("compress", ["deflate", "jpeg", "none"])
def test_no_flipped_bit_goes_unnoticed(tmp_path, compress):
    """Directories included: a changed predictor or a changed table of JPEG gives other pixels."""
    path = strip_at(tmp_path, rgba_of(16, 24), compress=compress, blocksize=16)
    whole = path.read_bytes()
    begin = int(numbers(Strip.read(path, RUN).image[OFFSETS])[0])
    for at in [*range(begin), *range(begin, len(whole), 11), len(whole) - 1]:
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(StripDamaged):
            Strip.read(path, RUN)
        try:  # of the directories alone: damage or none, but no other error
            Strip.read_head(path, RUN)
        except StripDamaged:
            assert at < begin


def test_a_strip_cut_anywhere_is_damaged(tmp_path):
    path = strip_at(tmp_path, rgba_of(16, 24), blocksize=16)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(StripDamaged, match="run the same command again"):
            Strip.read(path, RUN)


def test_a_missing_strip_is_damaged_and_one_of_another_run_or_name_is_named_so(tmp_path):
    path = strip_at(tmp_path, rgba_of(4, 5), blocksize=16)
    for read in (Strip.read, Strip.read_head):
        read(path, RUN)
        with pytest.raises(StripDamaged, match="overwritten by another run"):
            read(path, "another")
        with pytest.raises(StripDamaged, match="cannot be read"):
            read(tmp_path / "none.tif", RUN)
    renamed = path.rename(tmp_path / "strip-00000016.tif")
    with pytest.raises(StripDamaged, match="overwritten by another run"):
        Strip.read(renamed, RUN)


def test_directories_of_a_wide_strip_are_read_whole(tmp_path):
    rgba = np.zeros((4, 16, 16 * 9000), np.uint8)  # 9000 blocks: more than 64 kB of offsets
    path = strip_at(tmp_path, rgba, compress="none", blocksize=16)
    image, mask = Strip.read_head(path, RUN)
    assert image[OFFSETS].count == mask[OFFSETS].count == 9000
    np.testing.assert_array_equal(Strip.read(path, RUN).pixels(), rgba)
