"""The public functions: inputs of every kind, keywords, errors that name keywords, lazy mosaics."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.vrt import WarpedVRT

import sar2optical as s2o
from sar2optical.engines import EngineOptions
from sar2optical.errors import (
    BandNotFound,
    InferenceFailed,
    Interrupted,
    OptionError,
    OtherRun,
    OutputExists,
    Sar2OpticalError,
    SceneUnreadable,
    UnitsMismatch,
    UnitsUnknown,
)
from tests.conftest import BYTES, UTM, make_identity, make_local, signature_of, speckle

SHAPE = (300, 340)


@pytest.fixture
def decibels() -> np.ndarray:
    """float32 dB of a textured scene."""
    rng = np.random.default_rng(3)
    return (10 * np.log10(rng.gamma(4, 0.02, SHAPE))).astype(np.float32)


@pytest.fixture
def scene(make_raster, decibels):
    return make_raster(decibels, descriptions=["VH"], tags={"units": "dB"}, **UTM)


def test_ten_lines_translate_a_scene(scene, tmp_path):
    """The lines of the README's first screen, on a real engine."""
    out = tmp_path / "out.tif"
    with s2o.open_scene(scene, bands=["VH"]) as opened:
        sar = opened.read(window=((0, 256), (0, 256)))
        assert (opened.crs, opened.transform) == (rasterio.crs.CRS.from_epsg(32631), UTM["transform"])
    with s2o.open_engine() as engine:
        rgb = s2o.predict(sar, engine)
    expected = s2o.estimate(scene, out, overlap=96)
    result = s2o.translate(scene, out, overlap=96, geocode="auto-utm", preview=str(tmp_path / "p.png"))
    mosaic = s2o.open_mosaic(result.path)
    assert rgb.shape == (3, 256, 256)
    assert rgb.dtype == np.uint8
    assert expected.windows == 4
    assert mosaic.rgb.dims == ("band", "y", "x")
    assert (tmp_path / "p.png").is_file()


def test_window_and_blocks_are_keywords(scene, tmp_path):
    model, out = make_identity(tmp_path / "identity.onnx", BYTES), tmp_path / "out.tif"
    options = {"model": model, "stretch": ("p1", "p99"), "window": 256, "blocksize": 64}
    assert s2o.estimate(scene, out, **options).window == 256
    assert s2o.translate(scene, out, **options).manifest["window"] == "256"
    with rasterio.open(out) as mosaic:
        assert set(mosaic.block_shapes) == {(64, 64)}
        assert mosaic.tags()["SAR2OPTICAL_WINDOW"] == "256"


def test_predict_gives_the_pixels_of_translate(scene, tmp_path):
    model = make_local(tmp_path / "local.onnx")
    s2o.translate(scene, tmp_path / "out.tif", model=model, stretch=("p1", "p99"))
    with s2o.open_scene(scene, bands=["VH"]) as opened, s2o.open_engine(model) as engine:
        rgb = s2o.predict(opened.read(), engine, stretch=("p1", "p99"))
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        np.testing.assert_array_equal(mosaic.read(), rgb.data)
    assert rgb.data.std() > 10


def test_percentiles_of_a_window_are_those_of_the_scene(scene, tmp_path):
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    with s2o.open_scene(scene) as opened, s2o.open_engine(model) as engine:
        whole = s2o.predict(opened.read(), engine, stretch=("p1", "p99"))
        window = s2o.predict(opened.read(((20, 90), (30, 120))), engine, stretch=("p1", "p99"))
    np.testing.assert_array_equal(window.data, whole.data[:, 20:90, 30:120])


def test_arrays_and_datasets_are_scenes(scene, decibels, tmp_path):
    """A path, an open dataset, a warped one, numpy and xarray give the same pixels."""
    xarray = pytest.importorskip("xarray")
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    array = xarray.DataArray(decibels, dims=("y", "x"), attrs={"units": "dB"})
    with rasterio.open(scene) as dataset, WarpedVRT(dataset) as warped:
        sources = {"path": scene, "text": str(scene), "dataset": dataset, "warped": warped, "xarray": array}
        sources["numpy"] = decibels
        found, units = {}, {"numpy": "db"}
        for name, source in sources.items():
            out = tmp_path / f"{name}.tif"
            s2o.translate(source, out, model=model, bands=[1], stretch=(0, 0.5), unit=units.get(name))
            with rasterio.open(out) as mosaic:
                found[name] = mosaic.read()
                georeferenced = mosaic.crs is not None
            assert georeferenced == (name not in ("xarray", "numpy"))
    assert found["path"].std() > 5
    for pixels in found.values():
        np.testing.assert_array_equal(pixels, found["path"])


def test_xarray_goes_in_and_comes_out(decibels, tmp_path):
    xarray = pytest.importorskip("xarray")
    decibels[40:60, 50:90] = np.nan
    y, x = 4_800_000 - 10.0 * np.arange(SHAPE[0]), 500_000 + 10.0 * np.arange(SHAPE[1])
    array = xarray.DataArray(decibels[None], dims=("band", "y", "x"), coords={"y": y, "x": x}, attrs={"units": "db"})
    with s2o.open_engine(make_identity(tmp_path / "identity.onnx", BYTES)) as engine:
        rgb = s2o.predict(array, engine, stretch=(0, 0.5))
        same = s2o.predict(np.ma.masked_invalid(decibels), engine, unit="db", stretch=(0, 0.5))
    assert rgb.dims == ("band", "y", "x")
    np.testing.assert_array_equal(rgb.x, x)
    np.testing.assert_array_equal(rgb.valid, np.isfinite(decibels))
    np.testing.assert_array_equal(rgb.values, same.filled(0))
    assert same.mask[:, 50, 60].all()


def test_band_slices_keep_the_samples_of_their_bands(make_raster, decibels, tmp_path):
    two = make_identity(
        tmp_path / "two.onnx", signature_of(bands=("VV", "VH"), stretch=BYTES.stretch * 2, channels=2)
    )
    src = make_raster(np.stack([decibels, decibels - 9]), descriptions=["VV", "VH"], tags={"units": "dB"})
    with s2o.open_scene(src, bands=["VV", "VH"]) as opened:
        sar = opened.read()
    with s2o.open_engine(two) as engine:
        a = s2o.predict(sar[::-1], engine, stretch=("p1", "p99"))
        b = s2o.predict(sar[[1, 0]].copy().view(np.ma.MaskedArray), engine, unit="db", stretch=("p1", "p99"))
    np.testing.assert_array_equal(a.data, b.data)
    with s2o.open_engine(make_identity(tmp_path / "one.onnx", BYTES)) as engine:
        for k in range(2):
            for band in (sar[k], sar[k : k + 1]):
                assert s2o.predict(band, engine, stretch=("p1", "p99")).data.std() > 20


def test_slices_of_a_dataarray_have_their_own_affine(decibels, tmp_path):
    """rioxarray keeps the attribute GeoTransform of the whole in slices."""
    pytest.importorskip("xarray")
    x, y = 500_005 + 10.0 * np.arange(SHAPE[1]), 4_799_995 - 10.0 * np.arange(SHAPE[0])
    whole = labelled(decibels, ("y", "x")).assign_coords(y=y, x=x)
    whole.coords["spatial_ref"] = ((), 0, {"GeoTransform": "500000 10 0 4800000 0 -10"})
    part = whole.isel(y=slice(10, 200, 2), x=slice(20, 150, 2))
    with s2o.open_scene(part, bands=[1]) as opened:
        assert opened.transform == rasterio.Affine(20, 0, 500_195, 0, -20, 4_799_905)
        assert opened.unit == "db"


def test_packed_dataarrays_are_scaled(decibels, tmp_path):
    pytest.importorskip("xarray")
    packed = np.round((decibels + 60) / 0.001).astype(np.uint16)
    packed[:4] = 0
    array = labelled(packed, ("y", "x")).assign_attrs(scale_factor=0.001, add_offset=-60.0, _FillValue=0)
    with s2o.open_scene(array, bands=[1]) as opened:
        sar = opened.read()
    np.testing.assert_allclose(sar.data[0, 4:], decibels[4:], atol=1e-3)
    assert sar.mask[0, :4].all()
    assert not sar.mask[0, 4:].any()


def test_a_run_of_an_array_resumes_with_the_same_values_only(decibels, tmp_path):
    model, out = make_identity(tmp_path / "identity.onnx", BYTES), tmp_path / "out.tif"
    values = np.tile(decibels, (4, 1))
    asked = iter(range(100))
    keywords = {"model": model, "unit": "db", "stretch": (0, 0.5)}
    with pytest.raises(Interrupted):
        s2o.translate(values, out, stop=lambda: next(asked) == 3, **keywords)
    other = values.copy()
    other[5] -= 1
    with pytest.raises(OtherRun, match="scene"):
        s2o.translate(other, out, **keywords)
    report = s2o.translate(values, out, **keywords)
    assert report.rows_kept > 0
    s2o.translate(values, tmp_path / "whole.tif", **keywords)
    with rasterio.open(out) as a, rasterio.open(tmp_path / "whole.tif") as b:
        np.testing.assert_array_equal(a.read(), b.read())


def test_datasets_that_cannot_be_opened_again_are_refused(scene):
    with rasterio.open(scene) as dataset:
        pass
    with pytest.raises(OptionError, match="is closed"), s2o.open_scene(dataset):
        pass


def test_a_stretch_that_no_value_lies_in_is_warned_of(decibels, tmp_path, caplog):
    with s2o.open_engine(make_identity(tmp_path / "identity.onnx", BYTES)) as engine:
        s2o.predict(decibels, engine, unit="db", stretch=(100, 200))
        assert "lie outside the stretch 100 to 200" in caplog.text
        caplog.clear()
        s2o.predict(decibels, engine, unit="db", stretch=(0, 0.5))
        assert "outside" not in caplog.text


def test_pictures_with_alpha_are_mosaics_too(scene, tmp_path):
    pytest.importorskip("xarray")
    out = tmp_path / "out.png"
    s2o.translate(scene, out, model=make_identity(tmp_path / "m.onnx", BYTES), stretch=("p1", "p99"))
    assert s2o.open_mosaic(out).rgb.values.shape == (3, *SHAPE)
    with pytest.raises(SceneUnreadable, match="not an RGB mosaic"):
        s2o.open_mosaic(scene)


def labelled(array, dims, bands=None):
    """A DataArray of dB."""
    import xarray

    coords = {} if bands is None else {"band": bands}
    return xarray.DataArray(array, dims=dims, coords=coords, attrs={"units": "dB"})


def test_dimensions_and_bands_of_xarray_go_by_name(decibels, tmp_path):
    pytest.importorskip("xarray")
    with s2o.open_engine(make_identity(tmp_path / "vh.onnx", BYTES)) as engine:
        expected = s2o.predict(decibels, engine, unit="db", stretch=(0, 0.5)).data
        turned = s2o.predict(labelled(decibels.T, ("x", "y")), engine, stretch=(0, 0.5))
        last = s2o.predict(labelled(decibels[..., None], ("y", "x", "band")), engine, stretch=(0, 0.5))
        np.testing.assert_array_equal(turned.transpose("band", "y", "x"), expected)
        np.testing.assert_array_equal(last.transpose("band", "y", "x"), expected)
        with pytest.raises(BandNotFound, match="VH"):  # the model was trained on VH
            s2o.predict(labelled(decibels[None], ("band", "y", "x"), ["HH"]), engine)
        with pytest.raises(OptionError, match="name rows and columns y and x"):
            s2o.predict(labelled(decibels, ("north", "east")), engine)
        with pytest.raises(UnitsUnknown):
            s2o.predict(labelled(decibels, ("y", "x")).assign_attrs(units="m"), engine)
    two = make_identity(
        tmp_path / "two.onnx", signature_of(bands=("VV", "VH"), stretch=BYTES.stretch * 2, channels=2)
    )
    both = np.stack([decibels - 6, decibels])
    with s2o.open_engine(two) as engine:
        expected = s2o.predict(both, engine, unit="db", stretch=(0, 0.5)).data
        swapped = s2o.predict(labelled(both[::-1], ("band", "y", "x"), ["VH", "VV"]), engine, stretch=(0, 0.5))
    np.testing.assert_array_equal(swapped, expected)


@pytest.mark.parametrize("case", ["dn", "power", "-9999", "byte"])
def test_fill_in_arrays_is_found_as_in_files(decibels, make_raster, tmp_path, case):
    power = 10 ** (decibels / 10)
    values, unit, fill = {
        "dn": ((1000 * np.sqrt(power)).astype(np.uint16) + 1, "dn", 0),
        "power": (power, "power", 0),
        "-9999": (decibels, "db", -9999),
        "byte": (speckle(SHAPE), "byte", 255),
    }[case]
    values = values.copy()
    values[:, :25] = fill
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    src = make_raster(values, descriptions=["VH"])
    report = s2o.translate(src, tmp_path / "out.tif", model=model, unit=unit, stretch=("p1", "p99"), overlap=32)
    with s2o.open_engine(model) as engine:
        rgb = s2o.predict(values, engine, unit=unit, stretch=("p1", "p99"), overlap=32)
    with rasterio.open(report.path) as mosaic:
        np.testing.assert_array_equal(mosaic.dataset_mask() == 0, rgb.mask[0])
        np.testing.assert_array_equal(mosaic.read(), rgb.data)
    assert rgb.mask[0, :, :25].all() == (case != "byte")
    assert not rgb.mask[0, :, 25:].any()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_closed_engine_and_what_is_no_engine_are_refused(decibels, tmp_path, backend):
    engine = s2o.open_engine(make_identity(tmp_path / "identity.onnx", BYTES), backend=backend)
    engine.close()
    with pytest.raises(InferenceFailed, match="is closed: open it again"):
        s2o.predict(decibels, engine, unit="db")
    with pytest.raises(OptionError, match="engine is a str: give an engine from open_engine"):
        s2o.predict(decibels, "identity.onnx", unit="db")


def test_coordinates_give_the_affine(decibels, tmp_path):
    """Also of a scene with its south at the top; uneven ones are refused."""
    pytest.importorskip("xarray")
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    y, x = 100 + 20.0 * np.arange(SHAPE[0]), 500 + 10.0 * np.arange(SHAPE[1])
    array = labelled(decibels, ("y", "x")).assign_coords(y=y, x=x)
    s2o.translate(array, tmp_path / "out.tif", model=model, bands=[1], stretch=(0, 0.5))
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.transform == rasterio.Affine(10, 0, 495, 0, 20, 90)
    uneven = array.assign_coords(x=x**1.1)
    with pytest.raises(OptionError, match="not evenly spaced"):
        s2o.translate(uneven, tmp_path / "uneven.tif", model=model, bands=[1])


def test_arithmetic_loses_the_unit_and_slices_keep_it(scene, tmp_path):
    with s2o.open_scene(scene) as opened:
        sar = opened.read()
    assert (sar.unit, sar[:, 10:].unit, sar[0, :, ::2].unit) == ("db", "db", "db")
    assert ((sar + 3).unit, sar.copy().unit, np.exp(sar).unit) == (None, None, None)
    with pytest.raises(ValueError, match="read-only"):
        sar += 3
    with (
        s2o.open_engine(make_identity(tmp_path / "identity.onnx", BYTES)) as engine,
        pytest.raises(UnitsUnknown, match="give unit"),
    ):
        s2o.predict(np.ma.exp(sar / 10), engine)


@pytest.mark.parametrize(
    ("keywords", "kind", "text"),
    [
        ({"unit": "watt"}, OptionError, "unit is 'watt': give one of dn"),
        ({"unit": "power"}, UnitsUnknown, "unit"),
        ({"bands": ["HH"]}, BandNotFound, "no band HH"),
        ({"stretch": (1,)}, OptionError, "stretch is (1,): give two bounds"),
        ({"stretch": ("p1", "far")}, OptionError, "stretch"),
        ({"stretch": (-20, 0)}, UnitsMismatch, "stretch"),
        ({"precision": "fp4"}, OptionError, "precision is 'fp4': give auto or one of fp32"),
        ({"device": "tpu"}, OptionError, "device is 'tpu'"),
        ({"resolution": 20.0}, OptionError, "resolution is 20, but geocode is None"),
        ({"geocode": "EPSG:0"}, OptionError, "EPSG:0"),
        ({"overlap": 256}, OptionError, "overlap"),
        ({"compress": "zip"}, OptionError, "compress"),
        ({"blocksize": 100}, OptionError, "block size is 100: give a multiple of 16 up to 4096"),
        ({"window": 512}, OptionError, "window is 512, but tiny in openvino takes 256"),
    ],
    ids=str,
)
def test_a_wrong_value_names_its_keyword_and_no_option(scene, tmp_path, keywords, kind, text):
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    with pytest.raises(kind) as error:
        s2o.translate(scene, tmp_path / "out.tif", model=model, **keywords)
    assert text in str(error.value)
    assert "--" not in str(error.value)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("give --units db (and --scale 0.01), or --nodata", 'give unit="db" (and scale=0.01), or nodata'),
        ("give --band 1 or --band VH", 'give bands=["1"] or bands=["VH"]'),
        ("give --stretch p1 p99", 'give stretch=("p1", "p99")'),
        ("give --stretch LOW HIGH in dB", "give stretch=(LOW, HIGH) in dB"),
        ("pass --overwrite to replace it", "pass overwrite=True to replace it"),
        ("with --geocode auto-utm --resolution 10", 'with geocode="auto-utm" resolution=10'),
        ("give another --backend or --precision", "give another backend or precision"),
        ("--units power given, but", 'unit="power" given, but'),
    ],
)
def test_options_in_messages_become_keywords(message, expected):
    from sar2optical.api.keywords import naming_keywords

    with pytest.raises(OutputExists) as error, naming_keywords():
        raise OutputExists(message)
    assert str(error.value) == expected


def test_unknown_keywords_are_refused(scene, tmp_path):
    for call in (s2o.translate, s2o.estimate):
        with pytest.raises(TypeError, match="units"):
            call(scene, tmp_path / "out.tif", units="db")


def test_options_objects_stay(make_raster, tmp_path):
    from sar2optical.pipeline.options import TranslateOptions

    src = make_raster(speckle((40, 50)), descriptions=["VH"])
    model = make_identity(tmp_path / "identity.onnx", BYTES)
    options = TranslateOptions(overlap=8, compress="zstd")
    assert s2o.translate(src, tmp_path / "out.tif", model=model, options=options).manifest["overlap"] == "8"
    with pytest.raises(TypeError, match="options and overlap are both given"):
        s2o.translate(src, tmp_path / "two.tif", model=model, options=options, overlap=16)


def test_a_mosaic_is_read_by_window(scene, tmp_path):
    pytest.importorskip("xarray")
    s2o.translate(scene, tmp_path / "out.tif", model=make_identity(tmp_path / "m.onnx", BYTES), stretch=("p1", "p99"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        expected, mask = dataset.read(), dataset.dataset_mask() != 0
    mosaic = s2o.open_mosaic(tmp_path / "out.tif")
    np.testing.assert_array_equal(mosaic.rgb[:, 10:60, 20:90], expected[:, 10:60, 20:90])
    np.testing.assert_array_equal(mosaic.rgb[1, 7], expected[1, 7])
    np.testing.assert_array_equal(mosaic.rgb[::2, 5:100:3, -4], expected[::2, 5:100:3, -4])
    np.testing.assert_array_equal(mosaic.valid[3:9], mask[3:9])
    assert float(mosaic.x[0]) == UTM["transform"].c + 5
    assert float(mosaic.y[1]) == UTM["transform"].f - 15
    assert mosaic.attrs["SAR2OPTICAL_MODEL"] == "tiny"
    with pytest.raises(SceneUnreadable, match="cannot open the mosaic"):
        s2o.open_mosaic(tmp_path / "absent.tif")


def test_bands_of_a_mosaic_keep_their_names(make_raster):
    pytest.importorskip("xarray")
    levels = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)
    three = make_raster(levels[:3], "three.tif", descriptions=("B8", "B4", "B3"), photometric="RGB", **UTM)
    mosaic = s2o.open_mosaic(three)
    assert list(mosaic.band.values) == ["B8", "B4", "B3"]
    np.testing.assert_array_equal(mosaic.rgb.sel(band="B4"), levels[1])
    four = make_raster(levels, "four.tif", descriptions=("B8", "B4", "B3", "B2"), photometric="MINISBLACK", **UTM)
    with pytest.raises(SceneUnreadable, match=r"four\.tif: is not an RGB mosaic of bytes: open it"):
        s2o.open_mosaic(four)  # its fourth band is not alpha, its first is not red


def test_windows_outside_the_scene_are_refused(scene):
    with s2o.open_scene(scene) as opened:
        for window in (((0, 301), (0, 10)), ((5, 5), (0, 10)), ((0, 10), (-1, 10))):
            with pytest.raises(OptionError, match="give a window inside it"):
                opened.read(window)


def test_what_is_no_scene_is_refused(tmp_path):
    for source in (None, 5, np.zeros(4), np.zeros((2, 2), complex), b"scene.tif"):
        with pytest.raises(Sar2OpticalError, match=r"scene is a"), s2o.open_scene(source):
            pass


def test_all_public_names_are_there_and_documented():
    for name in s2o.__all__:
        assert getattr(s2o, name) is not None
        assert name in dir(s2o)
    for name in ("translate", "predict", "estimate", "open_scene", "open_engine", "open_mosaic"):
        assert "Parameters" in getattr(s2o, name).__doc__
    for keyword in s2o.translate.__kwdefaults__:
        assert keyword in s2o.translate.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = s2o.nonsense


OLD = {
    "sar2optical.translate": ("TranslateOptions", "Report", "translate", "prepared", "forecast"),
    "sar2optical.raster": ("open_raster", "SceneOptions", "Georeference"),
    "sar2optical.radiometry": ("Encoding", "decode", "guess_unit"),
    "sar2optical.windows": ("WindowPlan", "plan_windows", "DEFAULT_OVERLAP"),
    "sar2optical.models.zoo": ("resolve", "bundled", "ZOO"),
    "sar2optical.cluster": ("translate_all", "connected"),
    "sar2optical.safe": ("ProductOptions", "open_product"),
    "sar2optical.engines.auto": ("open_model", "tune"),
    "sar2optical.training.evaluate": ("evaluate",),
    "sar2optical.metrics": ("psnr", "seam_score"),
}


@pytest.mark.parametrize("module", OLD)
def test_old_paths_work_with_a_warning(module):
    code = (
        f"from {module} import {', '.join(OLD[module])}\nimport sar2optical\nassert callable(sar2optical.translate)"
    )
    run = [sys.executable, "-W", "always::DeprecationWarning", "-c", code]
    result = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert result.stderr.count("DeprecationWarning") == 1
    assert f"{module} has moved to sar2optical." in result.stderr


def test_every_old_path_leads_to_modules_that_exist():
    from importlib import import_module

    from sar2optical._moved import MOVED

    for old, new in MOVED.items():
        for module in new:
            import_module(f"sar2optical.{module}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import_module(f"sar2optical.{old}")
    with pytest.raises(ModuleNotFoundError):
        import_module("sar2optical.nonsense")


@pytest.mark.parametrize("function", [s2o.translate, s2o.open_engine])
def test_the_batch_follows_from_the_device_by_default(function):
    assert inspect.signature(function).parameters["batch"].default is EngineOptions().batch is None
    assert (EngineOptions().batch_on("cpu"), EngineOptions().batch_on("cuda")) == (1, 32)
    assert EngineOptions(batch=5).batch_on("cuda") == 5
