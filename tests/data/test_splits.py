"""Splits: whole scenes, split files of the re-implemented system, missing chips."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sar2optical.data.pairs import Pair
from sar2optical.data.splits import (
    SPLITS,
    Splits,
    load_pairs,
    pairs_of,
    random_split,
    read_split,
    scene_key,
    scene_split,
    scenes_shared,
    write_split,
)
from sar2optical.errors import DataError, OptionError, OutputExists, OutputUnwritable

SHARED = Path(__file__).parents[3] / "shared"
SEED = SHARED / "facts" / "seed_split.json"
SEN12 = SHARED / "data" / "pairs_sen12"
ROOT = Path("/data")


def pairs_named(*names: str) -> list[Pair]:
    return [Pair(ROOT / name, ROOT / name.replace("s1", "s2")) for name in names]


def scenes(*sizes: int) -> list[Pair]:
    """Pairs of several scenes, alternately in two class folders."""
    return pairs_named(
        *(
            f"{('agri', 'urban')[p % 2]}/s1/ROIs1970_fall_s1_{scene}_p{p}.png"
            for scene, size in enumerate(sizes)
            for p in range(size)
        )
    )


def sizes(splits: Splits) -> list[int]:
    return [len(splits[name]) for name in SPLITS]


def every_chip(splits: Splits) -> list[str]:
    return sorted(chip for name in SPLITS for chip in splits[name])


@pytest.mark.parametrize(
    ("chip", "key"),
    [
        ("agri/s1/ROIs1970_fall_s1_13_p265.png", "ROIs1970_fall_13"),
        ("urban/s1/ROIs1970_fall_s1_13_p1.png", "ROIs1970_fall_13"),
        ("s1/ROIs1868_summer_s1_13_p265.tif", "ROIs1868_summer_13"),
        ("s1/001.png", "s1/001.png"),
        ("s1/ROIs1970_fall_s1_13_p265_copy.png", "s1/ROIs1970_fall_s1_13_p265_copy.png"),
    ],
)
def test_a_name_contains_its_scene(chip, key):
    assert scene_key(chip) == key


@pytest.mark.parametrize("split", [random_split, scene_split])
def test_every_chip_is_in_one_split(split):
    pairs = scenes(5, 9, 14, 3, 8, 30, 2)
    assert every_chip(split(pairs, ROOT)) == sorted(p.sar.relative_to(ROOT).as_posix() for p in pairs)


@pytest.mark.parametrize("seed", range(10))
def test_no_scene_is_in_two_splits(seed):
    splits = scene_split(scenes(5, 9, 14, 3, 8, 30, 2), ROOT, seed=seed)
    assert scenes_shared(splits) == set()
    assert min(sizes(splits)) > 0


def test_scenes_in_more_than_one_split_are_found():
    splits = random_split(scenes(40, 40, 1), ROOT)
    assert scenes_shared(splits) == {"ROIs1970_fall_0", "ROIs1970_fall_1"}


def test_random_splits_have_the_asked_sizes():
    assert sizes(random_split(scenes(100), ROOT)) == [70, 15, 15]
    assert sizes(random_split(scenes(100), ROOT, (8, 2, 0))) == [80, 20, 0]
    assert sizes(random_split(scenes(3), ROOT)) == [1, 1, 1]


def test_scene_splits_approximate_the_ratio():
    splits = scene_split(scenes(*range(10, 50)), ROOT)
    total = sum(range(10, 50))
    for name, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(splits[name]) - share * total) < 10


def test_an_exact_split_is_found():
    assert sizes(scene_split(scenes(35, 15, 35, 15), ROOT)) == [70, 15, 15]


@pytest.mark.parametrize(("given", "expected"), [((10, 10, 10), [10, 10, 10]), ((90, 1, 1), [90, 1, 1])])
def test_no_split_is_empty_while_there_are_scenes(given, expected):
    assert sizes(scene_split(scenes(*given), ROOT)) == expected


def test_fewer_scenes_than_splits_leave_some_empty():
    assert sizes(scene_split(scenes(10), ROOT)) == [10, 0, 0]


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_files():
    pairs = scenes(*[7] * 20)
    first = scene_split(pairs, ROOT, seed=1)
    assert first == scene_split(pairs[::-1], ROOT, seed=1)
    assert len({scene_split(pairs, ROOT, seed=seed) for seed in range(5)}) == 5


def test_a_split_is_the_same_on_every_machine():
    """Splits of earlier releases are reproduced."""
    splits = random_split(pairs_named(*(f"s1/{k}.png" for k in range(10))), ROOT, seed=42)
    assert splits.val == ("s1/3.png", "s1/6.png")
    assert splits.test == ("s1/1.png",)


@pytest.mark.parametrize("ratio", [(-1, 1, 1), (0, 1, 1), (float("nan"), 1, 1), (1, float("inf"), 0), (1, 1)])
def test_invalid_ratios_are_refused(ratio):
    with pytest.raises(OptionError, match="ratio is"):
        random_split(scenes(10), ROOT, ratio)


def test_a_split_file_is_read_back_unchanged(tmp_path):
    splits = scene_split(scenes(5, 9, 14), ROOT)
    write_split(tmp_path / "split.json", splits)
    assert read_split(tmp_path / "split.json") == splits
    assert set(json.loads((tmp_path / "split.json").read_text())["data"]) == {"train", "val", "test"}
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_a_split_file_is_replaced_only_with_overwrite(tmp_path):
    out = tmp_path / "split.json"
    out.write_text("mine")
    with pytest.raises(OutputExists, match="--overwrite"):
        write_split(out, Splits((), (), ()))
    assert out.read_text() == "mine"
    write_split(out, Splits(("a",), (), ()), overwrite=True)
    assert read_split(out).train == ("a",)
    with pytest.raises(OutputUnwritable, match="no folder"):
        write_split(tmp_path / "absent" / "split.json", Splits((), (), ()))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a split file"),
        ("[1]", "not a split file"),
        ('{"data": {"train": []}}', "not a split file"),
        ('{"data": {"train": "a", "val": [], "test": []}}', "train is not a list"),
        ('{"data": {"train": [], "val": [1], "test": []}}', "val is not a list"),
        ('{"data": {"train": ["a"], "val": [], "test": ["a"]}}', "a is in train and in test"),
        ('{"data": {"train": ["a", "a"], "val": [], "test": []}}', "a is in train and in train"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, text, match):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_split(path)


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: not readable"):
        read_split(tmp_path / "absent.json")


def test_the_pairs_of_a_split_come_in_its_order():
    pairs = pairs_named("s1/a.png", "s1/b.png", "s1/c.png")
    splits = Splits(("s1/c.png", "s1/a.png"), ("s1/b.png",), ())
    assert pairs_of(splits, "train", pairs, ROOT) == [pairs[2], pairs[0]]
    with pytest.raises(DataError, match="split test has no chips"):
        pairs_of(splits, "test", pairs, ROOT)
    with pytest.raises(OptionError, match="no split 'exam'"):
        pairs_of(splits, "exam", pairs, ROOT)


def test_missing_chips_are_named_and_counted():
    splits = Splits(("s1/a.png", "s1/x.png", "s1/y.png"), (), ())
    with pytest.raises(
        DataError, match=r"s1/x\.png: listed in the split file, but there is no such pair \(2 of 3 chips of train"
    ):
        pairs_of(splits, "train", pairs_named("s1/a.png"), ROOT)


@pytest.mark.skipif(not SEED.is_file(), reason="needs the seed's split file, which does not come with the project")
def test_the_seeds_split_file_is_read_as_it_is(tmp_path):
    splits = read_split(SEED)
    assert sizes(splits) == [12800, 1600, 1600]
    # All of its 30 scenes are in more than one split, so a split by scene differs.
    assert len(scenes_shared(splits)) == len({scene_key(chip) for chip in every_chip(splits)}) == 30
    again = scene_split(pairs_named(*every_chip(splits)), ROOT)
    assert scenes_shared(again) == set()
    assert all(abs(n - share) < 100 for n, share in zip(sizes(again), (11200, 2400, 2400), strict=True))
    assert Counter(every_chip(again)) == Counter(every_chip(splits))


@pytest.mark.skipif(not SEN12.is_dir(), reason="needs the real SEN1-2 chips, which do not come with the project")
def test_real_chips_are_split_and_loaded(tmp_path):
    out = tmp_path / "split.json"
    write_split(out, scene_split(load_pairs(SEN12), SEN12))
    loaded = [load_pairs(SEN12, out, name) for name in SPLITS]
    assert [len(pairs) for pairs in loaded] == [15, 2, 2]
    assert {pair for pairs in loaded for pair in pairs} == set(load_pairs(SEN12))


@pytest.mark.skipif(
    not (SEED.is_file() and SEN12.is_dir()), reason="needs the seed's split file and the real SEN1-2 chips"
)
def test_the_seeds_split_names_chips_that_this_folder_lacks():
    with pytest.raises(DataError, match=r"of 1600 chips of val are missing"):
        load_pairs(SEN12, SEED, "val")
