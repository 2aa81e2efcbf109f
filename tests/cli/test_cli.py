"""Commands as people run them: exit codes, one line for an error, nothing left behind."""

from __future__ import annotations

import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from export.cli import main as export_main
from sar2optical.cli.common import Lines
from sar2optical.cli.group import main as group_main
from sar2optical.cli.scene import main as scene_main
from tests.conftest import UTM, make_identity, signature_of, speckle

BIN = Path(sys.executable).parent


def command(name, *args, **kwargs):
    return subprocess.run(
        [BIN / name, *map(str, args)], capture_output=True, text=True, timeout=120, check=False, **kwargs
    )


def here(main, *args):
    """Run a command in this process, where its libraries are loaded already."""
    before, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("sar2optical")
    level = logger.level
    try:
        result = CliRunner().invoke(main, list(map(str, args)))
    finally:
        signal.signal(signal.SIGTERM, before)
        logger.setLevel(level)
        logger.handlers.clear()
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)


def line_here(line, folder):
    """Run a command line of the documentation in a folder: sar2opt-* in this process, others as they are.

    `sar2opt-batch` starts processes, and stays one of its own.
    """
    name, *arguments = shlex.split(line, comments=True)
    subcommand = name.removeprefix("sar2opt-")
    if subcommand != name and subcommand != "batch":
        with chdir(folder):
            return here(group_main, subcommand, *arguments)
    program = BIN / name if (BIN / name).exists() else name
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def scene(*args, **kwargs):
    return command("sar2opt-scene", *args, **kwargs)


def scene_here(*args):
    return here(scene_main, *args)


def outputs(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("out"))


def assert_refused(result, code, *said):
    """One line on stderr that says what, and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    for text in said:
        assert text in errors[0]


def test_a_scene_becomes_a_mosaic_with_the_bundled_generator(make_raster, tmp_path):
    src, out = make_raster(speckle((300, 400)), descriptions=["VH"], **UTM), tmp_path / "out.tif"
    result = scene(src, out, "--preview", tmp_path / "preview.png")
    assert result.returncode == 0, result.stderr
    assert f"{out}: 400 x 300" in result.stdout
    assert "Mpx/s" in result.stdout
    assert "Warning" not in result.stderr
    with rasterio.open(out) as mosaic:
        rgb = mosaic.read()
        assert mosaic.crs == rasterio.CRS.from_epsg(32631)
    assert rgb.shape == (3, 300, 400)
    assert rgb.std() > 5
    assert (tmp_path / "preview.png").stat().st_size > 1000


def test_quiet_prints_nothing(make_raster, tmp_path, identity_model):
    src = make_raster(speckle((60, 60)), descriptions=["VH"])
    result = scene(src, tmp_path / "out.tif", "--model", identity_model, "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_option_is_accepted(make_raster, tmp_path, identity_model):
    src = make_raster(np.stack([speckle((60, 60)).astype(np.uint16) * 4] * 2), descriptions=["VV", "VH"])
    options = (
        "--backend onnxruntime --device cpu --precision fp32 --band 2 --units dn --stretch p1 p99 --nodata 0 "
        "--overlap 32 --window 256 --batch-size 2 --threads 1 --compress zstd --blocksize 32 -v"
    ).split()
    result = scene_here(src, tmp_path / "out.tif", "--model", identity_model, *options)
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.profile["compress"] == "zstd"
        assert set(mosaic.block_shapes) == {(32, 32)}
        assert mosaic.tags()["SAR2OPTICAL_OVERLAP"] == "32"
        assert mosaic.tags()["SAR2OPTICAL_WINDOW"] == "256"
        assert "onnxruntime fp32" in mosaic.tags()["SAR2OPTICAL_ENGINE"]


def test_blocks_and_windows_that_cannot_be_used(tmp_path, make_raster, identity_model):
    src = make_raster(speckle((60, 60)), descriptions=["VH"])
    for options, said in [
        (("--blocksize", "100"), "block size is 100: give a multiple of 16 up to 4096"),
        (("--window", "512"), "window is 512, but tiny in openvino takes 256: give one of these"),
    ]:
        assert_refused(scene(src, tmp_path / "out.tif", "--model", identity_model, *options), 1, said)
    assert outputs(tmp_path) == []


def test_files_that_are_no_scene(tmp_path, make_raster, identity_model):
    empty, text, cut = tmp_path / "empty.tif", tmp_path / "text.tif", make_raster(speckle((900, 900)), "cut.tif")
    empty.touch()
    text.write_text("hello")
    cut.write_bytes(cut.read_bytes()[:200_000])
    for path, said in [
        (tmp_path / "no.tif", "no such file"),
        (empty, "empty"),
        (text, "not a raster"),
        (cut, "truncated"),
    ]:
        result = scene_here(path, tmp_path / "out.tif", "--model", identity_model)
        assert_refused(result, 1, str(path), said)
    assert outputs(tmp_path) == []


def test_bands_and_values_that_cannot_be_used(tmp_path, make_raster, identity_model):
    cases = [
        (make_raster(speckle((60, 60)), "a_VV.tif"), [], "give --band VV"),
        (make_raster(speckle((60, 60)), "b.tif"), ["--band", "HH"], "no band HH"),
        (make_raster(speckle((60, 60)).astype(np.complex64), "c.tif"), [], "complex64"),
        (make_raster(speckle((60, 60)) * np.float32(0.001), "d.tif"), [], "--units"),
    ]
    for src, options, said in cases:
        assert_refused(scene_here(src, tmp_path / "out.tif", "--model", identity_model, *options), 1, str(src), said)
    assert outputs(tmp_path) == []


def test_models_that_cannot_be_used(tmp_path, make_raster, exported):
    src = make_raster(speckle((60, 60)))
    text, cut = tmp_path / "text.onnx", tmp_path / "cut.onnx"
    text.write_text("hello")
    cut.write_bytes(exported.read_bytes()[:-5000])
    bare = make_identity(tmp_path / "bare.onnx", None)
    odd = tmp_path / "model.zip"
    odd.touch()
    pickled = tmp_path / "text.pth"
    pickled.write_text("hello")
    cases = [
        (tmp_path / "none.onnx", "no such file"),
        (text, "not an ONNX model"),
        (cut, "corrupt"),
        (bare, "no signature"),
        (odd, "unknown kind"),
        (pickled, "checkpoint"),
    ]
    for model, said in cases:
        assert_refused(scene_here(src, tmp_path / "out.tif", "--model", model), 1, str(model), said)
    assert outputs(tmp_path) == []


def test_outputs_that_cannot_be_written(tmp_path, make_raster, identity_model):
    src = make_raster(speckle((60, 60)))
    there = tmp_path / "out_there.tif"
    there.write_bytes(b"precious")
    for out, said in [
        (tmp_path / "none" / "o.tif", "no folder"),
        (there, "--overwrite"),
        (tmp_path / "o.jp2", ".tif"),
        (Path("/proc/o.tif"), "/proc"),
    ]:
        assert_refused(scene_here(src, out, "--model", identity_model), 1, str(out.name), said)
    assert there.read_bytes() == b"precious"


def test_a_folder_that_is_not_ours_to_write_to_is_no_full_disk(tmp_path, make_raster, identity_model):
    result = scene_here(make_raster(speckle((60, 60))), "/sys/o.tif", "--model", identity_model)
    assert_refused(result, 1, "/sys/o.tif", "choose a folder that you may write to")
    assert "free" not in result.stderr


def test_wrong_usage_is_exit_2(tmp_path, make_raster):
    src = make_raster(speckle((60, 60)))
    for options in (["--batch-size", "0"], ["--units", "volts"], ["--stretch", "a", "b"], ["--compress", "zip"]):
        result = scene_here(src, tmp_path / "out.tif", *options)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
    assert_refused(scene_here(src, tmp_path / "out.tif", "--overlap", "256"), 1, "overlap is 256")
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("option", [["--calibration", "sigma0"], ["--calibration", "gamma0"], ["--denoise"]])
def test_a_calibration_of_what_has_no_table_is_wrong_usage(tmp_path, make_raster, identity_model, option):
    src = make_raster(speckle((60, 60)), descriptions=["VH"])
    result = scene_here(src, tmp_path / "out.tif", "--model", identity_model, *option)
    assert_refused(result, 2, "no calibration table", "leave out --calibration and --denoise")
    assert scene_here(src, tmp_path / "out.tif", "--model", identity_model).returncode == 0  # the remedy
    assert_refused(scene_here(src, tmp_path / "out2.tif", "--resolution", "10"), 2, "no effect without --geocode")


def test_a_log_file_tells_how_far_a_run_is(tmp_path, make_raster, identity_model):
    src = make_raster(speckle((2500, 300)), descriptions=["VH"])
    result = scene(src, tmp_path / "out.tif", "--model", identity_model)
    lines = [line for line in result.stderr.splitlines() if line.startswith("translating: ")]
    shares = [int(line.split(", ")[1].rstrip("%")) for line in lines]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert len(lines) > 5
    assert "of 0.8 Mpx" in lines[0]


def test_lines_of_progress_come_at_the_start_each_minute_and_every_20th(capsys):
    seconds = iter([0, 0, 1, 2, 70, 71, 72, 200, 201])
    lines = Lines(lambda: next(seconds))
    for done in (0, 1, 2, 3, 4, 10, 11):  # hundredths: the start; -; -; a minute later; -; 5 % more; a minute later
        lines.show("translating", done, 100, "Mpx")
    lines.show("assembling", 0, 100, "Mpx")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in said] == [
        "translating: 0 of 100 Mpx",
        "translating: 3 of 100 Mpx",
        "translating: 10 of 100 Mpx",
        "translating: 11 of 100 Mpx",
        "assembling: 0 of 100 Mpx",
    ]
    assert said[1].endswith(", 3%, 70 s")


def test_a_full_disk_leaves_nothing(tmp_path, make_raster, identity_model):
    src = make_raster(speckle((900, 900)))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = scene(src, tmp_path / "out.tif", "--model", identity_model, preexec_fn=limit)
    assert_refused(result, 1, "out.tif")
    assert outputs(tmp_path) == []


def test_help_answers_without_loading_a_library():
    code = (
        "import sys; from click.testing import CliRunner; from sar2optical.cli.scene import main; "
        "from export.cli import main as export; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "assert CliRunner().invoke(export, ['--help']).exit_code == 0; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'rasterio', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_export_then_translate(tmp_path, make_raster, checkpoint):
    model, out = tmp_path / "model.onnx", tmp_path / "out.tif"
    result = here(export_main, checkpoint, model)
    assert result.returncode == 0, result.stderr
    assert "lowest PSNR" in result.stdout
    assert "simulated" in result.stdout
    result = scene(make_raster(speckle((300, 300))), out, "--model", model)
    assert result.returncode == 0, result.stderr
    assert "tiny with openvino" in result.stdout


def test_export_refuses_in_one_line(tmp_path, checkpoint):
    text = tmp_path / "text.pth"
    text.write_text("hello")
    assert_refused(here(export_main, text, tmp_path / "out.onnx"), 1, str(text))
    assert_refused(here(export_main, checkpoint, tmp_path / "out.bin"), 1, ".onnx")
    assert here(export_main, checkpoint, tmp_path / "out.onnx", "--opset", "3").returncode == 2
    assert outputs(tmp_path) == []


def test_a_missing_library_is_named_with_its_extra(tmp_path, make_raster, identity_model):
    # What Python runs first in that process: a None there reads as "not installed".
    hide = "import sys\nsys.modules.update(dict.fromkeys(['openvino', 'onnxruntime']))\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = scene(make_raster(speckle((60, 60))), tmp_path / "out.tif", "--model", identity_model, env=environment)
    assert_refused(result, 1, "pip install 'sar2optical[cpu]'")


def test_signatures_of_two_bands_need_two_bands(tmp_path, make_raster):
    two = signature_of(bands=("VV", "VH"), stretch=signature_of().stretch * 2, channels=2)
    model = make_identity(tmp_path / "two.onnx", two)
    both = make_raster(np.stack([speckle((60, 60)), speckle((60, 60), seed=1)]), descriptions=["VH", "VV"])
    result = scene_here(both, tmp_path / "out.tif", "--model", model)
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "out.tif") as mosaic, rasterio.open(both) as src:
        np.testing.assert_array_equal(mosaic.read(1), src.read(2))  # VV comes first, wherever it stands
    assert_refused(scene_here(both, tmp_path / "out2.tif", "--model", model, "--band", "VV"), 1, "1 bands asked for")


@pytest.mark.parametrize("name", ["sar2opt-scene", "sar2opt-export"])
def test_the_version_is_the_packages(name):
    from sar2optical import __version__

    assert __version__ in command(name, "--version").stdout


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--nonsense"], 2), (["missing.tif", "out.tif"], 1)]
)
def test_the_program_ends_at_once_with_the_exit_code_and_all_output(arguments, code):
    """It does not take PyTorch apart, so nothing that Python does at its end happens."""
    program = "import atexit; atexit.register(print, 'taken apart')\nfrom sar2optical.cli.scene import run; run()\n"
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == code
    assert "taken apart" not in result.stdout
    assert ("Usage:" in result.stdout) == (code == 0)
    assert bool(result.stderr) == (code != 0)
