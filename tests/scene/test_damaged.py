"""Damaged scenes: a whole mosaic or one line, never a traceback, a hang, or half a file."""

from __future__ import annotations

import os
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from sar2optical.errors import SceneUnreadable
from sar2optical.scene import SceneOptions
from sar2optical.scene.raster import open_raster
from tests.conftest import BYTES, UTM, make_identity, speckle
from tests.damage import Damage, Runner, damaged, real_sources, run_all, what_the_file_does_not_tell
from tests.scene.test_safe import make_product, zipped

pytestmark = pytest.mark.slow

SCENES = Path(__file__).parents[3] / "shared" / "data" / "scenes"
GCPS = [GroundControlPoint(r, c, 7 + c / 1000, 45 - r / 1000, 3.5) for r in (0, 90) for c in (0, 60, 120)]
SHAPE = (90, 120)


@pytest.fixture
def model(tmp_path):
    return make_identity(tmp_path / "model.onnx", BYTES)


@pytest.fixture
def sources(make_raster, tmp_path):
    """Small rasters of each common kind."""
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 900, SHAPE).astype(np.uint16)
    db = rng.normal(-15, 4, SHAPE).astype(np.float32)
    db[:9] = -99
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    georeference = {"gcps": GCPS, "crs": "EPSG:4326"}
    named = {"descriptions": ("VH",)}
    return [
        make_raster(dn, "striped.tif", compress="deflate", blockysize=8, **named, **georeference),
        make_raster(dn, "tiled.tif", compress="lzw", predictor=2, **tiles, **named, **georeference),
        make_raster(db, "db.tif", nodata=-99, tags={"units": "dB"}, **named, **UTM),
        make_raster(
            db, "masked.tif", compress="deflate", mask=db > -20, tags={"units": "dB"}, **named, **tiles, **UTM
        ),
        make_raster(speckle(SHAPE), "grey.png"),
        zipped(make_product(tmp_path / "product")),
    ]


def options(path, number):
    return ("--denoise",) if path.suffix == ".zip" and number % 2 else ()


def assert_only_mosaics_and_refusals(outcomes):
    """Assert that nothing was violated, and that some damage was harmless and some was not."""
    violations = [f"{o.damage}, {' '.join(o.arguments)}: {o.violations}" for o in outcomes if o.violations]
    assert not violations, "\n".join(violations)
    counts = Counter("made" if outcome.made else "refused" for outcome in outcomes)
    assert min(counts["made"], counts["refused"]) > len(outcomes) / 10, counts


def test_damaged_rasters_become_whole_mosaics_or_one_line(sources, model, tmp_path):
    outcomes = list(run_all(sources, 120, 5, model=model, folder=tmp_path, options=options))
    assert_only_mosaics_and_refusals(outcomes)
    assert {outcome.damage.source for outcome in outcomes} == set(sources)


def test_undamaged_rasters_all_become_mosaics(sources, model, tmp_path):
    """Otherwise a refusal would prove nothing about damage."""
    with Runner(model, tmp_path) as runner:
        for number, source in enumerate(sources):
            outcome = runner.run(Damage(number, source, "none", source.stat().st_size, ()), options(source, number))
            assert outcome.made, (source, outcome.said, outcome.violations)


@pytest.mark.skipif(not SCENES.is_dir(), reason="needs real Sentinel-1 scenes, which do not come with the project")
def test_300_damaged_copies_of_real_scenes_become_whole_mosaics_or_one_line(model, tmp_path):
    sources = real_sources(SCENES, tmp_path)
    options = what_the_file_does_not_tell
    assert_only_mosaics_and_refusals(list(run_all(sources, 300, 5, model=model, folder=tmp_path, options=options)))


def test_damage_is_the_same_for_the_same_seed(sources, tmp_path):
    def copies(seed):
        for damage in damaged(sources, 20, seed):
            damage.write(tmp_path / "copy")
            yield (tmp_path / "copy").read_bytes()

    assert list(copies(1)) == list(copies(1))
    assert list(copies(1)) != list(copies(2))


def test_a_truncated_mosaic_is_not_accepted_as_a_whole_one(sources, model, tmp_path):
    """Checks the checker: it decodes the whole file."""
    with Runner(model, tmp_path) as runner:
        mosaic = tmp_path / "out.tif"
        shutil.copy(sources[0], mosaic)
        with rasterio.open(mosaic, "w", driver="GTiff", height=64, width=64, count=3, dtype="uint8") as dst:
            dst.write(np.full((3, 64, 64), 7, np.uint8))
        assert runner.why_not_whole(mosaic) == ""
        assert "(64, 64) of (90, 120)" in runner.why_not_whole(mosaic, sources[0])
        os.truncate(mosaic, mosaic.stat().st_size - 100)
        assert runner.why_not_whole(mosaic)


# One by one


def retag(path, changes):
    """Set entries of a little-endian TIFF's first directory: tag to (type, count, value or offset)."""
    data = bytearray(path.read_bytes())
    assert data[:4] == b"II*\0"
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    at = {struct.unpack_from("<H", data, start + 2 + 12 * k)[0]: start + 2 + 12 * k for k in range(entries)}
    for tag, entry in changes.items():
        struct.pack_into("<HII", data, at[tag] + 2, *entry)
    path.write_bytes(data)


IMAGE_WIDTH, GEO_ASCII_PARAMS = 256, 34737
LONG = 4


def test_a_width_that_no_memory_holds_is_refused_before_anything_is_allocated(make_raster):
    """The directory holds the offset of one tile: GDAL uses it for all tiles, and would read 2 GB for each row."""
    path = make_raster(speckle((100, 100)), compress="deflate", tiled=True, blockxsize=512, blockysize=512, **UTM)
    retag(path, {IMAGE_WIDTH: (LONG, 1, 2_000_000_000)})
    with (
        pytest.raises(SceneUnreadable, match=r"2000000000 columns .* need 72000 GB of memory, .* damaged"),
        open_raster(path, ("VH",), SceneOptions()),
    ):
        pass


def test_values_that_no_backscatter_has_are_invalid(make_raster):
    """Undeclared nodata and damage would be the brightest pixels of the scene."""
    values = np.full((4, 4), 0.25, np.float32)
    values[0] = 1e20, -3.4e38, np.inf, 1e17
    with open_raster(make_raster(values, **UTM), ("VH",), SceneOptions()) as bands:
        found, valid = bands.read((0, 4), (0, 4))
    assert valid[0].tolist() == [False, False, False, True]
    assert valid[1:].all()
    assert found[0, 0].tolist() == pytest.approx([0, 0, 0, 1e17])


def test_a_crs_without_its_name_is_refused_with_a_message(make_raster):
    """rasterio raises an exception of GDAL there, not one of its own."""
    path = make_raster(speckle(SHAPE), gcps=GCPS, crs="EPSG:4326")
    retag(path, {GEO_ASCII_PARAMS: (2, 0, 0)})
    with (
        pytest.raises(SceneUnreadable, match=r"tags cannot be read \(Key .*GeoAsciiParams.* damaged, fetch it again"),
        open_raster(path, ("VH",), SceneOptions()),
    ):
        pass
