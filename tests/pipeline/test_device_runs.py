"""Whole runs on the device path, forced onto a CPU: files, resume, and the numpy path's pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted
from sar2optical.pipeline import stream as streaming
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import Bound, Stretch
from tests.conftest import UTM, speckle


def run(src, out, model, monkeypatch, *, device=True, stop=lambda: False, **options):
    monkeypatch.setattr(streaming, "takes_device_path", lambda engine: device)
    engine = EngineOptions(device="cpu", threads=1)
    given = TranslateOptions(backend="pytorch", engine=engine, blocksize=128, overwrite=True, **options)
    translate(src, out, model=model, options=given, stop=stop)
    with rasterio.open(out) as mosaic:
        return mosaic.read(), mosaic.read_masks(1)


def amplitude():
    grey = speckle((700, 610)).astype(np.float32)
    grey[:, :90] = 0
    grey[200:330, 150:400] = 0
    return grey


SCENES = {
    "bytes": (speckle((700, 610)), {}),
    "bytes with a border and a hole": (amplitude().astype(np.uint8), {"nodata": 0}),
    "float with NaN": (
        np.where(amplitude() > 0, amplitude(), np.nan).astype(np.float32) / 255,
        {"unit": "amplitude"},
    ),
    "DN": ((amplitude() * 100).astype(np.uint16), {}),
}


@pytest.mark.parametrize(("array", "profile"), SCENES.values(), ids=SCENES.keys())
def test_a_mosaic_is_that_of_the_numpy_path(tmp_path, make_raster, checkpoint, monkeypatch, array, profile):
    profile = dict(profile)
    scene = SceneOptions(unit=profile.pop("unit", None))
    src = make_raster(array, tiled=True, blockxsize=64, blockysize=64, **profile, **UTM)
    options = {"stretch": Stretch(Bound(1, percentile=True), Bound(99, percentile=True)), "scene": scene}
    found, mask = run(src, tmp_path / "a.tif", checkpoint, monkeypatch, **options)
    expected, same = run(src, tmp_path / "b.tif", checkpoint, monkeypatch, device=False, **options)
    np.testing.assert_array_equal(mask, same)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found[:, mask > 0].std() > 3
    assert not found[:, mask == 0].any()


@pytest.mark.parametrize("strips", [1, 2, 3])
def test_a_stopped_run_resumes_to_the_same_file(tmp_path, make_raster, checkpoint, monkeypatch, strips):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    src = make_raster(amplitude().astype(np.uint8), nodata=0, **UTM)
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    run(src, whole, checkpoint, monkeypatch)
    asked = iter([False] * strips + [True] * 100)
    with pytest.raises(Interrupted):
        run(src, out, checkpoint, monkeypatch, stop=lambda: next(asked))
    run(src, out, checkpoint, monkeypatch)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, out)}
    assert len(digests) == 1
