"""Models of other exporters give the pixels of a slow reference, however they are run."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from sar2optical.batch.work import Work
from sar2optical.batch.worker import end, make_strips
from sar2optical.engines import EngineOptions
from sar2optical.errors import OtherRun
from sar2optical.mosaic.strip_files import StripFiles
from sar2optical.mosaic.writer import coding_of
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import prepared
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import ModelSignature
from tests.conftest import UTM
from tests.foreign.models import FOREIGN, REFLECTANCES
from tests.foreign.reference import shown, values

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A foreign model, its files, and a scene for it."""

    foreign: object
    scene: Path
    model: Path
    signature: Path

    def options(self, *, backend="onnxruntime", batch=None, threads=2, **changes):
        return TranslateOptions(
            backend=backend,
            engine=EngineOptions(
                device="cpu", threads=threads, batch=batch, signature=ModelSignature.read(self.signature)
            ),
            scene=SceneOptions(unit=self.foreign.record["unit"]),
            overlap=self.foreign.overlap,
            blocksize=16,
            **changes,
        )

    def run(self, out, **changes):
        return translate(self.scene, out, model=self.model, options=self.options(**changes))


def sar(foreign):
    """Return a scene of speckle in the model's unit, float32 (bands, H, W)."""
    rng = np.random.default_rng(9)
    bands = len(foreign.record["bands"])
    land = 0.02 + 0.3 * rng.random((bands, *(-(-side // 20) for side in foreign.shape)))
    land = np.kron(land, np.ones((1, 20, 20)))[:, : foreign.shape[0], : foreign.shape[1]]
    power = land * rng.gamma(4, 0.25, land.shape)
    return (10 * np.log10(power) if foreign.record["unit"] == "db" else np.sqrt(power)).astype(np.float32)


@pytest.fixture(scope="module")
def expected():
    """Values of the slow reference, by model."""
    return {name: values(foreign, sar(foreign)) for name, foreign in FOREIGN.items()}


@pytest.fixture
def case(request, tmp_path, make_raster):
    foreign = FOREIGN[getattr(request, "param", "reflectance")]
    return Case(
        foreign, make_raster(sar(foreign), descriptions=foreign.record["bands"], **UTM), *foreign.save(tmp_path)
    )


each_model = pytest.mark.parametrize("case", FOREIGN, indirect=True)


def pixels(path):
    with rasterio.open(path) as mosaic:
        assert mosaic.dataset_mask().all()
        return mosaic.read()


def pyramid(path):
    """Return the pixels of a mosaic and of its overviews."""
    with rasterio.open(path) as mosaic:
        levels = len(mosaic.overviews(1))
    assert levels >= 3
    found = [pixels(path)]
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as overview:
            found.append(overview.read())
    return found


def assert_same(path, other):
    for one, two in zip(pyramid(path), pyramid(other), strict=True):
        np.testing.assert_array_equal(one, two)


@each_model
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_pixels_are_those_of_the_slow_reference(case, expected, tmp_path, backend):
    case.run(tmp_path / "out.tif", backend=backend)
    found, wanted = pixels(tmp_path / "out.tif"), shown(case.foreign, expected[case.foreign.name])
    assert np.ptp(wanted) > 60  # a flat picture would agree too
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert (found == wanted).mean() > 0.97


@each_model
def test_a_batch_of_three_and_one_thread_give_the_same_pixels(case, tmp_path):
    case.run(tmp_path / "out.tif")
    case.run(tmp_path / "three.tif", batch=3, threads=1)
    assert_same(tmp_path / "out.tif", tmp_path / "three.tif")


KILLED = """
import os, pickle, signal, sys, time
from pathlib import Path
from sar2optical.pipeline.run import translate

def kill(stage, done, total):
    if stage == "translate" and done > 0.4 * total:
        while not list(Path(f"{out}.parts").glob("strip-*.tif")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    scene, out, model, options = pickle.loads(Path(sys.argv[1]).read_bytes())
    translate(scene, out, model=model, options=options, on_progress=kill)
"""


@each_model
def test_a_killed_run_resumes_to_the_same_pixels(case, tmp_path):
    changes = {"output_bands": ("all",), "dtype": "float32"}
    case.run(tmp_path / "whole.tif", **changes)
    out, given = tmp_path / "out.tif", tmp_path / "given.pickle"
    given.write_bytes(pickle.dumps((case.scene, out, case.model, case.options(**changes))))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, given], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    report = case.run(out, batch=3, **changes)
    assert 16 <= report.rows_kept < case.foreign.shape[0]
    assert_same(tmp_path / "whole.tif", out)


def test_strips_of_another_signature_type_or_choice_of_bands_are_refused(case, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        translate(case.scene, tmp_path / "out.tif", model=case.model, options=case.options(), on_progress=_interrupt)
    changed = case.options()
    other = replace(changed.engine.signature, output=replace(changed.engine.signature.output, shown=(0.0, 0.5)))
    for options, difference in (
        (case.options(dtype="float32"), "dtype"),
        (case.options(output_bands=("B8", "B4", "B3")), "output"),
        (replace(changed, engine=replace(changed.engine, signature=other)), "signature"),
    ):
        with pytest.raises(OtherRun, match=difference):
            translate(case.scene, tmp_path / "out.tif", model=case.model, options=options)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", ["sigmoid"], indirect=True)
def test_a_fixed_batch_of_two_is_padded_and_repeated(case, tmp_path, backend):
    case.run(tmp_path / "free.tif", backend=backend)
    model = onnx.load(case.model)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, case.model)
    case.signature.write_text(json.dumps({**case.foreign.record, "batch": 2}))
    for batch in (1, 3):
        case.run(tmp_path / f"{batch}.tif", backend=backend, batch=batch)
        assert_same(tmp_path / "free.tif", tmp_path / f"{batch}.tif")


def test_strips_are_refused_where_weights_beside_the_file_have_changed(case, tmp_path):
    model = onnx.load(case.model)
    onnx.save(model, case.model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(KeyboardInterrupt):
        translate(case.scene, tmp_path / "out.tif", model=case.model, options=case.options(), on_progress=_interrupt)
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[2] ^= 1  # the last bits of a weight
    weights.write_bytes(content)
    os.utime(case.model)
    with pytest.raises(OtherRun, match="model"):
        case.run(tmp_path / "out.tif")


def _interrupt(stage, done, total):
    if stage == "translate" and done > 0.4 * total:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def workers():
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@each_model
def test_two_workers_make_the_same_mosaic(case, tmp_path, workers):
    case.run(tmp_path / "alone.tif")
    options, out = case.options(), tmp_path / "out.tif"
    work = Work(source=str(case.scene), out=out)
    with prepared(case.scene, out, model=case.model, options=options) as job:
        StripFiles(out, job.shape, job.manifest, coding=coding_of(out, job.coding(options))).begin()
        resolved = job.resolved
    parts = [
        workers.submit(make_strips, work, case.model, options, resolved, rows)
        for rows in ((0, 64), (64, case.foreign.shape[0]))
    ]
    assert [part.result() for part in parts] == [4, -(-(case.foreign.shape[0] - 64) // 16)]
    report = end(work, case.model, options, resolved)
    assert report.rows_kept == case.foreign.shape[0]
    assert_same(tmp_path / "alone.tif", out)


@each_model
def test_all_bands_as_float32_are_the_values_of_the_reference(case, expected, tmp_path):
    case.run(tmp_path / "out.tif", output_bands=("all",), dtype="float32")
    found, wanted = pixels(tmp_path / "out.tif"), expected[case.foreign.name]
    assert found.dtype == np.float32
    low, high = case.foreign.record["output"].get("range", (0, 1))
    half = case.foreign.record["output"]["type"] == "fp16"
    np.testing.assert_allclose(found, wanted, rtol=0, atol=(2e-3 if half else 2e-6) * (high - low))


def test_uint16_is_reflectance_times_10000_and_says_so(case, expected, tmp_path):
    case.run(tmp_path / "out.tif", output_bands=("all",), dtype="uint16")
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.descriptions == REFLECTANCES
        assert mosaic.scales == (0.0001,) * 12
        assert mosaic.offsets == (0.0,) * 12
        assert mosaic.dtypes == ("uint16",) * 12
        found = mosaic.read()
    assert np.abs(found - 10000 * expected["reflectance"].clip(0)).max() <= 1


@pytest.mark.parametrize("case", ["sigmoid"], indirect=True)
def test_uint16_of_a_range_is_the_range_scaled_and_says_so(case, expected, tmp_path):
    case.run(tmp_path / "out.tif", dtype="uint16")
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        found = mosaic.read() * mosaic.scales[0] + mosaic.offsets[0]
        assert mosaic.descriptions == ("red", "green", "blue")
    np.testing.assert_allclose(found, expected["sigmoid"], atol=1e-5)


def test_bands_are_chosen_by_name(case, expected, tmp_path):
    case.run(tmp_path / "out.tif", output_bands=("B12", "B8"), dtype="float32", compress="zstd")
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.descriptions == ("B12", "B8")
        np.testing.assert_allclose(mosaic.read(), expected["reflectance"][[11, 7]], rtol=0, atol=1e-5)
    case.run(tmp_path / "colours.tif", output_bands=("B8", "B4", "B3"))
    with rasterio.open(tmp_path / "colours.tif") as mosaic:
        assert [colour.name for colour in mosaic.colorinterp] == ["red", "green", "blue"]
        stored = mosaic.read() * mosaic.scales[0] + mosaic.offsets[0]
    wanted = expected["reflectance"][[7, 3, 2]].clip(0, 0.4)
    assert np.abs(stored - wanted).max() <= 0.4 / 255 * 0.501


def test_overviews_of_values_are_means_of_valid_pixels(case, tmp_path, make_raster):
    values = sar(case.foreign)
    values[:, :50, :70] = np.nan
    scene = make_raster(values, "hole.tif", descriptions=("VV", "VH"), **UTM)
    options = case.options(output_bands=("all",), dtype="float32")
    translate(scene, tmp_path / "out.tif", model=case.model, options=options)
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        full, mask = mosaic.read().astype(np.float64), mosaic.dataset_mask() > 0
    assert not mask[:50, :70].any()
    assert mask[50:, 70:].all()
    assert not full[:, ~mask].any()
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as overview:
        half, half_mask = overview.read(), overview.dataset_mask() > 0
    count = mask.reshape(210, 2, 130, 2).sum((1, 3))
    means = full.reshape(12, 210, 2, 130, 2).sum((2, 4)) / np.maximum(count, 1)
    np.testing.assert_array_equal(half_mask, count > 0)
    np.testing.assert_allclose(half, means, rtol=1e-6)


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
def test_every_lossless_compression_keeps_the_values(case, tmp_path, compress):
    case.run(tmp_path / "out.tif", output_bands=("B1",), dtype="float32", compress=compress)
    case.run(tmp_path / "same.tif", output_bands=("B1",), dtype="float32", compress="none")
    assert_same(tmp_path / "out.tif", tmp_path / "same.tif")


def test_one_band_is_a_grey_picture(case, expected, tmp_path):
    wanted = np.floor(expected["reflectance"][3].clip(0, 0.4) / 0.4 * 255 + 0.5)
    case.run(tmp_path / "out.png", output_bands=("B4",))
    found = pixels(tmp_path / "out.png")
    assert found.shape == (1, *case.foreign.shape)
    assert np.abs(found[0].astype(int) - wanted).max() <= 1
    case.run(tmp_path / "out.tif", output_bands=("B4",), compress="jpeg")
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert (mosaic.compression.name, mosaic.count) == ("jpeg", 1)
        assert np.abs(mosaic.read(1).astype(int) - wanted).mean() < 12


def test_a_mosaic_of_values_is_a_valid_cog_that_says_what_it_holds(case, tmp_path):
    case.run(tmp_path / "out.tif", output_bands=("all",), dtype="float32")
    valid, errors, warnings = cog_validate(tmp_path / "out.tif", strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        tags = mosaic.tags()
        assert mosaic.profile["interleave"] == "pixel"
    assert tags["TIFFTAG_IMAGEDESCRIPTION"].startswith("image generated by a neural network")
    assert json.loads(tags["SAR2OPTICAL_OPTIONS"])["dtype"] == "float32"
    assert json.loads(json.loads(tags["SAR2OPTICAL_OPTIONS"])["signature"])["name"] == "reflectance"
