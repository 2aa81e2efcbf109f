"""Many scenes on Dask's workers: the same pixels as one process gives, also if a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from sar2optical.batch import cluster as cluster_module
from sar2optical.batch.cluster import connected
from sar2optical.batch.schedule import translate_all
from sar2optical.batch.stac import time_in
from sar2optical.batch.work import Work
from sar2optical.batch.worker import MIN_STRIPS, AlreadyDone, Shared, begin, count_strips, cut, make_strips
from sar2optical.cli.batch import main as batch_main
from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OptionError, OutputExists
from sar2optical.pipeline.options import Report, TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.area import polygon_area
from sar2optical.tiling.windows import window_grid
from tests.cli.test_cli import here
from tests.conftest import UTM, make_local, speckle

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
BLOCK = 128
FP32 = TranslateOptions(engine=EngineOptions(device="cpu", precision="fp32", threads=1), blocksize=BLOCK)
TALL = (3300, 500)
"""Rows and columns of a scene of 26 strips: two tasks, each at least as high as six rows of windows."""


@pytest.fixture(scope="module")
def cluster():
    with connected(workers=2) as (client, count):
        assert count == 2
        yield client


def everything(path):
    with rasterio.open(path) as mosaic:
        levels = [mosaic.read(), mosaic.dataset_mask()]
    with rasterio.open(path, overview_level=0) as mosaic:
        return [*levels, mosaic.read(), mosaic.dataset_mask()]


def assert_same(path, other):
    for one, two in zip(everything(path), everything(other), strict=True):
        np.testing.assert_array_equal(one, two)


def run(client, works, model, **changes):
    options = TranslateOptions(**{"engine": FP32.engine, "blocksize": BLOCK, **changes})
    return translate_all(client, works, workers=2, model=model, options=options)


@pytest.fixture
def tall(make_raster):
    grey = speckle(TALL)
    grey[1500:1800, 100:300] = 0
    return make_raster(grey, "tall.tif", nodata=0, **UTM)


@pytest.mark.parametrize(
    ("wanted", "tasks"),
    [
        (range(26), [(0, 13), (13, 26)]),
        (range(37), [(0, 12), (12, 24), (24, 37)]),
        ([3, 4, 5, 40, 41], [(3, 6), (40, 42)]),
        ([*range(5), *range(10, 40)], [(0, 5), (10, 25), (25, 40)]),
        ([], []),
    ],
)
def test_strips_are_cut_into_tasks_of_adjacent_strips(wanted, tasks):
    assert list(cut(wanted, 12)) == tasks
    assert [strip for a, b in tasks for strip in range(a, b)] == list(wanted)


def test_tasks_are_ranges_of_rows_that_begin_with_a_strip(tmp_path, tall):
    model, out = make_local(tmp_path / "local.onnx"), tmp_path / "out.tif"
    work = Work(source=str(tall), out=out)
    shared = begin(work, model, FP32, True)
    assert isinstance(shared, Shared)
    # Six rows of windows of 256 are as high as 12 strips; the last of the 26 has 100 rows.
    assert MIN_STRIPS <= 12
    assert shared.tasks == ((0, 13 * BLOCK), (13 * BLOCK, TALL[0]))
    assert [count_strips(rows, BLOCK) for rows in shared.tasks] == [13, 13]
    assert make_strips(work, model, FP32, shared.resolved, shared.tasks[1]) == 13
    # What is on disk is not cut into tasks again.
    again = begin(work, model, FP32, True)
    assert isinstance(again, Shared)
    assert again.tasks == ((0, 13 * BLOCK),)


def test_a_scene_below_two_tasks_or_not_shared_is_translated_by_one_worker(tmp_path, tall, make_raster):
    model = make_local(tmp_path / "local.onnx")
    small = make_raster(speckle((2 * 12 * BLOCK - 1, 300)), "small.tif", **UTM)
    assert isinstance(begin(Work(source=str(small), out=tmp_path / "a.tif"), model, FP32, True), Report)
    assert isinstance(begin(Work(source=str(tall), out=tmp_path / "b.tif"), model, FP32, False), Report)


def test_two_workers_give_the_pixels_of_one_process(cluster, tmp_path, tall, make_raster):
    model = make_local(tmp_path / "local.onnx")
    small = make_raster(speckle((300, 700)), "small.tif", **UTM)
    out = tmp_path / "out"
    out.mkdir()
    works = [Work(source=str(src), out=out / src.name) for src in (tall, small)]
    outcomes = run(cluster, works, model)
    assert [outcome.state for outcome in outcomes] == ["done", "done"], outcomes
    # All strips of the tall scene were made by tasks: the step that assembled it ran no window.
    assert (outcomes[0].report.windows_run, outcomes[0].report.rows_kept) == (0, TALL[0])
    for src in (tall, small):
        translate(src, tmp_path / "alone.tif", model=model, options=replace(FP32, overwrite=True))
        assert_same(out / src.name, tmp_path / "alone.tif")
    assert sorted(file.name for file in out.iterdir()) == ["small.tif", "tall.tif"]


def test_workers_that_share_an_area_give_the_pixels_of_one_process(cluster, tmp_path, tall):
    model = make_local(tmp_path / "local.onnx")
    rows, cols = (100, 3250), (33, 401)  # still two tasks
    (west, north), (east, south) = (UTM["transform"] @ corner for corner in zip(cols, rows, strict=True))
    points = [[west, north], [east, north], [east, south], [(west + east) / 2, south], [west, north]]
    polygon = {"type": "Polygon", "coordinates": [points], "crs": {"properties": {"name": UTM["crs"]}}}
    area = polygon_area(polygon)
    (outcome,) = run(cluster, [Work(source=str(tall), out=tmp_path / "out.tif")], model, area=area)
    assert (outcome.report.windows_run, outcome.report.rows_kept) == (0, 3150), outcome
    translate(tall, tmp_path / "alone.tif", model=model, options=replace(FP32, area=area))
    assert_same(tmp_path / "out.tif", tmp_path / "alone.tif")
    translate(tall, tmp_path / "whole.tif", model=model, options=FP32)
    (image, valid, *_), (whole, all_valid, *_) = everything(tmp_path / "out.tif"), everything(tmp_path / "whole.tif")
    usable = valid > 0
    assert 0.3 < usable.mean() < 0.9
    np.testing.assert_array_equal(image[:, usable], whole[:, slice(*rows), slice(*cols)][:, usable])
    assert (all_valid[slice(*rows), slice(*cols)][usable] > 0).all()


def test_a_killed_worker_changes_no_pixel(cluster, tmp_path, make_raster, exported):
    src = make_raster(speckle((3300, 1300)), "killed.tif", **UTM)
    out = tmp_path / "out.tif"
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not any(out.with_name("out.tif.parts").glob("strip-*")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        victim = next(iter(pids.values()))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    pids = cluster.run(os.getpid)
    killer = threading.Thread(target=kill)
    killer.start()
    (outcome,) = run(cluster, [Work(source=str(src), out=out)], exported)
    killer.join()
    assert len(killed) == 1
    assert outcome.state == "done", outcome
    cluster.wait_for_workers(2, timeout=60)
    assert killed[0] not in cluster.run(os.getpid).values()
    translate(src, tmp_path / "alone.tif", model=exported, options=FP32)
    assert_same(out, tmp_path / "alone.tif")


def test_a_scene_that_fails_does_not_stop_the_others_and_existing_files_are_kept(cluster, tmp_path, make_raster):
    model = make_local(tmp_path / "local.onnx")
    good = make_raster(speckle((300, 500)), "good.tif", **UTM)
    bad = make_raster(speckle((300, 500)), "VV.tif", descriptions=["VV"], **UTM)
    there = tmp_path / "there_out.tif"
    there.write_bytes(b"precious")
    works = [
        Work(source=str(tmp_path / "none.tif"), out=tmp_path / "none_out.tif"),
        Work(source=str(bad), out=tmp_path / "bad_out.tif"),
        Work(source=str(good), out=there),
        Work(source=str(good), out=tmp_path / "good_out.tif"),
    ]
    outcomes = run(cluster, works, model)
    assert [outcome.state for outcome in outcomes] == ["failed", "failed", "there", "done"]
    assert outcomes[0].error == f"{tmp_path / 'none.tif'}: no such file: check the path"
    assert "the model was trained on VH" in outcomes[1].error
    assert there.read_bytes() == b"precious"
    assert not list(tmp_path.glob("*.parts"))


def test_strips_that_an_interrupted_run_has_left_are_not_made_again(cluster, tmp_path, tall):
    model = make_local(tmp_path / "local.onnx")
    out, asked = tmp_path / "out.tif", iter(range(10))
    with pytest.raises(Interrupted):
        translate(tall, out, model=model, options=FP32, stop=lambda: next(asked, None) is None)
    kept = {strip.name: strip.stat().st_mtime_ns for strip in (tmp_path / "out.tif.parts").glob("strip-*")}
    top = window_grid(TALL, 256, 64).rows[10]  # of the first row of windows that has not run
    assert len(kept) == top // BLOCK == 14
    seen = {}

    def watch():
        while not out.exists():
            for strip in (tmp_path / "out.tif.parts").glob("strip-*"):
                try:
                    seen[strip.name] = strip.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    (outcome,) = run(cluster, [Work(source=str(tall), out=out)], model)
    watcher.join(10)
    assert outcome.state == "done", outcome
    assert {name: seen[name] for name in kept} == kept
    translate(tall, tmp_path / "alone.tif", model=model, options=FP32)
    assert_same(out, tmp_path / "alone.tif")


def test_importing_the_package_loads_neither_dask_nor_pystac():
    code = "import sys, sar2optical.batch; print({'dask', 'distributed', 'pystac'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "set()\n"


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(cluster_module, "_TIMEOUT", 1)
    with pytest.raises(OptionError, match="does not answer"), connected("tcp://127.0.0.1:9"):
        pass


def batch(*args):
    return subprocess.run(
        [BIN / "sar2opt-batch", *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def batch_here(cluster):
    """Return a function that runs the command in this process, with the workers of `cluster`."""
    return lambda *args: here(batch_main, *args, "--scheduler", cluster.scheduler.address)


def test_the_command_reads_lists_names_outputs_and_writes_a_summary(tmp_path, make_raster):
    model = make_local(tmp_path / "local.onnx")
    one = make_raster(speckle((300, 500)), "S1A_IW_GRDH_1SDV_20210119T031653.tif", **UTM)
    two = make_raster(speckle((200, 400)), "two.tif", **UTM)
    listed = tmp_path / "scenes.txt"
    listed.write_text(f"# both\n{one}\n\n{two}\n{tmp_path / 'three.tif'}\n")
    out = tmp_path / "out"
    result = batch(
        listed, out, "--model", model, "--name", "{number:02d}_{name}.tif", "--previews", "--precision", "fp32"
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["scene", "state", "Mpx", "seconds", "result"]
    assert "three.tif: no such file" in lines[3]
    assert lines[-1].startswith("2 done, 1 failed; 0 Mpx in ")
    summary = json.loads((out / "summary.json").read_text())
    assert [scene["state"] for scene in summary["scenes"]] == ["done", "done", "failed"]
    name = "01_S1A_IW_GRDH_1SDV_20210119T031653"
    item = pystac.Item.from_file(str(out / f"{name}.json"))
    assert item.datetime == datetime(2021, 1, 19, 3, 16, 53, tzinfo=UTC)
    assert item.properties["proj:code"] == "EPSG:32631"
    assert item.properties["proj:shape"] == [300, 500]
    assert item.properties["sar2optical:overlap"] == "64"
    assert (out / item.assets["mosaic"].href).is_file()
    assert (out / item.assets["preview"].href).is_file()
    with rasterio.open(out / f"{name}.tif") as mosaic:
        west, south, east, north = rasterio.warp.transform_bounds(mosaic.crs, "EPSG:4326", *mosaic.bounds)
    assert item.bbox == pytest.approx([west, south, east, north], abs=1e-6)

    two.rename(tmp_path / "three.tif")
    again = batch(listed, out, "--model", model, "--name", "{number:02d}_{name}.tif", "--precision", "fp32")
    assert "1 done, 2 already there" in again.stdout


def test_ctrl_c_in_a_terminal_is_one_line(tmp_path, make_raster, exported):
    src, out = make_raster(speckle((6500, 1300)), "tall.tif", **UTM), tmp_path / "out"
    command = [BIN / "sar2opt-batch", src, out, "--model", exported, "--workers", "2", "--precision", "fp32"]
    command += ["--blocksize", str(BLOCK)]
    # Its own process group: a terminal sends Ctrl-C to all of it.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0)
    deadline = time.monotonic() + 60
    while not any(out.glob("*.parts/strip-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in message
    assert "interrupted: no output is half-written; run the same command again" in message
    assert not list(out.glob("*.tif"))


def test_an_item_does_not_overwrite_a_file_of_the_user(batch_here, tmp_path, make_raster):
    model = make_local(tmp_path / "local.onnx")
    src, out = make_raster(speckle((300, 500)), "one.tif", **UTM), tmp_path / "out"
    out.mkdir()
    (out / "one.json").write_text('{"mine": 1}')
    result = batch_here(src, out, "--model", model, "--precision", "fp32")
    assert result.returncode == 0
    assert "no STAC Item: " in result.stderr
    assert (out / "one.json").read_text() == '{"mine": 1}'
    (out / "one.json").unlink()
    for _ in range(2):  # its own Item is overwritten
        assert batch_here(src, out, "--model", model, "--precision", "fp32", "--overwrite").returncode == 0
    ring = pystac.Item.from_file(str(out / "one.json")).geometry["coordinates"][0]
    assert sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) > 0


def test_the_next_batch_finishes_the_steps_of_a_killed_one(batch_here, tmp_path, make_raster):
    model = make_local(tmp_path / "local.onnx")
    src, out = make_raster(speckle((600, 500)), "one.tif", **UTM), tmp_path / "out"
    options = ("--model", model, "--precision", "fp32", "--backend", "onnxruntime")
    assert batch_here(src, out, *options).returncode == 0
    # Killed after the rename: no Item, and strips that are no longer needed.
    (out / "one.json").unlink()
    asked = iter(range(2))
    taken = TranslateOptions(
        engine=EngineOptions(precision="fp32"), backend="onnxruntime", overwrite=True, blocksize=BLOCK
    )
    with pytest.raises(Interrupted):
        translate(src, out / "one.tif", model=model, options=taken, stop=lambda: next(asked, None) is None)
    assert (out / "one.tif.parts").is_dir()
    result = batch_here(src, out, *options)
    assert "1 already there" in result.stdout
    assert sorted(file.name for file in out.iterdir() if file.name[0] != ".") == [
        "collection.json",
        "mosaics.vrt",
        "one.json",
        "one.tif",
        "summary.json",
    ]


def test_a_step_repeated_after_the_rename_is_not_a_failure(tmp_path, make_raster):
    model = make_local(tmp_path / "local.onnx")
    src, out = make_raster(speckle((300, 500)), "one.tif", **UTM), tmp_path / "out.tif"
    work = Work(source=str(src), out=out)
    assert isinstance(begin(work, model, FP32, True), Report)
    assert isinstance(begin(work, model, FP32, True), AlreadyDone)
    other = replace(FP32, overlap=32)
    with pytest.raises(OutputExists, match="overlap 64, now 32"):
        begin(work, model, other, True)


def test_wrong_names_and_empty_lists_are_refused(batch_here, tmp_path, make_raster):
    src = make_raster(speckle((60, 60)))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for args, message in [
        ((src, src, tmp_path / "o"), "the mosaic of two scenes"),
        ((src, tmp_path / "o", "--name", "{nothing}.tif"), "use {name} and {number} only"),
        ((src, tmp_path / "o", "--name", "{name:d}.tif"), "is not a valid template"),
        ((src, tmp_path / "o", "--name", "{}.tif"), "is not a valid template"),
        ((src, tmp_path / "o", "--name", "{name.none}.tif"), "is not a valid template"),
        ((src, tmp_path / "o", "--name", "{name.tif"), "is not a valid template"),
        ((src, tmp_path / "o", "--name", "../{name}.tif"), "outside OUT_DIR"),
        ((empty, tmp_path / "o"), "contains no scene"),
        ((tmp_path / "none.json", tmp_path / "o"), "is not a STAC ItemCollection"),
        ((src, src), "cannot create this folder"),
        ((src, src.parent), "is the scene itself"),
        ((src, "s3://bucket/folder"), "on a server"),
    ]:
        result = batch_here(*args)
        assert result.returncode == 1, args
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_times_are_found_in_product_names():
    assert time_in("S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201") == datetime(
        2021, 1, 19, 3, 16, 53, tzinfo=UTC
    )
    assert time_in("s1a-iw-grd-vh-20210119t031653-x") == datetime(2021, 1, 19, 3, 16, 53, tzinfo=UTC)
    assert time_in("99999999T999999") is None
    assert time_in("scene") is None
