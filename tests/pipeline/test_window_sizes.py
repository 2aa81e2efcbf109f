"""Windows of the sizes that a file takes: which one is chosen, and that nothing else decides the pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import rasterio

import sar2optical as s2o
from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OptionError
from sar2optical.pipeline.estimate import estimate
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from tests.conftest import UTM, speckle


def run(src, out, model, *, threads=1, batch=1, stop_after=None, **changes):
    engine = EngineOptions(device="cpu", precision="fp32", threads=threads, batch=batch)
    asked = iter(range(stop_after)) if stop_after is not None else None
    stop = (lambda: next(asked, None) is None) if asked is not None else (lambda: False)
    options = TranslateOptions(**{"engine": engine, "overwrite": True, "blocksize": 128, **changes})
    return translate(src, out, model=model, options=options, stop=stop)


def pixels(path):
    with rasterio.open(path) as mosaic:
        return hashlib.sha256(mosaic.read().tobytes() + mosaic.dataset_mask().tobytes()).hexdigest()


@pytest.fixture
def src(make_raster):
    grey = speckle((900, 800))
    grey[300:380, 100:400] = 0
    return make_raster(grey, nodata=0, **UTM)


def test_auto_takes_the_models_own_window_and_wider_ones_are_warned_of(src, tmp_path, wide, caplog):
    report = run(src, tmp_path / "out.tif", wide)
    assert report.manifest["window"] == "256"
    assert "was trained on windows of" not in caplog.text
    assert run(src, tmp_path / "out.tif", wide, window=512).manifest["window"] == "512"
    assert "was trained on windows of 256, not of 512: compare the colours with those of --window 256" in caplog.text
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.tags()["SAR2OPTICAL_WINDOW"] == "512"
        assert mosaic.shape == (900, 800)


def test_auto_takes_the_window_that_the_exporter_chose(src, tmp_path, wide, caplog):
    from export.build import ExportOptions, export

    chosen = export(wide, tmp_path / "chosen.onnx", ExportOptions(auto_window=512)).out
    out, options = tmp_path / "out.tif", TranslateOptions(engine=EngineOptions(device="cpu", precision="fp32"))
    run(src, out, wide, window=512)
    expected = pixels(out)
    caplog.clear()
    assert run(src, out, chosen).manifest["window"] == "512"
    assert pixels(out) == expected
    assert estimate(src, tmp_path / "other.tif", model=chosen, options=options).window == 512
    assert run(src, out, chosen, window=256).manifest["window"] == "256"
    assert "was trained on windows of" not in caplog.text
    sar = np.random.default_rng(0).uniform(1, 255, (700, 600)).astype(np.float32)
    with s2o.open_engine(str(chosen), precision="fp32") as engine:
        by_auto, given = (s2o.predict(sar, engine, unit="byte", window=side) for side in (None, 512))
        np.testing.assert_array_equal(by_auto, given)
        assert (s2o.predict(sar, engine, unit="byte", window=256) != given).any()


def test_another_size_is_refused_with_those_that_fit(src, tmp_path, wide):
    with pytest.raises(OptionError, match=r"window is 768, .* takes 256 or 512: give one of these"):
        run(src, tmp_path / "out.tif", wide, window=768)


@pytest.mark.parametrize("window", [256, 512])
def test_batches_threads_and_stops_change_no_pixel(src, tmp_path, wide, window):
    out = tmp_path / "out.tif"
    run(src, out, wide, window=window)
    expected = pixels(out)
    for threads, batch in ((1, 3), (2, 1), (2, 8)):
        run(src, out, wide, window=window, threads=threads, batch=batch)
        assert pixels(out) == expected
    with pytest.raises(Interrupted):
        run(src, out, wide, window=window, stop_after=1)
    assert run(src, out, wide, window=window).rows_kept > 0
    assert pixels(out) == expected
    run(src, out, wide, window=768 - window)
    assert pixels(out) != expected
