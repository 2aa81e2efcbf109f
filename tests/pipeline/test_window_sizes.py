"""Windows of the sizes that a file takes: which one is chosen, and that nothing else decides the pixels."""

from __future__ import annotations

import hashlib

import pytest
import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.errors import Interrupted, OptionError
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


@pytest.mark.parametrize(
    ("shape", "window"), [((520, 700), 512), ((511, 700), 256), ((700, 300), 256), ((100, 90), 256)]
)
def test_auto_takes_the_widest_windows_that_the_scene_fills(make_raster, tmp_path, wide, shape, window):
    report = run(make_raster(speckle(shape), **UTM), tmp_path / "out.tif", wide)
    assert report.manifest["window"] == str(window)
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.tags()["SAR2OPTICAL_WINDOW"] == str(window)
        assert mosaic.shape == shape


def test_a_file_with_one_window_keeps_it(make_raster, tmp_path, identity_model):
    assert (
        run(make_raster(speckle((700, 700)), **UTM), tmp_path / "out.tif", identity_model).manifest["window"] == "256"
    )


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
