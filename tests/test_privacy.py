"""No command calls anybody, or writes outside its output, cache and temporary folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import UTM, speckle

WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        address = str(arguments[1:] if event.startswith("socket.c") else arguments)
        if not any(here in address for here in ("127.0.0.1", "localhost", "::1")):
            with open(os.environ["WATCH_LOG"], "a") as log:
                log.write(f"{event} {address}\\n")
sys.addaudithook(watch)
"""
"""Installed in every Python process of a command: workers, and libraries tried by themselves, too. What stays on this
machine is no call: Dask's workers speak to its scheduler."""


def environment_of(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    unset = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    return kept | {
        "HOME": str(home),
        "SAR2OPT_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(scratch),
        "WATCH_LOG": str(tmp_path / "calls.log"),
        "PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[1]}",
    }


def watched(tmp_path, module, *arguments):
    """Run a command with sockets, the home folder and the working folder watched; give what it printed."""
    environment = environment_of(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment, cwd=elsewhere
    )
    assert done.returncode == 0, done.stderr
    assert not Path(environment["WATCH_LOG"]).exists(), Path(environment["WATCH_LOG"]).read_text()
    at_home = [path.relative_to(tmp_path / "home") for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in at_home if path.parts[:2] != (".cache", "matplotlib")] == []  # its fonts, in its cache
    assert sorted(elsewhere.rglob("*")) == []
    return done


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_scene_is_translated_without_a_call(make_raster, tmp_path, backend):
    src = make_raster(speckle((300, 300)), descriptions=["VH"], **UTM)
    watched(tmp_path, "sar2optical.cli.scene", src, tmp_path / "out.tif", "--backend", backend, "--precision", "fp32")
    assert (tmp_path / "out.tif").exists()


def test_an_export_in_int8_makes_no_call(exported, calibration, tmp_path):
    out = tmp_path / "int8.onnx"
    options = ("--precision", "int8", "--calibration", calibration, "--min-psnr", "20")
    watched(tmp_path, "export.cli", exported, out, *options)
    assert out.exists()


def test_a_batch_makes_no_call(make_raster, tmp_path):
    src = make_raster(speckle((300, 300)), descriptions=["VH"], **UTM)
    watched(tmp_path, "sar2optical.cli.batch", src, tmp_path / "out", "--workers", "2", "--precision", "fp32")
    assert (tmp_path / "out" / "scene.tif").exists()


def test_an_evaluation_makes_no_call(make_raster, tmp_path):
    pairs = chips(make_raster, tmp_path)
    out = tmp_path / "figures.json"
    watched(tmp_path, "sar2optical.cli.evaluate", "bundled", pairs, "--precision", "fp32", "--json", out)
    assert out.exists()


def test_a_training_makes_no_call(make_raster, tmp_path):
    pairs = chips(make_raster, tmp_path)
    options = ("--steps", "1", "--batch", "2", "--base-channels", "2", "--discriminator-channels", "2")
    watched(tmp_path, "sar2optical.cli.train", pairs, tmp_path / "run", *options, "--no-tensorboard")
    assert (tmp_path / "run" / "generator.pth").exists()


@pytest.mark.parametrize("step", ["check", "split"])
def test_looking_after_data_makes_no_call(make_raster, tmp_path, step):
    outs = {"check": [], "split": [tmp_path / "split.json"]}
    watched(tmp_path, "sar2optical.cli.data", step, chips(make_raster, tmp_path), *outs[step])


def test_the_doctor_makes_no_call(tmp_path):
    watched(tmp_path, "sar2optical.cli.doctor", "--only", "backends", "--only", "rasters", "--only", "model")


def chips(make_raster, tmp_path):
    for half in ("s1", "s2"):
        (tmp_path / "pairs" / half).mkdir(parents=True)
    for k in range(4):
        make_raster(speckle((256, 256), seed=k), f"pairs/s1/{k}.png", driver="PNG")
        rgb = np.stack([speckle((256, 256), seed=9 * k + c) for c in range(3)])
        make_raster(rgb, f"pairs/s2/{k}.png", driver="PNG")
    return tmp_path / "pairs"


def test_the_watch_sees_a_call_of_a_process_of_a_process(tmp_path):
    """What the tests above rely on."""
    environment = environment_of(tmp_path)
    calling = "import socket; s = socket.socket(); s.settimeout(0.1); s.connect_ex(('192.0.2.1', 9))"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {calling!r}])"
    subprocess.run([sys.executable, "-c", outer], timeout=60, check=True, env=environment)
    assert Path(environment["WATCH_LOG"]).read_text().startswith("socket.connect")
