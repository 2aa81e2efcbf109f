"""Layouts of pairs: SEN1-2 and SEN12MS as published, and side by side in one image."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.data.check import check
from sar2optical.data.harmonise import harmonise
from sar2optical.data.pairs import Pair, Reading, find_pairs, look_for_pairs, read_pair
from sar2optical.data.splits import load_pairs, scene_split
from sar2optical.errors import DataError
from tests.conftest import speckle
from tests.data.test_pairs import DB

SIDE = 64


def published(make_raster, tmp_path, folders, count=2):
    """Write pairs into folders of SAR and optical chips with the names of the data sets."""
    for sar, optical in folders:
        scene = sar.rsplit("_", 1)[1]
        season = sar.split("/")[0].removesuffix("_s1")
        for folder in (sar, optical):
            (tmp_path / "set" / folder).mkdir(parents=True)
        for k in range(count):
            make_raster(speckle((SIDE, SIDE), seed=k), f"set/{sar}/{season}_s1_{scene}_p{k}.png")
            colours = np.stack([speckle((SIDE, SIDE), seed=c) for c in range(3)])
            make_raster(colours, f"set/{optical}/{season}_s2_{scene}_p{k}.png")
    return tmp_path / "set"


LAYOUTS = {
    "SEN1-2": [(f"ROIs1158_spring/s1_{n}", f"ROIs1158_spring/s2_{n}") for n in (2, 12)],
    "SEN1-2, two seasons": [(f"{s}/s1_1", f"{s}/s2_1") for s in ("ROIs1158_spring", "ROIs1970_fall")],
    "SEN12MS-CR": [(f"ROIs1158_spring_s1/s1_{n}", f"ROIs1158_spring_s2/s2_{n}") for n in (1, 30)],
}


@pytest.mark.parametrize("folders", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_published_layouts_are_read(make_raster, tmp_path, folders):
    root = published(make_raster, tmp_path, folders)
    pairs = find_pairs(root)
    assert len(pairs) == 4
    for pair in pairs:
        assert pair.optical.name == pair.sar.name.replace("_s1_", "_s2_")
        assert pair.optical.parent.name == pair.sar.parent.name.replace("s1", "s2")
        assert pair.terrain.startswith("ROIs")
        assert not pair.terrain.endswith("_s1")
    splits = scene_split(pairs, root, (1, 1, 0))
    assert (len(splits.train), len(splits.val)) == (2, 2)
    assert not {name.split("_p")[0] for name in splits.train} & {name.split("_p")[0] for name in splits.val}


def test_one_season_is_read_with_its_cloudy_chips_ignored(make_raster, tmp_path):
    root = published(make_raster, tmp_path, LAYOUTS["SEN1-2"])
    (root / "ROIs1158_spring" / "s2_cloudy_2").mkdir()
    make_raster(speckle((SIDE, SIDE)), "set/ROIs1158_spring/s2_cloudy_2/ROIs1158_spring_s2_cloudy_2_p0.png")
    found = look_for_pairs(root / "ROIs1158_spring")
    assert (len(found.pairs), found.lonely) == (4, ())
    assert {pair.terrain for pair in found.pairs} == {""}


@pytest.mark.parametrize("name", ["SEN1-2", "SEN12MS-CR"])
def test_a_lonely_chip_names_the_path_of_its_partner(make_raster, tmp_path, name):
    root = published(make_raster, tmp_path, LAYOUTS[name])
    sar, optical = LAYOUTS[name][1]
    number = sar.rsplit("_", 1)[1]
    for path in (root / optical).iterdir():
        path.unlink()
    (root / optical).rmdir()
    chip, partner = look_for_pairs(root).lonely[0]
    assert chip == root / sar / f"ROIs1158_spring_s1_{number}_p0.png"
    assert partner == root / optical / f"ROIs1158_spring_s2_{number}_p0.png"


def test_two_folders_for_one_half_of_a_scene_are_refused(make_raster, tmp_path):
    root = published(make_raster, tmp_path, LAYOUTS["SEN1-2"])
    (root / "ROIs1158_spring_s1" / "s1_2").mkdir(parents=True)
    with pytest.raises(DataError, match="keep one of the two folders"):
        find_pairs(root)


# Side by side


def pictures(make_raster, tmp_path, *, count=3, side="left", suffix="png", folder="train"):
    """Write images of a grey and a coloured half."""
    (tmp_path / "ab" / folder).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        grey = np.stack([speckle((SIDE, SIDE), seed=k)] * 3)
        colours = np.stack([speckle((SIDE, SIDE), seed=10 * k + c) for c in range(3)])
        halves = (grey, colours) if side == "left" else (colours, grey)
        make_raster(np.concatenate(halves, axis=2), f"ab/{folder}/{k}.{suffix}")
    return tmp_path / "ab"


@pytest.mark.parametrize("side", ["left", "right"])
def test_both_halves_of_a_picture_are_read(make_raster, tmp_path, side):
    root = pictures(make_raster, tmp_path, side=side)
    pairs = find_pairs(root, aligned=True)
    assert pairs[1] == Pair(root / "train" / "1.png", root / "train" / "1.png", "train", side)
    chips = read_pair(pairs[1], Reading(signature=DB, min_side=SIDE))
    np.testing.assert_array_equal(chips.sar, speckle((SIDE, SIDE), seed=1)[None])
    np.testing.assert_array_equal(chips.optical[2], speckle((SIDE, SIDE), seed=12))
    assert load_pairs(root, aligned=True) == pairs


def test_jpeg_images_whose_grey_is_not_exact_are_read(make_raster, tmp_path):
    root = pictures(make_raster, tmp_path, suffix="jpg")
    chips = read_pair(find_pairs(root, aligned=True)[0], Reading(min_side=SIDE))
    assert chips.sar.shape == (1, SIDE, SIDE)
    assert np.abs(chips.sar[0].astype(int) - speckle((SIDE, SIDE))).mean() < 15


def test_an_images_sar_is_encoded_from_the_unit_before_its_stretch(make_raster, tmp_path):
    root = pictures(make_raster, tmp_path)
    (tmp_path / "apart" / "s1").mkdir(parents=True)
    make_raster(speckle((SIDE, SIDE)), "apart/s1/0.png")
    (tmp_path / "apart" / "s2").mkdir()
    make_raster(np.stack([speckle((SIDE, SIDE), seed=c) for c in range(3)]), "apart/s2/0.png")
    for unit in ("db", "amplitude"):
        outs = [tmp_path / f"{name}-{unit}" for name in ("one", "two")]
        harmonise(find_pairs(root, aligned=True)[:1], outs[0], unit=unit)
        harmonise(find_pairs(tmp_path / "apart"), outs[1], unit=unit)
        one, two = (read_pair(find_pairs(out)[0], Reading(min_side=SIDE)) for out in outs)
        np.testing.assert_array_equal(one.sar, two.sar)
        np.testing.assert_array_equal(one.optical, two.optical)
        assert one.sar.std() > 40


def test_images_with_unknown_or_different_sar_halves_are_refused(make_raster, tmp_path):
    grey = np.stack([speckle((SIDE, 2 * SIDE))] * 3)
    (tmp_path / "grey").mkdir()
    make_raster(grey, "grey/0.png")
    with pytest.raises(DataError, match="cannot find the SAR half"):
        find_pairs(tmp_path / "grey", aligned=True)
    pictures(make_raster, tmp_path, side="left", folder="one")
    root = pictures(make_raster, tmp_path, side="right", folder="two")
    with pytest.raises(DataError, match=r"one/0\.png has SAR \(grey\) on the left, .*two/0\.png on the right"):
        find_pairs(root, aligned=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no pairs: .*--aligned"):
        find_pairs(tmp_path / "none", aligned=True)


def test_a_check_names_images_that_are_not_pairs(make_raster, tmp_path):
    root = pictures(make_raster, tmp_path, count=20)
    assert check(root, Reading(min_side=SIDE), aligned=True).problems == ()
    whole = (root / "train" / "1.png").read_bytes()
    (root / "train" / "1.png").write_bytes(whole[:-30])
    make_raster(np.stack([speckle((SIDE, 2 * SIDE), seed=c) for c in range(3)]), "ab/train/2.png")
    make_raster(np.stack([speckle((SIDE, 2 * SIDE - 1))] * 3), "ab/train/3.png")
    make_raster(speckle((SIDE, 2 * SIDE)), "ab/train/4.png")
    report = check(root, Reading(min_side=SIDE), aligned=True)
    assert [(p.kind, p.chip.name) for p in report.problems] == [("unreadable", f"{k}.png") for k in (1, 2, 3, 4)]
    said = [problem.detail for problem in report.problems]
    for words, detail in zip(
        ("truncated", "half is in colour", "odd width of 127 pixels", "1 bands"), said, strict=True
    ):
        assert words in detail


def test_without_aligned_images_are_not_pairs_and_the_message_names_the_option(make_raster, tmp_path):
    with pytest.raises(DataError, match=r"no pairs: give a folder that holds folders s1 and s2 .*or --aligned"):
        find_pairs(pictures(make_raster, tmp_path))
