"""Training pairs: partners by name, windows that fit both halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sar2optical.data.augment import grid_windows, random_window
from sar2optical.data.pairs import Chips, find_pairs, read_pair
from sar2optical.errors import DataError
from tests.conftest import speckle

SEN12 = Path(__file__).parents[2] / "shared" / "data" / "pairs_sen12"


def write_pair(make_raster, folder, name, partner=None, size=(300, 300)):
    base = make_raster(speckle((2, 2)), "probe.png").parent
    for half in ("s1", "s2"):
        (base / folder / half).mkdir(parents=True, exist_ok=True)
    make_raster(speckle(size), f"{folder}/s1/{name}")
    make_raster(np.stack([speckle(size, seed=k) for k in range(3)]), f"{folder}/s2/{partner or name}")
    return base / folder


def test_partners_have_equal_names(make_raster):
    root = write_pair(make_raster, "flat", "001.png")
    write_pair(make_raster, "flat", "002.png")
    pairs = find_pairs(root)
    assert [(p.sar.name, p.optical.name) for p in pairs] == [("001.png", "001.png"), ("002.png", "002.png")]
    assert {p.sar.parent.name for p in pairs} == {"s1"}


def test_sen12_names_differ_in_one_place(make_raster):
    root = write_pair(
        make_raster, "sen12/agri", "ROIs1970_fall_s1_13_p265.png", "ROIs1970_fall_s2_13_p265.png"
    ).parent
    (pair,) = find_pairs(root)
    assert pair.optical.name == "ROIs1970_fall_s2_13_p265.png"


def test_a_chip_without_a_partner_is_named(make_raster):
    root = write_pair(make_raster, "half", "001.png")
    make_raster(speckle((300, 300)), "half/s1/002.png")
    with pytest.raises(DataError, match=r"002\.png: its partner .*s2/002\.png is missing"):
        find_pairs(root)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        find_pairs(tmp_path)


def test_a_pair_is_read_as_grey_and_colour(make_raster):
    root = write_pair(make_raster, "flat", "001.png")
    chips = read_pair(find_pairs(root)[0])
    np.testing.assert_array_equal(chips.sar[0], speckle((300, 300)))
    np.testing.assert_array_equal(chips.optical[2], speckle((300, 300), seed=2))


def test_damaged_and_differing_chips_are_named(make_raster):
    root = write_pair(make_raster, "flat", "001.png")
    make_raster(speckle((200, 300)), "flat/s1/001.png")
    with pytest.raises(DataError, match="sizes must agree"):
        read_pair(find_pairs(root)[0])
    (root / "s1" / "001.png").write_text("hello")
    with pytest.raises(DataError, match=r"001\.png: not readable"):
        read_pair(find_pairs(root)[0])
    make_raster(speckle((300, 300)), "flat/s1/001.png")
    make_raster(speckle((300, 300)), "flat/s2/001.png")
    with pytest.raises(DataError, match="1 bands"):
        read_pair(find_pairs(root)[0])


def marked():
    """A pair whose every pixel tells where it came from, in both halves."""
    place = np.arange(64 * 48).reshape(64, 48)
    split = np.stack([place % 251, place // 251, place % 7]).astype(np.uint8)
    return Chips(split[:1], split)


def test_both_halves_of_a_window_are_of_one_place():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sar, optical = random_window(marked(), 32, rng)
        assert sar.shape == (1, 32, 32)
        assert optical.shape == (3, 32, 32)
        np.testing.assert_array_equal(sar[0], optical[0])


def test_all_eight_ways_to_lay_a_window_appear():
    square = Chips(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), np.zeros((3, 4, 4), np.uint8))
    rng = np.random.default_rng(0)
    seen = {random_window(square, 4, rng)[0].tobytes() for _ in range(200)}
    straight = square.sar[0]
    ways = [np.rot90(m, k) for m in (straight, straight[:, ::-1]) for k in range(4)]
    assert seen == {np.ascontiguousarray(way).tobytes() for way in ways}


def test_one_state_gives_one_window():
    one, two = (random_window(marked(), 32, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one[1], two[1])


def test_grid_windows_lie_side_by_side():
    windows = grid_windows(marked(), 24)
    assert len(windows) == 2 * 2
    np.testing.assert_array_equal(windows[3][1], marked().optical[:, 24:48, 24:48])


@pytest.mark.skipif(not SEN12.is_dir(), reason="needs the real SEN1-2 chips, which do not come with the project")
def test_real_sen12_chips_are_found_and_read():
    pairs = find_pairs(SEN12)
    assert len(pairs) == 19
    chips = [read_pair(pair) for pair in pairs]
    assert {c.sar.shape for c in chips} == {(1, 256, 256)}
    assert {c.optical.shape for c in chips} == {(3, 256, 256)}
