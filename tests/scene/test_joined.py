"""Scenes of several files, one for each polarisation: the pixels of one file with both bands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from onnx import helper
from rasterio.control import GroundControlPoint

import sar2optical
from sar2optical.cli.scene import main as scene_main
from sar2optical.engines import EngineOptions
from sar2optical.errors import (
    BandNotFound,
    Interrupted,
    OptionError,
    OptionWithoutEffect,
    SceneUnreadable,
    UnitsMismatch,
    UnitsUnknown,
)
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import prepared
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.safe import ProductOptions
from sar2optical.scene.scene import open_scene
from sar2optical.scene.sources import SceneFiles, source_of
from sar2optical.signature import Bound, Stretch
from tests.cli.test_cli import here
from tests.conftest import UTM, save_onnx, signature_of, speckle
from tests.scene.test_items import item, saved
from tests.scene.test_remote import server
from tests.scene.test_safe import make_product

__all__ = ["server"]

FP32 = EngineOptions(device="cpu", precision="fp32", threads=1)
SHAPE = (300, 400)


@pytest.fixture
def model(tmp_path):
    """A model of two bands: red and blue are VV, green is VH."""
    signature = signature_of(bands=("VV", "VH"), channels=2, stretch=(Stretch(Bound(0), Bound(99, True)),) * 2)
    gather = helper.make_node("Gather", ["sar", "which"], ["optical"], axis=1)
    return save_onnx(tmp_path / "two.onnx", [gather], {"which": np.array([0, 1, 0])}, signature)


def bands():
    return speckle(SHAPE, seed=1), speckle(SHAPE, seed=2)


def run(src, out, model, stop=lambda: False, **changes):
    options = TranslateOptions(**{"engine": FP32, "blocksize": 64, **changes})
    translate(src, out, model=model, options=options, stop=stop)
    return pixels(out)


def pixels(path):
    with rasterio.open(path) as mosaic:
        return mosaic.read(), mosaic.dataset_mask() == 255


def pair(make_raster, vv, vh, **profile):
    profile = {**UTM, **profile}
    return make_raster(vv, "s1_VV.tif", **profile), make_raster(vh, "s1_VH.tif", **profile)


def item_of(vv, vh):
    return item("pair", {"vh": {"href": str(vh)}, "vv": {"href": str(vv)}, "thumbnail": {"href": "t.png"}})


def test_two_files_in_any_order_and_an_item_give_the_pixels_of_one_file(make_raster, tmp_path, model):
    vv, vh = bands()
    files = pair(make_raster, vv, vh)
    both = make_raster(np.stack([vh, vv]), "both.tif", descriptions=("VH", "VV"), **UTM)
    relative = saved(tmp_path / "item.json", item_of("./s1_VV.tif", "s1_VH.tif"))
    absolute = saved(tmp_path / "absolute.json", item_of(*files))
    by_url = saved(tmp_path / "url.json", item_of(*(file.as_uri() for file in files)))
    sources = [
        both,
        source_of(files),
        source_of(files[::-1]),
        *(source_of([x]) for x in (relative, absolute, by_url)),
    ]
    for k, source in enumerate(sources):
        rgb, valid = run(source, tmp_path / f"out{k}.tif", model)
        assert valid.all()
        np.testing.assert_array_equal(rgb, [vv, vh, vv])


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("uint16", "uint16"), ("uint16", "float32")])
@pytest.mark.parametrize("nodata", [(None, None), (0, None), (None, 7)])
def test_values_and_validity_are_those_of_one_file(make_raster, tmp_path, dtypes, nodata):
    vv, vh = (band.astype(dtype) for band, dtype in zip(bands(), dtypes, strict=True))
    vv[:40], vh[:, :50], vh[100, 100] = 0, 0, 7  # long runs of 0 are fill in DN, and in power without a nodata
    files = [
        make_raster(band, f"{name}.tif", nodata=none, **UTM)
        for band, name, none in zip((vv, vh), ("vv", "vh"), nodata, strict=True)
    ]
    # A VRT is one file whose bands may differ in type and in nodata.
    vrt = tmp_path / "both.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}">'
        + "".join(
            f'<VRTRasterBand dataType="{ {"float32": "Float32", "uint16": "UInt16"}[kind] }" band="{k}">'
            f"<Description>{name}</Description>"
            + ("" if none is None else f"<NoDataValue>{none}</NoDataValue>")
            + f'<SimpleSource><SourceFilename relativeToVRT="1">{name.lower()}.tif</SourceFilename></SimpleSource>'
            "</VRTRasterBand>"
            for k, (name, kind, none) in enumerate(zip(("VV", "VH"), dtypes, nodata, strict=True), 1)
        )
        + "</VRTDataset>"
    )
    options = SceneOptions(unit="amplitude")
    with open_scene(vrt, ("VV", "VH"), options) as one, open_scene(source_of(files), ("VV", "VH"), options) as two:
        assert two.dtype == one.dtype
        for (a, usable), (b, same) in (
            (one.read_rows(0, SHAPE[0]), two.read_rows(0, SHAPE[0])),
            (one.read((90, 110), (45, 110)), two.read((90, 110), (45, 110))),
            (one.read_stored(30, 120), two.read_stored(30, 120)),
        ):
            np.testing.assert_array_equal(usable, same)
            np.testing.assert_array_equal(a, b)
        for a, b in zip(one.read_samples(), two.read_samples(), strict=True):
            np.testing.assert_array_equal(a, b)
        values, valid = two.read((90, 110), (45, 110))
        assert valid[10, 55] == (nodata[1] != 7)
        assert values[0, 0, 20] == vv[90, 65]
        assert not values[:, ~valid].any()


def test_a_model_of_one_band_takes_the_file_that_it_needs(make_raster, tmp_path, identity_model):
    vv, vh = bands()
    files = pair(make_raster, vv, vh)
    rgb, _ = run(source_of(files), tmp_path / "out.tif", identity_model)
    np.testing.assert_array_equal(rgb, [vh] * 3)
    rgb, _ = run(source_of(files), tmp_path / "vv.tif", identity_model, scene=SceneOptions(bands=("VV",)))
    np.testing.assert_array_equal(rgb, [vv] * 3)


def gcps(shift=0.0):
    points = [(0, 0, 3, 45), (0, 400, 3.1, 45), (300, 0, 3, 44.9), (300, 400, 3.1, 44.9)]
    return {"gcps": [GroundControlPoint(r, c, x + shift, y) for r, c, x, y in points], "crs": "EPSG:4326"}


SHIFTED = Affine(10, 0, 500_001, 0, -10, 4_800_000)


@pytest.mark.parametrize(
    ("one", "other", "shape", "said"),
    [
        (UTM, UTM, (300, 401), r"differ in their sizes \(400 x 300 and 401 x 300\)"),
        (UTM, {**UTM, "crs": "EPSG:32632"}, SHAPE, r"differ in their CRS \(EPSG:32631 and EPSG:32632\)"),
        (UTM, {}, SHAPE, r"differ in their CRS \(EPSG:32631 and none\)"),
        (UTM, {**UTM, "transform": SHIFTED}, SHAPE, r"differ in their affines \(.*500000.*500001"),
        (gcps(), gcps(0.001), SHAPE, r"differ in their GCPs \(4, the first \(0.0, 0.0, 3.0.*3.001"),
        (gcps(), {"gcps": gcps()["gcps"][:3], "crs": "EPSG:4326"}, SHAPE, r"differ in their GCPs \(4, .* and 3,"),
    ],
    ids=["size", "crs", "no crs", "affine", "gcps", "fewer gcps"],
)
def test_files_on_different_grids_are_refused_with_both_names(make_raster, one, other, shape, said):
    files = make_raster(speckle(SHAPE), "a_VV.tif", **one), make_raster(speckle(shape), "a_VH.tif", **other)
    with (
        pytest.raises(SceneUnreadable, match=rf"{files[0]} and {files[1]}: {said}.*: give files on one grid"),
        open_scene(source_of(files), ("VV", "VH")),
    ):
        pass


def test_an_affine_that_differs_by_rounding_is_the_same_grid(make_raster):
    near = {**UTM, "transform": Affine(10 + 1e-9, 0, 500_000, 0, -10, 4_800_000 + 1e-7)}
    files = make_raster(speckle(SHAPE), "a_VV.tif", **UTM), make_raster(speckle(SHAPE), "a_VH.tif", **near)
    with open_scene(source_of(files), ("VV", "VH")) as scene:
        assert scene.georeference.transform == UTM["transform"]
        assert scene.polarisations == ("VV", "VH")


def test_files_without_a_polarisation_need_the_order_of_their_bands(make_raster, tmp_path, model):
    vv, vh = bands()
    files = make_raster(vv, "one.tif", **UTM), make_raster(vh, "two.tif", **UTM)
    with pytest.raises(BandNotFound, match=r"one.tif does not name its polarisation: rename it.*or give --band"):
        run(source_of(files), tmp_path / "out.tif", model)
    for k, (order, wanted) in enumerate(((("1", "2"), [vv, vh, vv]), (("2", "1"), [vh, vv, vh]))):
        rgb, _ = run(source_of(files), tmp_path / f"out{k}.tif", model, scene=SceneOptions(bands=order))
        np.testing.assert_array_equal(rgb, wanted)


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        (("a_VV.tif", "b_VV.tif"), BandNotFound, "2 bands are VV.*give --band 1 or 2"),
        (("a_VV.tif", "a_HV.tif"), BandNotFound, r"the model was trained on VH, the file has 1 \(VV\), 2 \(HV\)"),
        (("a_VV.tif", "incidence_angle.tif"), BandNotFound, "incidence_angle is an angle"),
        (("a_VV.tif", "missing_VH.tif"), SceneUnreadable, "missing_VH.tif: no such file"),
    ],
)
def test_files_that_are_not_a_pair_are_refused(make_raster, tmp_path, names, kind, said):
    files = [
        tmp_path / name if name.startswith("missing") else make_raster(speckle(SHAPE), name, **UTM) for name in names
    ]
    with pytest.raises(kind, match=said), open_scene(source_of(files), ("VV", "VH")):
        pass


def test_tags_name_a_polarisation_before_the_file_does(make_raster):
    files = (
        make_raster(bands()[0], "first.tif", tags={"polarization": "VV"}, **UTM),
        make_raster(bands()[1], "second.tif", descriptions=("VH",), **UTM),
    )
    with open_scene(source_of(files[::-1]), ("VV", "VH")) as scene:
        values, _ = scene.read_rows(0, 1)
    np.testing.assert_array_equal(values[:, 0], [band[0] for band in bands()])


def test_an_items_key_names_a_file_that_does_not_and_must_not_contradict_it(make_raster, tmp_path):
    one, two = make_raster(bands()[0], "one.tif", **UTM), make_raster(bands()[1], "two.tif", **UTM)
    with open_scene(source_of([saved(tmp_path / "x.json", item_of(one, two))]), ("VV", "VH")) as scene:
        values, _ = scene.read_rows(0, 1)
    np.testing.assert_array_equal(values[:, 0], [band[0] for band in bands()])
    swapped = saved(tmp_path / "y.json", item_of(*pair(make_raster, *bands())[::-1]))
    with (
        pytest.raises(BandNotFound, match=r"its asset vv is .*s1_VH.tif, which is named VH: correct the Item"),
        open_scene(source_of([swapped]), ("VV", "VH")),
    ):
        pass


def test_a_run_resumes_with_the_files_in_another_order_and_refuses_other_files(make_raster, tmp_path, model):
    vv, vh = speckle((600, 300), seed=1), speckle((600, 300), seed=2)
    files = pair(make_raster, vv, vh)
    count = iter(range(9))
    with pytest.raises(Interrupted):
        run(source_of(files), tmp_path / "out.tif", model, stop=lambda: next(count) > 1)
    other = make_raster(vh, "other_VH.tif", **UTM)
    with pytest.raises(sar2optical.Sar2OpticalError, match=r"scene s1_VV.tif .*s1_VH.tif .*now .*other_VH.tif"):
        run(source_of([files[0], other]), tmp_path / "out.tif", model)
    options = TranslateOptions(engine=FP32, blocksize=64)
    report = translate(source_of(files[::-1]), tmp_path / "out.tif", model=model, options=options)
    assert report.rows_kept > 0
    np.testing.assert_array_equal(pixels(tmp_path / "out.tif")[0], [vv, vh, vv])
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        assert mosaic.tags()["SAR2OPTICAL_SOURCE"] == "s1_VV.tif + s1_VH.tif"


def test_an_output_never_replaces_one_of_the_files(make_raster, tmp_path, identity_model):
    files = pair(make_raster, *bands())
    (tmp_path / "link.tif").symlink_to(files[0])
    for out in (*files, tmp_path / "link.tif"):  # VV is not read by this model
        with pytest.raises(OptionError, match="is the input scene, or a file that it refers to"):
            run(source_of(files), out, identity_model, overwrite=True)
    with prepared(source_of(files), tmp_path / "out.tif", model=identity_model) as job:
        assert job.scene.files == (files[1],)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no file of the scene is given"),
        (["a_VV.tif", "a_VV.tif"], "a_VV.tif: is given twice"),
        (["a_VV.tif", "item.json"], "item.json: a STAC Item is a scene of its own"),
        (["https://host/item.json"], "read from local files only"),
        (["missing.json"], "missing.json: is not a STAC ItemCollection"),
    ],
)
def test_sources_that_are_no_scene_are_refused(given, said):
    with pytest.raises(OptionError, match=said):
        source_of(given)


def test_an_item_collection_is_one_scene_only_with_one_item(make_raster, tmp_path):
    both = item_of(*pair(make_raster, *bands()))
    one = saved(tmp_path / "one.json", {"type": "FeatureCollection", "features": [both]})
    assert isinstance(source_of([one]), SceneFiles)
    two = saved(tmp_path / "two.json", {"type": "FeatureCollection", "features": [both, both]})
    with pytest.raises(OptionError, match="contains 2 STAC Items: give one Item, or use sar2opt-batch"):
        source_of([two])
    with pytest.raises(OptionError, match="item x: has no asset named after a polarisation"):
        source_of([saved(tmp_path / "x.json", item("x", {"red": {"href": "r.tif"}, "nir": {"href": "n.tif"}}))])


def test_a_calibration_has_no_effect_on_several_files(make_raster):
    files = pair(make_raster, *bands())
    with (
        pytest.raises(OptionWithoutEffect, match=r"s1_VV.tif \+ .*s1_VH.tif: is not a Sentinel-1 product"),
        open_scene(source_of(files), ("VV", "VH"), None, ProductOptions()),
    ):
        pass


def test_a_list_of_paths_in_python(make_raster, tmp_path, model):
    vv, vh = bands()
    files = [str(file) for file in pair(make_raster, vv, vh)]
    out = tmp_path / "out.tif"
    assert sar2optical.estimate(files, out, model=model, precision="fp32").windows == 4
    sar2optical.translate(files, out, model=model, precision="fp32")
    np.testing.assert_array_equal(pixels(out)[0], [vv, vh, vv])
    with sar2optical.open_scene(files, bands=["VH", "VV"]) as scene:
        assert scene.polarisations == ("VH", "VV")
        np.testing.assert_array_equal(scene.read(), [vh, vv])
    with pytest.raises(OptionError, match="scene is a list"):
        sar2optical.translate([vv, vh], out, model=model)


def test_the_command_takes_files_and_an_item(make_raster, tmp_path, model):
    vv, vh = bands()
    files = pair(make_raster, vv, vh)
    fixed = ("--model", model, "--precision", "fp32", "-q")
    record = saved(tmp_path / "item.json", item_of(*files))
    for k, given in enumerate((files, files[::-1], [record])):
        out = tmp_path / f"out{k}.tif"
        assert here(scene_main, *given, out, *fixed).returncode == 0
        np.testing.assert_array_equal(pixels(out)[0], [vv, vh, vv])
    was = record.read_bytes()
    done = here(scene_main, record, tmp_path / "new.tif", "--report", record, "--overwrite", *fixed)
    assert (done.returncode, record.read_bytes()) == (1, was)
    assert "is an input" in done.stderr
    assert json.loads(was)["id"] == "pair"
    assert here(scene_main, files[0], *fixed).returncode == 2  # OUT is missing


def test_files_on_a_server_are_one_scene_and_their_queries_stay_secret(make_raster, tmp_path, model, server):
    vv, vh = bands()
    files = pair(make_raster, vv, vh)
    for file in files:
        server.put(f"/{file.name}", file.read_bytes())
    signed = [f"{server.url}/{file.name}?sig=secret{k}" for k, file in enumerate(files)]
    record = saved(tmp_path / "item.json", item_of(*signed))
    for k, given in enumerate((signed, [signed[0], files[1]], [record])):
        out = tmp_path / f"out{k}.tif"
        report = translate(source_of(given), out, model=model, options=TranslateOptions(engine=FP32))
        np.testing.assert_array_equal(pixels(out)[0], [vv, vh, vv])
        assert "values" in report.manifest  # a server does not say when its files change
        with rasterio.open(out) as mosaic:
            tags = mosaic.tags()
        assert tags["SAR2OPTICAL_SOURCE"] == "s1_VV.tif + s1_VH.tif"
        assert "secret" not in report.to_json() + json.dumps(tags)
    with pytest.raises(SceneUnreadable, match=r"nothing_VH.tif: cannot be opened: the server answers 404") as caught:
        run(source_of([signed[0], f"{server.url}/nothing_VH.tif?sig=secret"]), tmp_path / "x.tif", model)
    assert "secret" not in str(caught.value)


def test_a_forgotten_output_does_not_replace_the_last_file(make_raster, tmp_path, model):
    files = pair(make_raster, *bands())
    was = files[1].read_bytes()
    fixed = ("--model", model, "--precision", "fp32", "-q")
    for more in ((), ("--overwrite",)):
        done = here(scene_main, *files, *fixed, *more)
        assert (done.returncode, files[1].read_bytes()) == (1, was)
        assert "is named like a SAR raster and is no mosaic: give OUT after the files of the scene" in done.stderr
    out = tmp_path / "mosaic_VV.tif"
    for more in ((), ("--overwrite",)):  # a mosaic may have such a name
        assert here(scene_main, *files, out, *fixed, *more).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "S1A_IW_20260101T053000_DVP_RTC30_G_gpuned_1A2B_{}.tif",
        "OPERA_L2_RTC-S1_T064-135515-IW1_20260101T053000Z_S1A_30_v1.0_{}.tif",
        "iw-{}.rtc.tiff",
    ],
    ids=["HyP3", "OPERA", "Planetary Computer"],
)
def test_the_other_polarisation_is_found_by_name_from_either_file(make_raster, tmp_path, model, caplog, name):
    """Names: HyP3's RTC product guide; OPERA RTC-S1 product specification; Planetary Computer, sentinel-1-rtc."""
    names = [name.format(band.lower() if name.startswith("iw") else band) for band in ("VV", "VH")]
    arrays = bands()
    files = [make_raster(array, one, **UTM) for one, array in zip(names, arrays, strict=True)]
    for k, file in enumerate(files):
        with caplog.at_level("INFO"):
            rgb, _ = run(file, tmp_path / f"out{k}.tif", model, scene=SceneOptions(unit="byte"))
        np.testing.assert_array_equal(rgb, [arrays[0], arrays[1], arrays[0]])
        assert f"{file.name}: is read together with {files[1 - k].name}, found by its name" in caplog.text
    files[1].unlink()
    with pytest.raises(BandNotFound):
        run(files[0], tmp_path / "alone.tif", model)


def test_no_other_file_is_taken_where_one_is_enough(make_raster, tmp_path, model, identity_model):
    vv, vh = bands()
    both = make_raster(np.stack([vv, vh]), "s1_VV.tif", descriptions=("VV", "VH"), **UTM)
    make_raster(vh[::-1].copy(), "s1_VH.tif", **UTM)
    np.testing.assert_array_equal(run(both, tmp_path / "both.tif", model)[0], [vv, vh, vv])
    with pytest.raises(BandNotFound):  # the user's choice of bands is not extended
        run(tmp_path / "s1_VH.tif", tmp_path / "x.tif", model, scene=SceneOptions(bands=("VV", "VH")))


def test_the_other_polarisation_is_found_on_a_server(make_raster, tmp_path, model, server):
    vv, vh = bands()
    for file in pair(make_raster, vv, vh):
        server.put(f"/{file.name}", file.read_bytes())
    rgb, _ = run(f"{server.url}/s1_VV.tif?sig=secret_VV", tmp_path / "out.tif", model)
    np.testing.assert_array_equal(rgb, [vv, vh, vv])


IN_OTHER_UNITS = {
    "power": lambda db: 10 ** (db / 10),
    "dn": lambda db: np.rint(3000 * 10 ** (db / 20)).astype(np.uint16),
    "hundredths of dB": lambda db: np.rint(100 * db).astype(np.int16),
}


@pytest.mark.parametrize("other", IN_OTHER_UNITS.values(), ids=IN_OTHER_UNITS.keys())
def test_bands_in_several_units_are_refused(make_raster, other):
    rng = np.random.default_rng(1)
    vv, vh = (rng.uniform(low, low + 20, (40, 50)).astype(np.float32) for low in (-24, -30))
    with open_scene(source_of(pair(make_raster, vv, vh)), ("VV", "VH")) as scene:
        assert scene.unit == "db"
    for first, second in ((vv, other(vh)), (other(vv), vh)):
        files = pair(make_raster, first, second)
        for source in (source_of(files), files[0]):  # also where the second one is found by its name
            with pytest.raises((UnitsMismatch, UnitsUnknown)), open_scene(source, ("VV", "VH")):
                pass
    if other(vh).dtype == np.float32:  # bands of one file, as SNAP may save them
        both = make_raster(np.stack([vv, other(vh)]), "both.tif", descriptions=("VV", "VH"), **UTM)
        with pytest.raises(UnitsMismatch, match="band 2"), open_scene(both, ("VV", "VH")):
            pass


def test_a_unit_that_the_user_gives_must_be_possible_in_each_band(make_raster):
    rng = np.random.default_rng(1)
    power, db = rng.uniform(0, 1, (40, 50)).astype(np.float32), rng.uniform(-25, -5, (40, 50)).astype(np.float32)
    source, options = source_of(pair(make_raster, power, db)), SceneOptions(unit="power")
    with pytest.raises(UnitsUnknown, match=r"s1_VH\.tif"), open_scene(source, ("VV", "VH"), options):
        pass


def test_a_link_to_a_file_is_no_other_polarisation(make_raster, tmp_path):
    vv, _ = bands()
    file = make_raster(vv, "s1_VV.tif", **UTM)
    (tmp_path / "s1_VH.tif").symlink_to(file)
    with pytest.raises(SceneUnreadable, match="are one file"), open_scene(file, ("VV", "VH")):
        pass


def test_a_product_its_files_one_file_and_an_item_give_the_same_pixels(tmp_path, make_raster, model):
    dn = np.random.default_rng(5).integers(40, 900, (300, 400)).astype(np.uint16)
    root = make_product(tmp_path, dn=dn)
    files = sorted((root / "measurement").glob("*.tiff"), reverse=True)
    assert ["-vv-" in file.name for file in files] == [True, False]
    with rasterio.open(files[0]) as first:
        points, crs = first.gcps
    both = make_raster(np.stack([dn, 2 * dn]), "both.tif", descriptions=("VV", "VH"), gcps=points, crs=crs)
    record = saved(tmp_path / "item.json", item_of(*files))
    product = {"product": ProductOptions(calibration="dn")}
    wanted, valid = run(root, tmp_path / "safe.tif", model, **product)
    assert valid.all()
    assert wanted.std() > 10
    for k, source in enumerate((source_of(files), both, source_of([record]))):
        rgb, same = run(source, tmp_path / f"out{k}.tif", model)
        np.testing.assert_array_equal(rgb, wanted)
        np.testing.assert_array_equal(same, valid)
