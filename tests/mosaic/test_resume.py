"""Interrupted runs and the runs that resume them: the same pixels, nothing half-written, nothing lost."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OtherRun, OutputExists, OutputUnwritable, SceneUnreadable
from sar2optical.mosaic.coding import COMPRESSIONS, BlockCoding
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.run_folder import RunFolder
from sar2optical.mosaic.strip_files import StripFiles
from sar2optical.mosaic.strips import Strip, write_strip
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter
from sar2optical.pipeline import estimate as estimate_module
from sar2optical.pipeline.estimate import estimate
from sar2optical.pipeline.flow import STAGES
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import prepared
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import Georeference, SceneOptions
from sar2optical.tiling.windows import window_grid
from tests.conftest import UTM, make_local, speckle
from tests.mosaic.test_writer import halved

BIN = Path(sys.executable).parent
FP32 = EngineOptions(device="cpu", precision="fp32", threads=1)
BLOCK = 64
"""Rows of a strip."""

SHAPE = (1500, 700)


def finished(rows_of_windows, *, overlap=64):
    """Return the rows of pixels in complete strips, and the windows below them, after so many rows of windows."""
    grid = window_grid(SHAPE, 256, overlap)
    rows = grid.rows[rows_of_windows] // BLOCK * BLOCK
    return rows, len(grid.cols) * sum(top + 256 > rows for top in grid.rows)


@pytest.fixture
def model(tmp_path):
    """Make a model whose adjacent windows differ, so that a strip blended from too few of them is detected."""
    return make_local(tmp_path / "local.onnx")


@pytest.fixture
def src(make_raster):
    grey = speckle(SHAPE)
    grey[300:380, 100:400] = 0
    return make_raster(grey, nodata=0, **UTM)


def run(src, out, model, *, stop_after=None, **changes):
    """Translate; stop after so many rows of windows if given."""
    asked = iter(range(stop_after)) if stop_after is not None else None
    stop = (lambda: next(asked, None) is None) if asked is not None else (lambda: False)
    options = TranslateOptions(**{"engine": FP32, "blocksize": BLOCK, **changes})
    return translate(src, out, model=model, options=options, stop=stop)


def pixels(path):
    with rasterio.open(path) as mosaic:
        levels = [mosaic.read(), mosaic.dataset_mask()]
        count = len(mosaic.overviews(1))
    for level in range(count):
        with rasterio.open(path, overview_level=level) as mosaic:
            levels += [mosaic.read(), mosaic.dataset_mask()]
    return levels


def assert_same(path, other):
    ours, theirs = pixels(path), pixels(other)
    assert len(ours) == len(theirs) > 2
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)
    assert ours[0].std() > 10


def run_folder_of(out):
    return out.with_name(out.name + ".parts")


@pytest.mark.parametrize("overlap", [0, 64, 100, 200])
@pytest.mark.parametrize("rows_of_windows", [2, 3, 5])
def test_a_resumed_run_gives_the_pixels_of_one_that_was_not_stopped(tmp_path, src, model, overlap, rows_of_windows):
    run(src, tmp_path / "whole.tif", model, overlap=overlap)
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted) as stopped:
        run(src, out, model, overlap=overlap, stop_after=rows_of_windows)
    assert any("finished rows are kept in out.tif.parts" in note for note in stopped.value.__notes__)
    assert not out.exists()
    kept = sorted(run_folder_of(out).glob("strip-*"))
    report = run(src, out, model, overlap=overlap)
    rows, windows = finished(rows_of_windows, overlap=overlap)
    assert [strip.name for strip in kept] == [f"strip-{row:08d}.tif" for row in range(0, rows, BLOCK)]
    assert rows > 0
    # Rows of windows that reach into the first strip are run again.
    assert (report.rows_kept, report.windows_run) == (rows, windows)
    assert_same(out, tmp_path / "whole.tif")
    assert not run_folder_of(out).exists()


def test_a_run_stopped_before_the_first_strip_leaves_nothing(tmp_path, src, model):
    with pytest.raises(Interrupted):
        run(src, tmp_path / "out.tif", model, stop_after=0)
    assert not run_folder_of(tmp_path / "out.tif").exists()


def test_a_run_stopped_repeatedly_finishes(tmp_path, src, model):
    run(src, tmp_path / "whole.tif", model)
    out, times = tmp_path / "out.tif", 0
    while not out.exists():
        times += 1
        try:
            # The first row of windows of a resumed run is one that an earlier run has executed too.
            run(src, out, model, stop_after=2)
        except Interrupted:
            assert times < 20
    assert times > 3
    assert_same(out, tmp_path / "whole.tif")


def damage(strip):
    data = bytearray(strip.read_bytes())
    data[len(data) // 2] ^= 0xFF
    strip.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        lambda strip: os.truncate(strip, 100),
        lambda strip: strip.unlink(),
        lambda strip: strip.write_bytes(b""),
    ],
    ids=["flipped", "cut", "gone", "empty"],
)
def test_strips_are_checked_before_they_are_used(tmp_path, src, model, spoil):
    run(src, tmp_path / "whole.tif", model)
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=5)
    spoil(sorted(run_folder_of(out).glob("strip-*"))[2])
    assert run(src, out, model).rows_kept == 2 * BLOCK
    assert_same(out, tmp_path / "whole.tif")


def test_strips_with_exchanged_contents_are_made_again(tmp_path, src, model):
    """Each is intact and of this run, but has the other's name."""
    run(src, tmp_path / "whole.tif", model)
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=4)
    one, two = sorted(run_folder_of(out).glob("strip-*"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    assert first != second
    one.write_bytes(second)
    two.write_bytes(first)
    run(src, out, model)
    assert_same(out, tmp_path / "whole.tif")


def test_strips_of_another_width_are_not_used(tmp_path):
    out = tmp_path / "out.tif"
    with writer_of(out, shape=(32, 5), blocksize=16) as writer:
        writer.write(np.zeros((3, 16, 5), np.uint8), np.ones((16, 5), np.bool_))
        writer.rows_on_disk()
    for width, rows in ((6, 0), (5, 16)):
        files = StripFiles(out, (32, width), Manifest({"a": "1"}), coding=BlockCoding(blocksize=16))
        assert (files.rows(), files.missing()) == (rows, [0, 16][rows // 16 :])
        with writer_of(out, shape=(32, width), blocksize=16) as writer:
            assert writer.resume() == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 32}, "overlap 64, now 32"),
        ({"scene": SceneOptions(nodata=7)}, "nodata not given, now 7"),
        ({"backend": "onnxruntime"}, "backend openvino, now onnxruntime"),
    ],
    ids=["overlap", "nodata", "backend"],
)
def test_strips_of_other_options_are_refused_with_the_difference_until_restart_is_given(
    tmp_path, src, model, changes, message
):
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3)
    before = sorted(file.name for file in run_folder_of(out).iterdir())
    with pytest.raises(OtherRun, match=message) as refused:
        run(src, out, model, **changes)
    assert "--restart" in str(refused.value)
    assert sorted(file.name for file in run_folder_of(out).iterdir()) == before
    assert run(src, out, model, restart=True, **changes).rows_kept == 0
    run(src, tmp_path / "whole.tif", model, **changes)
    assert_same(out, tmp_path / "whole.tif")


def test_another_scene_of_the_same_name_and_another_model_are_refused(
    tmp_path, src, model, identity_model, make_raster
):
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3)
    with pytest.raises(OtherRun, match="model"):
        run(src, out, identity_model)
    make_raster(speckle((1500, 700), seed=5), nodata=0, **UTM)
    with pytest.raises(OtherRun, match=r"scene scene\.tif \(\d+ bytes"):
        run(src, out, model)


def test_options_that_change_no_pixel_may_change(tmp_path, src, model):
    run(src, tmp_path / "whole.tif", model)
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=4)
    other = EngineOptions(device="cpu", precision="fp32", threads=2, batch=3)
    assert run(src, out, model, engine=other, compress="zstd").rows_kept == finished(4)[0]
    assert_same(out, tmp_path / "whole.tif")


def test_a_backend_chosen_automatically_is_chosen_again(tmp_path, src, model):
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3, backend="onnxruntime")
    # auto alone would take OpenVINO.
    assert run(src, tmp_path / "alone.tif", model).engine.startswith("openvino")
    assert run(src, out, model).engine.startswith("onnxruntime")


def test_a_manifest_names_its_differences_and_is_read_back(tmp_path):
    one, two = Manifest({"overlap": "64", "model": "a"}), Manifest({"overlap": "32", "model": "a", "nodata": "0"})
    assert one.differences(two) == ["nodata not given, now 0", "overlap 64, now 32"]
    assert one.differences(one) == []
    assert one.fingerprint != two.fingerprint
    (tmp_path / "manifest.json").write_bytes(two.to_bytes())
    assert Manifest.read(tmp_path) == two
    for text in ("", "{", "[]", '{"form": 99, "facts": {}}', '{"form": 1, "facts": 3}'):
        (tmp_path / "manifest.json").write_text(text)
        assert Manifest.read(tmp_path) is None


def test_a_source_that_becomes_unreadable_keeps_the_finished_strips(tmp_path, model, make_raster):
    # Fixed stretch and unit: no statistics are read, which would detect the missing end.
    src = make_raster(speckle((1500, 700)).astype(np.float32), blockysize=16, compress="deflate", **UTM)
    options = {"scene": SceneOptions(unit="amplitude"), "stretch": None}
    whole, stat = src.read_bytes(), src.stat()
    run(src, tmp_path / "whole.tif", model, **options)
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=2, **options)
    src.write_bytes(whole[: len(whole) * 2 // 3] + bytes(len(whole) - len(whole) * 2 // 3))
    os.utime(src, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SceneUnreadable, match=r"rows \d+ to \d+ cannot be read"):
        run(src, out, model, **options)
    assert not out.exists()
    assert len(list(run_folder_of(out).glob("strip-*"))) >= finished(2)[0] // BLOCK
    src.write_bytes(whole)
    os.utime(src, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(src, out, model, **options).rows_kept >= finished(2)[0]
    assert_same(out, tmp_path / "whole.tif")


# 24 strips of 704 columns and their overviews take 4.5 MB without compression, the COG as much again.
@pytest.mark.parametrize("kilobytes", [1500, 6000], ids=["among the strips", "in the COG"])
def test_a_full_disk_is_one_clear_line_and_the_run_resumes_when_there_is_space(
    tmp_path, src, model, small_disk, kilobytes
):
    run(src, tmp_path / "whole.tif", model, compress="none")
    folder = small_disk(kilobytes)
    out = folder / "out.tif"
    with pytest.raises(OutputUnwritable) as full:
        run(src, out, model, compress="none")
    assert "free" in str(full.value)
    assert any("run the same command again" in note for note in full.value.__notes__)
    assert sorted(file.name for file in folder.iterdir()) == ["out.tif.parts"]
    small_disk(40_000)
    kept = run(src, out, model, compress="none").rows_kept
    assert 0 < kept < SHAPE[0] if kilobytes == 1500 else kept == SHAPE[0]
    assert_same(out, tmp_path / "whole.tif")


def start(src, out, model, *options):
    command = [
        BIN / "sar2opt-scene",
        src,
        out,
        "--model",
        model,
        "--precision",
        "fp32",
        "--blocksize",
        BLOCK,
        *options,
    ]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(folder, pattern, process):
    deadline = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_run_asked_to_stop_finishes_its_strip_and_prints_how_to_resume(
    tmp_path, make_raster, exported, number, code
):
    src, out = make_raster(speckle((2500, 1500))), tmp_path / "out.tif"
    process = start(src, out, exported)
    wait_for(run_folder_of(out), "strip-*", process)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == code, message
    assert "Traceback" not in message
    last = message.splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert last.endswith("are kept in out.tif.parts: run the same command again to resume")
    assert not out.exists()
    process = start(src, out, exported)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 0, message
    assert "resuming at row" in message
    assert_same(out, _whole(tmp_path, src, exported))


def _whole(tmp_path, src, model):
    process = start(src, tmp_path / "whole.tif", model)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 0, message
    return tmp_path / "whole.tif"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_same_mosaic(tmp_path, make_raster, exported):
    src, out = make_raster(speckle((2100, 1300))), tmp_path / "out.tif"
    began = time.monotonic()
    whole = pixels(_whole(tmp_path, src, exported))
    usual = time.monotonic() - began
    chance = random.Random(20)
    met = {"absent": 0, "whole": 0}
    for k in range(12):
        while True:
            process = start(src, out, exported)
            if k % 4 == 3:  # while the COG is being made, if it is seen in time
                while process.poll() is None and not any(run_folder_of(out).glob("mosaic.*")):
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.05))
            else:
                time.sleep(chance.uniform(0.3, 1.1) * usual)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            met["whole" if out.exists() else "absent"] += 1
            if out.exists():
                break
            if chance.random() < 0.5:
                process = start(src, out, exported)
                _, message = process.communicate(timeout=120)
                assert process.returncode == 0, message
                break
        for one, two in zip(pixels(out), whole, strict=True):
            np.testing.assert_array_equal(one, two)
        out.unlink()
    assert met["absent"] >= 6


def test_a_run_folder_left_by_a_kill_after_the_rename_is_removed(tmp_path, src, model):
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=2)
    kept = run_folder_of(out).rename(tmp_path / "aside")
    run(src, out, model)
    kept.rename(run_folder_of(out))
    with pytest.raises(OutputExists):
        run(src, out, model)
    assert run(src, out, model, overwrite=True).rows_kept == finished(2)[0]
    assert not run_folder_of(out).exists()


def test_the_report_contains_windows_times_memory_and_versions(tmp_path, src, model):
    result = subprocess.run(
        [BIN / "sar2opt-scene", src, tmp_path / "out.tif", "--model", model, "--report", tmp_path / "run.json", "-q"],
        check=True,
        timeout=60,
    )
    assert result.returncode == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["windows"] == record["windows_run"] + record["windows_skipped"] == 8 * 4
    assert set(record["idle"]) == set(record["busy"]) == set(STAGES)
    assert all(0 <= share <= 1 for share in record["idle"].values())
    assert all(seconds > 0 for seconds in record["busy"].values())
    assert record["peak_memory"] > 50e6
    assert record["manifest"]["overlap"] == "64"
    assert record["manifest"]["model"] == Manifest(record["manifest"]).entries["model"]
    assert record["versions"]["sar2optical"]
    # The model adds a slope of 51 grey levels across each window, blended over 64 pixels: speckle hides its steps.
    assert record["seam_score"] == pytest.approx(1, abs=0.1)


def test_a_memory_limit_is_kept_or_refused(tmp_path, src, model, caplog):
    from sar2optical.errors import OptionError

    with pytest.raises(OptionError, match=r"memory limit is 50 MB, but the engine holds \d+ MB"):
        run(src, tmp_path / "out.tif", model, max_memory=50_000_000)
    assert not (tmp_path / "out.tif").exists()
    with caplog.at_level(logging.INFO):
        report = run(src, tmp_path / "out.tif", model, max_memory=8_000_000_000)
    assert 0 < report.peak_memory < 8_000_000_000


def test_a_dry_run_estimates_a_run_and_writes_nothing(tmp_path, src, model):
    out = tmp_path / "out.tif"
    options = TranslateOptions(engine=FP32, blocksize=BLOCK)
    expected = estimate(src, out, model=model, options=options)
    assert (expected.windows, expected.windows_run, expected.rows_kept, expected.window) == (32, 32, 0, 256)
    assert sorted(tmp_path.iterdir()) == sorted([src, model])
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3)
    again = estimate(src, out, model=model, options=options)
    # Rows of windows begin at 0, 177, 355, 533 and so on: 533 rows fill 8 strips, and six rows of windows are left.
    assert (again.windows_run, again.rows_kept, again.windows_skipped) == (24, 8 * BLOCK, 8)
    strips = sum(strip.stat().st_size for strip in run_folder_of(out).glob("strip-*"))
    report = run(src, out, model)
    # Speckle does not compress: 512 rows give the size of 1500, plus 1/3 of overviews.
    assert expected.strips == pytest.approx(strips * SHAPE[0] / 512 * 4 / 3, rel=0.1)
    assert out.stat().st_size == pytest.approx(expected.mosaic, rel=0.1)
    assert report.peak_memory > 0


def test_empty_windows_are_estimated(tmp_path, model, make_raster):
    grey = np.zeros((800, 800), np.uint8)
    grey[500:560, 640:700] = speckle((60, 60))
    src = make_raster(grey, "sparse.tif", nodata=0)
    expected = estimate(src, tmp_path / "out.tif", model=model, options=TranslateOptions(engine=FP32))
    report = run(src, tmp_path / "out.tif", model)
    assert (expected.windows_run, expected.windows_skipped) == (report.windows_run, report.windows_skipped) == (2, 14)


def test_a_run_that_the_disk_cannot_hold_is_refused_before_it_begins(tmp_path, model, make_raster, small_disk):
    src = make_raster(speckle((6400, 6400)), "large.tif")  # 41 Mpx: the disk is checked
    out = small_disk(20_000) / "out.tif"
    with pytest.raises(OutputUnwritable, match=r"strips need about \d+ MB .* \d+ MB, but only 20 MB are free"):
        run(src, out, model)
    with pytest.raises(OutputUnwritable, match="are free: "):
        estimate(src, out, model=model, options=TranslateOptions(engine=FP32))
    assert list(out.parent.iterdir()) == []


def test_windows_are_measured_only_where_the_disk_may_be_too_small(tmp_path, src, model, monkeypatch):
    measured, measure = [], estimate_module.measure
    monkeypatch.setattr(estimate_module, "measure", lambda *args: measured.append(args) or measure(*args))
    options, out = TranslateOptions(engine=FP32, blocksize=BLOCK), tmp_path / "out.tif"
    # Strips of 3.2 bytes a pixel at most with their overviews, and a mosaic as large.
    most = math.ceil(2 * 3.2 * 4 / 3 * SHAPE[0] * SHAPE[1])

    def check(free):
        monkeypatch.setattr(estimate_module, "_free_beside", lambda _: free)
        estimate_module.refuse_full_disk(job, options.coding, out, on_disk=0)

    with prepared(src, out, model=model, options=options) as job:
        check(most)
        assert not measured
        check(most - 1)
        assert len(measured) == 1
        with pytest.raises(OutputUnwritable, match="only 5 MB are free"):
            check(5_000_000)


def test_the_command_prints_the_estimate(tmp_path, src, model):
    command = [BIN / "sar2opt-scene", src, tmp_path / "out.tif", "--model", model, "--dry-run", "--precision", "fp32"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "windows          32" in result.stdout
    assert not (tmp_path / "out.tif").exists()


def test_a_report_is_never_the_scene_or_the_mosaic(tmp_path, src, model):
    before = src.read_bytes()
    for report in (src, tmp_path / "out.tif"):
        command = [
            BIN / "sar2opt-scene",
            src,
            tmp_path / "out.tif",
            "--model",
            model,
            "--report",
            report,
            "--overwrite",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 1
        assert "give a name that ends in .json" in result.stderr
    assert src.read_bytes() == before
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".tif", "strip-00000000.tif"),
        (".tif", "strip-00000064.tif"),
        (".tif", "overview-1-00000000.tif"),
        (".png", "strip-00000064.tif"),
    ],
)
def test_strips_that_another_run_has_overwritten_are_not_published(tmp_path, suffix, name):
    out = tmp_path / f"out{suffix}"
    with writer_of(out, shape=(128, 600)) as writer:
        writer.write(np.full((3, 128, 600), 9, np.uint8), np.ones((128, 600), np.bool_))
        assert writer.rows_on_disk() == 128
        wait_until_written(run_folder_of(out) / "overview-1-00000000.tif")
        write_strip(run_folder_of(out) / name, np.full((4, 64, 600), 255, np.uint8), "another")
        with pytest.raises(OutputUnwritable, match="was overwritten by another run"):
            writer.finish()
    assert not out.exists()


def writer_of(out, *, shape, run="1", compress="deflate", blocksize=BLOCK):
    options = MosaicOptions(coding=BlockCoding(compress=compress, blocksize=blocksize))
    return MosaicWriter(
        out, shape=shape, georeference=Georeference(), tags={}, manifest=Manifest({"a": run}), options=options
    )


def wait_until_written(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("compress", ["deflate", "jpeg", "none"])
@pytest.mark.parametrize(
    "name", ["strip-00000000.tif", "strip-00000128.tif", "overview-1-00000064.tif", "overview-3-00000000.tif"]
)
def test_a_strip_that_is_damaged_before_the_mosaic_is_made_is_an_error_and_not_a_mosaic(tmp_path, name, compress):
    out = tmp_path / "out.tif"
    rgb = np.random.default_rng(0).integers(0, 256, (3, 192, 300), np.uint8)
    with writer_of(out, shape=(192, 300), compress=compress) as writer:
        writer.write(rgb, np.ones((192, 300), np.bool_))
        assert writer.rows_on_disk() == 192
        wait_until_written(run_folder_of(out) / "overview-3-00000000.tif")
        damage(run_folder_of(out) / name)
        with pytest.raises(OutputUnwritable, match=rf"{name}: is damaged: run the same command again"):
            writer.finish()
    assert not out.exists()
    with writer_of(out, shape=(192, 300), compress=compress) as writer:  # the next run makes it again
        kept = writer.resume()
        assert kept == {"strip-00000000.tif": 0, "strip-00000128.tif": 128}.get(name, 192)
        if kept < 192:
            writer.write(rgb[:, kept:], np.ones((192 - kept, 300), np.bool_))
        writer.finish()
    with rasterio.open(out) as mosaic:
        if compress != "jpeg":
            np.testing.assert_array_equal(mosaic.read(), rgb)


def filled(out, rgb, valid, *, stop=None, expected=None, damaging=lambda folder: None, **coding):
    """Write a mosaic in pieces of 37 rows; return its bytes, or None if it stops after so many rows."""
    height = len(valid)
    if out.with_name(out.name + ".parts").exists():
        damaging(run_folder_of(out))
    with writer_of(out, shape=valid.shape, **coding) as writer:
        kept = writer.resume()
        assert expected in (None, kept)
        for row in range(kept, stop or height, 37):
            rows = slice(row, min(row + 37, stop or height))
            writer.write(rgb[:, rows], valid[rows])
        if stop:
            writer.rows_on_disk()
            return None
        writer.finish()
    data = out.read_bytes()
    out.unlink()
    return data


def noise(height=400, width=150):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (3, height, width), np.uint8), rng.random((height, width)) > 0.2


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("stop", [64, 250, 399])
def test_a_resumed_mosaic_is_the_same_file(tmp_path, compress, stop):
    mosaic, out = noise(), tmp_path / "out.tif"
    whole = filled(out, *mosaic, compress=compress)
    filled(out, *mosaic, compress=compress, stop=stop)
    assert any(run_folder_of(out).glob("half-*")) == (compress in ("jpeg", "webp"))
    assert filled(out, *mosaic, compress=compress, expected=stop // BLOCK * BLOCK) == whole


@pytest.mark.parametrize(("before", "after"), [("zstd", "deflate"), ("deflate", "none"), ("none", "lzw")])
@pytest.mark.parametrize(("block_before", "block_after"), [(64, 64), (64, 128), (128, 64), (64, 48), (48, 64)])
def test_strips_of_another_lossless_coding_are_used_and_the_file_is_the_same(
    tmp_path, before, after, block_before, block_after
):
    mosaic, out = noise(), tmp_path / "out.tif"
    whole = filled(out, *mosaic, compress=after, blocksize=block_after)
    filled(out, *mosaic, compress=before, blocksize=block_before, stop=350)
    kept = 350 // block_before * block_before
    assert filled(out, *mosaic, compress=after, blocksize=block_after, expected=kept) == whole


def test_strips_are_encoded_again_in_the_run_folder(tmp_path):
    mosaic, out = noise(), tmp_path / "out.tif"
    whole = filled(out, *mosaic, blocksize=128)
    filled(out, *mosaic, compress="zstd", blocksize=64, stop=350)
    filled(out, *mosaic, blocksize=128, stop=360, expected=320)
    coding, run = BlockCoding(blocksize=128), Manifest({"a": "1"}).fingerprint
    found = {row: Strip.read(run_folder_of(out) / f"strip-{row:08d}.tif", run) for row in (0, 128, 256)}
    # 360 rows fill two strips of 128. Below them is one of the first run, whose 64 rows waited for a third.
    assert [(strip.shape[0], coding.matches(strip.image)) for strip in found.values()] == [
        (128, True), (128, True), (64, False),
    ]  # fmt: skip
    assert filled(out, *mosaic, blocksize=128, expected=320) == whole


@pytest.mark.parametrize(("before", "after"), [(64, 128), (128, 64), (48, 64)])
def test_jpeg_strips_of_another_block_size_are_made_again(tmp_path, before, after):
    """Decoded and encoded again, they would have other pixels than those of a run without a pause."""
    mosaic, out = noise(), tmp_path / "out.tif"
    whole = filled(out, *mosaic, compress="jpeg", blocksize=after)
    filled(out, *mosaic, compress="jpeg", blocksize=before, stop=350)
    assert filled(out, *mosaic, compress="jpeg", blocksize=after, expected=0) == whole


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        lambda half: half.unlink(),
        lambda half: half.write_bytes(half.with_name("half-00000000.tif").read_bytes()),
        # Of blocks of another size: its run was killed before it replaced the strip.
        lambda half: write_strip(half, np.zeros((4, 16, 75), np.uint8), Manifest({"a": "1"}).fingerprint),
    ],
    ids=["flipped", "gone", "another's", "smaller"],
)
def test_a_jpeg_strip_without_its_half_is_made_again(tmp_path, spoil):
    mosaic, out = noise(), tmp_path / "out.tif"
    whole = filled(out, *mosaic, compress="jpeg")
    filled(out, *mosaic, compress="jpeg", stop=350)
    half = "half-00000128.tif"
    assert filled(out, *mosaic, compress="jpeg", expected=128, damaging=lambda folder: spoil(folder / half)) == whole


def test_the_halves_of_jpeg_strips_are_those_of_the_pixels_before_compression(tmp_path):
    (rgb, valid), out = noise(64, 150), tmp_path / "out.tif"
    filled(out, np.tile(rgb, (1, 2, 1)), np.tile(valid, (2, 1)), compress="jpeg", stop=64)
    half = Strip.read(run_folder_of(out) / "half-00000000.tif", Manifest({"a": "1"}).fingerprint).pixels()
    expected, some = halved(rgb, valid)
    np.testing.assert_array_equal(half, [*expected, np.where(some, 255, 0)])


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_a_resumed_run_writes_the_same_file(tmp_path, src, model, monkeypatch, compress):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    files = []
    for name, stops in (("whole", []), ("resumed", [2, 3])):
        out = tmp_path / name / "out.tif"
        out.parent.mkdir()
        for stop in stops:
            with pytest.raises(Interrupted):
                run(src, out, model, compress=compress, stop_after=stop)
        assert (run(src, out, model, compress=compress).rows_kept > finished(2)[0]) == (name == "resumed")
        files.append(out.read_bytes())
    at = next((k for k, (one, two) in enumerate(zip(*files, strict=False)) if one != two), None)
    assert at is None, [(len(file), file[max(0, at - 60) : at + 60]) for file in files]
    assert len(files[0]) == len(files[1])


def test_a_source_in_an_archive_is_identified_by_the_archives_size_and_time(tmp_path, src, model):
    archive, out = tmp_path / "z.zip", tmp_path / "out.tif"

    def pack():
        with zipfile.ZipFile(archive, "w") as file:
            file.write(src, "q.tif")

    pack()
    with pytest.raises(Interrupted):
        run(f"/vsizip/{archive}/q.tif", out, model, stop_after=3)
    os.utime(archive, (1, 1))
    with pytest.raises(OtherRun, match=r"scene q\.tif \(\d+ bytes"):
        run(f"/vsizip/{archive}/q.tif", out, model)


def test_options_with_the_same_meaning_resume_the_run(tmp_path, make_raster, model):
    src, out = make_raster(speckle((1500, 700)), descriptions=["VH"], **UTM), tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3)
    other = {"scene": SceneOptions(bands=("VH",), unit="byte")}
    assert run(src, out, model, **other).rows_kept == finished(3)[0]


def test_a_dry_run_refuses_the_same_as_the_run(tmp_path, src, model):
    out = tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(src, out, model, stop_after=3)
    with pytest.raises(OtherRun, match="overlap 64, now 32"):
        estimate(src, out, model=model, options=TranslateOptions(engine=FP32, overlap=32))


def test_a_run_and_workers_of_another_do_not_share_a_folder(tmp_path):
    ours, theirs = Manifest({"a": "1"}), Manifest({"a": "2"})
    out, strip = tmp_path / "out.tif", (np.zeros((3, 16, 6), np.uint8), np.ones((16, 6), np.bool_))
    settings = {"shape": (32, 6), "coding": BlockCoding(blocksize=16)}
    StripFiles(out, manifest=ours, **settings).begin()
    with (
        StripFiles(out, manifest=ours, **settings) as one,
        StripFiles(out, manifest=ours, row=16, **settings) as two,
    ):
        assert one.missing() == [0, 16]
        two.write(*strip)
        assert (one.missing(), one.rows()) == ([0], 0)
        one.write(*strip)
        with pytest.raises(OutputUnwritable, match="another run is writing"), RunFolder(out, theirs, restart=True):
            pass
    with (
        RunFolder(out, ours),
        pytest.raises(OutputUnwritable, match="another run is writing"),
        StripFiles(out, manifest=ours, **settings),
    ):
        pass
    with (
        pytest.raises(OtherRun, match="another run uses its run folder"),
        StripFiles(out, manifest=theirs, **settings),
    ):
        pass
    assert StripFiles(out, manifest=ours, **settings).rows() == 32
    assert StripFiles(out, manifest=theirs, **settings).rows() == 0


def test_sigterm_before_the_first_strip_prints_what_to_do(tmp_path, make_raster, exported):
    process = start(make_raster(speckle((2500, 1500))), tmp_path / "out.tif", exported)
    wait_for(tmp_path, "out.tif.parts/lock", process)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "run the same command again" in message
