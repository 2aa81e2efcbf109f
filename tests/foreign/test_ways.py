"""Foreign models through the command, the API and their own metadata."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import rasterio
from onnx import helper

import sar2optical
from export.cli import main as export_main
from sar2optical.cli.batch import main as batch_main
from sar2optical.cli.scene import main as scene_main
from sar2optical.errors import SignatureError
from sar2optical.pipeline.estimate import estimate
from sar2optical.scene.area import area_of
from sar2optical.signature import METADATA_KEY, ModelSignature
from tests.cli.test_cli import here
from tests.conftest import UTM
from tests.foreign.models import FOREIGN, REFLECTANCES
from tests.foreign.reference import shown, values
from tests.foreign.test_runs import case, pixels, sar

__all__ = ["case"]


def command(case, out, *further):
    foreign = case.foreign
    return here(
        scene_main, "--model", case.model, "--signature", case.signature, "--units", foreign.record["unit"],
        "--backend", "onnxruntime", "--device", "cpu", "--overlap", foreign.overlap, "--blocksize", "16", *further,
        case.scene, out,
    )  # fmt: skip


def test_the_command_writes_all_bands_or_those_that_are_named(case, tmp_path):
    case.run(tmp_path / "one.tif", output_bands=("all",), dtype="float32")
    done = command(case, tmp_path / "out.tif", "--bands", "all", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), pixels(tmp_path / "one.tif"))
    done = command(case, tmp_path / "three.tif", "--output-bands", "B4,B3,B2", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pixels(tmp_path / "three.tif"), pixels(tmp_path / "one.tif")[[3, 2, 1]])
    both = command(case, tmp_path / "no.tif", "--bands", "all", "--output-bands", "B4")
    assert both.returncode == 1
    assert "give one of them" in both.stderr


def test_a_file_without_a_signature_names_the_option(case, tmp_path):
    done = here(scene_main, "--model", case.model, "--backend", "onnxruntime", case.scene, tmp_path / "out.tif")
    assert done.returncode == 1
    assert "or give --signature FILE" in done.stderr


def test_a_signature_in_the_file_is_as_good(case, tmp_path):
    case.run(tmp_path / "one.tif")
    model = onnx.load(case.model)
    signature = ModelSignature.read(case.signature)
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.save(model, case.model)
    sar2optical.translate(
        case.scene, tmp_path / "out.tif", model=case.model, unit="db", overlap=32, blocksize=16,
        backend="onnxruntime", device="cpu",
    )  # fmt: skip
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), pixels(tmp_path / "one.tif"))


@pytest.mark.parametrize("case", ["noise"], indirect=True)
def test_arrays_are_translated_in_memory_and_to_a_file(case, tmp_path):
    foreign = case.foreign
    wanted = shown(foreign, values(foreign, sar(foreign)))
    with sar2optical.open_engine(case.model, signature=case.signature, backend="onnxruntime", device="cpu") as engine:
        found = sar2optical.predict(sar(foreign), engine, unit="db", overlap=foreign.overlap)
    assert np.abs(found.astype(int) - wanted).max() <= 1
    sar2optical.translate(
        sar(foreign), tmp_path / "out.tif", model=case.model, signature=case.signature, unit="db",
        overlap=foreign.overlap, output_bands="all", dtype="float32", backend="onnxruntime", device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(pixels(tmp_path / "out.tif") * 127.5 + 127.5, wanted, atol=1)


@pytest.mark.parametrize("case", ["noise"], indirect=True)
def test_an_area_has_the_noise_of_the_whole_scene(case, tmp_path):
    case.run(tmp_path / "out.tif")
    (left, top), (right, bottom) = (UTM["transform"] @ corner for corner in ((30, 50), (80, 120)))
    case.run(tmp_path / "cut.tif", area=area_of((left, bottom, right, top), "EPSG:32631", None))
    np.testing.assert_array_equal(pixels(tmp_path / "cut.tif"), pixels(tmp_path / "out.tif")[:, 50:120, 30:80])


@pytest.mark.parametrize("case", ["noise"], indirect=True)
def test_another_seed_gives_other_pixels(case, tmp_path):
    case.run(tmp_path / "out.tif")
    case.signature.write_text(
        json.dumps({**case.foreign.record, "noise": {**case.foreign.record["noise"], "seed": 6}})
    )
    case.run(tmp_path / "other.tif")
    assert (pixels(tmp_path / "out.tif") != pixels(tmp_path / "other.tif")).mean() > 0.3


def test_a_run_is_estimated(case, tmp_path):
    plain = estimate(case.scene, tmp_path / "out.tif", model=case.model, options=case.options())
    every = estimate(
        case.scene, tmp_path / "out.tif", model=case.model,
        options=case.options(output_bands=("all",), dtype="float32"),
    )  # fmt: skip
    assert plain.windows_run == every.windows_run == 6
    assert every.strips > 5 * plain.strips


def described(foreign, tmp_path):
    model, _ = foreign.save(tmp_path)
    done = here(export_main, "--describe", model, "--out", tmp_path / "first.json")
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "first.json").read_text())


@pytest.mark.parametrize("name", FOREIGN)
def test_a_description_says_what_the_file_shows_and_null_elsewhere(name, tmp_path):
    foreign = FOREIGN[name]
    found, record = described(foreign, tmp_path), foreign.record
    assert (found["unit"], found["pixel_size"], set(found["scaling"])) == (None, None, {None})
    assert found["batch"] == record["batch"]
    assert len(found["output"]["bands"]) == len(record["output"]["bands"])
    for part in ("input", "output"):
        for key in ("name", "layout", "type"):
            assert found[part][key] in (record[part][key], None)
    assert found["output"]["range"] == {"sigmoid": [0, 1], "noise": [-1, 1]}.get(name)
    assert found["window"] == {"sigmoid": 32, "nhwc": 48}.get(name)
    assert ("noise" in found) == (name == "noise")
    with pytest.raises(SignatureError, match="is null, so unknown: give"):
        ModelSignature.read(tmp_path / "first.json")


def test_a_corrected_description_runs(case, tmp_path):
    found = described(case.foreign, tmp_path)
    record = case.foreign.record
    found |= {name: record[name] for name in ("bands", "unit", "scaling", "pixel_size", "window")}
    found["output"] |= {name: record["output"][name] for name in ("bands", "reflectance", "rgb", "shown")}
    del found["output"]["range"]
    case.run(tmp_path / "one.tif")
    case.signature.write_text(json.dumps(found))
    case.run(tmp_path / "out.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif"), pixels(tmp_path / "one.tif"))
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.tags()["SAR2OPTICAL_STRETCH"].startswith("db as db, mean -11.5, deviation 4.5")


def test_describe_and_export_are_not_mixed(tmp_path):
    model, _ = FOREIGN["sigmoid"].save(tmp_path)
    for arguments in (("--describe", model, model), (), (model,), ("--out", "x.json", model, "out.onnx")):
        assert here(export_main, *arguments).returncode == 2
    assert here(export_main, "--describe", model).stdout.startswith("{")


def test_a_batch_names_bands_type_and_scale_in_items_and_vrt(case, tmp_path):
    done = here(
        batch_main, case.scene, tmp_path / "mosaics", "--model", case.model, "--signature", case.signature,
        "--units", "db", "--backend", "onnxruntime", "--device", "cpu", "--overlap", 32, "--workers", 1,
        "--bands", "all", "--dtype", "uint16",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    case.run(tmp_path / "one.tif", output_bands=("all",), dtype="uint16")
    item = json.loads((tmp_path / "mosaics" / "scene.json").read_text())
    asset = item["assets"]["mosaic"]
    assert [band["name"] for band in asset["bands"]] == list(REFLECTANCES)
    assert asset["raster:bands"] == [{"data_type": "uint16", "scale": 0.0001, "offset": 0.0}] * 12
    assert item["properties"]["processing:lineage"].startswith("image generated")
    with rasterio.open(tmp_path / "mosaics" / "mosaics.vrt") as every:
        assert (every.scales, every.descriptions) == ((0.0001,) * 12, REFLECTANCES)
        np.testing.assert_array_equal(every.read(), pixels(tmp_path / "one.tif"))
