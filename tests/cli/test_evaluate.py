"""`sar2opt-eval`: tables and files of real runs, one-line errors, no partial outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from onnx import helper

from sar2optical.cli.evaluate import main
from sar2optical.signature import Bound, Stretch
from tests.cli.test_cli import assert_refused, command, here
from tests.conftest import BYTES, make_identity, save_onnx, speckle


@pytest.fixture
def pairs(make_raster, tmp_path):
    """Two terrain classes of two chips; the optical image is the SAR plus 10 levels."""
    for terrain in ("agri", "urban"):
        for half in ("s1", "s2"):
            (tmp_path / "data" / terrain / half).mkdir(parents=True)
        for k in range(2):
            grey = speckle((256, 256), high=200, seed=k + 10 * len(terrain))
            make_raster(grey, f"data/{terrain}/s1/{k}.png")
            make_raster(np.stack([grey + 10] * 3), f"data/{terrain}/s2/{k}.png")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    return make_identity(tmp_path / "identity.onnx", BYTES)


def evaluation(*args):
    return here(main, *args)


def test_a_model_is_scored_beside_baselines_by_terrain(pairs, model, tmp_path):
    outs = [tmp_path / name for name in ("out.json", "out.md", "out.png")]
    result = command(
        "sar2opt-eval", model, pairs, "--precision", "fp32",
        "--json", outs[0], "--markdown", outs[1], "--picture", outs[2],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    record = json.loads(outs[0].read_text())
    ours, colour, fit, radar, better = record["results"]
    assert ours["name"].startswith("identity.onnx, ")
    assert ours["name"].endswith(" fp32")
    assert ours["overall"]["l1"]["value"] == pytest.approx(10, abs=0.01)
    assert ours["overall"]["psnr"]["value"] == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    assert list(ours["terrain"]) == ["agri", "urban"]
    assert (colour["name"], fit["name"]) == ("mean colour (of these chips)", "linear fit (of these chips)")
    assert fit["overall"]["psnr"]["value"] > 60  # ten levels more is linear
    assert (radar["name"], better["name"]) == ("radar", "radar, better sign")
    for one in (ours, radar, better):  # the truth is the SAR image plus an offset
        assert one["overall"]["r2"]["value"] == pytest.approx(1, abs=1e-4)
        assert one["terrain"]["agri"]["gradient_ratio_2"]["value"] == pytest.approx(1, abs=1e-3)
    assert radar["overall"]["l1"]["value"] == pytest.approx(10, abs=0.01)
    for text in (result.stdout, outs[1].read_text()):
        assert text.count("R2 low-passed") == 2  # of all chips, and by class
        assert "shifted" not in text
    assert ours["shifts"] is None
    assert "28.13 [28.13, 28.13]" in result.stdout
    assert "28.13 [28.13, 28.13]" in outs[1].read_text()
    assert "FID, KID: no feature extractor given (--features FILE)" in result.stdout
    with rasterio.open(outs[2]) as picture:
        assert picture.read().std() > 20


def test_baselines_are_fitted_on_other_pairs_where_those_are_given(pairs, model, tmp_path):
    out = tmp_path / "out.json"
    result = evaluation(model, pairs, "--fit-on", pairs / "urban", "--json", out, "--limit", 1, "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    record = json.loads(out.read_text())
    assert [one["name"] for one in record["results"][1:]] == [
        "mean colour",
        "linear fit",
        "radar",
        "radar, better sign",
    ]
    assert record["chips"] == ["agri/s1/0.png"]


def test_shifted_windows_are_compared_where_asked(pairs, tmp_path):
    parity = np.where(np.arange(256) % 2, 20 / 127.5, 0).astype(np.float32).reshape(1, 1, 1, 256)
    nodes = [
        helper.make_node("Add", ["sar", "parity"], ["sum"]),
        helper.make_node("Concat", ["sum"] * 3, ["optical"], axis=1),
    ]
    model, out = save_onnx(tmp_path / "parity.onnx", nodes, {"parity": parity}, BYTES), tmp_path / "out.json"
    result = evaluation(model, pairs, "--shifts", "--precision", "fp32", "--json", out)
    assert result.returncode == 0, result.stderr
    ours, *others = json.loads(out.read_text())["results"]
    # No chip is brighter than 220 here: a shift by an odd number of columns is off by 20 everywhere.
    assert ours["shifts"]["overall"]["worst"] == pytest.approx(20 * np.log10(255 / 20), abs=0.01)
    assert ours["shifts"]["overall"]["chips"] == 4
    assert ours["shifts"]["terrain"]["urban"]["chips"] == 2
    assert all(one["shifts"] is None for one in others)
    assert "22.11" in result.stdout
    assert "at most 16 chips of each terrain class" in result.stdout


def test_one_part_of_a_split_is_scored(pairs, model, tmp_path):
    split, out = tmp_path / "split.json", tmp_path / "out.json"
    chips = {"train": ["agri/s1/0.png", "urban/s1/0.png"], "val": ["agri/s1/1.png"], "test": ["urban/s1/1.png"]}
    split.write_text(json.dumps({"data": chips}))
    for part, options in (("test", []), ("val", ["--part", "val"])):
        result = evaluation(model, pairs, "--split", split, *options, "--json", out, "--overwrite", "-q")
        assert result.returncode == 0, result.stderr
        assert json.loads(out.read_text())["chips"] == chips[part]


def test_several_models_and_an_extractor_of_features(pairs, model, checkpoint, tmp_path):
    from tests.evaluation.test_fid import Moments, torchscript

    features = torchscript(tmp_path / "moments.ts", Moments())
    out = tmp_path / "out.json"
    result = evaluation(model, checkpoint, pairs, "--features", features, "--json", out)
    assert result.returncode == 0, result.stderr
    first, second = json.loads(out.read_text())["results"][:2]
    assert first["name"].startswith("identity.onnx")
    assert second["name"].startswith("generator.pth, pytorch")
    assert first["distances"]["fid"] == pytest.approx(3 * 10**2, rel=0.01)  # three means, each ten off
    assert second["distances"]["fid"] > first["distances"]["fid"]
    assert "4 images for 6 features" in result.stdout


def test_a_model_is_given_by_name(pairs):
    result = evaluation("bundled", pairs, "--limit", 1, "--backend", "onnxruntime")
    assert result.returncode == 0, result.stderr
    assert "bundled, onnxruntime fp32" in result.stdout
    assert_refused(evaluation("bandled", pairs), 1, "bandled: no such file", "or one of bundled, ")


def test_a_discriminators_checkpoint_is_no_generator(pairs, tmp_path):
    import torch

    from sar2optical.models.patchgan import Discriminator

    path = tmp_path / "discriminator.pth"
    torch.save(Discriminator(4, 4).state_dict(), path)
    result = evaluation(path, pairs, "--json", tmp_path / "out.json")
    assert_refused(result, 1, str(path), "encoder.enc1.conv_block.0.weight")
    assert not (tmp_path / "out.json").exists()


def test_unusable_data_is_refused(pairs, model, tmp_path):
    out = tmp_path / "out.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "split.json").write_text("{}")
    lonely = pairs / "agri" / "s1" / "2.png"
    for data, options, said in [
        (tmp_path / "nowhere", [], "no such folder"),
        (tmp_path / "empty", [], "no pairs"),
        (pairs, ["--split", tmp_path / "split.json"], "not a split file"),
        (pairs, ["--fit-on", tmp_path / "empty"], "no pairs"),
        (pairs, ["--features", tmp_path / "none.ts"], "no such file"),
    ]:
        assert_refused(evaluation(model, data, *options, "--json", out), 1, said)
    lonely.write_bytes((pairs / "agri" / "s1" / "1.png").read_bytes())
    assert_refused(evaluation(model, pairs, "--json", out), 1, "2.png", "missing")
    (pairs / "agri" / "s2" / "2.png").write_text("no picture")
    assert_refused(evaluation(model, pairs, "--json", out), 1, "2.png", "not readable")
    assert not out.exists()


def test_models_with_different_windows_are_refused(pairs, model, tmp_path):
    small = make_identity(tmp_path / "small.onnx", replace(BYTES, window=128))
    assert_refused(evaluation(model, small, pairs), 1, "windows (128 and 256 pixels)")
    assert_refused(evaluation(model, small, model, pairs), 1, str(model), "given twice")


def test_chips_smaller_than_the_models_window_are_scored_in_smaller_ones(make_raster, model, tmp_path):
    for half in ("s1", "s2"):
        (tmp_path / "small" / half).mkdir(parents=True)
    grey = speckle((128, 128), high=200)
    make_raster(grey, "small/s1/0.png")
    make_raster(np.stack([grey + 10] * 3), "small/s2/0.png")
    out = tmp_path / "out.json"
    assert_refused(evaluation(model, tmp_path / "small"), 1, "128 x 128", "give --window 128")
    result = evaluation(model, tmp_path / "small", "--window", 128, "--precision", "fp32", "--json", out)
    assert result.returncode == 0, result.stderr
    record = json.loads(out.read_text())
    assert (record["window"], record["windows"]) == (128, 1)
    assert record["results"][0]["overall"]["l1"]["value"] == pytest.approx(10, abs=0.01)  # nothing was moved
    assert_refused(
        evaluation(model, tmp_path / "small", "--window", 512), 1, "window is 512, but the model takes 256"
    )


def test_a_band_is_chosen_by_index(make_raster, model, tmp_path):
    for half in ("s1", "s2"):
        (tmp_path / "two" / half).mkdir(parents=True)
    grey = speckle((256, 256), high=200)
    make_raster(np.stack([np.full_like(grey, 7), grey]), "two/s1/0.tif")
    make_raster(np.stack([grey + 10] * 3), "two/s2/0.png")
    out = tmp_path / "out.json"
    assert_refused(evaluation(model, tmp_path / "two"), 1, "2 bands without names, but VH is needed", "--band 2")
    for band in ("2", "2=VH"):
        options = ["--band", band, "--precision", "fp32", "--json", out, "--overwrite"]
        result = evaluation(model, tmp_path / "two", *options)
        assert result.returncode == 0, result.stderr
        assert json.loads(out.read_text())["results"][0]["overall"]["l1"]["value"] == pytest.approx(10, abs=0.01)


def test_a_part_without_a_split_is_wrong_usage(pairs, model):
    result = evaluation(model, pairs, "--part", "val")
    assert result.returncode == 2
    assert "give the split file" in result.stderr


def test_models_of_one_name_are_distinguished_by_their_folders(pairs, model, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_identity(tmp_path / "other" / model.name, BYTES)
    result = evaluation(model, other, pairs, "--limit", 1)
    assert result.returncode == 0, result.stderr
    assert f"\n{model.name}, " in result.stdout
    assert f"\n{other}, " in result.stdout


def test_values_that_models_encode_differently_are_not_scored_together(make_raster, model, tmp_path):
    for half in ("s1", "s2"):
        (tmp_path / "db" / half).mkdir(parents=True)
    db = np.linspace(-30, 0, 256 * 256, dtype=np.float32).reshape(256, 256)
    make_raster(db, "db/s1/a.tif", descriptions=["VH"], tags={"UNITS": "dB"})
    make_raster(np.stack([speckle((256, 256))] * 3), "db/s2/a.tif")
    stretch = (Stretch(Bound(1, True), Bound(99, True)),)
    other = make_identity(tmp_path / "other.onnx", replace(BYTES, unit="db", stretch=stretch))
    together = evaluation(model, other, tmp_path / "db")
    assert_refused(together, 1, "2 different encodings", "one at a time")
    assert evaluation(other, tmp_path / "db").returncode == 0


def test_existing_outputs_are_kept(pairs, model, tmp_path):
    for option, name in (("--json", "out.json"), ("--markdown", "out.md"), ("--picture", "out.png")):
        out = tmp_path / name
        out.write_text("mine")
        assert_refused(evaluation(model, pairs, option, out), 1, str(out), "--overwrite")
        assert out.read_text() == "mine"
        assert evaluation(model, pairs, option, out, "--overwrite", "--limit", 2).returncode == 0
        assert out.read_bytes() != b"mine"
    same = tmp_path / "same"
    assert_refused(evaluation(model, pairs, "--json", same, "--markdown", same), 1, "two outputs have this path")
    assert_refused(evaluation(model, pairs, "--json", tmp_path / "no" / "out.json"), 1, "no folder")
    assert_refused(evaluation(model, pairs, "--picture", tmp_path / "out.tif"), 1, "must be a PNG file")
    (tmp_path / "folder").mkdir()
    assert_refused(evaluation(model, pairs, "--json", tmp_path / "folder", "--overwrite"), 1, "name of a file")


def test_help_is_instant_and_needs_no_library():
    code = (
        "import sys\n"
        "from sar2optical.cli.evaluate import main\n"
        "try:\n    main(['--help'], prog_name='sar2opt-eval')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print('loaded', *[n for n in ('torch', 'rasterio', 'numpy', 'matplotlib') if n in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: sar2opt-eval [OPTIONS] MODEL... DATA" in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded"


def test_an_onnx_model_is_scored_where_there_is_no_torch(pairs, model):
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, torchmetrics=None, matplotlib=None)\n"
        "from sar2optical.cli.evaluate import main\n"
        f"main([{str(model)!r}, {str(pairs)!r}, '--limit', '1'], standalone_mode=False)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "identity.onnx" in result.stdout, result.stderr


def test_no_model_is_a_usage_error(pairs):
    result = evaluation(pairs)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
