"""The bench of other tools: its own parts, without any of those tools."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from bench import peers
from bench.generators import bundled_checkpoint
from bench.harness import Record, Row
from bench.peer import environments, figures, judge, run, scenes, verdicts
from bench.peer.protocol import Job, Outcome

SMALL = 320


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return scenes.make_scene(tmp_path_factory.mktemp("scene"), SMALL)


def outcome(**values):
    known = {
        "seconds": 2.0,
        "seconds_engine": 1.5,
        "windows": 4,
        "peak_bytes": 300,
        "engine_bytes": 100,
        "engine": "x",
    }
    return Outcome(**{**known, "rows": (0, 64), "cols": (0, 64), **values})


def in_this_process(candidate, base, scene, small, out):
    return run.main(peers.job_of(candidate, base, scene, small, out))


def row(name, rate, *, writes_file=True, streams=False, **values):
    known = {"seconds_outside_engine_per_mpx": 0.1, "seam_score": 1.0, "seam_score_in_phase": 1.0}
    labels = {"blends": True, "writes_file": writes_file, "streams": streams}
    return Row(name=name, unit="Mpx/s", samples=(rate,) * 3, labels=labels, figures={**known, **values})


def test_jobs_and_outcomes_come_through_json_as_they_were():
    job = Job(way="plain", scene="a.tif", out="b.tif", checkpoint="c.pth", batch=4)
    assert Job.from_json(job.to_json()) == job
    assert Outcome.from_json(outcome().to_json()) == outcome()


def test_the_scene_has_control_points_nothing_at_its_edges_and_the_same_values_in_both_forms(scene):
    with (
        rasterio.open(scene.stored) as stored,
        rasterio.open(scene.encoded) as encoded,
        rasterio.open(scene.scaled) as scaled,
    ):
        assert stored.crs is None
        assert scenes.same_points(stored.gcps[0], encoded.gcps[0])
        assert scenes.same_points(stored.gcps[0], scaled.gcps[0])
        valid = stored.dataset_mask() == 255
        values, thousands = encoded.read(1), scaled.read(1)
    assert 0 < valid.mean() < 1
    np.testing.assert_array_equal(~np.isnan(values), valid)
    assert np.nanmin(values) >= -1
    assert np.nanmax(values) == 1
    np.testing.assert_allclose(thousands[valid], (values[valid] + 1) * 5000, rtol=1e-6)


def test_the_exact_blend_of_what_changes_nothing_is_the_scene():
    sar = np.random.default_rng(1).uniform(-1, 1, (300, 400)).astype(np.float32)
    levels = judge.exact_blend(sar, 128, 32, lambda windows: np.repeat(windows, 3, axis=1))
    np.testing.assert_allclose(levels, np.repeat((sar[None] + 1) * 127.5, 3, axis=0), atol=1e-3)


def test_the_exact_blend_of_two_windows_is_half_of_each_in_the_middle_of_what_they_share():
    calls = iter((0.0, 1.0))

    def generator(windows):
        return np.stack([np.full((3, *window.shape[1:]), next(calls), np.float32) for window in windows])

    levels = judge.exact_blend(np.zeros((64, 112), np.float32), 64, 16, generator)[0, 0]
    assert levels[47] == 127.5
    assert levels[64] == 255
    np.testing.assert_allclose(levels[48:64] + levels[48:64][::-1], 1.5 * 255)


def test_the_interior_is_what_no_window_with_a_hole_reaches():
    valid = np.ones((40, 50), bool)
    valid[20, 10] = False
    expected = np.ones_like(valid)
    expected[13:28, 3:18] = False  # 7 pixels around it, for windows of 8
    np.testing.assert_array_equal(judge.interior_of(valid, 8), expected)


def test_memory_is_extrapolated_by_pixels():
    assert figures.extrapolate({100: 10.0, 200: 40.0}, 90_000) == pytest.approx(90.0)
    assert figures.extrapolate({100: 10.0, 200: 9.0}, 90_000) == 9.0


def test_verdicts_compare_with_the_fastest_and_with_the_fastest_that_does_all_of_it():
    rows = [
        row(verdicts.PLAIN, 4.0),
        row("in memory", 2.0, writes_file=False, seconds_outside_engine_per_mpx=0.02),
        row("into a file", 1.0),
        Row(name="missing", unit="Mpx/s", trouble="not installed"),
        row(verdicts.OURS, 3.0, seconds_outside_engine_per_mpx=0.04),
        row(verdicts.DEFAULT, 6.0),
    ]
    found = verdicts.verdicts(rows)
    assert found["fastest peer"] == "in memory"
    assert found["same engine / fastest peer"] == 1.5
    assert found["default engine / fastest peer"] == 3
    assert found["same engine / it"] == 3
    assert found["seconds_outside_engine_per_mpx, same engine / least of the peers"] == 2
    assert found["seconds_outside_engine_per_mpx, same engine / least of such peers"] == pytest.approx(0.4)
    text = verdicts.report(Record(bench="peers", rows=tuple(rows), settings={}, series={"verdicts": found}))
    assert "not installed" in text
    noisy = [replace(row, samples=(1.0, 2.0, 4.0)) if row.name == verdicts.OURS else row for row in rows]
    assert verdicts.verdicts(noisy)["same engine / fastest peer"] == "1.00 (0.50 to 2.00)"


def test_our_memory_is_compared_with_that_of_tools_that_hold_the_scene():
    rows = [
        row(verdicts.PLAIN, 4.0),
        row("streams", 2.0, streams=True, memory_above_engine_mb_extrapolated=10.0),
        row("holds it", 2.0, memory_above_engine_mb_extrapolated=9000.0),
        row(verdicts.OURS, 3.0),
        row(verdicts.DEFAULT, 6.0, memory_above_engine_mb_wide=900.0),
    ]
    found = verdicts.verdicts(rows)
    assert found["ours / least of those that hold the scene"] == pytest.approx(0.1)


def test_an_installation_that_fails_leaves_its_reason(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr(environments, "_make", fails)
    peer = environments.PEERS[0]
    assert environments.missing(tmp_path, peer) == "not installed: python -m bench peers --install"
    assert "no room" in environments.install(tmp_path, peer)
    assert environments.missing(tmp_path, peer) == "cannot be installed: no room"


def test_the_command_runs_ours_and_the_loop_and_says_why_the_others_are_missing(tmp_path, monkeypatch):
    # Windows of the loop touch, at 0, 256 and 512; at other sizes, evenly spaced ones overlap without being blended.
    monkeypatch.setattr(peers, "_QUICK_SIDE", 3 * 256)
    monkeypatch.setattr(peers, "_SMALL_SIDE", SMALL)
    monkeypatch.setattr(peers, "work_of", in_this_process)
    out = tmp_path / "record.json"
    ended = CliRunner().invoke(
        peers.main, ["--quick", "--folder", str(tmp_path), "--json", str(out)], catch_exceptions=False
    )
    assert ended.exit_code == 0, ended.output
    rows = {found["name"]: found for found in json.loads(out.read_text())["rows"]}
    assert rows["opensr-utils 2.1.0"]["trouble"].startswith("not installed")
    ours, loop = rows[verdicts.OURS], rows[verdicts.PLAIN]
    assert ours["figures"]["survives"] == {"crs": True, "gcps": True, "mask": True, "cog": True}
    assert loop["figures"]["survives"] is None
    assert ours["figures"]["interior_share"] > 0
    assert ours["figures"]["worst_difference"] < 0.51  # half a level is what rounding costs
    assert loop["figures"]["worst_difference"] > 2
    for found in (ours, loop):
        assert len(found["samples"]) == 1
        assert found["figures"]["memory_above_engine_mb"] >= 0
        assert 0 < found["figures"]["share_outside_engine"] < 1


def test_a_worker_answers_from_a_process_of_its_own_and_a_failing_one_is_quoted(tmp_path, scene):
    generator = bundled_checkpoint(tmp_path / "generator.pth")
    loop = peers.candidates(tmp_path, generator)[0]
    found = peers.work_of(loop, Job(), scene, scene, tmp_path / "mosaic.tif")
    assert found.windows == 4
    assert found.peak_bytes >= found.engine_bytes > 0
    lost = replace(loop, checkpoint=tmp_path / "lost.pth")
    with pytest.raises(peers.WorkerFailed, match=r"lost\.pth"):
        peers.work_of(lost, Job(), scene, scene, tmp_path / "mosaic.tif")
