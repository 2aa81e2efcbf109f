"""Image metrics, against values by hand, a slow loop and other libraries."""

from __future__ import annotations

from math import acos, degrees, exp, inf, isnan, log10, sqrt

import numpy as np
import pytest

from sar2optical.evaluation.metrics import bootstrap_ratios, gradient_energy, l1, low_passed_rms, psnr, sam, ssim
from sar2optical.tiling.seams import seam_score


def noisy(shape=(3, 20, 17), *, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0, 1, shape)
    return reference, reference + rng.normal(0, noise, shape)


def slow_ssim(x, y, data_range, valid=None):
    """Wang et al. 2004, equation 13: every window by itself, variances about its own weighted mean."""
    weights = np.array([[exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)])
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for c in range(x.shape[0]):
        for i in range(x.shape[1] - 10):
            for j in range(x.shape[2] - 10):
                if valid is not None and not valid[i : i + 11, j : j + 11].all():
                    continue
                a, b = x[c, i : i + 11, j : j + 11].astype(float), y[c, i : i + 11, j : j + 11].astype(float)
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a = (weights * (a - mean_a) ** 2).sum()
                var_b = (weights * (b - mean_b) ** 2).sum()
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * both + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    return np.mean(values)


def test_psnr_of_known_errors():
    reference = np.zeros((1, 2, 2))
    other = np.array([[[1, 1], [1, 3]]])  # mean squared error 12 / 4 = 3
    assert psnr(reference, other, data_range=255) == pytest.approx(10 * log10(255**2 / 3))
    assert psnr(reference, reference + 0.2, data_range=2) == pytest.approx(20)


def test_psnr_of_bytes_does_not_wrap_around():
    dark, light = np.full((3, 4, 4), 1, np.uint8), np.full((3, 4, 4), 254, np.uint8)
    assert psnr(dark, light, data_range=255) == pytest.approx(20 * log10(255 / 253))
    assert psnr(light, dark, data_range=255) == psnr(dark, light, data_range=255)


def test_psnr_counts_valid_pixels_only():
    reference = np.zeros((2, 2, 3))
    other = np.array([[[2, 9, np.nan], [0, 2, 7]], [[0, 9, np.inf], [2, 0, 7]]])
    valid = np.array([[True, False, False], [True, True, False]])  # six errors: 2, 0, 2, 0, 2, 0
    assert psnr(reference, other, data_range=10, valid=valid) == pytest.approx(10 * log10(100 / 2))
    assert psnr(reference[0], other[0], data_range=10, valid=valid) == pytest.approx(10 * log10(100 / (8 / 3)))


def test_equal_images_score_highest():
    image, _ = noisy()
    assert psnr(image, image.copy(), data_range=1) == inf
    assert ssim(image, image.copy(), data_range=1) == pytest.approx(1)


def test_no_valid_pixel_is_no_score():
    image, other = noisy()
    nothing = np.zeros(image.shape[1:], bool)
    assert isnan(psnr(image, other, data_range=1, valid=nothing))
    assert isnan(ssim(image, other, data_range=1, valid=nothing))


def test_ssim_of_two_flat_images_is_that_of_their_means():
    grey = np.full((1, 11, 11), 100.0), np.full((1, 11, 11), 150.0)
    c1 = 2.55**2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(*grey, data_range=255) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_an_image_and_its_negative_about_the_same_mean_is_negative():
    checks = np.indices((1, 16, 16)).sum(axis=0) % 2 * 2.0 - 1
    assert ssim(checks, -checks, data_range=2) < -0.9


@pytest.mark.parametrize("noise", [0.02, 0.3])
@pytest.mark.parametrize("shape", [(1, 11, 11), (3, 12, 15)])
def test_ssim_equals_a_slow_loop_over_windows(shape, noise):
    reference, other = noisy(shape, noise=noise)
    assert ssim(reference, other, data_range=1) == pytest.approx(slow_ssim(reference, other, 1), abs=1e-10)


def test_ssim_of_bytes_equals_the_slow_loop():
    reference, other = noisy((2, 13, 12))
    grey = [np.clip(image * 255, 0, 255).astype(np.uint8) for image in (reference, other)]
    assert ssim(*grey, data_range=255) == pytest.approx(slow_ssim(*grey, 255), abs=1e-10)


def test_ssim_leaves_out_every_window_that_touches_an_invalid_pixel():
    reference, other = noisy((2, 14, 24))
    valid = np.ones((14, 24), bool)
    valid[3, 4] = False
    expected = slow_ssim(reference, other, 1, valid)
    spoilt = other.copy()
    spoilt[:, 3, 4] = np.nan
    assert ssim(reference, spoilt, data_range=1, valid=valid) == pytest.approx(expected, abs=1e-10)
    assert ssim(reference, other, data_range=1) != pytest.approx(expected, abs=1e-4)


def test_more_noise_is_less_similar():
    scores = [ssim(*noisy(noise=noise), data_range=1) for noise in (0.05, 0.1, 0.2, 0.4)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.2


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("shape", [(3, 20, 16), (1, 20, 17), (20, 17)])
def test_images_of_different_shape_are_not_compared(metric, shape):
    with pytest.raises(ValueError, match=r"\(3, 20, 17\)"):
        metric(np.zeros((3, 20, 17)), np.zeros(shape), data_range=1)


@pytest.mark.parametrize("metric", [sam, l1])
def test_colours_and_errors_of_different_shape_are_not_compared(metric):
    with pytest.raises(ValueError, match=r"\(3, 20, 17\)"):
        metric(np.zeros((3, 20, 17)), np.zeros((3, 17, 20)))


@pytest.mark.parametrize("shape", [(3, 10, 11), (3, 11, 10), (1, 1, 1)])
def test_images_smaller_than_ssims_window_are_refused(shape):
    with pytest.raises(ValueError, match="smaller than the 11 x 11 window"):
        ssim(np.zeros(shape), np.zeros(shape), data_range=1)


def grey_levels(seed=3, side=40):
    """A smooth image and a noisy copy, float64 (3, side, side + 7) in 5 to 250."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(side)[:, None] / 5) + np.cos(np.arange(side + 7) / 4)
    truth = np.stack([127 + 40 * waves, 120 - 30 * waves, np.full_like(waves, 90.0)])
    return truth, np.clip(truth + rng.normal(0, 12, truth.shape), 5, 250)


def test_psnr_and_ssim_are_those_of_torchmetrics():
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    truth, fake = grey_levels()
    a, b = (torch.from_numpy(image)[None] for image in (truth, fake))
    theirs = peak_signal_noise_ratio(b, a, data_range=255.0).item()
    assert psnr(truth, fake, data_range=255) == pytest.approx(theirs, abs=1e-4)
    # Theirs pads by reflection: only full windows are compared, as ours counts only those.
    _, full = structural_similarity_index_measure(
        b, a, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=255.0, return_full_image=True
    )
    assert ssim(truth, fake, data_range=255) == pytest.approx(full[..., 5:-5, 5:-5].mean().item(), abs=1e-4)


def test_psnr_and_ssim_are_those_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    truth, fake = grey_levels()
    theirs = peak_signal_noise_ratio(truth, fake, data_range=255)
    assert psnr(truth, fake, data_range=255) == pytest.approx(theirs, abs=1e-4)
    _, full = structural_similarity(
        truth, fake, data_range=255, channel_axis=0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(truth, fake, data_range=255) == pytest.approx(full[:, 5:-5, 5:-5].mean(), abs=1e-4)
    assert 0.1 < full.mean() < 0.95  # the comparison is not trivial


def test_spectral_angle_is_that_of_torchmetrics():
    import torch
    from torchmetrics.functional.image import spectral_angle_mapper

    truth, fake = grey_levels()
    theirs = spectral_angle_mapper(torch.from_numpy(fake)[None], torch.from_numpy(truth)[None]).item()
    assert sam(truth, fake) == pytest.approx(degrees(theirs), abs=1e-4)
    assert sam(truth, fake) > 1


def test_spectral_angles_of_known_colours():
    red, green, grey = ([255, 0, 0], [0, 9, 0], [7, 7, 7])
    reference = np.array([red, red, red], np.uint8).T.reshape(3, 1, 3)
    other = np.array([red, green, grey], np.uint8).T.reshape(3, 1, 3)
    angles = [0, 90, degrees(acos(1 / sqrt(3)))]
    assert sam(reference, other) == pytest.approx(np.mean(angles))
    assert sam(reference, other, valid=np.array([[True, False, True]])) == pytest.approx((angles[0] + angles[2]) / 2)


def test_spectral_angle_depends_on_hue_and_not_on_brightness():
    truth, _ = grey_levels()
    assert sam(truth, truth * 0.3) == pytest.approx(0, abs=1e-5)
    assert sam(truth, truth[::-1]) > 5


def test_black_has_no_hue():
    reference = np.array([[[0, 9]], [[0, 0]], [[0, 0]]])
    other = np.array([[[9, 0]], [[0, 9]], [[0, 0]]])  # black beside red, then red beside green
    assert sam(reference, other) == pytest.approx(90)
    assert isnan(sam(reference, np.zeros_like(other)))


def test_l1_of_known_errors():
    reference, other = np.array([[[1, 250, 7]]], np.uint8), np.array([[[3, 240, 8]]], np.uint8)
    assert l1(reference, other) == pytest.approx((2 + 10 + 1) / 3)
    assert l1(reference, other, valid=np.array([[True, False, True]])) == pytest.approx(1.5)
    assert isnan(l1(reference, other, valid=np.zeros((1, 3), bool)))


def test_gradient_energy_of_known_slopes():
    rows, cols = np.indices((5, 8))
    image = np.stack([3 * rows + 2 * cols, 0 * rows])  # 9 + 4 in one channel of two
    assert gradient_energy(image) == pytest.approx(6.5)
    assert gradient_energy(image + 100) == pytest.approx(6.5)
    steep = (20 * rows + 18 * cols)[None].astype(np.uint8)  # neither differences nor squares wrap around
    assert gradient_energy(steep[:, ::-1]) == gradient_energy(steep) == pytest.approx(20**2 + 18**2)


def test_gradient_energy_counts_differences_of_valid_pixels_only():
    image = np.zeros((1, 3, 4))
    image[0, :, 2] = 50  # a column that is not valid
    image[0, :, 1] = 1
    valid = np.ones((3, 4), bool)
    valid[:, 2] = False
    assert gradient_energy(image, valid) == pytest.approx(
        1
    )  # columns 0 to 1 step by one; down a column, nothing does
    assert isnan(gradient_energy(image, np.zeros((3, 4), bool)))


def test_a_blur_has_less_gradient_energy_and_noise_more():
    truth, noisy_one = grey_levels()
    blurred = (noisy_one[:, 1:, 1:] + noisy_one[:, :-1, 1:] + noisy_one[:, 1:, :-1] + noisy_one[:, :-1, :-1]) / 4
    assert gradient_energy(blurred) < 0.6 * gradient_energy(noisy_one)
    assert gradient_energy(noisy_one) > 1.5 * gradient_energy(truth)


def test_a_step_is_detected_only_at_window_edges():
    ramp = np.broadcast_to(np.arange(64.0) * 2, (1, 64, 64)).copy()  # every step is 2, downwards 0
    valid = np.ones((64, 64), bool)
    edges = {"rows": (0,), "cols": (0, 24), "window": 40}  # edges at 24 and 40
    assert seam_score(ramp, valid, **edges) == pytest.approx(1)
    raised = ramp.copy()
    raised[:, :, 24:] += 4  # that step is now 6: two edges have a mean of 4
    assert seam_score(raised, valid, **edges) == pytest.approx(2)
    elsewhere = ramp.copy()
    elsewhere[:, :, 11:] += 61  # 61 others: 60 of 2, one of 63, a mean of 3
    assert seam_score(elsewhere, valid, **edges) == pytest.approx(2 / 3)


def test_a_generators_own_pattern_is_no_seam():
    pattern = np.cumsum(np.where(np.arange(64) % 8 == 0, 5.0, 1.0))
    image = np.broadcast_to(pattern, (1, 64, 64))
    valid = np.ones((64, 64), bool)
    edges = {"rows": (0,), "cols": (0, 24), "window": 40}
    assert seam_score(image, valid, **edges) > 3
    assert seam_score(image, valid, **edges, period=8) == pytest.approx(1)


def test_patches_of_another_brightness_are_detected_and_noise_is_not():
    reference = np.zeros((3, 64, 96), np.uint8)
    valid = np.ones((64, 96), bool)
    patched = reference.copy()
    patched[:, :, 32:64] = 3  # one box of three in each row: root of 9 / 3
    assert low_passed_rms(reference, patched, valid) == pytest.approx(3**0.5)
    checkered = (np.indices((64, 96)).sum(axis=0) % 2 * 2)[None].repeat(3, axis=0) + 99.0
    assert low_passed_rms(np.full((3, 64, 96), 100.0), checkered, valid) == pytest.approx(0)
    valid[:, 40] = False  # no whole box is left of the patch
    assert low_passed_rms(reference, patched, valid) == 0


def tally_of(values, weights=None):
    """Chips with one figure each: sums over their windows, and how many those are."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    return np.stack([np.asarray(values) * weights, weights], axis=1)[..., None]


def test_intervals_are_those_of_a_mean():
    values = np.random.default_rng(5).normal(20, 3, 400)
    mean, low, high = bootstrap_ratios(tally_of(values))
    assert mean[0] == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20  # of a normal mean: the bootstrap's own noise is some percent of it
    assert high[0] - mean[0] == pytest.approx(half, rel=0.15)
    assert mean[0] - low[0] == pytest.approx(half, rel=0.15)


def test_chips_are_weighted_by_their_windows_and_drawn_as_a_whole():
    mean, low, high = bootstrap_ratios(tally_of([10.0, 20.0], [3, 1]))
    assert mean[0] == 12.5
    assert (low[0], high[0]) == (10, 20)  # one draw in four is twice the same chip


def test_draws_depend_only_on_the_seed():
    tally = tally_of(np.random.default_rng(1).normal(size=30))
    assert np.array_equal(bootstrap_ratios(tally), bootstrap_ratios(tally))
    assert not np.array_equal(bootstrap_ratios(tally)[1], bootstrap_ratios(tally, seed=1)[1])


def test_one_chip_has_no_interval_and_an_infinite_figure_spoils_none():
    mean, low, high = bootstrap_ratios(tally_of([7.0]))
    assert mean[0] == 7
    assert isnan(low[0])
    assert isnan(high[0])
    mean, low, high = bootstrap_ratios(tally_of([inf, *range(1, 9)]))
    assert mean[0] == high[0] == inf
    assert 1 < low[0] < 9
