"""No command calls anybody, or writes outside its output, cache and temporary folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import UTM, speckle

WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        sys.stderr.write(f"CALLED {event} {arguments}\\n")
sys.addaudithook(watch)
from click.testing import CliRunner
from importlib import import_module
name, *arguments = sys.argv[1:]
main = import_module(name).main
main(arguments, standalone_mode=False)
"""


def watched(tmp_path, module, *arguments):
    """Run a command with sockets and the home folder watched; give what it printed."""
    home = tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "SAR2OPT_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    unset = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | places
    command = [sys.executable, "-c", WATCHED, module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "CALLED" not in done.stderr
    assert sorted(home.rglob("*")) == []
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


def test_the_watch_sees_a_call(tmp_path):
    """What the tests above rely on."""
    (tmp_path / "caller.py").write_text(
        "import socket\ndef main(*_, **__):\n    socket.socket().connect_ex(('127.0.0.1', 9))\n"
    )
    command = [sys.executable, "-c", WATCHED, "caller"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert "CALLED socket.connect" in done.stderr
