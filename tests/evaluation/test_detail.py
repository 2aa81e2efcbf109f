"""Detail by scale, explained variance, dark areas and shift consistency, against values by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan, log10
from pathlib import Path

import numpy as np
import pytest

from sar2optical.data.pairs import Chips, Pair, encoded
from sar2optical.evaluation import (
    METRICS,
    better_sign,
    block_means,
    corner_share,
    dark_areas,
    dark_in_both,
    fitted,
    low_passed,
    measure,
    octave_energies,
    radar_picture,
    report,
    shift_consistency,
)
from sar2optical.evaluation.evaluate import Sample, evaluate
from sar2optical.evaluation.predictors import RADAR, SeesTruth, mean_colour, radar
from sar2optical.evaluation.shift_runs import spread_pairs, with_shifts
from tests.conftest import speckle

SIDE = 64


def checks(side=SIDE, cell=1):
    """Make a chequerboard of +1 and -1 with cells of the given size."""
    return (1.0 - 2 * ((np.indices((side, side)) // cell).sum(axis=0) % 2))[None].repeat(3, axis=0)


def random_image(seed=0, side=SIDE):
    return np.random.default_rng(seed).uniform(60, 190, (3, side, side))


def db(error):
    return 10 * log10(255**2 / error)


# Blocks and gradients


def test_block_means_drop_incomplete_blocks():
    image = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    assert block_means(image, 2).tolist() == [[[3, 5]]]  # (0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4
    assert block_means(image, 1).tolist() == image.tolist()
    assert block_means(image, 4).shape == (1, 0, 1)


def test_a_one_pixel_chequerboard_has_gradients_only_at_one_pixel():
    assert octave_energies(100 + 10 * checks()).tolist() == [20**2 + 20**2, 0, 0, 0]


def test_a_chequerboard_of_two_pixels_has_them_at_one_and_two():
    one, *coarser = octave_energies(100 + 10 * checks(cell=2))
    assert one == pytest.approx(800 * 31 / 63)  # 31 of 63 steps lead into another cell
    assert coarser == [800, 0, 0]


def test_blocks_larger_than_the_image_have_no_gradient():
    energies = octave_energies(random_image(side=8))
    assert [isnan(energy) for energy in energies] == [False, False, False, True]  # one block of 8 x 8


def test_gradient_ratios_of_all_octaves_are_of_sums_over_windows():
    truth = np.rint(random_image()).astype(np.uint8)
    steep, flat = np.array([truth, np.full_like(truth, 90)])
    tally = measure(steep, steep / 2) + measure(flat, flat * 0.5)
    for name in ("gradient_ratio", "gradient_ratio_2", "gradient_ratio_4", "gradient_ratio_8"):
        above, below = tally[:, METRICS.index(name)]
        assert above / below == pytest.approx(0.25)


# Corner share


def test_a_one_pixel_chequerboard_is_in_the_corner_and_stripes_are_not():
    assert corner_share(100 + 3 * checks()) == pytest.approx(1)
    stripes = (np.arange(SIDE) % 2 * 9.0)[None, None].repeat(SIDE, axis=1)
    assert corner_share(stripes) == pytest.approx(0, abs=1e-12)
    assert corner_share(stripes.swapaxes(1, 2)) == pytest.approx(0, abs=1e-12)


def test_the_corner_share_is_weighted_by_gradients():
    stripes = 1.0 - 2 * (np.arange(SIDE) % 2)
    image = checks()[:1] + 2 * stripes  # powers 1 and 4; the chequerboard steps along both axes, stripes along one
    assert corner_share(image) == pytest.approx(2 * 1 / (2 * 1 + 4))


@pytest.mark.parametrize(("cycles", "share"), [(7, 1), (6, 0)])
def test_the_corner_begins_at_seven_sixteenths(cycles, share):
    wave = np.cos(2 * np.pi * cycles / 16 * np.arange(SIDE))
    assert corner_share(50 * (wave[:, None] * wave)[None]) == pytest.approx(share, abs=1e-12)


def test_channels_that_cancel_leave_a_flat_grey_without_a_share():
    opposed = 100 + np.stack([checks()[0], -checks()[0], 0 * checks()[0]])
    assert isnan(corner_share(opposed))
    assert isnan(corner_share(np.full((3, 8, 8), 77.7)))


# Explained variance


def test_a_truth_with_another_gain_and_offset_is_explained_completely():
    image = random_image()
    assert fitted(2 * image + 5, image) == (pytest.approx(1), inf)
    gains = np.array([1, 2, 3])[:, None, None]
    assert fitted(gains * image - 40, image).r2 == pytest.approx(1)  # each colour has its own


def test_a_negative_explains_nothing_and_its_negative_everything():
    image = random_image()
    found = fitted(255 - image, image)
    assert found.r2 == 0
    assert found.psnr == pytest.approx(db(image.var(axis=(1, 2)).mean()))
    assert fitted(255 - image, better_sign(255 - image, image)).r2 == pytest.approx(1)
    assert np.array_equal(better_sign(image, image), image)


def test_explained_variance_by_hand():
    image, truth = np.array([[[0, 1, 0, 1]]]), np.array([[[0, 2, 2, 4]]])
    # Covariance 1/2, variance 1/4 and 2: (1/2)^2 / (1/4) = 1 of 2 is explained, 1 is left.
    assert fitted(truth, image) == (pytest.approx(1 / 2), pytest.approx(db(1)))
    with_a_negative = fitted(np.concatenate([truth, truth]), np.concatenate([image, -image]))
    assert with_a_negative == (pytest.approx(1 / 4), pytest.approx(db((1 + 2) / 2)))


def test_nothing_explains_a_flat_truth_and_a_flat_image_explains_nothing():
    image, flat = random_image(), np.full((3, SIDE, SIDE), 1 / 3)
    assert all(map(isnan, fitted(flat, image)))
    assert fitted(image, flat).r2 == 0
    assert all(map(isnan, fitted(low_passed(image[:, :9]), low_passed(image[:, :9]))))  # no block fits


def test_texture_that_is_missing_costs_nothing_after_the_low_pass():
    blocks = np.array([[0.0, 20], [40, 60]]).repeat(16, axis=0).repeat(16, axis=1)[None].repeat(3, axis=0)
    truth = np.rint(100 + blocks + 50 * checks(32)).astype(np.uint8)
    found = dict(zip(METRICS, measure(truth, blocks / 2).T.tolist(), strict=True))
    assert found["r2"] == [pytest.approx(500 / (500 + 2500)), 1]
    assert found["psnr_fitted"] == [pytest.approx(db(2500)), 1]
    assert found["r2_low_passed"] == [pytest.approx(1), 1]
    assert found["psnr_fitted_low_passed"] == [inf, 1]
    assert low_passed(truth)[0].tolist() == [[100, 120], [140, 160]]


def test_undefined_figures_are_excluded_from_means():
    flat = np.full((3, SIDE, SIDE), 90, np.uint8)
    found = dict(zip(METRICS, measure(flat, flat.astype(float)).T.tolist(), strict=True))
    for name in ("r2", "r2_low_passed", "psnr_fitted", "psnr_fitted_low_passed", "corner_share", "dark_agreement"):
        assert found[name] == [0, 0], name


# The radar picture


def test_the_radar_picture_repeats_the_first_band():
    assert radar_picture(np.array([[-1, 0, 1]]))[:, 0].tolist() == [[0, 127.5, 255]] * 3
    two = np.stack([np.full((4, 4), 0.5), np.zeros((4, 4))]).astype(np.float32)
    assert np.array_equal(radar(two), np.full((3, 4, 4), 191.25))
    grey = speckle((8, 8))[None]
    assert radar(grey) == pytest.approx(grey.repeat(3, axis=0).astype(float), abs=1e-4)


def test_the_better_sign_is_chosen_window_by_window():
    sar = speckle((SIDE, 2 * SIDE))[None]
    truth = sar.repeat(3, axis=0)
    truth[:, :, SIDE:] = 255 - truth[:, :, SIDE:]
    found = evaluate(RADAR, [Sample("a", "", Chips(sar, truth))], window=SIDE)
    plain, better = (result.overall for result in found.results)
    assert (plain.r2.value, better.r2.value) == (pytest.approx(0.5), pytest.approx(1))
    assert better.r2_low_passed.value == pytest.approx(1)
    assert better.psnr.value > 100 > plain.psnr.value
    assert isinstance(RADAR["radar, better sign"], SeesTruth)


# Dark areas


def disc(radius=12, *, inside=-1.0, side=SIDE):
    rows, cols = np.indices((side, side)) - side // 2
    return np.where(rows**2 + cols**2 <= radius**2, inside, 0.2)


def grey(where, dark, bright):
    return np.where(where, float(dark), float(bright))[None].repeat(3, axis=0)


def test_a_dark_square_is_found_with_its_ring():
    band = np.full((SIDE, SIDE), 0.2)
    band[20:40, 22:42] = -1
    (area,) = dark_areas(band)
    # Under -0.7 are means with less than a quarter of 0.2: the outermost pixels have 2 of 5 rows of it, the next ones
    # 1 of 5, and the next corners 9 of 25.
    expected = np.zeros((SIDE, SIDE), bool)
    expected[21:39, 23:41] = True
    expected[[21, 21, 38, 38], [23, 40, 23, 40]] = False
    assert np.array_equal(area.inside, expected)
    assert np.flatnonzero(area.ring[30]).tolist() == [*range(15, 23), *range(41, 49)]
    assert np.flatnonzero(area.ring[:, 30]).tolist() == [*range(13, 21), *range(39, 47)]


@pytest.mark.parametrize(
    ("band", "count"),
    [
        (disc(8), 0),  # 200 pixels
        (disc(inside=-0.69), 0),
        (np.full((SIDE, SIDE), -1.0), 0),  # no ring
        (np.concatenate([disc(), disc()], axis=1), 2),
        (np.zeros((SIDE, SIDE)), 0),
    ],
)
def test_areas_are_dark_large_and_connected(band, count):
    assert len(dark_areas(band)) == count


def test_a_lake_on_an_island_is_an_area_of_its_own():
    rows, cols = np.abs(np.indices((120, 120)) - 60)
    away = np.maximum(rows, cols)
    found = dark_areas(np.where((away < 15) | (away > 35), -1.0, 0.5))
    lake, sea = sorted(found, key=lambda area: area.inside.sum())
    assert (lake.inside[60, 60], lake.inside[0, 0]) == (True, False)
    assert (sea.inside[60, 60], sea.inside[0, 0]) == (False, True)


def test_a_disc_predicted_dark_agrees_and_one_predicted_bright_does_not():
    areas = dark_areas(disc())
    dark = grey(disc() < 0, 40, 60)
    assert dark_in_both(areas, dark, dark - 30) == (1, 1)
    assert dark_in_both(areas, dark, grey(disc() < 0, 99, 100)) == (1, 1)  # any amount
    assert dark_in_both(areas, dark, 255 - dark) == (0, 1)
    assert dark_in_both(areas, dark, np.full_like(dark, 1 / 3)) == (0, 1)  # flat is not darker


def test_only_areas_that_the_truth_shows_dark_count():
    areas = dark_areas(disc())
    mask = areas[0].inside
    assert dark_in_both(areas, grey(mask, 50, 60), grey(mask, 0, 9)) == (1, 1)
    assert dark_in_both(areas, grey(mask, 51, 60), grey(mask, 0, 9)) == (0, 0)
    assert dark_in_both([], grey(mask, 0, 99), grey(mask, 0, 99)) == (0, 0)


def test_tables_show_dark_areas_by_class_and_a_dash_where_there_is_none():
    band = ((disc() + 1) * 127.5).astype(np.uint8)[None]
    water = Chips(band, grey(disc() < 0, 40, 90).astype(np.uint8))
    land = Chips(speckle((SIDE, SIDE))[None] // 2 + 99, np.rint(random_image()).astype(np.uint8))
    chips = [Sample("a", "wet", water), Sample("b", "dry", land), Sample("c", "wet", water)]
    found = evaluate({"radar": radar, "negative": lambda sar: 255 - radar(sar)}, chips, window=SIDE)
    ours, negative = found.results
    assert (ours.overall.dark_agreement.value, ours.overall.dark_areas) == (1, 2)
    assert (negative.overall.dark_agreement.value, negative.terrain["wet"].dark_areas) == (0, 2)
    assert isnan(ours.terrain["dry"].dark_agreement.value)
    assert [row[-1] for row in report.detail_rows(found)] == ["dark areas", "1.00 of 2", "0.00 of 2"]
    assert [row[-1] for row in report.terrain_detail_rows(found)][1:] == ["-", "-", "1.00 of 2", "0.00 of 2"]


def test_the_truths_corner_share_is_reported_too():
    pattern = np.rint(100 + 40 * checks()).astype(np.uint8)
    chips = [Sample("a", "", Chips(pattern[:1], pattern)), Sample("b", "", Chips(pattern[:1], 0 * pattern + 9))]
    found = evaluate({"colour": mean_colour([chips[1].chips]), "radar": radar}, chips, window=SIDE)
    assert found.truth_corner_share == pytest.approx(1)  # the flat one has none
    colour, ours = report.detail_rows(found)[1:]
    assert (colour[-2], ours[-2]) == ("-", "1.0000")
    assert any("1.0000 for the truth" in note for note in report.notes(found))


# Shift consistency


def ramp(height=SIDE, width=SIDE):
    return np.random.default_rng(3).integers(1, 200, (1, height, width)).astype(np.uint8)


def pointwise(sar):
    return sar.repeat(3, axis=0) * 1.0


def parity(sar):
    """Add 10 levels to every other column of the window, independent of its position."""
    return pointwise(sar) + np.arange(sar.shape[2]) % 2 * 10


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE + 20, SIDE + 20), (SIDE + 3, 2 * SIDE)])
def test_a_prediction_of_single_pixels_is_consistent_and_a_column_pattern_is_not(size):
    shifts = ((0, 1), (2, 2), (3, 5), (16, 17))
    assert shift_consistency(pointwise, ramp(*size), SIDE, shifts=shifts, margin=8).tolist() == [inf] * 4
    found = shift_consistency(parity, ramp(*size), SIDE, shifts=shifts, margin=8)
    assert found.tolist() == pytest.approx([db(100), inf, db(100), db(100)])


def test_windows_are_cut_from_the_ground_and_mirrored_beyond_it():
    chip, cut = ramp(SIDE, SIDE + 1), []
    shift_consistency(lambda sar: cut.append(sar) or pointwise(sar), chip, SIDE, shifts=((1, 1),), margin=8)
    first, moved = cut
    assert np.array_equal(first, chip[:, :, :SIDE])
    assert np.array_equal(moved[:, :-1], chip[:, 1:, 1:])
    assert np.array_equal(moved[:, -1], chip[:, -2, 1:])  # the row before the last


def test_edges_of_either_window_do_not_count():
    def framed(sar):
        out = pointwise(sar)
        out[:, :8], out[:, -8:], out[..., :8], out[..., -8:] = 0, 255, 0, 255
        return out

    shifts = ((0, 1), (3, 2))
    assert shift_consistency(framed, ramp(), SIDE, shifts=shifts, margin=8).tolist() == [inf, inf]
    assert shift_consistency(framed, ramp(), SIDE, shifts=shifts, margin=7).max() < 40
    assert np.isnan(shift_consistency(framed, ramp(), SIDE, shifts=((0, 1),), margin=32)).all()


def test_shift_consistency_is_added_to_results_by_class():
    chips = [
        Sample(str(k), terrain, Chips(ramp(96, 96), ramp(96, 96).repeat(3, axis=0)))
        for k, terrain in enumerate(("agri", "urban", "agri"))
    ]
    found = evaluate({"even": pointwise, "parity": parity, "other": pointwise}, chips, window=96)
    calls = []
    shifts = ((0, 1), (2, 3))
    found = with_shifts(
        found, {"even": pointwise, "parity": parity}, chips, shifts=shifts, on_progress=lambda: calls.append(1)
    )
    even, odd, other = found.results
    assert (even.shifts.overall.mean, even.shifts.overall.worst, len(calls)) == (inf, inf, 3)
    assert odd.shifts.overall.mean == odd.shifts.overall.worst == pytest.approx(db(100))
    assert {name: one.chips for name, one in odd.shifts.terrain.items()} == {"agri": 2, "urban": 1}
    assert other.shifts is None
    assert report.shift_rows(found)[1:] == [["even", "inf", "inf", "3"], ["parity", "28.13", "28.13", "3"]]
    assert report.terrain_shift_rows(found)[2] == ["agri", "parity", "28.13", "28.13", "2"]
    assert report.shift_rows(evaluate({"even": pointwise}, chips, window=96)) == []
    assert with_shifts(found, {"even": pointwise}, []) == found


def test_bright_predictions_are_clipped_before_they_are_compared():
    chips = [Sample("a", "", Chips(ramp(96, 96), ramp(96, 96).repeat(3, axis=0)))]
    beyond = {"beyond": lambda sar: parity(sar) + 300}
    found = with_shifts(evaluate(beyond, chips, window=96), beyond, chips, shifts=((0, 1),))
    assert found.results[0].shifts.overall.worst == inf


def test_chips_are_spread_over_each_class():
    pair = Pair(Path("a"), Path("b"), "agri")
    pairs = [replace(pair, sar=Path(str(k)), terrain="urban" if k == 3 else "agri") for k in range(8)]
    assert [one.sar.name for one in spread_pairs(pairs, 3)] == ["0", "3", "4", "7"]
    assert spread_pairs(pairs) == pairs
    assert spread_pairs([]) == []


def test_sar_of_bytes_has_the_same_dark_areas_as_encoded_sar():
    band = ((disc() + 1) * 127.5).astype(np.uint8)
    (area,) = dark_areas(encoded(band))
    assert np.array_equal(area.inside, dark_areas(disc())[0].inside)
