"""Scenes through models into mosaics."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rio_cogeo.cogeo import cog_validate

from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.registry import bundled, variants
from sar2optical.errors import (
    BandNotFound,
    DeviceUnavailable,
    InferenceFailed,
    OptionError,
    OutputExists,
    SceneUnreadable,
    UnitsMismatch,
)
from sar2optical.mosaic.manifest import Manifest
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import prepared
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.geocode.target import Target
from sar2optical.signature import Bound, Stretch
from tests.conftest import UTM, make_identity, make_local, save_onnx, signature_of, speckle

FP32 = EngineOptions(device="cpu", precision="fp32", threads=1)


def run(src, out, model, **changes):
    return translate(src, out, model=model, options=TranslateOptions(**{"engine": FP32, **changes}))


def pixels(path):
    with rasterio.open(path) as mosaic:
        return mosaic.read(), mosaic.dataset_mask() == 255


@pytest.mark.parametrize(
    "shape",
    [(256, 256), (1, 1), (1, 700), (700, 1), (255, 257), (100, 100), (600, 830), (513, 256)],
    ids=lambda s: f"{s[0]}x{s[1]}",
)
def test_a_model_that_changes_nothing_gives_the_scene(make_raster, tmp_path, identity_model, shape):
    grey = speckle(shape)
    out = tmp_path / "out.tif"
    run(make_raster(grey, **UTM), out, identity_model)
    rgb, valid = pixels(out)
    assert valid.all()
    for band in rgb:
        np.testing.assert_array_equal(band, grey)


@pytest.mark.parametrize("overlap", [0, 1, 64, 200])
def test_any_overlap_gives_the_scene(make_raster, tmp_path, identity_model, overlap):
    grey = speckle((530, 610))
    run(make_raster(grey), tmp_path / "out.tif", identity_model, overlap=overlap)
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif")[0][1], grey)


@pytest.mark.parametrize(
    "place",
    [
        UTM,
        {"crs": "EPSG:4326", "transform": Affine(8.983152841195215e-05, 0, 5.7952, 0, -8.983152841195215e-05, 9.1)},
        {"crs": "EPSG:32631", "transform": Affine(9.78, 2.08, 500_000.123456789, 2.08, -9.78, 4_800_000)},
        {},
    ],
    ids=["utm", "degrees", "rotated", "nowhere"],
)
def test_the_mosaic_lies_where_the_scene_lies(make_raster, tmp_path, identity_model, place):
    src = make_raster(speckle((40, 60)), **place)
    out = tmp_path / "out.tif"
    run(src, out, identity_model)
    with rasterio.open(out) as mosaic:
        assert mosaic.transform == place.get("transform", Affine.identity())
        assert mosaic.crs == (rasterio.CRS.from_user_input(place["crs"]) if place else None)
        assert mosaic.shape == (40, 60)


def test_control_points_go_through(make_raster, tmp_path, identity_model):
    gcps = [GroundControlPoint(r, c, 7 + c / 97, 45 - r / 97, 3.5) for r in (0, 40) for c in (0, 30, 60)]
    run(make_raster(speckle((40, 60)), gcps=gcps, crs="EPSG:4326"), tmp_path / "out.tif", identity_model)
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        found, crs = mosaic.gcps
    assert [(g.row, g.col, g.x, g.y) for g in found] == [(g.row, g.col, g.x, g.y) for g in gcps]
    assert crs == rasterio.CRS.from_epsg(4326)


def test_the_mosaic_is_a_cloud_optimized_rgb(make_raster, tmp_path, identity_model):
    out = tmp_path / "out.tif"
    run(make_raster(speckle((700, 1100)), descriptions=["VH"], **UTM), out, identity_model)
    valid, errors, warnings = cog_validate(out, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(out) as mosaic:
        assert mosaic.dtypes == ("uint8",) * 3
        assert [c.name for c in mosaic.colorinterp] == ["red", "green", "blue"]
        assert mosaic.profile["compress"] == "deflate"
        assert mosaic.overviews(1) == [2, 4]
        tags = mosaic.tags()
    assert tags["SAR2OPTICAL_MODEL"] == "tiny"
    assert tags["SAR2OPTICAL_UNITS"] == "byte"
    assert tags["SAR2OPTICAL_STRETCH"] == "bytes as they are"
    assert tags["SAR2OPTICAL_BANDS"] == "VH"
    assert tags["TIFFTAG_SOFTWARE"].startswith("sar2optical ")


def test_nodata_becomes_the_mask_and_disturbs_nothing_else(make_raster, tmp_path, identity_model):
    grey = speckle((400, 900))
    grey[50:120, 300:640] = 0  # a hole
    grey[:, 860:] = 0  # a border
    run(make_raster(grey, nodata=0), tmp_path / "out.tif", identity_model)
    rgb, valid = pixels(tmp_path / "out.tif")
    np.testing.assert_array_equal(valid, grey != 0)
    np.testing.assert_array_equal(rgb[2], grey)  # holes are 0 in the colours too


def test_windows_without_a_valid_pixel_are_not_run(make_raster, tmp_path, identity_model):
    grey = np.zeros((800, 800), np.uint8)
    grey[500:560, 640:700] = speckle((60, 60))
    report = run(make_raster(grey, nodata=0), tmp_path / "out.tif", identity_model)
    assert (report.windows, report.windows_run) == (16, 2)  # starts 0, 192, 384, 544: rows 384 and 544, column 544
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif")[0][0], grey)


def test_a_scene_of_nodata_alone_gives_an_empty_mosaic(make_raster, tmp_path, identity_model):
    report = run(
        make_raster(np.full((300, 300), -9999, np.float32), nodata=-9999), tmp_path / "o.tif", identity_model
    )
    rgb, valid = pixels(tmp_path / "o.tif")
    assert report.windows_run == 0
    assert not valid.any()
    assert not rgb.any()


def test_values_are_stretched_by_the_scenes_percentiles_not_the_windows(make_raster, tmp_path, identity_model):
    # Two halves of different brightness: a stretch by window would make them alike.
    amplitude = np.concatenate([np.full((256, 512), 100), np.full((256, 512), 400)], axis=1).astype(np.uint16)
    run(make_raster(amplitude), tmp_path / "out.tif", identity_model)
    rgb, _ = pixels(tmp_path / "out.tif")
    # The 99th percentile is 400, so 100 is a quarter of the way: 255 / 4 = 63.75.
    assert set(np.unique(rgb[0, :, :512])) == {64}
    assert set(np.unique(rgb[0, :, 512:])) == {255}


def test_decibels_and_power_of_one_scene_give_one_mosaic(make_raster, tmp_path, identity_model):
    power = np.random.default_rng(3).gamma(4.4, 0.01, (300, 300)).astype(np.float32)
    for name, values, unit in [
        ("power", power, "power"),
        ("db", 10 * np.log10(power), "db"),
        ("amplitude", np.sqrt(power), "amplitude"),
        ("dn", 1000 * np.sqrt(power), "dn"),
    ]:
        src = make_raster(values.astype(np.float32), f"{name}_scene.tif")
        run(src, tmp_path / f"{name}.tif", identity_model, scene=SceneOptions(unit=unit))
    expected = np.clip(np.sqrt(power) / np.percentile(np.sqrt(power), 99) * 255, 0, 255)
    for name in ("power", "db", "amplitude", "dn"):
        assert np.abs(pixels(tmp_path / f"{name}.tif")[0][0] - expected).max() < 0.51


def test_a_users_stretch_replaces_the_models(make_raster, tmp_path, identity_model):
    db = np.linspace(-30, 0, 256 * 256, dtype=np.float32).reshape(256, 256)
    model = make_identity(tmp_path / "db.onnx", signature_of(unit="db", stretch=(Stretch(Bound(-25), Bound(0)),)))
    options = {"scene": SceneOptions(unit="db"), "stretch": Stretch(Bound(-30), Bound(-10))}
    run(make_raster(db), tmp_path / "out.tif", model, **options)
    expected = np.clip((db + 30) / 20 * 255, 0, 255)
    assert np.abs(pixels(tmp_path / "out.tif")[0][0] - expected).max() < 0.51


def test_uncalibrated_values_are_refused_where_the_model_has_a_fixed_range(make_raster, tmp_path):
    model = make_identity(tmp_path / "db.onnx", signature_of(unit="db", stretch=(Stretch(Bound(-25), Bound(0)),)))
    with pytest.raises(UnitsMismatch, match="uncalibrated"):
        run(make_raster(speckle((60, 60)).astype(np.uint16) * 5), tmp_path / "out.tif", model)


def test_overlapping_windows_are_blended_without_a_step(make_raster, tmp_path):
    model = make_local(tmp_path / "local.onnx")  # neighbours differ by 0.3 where they meet
    flat = np.full((256, 768), 128, np.uint8)  # three windows that touch, or five that overlap by 128
    steps = {}
    for overlap in (0, 96):
        run(make_raster(flat), tmp_path / f"{overlap}.tif", model, overlap=overlap)
        row = pixels(tmp_path / f"{overlap}.tif")[0][0, 100].astype(int)
        steps[overlap] = np.abs(np.diff(row)).max()
    assert steps[0] > 40  # 0.4 of [-1, 1] is 51 grey levels
    assert steps[96] <= 2


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "pytorch", "openvino int8"])
def test_batch_size_and_threads_change_no_pixel(make_raster, tmp_path, exported, checkpoint, backend):
    backend, _, int8 = backend.partition(" ")
    model = variants(bundled())["int8"] if int8 else checkpoint if backend == "pytorch" else exported
    src = make_raster(speckle((600, 600)), **UTM)
    mosaics = []
    for batch, threads in [(1, 1), (3, 2), (8, 2)]:
        options = EngineOptions(device="cpu", batch=batch, threads=threads)
        out = tmp_path / f"{batch}-{threads}.tif"
        run(src, out, model, backend=backend, engine=options)
        mosaics.append(pixels(out)[0])
    assert mosaics[0].std() > 3  # three equal blank mosaics would be no proof
    np.testing.assert_array_equal(mosaics[0], mosaics[1])
    np.testing.assert_array_equal(mosaics[0], mosaics[2])


def test_what_computes_the_rest_of_an_int8_file_otherwise_takes_no_part_in_a_run(make_raster, tmp_path):
    src, out, model = make_raster(speckle((300, 300)), **UTM), tmp_path / "out.tif", variants(bundled())["int8"]
    with prepared(src, out, model=model) as job:
        resolved, rest = job.resolved, job.engine.fallback
    with open_engine(variants(bundled())["fp32"], backend="openvino") as engine:
        assert rest == engine.precision  # bf16 where the CPU has it
    facts = resolved.manifest.entries
    assert (facts["precision"], facts["fallback"]) == ("int8", rest)
    other = replace(resolved, manifest=Manifest({**facts, "fallback": {"fp32": "bf16", "bf16": "fp32"}[rest]}))
    with (
        pytest.raises(DeviceUnavailable, match="other workers run them in another precision"),
        prepared(src, out, model=model, resolved=other),
    ):
        pass
    with prepared(src, out, model=model, resolved=resolved) as job:
        assert job.manifest == resolved.manifest


def test_backends_agree_with_pytorch(make_raster, tmp_path, exported, checkpoint):
    src = make_raster(speckle((256, 300)))
    mosaics = []
    for backend, model in [("pytorch", checkpoint), ("openvino", exported), ("onnxruntime", exported)]:
        run(src, tmp_path / f"{backend}.tif", model, backend=backend)
        mosaics.append(pixels(tmp_path / f"{backend}.tif")[0].astype(int))
    assert mosaics[0].std() > 3
    for other in mosaics[1:]:
        assert np.abs(mosaics[0] - other).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_chip_becomes_a_picture(make_raster, tmp_path, identity_model, suffix):
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    out = tmp_path / f"out{suffix}"
    run(make_raster(grey, "chip.png"), out, identity_model)
    with rasterio.open(make_raster(grey, "reference.tif", **UTM)) as reference:
        expected = reference.read(1).astype(int)
    with rasterio.open(out) as picture:
        rgb = picture.read()
    assert rgb.shape == (3, 256, 256)
    assert np.abs(rgb - expected).max() <= (0 if suffix == ".png" else 6)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == [out.name]


def test_a_preview_is_small_and_of_the_whole(make_raster, tmp_path, identity_model):
    grey = np.repeat(np.array([[40, 200]], np.uint8), 1500, axis=1).repeat(1200, axis=0)
    preview = tmp_path / "p.png"
    run(make_raster(grey), tmp_path / "out.tif", identity_model, preview=preview)
    with rasterio.open(preview) as picture:
        rgb = picture.read()
    assert rgb.shape == (3, 300, 750)
    assert (rgb[:, :, :370] == 40).all()
    assert (rgb[:, :, 380:] == 200).all()


def test_a_missing_band_is_said_before_anything_is_written(make_raster, tmp_path, identity_model):
    src = make_raster(speckle((60, 60)), "scene_VV.tif")
    with pytest.raises(BandNotFound):
        run(src, tmp_path / "out.tif", identity_model)
    assert not (tmp_path / "out.tif").exists()


def test_another_polarisation_comes_with_a_warning(make_raster, tmp_path, identity_model, caplog):
    src = make_raster(speckle((60, 60)), "scene_VV.tif")
    with caplog.at_level(logging.WARNING, "sar2optical"):
        run(src, tmp_path / "out.tif", identity_model, scene=SceneOptions(bands=("1",)))
    assert "is VV, but the model was trained on VH" in caplog.text


def test_what_was_decided_about_units_is_said(make_raster, tmp_path, identity_model, caplog):
    src = make_raster(np.full((60, 60), 300, np.uint16), descriptions=["VH"])
    with caplog.at_level(logging.INFO, "sar2optical"):
        run(src, tmp_path / "out.tif", identity_model)
    assert "unit dn" in caplog.text
    assert "0 to 300" in caplog.text


def test_a_scene_without_a_valid_pixel_says_so(make_raster, tmp_path, identity_model, caplog):
    src = make_raster(np.zeros((60, 60), np.uint16), descriptions=["VH"], nodata=0)
    run(src, tmp_path / "out.tif", identity_model)
    assert "has no valid pixel" in caplog.text
    assert not pixels(tmp_path / "out.tif")[1].any()


TURNED = Affine(17.32, 10, 5e5, 10, -17.32, 4.8e6)  # by 30 degrees
SIZES = {
    "10 m": ({"crs": "EPSG:32631", "transform": Affine(10, 0, 5e5, 0, -10, 4.8e6)}, None),
    "14 m": ({"crs": "EPSG:32631", "transform": Affine(14, 0, 5e5, 0, -14, 4.8e6)}, None),
    "20 m": ({"crs": "EPSG:32631", "transform": Affine(20, 0, 5e5, 0, -20, 4.8e6)}, "20 m"),
    "rotated 20 m": ({"crs": "EPSG:32631", "transform": TURNED}, "20 m"),
    "degrees at 60 N": ({"crs": "EPSG:4326", "transform": Affine(2e-4, 0, 10, 0, -2e-4, 60)}, "22.2 x 11.1 m"),
    "degrees at the equator, 10 m": ({"crs": "EPSG:4326", "transform": Affine(9e-5, 0, 10, 0, -9e-5, 0)}, None),
    "web mercator at 60 N, 20 m": ({"crs": "EPSG:3857", "transform": Affine(20, 0, 1e6, 0, -20, 8399738)}, None),
    "feet": ({"crs": "EPSG:2229", "transform": Affine(100, 0, 6.4e6, 0, -100, 1.8e6)}, "30.5 m"),
    "nowhere": ({}, None),
    "5 m across, 40 m down": ({"crs": "EPSG:32633", "transform": Affine(5, 0, 5e5, 0, -40, 5e6)}, "40 x 4.99 m"),
}


@pytest.mark.parametrize(("place", "warned"), SIZES.values(), ids=SIZES)
def test_pixels_of_another_size_than_the_models_get_one_warning(make_raster, tmp_path, caplog, place, warned):
    model = make_identity(tmp_path / "m.onnx", signature_of(pixel_size=10.0))
    run(make_raster(speckle((60, 60)), descriptions=["VH"], **place), tmp_path / "out.tif", model)
    said = [record.message for record in caplog.records if "has pixels of" in record.message]
    assert len(said) == (warned is not None)
    assert all(f"has pixels of {warned}, but the model was trained on 10 m" in text for text in said)


def test_the_remedy_for_pixels_of_another_size_ends_the_warning(make_raster, tmp_path, caplog):
    model = make_identity(tmp_path / "m.onnx", signature_of(pixel_size=10.0))
    src = make_raster(speckle((60, 60)), descriptions=["VH"], **SIZES["20 m"][0])
    run(src, tmp_path / "out.tif", model, geocode=Target(crs="auto-utm", resolution=10))
    assert "pixels are" not in caplog.text
    assert pixels(tmp_path / "out.tif")[0].shape == (3, 120, 120)


def test_a_model_that_tells_no_pixel_size_gives_no_warning(make_raster, tmp_path, identity_model, caplog):
    run(make_raster(speckle((60, 60)), descriptions=["VH"], **SIZES["20 m"][0]), tmp_path / "out.tif", identity_model)
    assert "pixels are" not in caplog.text


def test_an_existing_output_is_kept(make_raster, tmp_path, identity_model):
    out = tmp_path / "out.tif"
    out.write_bytes(b"precious")
    with pytest.raises(OutputExists):
        run(make_raster(speckle((60, 60))), out, identity_model)
    assert out.read_bytes() == b"precious"
    run(make_raster(speckle((60, 60))), out, identity_model, overwrite=True)
    assert pixels(out)[0].shape == (3, 60, 60)


def test_a_scene_is_never_its_own_output(make_raster, identity_model):
    src = make_raster(speckle((60, 60)))
    before = src.read_bytes()
    with pytest.raises(OptionError, match="is the input scene"):
        run(src, src, identity_model, overwrite=True)
    assert src.read_bytes() == before


def test_a_scene_that_ends_early_leaves_nothing(make_raster, tmp_path, identity_model):
    src = make_raster(speckle((900, 900)), blockysize=16)
    src.write_bytes(src.read_bytes()[:-60_000])
    with pytest.raises(SceneUnreadable, match="truncated"):
        run(src, tmp_path / "out.tif", identity_model)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == []


def test_a_model_that_returns_nan_leaves_nothing(make_raster, tmp_path):
    from onnx import helper

    nodes = [
        helper.make_node("Sub", ["sar", "one"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["root"]),  # of a negative number
        helper.make_node("Concat", ["root"] * 3, ["optical"], axis=1),
    ]
    model = save_onnx(tmp_path / "nan.onnx", nodes, {"one": np.array(2, np.float32)}, signature_of())
    with pytest.raises(InferenceFailed, match="NaN"):
        run(make_raster(speckle((300, 300))), tmp_path / "out.tif", model)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == []


def test_a_lone_band_is_repeated_for_a_model_that_takes_copies(make_raster, tmp_path):
    model = make_identity(tmp_path / "three.onnx", signature_of(channels=3))
    grey = speckle((300, 300))
    run(make_raster(grey), tmp_path / "out.tif", model)
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif")[0][0], grey)


def test_progress_ends_at_the_whole(make_raster, tmp_path, identity_model):
    seen = []
    translate(
        make_raster(speckle((600, 300))),
        tmp_path / "out.tif",
        model=identity_model,
        on_progress=lambda *step: seen.append(step),
    )
    done = [step[1] for step in seen if step[0] == "translate"]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == seen[-1][2] == 600 * 300


def test_nodata_does_not_darken_what_lies_beside_it(make_raster, tmp_path, exported):
    # Constant ground with a nodata half gives what constant ground gives: the generator never sees the hole.
    flat = np.full((256, 256), 120, np.uint8)
    holed = flat.copy()
    holed[:, 100:] = 0
    mosaics = []
    for name, grey in (("flat", flat), ("holed", holed)):
        run(make_raster(grey, f"{name}.tif", nodata=0), tmp_path / f"{name}_out.tif", exported)
        mosaics.append(pixels(tmp_path / f"{name}_out.tif")[0][:, :, :100])
    np.testing.assert_array_equal(*mosaics)


def test_the_preview_is_another_file_than_the_output(make_raster, tmp_path, identity_model):
    out = tmp_path / "out.png"
    with pytest.raises(OptionError, match="have the same path"):
        run(make_raster(speckle((60, 60))), out, identity_model, preview=tmp_path / "." / "out.png", overwrite=True)
    assert not out.exists()


def test_a_file_that_the_scene_is_made_of_is_never_the_output(make_raster, tmp_path, identity_model):
    source = make_raster(speckle((60, 60)), "source.tif")
    before = source.read_bytes()
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="60" rasterYSize="60"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">source.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(OptionError, match="a file that it refers to"):
        run(vrt, source, identity_model, overwrite=True)
    assert source.read_bytes() == before


def test_sidecars_of_no_file_of_ours_are_left_alone(make_raster, tmp_path, identity_model):
    sidecar = tmp_path / "out.tif.aux.xml"
    sidecar.write_text("<PAMDataset/>")
    run(make_raster(speckle((60, 60))), tmp_path / "out.tif", identity_model)
    assert sidecar.read_text() == "<PAMDataset/>"
