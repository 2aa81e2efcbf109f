"""Files for Deepness, a plugin of QGIS: an emulation of what it computes gives the mosaic's bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
from onnx import helper

from export.cli import main as export_main
from sar2optical.engines import EngineOptions
from sar2optical.engines.registry import BUNDLED_INT8, bundled
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import METADATA_KEY, Bound, ModelSignature, Stretch
from tests.cli.test_cli import here
from tests.conftest import UTM, save_onnx, signature_of, speckle

FP32 = EngineOptions(device="cpu", precision="fp32", threads=1)
FIXED = Stretch(Bound(-25), Bound(0))


def deepness(path: Path, layer: np.ndarray, overlap: int) -> np.ndarray:
    """Emulate the plugin on a layer (bands, H, W): float32 (3, H, W). `overlap` is in percent of a tile's side.

    Source: PUTvision/qgis-plugin-deepness, `ModelBase`, `Regressor`, `MapProcessorRegression` and `TileParams`.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["model_type"]) == "Regressor"
    side = json.loads(metadata["tile_size"])
    mean, std = (np.float32(json.loads(metadata[f"standardization_{name}"])) for name in ("mean", "std"))
    (taken,), outputs = session.get_inputs(), session.get_outputs()
    assert taken.shape == [1, len(layer), side, side]
    image = np.zeros((len(outputs), *layer.shape[1:]), np.float32)
    stride = side - side * overlap // 100
    cut = (side - stride) // 2
    starts = [range(0, size - side + 1, stride) for size in layer.shape[1:]]
    for top in starts[0]:
        for left in starts[1]:
            tile = layer[:, top : top + side, left : left + side].transpose(1, 2, 0)[None]
            batch = ((np.float32(tile * 1.0 / 255.0) - mean) / std).transpose(0, 3, 1, 2)
            found = session.run(None, {taken.name: np.float32(batch)})
            above, before = (0 if start == 0 else cut for start in (top, left))
            ends = zip((top, left), starts, strict=True)
            below, after = (side if start == span[-1] else side - cut for start, span in ends)
            for k, result in enumerate(found):
                image[k, top + above : top + below, left + before : left + after] = np.nan_to_num(
                    result[0, 0, above:below, before:after]
                ) * json.loads(metadata["reg_output_scaling"])
    return image


@pytest.fixture
def generator(exported, tmp_path) -> Path:
    """The exported generator, signed as one of VH in dB, stretched by percentiles."""
    percentiles = (Stretch(Bound(1, True), Bound(99, True)),)
    return signed(
        exported, tmp_path / "generator.onnx", signature_of(unit="db", stretch=percentiles, pixel_size=10.0)
    )


def signed(source: Path, out: Path, signature: ModelSignature) -> Path:
    model = onnx.load(source)
    (entry,) = [one for one in model.metadata_props if one.key == METADATA_KEY]
    entry.value = signature.to_json()
    onnx.save(model, out)
    return out


def mosaic_of(src: Path, out: Path, model: Path, **changes) -> np.ndarray:
    options = TranslateOptions(engine=FP32, overlap=0, **changes)
    translate(src, out, model=model, options=options)
    with rasterio.open(out) as mosaic:
        return mosaic.read().astype(np.float32)


@pytest.mark.parametrize(("units", "power"), [("db", 0), ("power", 10), ("amplitude", 20)])
def test_deepness_gives_the_bytes_of_a_mosaic_without_overlap(tmp_path, make_raster, generator, units, power):
    db = np.float32(speckle((512, 768)) / 250 * 40 - 35)  # beyond both ends of the stretch
    layer = np.float32(10 ** (db / power)) if power else db
    model = tmp_path / "deepness.onnx"
    done = here(export_main, generator, model, "--for", "deepness", "--stretch", "-25", "0", "--units", units)
    assert done.returncode == 0, done.stderr
    scene = make_raster(layer, **UTM)
    wanted = mosaic_of(scene, tmp_path / "out.tif", generator, stretch=FIXED, scene=SceneOptions(unit=units))
    assert wanted.std() > 5
    assert np.abs(deepness(model, layer[None], overlap=0) - wanted).max() <= 1


def test_two_bands_and_a_fixed_stretch_of_the_signature(tmp_path, make_raster):
    stretch = (Stretch(Bound(-20), Bound(-5)), Stretch(Bound(-30), Bound(-10)))
    signature = signature_of(bands=("VV", "VH"), channels=2, unit="db", stretch=stretch)
    which = {"which": np.array([0, 1, 0])}
    source = save_onnx(
        tmp_path / "two.onnx", [helper.make_node("Gather", ["sar", "which"], ["optical"], axis=1)], which, signature
    )
    layer = np.float32(np.stack([speckle((256, 512), seed=k) / 250 * 40 - 35 for k in (1, 2)]))
    assert here(export_main, source, tmp_path / "deepness.onnx", "--for", "deepness").returncode == 0
    found = deepness(tmp_path / "deepness.onnx", layer, overlap=0)
    scene = make_raster(layer, descriptions=("VV", "VH"), **UTM)
    assert np.abs(found - mosaic_of(scene, tmp_path / "out.tif", source, scene=SceneOptions(unit="db"))).max() <= 1
    exact = np.floor(np.clip((layer[1] + 30) / 20, 0, 1) * 255 + 0.5)  # green is VH, from -30 to -10 dB
    assert np.abs(found[1] - exact).max() <= 1


def test_a_quantized_file_stays_as_it_is(tmp_path, make_raster):
    source, model = bundled().with_name(BUNDLED_INT8), tmp_path / "deepness.onnx"
    done = here(export_main, source, model, "--for", "deepness", "--stretch", "-25", "0")
    assert done.returncode == 0, done.stderr
    layer = np.float32(speckle((256, 256)) / 250 * 30 - 28)
    options = {"stretch": FIXED, "scene": SceneOptions(unit="db", bands=("1",)), "backend": "onnxruntime"}
    translate(
        make_raster(layer, **UTM), tmp_path / "out.tif", model=source, options=TranslateOptions(overlap=0, **options)
    )
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert np.abs(deepness(model, layer[None], overlap=0) - mosaic.read().astype(np.float32)).max() <= 1


def test_a_file_that_onnx_runtime_does_not_run_is_refused(tmp_path, exported):
    done = here(export_main, exported, tmp_path / "bf16.onnx", "--precision", "bf16", "--windows", "own")
    assert done.returncode == 0, done.stderr
    done = here(
        export_main, tmp_path / "bf16.onnx", tmp_path / "d.onnx", "--for", "deepness", "--stretch", "-25", "0"
    )
    assert done.returncode == 1
    assert "with which Deepness runs files" in done.stderr
    assert "give the fp32 file" in done.stderr
    assert not (tmp_path / "d.onnx").exists()


def test_the_file_has_the_metadata_that_deepness_reads(tmp_path, generator):
    model = tmp_path / "deepness.onnx"
    assert here(export_main, generator, model, "--for", "deepness", "--stretch", "-25", "0").returncode == 0
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert found.pop("note").startswith("tiny, generated by a neural network")
    assert found == {
        "model_type": "Regressor", "tile_size": 256, "tiles_overlap": 25, "resolution": 1000, "reg_output_scaling": 1,
        "class_names": [{"0": "red"}, {"0": "green"}, {"0": "blue"}],
        "standardization_mean": [0], "standardization_std": [1],
    }  # fmt: skip
    assert [(one.name, one.shape) for one in session.get_outputs()] == [
        (name, [1, 1, 256, 256]) for name in ("red", "green", "blue")
    ]
    hole = np.full((1, 1, 256, 256), np.nan, np.float32)
    assert all(np.isfinite(layer).all() for layer in session.run(None, {"image": hole}))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, "is stretched by percentiles of the scene (p1 to p99)"),
        (("--stretch", "p1", "p99"), 1, "give --stretch LOW HIGH in db"),
        (("--stretch", "0", "-25"), 1, "the low end must be below the high end"),
        (("--stretch", "-25", "0", "--stac", "model.json"), 2, "--stac has no effect with --for"),
    ],
)
def test_what_deepness_cannot_run_is_refused_and_writes_no_file(tmp_path, generator, arguments, code, message):
    done = here(export_main, generator, tmp_path / "deepness.onnx", "--for", "deepness", *arguments)
    assert done.returncode == code
    assert message in done.stderr + done.stdout
    assert not (tmp_path / "deepness.onnx").exists()


def test_a_stretch_without_deepness_has_no_effect(tmp_path, generator):
    done = here(export_main, generator, tmp_path / "out.onnx", "--stretch", "-25", "0")
    assert done.returncode == 2
    assert "--stretch has no effect without --for" in done.stderr + done.stdout
