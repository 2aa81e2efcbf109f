"""`sar2opt-data`: its output, files and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sar2optical.cli.data import main
from sar2optical.data.splits import read_split
from tests.conftest import speckle
from tests.data.test_download import BODY, SUM, serving

SIDE = 256


@pytest.fixture
def chips(make_raster) -> Path:
    """Twelve pairs of three scenes in two classes."""
    base = make_raster(speckle((2, 2)), "probe.png").parent / "set"
    for k in range(12):
        terrain = ("agri", "urban")[k % 2]
        for half in ("s1", "s2"):
            (base / terrain / half).mkdir(parents=True, exist_ok=True)
        name = f"ROIs1970_fall_{{}}_{k // 4}_p{k}.png"
        make_raster(speckle((SIDE, SIDE), seed=k), f"set/{terrain}/s1/{name.format('s1')}")
        make_raster(
            np.stack([speckle((SIDE, SIDE), seed=c) for c in range(3)]), f"set/{terrain}/s2/{name.format('s2')}"
        )
    return base


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_a_good_data_set_passes_with_a_table(chips):
    result = run("check", chips)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["class", "pairs"], ["agri", "6"], ["urban", "6"], ["all", "12"]
    ]  # fmt: skip
    assert result.stderr == ""


def test_a_bad_data_set_fails_with_one_line_and_lists_the_problems(chips, tmp_path):
    for name in ("urban/s1/ROIs1970_fall_s1_0_p1.png", "agri/s2/ROIs1970_fall_s2_0_p2.png"):
        (chips / name).write_bytes((chips / name).read_bytes()[:-30])
    (chips / "agri/s2/ROIs1970_fall_s2_0_p0.png").unlink()
    result = run("check", chips, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert errors(result) == [f"error: {chips}: 1 no partner, 2 unreadable: repair or remove these chips"]
    assert result.stderr.count("\n") == 1
    assert "  agri/s2/ROIs1970_fall_s2_0_p2.png: not readable (truncated" in result.stdout
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["problems"][0]["chip"] == "agri/s1/ROIs1970_fall_s1_0_p0.png"
    assert sum(record["histograms"]["sar"]) == 9 * SIDE * SIDE


def test_many_problems_of_a_kind_are_abbreviated(chips):
    for path in chips.rglob("s2/*.png"):
        path.unlink()
    result = run("check", chips)
    assert result.exit_code == 1
    assert "no partner: 12" in result.stdout
    assert "and 7 more" in result.stdout


def test_histograms_are_drawn_and_not_over_another_file(chips, tmp_path):
    assert run("check", chips, "--plot", tmp_path / "plot.png").exit_code == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    result = run("check", chips, "--plot", tmp_path / "plot.png")
    assert result.exit_code == 1
    assert "give --overwrite" in errors(result)[0]
    assert run("check", chips, "--plot", tmp_path / "plot.png", "--overwrite").exit_code == 0


def test_a_larger_window_makes_chips_small(chips):
    result = run("check", chips, "--window", 512)
    assert errors(result) == [f"error: {chips}: 12 small: repair or remove these chips"]


@pytest.mark.parametrize("band", ["VV", "1"])
def test_chips_of_decibels_are_checked_once_their_band_is_named(chips, make_raster, band):
    path = chips / "agri/s1/ROIs1970_fall_s1_0_p0.png"
    path.unlink()
    values = np.linspace(-30, 5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    make_raster(values, str(path.with_suffix(".tif").relative_to(path.parents[3])))
    refused = run("check", chips)
    assert refused.exit_code == 1
    assert "float32, not 8 bit: give the bands to encode with --band, such as --band VV" in refused.stdout
    assert run("check", chips, "--band", band).exit_code == 0


@pytest.mark.parametrize("band", ["2", "2=VH"])
def test_a_band_without_a_name_is_checked_by_index(make_raster, chips, band):
    path = chips / "agri/s1/ROIs1970_fall_s1_0_p0.png"
    path.unlink()
    values = np.linspace(-30, 5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    both = np.stack([values + 6, values])
    make_raster(both, str(path.with_suffix(".tif").relative_to(path.parents[3])))
    for other in chips.rglob("s1/*.png"):
        other.unlink()
        other.parents[1].joinpath("s2", other.name.replace("_s1_", "_s2_")).unlink()
    assert run("check", chips, "--band", band).exit_code == 0
    refused = run("check", chips, "--band", "VH")
    assert "2 bands without names, but VH is needed: give its number with --band, such as --band 2" in refused.stdout


def test_a_wrong_optical_scale_is_named_with_the_option_to_fix_it(make_raster, chips):
    path = chips / "agri/s2/ROIs1970_fall_s2_0_p0.png"
    path.unlink()
    bright = np.stack([speckle((SIDE, SIDE), seed=c) for c in range(3)]).astype(np.uint16) * 257
    make_raster(bright, str(path.with_suffix(".tif").relative_to(path.parents[3])))
    result = run("check", chips)
    assert result.exit_code == 1
    assert "  all chips: 96% of the 16-bit optical values become white" in result.stdout
    assert errors(result)[0].startswith(f"error: {chips}: 1 wrong scale; 96% of the 16-bit")
    assert errors(result)[0].endswith("give --optical-max 64000")
    assert run("check", chips, "--optical-max", 64000).exit_code == 0


def test_bands_of_optical_chips_are_given(make_raster, chips):
    path = chips / "agri/s2/ROIs1970_fall_s2_0_p0.png"
    path.unlink()
    ten = np.random.default_rng(0).integers(1, 3000, (10, SIDE, SIDE)).astype(np.uint16)
    make_raster(ten, str(path.with_suffix(".tif").relative_to(path.parents[3])))
    refused = run("check", chips)
    assert "10 bands without names" in refused.stdout
    assert "--rgb 3 2 1" in refused.stdout
    assert run("check", chips, "--rgb", 3, 2, 1).exit_code == 0


def test_a_missing_folder_is_one_line(tmp_path):
    for command in (("check",), ("split", tmp_path / "split.json")):
        result = run(command[0], tmp_path / "absent", *command[1:])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert "no such folder" in result.stderr
        assert result.stderr.count("\n") == 1


def test_pairs_are_harmonised_into_a_new_folder_by_pattern(chips, tmp_path):
    out = tmp_path / "new" / "scene_0"
    done = run("harmonise", chips, out, "--units", "db", "--only", "*_0_p*")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}: 4 pairs\n"
    assert [path.name for path in sorted((out / "s1").iterdir())] == [
        f"ROIs1970_fall_s1_0_p{k}.png" for k in range(4)
    ]
    assert run("check", out.parent).exit_code == 0
    assert errors(run("harmonise", chips, out)) == [f"error: {out}: already exists: give a new folder"]
    nothing = run("harmonise", chips, tmp_path / "other", "--only", "none*")
    assert errors(nothing) == [f"error: {chips}: no SAR chip matches none*: give --only another pattern"]


def test_a_split_by_scene_is_tabulated_and_keeps_scenes_apart(chips, tmp_path):
    result = run("split", chips, tmp_path / "split.json")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["split", "agri", "urban", "all", "scenes"],
        ["train", "2", "2", "4", "1"],
        ["val", "2", "2", "4", "1"],
        ["test", "2", "2", "4", "1"],
    ]
    assert result.stderr == ""
    assert len(read_split(tmp_path / "split.json").test) == 4


def test_a_random_split_warns_of_shared_scenes(chips, tmp_path):
    result = run("split", chips, tmp_path / "split.json", "--by", "random", "--ratio", 2, 1, 1)
    assert result.exit_code == 0
    assert "warning: 3 scenes are in more than one split" in result.stderr
    splits = read_split(tmp_path / "split.json")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [6, 3, 3]


def test_names_without_a_scene_cause_a_warning(make_raster, tmp_path):
    for half in ("s1", "s2"):
        (tmp_path / "plain" / half).mkdir(parents=True)
        for k in range(2):
            make_raster(np.stack([speckle((8, 8))] * 3), f"plain/{half}/{k}.png")
    result = run("split", tmp_path / "plain", tmp_path / "split.json")
    assert result.exit_code == 0
    assert "warning: no chip name contains its scene" in result.stderr
    assert "warning: no chips are left for test" in result.stderr


def test_an_existing_split_is_kept(chips, tmp_path):
    (tmp_path / "split.json").write_text("mine")
    result = run("split", chips, tmp_path / "split.json")
    assert result.exit_code == 1
    assert "give --overwrite" in errors(result)[0]
    assert (tmp_path / "split.json").read_text() == "mine"
    assert run("split", chips, tmp_path / "split.json", "--overwrite").exit_code == 0


def test_invalid_ratios_are_refused(chips, tmp_path):
    result = run("split", chips, tmp_path / "split.json", "--ratio", 0, 0, 0)
    assert result.exit_code == 1
    assert "ratio is 0 0 0" in errors(result)[0]
    assert not (tmp_path / "split.json").exists()


def test_an_archive_download_is_resumed(tmp_path):
    with serving() as server:
        server.breaks_at = 1_000_000
        first = run("download", "tum", server.url, tmp_path / "set.zip")
        server.breaks_at = None
        second = run("download", "tum", server.url, tmp_path / "set.zip", "--sha256", SUM)
    assert first.exit_code == 1
    assert "run the same command again to resume" in errors(first)[0]
    assert second.exit_code == 0
    assert second.stdout.endswith("set.zip: 3000000 bytes, checksum matches\n")
    assert (tmp_path / "set.zip").read_bytes() == BODY


@pytest.mark.parametrize("command", ["download", "download kaggle", "download tum"])
def test_help_says_what_has_not_been_tested(command):
    shown = " ".join(run(*command.split(), "--help").output.split())
    assert re.search("(not|Not) (tested )?against (the real|Kaggle itself)", shown)


def test_the_version_is_printed():
    assert "version" in run("--version").output


def test_help_imports_nothing_heavy():
    heavy = ["rasterio", "numpy", "matplotlib", "torch", "tqdm", "kagglehub"]
    program = (
        "import sys\nfrom sar2optical.cli.data import main\n"
        "main(['check', '--help'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
