"""Scores of predictors on pairs: known answers, intervals, classes and reports."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sar2optical.data.pairs import Chips, encoded
from sar2optical.engines import open_engine
from sar2optical.errors import DataError
from sar2optical.evaluation import report
from sar2optical.evaluation.evaluate import Sample, WindowScore, evaluate, score
from sar2optical.evaluation.predictors import (
    baselines,
    engine_prediction,
    generator_prediction,
    linear_fit,
    mean_colour,
)
from tests.conftest import BYTES, make_identity, speckle

SIDE = 32


def chip(seed=0, size=(SIDE, SIDE)):
    """Make a grey truth that equals the SAR, so `repeat` is a perfect prediction."""
    sar = speckle(size, seed=seed)[None]
    return Chips(sar, np.repeat(sar, 3, axis=0))


def repeat(sar):
    return np.repeat(sar.astype(np.float64), 3, axis=0)


def off_by(levels):
    """Predict the truth with an error of `levels` everywhere, towards mid-grey, so that nothing is clipped."""
    return lambda sar: repeat(sar) + np.where(repeat(sar) > 127, -levels, levels)


def samples(*seeds, terrain=lambda seed: "", size=(SIDE, SIDE)):
    return [Sample(f"chip{seed}.png", terrain(seed), chip(seed, size)) for seed in seeds]


def test_figures_of_a_known_error():
    evaluation = evaluate({"off": off_by(5)}, samples(0, 1), window=SIDE)
    (result,) = evaluation.results
    assert result.overall.psnr.value == pytest.approx(20 * math.log10(255 / 5))
    assert result.overall.l1.value == pytest.approx(5)
    assert result.overall.sam.value == pytest.approx(0, abs=1e-5)  # grey stays grey
    assert 0.9 < result.overall.ssim.value < 1
    assert (result.overall.chips, result.overall.windows) == (2, 2)
    assert result.distances is None
    assert result.terrain == {}


def test_predictions_beyond_grey_levels_are_clipped():
    white = Chips(np.full((1, SIDE, SIDE), 9, np.uint8), np.full((3, SIDE, SIDE), 255, np.uint8))
    evaluation = evaluate({"bright": lambda sar: repeat(sar) + 400}, [Sample("a", "", white)], window=SIDE)
    assert evaluation.results[0].overall.l1.value == 0
    assert evaluation.results[0].overall.psnr.value == math.inf


def test_the_gradient_ratio_is_of_sums_and_separates_blur_from_noise():
    chips = samples(0, 1)
    half = evaluate({"half": lambda sar: repeat(sar) / 2}, chips, window=SIDE)
    assert half.results[0].overall.gradient_ratio.value == pytest.approx(0.25)
    flat = Sample("flat", "", Chips(np.full((1, SIDE, SIDE), 9, np.uint8), np.full((3, SIDE, SIDE), 9, np.uint8)))
    mixed = evaluate({"half": lambda sar: repeat(sar) / 2}, [*chips, flat], window=SIDE)
    assert mixed.results[0].overall.gradient_ratio.value == pytest.approx(0.25)  # a mean of ratios has none for flat
    colour = evaluate({"colour": mean_colour([one.chips for one in chips])}, chips, window=SIDE)
    assert colour.results[0].overall.gradient_ratio.value == 0


def test_windows_have_equal_weights_and_files_are_resampled():
    one, four = samples(0)[0], samples(1, size=(2 * SIDE, 2 * SIDE))[0]

    def predict(sar):  # off by 2 on the first file, by 6 on the second's four windows
        return off_by(2 if np.array_equal(sar, one.chips.sar) else 6)(sar)

    evaluation = evaluate({"off": predict}, [one, four], window=SIDE)
    l1 = evaluation.results[0].overall.l1
    assert l1.value == pytest.approx((2 + 4 * 6) / 5)
    assert (l1.low, l1.high) == (pytest.approx(2), pytest.approx(6))
    assert evaluation.results[0].overall.windows == 5
    assert [(at.chip, at.window) for at in evaluation.windows] == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_the_same_evaluation_twice_is_the_same():
    first, second = (evaluate({"off": off_by(9)}, samples(0, 1, 2), window=SIDE).to_dict() for _ in range(2))
    assert first == second


def test_each_terrain_has_its_own_figures():
    chips = samples(0, 1, 2, terrain=lambda seed: ("urban", "agri", "urban")[seed])
    by_seed = {one.chips.sar.tobytes(): 2.0 * (k + 1) for k, one in enumerate(chips)}
    evaluation = evaluate({"off": lambda sar: off_by(by_seed[sar.tobytes()])(sar)}, chips, window=SIDE)
    terrain = evaluation.results[0].terrain
    assert list(terrain) == ["agri", "urban"]
    assert terrain["urban"].l1.value == pytest.approx((2 + 6) / 2)
    assert terrain["agri"].l1.value == pytest.approx(4)
    assert terrain["agri"].l1.low is None  # one chip
    assert (terrain["urban"].chips, terrain["agri"].chips) == (2, 1)


def test_chips_smaller_than_a_window_are_not_scored():
    with pytest.raises(DataError, match="no chip holds a window of 64"):
        evaluate({"off": repeat}, samples(0), window=64)
    with pytest.raises(DataError, match="no chip holds a window of 64"):
        score(repeat, [chip()], window=64)


def test_the_quick_score_equals_the_whole_evaluation():
    chips = samples(0, 1, size=(2 * SIDE, SIDE))
    quick = score(off_by(7), [one.chips for one in chips], window=SIDE)
    whole = evaluate({"off": off_by(7)}, chips, window=SIDE).results[0].overall
    assert (quick.psnr, quick.ssim, quick.l1, quick.gradient_ratio) == pytest.approx(
        (whole.psnr.value, whole.ssim.value, whole.l1.value, whole.gradient_ratio.value)
    )
    names = ("gradient_ratio_2", "gradient_ratio_4", "r2", "r2_low_passed", "corner_share")
    assert [getattr(quick, name) for name in names] == pytest.approx([getattr(whole, name).value for name in names])
    assert quick.chips == whole.windows == 4


def test_sar_of_bytes_and_encoded_sar_are_the_same_to_baselines():
    chips = [chip(0), chip(1)]
    floats = [Chips(encoded(one.sar), one.optical) for one in chips]
    assert encoded(np.array([[[0, 255]]], np.uint8)).tolist() == [[[-1, 1]]]
    assert np.array_equal(encoded(floats[0].sar), floats[0].sar)
    for fit in (mean_colour, linear_fit):
        assert fit(chips)(chips[0].sar) == pytest.approx(fit(floats)(floats[0].sar), abs=1e-3)


def test_a_linear_fit_of_two_bands_finds_both_slopes():
    a, b = speckle((SIDE, SIDE), seed=3), speckle((SIDE, SIDE), seed=4)
    sar = np.stack([encoded(a), encoded(b)])
    truth = np.stack([a // 2 + b // 4, a, np.full_like(a, 7)])
    fit = linear_fit([Chips(sar, truth)])(sar)
    assert fit[1] == pytest.approx(a, abs=1e-3)
    assert fit[2] == pytest.approx(7, abs=1e-3)
    assert np.abs(fit[0] - truth[0]).max() < 2  # but for the rounding of halves and quarters


def test_sar_of_one_level_gives_the_mean_colour():
    flat = Chips(np.full((1, SIDE, SIDE), 40, np.uint8), chip().optical)
    assert linear_fit([flat])(flat.sar) == pytest.approx(mean_colour([flat])(flat.sar), abs=1e-6)


def test_names_of_baselines_contain_the_fitted_chips():
    assert list(baselines([chip()], "of these chips")) == [
        "mean colour (of these chips)",
        "linear fit (of these chips)",
    ]
    with pytest.raises(DataError, match="no chips to fit"):
        baselines([])


def test_what_is_scored_is_what_the_engine_runs(tmp_path):
    grey = chip(0, (256, 256))
    for channels in (1, 3):
        path = make_identity(tmp_path / f"{channels}.onnx", replace(BYTES, channels=channels))
        with open_engine(path, backend="onnxruntime") as engine:
            assert engine_prediction(engine)(grey.sar) == pytest.approx(repeat(grey.sar), abs=1e-3)
            assert score(engine_prediction(engine), [grey]).psnr > 90
            with pytest.raises(DataError, match="the chips have 2 bands, but tiny takes VH"):
                engine_prediction(engine)(np.zeros((2, 256, 256), np.float32))


def test_a_checkpoint_scores_alike_by_itself_and_in_an_engine(checkpoint):
    from sar2optical.models.checkpoint import load_generator

    chips = [chip(0, (256, 256))]
    by_itself = score(generator_prediction(load_generator(checkpoint)[0]), chips)
    with open_engine(checkpoint) as engine:
        in_engine = score(engine_prediction(engine), chips)
    assert (by_itself.psnr, by_itself.ssim) == pytest.approx((in_engine.psnr, in_engine.ssim), abs=1e-4)


def test_json_holds_every_figure_and_no_infinity():
    evaluation = evaluate({"perfect": repeat, "off": off_by(5)}, samples(0, 1), window=SIDE)
    record = json.loads(report.as_json(evaluation))
    perfect, off = record["results"]
    assert perfect["overall"]["psnr"]["value"] is None
    assert off["overall"]["l1"]["value"] == pytest.approx(5)
    assert record["chips"] == ["chip0.png", "chip1.png"]
    assert record["interval"] == {"level": 0.95, "resamples": 1000, "seed": 0, "resampled": "chips"}
    assert "FID, KID: no feature extractor given (--features FILE)" in record["notes"]


def test_tables_show_figures_with_intervals():
    evaluation = evaluate({"a|b": off_by(5)}, samples(0, 1, terrain=lambda seed: "agri"), window=SIDE)
    text, markdown = report.text(evaluation), report.markdown(evaluation)
    assert "34.15 [34.15, 34.15]" in text
    assert "34.15 [34.15, 34.15]" in markdown
    assert "agri" in text
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table[:3]} == {9}
    assert [k for k, line in enumerate(table) if " a\\|b " in line] == [2, 5, 8, 11]  # two tables, and two by class
    assert max(line.replace("\\|", "").count("|") - 1 for line in table) <= 12
    headers = [[cell.strip() for cell in table[k].split("|")] for k in (3, 9)]
    assert headers[0][1:4] == ["detail", "R2", "R2 low-passed"]
    assert headers[1][1:5] == ["terrain", "model", "R2", "R2 low-passed"]


def test_a_note_warns_of_chips_of_one_scene():
    alike = [replace(one, name=f"agri/s1/ROIs1158_spring_s1_90_p{k}.png") for k, one in enumerate(samples(0, 1))]
    assert any("from 1 scenes" in note for note in report.notes(evaluate({"off": off_by(5)}, alike, window=SIDE)))
    assert not any(
        "scenes" in note for note in report.notes(evaluate({"off": off_by(5)}, samples(0, 1), window=SIDE))
    )


def test_pictures_are_of_the_best_median_and_worst():
    windows = [WindowScore(k, 0, psnr) for k, psnr in enumerate([12.0, 30.0, 9.0, 14.0, 13.0])]
    assert [(name, at.chip) for name, at in report.chosen(windows)] == [("best", 1), ("median", 4), ("worst", 2)]
    assert [name for name, _ in report.chosen(windows[:2])] == ["best", "worst"]
    assert [name for name, _ in report.chosen(windows[:1])] == ["only"]


def test_a_picture_shows_sar_fake_and_real_side_by_side(tmp_path):
    import rasterio

    grey = np.full((1, SIDE, SIDE), 51, np.uint8)
    red, blue = np.zeros((3, SIDE, SIDE)), np.zeros((3, SIDE, SIDE), np.uint8)
    red[0], blue[2] = 300, 255  # beyond white: clipped
    path = tmp_path / "picture.png"
    path.write_bytes(report.picture([report.Shown("best: 1 dB", grey, red, blue)] * 2, "a model"))
    with rasterio.open(path) as image:
        pixels = image.read([1, 2, 3])
    height, width = pixels.shape[1:]
    line = pixels[:, round(height * 0.3)]  # through the first row of images
    for colour, share in (((51, 51, 51), 0.2), ((255, 0, 0), 0.5), ((0, 0, 255), 0.85)):
        assert tuple(line[:, round(width * share)]) == colour
