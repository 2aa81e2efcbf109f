"""Simulated scene: the same pixels for every strip height, and the documented levels and speckle."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from click.testing import CliRunner

from sar2optical.cli.data import simulate as main
from sar2optical.errors import OptionError
from sar2optical.testing import SimulatedScene, simulate, write_scene
from sar2optical.testing.landscape import land_cover
from sar2optical.testing.noise import Area
from sar2optical.testing.simulate import CALIBRATION, LOOKS

DN = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

SMALL = SimulatedScene(height=700, width=900)
DENSE = SimulatedScene(height=1100, width=1000, border=False)


@pytest.fixture(scope="module")
def dense() -> DN:
    return DENSE.rows(0, DENSE.height)


@pytest.fixture(scope="module")
def cover() -> Floats:
    """Sigma0 in dB of the ground under `dense`, without speckle."""
    x = np.arange(DENSE.width, dtype=np.float32)[None, :]
    y = np.arange(DENSE.height, dtype=np.float32)[:, None]
    return land_cover(Area(DENSE, x, y))


def sigma0_db(dn: DN) -> float:
    return float(10 * np.log10(np.mean(dn.astype(np.float64) ** 2) / CALIBRATION**2))


# Determinism


@pytest.mark.parametrize("height", [101, 256, 300])
def test_strips_of_any_height_give_the_same_pixels(height: int) -> None:
    whole = SMALL.rows(0, SMALL.height)
    starts = range(0, SMALL.height, height)
    strips = [SMALL.rows(start, min(start + height, SMALL.height)) for start in starts]
    assert whole.any()
    np.testing.assert_array_equal(np.concatenate(strips), whole)


def test_the_pixels_are_the_same_on_every_machine() -> None:
    # Known answers: they change only when the landscape is changed on purpose.
    scene = SimulatedScene(height=300, width=600)
    pixels = scene.rows(0, 300).astype("<u2")
    assert pixels[100, 100:105].tolist() == [129, 130, 147, 118, 81]
    assert zlib.crc32(pixels.tobytes()) == 1_167_665_067


def test_another_seed_gives_another_scene() -> None:
    other = SimulatedScene(height=700, width=900, seed=SMALL.seed + 1)
    assert np.mean(other.rows(0, 64) != SMALL.rows(0, 64)) > 0.5


def test_no_two_cells_share_their_speckle() -> None:
    cells = [simulate._speckle(3, top, left) for top in (0, 256) for left in (0, 512)]
    for i, one in enumerate(cells):
        for other in cells[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


# Speckle


def test_speckle_keeps_the_mean_power_and_has_the_looks_of_grdh() -> None:
    power = simulate._speckle(5, 0, 0).astype(np.float64) ** 2
    assert power.mean() == pytest.approx(1, abs=0.01)
    assert power.mean() ** 2 / power.var() == pytest.approx(LOOKS, rel=0.05)


def test_speckle_has_the_gamma_distribution_of_its_looks() -> None:
    expected = np.random.default_rng(0).gamma(LOOKS, 1 / LOOKS, 400_000)
    power = simulate._speckle(5, 0, 0).astype(np.float64) ** 2
    shares = [1, 10, 50, 90, 99]
    np.testing.assert_allclose(np.percentile(power, shares), np.percentile(expected, shares), rtol=0.04)


def test_speckle_is_correlated_between_neighbours_and_not_beyond() -> None:
    power = simulate._speckle(5, 0, 0) ** 2
    lags = [np.corrcoef(power[:, :-lag].ravel(), power[:, lag:].ravel())[0, 1] for lag in (1, 2, 3)]
    # [1, 2, 1] with itself: 4/6 at one pixel, 1/6 at two, 0 beyond.
    np.testing.assert_allclose(lags, [2 / 3, 1 / 6, 0], atol=0.04)


def test_a_homogeneous_area_of_the_scene_measures_4_4_looks(dense: DN, cover: Floats) -> None:
    # The simulated sea swells by a decibel over 300 pixels: little within 40.
    rows, columns = np.s_[1050:1090], np.s_[5:105]
    assert np.ptp(cover[rows, columns]) < 1.5
    power = (dense[rows, columns] / 10 ** (cover[rows, columns] / 20)) ** 2
    assert power.mean() ** 2 / power.var() == pytest.approx(LOOKS, rel=0.12)


# Levels


def test_dn_is_the_calibration_times_the_root_of_sigma0(dense: DN, cover: Floats) -> None:
    for area in (np.s_[1050:1090, 5:105], np.s_[500:700, 150:350], np.s_[0:200, :], np.s_[:, :]):
        expected = 10 * np.log10(np.mean(10 ** (cover[area].astype(np.float64) / 10)))
        assert sigma0_db(dense[area]) == pytest.approx(expected, abs=0.15)


def test_a_point_spreads_over_the_resolution_and_keeps_its_power() -> None:
    ground = np.full((7, 7), -40, np.float32)
    ground[3, 3] = 0
    power = simulate._resolved(ground)
    assert power.shape == (5, 5)
    assert power[2, 2] == pytest.approx(CALIBRATION**2 / 4, rel=1e-3)
    assert power[2, 1] == pytest.approx(CALIBRATION**2 / 8, rel=1e-3)
    assert power.sum() == pytest.approx(CALIBRATION**2, rel=0.01)


def test_water_is_more_than_ten_decibels_darker_than_the_town(dense: DN) -> None:
    sea, town = dense[1050:1090, 5:105], dense[500:700, 150:350]
    assert sigma0_db(sea) == pytest.approx(-26, abs=1.5)
    assert sigma0_db(town) == pytest.approx(-10, abs=2)
    assert sigma0_db(town) - sigma0_db(sea) > 10


def test_noise_has_mean_0_and_does_not_jump_at_a_cell_edge() -> None:
    def noise(left: int, right: int) -> Floats:
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(600, dtype=np.float32)[:, None]
        return Area(SMALL, x, y).noise("any", 20)

    whole = noise(0, 1024)
    np.testing.assert_array_equal(np.hstack([noise(0, 512), noise(512, 1024)]), whole)
    assert whole.mean() == pytest.approx(0, abs=0.05)
    assert 0.45 < whole.std() < 0.65
    assert np.abs(np.diff(whole, axis=1)).max() < 0.3


# Border


def test_the_border_is_0_on_all_four_sides_and_slanted() -> None:
    inside = SMALL.rows(0, SMALL.height) > 0
    assert not inside[0, 0]
    assert not inside[0, -1]
    assert not inside[-1, 0]
    assert not inside[-1, -1]
    first = inside.argmax(axis=1)
    slope = np.diff(first[100:600]).mean()
    assert slope == pytest.approx(-simulate.SWATH_SLOPE, abs=0.01)


def test_0_lies_only_outside_the_swath() -> None:
    inside = SMALL.rows(0, SMALL.height) > 0
    for row in inside[::25]:
        columns = np.flatnonzero(row)
        assert columns.size == 0 or row[columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize(("height", "width"), [(40, 1500), (1500, 40)])
def test_a_narrow_scene_keeps_most_of_its_pixels(height: int, width: int) -> None:
    pixels = SimulatedScene(height=height, width=width).rows(0, height)
    assert 0.5 < np.mean(pixels > 0) < 1


def test_a_dense_scene_has_no_0(dense: DN) -> None:
    assert dense.min() >= 1


# The file


def test_the_file_is_a_tiled_utm_raster_of_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    calls: list[tuple[int, int]] = []
    write_scene(path, SMALL, lambda done, total: calls.append((done, total)))
    with rasterio.open(path) as source:
        assert source.crs.to_epsg() == 32611
        assert source.res == (10, 10)
        assert source.dtypes == ("uint16",)
        assert source.descriptions == ("VH",)
        assert source.nodata == 0
        assert source.block_shapes == [(512, 512)]
        assert source.compression.name == "deflate"
        np.testing.assert_array_equal(source.read(1), SMALL.rows(0, SMALL.height))
    assert calls == [(512, 700), (700, 700)]
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(b"old")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(path, SMALL, interrupt)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (300, 3)])
def test_the_smallest_scenes_are_drawn(height: int, width: int) -> None:
    scene = SimulatedScene(height=height, width=width, border=False)
    assert scene.rows(0, height).shape == (height, width)
    assert scene.rows(0, height).min() >= 1


@pytest.mark.parametrize("wrong", [{"height": 0}, {"width": -1}, {"seed": -1}])
def test_an_invalid_scene_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        SimulatedScene(**wrong)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 701)])
def test_rows_outside_the_scene_are_refused(start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="0 to 700"):
        SMALL.rows(start, stop)


def test_no_rows_are_an_empty_strip() -> None:
    assert SMALL.rows(300, 300).shape == (0, 900)


# The command


def test_the_command_writes_the_scene_and_prints_one_line(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    arguments = [str(path), "--size", "60", "80", "--seed", "4", "--no-border"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert result.output.startswith(f"{path}: 60 x 80 pixels, seed 4\n")
    assert result.output.count("\n") == 1
    with rasterio.open(path) as source:
        expected = SimulatedScene(height=60, width=80, seed=4, border=False).rows(0, 60)
        np.testing.assert_array_equal(source.read(1), expected)


def test_the_command_replaces_a_file_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(b"old")
    refused = CliRunner().invoke(main, [str(path), "--size", "20", "20"])
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert path.read_bytes() == b"old"
    assert CliRunner().invoke(main, [str(path), "--size", "20", "20", "--overwrite"]).exit_code == 0


def test_a_missing_folder_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "absent" / "scene.tif"), "--size", "20", "20"])
    assert result.exit_code == 1
    assert "create it first" in result.output
