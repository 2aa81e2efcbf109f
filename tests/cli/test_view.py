"""`sar2opt-view`, and `sar2opt-scene --viewer`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sar2optical.cli.scene import main as scene_main
from sar2optical.cli.view import main
from tests.conftest import UTM, speckle

TAGS = {"SAR2OPTICAL_BANDS": "VH", "SAR2OPTICAL_UNITS": "amplitude"}


def run(*arguments, command=main):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def scene(make_raster):
    return make_raster(speckle((300, 320)), descriptions=["VH"], **UTM)


@pytest.fixture
def mosaic(make_raster):
    return make_raster(
        np.stack([speckle((300, 320), seed=seed) for seed in (1, 2, 3)]), "mosaic.tif", tags=TAGS, **UTM
    )


def test_html_is_written_once(scene, mosaic, tmp_path):
    page = tmp_path / "view.html"
    result = run(scene, mosaic, "--html", page)
    assert (result.exit_code, result.stderr) == (0, "")
    assert page.stat().st_size > 10_000
    before = page.read_bytes()
    result = run(scene, mosaic, "--html", page)
    assert result.exit_code == 1
    assert result.stderr == f"error: {page}: exists: choose another name, or give --overwrite\n"
    assert run(scene, mosaic, "--html", page, "--overwrite").exit_code == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["{scene}", "{tmp}/none.tif"], 1, "none.tif: cannot be opened"),
        (["{tmp}/none.tif", "{mosaic}"], 1, "none.tif: "),
        (["{scene}", "{scene}"], 1, "scene.tif: has 1 bands of uint8: give a mosaic"),
        (
            ["{scene}", "{mosaic}", "--html", "{tmp}/view.txt"],
            1,
            "view.txt: the viewer writes an HTML file: give a name",
        ),
        (["{scene}", "{mosaic}", "--html", "{tmp}/none/view.html"], 1, "no folder"),
        (["{scene}", "{mosaic}", "--overwrite"], 2, "--overwrite has no effect without --html"),
        (["{scene}", "{mosaic}", "--optical-max", "100"], 2, "--optical-max 100 has no effect without --truth"),
        (["{scene}", "{mosaic}", "--html", "{tmp}/v.html", "--no-browser"], 2, "--no-browser has no effect"),
        (["{scene}", "{mosaic}", "--band", "VV"], 1, "VV"),
    ],
)
def test_errors_are_one_line(scene, mosaic, tmp_path, options, code, message):
    result = run(*(option.format(scene=scene, mosaic=mosaic, tmp=tmp_path) for option in options))
    assert result.exit_code == code
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    assert message in result.stderr
    assert not list(tmp_path.glob("v*.html"))


def test_without_starlette_the_error_names_the_extra(scene, mosaic, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run(scene, mosaic, "--no-browser")
    assert result.exit_code == 1
    assert result.stderr == "error: the viewer needs uvicorn: pip install 'sar2optical[view]'\n"


def test_it_serves_this_machine_until_ctrl_c_and_imports_little(scene, mosaic):
    code = (
        "import sys\nfrom sar2optical.cli.view import main\n"
        "try:\n    main()\nfinally:\n"
        "    print('loaded', *sorted({'torch', 'onnxruntime', 'openvino', 'matplotlib'} & sys.modules.keys()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(scene), str(mosaic), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "SSH_CONNECTION": "a b c d"},
    )
    try:
        address = process.stdout.readline().strip()
        port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/[\w-]{20,}/", address)[1]
        assert f"ssh -L {port}:127.0.0.1:{port} " in process.stdout.readline()
        assert process.stdout.readline() == "Ctrl-C ends the viewer\n"
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert b"viewer.js" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)
        refused.value.close()
        memory = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])
        assert memory < 150_000, "kB"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert out == "loaded\n"
    assert err == ""


def test_a_run_writes_its_page(scene, identity_model, tmp_path):
    out, page = tmp_path / "out.tif", tmp_path / "out.html"
    model = ["--model", identity_model, "--backend", "onnxruntime", "-q"]
    result = run(scene, out, "--viewer", page, *model, command=scene_main)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Unit of the scene" in page.read_text(encoding="utf-8")
    out.unlink()
    result = run(scene, out, "--viewer", page, *model, command=scene_main)
    assert result.exit_code == 1
    assert "out.html: exists: choose another name, or give --overwrite" in result.stderr
    assert not out.exists()
    result = run(scene, tmp_path / "out.png", "--viewer", tmp_path / "p.html", *model, command=scene_main)
    assert result.exit_code == 1
    assert "--viewer needs a GeoTIFF on this machine" in result.stderr
