"""Training pairs: find partners by name, read all units, cut windows, check folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from sar2optical.data.augment import SPAN_DB, grid_windows, random_window, vary_sar
from sar2optical.data.check import check, plot
from sar2optical.data.harmonise import harmonise
from sar2optical.data.pairs import Chips, Pair, Reading, find_pairs, look_for_pairs, read_pair
from sar2optical.errors import DataError, OptionError, OutputUnwritable
from sar2optical.signature import Bound, ModelSignature, Stretch
from tests.conftest import UTM, speckle

SEN12 = Path(__file__).parents[3] / "shared" / "data" / "pairs_sen12"

DB = ModelSignature(name="db", bands=("VV",), unit="db", stretch=(Stretch(Bound(-25), Bound(0)),))


def write_pair(make_raster, folder, name, partner=None, size=(300, 300), *, sar=None, optical=None):
    base = make_raster(speckle((2, 2)), "probe.png").parent
    for half in ("s1", "s2"):
        (base / folder / half).mkdir(parents=True, exist_ok=True)
    colours = np.stack([speckle(size, seed=k) for k in range(3)]) if optical is None else optical
    make_raster(speckle(size) if sar is None else sar, f"{folder}/s1/{name}")
    make_raster(colours, f"{folder}/s2/{partner or name}")
    return base / folder


def only(root: Path) -> Pair:
    (pair,) = find_pairs(root)
    return pair


# Finding


def test_partners_have_equal_names(make_raster):
    root = write_pair(make_raster, "flat", "001.png")
    write_pair(make_raster, "flat", "002.png")
    pairs = find_pairs(root)
    assert [(p.sar.name, p.optical.name) for p in pairs] == [("001.png", "001.png"), ("002.png", "002.png")]
    assert {p.sar.parent.name for p in pairs} == {"s1"}
    assert {p.terrain for p in pairs} == {""}


def test_sen12_names_differ_in_one_word(make_raster):
    root = write_pair(
        make_raster, "sen12/agri", "ROIs1970_fall_s1_13_p265.png", "ROIs1970_fall_s2_13_p265.png"
    ).parent
    pair = only(root)
    assert pair.optical.name == "ROIs1970_fall_s2_13_p265.png"
    assert pair.terrain == "agri"


def test_class_folders_may_be_links(make_raster, tmp_path):
    real = write_pair(make_raster, "disk/urban", "001.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "urban").symlink_to(real, target_is_directory=True)
    assert only(tmp_path / "set").terrain == "urban"


def test_partners_may_have_another_file_format(make_raster):
    root = write_pair(make_raster, "mixed", "a.tif", "a.png")
    (root / "s1" / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (root / "s1" / "._a.tif").write_bytes(b"left by another system")
    assert only(root).optical == root / "s2" / "a.png"


def test_two_chips_of_one_name_are_refused(make_raster):
    root = write_pair(make_raster, "twice", "a.tif", "a.png")
    make_raster(speckle((300, 300)), "twice/s1/a.png")
    with pytest.raises(DataError, match=r"a\.tif: a\.png in the same folder names the same chip"):
        find_pairs(root)


@pytest.mark.parametrize("half", ["s1", "s2"])
def test_a_chip_of_either_kind_without_a_partner_is_named(make_raster, half):
    root = write_pair(make_raster, "half", "001.png")
    other = {"s1": "s2", "s2": "s1"}[half]
    make_raster(speckle((300, 300)), f"half/{half}/x_{half}_2.png")
    with pytest.raises(DataError, match=rf"x_{half}_2\.png: its partner .*{other}/x_{other}_2\.png is missing: add"):
        find_pairs(root)
    make_raster(speckle((300, 300)), f"half/{half}/x_{half}_3.png")
    with pytest.raises(DataError, match=r"_2\.png.*\(2 chips have no partner\)"):
        find_pairs(root)
    assert [pair.sar.name for pair in find_pairs(root, incomplete="skip")] == ["001.png"]
    assert len(look_for_pairs(root).lonely) == 2


def test_a_lone_folder_of_optical_chips_is_incomplete(make_raster, tmp_path):
    (tmp_path / "s2").mkdir()
    make_raster(np.stack([speckle((300, 300))] * 3), "s2/a.png")
    with pytest.raises(DataError, match=r"s2/a\.png: its partner .*s1/a\.png is missing"):
        find_pairs(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        find_pairs(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_pairs(tmp_path / "absent")


# Reading


def test_a_pair_is_read_as_grey_and_colour(make_raster):
    chips = read_pair(only(write_pair(make_raster, "flat", "001.png")))
    np.testing.assert_array_equal(chips.sar[0], speckle((300, 300)))
    np.testing.assert_array_equal(chips.optical[2], speckle((300, 300), seed=2))


def test_bytes_are_the_same_with_and_without_a_signature(make_raster):
    pair = only(write_pair(make_raster, "flat", "001.png"))
    chips = read_pair(pair, Reading(signature=DB))
    assert chips.sar.dtype == np.uint8
    np.testing.assert_array_equal(chips.sar, read_pair(pair).sar)


def test_grey_saved_in_colour_counts_as_one_band(make_raster):
    root = write_pair(make_raster, "grey", "a.png", sar=np.stack([speckle((300, 300))] * 3))
    for reading in (None, Reading(signature=DB)):
        np.testing.assert_array_equal(read_pair(only(root), reading).sar, speckle((300, 300))[None])


def test_swapped_folders_are_refused(make_raster):
    colours = np.stack([speckle((300, 300), seed=k) for k in range(3)])
    root = write_pair(make_raster, "swapped", "a.png", sar=colours, optical=np.stack([speckle((300, 300))] * 3))
    for reading in (None, Reading(signature=DB)):
        with pytest.raises(DataError, match=r"s1/a\.png: .*a colour (picture|image)"):
            read_pair(only(root), reading)


def decibels(shape=(256, 256)) -> np.ndarray:
    return np.linspace(-30, 5, shape[0] * shape[1], dtype=np.float32).reshape(shape)


def test_decibels_are_encoded_for_the_signature(make_raster):
    root = write_pair(make_raster, "db", "a.tif", size=(256, 256), sar=decibels())
    sar = read_pair(only(root), Reading(signature=DB)).sar
    assert sar.dtype == np.float32
    assert sar.shape == (1, 256, 256)
    np.testing.assert_allclose(sar[0], np.clip((decibels() + 12.5) / 12.5, -1, 1), atol=1e-5)


def test_linear_power_becomes_what_its_decibels_become(make_raster):
    power = (10 ** (decibels() / 10)).astype(np.float32)
    linear = only(write_pair(make_raster, "linear", "a.tif", size=(256, 256), sar=power))
    logarithmic = only(write_pair(make_raster, "db", "a.tif", size=(256, 256), sar=decibels()))
    given = read_pair(linear, Reading(signature=DB, unit="power")).sar
    np.testing.assert_allclose(given, read_pair(logarithmic, Reading(signature=DB)).sar, atol=1e-5)


def test_percentiles_are_of_the_chip_file(make_raster):
    signature = ModelSignature(name="p", bands=("VV",))  # 1st to 99th
    root = write_pair(make_raster, "db", "a.tif", size=(256, 256), sar=decibels())
    sar = read_pair(only(root), Reading(signature=signature)).sar[0]
    low, high = np.percentile(decibels(), (1, 99))
    np.testing.assert_allclose(sar, np.clip((decibels() - low) / (high - low) * 2 - 1, -1, 1), atol=1e-4)


def test_pixels_without_a_value_become_zero(make_raster):
    values = decibels()
    values[:10] = np.nan
    values[10, 5] = -99
    root = write_pair(make_raster, "holes", "b.tif", size=(256, 256))
    make_raster(values, "holes/s1/b.tif", nodata=-99)
    sar = read_pair(only(root), Reading(signature=DB)).sar
    assert (sar[0, :10] == 0).all()
    assert sar[0, 10, 5] == 0
    assert sar[0, 10, 6] == np.float32(-1)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", np.float32), ("uint8", np.uint8)])
def test_a_chip_without_any_valid_pixel_keeps_its_dtype(make_raster, dtype, expected):
    root = write_pair(make_raster, "void", "a.tif", size=(256, 256))
    make_raster(np.zeros((256, 256), dtype), "void/s1/a.tif", nodata=0)
    sar = read_pair(only(root), Reading(signature=DB)).sar
    assert sar.dtype == expected
    assert not sar.any()


def test_two_bands_come_in_the_signatures_order(make_raster):
    root = write_pair(make_raster, "dual", "a.tif", size=(256, 256))
    make_raster(np.stack([decibels(), decibels() - 7]), "dual/s1/a.tif", descriptions=("VH", "VV"))
    both = ModelSignature(name="both", bands=("VV", "VH"), stretch=DB.stretch * 2, channels=2)
    sar = read_pair(only(root), Reading(signature=both)).sar
    alone = [read_pair(only(root), Reading(signature=DB, bands=(band,))).sar[0] for band in ("VV", "VH")]
    np.testing.assert_array_equal(sar, np.stack(alone))
    assert (sar[0] < sar[1]).any()


def test_values_other_than_bytes_need_a_signature(make_raster):
    pair = only(write_pair(make_raster, "db", "a.tif", size=(256, 256), sar=decibels()))
    with pytest.raises(DataError, match="float32, not 8 bit"):
        read_pair(pair)
    with pytest.raises(DataError, match="values are not 8-bit"):
        read_pair(pair, Reading(bands=("1",)))


def test_an_unknown_or_unusable_unit_names_the_file(make_raster):
    odd = only(write_pair(make_raster, "odd", "a.tif", size=(256, 256), sar=np.abs(decibels()) * 1e4))
    with pytest.raises(DataError, match=r"a\.tif: .*could be several units"):
        read_pair(odd, Reading(signature=DB))
    with pytest.raises(DataError, match=r"a\.tif: values are uncalibrated DN"):
        read_pair(odd, Reading(signature=DB, unit="dn"))


def test_reflectance_is_converted_to_bytes(make_raster):
    reflectance = np.zeros((3, 256, 256), np.uint16)
    reflectance[:, 0, :4] = [0, 1500, 3000, 12000]
    root = write_pair(make_raster, "s2", "a.tif", sar=speckle((256, 256)), optical=reflectance)
    assert read_pair(only(root)).optical[1, 0, :4].tolist() == [0, 128, 255, 255]
    assert read_pair(only(root), Reading(optical_max=12000)).optical[1, 0, :4].tolist() == [0, 32, 64, 255]


def test_colours_are_chosen_by_name(make_raster):
    stored = np.stack([speckle((256, 256), seed=k) for k in range(4)])
    names = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    root = write_pair(make_raster, "bgr", "a.tif", size=(256, 256))
    make_raster(stored, "bgr/s2/a.tif", colorinterp=names)
    np.testing.assert_array_equal(read_pair(only(root)).optical, stored[2::-1])


def test_an_optical_chip_has_three_bands_of_integers(make_raster):
    root = write_pair(make_raster, "bad", "a.tif", sar=speckle((256, 256)), optical=speckle((256, 256)))
    with pytest.raises(DataError, match=r"s2/a\.tif: 1 bands"):
        read_pair(only(root))
    make_raster(np.ones((3, 256, 256), np.float32), "bad/s2/a.tif")
    with pytest.raises(DataError, match=r"s2/a\.tif: dtype is float32: give optical chips of 8 bits"):
        read_pair(only(root))


def test_differing_and_small_chips_are_named(make_raster):
    root = write_pair(make_raster, "flat", "001.png")
    make_raster(speckle((280, 300)), "flat/s1/001.png")
    with pytest.raises(DataError, match=r"s1/001\.png is 300 x 280, .*s2/001\.png is 300 x 300: crop the larger one"):
        read_pair(only(root))
    write_pair(make_raster, "flat", "001.png", size=(256, 255))
    with pytest.raises(DataError, match=r"s1/001\.png: 255 x 256 pixels, smaller than the window of 256"):
        read_pair(only(root))
    assert read_pair(only(root), Reading(min_side=255)).sar.shape == (1, 256, 255)


def damaged(path: Path, how: str) -> None:
    """Empty a file, fill it with text, flip a byte in its middle, or leave a share of it."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    if how in ("empty", "text"):
        path.write_bytes({"empty": b"", "text": b"hello"}[how])
    elif how == "flipped":
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    else:
        path.write_bytes(whole[: int(len(whole) * float(how))])


@pytest.mark.parametrize("how", ["empty", "text", "0.3", "0.9", "0.9999"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("half", ["s1", "s2"])
def test_a_damaged_file_is_never_read_as_a_chip(make_raster, name, half, how):
    pair = only(write_pair(make_raster, "cut", name, size=(256, 256)))
    path = {"s1": pair.sar, "s2": pair.optical}[half]
    assert read_pair(pair).sar.any()
    damaged(path, how)
    for reading in (None, Reading(signature=DB)):
        with pytest.raises(DataError, match=rf"{half}/{name}: "):
            read_pair(pair, reading)


def test_a_flipped_bit_in_a_png_is_detected(make_raster):
    pair = only(write_pair(make_raster, "flip", "a.png"))
    damaged(pair.optical, "flipped")
    with pytest.raises(DataError, match=r"s2/a\.png: not readable \(its chunk at byte \d+ does not match"):
        read_pair(pair)


def test_invalid_readings_are_refused():
    with pytest.raises(OptionError, match="optical maximum is 0"):
        Reading(optical_max=0)
    with pytest.raises(OptionError, match=r"min_side \(--window\) is 0"):
        Reading(min_side=0)


def test_chips_without_a_georeference_are_read_without_warnings(make_raster):
    root = write_pair(make_raster, "quiet", "a.png")
    program = (
        "import sys; from pathlib import Path; from sar2optical.data.pairs import find_pairs\n"
        "from sar2optical.data.store import ChipStore\n"
        "store = ChipStore.open(find_pairs(Path(sys.argv[1])) * 40, workers=8, cache_bytes=0); print(len(store))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, str(root)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "40\n"
    assert "NotGeoreferenced" not in done.stderr


# Windows


def marked(dtype=np.uint8, bands=1):
    """A pair in which every pixel of both halves identifies its position."""
    position = np.arange(64 * 48).reshape(64, 48)
    split = np.stack([position % 251, position // 251, position % 7]).astype(np.uint8)
    return Chips(split[:bands].astype(dtype), split)


@pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, 1), (np.float32, 2)])
def test_both_halves_of_a_window_show_the_same_area(dtype, bands):
    rng = np.random.default_rng(0)
    for _ in range(50):
        sar, optical = random_window(marked(dtype, bands), 32, rng)
        assert sar.dtype == dtype
        assert sar.shape == (bands, 32, 32)
        assert optical.shape == (3, 32, 32)
        np.testing.assert_array_equal(sar, optical[:bands])


def ways_seen(**choices) -> set[bytes]:
    square = Chips(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), np.zeros((3, 4, 4), np.uint8))
    rng = np.random.default_rng(0)
    return {random_window(square, 4, rng, **choices)[0].tobytes() for _ in range(200)}


def test_all_eight_orientations_appear_unless_switched_off():
    straight = np.arange(16, dtype=np.uint8).reshape(4, 4)
    turned = {np.ascontiguousarray(np.rot90(straight, k)).tobytes() for k in range(4)}
    mirrored = {np.ascontiguousarray(np.rot90(straight[:, ::-1], k)).tobytes() for k in range(4)}
    assert ways_seen() == turned | mirrored
    assert ways_seen(flips=False) == turned
    assert ways_seen(turns=False) == {straight.tobytes(), straight[:, ::-1].tobytes()}
    assert ways_seen(flips=False, turns=False) == {straight.tobytes()}


def test_without_crops_the_windows_are_those_of_the_grid():
    rng = np.random.default_rng(0)
    straight = {"flips": False, "turns": False}
    aligned = {random_window(marked(), 24, rng, crop=False, **straight)[1].tobytes() for _ in range(100)}
    assert aligned == {optical.tobytes() for _, optical in grid_windows(marked(), 24)}
    anywhere = {random_window(marked(), 24, rng, **straight)[1].tobytes() for _ in range(100)}
    assert len(anywhere) > 50


def test_one_state_gives_one_window():
    one, two = (random_window(marked(), 32, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one[1], two[1])


def test_a_reduced_window_is_the_mean_of_blocks_and_sar_is_averaged_as_power():
    """Two levels, 18 dB apart, in columns of one pixel: their mean power is 3 dB below the brighter one."""
    sar = np.tile(np.array([[-1.0, 1.0]], np.float32), (64, 32))[None]
    optical = np.tile(np.array([[40, 80]], np.uint8), (3, 64, 32))
    expected = 1 + 20 / SPAN_DB * np.log10((1 + 10 ** (-SPAN_DB / 10)) / 2)
    seen = set()
    for seed in range(30):
        window = random_window(Chips(sar, optical), 32, np.random.default_rng(seed), zoom=2)
        assert window[0].shape == (1, 32, 32)
        reduced = bool((window[1] == 60).all())
        seen.add(reduced)
        if reduced:
            np.testing.assert_allclose(window[0], expected, atol=1e-5)
    assert seen == {True, False}
    small = random_window(Chips(sar[:, :40, :40], optical[:, :40, :40]), 32, np.random.default_rng(0), zoom=3)
    assert small[0].shape == (1, 32, 32)  # too small to reduce


def test_varied_sar_keeps_the_order_of_brightness():
    """A step of 9 dB is kept by all variations, within [-1, 1]."""
    step = np.repeat(np.array([[-0.5], [0.5]], np.float32), 32, axis=0).repeat(64, axis=1)[None]
    images = [vary_sar(step, np.random.default_rng(seed)) for seed in range(60)]
    assert all(image.dtype == np.float32 and np.abs(image).max() <= 1 for image in images)
    assert all(image[0, 32:].mean() > image[0, :32].mean() + 0.1 for image in images)
    assert any(image[0, :30].std() > 0.1 for image in images)  # speckle
    assert any(abs(image[0, 0, 0] - image[0, 0, -1]) > 0.05 and image[0, :, 0].std() > 0 for image in images)
    assert len({image.tobytes() for image in images}) == 60
    bytes_in = np.rint((step + 1) * 127.5).astype(np.uint8)
    np.testing.assert_allclose(
        vary_sar(bytes_in, np.random.default_rng(4)), vary_sar(step, np.random.default_rng(4)), atol=0.02
    )


def test_harmonised_pairs_agree_for_any_stretch_of_the_source(make_raster, tmp_path):
    """The same area as amplitude over its 99th percentile, and as dB between -25 and 0: equal within rounding."""
    rng = np.random.default_rng(2)
    power = np.kron(rng.uniform(0.02, 0.4, (16, 16)), np.ones((16, 16))) * rng.gamma(5, 0.2, (256, 256))
    amplitude, decibels_ = np.sqrt(power), 10 * np.log10(power)
    made = {
        "amplitude": np.clip(amplitude / np.percentile(amplitude, 99.9) * 255, 1, 255),
        "db": np.clip((decibels_ + 30) / 35 * 255, 0, 255),
    }
    for unit, image in made.items():
        write_pair(make_raster, unit, "a.png", size=(256, 256), sar=np.rint(image).astype(np.uint8))
        harmonise(find_pairs(tmp_path / unit), tmp_path / f"{unit}-out", unit=unit)
    grey = [read_pair(only(tmp_path / f"{unit}-out")).sar[0].astype(int) for unit in made]
    bright = (grey[0] > 60) & (grey[1] > 60)  # below, a level of amplitude is more than one of dB
    assert np.abs(grey[0] - grey[1])[bright].mean() < 3
    for image in grey:
        assert np.mean(image == 0) == pytest.approx(0.01, abs=0.005)
        assert np.mean(image == 255) == pytest.approx(0.01, abs=0.005)
    np.testing.assert_array_equal(
        read_pair(only(tmp_path / "db-out")).optical, read_pair(only(tmp_path / "db")).optical
    )


def test_grid_windows_lie_side_by_side():
    windows = grid_windows(marked(), 24)
    assert len(windows) == 2 * 2
    np.testing.assert_array_equal(windows[3][1], marked().optical[:, 24:48, 24:48])


# Checking


def flawed(make_raster) -> Path:
    """A folder with one of each problem, and two good pairs."""
    root = write_pair(make_raster, "set/agri", "good.png", sar=speckle((300, 300), seed=7)).parent
    write_pair(make_raster, "set/urban", "other.png", sar=speckle((300, 300), seed=8))
    write_pair(make_raster, "set/urban", "copy.png", sar=speckle((300, 300), seed=7))
    write_pair(make_raster, "set/urban", "differs.png", sar=speckle((280, 300)))
    write_pair(make_raster, "set/urban", "small.png", size=(300, 100))
    write_pair(make_raster, "set/urban", "empty.png", sar=np.full((300, 300), 9, np.uint8))
    write_pair(make_raster, "set/urban", "void.png", sar=np.full((300, 300), 9, np.uint8))
    write_pair(make_raster, "set/urban", "torn.png")
    damaged(root / "urban" / "s1" / "torn.png", "0.5")
    make_raster(speckle((300, 300)), "set/urban/s1/lonely.png")
    return root


def test_exactly_the_existing_problems_are_found(make_raster):
    root = flawed(make_raster)
    report = check(root)
    assert [(p.kind, p.chip.relative_to(root).as_posix()) for p in report.problems] == [
        ("no partner", "urban/s1/lonely.png"),
        ("unreadable", "urban/s1/torn.png"),
        ("sizes differ", "urban/s1/differs.png"),
        ("small", "urban/s1/small.png"),
        ("empty", "urban/s1/empty.png"),
        ("empty", "urban/s1/void.png"),
        ("duplicate", "urban/s1/copy.png"),
    ]
    assert report.classes == {"agri": 1, "urban": 7}
    assert report.pairs == 8
    assert report.count("empty") == 2
    assert "truncated" in report.problems[1].detail


def test_histograms_count_every_readable_pixel(make_raster):
    root = write_pair(make_raster, "flat", "a.png")
    report = check(root)
    assert report.problems == ()
    np.testing.assert_array_equal(report.sar, np.bincount(speckle((300, 300)).ravel(), minlength=256))
    np.testing.assert_array_equal(report.optical[1], np.bincount(speckle((300, 300), seed=1).ravel(), minlength=256))


def test_encoded_values_fall_on_the_level_that_shows_them(make_raster):
    values = np.full((256, 256), -25, np.float32)
    values[0, :2] = [0, -12.5]
    root = write_pair(make_raster, "db", "a.tif", size=(256, 256))
    make_raster(values, "db/s1/a.tif", **UTM)
    report = check(root, Reading(signature=DB))
    assert {int(k): int(report.sar[k]) for k in np.flatnonzero(report.sar)} == {0: 256 * 256 - 2, 128: 1, 255: 1}


def test_the_number_of_threads_has_no_effect(make_raster):
    root = flawed(make_raster)
    assert check(root, workers=1) == check(root, workers=4)


def test_a_plot_is_a_png_file(make_raster, tmp_path):
    report = check(write_pair(make_raster, "flat", "a.png"))
    plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputUnwritable, match="cannot be written"):
        plot(report, tmp_path / "absent" / "plot.png")


def test_an_empty_folder_cannot_be_checked(tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        check(tmp_path)


@pytest.mark.skipif(not SEN12.is_dir(), reason="needs the real SEN1-2 chips, which do not come with the project")
def test_real_sen12_chips_are_found_and_read():
    pairs = find_pairs(SEN12)
    assert len(pairs) == 19
    assert {pair.terrain for pair in pairs} == {"agri", "barrenland", "grassland", "urban"}
    chips = [read_pair(pair) for pair in pairs]
    assert {c.sar.shape for c in chips} == {(1, 256, 256)}
    assert {c.optical.shape for c in chips} == {(3, 256, 256)}
    assert check(SEN12).problems == ()
