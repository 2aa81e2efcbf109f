"""Parts that stand for a large scene: what is read, and that nothing is missed."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.scene import sampling
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.sampling import covered, parts_of
from sar2optical.scene.scene import open_scene

BLOCKS = {"tiled": True, "blockxsize": 64, "blockysize": 64}


@pytest.fixture
def large(monkeypatch):
    """Treat scenes of a few blocks as large ones."""
    monkeypatch.setattr(sampling, "WHOLE_UP_TO", 10_000)
    monkeypatch.setattr("sar2optical.scene.scene.SAMPLE_LEAST", 500)


def counted(parts, shape, *, sampled):
    count = np.zeros(shape, int)
    for part in parts:
        if part.sampled or not sampled:
            count[slice(*part.rows), slice(*part.cols)] += 1
    return count


def read(path, **options):
    with open_scene(path, ("VH",), SceneOptions(**options)) as scene:
        values, valid = scene.read_rows(0, scene.shape[0])
        return values[0], valid, scene.read_samples()[0], scene.estimate_valid_share()


@pytest.mark.parametrize("block", [(64, 64), (1, 300), (7, 300), (512, 512)])
def test_a_small_scene_is_covered_once_by_whole_rows(block):
    parts = parts_of((200, 300), block)
    assert (counted(parts, (200, 300), sampled=True) == 1).all()
    assert {part.cols for part in parts} == {(0, 300)}


@pytest.mark.parametrize("shape", [(640, 640), (700, 900), (210, 65), (300, 64)])
def test_half_of_a_large_scene_is_sampled_and_every_row_has_both_ends(large, shape):
    parts = parts_of(shape, (64, 64))
    count = counted(parts, shape, sampled=False)
    assert count.max() == 1
    if shape[1] > 64:
        assert (count[:, [0, -1]] == 1).all()
    assert 0.4 < covered(parts) / (shape[0] * shape[1]) < 0.75
    assert parts == parts_of(shape, (64, 64))
    assert (counted(parts_of(shape, (64, 64), whole=True), shape, sampled=True) == 1).all()


def test_percentiles_of_a_sampled_scene_are_those_of_the_whole(make_raster, large, monkeypatch):
    rng = np.random.default_rng(0)
    path = make_raster(rng.gamma(4, 25, (640, 640)).astype(np.uint16) + 1, descriptions=["VH"], nodata=0, **BLOCKS)
    some = read(path)[2]
    monkeypatch.setattr(sampling, "WHOLE_UP_TO", 10**9)
    every = read(path)[2]
    assert some.size < 0.6 * every.size
    np.testing.assert_allclose(np.percentile(some, [1, 50, 99]), np.percentile(every, [1, 50, 99]), rtol=0.02)


def test_fill_between_the_sampled_blocks_is_masked_too(make_raster, large, monkeypatch):
    """Areas of fill, at the ends of rows and inside, most of them where no block is sampled."""
    rng = np.random.default_rng(1)
    values = rng.normal(-12, 2, (640, 640)).astype(np.float32)
    values[:40, :500] = 0
    values[70:75, 200:230] = 0
    values[300:303, -9:] = 0
    values[400:410, 130:160] = -9999
    path = make_raster(values, descriptions=["VH dB"], **BLOCKS)
    found = read(path)
    assert not found[1][:40, :500].any()
    assert not found[1][70:75, 200:230].any()
    assert not found[1][300:303, -9:].any()
    assert not found[1][400:410, 130:160].any()
    assert found[2].max() < 0
    monkeypatch.setattr(sampling, "WHOLE_UP_TO", 10**9)
    np.testing.assert_array_equal(found[1], read(path)[1])


def test_a_scene_whose_valid_pixels_are_in_no_sampled_block_is_read_as_a_whole(make_raster, large):
    values = np.zeros((640, 640), np.uint16)
    values[64:128, 64:128] = np.random.default_rng(2).integers(50, 200, (64, 64))  # row 1, first pair: not sampled
    path = make_raster(values, descriptions=["VH"], nodata=0, **BLOCKS)
    _, valid, sample, share = read(path, unit="dn")
    assert valid.sum() == 64 * 64
    assert sample.size == 64 * 64
    assert share == pytest.approx(0.01)


def test_a_rectangle_has_the_pixels_of_whole_rows(make_raster, large):
    values = np.random.default_rng(3).normal(-12, 2, (300, 400)).astype(np.float32)
    values[:, :100], values[20, 98:104] = 0, 0
    path = make_raster(values, descriptions=["VH dB"], **BLOCKS)
    with open_scene(path, ("VH",), SceneOptions()) as scene:
        whole = scene.read_rows(0, 300)
        for cols in ((0, 50), (90, 110), (97, 99), (100, 400), (101, 103)):
            values, valid = scene.read((10, 40), cols)
            np.testing.assert_array_equal(values, whole[0][:, 10:40, slice(*cols)])
            np.testing.assert_array_equal(valid, whole[1][10:40, slice(*cols)])
    assert not whole[1][:, :100].any()


def noise(shape, seed=4):
    return np.random.default_rng(seed).normal(-14, 2, shape).astype(np.float32)


@pytest.mark.parametrize(("fill", "unit"), [(0, "db"), (0, None), (-999, None)])
def test_the_sample_of_a_sparse_scene_holds_no_fill(make_raster, large, fill, unit):
    values = np.full((640, 640), fill, np.float32)
    values[200:330, 200:330] = noise((130, 130))
    _, valid, sample, share = read(make_raster(values, descriptions=["VH dB"], **BLOCKS), unit=unit)
    assert valid.sum() == 130 * 130
    assert np.percentile(sample, [1, 99]) == pytest.approx([-18.7, -9.3], abs=0.5)
    assert share == pytest.approx(130**2 / 640**2, rel=0.3)


def test_a_hole_of_zeros_wider_than_a_pair_of_blocks_is_not_in_the_sample(make_raster, large):
    values = noise((640, 640))
    values[100:400, 100:400] = 0
    _, valid, sample, share = read(make_raster(values, descriptions=["VH dB"], **BLOCKS))
    assert valid.sum() == 640**2 - 300**2
    assert np.percentile(sample, 99) == pytest.approx(-9.3, abs=0.5)
    assert share == pytest.approx(1 - 300**2 / 640**2, rel=0.1)


def test_power_that_no_sampled_block_holds_is_found_among_undeclared_zeros(make_raster, large):
    values = np.zeros((640, 640), np.float32)
    values[70:120, 70:120] = 10 ** (noise((50, 50)) / 10)
    _, valid, sample, _ = read(make_raster(values, descriptions=["Sigma0_VH"], **BLOCKS))
    assert valid.sum() == sample.size == 50 * 50


def test_a_last_column_of_few_pixels_does_not_hide_fill(make_raster, large):
    values = noise((130, 388))
    rows, cols = np.mgrid[:130, :388]
    values[387 - cols < 10 - rows] = -100
    _, valid, _, _ = read(make_raster(values, descriptions=["VH dB"], tiled=True, blockxsize=32, blockysize=32))
    np.testing.assert_array_equal(valid, values > -100)


def test_a_mask_does_not_depend_on_the_rows_that_are_read_together(make_raster, large):
    values = noise((256, 256))
    values[70, 40:60] = -999
    values[128:192, 5] = -200 - np.arange(64)
    with open_scene(make_raster(values, descriptions=["VH dB"], **BLOCKS), ("VH",), SceneOptions(unit="db")) as scene:
        whole = scene.read_rows(0, 256)[1]
        np.testing.assert_array_equal(scene.read_rows(64, 128)[1], whole[64:128])
        np.testing.assert_array_equal(scene.read((60, 80), (30, 70))[1], whole[60:80, 30:70])
    assert not whole[70, 40:60].any()


def test_a_rectangle_beside_declared_nodata_reads_no_whole_rows(make_raster, monkeypatch):
    values = np.full((100, 4000), 100, np.uint16)
    values[:, :1000] = 0
    with open_scene(make_raster(values, descriptions=["VH"], nodata=0), ("VH",), SceneOptions(unit="dn")) as scene:
        scene.read_samples()
        read_cols = []
        real = scene._bands.read
        monkeypatch.setattr(scene._bands, "read", lambda rows, cols: read_cols.append(cols) or real(rows, cols))
        assert scene.read((0, 50), (900, 1100))[1].sum() == 50 * 100
    assert max(stop - start for start, stop in read_cols) < 300
