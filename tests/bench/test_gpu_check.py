"""The check of a machine with a GPU: dry runs on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from bench import gpu_check, gpu_parts, simulated
from bench.__main__ import main
from bench.gpu_parts import Outcome, Seconds
from bench.harness import load
from bench.outlook import from_record
from sar2optical.testing import SimulatedScene


def check(*options):
    """Run the dry run on tiny scenes; return the exit code and the lines that it prints."""
    small = ("--device", "cpu", "--size", "256x320", "--parity-size", "256x256", "--rounds", "1")
    ended = CliRunner().invoke(main, ["gpu-check", *small, *options])
    return ended.exit_code, ended.output.splitlines()


def test_the_dry_run_checks_tests_and_libraries():
    code, lines = check("--only", "card", "--only", "tests", "--only", "rtx")
    assert code == 0, lines
    for start, line in zip(("card: ", "tests: skipped, no CUDA device: ", "rtx: skipped, "), lines, strict=False):
        assert line.startswith(start), lines
    assert lines[-1] == "all checks passed"


def test_the_dry_run_translates_a_scene_on_the_device_path(tmp_path):
    parts = ("--only", "parity", "--only", "scene")
    code, lines = check(*parts, "--json", str(tmp_path / "x.json"), "--folder", str(tmp_path / "scenes"))
    assert code == 0, lines
    for start in ("parity: passed, fp32 ", "scene: passed, ", "slowest stage: ", "all checks passed"):
        assert any(line.startswith(start) for line in lines), (start, lines)
    record = load(tmp_path / "x.json")
    assert set(record.series["verdicts"]) == {"parity", "scene"}
    assert record.series["parity"]["fp32"]["largest"] <= 1
    assert [row.name for row in record.rows] == [gpu_parts.OURS_NAME]
    assert record.rows[0].samples[0] == pytest.approx(256 * 320 / 1e6 / record.rows[0].figures["seconds"])
    stages = {stage["name"]: stage for stage in record.series["run"]["stages"]}
    assert stages["up"]["moved"] == 2 * 256 * 320  # on the device path: uint16 up, three bytes and a flag down
    assert 3 * 256 * 320 < stages["down"]["moved"] < 3.1 * 256 * 320
    assert stages["compress"]["moved"] == 4 * 256 * 320
    assert record.ceilings["disk write, GB/s"] > 0
    costs, _ = from_record(record)
    assert (costs.up, costs.stored) == (2.0, 2.0)
    assert costs.gpu > 0


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("CUDA error: /tmp/x/driver.so is gone")

    monkeypatch.setattr(gpu_check, "this_card", broken)
    monkeypatch.setattr(gpu_check, "rtx", lambda device: Outcome(None, f"nothing on {device}"))
    code, lines = check("--only", "card", "--only", "rtx", "--json", str(tmp_path / "x.json"))
    assert code == 1
    assert lines == [
        "card: FAILED, stopped: RuntimeError: CUDA error: driver.so is gone",
        "rtx: skipped, nothing on cpu",
        "failed: card",
    ]
    assert load(tmp_path / "x.json").series["verdicts"]["rtx"] == "skipped, nothing on cpu"


def test_another_tree_that_fails_keeps_the_times_of_this_one(monkeypatch, tmp_path):
    def python(tree, folder, code, *arguments):
        if tree == tmp_path / "other":
            raise RuntimeError("exit 1: no such option")
        (folder / "timed.tif").touch()
        return Seconds(2.0)

    (tmp_path / "other").mkdir()
    monkeypatch.setattr(gpu_parts, "_python", python)
    samples, failures = gpu_parts.scene_turns(
        tmp_path / "scene.tif", tmp_path, "cpu", "bf16", against=tmp_path / "other", rounds=2
    )
    assert samples == {gpu_parts.OURS_NAME: [2.0, 2.0]}
    assert failures == {gpu_parts.OTHER_NAME: "exit 1: no such option"}


def test_the_gain_is_the_ratio_of_each_round():
    assert gpu_check._gain({"this tree": [1.0, 2.0, 1.0], "other tree": [4.0, 6.0, 5.0]}) == [
        "4.00 times as fast (3.00 to 5.00)"
    ]
    assert gpu_check._gain({"this tree": [1.0]}) == []


def test_images_are_compared_byte_by_byte():
    reference = np.zeros((3, 10, 10), np.uint8)
    other = reference.copy()
    assert gpu_parts.compared(reference, other) == {"equal": 1.0, "largest": 0, "psnr_db": 999.0}
    other[0, 0, :3] = 1, 2, 255
    found = gpu_parts.compared(reference, other)
    assert (found["equal"], found["largest"]) == (0.99, 255)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / ((1 + 4 + 255**2) / 300)))


def test_a_scene_that_several_processes_draw_is_the_scene(monkeypatch, tmp_path):
    monkeypatch.setattr(simulated, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(simulated, "usable_cores", lambda: 2)
    with rasterio.open(simulated.simulated_scene(tmp_path, (1100, 64))) as drawn:
        found = drawn.read(1)
    np.testing.assert_array_equal(found, SimulatedScene(height=1100, width=64, border=False).rows(0, 1100))
