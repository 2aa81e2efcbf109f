"""Mosaics that the writer makes: exact pixels, masks, overviews and georeference; complete files or none."""

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rio_cogeo.cogeo import cog_validate

from sar2optical.errors import OptionError, OutputExists, OutputUnwritable
from sar2optical.mosaic import strip_store
from sar2optical.mosaic import writer as writer_module
from sar2optical.mosaic.coding import COMPRESSIONS, BlockCoding
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import check_output
from sar2optical.mosaic.tiff import OFFSETS, numbers, read_directories
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter
from sar2optical.scene.bands import Georeference

UTM = CRS.from_epsg(32632)
NORTH_UP = Georeference(crs=UTM, transform=Affine(10.1, 0, 500000.123456789, 0, -10.3, 4e6 + 1 / 3))
GEOREFERENCES = {
    "utm": NORTH_UP,
    "rotated": Georeference(crs=UTM, transform=Affine(9.9, 0.7, 5e5 + 1 / 7, 0.3, -10.3, 4e6 + 1 / 3)),
    "south_up": Georeference(crs=UTM, transform=Affine(10, 0, 5e5, 0, 10, 4e6 + 0.1)),
    "degrees": Georeference(crs=CRS.from_epsg(4326), transform=Affine(1 / 3600, 0, 7.1, 0, -1 / 7200, 45.3)),
    "transform_only": Georeference(transform=Affine(2, 0, 100, 0, -2, 50)),
    "gcps": Georeference(
        gcps=tuple(
            GroundControlPoint(row=row + 0.5, col=col + 0.25, x=7 + col / 7, y=45 - row / 7, z=row / 3)
            for row in (0, 40, 99)
            for col in (0, 33, 70)
        ),
        gcp_crs=CRS.from_epsg(4326),
    ),
    "none": Georeference(),
}


def colours(*shape, seed=0):
    """Return random RGB and a validity mask with holes of all sizes."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) > 0.3
    valid[: shape[0] // 3, shape[1] // 2 :] = False
    return rng.integers(0, 256, (3, *shape), dtype=np.uint8), valid


def write(
    out, rgb, valid, *, rows=224, georeference=NORTH_UP, tags=None, preview=None, overwrite=False, **coding
):  # fmt: skip
    shape, options = valid.shape, MosaicOptions(coding=BlockCoding(**coding), overwrite=overwrite)
    with MosaicWriter(out, shape=shape, georeference=georeference, tags=tags or {}, options=options) as writer:
        for row in range(0, shape[0], rows):
            writer.write(rgb[:, row : row + rows], valid[row : row + rows])
        if preview:
            writer.write_preview(*preview)
        writer.finish()


@contextmanager
def opened(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, **options) as dataset:
            yield dataset


def halved(rgb, valid):
    """Halve as the overviews do, computed with floats and masked arrays."""
    height, width = ((n + 1) // 2 for n in valid.shape)
    padding = (0, 2 * height - valid.shape[0]), (0, 2 * width - valid.shape[1])
    values = np.pad(rgb.astype(float), ((0, 0), *padding))
    invalid = np.broadcast_to(np.pad(~valid, padding, constant_values=True), values.shape)
    blocks = np.ma.array(values, mask=invalid).reshape(3, height, 2, width, 2)
    means = blocks.mean(axis=(2, 4))
    return np.floor(means.filled(0) + 0.5).astype(np.uint8), ~np.ma.getmaskarray(means)[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("compress", [name for name in COMPRESSIONS if name not in ("jpeg", "webp")])
def test_the_cog_holds_the_very_pixels_and_their_validity(tmp_path, compress):
    rgb, valid = colours(600, 530)
    write(tmp_path / "out.tif", rgb, valid, compress=compress)
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert np.array_equal(cog.read(), np.where(valid, rgb, 0))
        assert np.array_equal(cog.read_masks(1), np.where(valid, 255, 0))
        assert cog.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert cog.mask_flag_enums == ([MaskFlags.per_dataset],) * 3
        assert cog.compression is None if compress == "none" else cog.compression.name == compress
    assert cog_validate(tmp_path / "out.tif", strict=True, quiet=True) == (True, [], [])
    assert names(tmp_path) == ["out.tif"]


@pytest.mark.parametrize("compress", ["jpeg", "webp"])
def test_a_lossy_cog_is_close_and_its_mask_exact(tmp_path, compress):
    rgb = np.stack(np.broadcast_arrays(*np.ogrid[0:200, 0:200], np.uint8(90))).astype(np.uint8)
    valid = colours(200, 200)[1]
    valid[100:] = True
    write(tmp_path / "out.tif", rgb, valid, compress=compress)
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert np.abs(cog.read()[:, 120:].astype(int) - rgb[:, 120:]).max() < 12
        assert np.array_equal(cog.read_masks(1), np.where(valid, 255, 0))
        assert cog.compression.name == compress


def test_zero_is_a_colour(tmp_path):
    write(tmp_path / "out.tif", np.zeros((3, 4, 5), np.uint8), np.ones((4, 5), bool))
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert cog.nodata is None
        assert (cog.read_masks() == 255).all()


@pytest.mark.parametrize(
    ("shape", "rows", "blocksize", "levels"),
    [
        ((300, 1031), 1, 512, 2),
        ((1031, 101), 129, 512, 2),
        ((1031, 101), 1031, 512, 2),
        ((1031, 101), 129, 64, 5),
        ((1031, 101), 1031, 64, 5),
        ((101, 300), 7, 16, 5),
    ],
)
def test_overviews_are_means_over_valid_pixels_whatever_the_strips(tmp_path, shape, rows, blocksize, levels):
    rgb, valid = colours(*shape)
    write(tmp_path / "out.tif", rgb, valid, rows=rows, blocksize=blocksize)
    for level in range(levels):
        rgb, valid = halved(rgb, valid)
        with rasterio.open(tmp_path / "out.tif", overview_level=level) as overview:
            assert overview.shape == valid.shape
            assert np.array_equal(overview.read(), rgb)
            assert np.array_equal(overview.read_masks(1), np.where(valid, 255, 0))
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert len(cog.overviews(1)) == levels


@pytest.mark.parametrize(
    ("four", "valid", "mean"),
    [
        ((1, 2, 3, 4), (1, 1, 1, 1), 3),
        ((255, 255, 255, 255), (1, 1, 1, 1), 255),
        ((1, 2, 9, 9), (1, 1, 0, 0), 2),
        ((7, 9, 9, 9), (1, 0, 0, 0), 7),
        ((1, 1, 2, 9), (1, 1, 1, 0), 1),
        ((1, 2, 2, 9), (1, 1, 1, 0), 2),
        ((255, 255, 254, 0), (1, 1, 1, 0), 255),
        ((9, 9, 9, 9), (0, 0, 0, 0), 0),
    ],
)
def test_four_pixels_become_one_by_hand(tmp_path, four, valid, mean):
    rgb = np.broadcast_to(np.tile(np.uint8(four).reshape(2, 2), (1, 300)), (3, 2, 600))
    write(tmp_path / "out.tif", rgb, np.tile(np.array(valid, bool).reshape(2, 2), (1, 300)))
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as overview:
        assert (overview.read() == mean).all()
        assert (overview.read_masks(1) == 255 * any(valid)).all()


@pytest.mark.parametrize("name", GEOREFERENCES)
def test_the_georeference_is_kept_to_the_last_bit(tmp_path, name):
    wanted = GEOREFERENCES[name]
    write(tmp_path / "out.tif", *colours(100, 71), georeference=wanted, tags={"AREA_OR_POINT": "Point"})
    assert cog_validate_quietly(tmp_path / "out.tif")
    with opened(tmp_path / "out.tif") as cog:
        assert cog.transform == (wanted.transform or Affine.identity())
        assert cog.crs == wanted.crs
        points, crs = cog.gcps
        assert crs == wanted.gcp_crs
        assert [(p.row, p.col, p.x, p.y, p.z) for p in points] == [(p.row, p.col, p.x, p.y, p.z) for p in wanted.gcps]
    assert names(tmp_path) == ["out.tif"]


def cog_validate_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return cog_validate(path, strict=True, quiet=True) == (True, [], [])


# A single column of more than 512 rows is not tested: rio-cogeo computes the decimation from the width, which stays
# 1, and rejects GDAL's own COGs too.
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 1), (511, 513), (512, 512), (513, 3), (1025, 2049)])
@pytest.mark.parametrize("georeference", ["utm", "gcps"])
def test_every_size_is_a_valid_cog(tmp_path, shape, georeference):
    rgb, valid = colours(*shape)
    write(tmp_path / "out.tif", rgb, valid, georeference=GEOREFERENCES[georeference])
    assert cog_validate_quietly(tmp_path / "out.tif")
    with opened(tmp_path / "out.tif") as cog:
        assert np.array_equal(cog.read(), np.where(valid, rgb, 0))


def test_tags_are_kept_whatever_they_hold(tmp_path):
    tags = {"MODEL": "unet <b> & \"q\" 'a'", "LINES": "two\nlines ", "ü": "é → 光"}
    write(tmp_path / "out.tif", *colours(20, 20), tags=tags)
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert cog.tags() == {**tags, "AREA_OR_POINT": "Area"}


@pytest.mark.parametrize("name", ["with space.tif", "q'uote\"s.tif", "<a>&amp;.TIFF", "größe-光.tif", "%20#?.tif"])
def test_every_file_name_is_supported(tmp_path, monkeypatch, name):
    folder = tmp_path / "a & b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    rgb, valid = colours(30, 20)
    write(Path(name), rgb, valid)
    assert names(folder) == [name]
    with rasterio.open(folder / name) as cog:
        assert np.array_equal(cog.read(), np.where(valid, rgb, 0))


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out.tif").symlink_to(tmp_path / "real" / "big.tif")
    write(tmp_path / "out.tif", *colours(9, 9), overwrite=True)
    assert (tmp_path / "out.tif").is_symlink()
    assert names(tmp_path / "real") == ["big.tif"]


def test_an_all_valid_png_is_plain_rgb(tmp_path):
    rgb, _ = colours(256, 256)
    write(tmp_path / "out.png", rgb, np.ones((256, 256), bool), tags={"A": "b"}, rows=100)
    with opened(tmp_path / "out.png") as picture:
        assert picture.driver == "PNG"
        assert np.array_equal(picture.read(), rgb)
    assert names(tmp_path) == ["out.png"]


def test_a_png_is_transparent_where_invalid(tmp_path):
    rgb, valid = colours(300, 100)
    write(tmp_path / "out.png", rgb, valid)
    with opened(tmp_path / "out.png") as picture:
        assert np.array_equal(picture.read(), [*np.where(valid, rgb, 0), np.where(valid, 255, 0)])
        assert picture.colorinterp[3] == ColorInterp.alpha
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_a_jpeg_is_rgb_without_sidecars(tmp_path, suffix):
    rgb = np.broadcast_to(np.uint8([[[200]], [[100]], [[50]]]), (3, 64, 48))
    valid = np.ones((64, 48), bool)
    valid[:, :16] = False
    write(tmp_path / f"out{suffix}", rgb, valid)
    with opened(tmp_path / f"out{suffix}") as picture:
        assert picture.driver == "JPEG"
        assert np.abs(picture.read()[:, :, 32:].astype(int) - rgb[:, :, 32:]).max() <= 3
        assert picture.read()[:, :, :8].max() <= 3
    assert names(tmp_path) == [f"out{suffix}"]


@pytest.mark.parametrize(("longest", "level"), [(2000, 0), (1024, 1), (600, 1), (599, 2), (75, 4)])
def test_a_preview_is_the_mosaic_halved_until_it_fits(tmp_path, longest, level):
    rgb, valid = colours(1200, 40)
    write(tmp_path / "out.tif", rgb, valid, preview=(tmp_path / "small.png", longest))
    for _ in range(level):
        rgb, valid = halved(rgb, valid)
    with opened(tmp_path / "small.png") as picture:
        bands = [*np.where(valid, rgb, 0)] + ([] if valid.all() else [np.where(valid, 255, 0)])
        assert np.array_equal(picture.read(), bands)
    assert names(tmp_path) == ["out.tif", "small.png"]


def test_a_preview_may_follow_the_mosaic_and_replaces_no_file_without_overwrite(tmp_path):
    rgb, valid = colours(10, 10)
    (tmp_path / "there.png").write_text("mine")
    with MosaicWriter(tmp_path / "out.tif", shape=(10, 10), georeference=NORTH_UP, tags={}) as writer:
        writer.write(rgb, valid)
        writer.finish()
        writer.write_preview(tmp_path / "small.png")
        with pytest.raises(OutputExists):
            writer.write_preview(tmp_path / "there.png")
        with pytest.raises(OptionError, match=r"small\.jpg"):
            writer.write_preview(tmp_path / "small.jpg")
    assert (tmp_path / "there.png").read_text() == "mine"
    assert names(tmp_path) == ["out.tif", "small.png", "there.png"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out.tif"
    old, new, valid = np.full((3, 8, 8), 1, np.uint8), np.full((3, 8, 8), 2, np.uint8), np.ones((8, 8), bool)
    write(out, old, valid)
    (tmp_path / "out.tif.ovr").write_text("overviews of the old one")
    (tmp_path / "out.tif.aux.xml").write_text("statistics of the old one")
    whole = out.read_bytes()
    options = MosaicOptions(overwrite=True)
    with MosaicWriter(out, shape=(8, 8), georeference=NORTH_UP, tags={}, options=options) as writer:
        writer.write(new, valid)
        with out.open("rb") as reader:
            assert reader.read(100) == whole[:100]
            writer.finish()
            assert reader.read() == whole[100:]  # renamed over, not written over
    with rasterio.open(out) as after:
        assert (after.read() == 2).all()
    assert names(tmp_path) == ["out.tif"]


def test_an_output_that_another_program_creates_is_not_overwritten(tmp_path):
    out = tmp_path / "out.tif"
    with MosaicWriter(out, shape=(2, 2), georeference=NORTH_UP, tags={}) as writer:
        writer.write(np.ones((3, 2, 2), np.uint8), np.ones((2, 2), bool))
        out.write_text("mine")
        with pytest.raises(OutputExists):
            writer.finish()
    assert out.read_text() == "mine"


def test_rows_on_disk_end_where_a_strip_is_missing(tmp_path):
    out, obstacle = tmp_path / "out.tif", tmp_path / "out.tif.parts" / "strip-00000032.tif"
    options = MosaicOptions(coding=BlockCoding(blocksize=16))
    settings = {
        "shape": (90, 4), "georeference": NORTH_UP, "tags": {}, "manifest": Manifest({"a": "1"}), "options": options
    }  # fmt: skip
    kept = []

    def fill():
        with MosaicWriter(out, **settings) as writer:
            obstacle.mkdir()  # a file cannot replace it
            try:
                for _ in range(30):
                    writer.write(*colours(3, 4))
            finally:
                kept.append(writer.rows_on_disk())

    with pytest.raises(OutputUnwritable, match=r"cannot write .*out\.tif"):
        fill()
    assert kept == [32]  # whatever came after it is not counted, nor rows that wait for their strip
    obstacle.rmdir()
    with MosaicWriter(out, **settings) as writer:
        assert writer.resume() == writer.rows_on_disk() == 32
        writer.write(*colours(1, 4))
        assert (writer.rows, writer.rows_on_disk()) == (33, 32)
        for _ in range(19):
            writer.write(*colours(3, 4))
        assert writer.rows_on_disk() == 90
        writer.finish()
    with rasterio.open(out) as made:
        assert made.shape == (90, 4)


def until(true, seconds=30):
    """Wait until a condition that other threads fulfil is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_leaving_with_an_exception_leaves_nothing(tmp_path, error):
    def interrupted():
        options = MosaicOptions(coding=BlockCoding(blocksize=16))
        with MosaicWriter(
            tmp_path / "out.tif", shape=(40, 4), georeference=NORTH_UP, tags={}, options=options
        ) as writer:
            writer.write(*colours(19, 4))  # one strip, and rows that wait for the next
            until(lambda: names(tmp_path / "out.tif.parts") == ["lock", "strip-00000000.tif"])
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def strip_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("strips", "blocks"))]


def test_a_writer_that_is_only_constructed_starts_no_thread(tmp_path, monkeypatch):
    pools = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, *args):
            super().__init__(*args)
            pools.append(self)

    monkeypatch.setattr(strip_store, "ThreadPoolExecutor", Pool)
    writer = MosaicWriter(tmp_path / "out.tif", shape=(3, 4), georeference=NORTH_UP, tags={})
    assert (pools, strip_threads()) == ([], [])
    with pytest.raises(ValueError, match="inside its with statement"):
        writer.write(*colours(3, 4))
    assert names(tmp_path) == []

    with MosaicWriter(tmp_path / "out.tif", shape=(3, 4), georeference=NORTH_UP, tags={}) as writer:
        assert len(pools) == 2  # for blocks and for strips
        writer.write(*colours(3, 4))
        assert strip_threads()
        writer.finish()
    assert not strip_threads()
    assert names(tmp_path) == ["out.tif"]


def test_a_mosaic_with_missing_rows_is_not_finished(tmp_path):
    with MosaicWriter(tmp_path / "out.tif", shape=(9, 4), georeference=NORTH_UP, tags={}) as writer:
        writer.write(*colours(3, 4))
        with pytest.raises(ValueError, match="the mosaic has 3 of 9 rows"):
            writer.finish()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("rgb", "valid"),
    [
        (np.zeros((3, 5, 4), np.uint8), np.ones((5, 4), bool)),
        (np.zeros((3, 2, 5), np.uint8), np.ones((2, 5), bool)),
        (np.zeros((4, 2, 4), np.uint8), np.ones((2, 4), bool)),
        (np.zeros((3, 2, 4), np.float32), np.ones((2, 4), bool)),
        (np.zeros((3, 2, 4), np.uint8), np.ones((2, 4), np.uint8)),
        (np.zeros((3, 0, 4), np.uint8), np.ones((0, 4), bool)),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rgb, valid):
    with MosaicWriter(tmp_path / "out.tif", shape=(4, 4), georeference=NORTH_UP, tags={}) as writer:
        with pytest.raises(ValueError, match=r"rows|: give "):
            writer.write(rgb, valid)
        writer.write(np.full((3, 4, 4), 7, np.uint8), np.ones((4, 4), bool))
        writer.finish()
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert (cog.read() == 7).all()


def test_memory_does_not_grow_with_the_height(tmp_path):
    def peak(height):
        strip, valid = colours(64, 1024)
        tracemalloc.start()
        out = tmp_path / f"{height}.tif"
        with MosaicWriter(out, shape=(height, 1024), georeference=NORTH_UP, tags={}) as writer:
            for _ in range(height // 64):
                writer.write(strip, valid)
            result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(256)  # imports
    # Eight strips keep all threads at work; how many are in flight at the peak is a matter of chance.
    assert peak(4 * 4096) < 2 * peak(4096)


SCRIPT = """
import resource, sys, time
import numpy as np
from pathlib import Path
from sar2optical.errors import OutputUnwritable
from sar2optical.mosaic.coding import BlockCoding
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter
from sar2optical.scene.bands import Georeference

out, step, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rgb = np.random.default_rng(0).integers(0, 256, (3, 700, 600), dtype=np.uint8)
valid = np.ones((700, 600), bool)
try:
    options = MosaicOptions(overwrite=True, coding=BlockCoding(blocksize=128))
    with MosaicWriter(out, shape=(700, 600), georeference=Georeference(), tags={}, options=options) as writer:
        if limit and step == "strips":
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for row in range(0, 700, 100):
            writer.write(rgb[:, row:row + 100], valid[row:row + 100])
            if step == "sleep" and row == 300:
                print("ready", flush=True)
                time.sleep(60)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        print("finishing", flush=True)
        writer.finish()
except OutputUnwritable as error:
    print(error)
    sys.exit(1)
"""


def in_a_process(out, step="finish", limit=0):
    command = [sys.executable, "-c", SCRIPT, str(out), step, str(limit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("step", ["strips", "finish"])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_a_file_size_limit_is_one_clear_line(tmp_path, step, suffix):
    out = tmp_path / f"out{suffix}"
    out.write_text("the old one")
    run = in_a_process(out, step, 100_000)
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    assert lines[:-1] == ([] if step == "strips" else ["finishing"])
    assert lines[-1].startswith(f"cannot write {out}: ")
    assert "GB free there): free some space" in lines[-1]
    assert "Traceback" not in run.stderr
    assert names(tmp_path) == [out.name]
    assert out.read_text() == "the old one"


# Strips of 700 x 600 and their overviews take 1.7 MB, the COG as much again: the disk is full in the strips; or
# it has space for none of the COG, or for most of it, which is refused before the COG is begun.
@pytest.mark.parametrize("kilobytes", [500, 2000, 2900])
def test_a_full_disk_leaves_nothing(small_disk, kilobytes):
    folder = small_disk(kilobytes)
    run = in_a_process(folder / "out.tif")
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1].startswith(f"cannot write {folder / 'out.tif'}: ")
    assert names(folder) == []


def test_a_disk_with_enough_space_holds_the_mosaic(small_disk):
    folder = small_disk(8000)
    assert in_a_process(folder / "out.tif").returncode == 0
    assert names(folder) == ["out.tif"]


def test_a_picture_that_gdal_truncates_without_an_error_is_detected(tmp_path, monkeypatch):
    copy = rasterio.shutil.copy

    def copy_and_cut(source, made, **options):
        copy(source, made, **options)
        os.truncate(made, made.stat().st_size - 100)

    monkeypatch.setattr(rasterio.shutil, "copy", copy_and_cut)
    with pytest.raises(OutputUnwritable, match=r"cannot write .*out\.png"):
        write(tmp_path / "out.png", *colours(600, 200))
    assert names(tmp_path) == []


def cut(made):
    os.truncate(made, made.stat().st_size - 100)


def flip(made, *, level):
    """Flip a byte near the begin of the last block of a level."""
    data = bytearray(made.read_bytes())
    mosaic, _, *overviews = read_directories(bytes(data))
    data[int(numbers([mosaic, *overviews][level][OFFSETS])[-1]) + 5] ^= 0xFF
    made.write_bytes(data)


@pytest.mark.parametrize("spoil", [cut, partial(flip, level=0), partial(flip, level=1), partial(flip, level=2)])
@pytest.mark.parametrize("compress", ["deflate", "none"])
def test_a_cog_that_does_not_read_back_as_its_strips_is_not_published(tmp_path, monkeypatch, spoil, compress):
    build = writer_module.build_cog

    def build_and_spoil(made, *args, **kwargs):
        build(made, *args, **kwargs)
        spoil(made)

    monkeypatch.setattr(writer_module, "build_cog", build_and_spoil)
    with pytest.raises(OutputUnwritable, match=r"cannot write .*out\.tif"):
        write(tmp_path / "out.tif", *colours(200, 150), blocksize=64, compress=compress)
    assert names(tmp_path) == []


def test_a_killed_run_leaves_nothing_at_the_output_and_does_not_stop_the_next(tmp_path):
    out = tmp_path / "out.tif"
    command = [sys.executable, "-c", SCRIPT, str(out), "sleep", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        closing(process.stdout) as message,
    ):
        assert message.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert names(tmp_path) == ["out.tif.parts"]
    assert "strip-00000000.tif" in names(tmp_path / "out.tif.parts")
    (tmp_path / "out.tif.parts" / ".strip-00000384.tif.1234.tmp").write_text("half")

    rgb, valid = colours(5, 6)
    write(out, rgb, valid)
    assert names(tmp_path) == ["out.tif"]
    with rasterio.open(out) as cog:
        assert np.array_equal(cog.read(), np.where(valid, rgb, 0))


def test_a_folder_of_that_name_with_other_files_is_not_touched(tmp_path):
    folder = tmp_path / "out.tif.parts"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "strip-00000000.tif").write_text("ours")
    (folder / "thesis.doc").write_text("mine")
    with pytest.raises(OutputUnwritable, match=r"thesis\.doc"):
        check_output(tmp_path / "out.tif", overwrite=True)
    with pytest.raises(OutputUnwritable, match=r"thesis\.doc"):
        write(tmp_path / "out.tif", *colours(5, 6))
    assert names(folder) == ["lock", "strip-00000000.tif", "thesis.doc"]


def test_a_scene_in_a_folder_of_that_name_is_not_touched(tmp_path):
    folder = tmp_path / "out.tif.parts"
    folder.mkdir()
    (folder / "mosaic.tif").write_text("my scene")  # a name that we use too
    with pytest.raises(OutputUnwritable, match=r"contains mosaic\.tif, which does not belong to a run"):
        write(tmp_path / "out.tif", *colours(5, 6))
    assert (folder / "mosaic.tif").read_text() == "my scene"


def test_a_second_run_on_one_output_is_refused_while_the_first_lasts(tmp_path):
    out = tmp_path / "out.tif"
    rgb, valid = colours(8, 6)
    with MosaicWriter(out, shape=(8, 6), georeference=Georeference(), tags={}) as first:
        first.write(rgb[:, :4], valid[:4])
        with pytest.raises(OutputUnwritable, match="another run is writing it"):
            write(out, *colours(8, 6))
        first.write(rgb[:, 4:], valid[4:])
        first.finish()
    with rasterio.open(out) as cog:
        assert np.array_equal(cog.read(), np.where(valid, rgb, 0))


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/")])
def test_something_else_at_the_path_of_the_run_folder_is_not_touched(tmp_path, make):
    make(tmp_path / "out.tif.parts")
    with pytest.raises(OutputUnwritable, match=r"its run folder \S+ is not a folder"):
        write(tmp_path / "out.tif", *colours(5, 6))
    assert names(tmp_path) == ["out.tif.parts"]


def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.tif").write_text("mine")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(
        OptionError, match=r"'\.gif' is not supported: use one of \.tif, \.tiff, \.png, \.jpg, \.jpeg"
    ):
        check_output(tmp_path / "a.gif", overwrite=False)
    with pytest.raises(OptionError, match="suffix ''"):
        check_output(tmp_path / "a", overwrite=False)
    with pytest.raises(OutputExists, match=r"there\.tif exists: give --overwrite"):
        check_output(tmp_path / "there.tif", overwrite=False)
    with pytest.raises(OutputUnwritable, match="it is a folder"):
        check_output(tmp_path / "folder.tif", overwrite=True)
    with pytest.raises(OutputUnwritable, match=r"no folder .*missing: create it"):
        check_output(tmp_path / "missing" / "a.tif", overwrite=False)
    with pytest.raises(OutputUnwritable, match="no folder"):
        check_output(tmp_path / "there.tif" / "a.tif", overwrite=False)
    with pytest.raises(OutputUnwritable, match="name too long"):
        check_output(tmp_path / f"{'a' * 300}.tif", overwrite=False)
    check_output(tmp_path / "a.tif", overwrite=False)
    check_output(tmp_path / "there.tif", overwrite=True)
    assert names(tmp_path) == ["folder.tif", "there.tif"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that is not writable, even for root")
def test_a_folder_that_is_not_writable_is_refused():
    with pytest.raises(OutputUnwritable, match=r"cannot write /proc/a\.tif: .*choose another folder"):
        check_output(Path("/proc/a.tif"), overwrite=False)


def test_options_that_no_run_can_use_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"'lz4' is not supported: choose one of deflate, zstd"):
        write(tmp_path / "out.tif", *colours(2, 2), compress="lz4")
    for blocksize in (0, 8, 500, 4112, -16):
        with pytest.raises(OptionError, match=rf"block size is {blocksize}: give a multiple of 16 up to 4096"):
            write(tmp_path / "out.tif", *colours(2, 2), blocksize=blocksize)
    with pytest.raises(OptionError, match="at most 65500 pixels a side, the mosaic has 65501"):
        MosaicWriter(tmp_path / "out.jpg", shape=(10, 65501), georeference=NORTH_UP, tags={})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("GDAL_TIFF_ENDIANNESS", "BIG"), ("GDAL_NUM_THREADS", "ALL_CPUS"), ("GDAL_TIFF_INTERNAL_MASK", "NO")],
)
def test_settings_of_gdal_do_not_change_the_file(tmp_path, name, value):
    rgb, valid = colours(100, 90)
    write(tmp_path / "out.tif", rgb, valid, blocksize=32)
    with rasterio.Env(**{name: value}):
        write(tmp_path / "set.tif", rgb, valid, blocksize=32)
    assert (tmp_path / "set.tif").read_bytes() == (tmp_path / "out.tif").read_bytes()


def test_the_block_cache_is_given_back(tmp_path):
    from rasterio._env import get_gdal_config

    before = get_gdal_config("GDAL_CACHEMAX")
    write(tmp_path / "out.tif", *colours(20, 20))
    assert get_gdal_config("GDAL_CACHEMAX") == before
