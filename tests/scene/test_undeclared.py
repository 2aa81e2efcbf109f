"""Missing or ambiguous metadata: undeclared nodata, other layers, pages, packed values, georeferences."""

from __future__ import annotations

import logging
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from sar2optical.errors import BandNotFound, SceneUnreadable, UnitsMismatch, UnitsUnknown
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.scene.encoder import choose_stretch
from sar2optical.scene.nodata import LEAST_RUN, FillFinder, Suspects
from sar2optical.scene.sources import log_contents
from sar2optical.signature import Bound, ModelSignature, Stretch

SHAPE = (60, 200)
UTM = {"crs": "EPSG:32631", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}


def power(seed=0):
    rng = np.random.default_rng(seed)
    return (0.05 * rng.gamma(4, 0.25, SHAPE) + 1e-4).astype(np.float32)


def db():
    return (10 * np.log10(power())).astype(np.float32)


def read(path, band=("VH",), **options):
    """Values and validity of a whole scene, and the samples that its stretch comes from."""
    with open_scene(path, band, SceneOptions(**options)) as scene:
        values, valid = scene.read_rows(0, scene.shape[0])
        return values[0], valid, scene.read_samples()[0]


def ends(values):
    """Counts of fill at both ends of each row, where a stored 0 is suspect."""
    finder = FillFinder(values.shape[1:], [Suspects(np.float32(0))])
    valid = np.ones(values.shape[1:], bool)
    finder.look(values, valid, 0, left=True, right=True)
    found = finder.ends(0)
    return found.counts(values[0], valid), found.counts(values[0, :, ::-1], valid)


# Fill values at the sides


@pytest.mark.parametrize(
    ("image", "name", "fill"),
    [
        (db, "VH dB", 0.0),
        (power, "Sigma0_VH", -9999.0),
        (power, "Sigma0_VH", -32768.0),
        (power, "Sigma0_VH", 0.0),
    ],
)
@pytest.mark.parametrize("nodata", [None, -1.0])
def test_fill_at_the_sides_is_masked_and_not_sampled(make_raster, image, name, fill, nodata, caplog):
    """Swaths are rotated in their rectangle: each row has another number of fill pixels on both sides."""
    values = image()
    expected = np.ones(SHAPE, bool)
    for row in range(SHAPE[0]):
        expected[row, : 10 + row] = expected[row, SHAPE[1] - 70 + row :] = False
    filled = np.where(expected, values, np.float32(fill))
    found, valid, samples = read(make_raster(filled, descriptions=[name], nodata=nodata))
    np.testing.assert_array_equal(valid, expected)
    assert (found[~expected] == 0).all()
    np.testing.assert_array_equal(found[expected], values[expected])
    np.testing.assert_array_equal(np.sort(samples), np.sort(values[expected]))


def test_zeros_beside_declared_nodata_are_masked_and_zeros_inside_stay(make_raster):
    values = power()
    values[:, :30], values[:, 30:50] = -32768, 0
    values[10:30, 100:140] = 0  # a lake where noise was subtracted
    values[5, 55] = 0
    _, valid, _ = read(make_raster(values, descriptions=["Sigma0_VH"], nodata=-32768))
    assert not valid[:, :50].any()
    assert valid[:, 50:].all()


@pytest.mark.parametrize("declared", [None, -9999.0])
def test_lone_zeros_inside_power_stay_and_areas_of_zeros_do_not(make_raster, declared):
    image = power()
    image[10, 50] = image[11, 60:67] = 0  # one, and seven in a row: noise was subtracted there
    image[30:40, 80 : 80 + 3 * LEAST_RUN] = 0
    values, valid, _ = read(make_raster(image, "Sigma0_VH.tif", nodata=declared, descriptions=["Sigma0_VH"]))
    expected = np.ones(SHAPE, np.bool_)
    if declared is None:
        expected[30:40, 80 : 80 + 3 * LEAST_RUN] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(values, image)


def test_a_rectangle_sees_runs_of_zeros_as_whole_rows_do(make_raster):
    image = power()
    image[:, 90:103] = 0
    image[5, 40:44] = 0
    path = make_raster(image, "Sigma0_VH.tif", descriptions=["Sigma0_VH"])
    with open_scene(path, ("VH",)) as scene:
        whole = scene.read_rows(0, SHAPE[0])[1]
        for cols in ((0, 95), (95, 98), (100, 200), (41, 43)):
            np.testing.assert_array_equal(scene.read((0, SHAPE[0]), cols)[1], whole[:, slice(*cols)])
    assert not whole[:, 90:103].any()
    assert whole[5, 40:44].all()


@pytest.mark.parametrize("fill", [-9999, -32768])
def test_short_runs_of_a_sentinel_at_the_sides_are_fill(make_raster, fill):
    """A swath whose edge runs nearly along the raster's: rows end in one to seven pixels of fill."""
    image = db()
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    outside = cols < 20 - rows // 3
    image[outside] = fill
    _, valid, samples = read(make_raster(image, "VH.tif", descriptions=["VH"]))
    np.testing.assert_array_equal(valid, ~outside)
    assert samples.min() > -60


def rotated(fill_columns=20):
    """Outside a swath that lies askew: rows begin with 0 to so many pixels of it."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return cols < fill_columns - rows // 3


@pytest.mark.parametrize(
    ("image", "name", "fill", "nodata"),
    [
        (db, "VH dB", 0.0, None),
        (db, "VH dB", -100.0, None),
        (db, "VH dB", -999.0, None),
        (power, "VH_gamma0_terrain", 0.0, float("nan")),
        (power, "VH_gamma0_terrain", -100.0, float("nan")),
    ],
)
def test_a_fill_value_found_in_one_row_is_masked_as_single_pixels_in_others(make_raster, image, name, fill, nodata):
    outside = rotated()
    filled = np.where(outside, np.float32(fill), image())
    assert (outside.sum(axis=1) == 1).any()
    _, valid, samples = read(make_raster(filled, descriptions=[name], nodata=nodata))
    np.testing.assert_array_equal(valid, ~outside)
    np.testing.assert_array_equal(np.sort(samples), np.sort(image()[~outside]))


def gap():
    """Between two swaths that lie askew, away from the ends of all rows."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (cols >= 90 + rows // 4) & (cols < 120 + rows // 4)


@pytest.mark.parametrize(
    ("image", "name", "fill", "nodata"),
    [
        (db, "VH dB", 0.0, None),
        (db, "VH dB", 0.0, float("nan")),
        (db, "VH dB", -9999.0, None),
        (power, "Sigma0_VH", -9999.0, None),
        (power, "Sigma0_VH", -32768.0, 0.0),
        (power, "Sigma0_VH", 0.0, None),
    ],
)
def test_fill_between_two_swaths_is_masked_and_not_sampled(make_raster, image, name, fill, nodata):
    filled = np.where(gap(), np.float32(fill), image())
    path = make_raster(filled, descriptions=[name], nodata=nodata)
    _, valid, samples = read(path)
    np.testing.assert_array_equal(valid, ~gap())
    np.testing.assert_array_equal(np.sort(samples), np.sort(image()[~gap()]))
    with open_scene(path, ("VH",)) as scene:
        for cols in ((0, 100), (95, 98), (103, 200)):
            np.testing.assert_array_equal(scene.read((0, SHAPE[0]), cols)[1], ~gap()[:, slice(*cols)])


def test_areas_of_zero_power_beside_another_nodata_are_logged(make_raster, caplog):
    """They may be nodata between two swaths, or water after noise removal."""
    filled = np.where(gap(), np.float32(0), power())
    path = make_raster(filled, descriptions=["Sigma0_VH"], nodata=-1)
    assert read(path)[1].all()
    assert "15 % of the valid pixels are zeros in areas inside the scene" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(read(path, nodata=0)[1], ~gap())  # what the message advises
    assert "of the valid pixels" not in caplog.text


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "fill"),
    [
        ("int16", 0.01, 0.0, -9999),  # -99.99 dB
        ("int16", 0.01, 0.0, -32768),
        ("int16", 0.01, 0.0, 0),
        ("uint16", 0.001, -50.0, 0),  # -50 dB
        ("uint16", 0.001, -50.0, 65535),  # 15.5 dB
        ("uint8", 0.2, -40.0, 255),  # 11 dB
    ],
)
@pytest.mark.parametrize("where", ["side", "gap"])
def test_fill_of_packed_decibels_is_recognised_by_the_stored_values(make_raster, dtype, scale, offset, fill, where):
    outside = rotated() if where == "side" else rotated() | gap()
    stored = np.where(outside, fill, np.rint((db() - offset) / scale)).astype(dtype)
    path = make_raster(stored, descriptions=["VH"])
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,), (offset,)
    _, valid, samples = read(path)
    np.testing.assert_array_equal(valid, ~outside)
    assert samples.size == (~outside).sum()


@pytest.mark.parametrize(
    ("image", "name", "fill"), [(db, "VH dB", 0.0), (db, "VH dB", -999.0), (power, "Sigma0_VH", 0.0)]
)
@pytest.mark.parametrize("columns", [1, 5])
def test_a_narrow_border_is_fill_where_many_rows_have_it(make_raster, image, name, fill, columns):
    values = image()
    values[:, :columns] = fill
    _, valid, samples = read(make_raster(values, descriptions=[name], nodata=float("nan")))
    assert not valid[:, :columns].any()
    assert valid[:, columns:].all()
    assert samples.size == valid.sum()


@pytest.mark.parametrize("outer", [-9999.0, float("nan")])
@pytest.mark.parametrize(("image", "name"), [(db, "VH dB"), (power, "Sigma0_VH")])
def test_a_fringe_of_0_beside_other_fill_goes_too(make_raster, image, name, outer):
    values = image()
    values[:, :20] = outer
    values[:, 20:23] = 0
    _, valid, _ = read(make_raster(values, descriptions=[name]))
    assert not valid[:, :23].any()
    assert valid[:, 23:].all()


@pytest.mark.parametrize(
    ("dtype", "fill"), [("int16", -9999), ("int16", 32767), ("int32", -9999), ("int32", 65535), ("uint16", 65535)]
)
@pytest.mark.parametrize("where", [rotated, gap])
def test_fill_of_packed_power_is_recognised_by_the_stored_values(make_raster, dtype, fill, where):
    """-9999 ten-thousandths are -0.9999: no power, and not as low as any dB."""
    outside = where()
    path = make_raster(np.where(outside, fill, np.rint(power() * 1e4)).astype(dtype), descriptions=["Sigma0_VH"])
    with rasterio.open(path, "r+") as file:
        file.scales = (1e-4,)
    _, valid, samples = read(path)
    np.testing.assert_array_equal(valid, ~outside)
    assert samples.min() > 0


@pytest.mark.parametrize(("image", "name"), [(db, "VH dB"), (power, "Sigma0_VH")])
@pytest.mark.parametrize("fill", [-100.0, -999.0])
def test_values_below_any_backscatter_between_two_swaths_are_masked(make_raster, image, name, fill):
    values = np.where(gap(), np.float32(fill), image())
    values[10, 20] = fill  # what is fill there is fill alone
    expected = ~gap()
    expected[10, 20] = False
    _, valid, samples = read(make_raster(values, descriptions=[name]))
    np.testing.assert_array_equal(valid, expected)
    assert samples.min() > fill


@pytest.mark.parametrize("offset", [-60.0, -30.0, 5.0])
def test_sentinels_are_found_however_float32_rounds_them(make_raster, offset):
    stored = np.where(gap(), -9999, np.rint((db() - offset) * 100)).astype(np.int16)
    path = make_raster(stored, descriptions=["VH"])
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.01,), (offset,)
    np.testing.assert_array_equal(read(path, unit="db")[1], ~gap())


def test_lone_zeros_of_two_bands_do_not_add_up(make_raster):
    both = np.stack([power(), power(1)])
    both[0, 10, 50:54] = both[1, 10, 54:58] = 0
    path = make_raster(both, "both_Cal.tif", descriptions=["Sigma0_VV", "Sigma0_VH"])
    assert read(path, ("VV", "VH"))[1].all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_first_band_of_alpha_is_skipped(make_raster, count):
    bands = np.stack([np.full(SHAPE, 255, np.float32), db()])[:count]
    kinds = [ColorInterp.alpha, ColorInterp.gray][:count]
    path = make_raster(bands, "a_dB.tif", colorinterp=kinds)
    if count == 1:
        with pytest.raises(SceneUnreadable, match="has no band except alpha"):
            read(path)
    else:
        np.testing.assert_array_equal(read(path)[0], db())


def test_thousandths_of_decibels_are_not_sentinels(make_raster):
    """-9999 of them are -9.999 dB."""
    path = make_raster(np.rint(1000 * db()).astype(np.int32), descriptions=["VH"])
    assert read(path, unit="db", scale=0.001)[1].all()


@pytest.mark.parametrize(
    ("dtype", "fill"), [("int16", -9999), ("int16", -32768), ("int32", -9999), ("uint16", 65535)]
)
def test_fill_of_plain_integers_is_masked(make_raster, dtype, fill):
    outside = rotated()
    dn = np.where(outside, fill, 1000 * np.sqrt(power()) + 1).astype(dtype)
    np.testing.assert_array_equal(read(make_raster(dn, "dn.tif", descriptions=["VH"]), unit="dn")[1], ~outside)
    if np.dtype(dtype).kind == "i":
        whole = np.where(outside, fill, np.rint(db())).astype(dtype)
        np.testing.assert_array_equal(read(make_raster(whole, "db.tif", descriptions=["VH"]), unit="db")[1], ~outside)


@pytest.mark.parametrize("declared", [None, 65535])
def test_dn_of_0_inside_stay_and_the_border_does_not(make_raster, declared):
    dn = (1000 * np.sqrt(power()) + 1).astype(np.uint16)
    outside = rotated(21)
    dn[outside] = 0
    dn[40, 100] = dn[41, 100:107] = 0  # shadows
    dn[50, 100:130] = 0
    expected = ~outside
    expected[50, 100:130] = False
    path = make_raster(dn, descriptions=["VH"], nodata=declared)
    _, valid, samples = read(path)
    np.testing.assert_array_equal(valid, expected)
    assert samples.min() > 0
    with open_scene(path, ("VH",)) as scene:
        np.testing.assert_array_equal(scene.read((0, SHAPE[0]), (104, 200))[1], expected[:, 104:])


def test_saturated_pixels_inside_stay(make_raster):
    dn = (1000 * np.sqrt(power()) + 1).astype(np.uint16)
    dn[20, 50:57] = 65535
    assert read(make_raster(dn, descriptions=["VH"]), unit="dn")[1].all()


@pytest.mark.parametrize(
    ("name", "polarisation"),
    [
        ("S1A_IW_GRDH_1SSV_20200501T054104_20200501T054129_032370_03BF20_DB12_Orb_Cal_TC_dB.tif", "VV"),
        ("S1A_EW_GRDM_1SSH_20200501T054104_20200501T054129_032370_03BF20_DB12_Orb_Cal_TC_dB.tif", "HH"),
        ("D20160129_171512--_SIG0-----_S1AIWGRDH1VVA_015_A0105_EU010M_E045N015T1_dB.tif", "VV"),
    ],
)
def test_a_polarisation_within_a_products_code_is_read(make_raster, name, polarisation):
    path = make_raster(db(), name)
    with pytest.raises(BandNotFound, match=rf"the file has 1 \({polarisation}\)"):
        read(path)
    assert read(path, (polarisation,))[1].all()


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("S1_VH_VV.tif", {}),
        ("VVandVH_dB.tif", {}),
        ("S1A_VVVH.tif", {}),
        ("S1A_IW_VVVH_dB.tif", {}),
        ("x.tif", {"descriptions": ["VV/VH"]}),
        ("x.tif", {"tags": {"POLARISATIONS": "VV VH"}}),
    ],
)
def test_a_name_of_two_polarisations_is_ambiguous(make_raster, name, described):
    """A ratio or a difference of two bands has neither polarisation."""
    path = make_raster(db(), name, **described)
    with pytest.raises(BandNotFound, match=r"trained on VV or VH, the file has 1 \(VH and VV\): give --band 1 to"):
        read(path, ("VV|VH",), unit="db")
    values, valid, _ = read(path, ("VV|VH",), unit="db", bands=("1",))  # what the message advises
    np.testing.assert_array_equal(values, db())
    assert valid.all()


def test_a_bands_own_name_comes_before_a_files_of_two_polarisations(make_raster):
    path = make_raster(db(), "S1_VV_VH.tif", descriptions=["VV"])
    np.testing.assert_array_equal(read(path, ("VV",), unit="db")[0], db())
    tagged = make_raster(db(), "y.tif", tags={"POLARISATIONS": "VV"})
    with pytest.raises(BandNotFound, match=r"the file has 1 \(VV\)"):
        read(tagged, ("VH",), unit="db")


@pytest.mark.parametrize("name", ["simulatedImage", "VV_coherence", "phase", "VH_VV_ratio"])
def test_layers_computed_from_a_scene_are_not_backscatter(make_raster, name):
    with pytest.raises(BandNotFound, match="not backscatter"):
        read(make_raster(db(), "x.tif", descriptions=[name]), ("VV|VH",), unit="db")


@pytest.mark.parametrize("black", [slice(28, 32), slice(0, 40), slice(15, 60)])
def test_a_photograph_with_black_rows_is_refused(make_raster, black):
    photo = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    photo[:, black] = 0
    with pytest.raises(BandNotFound, match="a colour picture"):
        read(make_raster(photo, "photo.tif", photometric="RGB"))
    grey = make_raster(np.repeat(photo[:1], 3, axis=0), "grey.tif", photometric="RGB")
    np.testing.assert_array_equal(read(grey)[0], photo[0])


def test_a_unit_tag_comes_before_a_bands_name(make_raster):
    path = make_raster(np.sqrt(power()), "x.tif", descriptions=["Sigma0_VH"], tags={"units": "amplitude"})
    with open_scene(path, ("VH",)) as scene:
        assert scene.unit == "amplitude"


def test_short_runs_and_plain_integers_are_not_fill(make_raster):
    values = db()
    values[20, : LEAST_RUN - 1] = 0
    assert read(make_raster(values, descriptions=["VH dB"]))[1].all()
    grey = np.full(SHAPE, 90, np.uint8)
    grey[:, :50] = 0  # water, perhaps
    assert read(make_raster(grey, "chip.png"))[1].all()


def test_hundredths_of_decibels_are_not_fill(make_raster):
    values = (100 * db()).astype(np.float32)
    assert read(make_raster(values, descriptions=["VH"]), unit="db", scale=0.01)[1].all()
    assert not ends(values[None])[0].any()


def test_a_rectangle_is_masked_as_whole_rows_are(make_raster):
    values = db()
    values[:, :40] = 0
    path = make_raster(values, descriptions=["VH dB"])
    with open_scene(path, ("VH",), SceneOptions(unit="db")) as scene:
        _, part = scene.read((10, 30), (30, 60))
    assert not part[:, :10].any()
    assert part[:, 10:].all()


def test_fill_is_counted_across_blocks_of_columns():
    values = np.ones((1, 3, 700), np.float32)
    values[0, 0, :600] = values[0, 1, 690:] = values[0, 2] = 0
    left, right = ends(values)
    assert left.tolist() == [600, 0, 700]
    assert right.tolist() == [0, 10, 700]


def test_fill_is_logged(make_raster, caplog):
    values = db()
    values[:7, :40] = 0
    with caplog.at_level("INFO", "sar2optical"):
        read(make_raster(values, descriptions=["VH dB"]))
    assert (
        "fill values at the ends of at least 7 rows are masked, but not declared as nodata in the file" in caplog.text
    )
    caplog.clear()
    values[20, 50] = -9999
    with caplog.at_level("INFO", "sar2optical"):
        assert not read(make_raster(values, descriptions=["VH dB"]))[1][20, 50]
    assert "values of -9999 or less are masked, but not declared as nodata in the file" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "sar2optical"):
        read(make_raster(db(), descriptions=["VH dB"]))
    assert "not declared" not in caplog.text


# Packed values, units that cannot be


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"), [("uint8", 0.2, -40.0), ("int16", 0.01, 0.0), ("uint16", 0.001, -50.0)]
)
def test_the_unit_of_packed_decibels_is_guessed_after_scale_and_offset(make_raster, dtype, scale, offset):
    stored = np.rint((db() - offset) / scale).astype(dtype)
    path = make_raster(stored, descriptions=["VH"])
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,), (offset,)
    with open_scene(path, ("VH",)) as scene:
        assert scene.unit == "db"
        values, _ = scene.read_rows(0, SHAPE[0])
    assert np.abs(values[0] - db()).max() <= scale / 2 + 1e-3


@pytest.mark.parametrize("declared", [(float("nan"), 0.0), (0.0, 0.0), (1.0, float("nan"))])
def test_an_invalid_declared_scale_is_refused_unless_one_is_given(make_raster, declared):
    path = make_raster(np.rint(db() * 100).astype(np.int16), descriptions=["VH"])
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = ((value,) for value in declared)
    with pytest.raises(SceneUnreadable, match="give --scale FACTOR"):
        read(path)
    np.testing.assert_allclose(read(path, scale=0.01)[0], db(), atol=0.006)


@pytest.mark.parametrize("unit", ["db", "power", "amplitude", "dn"])
def test_units_that_are_impossible_for_the_values_are_refused(make_raster, unit):
    path = make_raster(np.rint(db() * 100).astype(np.int16), descriptions=["VH"])
    with pytest.raises(UnitsUnknown, match=rf"units {unit} given, but the median of the values is -1\d+: .* --scale"):
        read(path, unit=unit)
    assert read(path, unit="db", scale=0.01)[1].all()  # what the message advises


def test_a_negative_stretch_is_refused_where_nothing_is_negative():
    model = ModelSignature(name="m", unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),))
    for source in ("power", "db", "dn"):
        with pytest.raises(
            UnitsMismatch, match=r"-25 to 0: has a negative bound, but the model expects amplitude: .*p1 p99"
        ):
            choose_stretch(source, model, Stretch(Bound(-25), Bound(0)))
        choose_stretch(source, model, Stretch(Bound(1, True), Bound(99, True)))
    assert choose_stretch("db", ModelSignature(name="m"), Stretch(Bound(-25), Bound(0)))[0] == "db"


def test_angles_in_degrees_are_not_power(make_raster):
    with pytest.raises(UnitsUnknown, match="are not power"):
        read(make_raster((33 + 10 * power()).astype(np.float32), "OPERA_L2_RTC-S1_x_VH.tif"))


# Other layers, pages, subdatasets


@pytest.mark.parametrize(
    "name",
    [
        "S1A_IW_20240101T000000_DVP_RTC30_G_gpuned_ABCD_inc_map",
        "S1A_IW_20240101T000000_DVP_RTC30_G_gpuned_ABCD_dem",
        "S1A_IW_20240101T000000_DVP_RTC30_G_gpuned_ABCD_ls_map",
        "OPERA_L2_RTC-S1_T064-135518-IW1_S1A_30_v1.0_local_incidence_angle",
        "OPERA_L2_RTC-S1_T064-135518-IW1_S1A_30_v1.0_mask",
    ],
)
def test_other_layers_of_a_product_are_refused_by_the_files_name(make_raster, name):
    with pytest.raises(BandNotFound, match="not backscatter"):
        read(make_raster(power(), f"{name}.tif"))


@pytest.mark.parametrize(
    "name",
    ["VV_mask", "mask_VV", "coherence_VV", "VV_incidence_angle", "VV_lia", "nesz_VV_dB", "ratio_VV_dB", "VV_unw"],
)
def test_a_file_named_after_a_layer_and_a_polarisation_is_refused(make_raster, name):
    with pytest.raises(BandNotFound, match="not backscatter"):
        read(make_raster(db(), f"{name}.tif"), ("VV",), unit="db")


@pytest.mark.parametrize("name", ["localIncidenceAngle", "incidenceAngleFromEllipsoid", "angle", "elevation"])
def test_other_layers_are_refused_by_the_bands_name(make_raster, name):
    path = make_raster(np.stack([power(), power()]), descriptions=["Sigma0_VH", name])
    read(path)
    with pytest.raises(BandNotFound, match=f"{name} is .*, not backscatter"):
        read(path, bands=("2",))


def test_names_that_only_look_like_other_layers_are_read(make_raster):
    for name in ("Sigma0_VH_demmin", "triangle_VH_gpuned_", "rgbvh_sigma0_VH"):
        read(make_raster(power(), f"{name}.tif", descriptions=["Sigma0_VH"]))


@pytest.mark.parametrize("pages", [2, 3])
def test_a_tiff_of_several_pages_lists_them(tmp_path, pages):
    path = tmp_path / "stack.tif"
    images = [Image.fromarray(db() + k) for k in range(pages)]
    images[0].save(path, save_all=True, append_images=images[1:])
    with pytest.raises(BandNotFound, match=rf"has {pages} pages: give one of GTIFF_DIR:1:"):
        read(path)
    np.testing.assert_array_equal(read(path, bands=("1",))[0], db())
    np.testing.assert_array_equal(read(f"GTIFF_DIR:2:{path}")[0], db() + 1)


@pytest.mark.parametrize(("band", "found"), [("VV", "VV"), ("VH", "VH")])
def test_the_polarisation_is_found_in_a_subdatasets_name(tmp_path, band, found):
    from scipy.io import netcdf_file

    with netcdf_file(tmp_path / "S1_VV.nc", "w") as file:
        file.createDimension("y", SHAPE[0])
        file.createDimension("x", SHAPE[1])
        for name in ("VV", "VH"):
            file.createVariable(name, "f4", ("y", "x"))[:] = db()
    name = f'NETCDF:"{tmp_path / "S1_VV.nc"}":{band}'
    with open_scene(name, ("VV|VH",), SceneOptions(unit="db")) as scene:
        assert scene.polarisations == (found,)
    other = {"VV": "VH", "VH": "VV"}[band]
    with pytest.raises(BandNotFound, match=rf"trained on {other}, the file has 1 \({band}\)"):
        read(name, (other,), unit="db")


# Advice that works


def test_a_stack_names_the_bands_of_the_models_polarisation(make_raster):
    path = make_raster(
        np.stack([db() + k for k in range(4)]), descriptions=["VV_0101", "VH_0101", "VV_0113", "VH_0113"]
    )
    with pytest.raises(BandNotFound, match=r"give --band 2 or 4$"):
        read(path)
    np.testing.assert_array_equal(read(path, bands=("4",))[0], db() + 3)


def hyp3_zip(make_raster, tmp_path, *names):
    path = tmp_path / "hyp3.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k, name in enumerate(names):
            archive.write(make_raster(power() + k, name), f"hyp3/{name}")
        archive.writestr("hyp3/README.md", "text")
    return path


def test_the_raster_of_the_polarisation_is_read_out_of_a_zip_archive(make_raster, tmp_path, caplog):
    names = [f"S1A_RTC10_G_gpuned_A_{layer}.tif" for layer in ("VV", "VH", "dem", "inc_map", "VH_ls_map")]
    path = hyp3_zip(make_raster, tmp_path, *names)
    with caplog.at_level(logging.INFO, "sar2optical"), open_scene(path, ("VH",)) as scene:
        assert scene.polarisations == ("VH",)
        np.testing.assert_array_equal(scene.read_rows(0, 60)[0][0], power() + 1)
    assert f"hyp3.zip: reading /vsizip/{path}/hyp3/{names[1]}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "sar2optical"):
        log_contents(path)
        log_contents(tmp_path / names[0])
    assert [record.message.split(", ")[0] for record in caplog.records] == [
        f"hyp3.zip: contains /vsizip/{path}/hyp3/{sorted(names)[0]}"
    ]
    np.testing.assert_array_equal(read(path, ("VV|VH",))[0], power())
    np.testing.assert_array_equal(read(path, ("VH",), bands=("VV",))[0], power())


def test_an_archive_of_several_scenes_lists_its_rasters(make_raster, tmp_path):
    path = hyp3_zip(make_raster, tmp_path, "S1A_gpuned_A_VH.tif", "S1A_gpuned_B_VH.tif")
    with pytest.raises(SceneUnreadable) as caught:
        read(path)
    advised = str(caught.value).rsplit(", ", 1)[-1]
    assert advised == f"/vsizip/{path}/hyp3/S1A_gpuned_B_VH.tif"
    np.testing.assert_array_equal(read(advised)[0], power() + 1)


def test_an_archive_without_a_raster_is_refused(tmp_path):
    path = tmp_path / "scene.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scene/measurement.jp2", "x")
    with pytest.raises(SceneUnreadable, match=r"scene\.zip: contains no GeoTIFF, \.img or \.vrt: unpack it"):
        read(path)


def test_a_dimap_header_without_its_folder_is_refused(tmp_path):
    (tmp_path / "scene.dim").write_text("<Dimap_Document/>")
    with pytest.raises(SceneUnreadable, match=r"is only SNAP's header: put the folder scene\.data beside it"):
        read(tmp_path / "scene.dim")


@pytest.mark.parametrize("suffix", [".tif", ".zip", ".SAFE", ".dim"])
def test_an_address_longer_than_the_limit_of_paths_contains_nothing(suffix, caplog):
    with caplog.at_level(logging.INFO, "sar2optical"):
        log_contents(f"https://host/scene.tif?signature={'a' * 5000}{suffix}")
    assert caplog.text == ""


def dimap(tmp_path, *bands):
    data = tmp_path / "prod.data"
    data.mkdir()
    for k, band in enumerate(bands):
        (power() + k).astype(">f4").tofile(data / f"{band}.img")
        (data / f"{band}.hdr").write_text(
            f"ENVI\nsamples = {SHAPE[1]}\nlines = {SHAPE[0]}\nbands = 1\nheader offset = 0\n"
            f"file type = ENVI Standard\ndata type = 4\ninterleave = bsq\nbyte order = 1\nband names = {{ {band} }}\n"
        )
    path = tmp_path / "prod.dim"
    path.write_text("<Dimap_Document/>")
    return path


def test_the_band_of_the_polarisation_is_read_by_a_dimap_header(tmp_path):
    path = dimap(tmp_path, "Sigma0_VH", "Sigma0_VV", "projectedLocalIncidenceAngle")
    np.testing.assert_array_equal(read(path, ("VH",))[0], power())
    np.testing.assert_array_equal(read(path, ("VV",))[0], power() + 1)


def test_a_dimap_header_of_two_bands_of_the_polarisation_names_them(tmp_path):
    path = dimap(tmp_path, "Gamma0_VH", "Sigma0_VH")
    with pytest.raises(SceneUnreadable, match=r"is not a raster itself: give one of .*Sigma0_VH\.img$") as caught:
        read(path)
    np.testing.assert_array_equal(read(str(caught.value).rsplit(", ", 1)[-1])[0], power() + 1)


# Places


def test_the_affine_comes_before_control_points(make_raster, tmp_path):
    source = make_raster(power(), descriptions=["Sigma0_VH"], **UTM)
    points = "".join(
        f'<GCP Id="{k}" Pixel="{x}" Line="{y}" X="{9 + x / 1e3}" Y="{45 - y / 1e3}"/>'
        for k, (x, y) in enumerate([(0, 0), (200, 0), (200, 60), (0, 60)])
    )
    both = tmp_path / "both.vrt"
    both.write_text(
        f'<VRTDataset rasterXSize="200" rasterYSize="60"><SRS>EPSG:32631</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        f'<GCPList Projection="EPSG:4326">{points}</GCPList><VRTRasterBand dataType="Float32" band="1">'
        f"<Description>Sigma0_VH</Description><SimpleSource><SourceFilename>{source}</SourceFilename>"
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with open_scene(both, ("VH",)) as scene:
        assert scene.georeference.gcps == ()
        assert scene.georeference.crs == rasterio.CRS.from_epsg(32631)
        assert scene.georeference.transform == UTM["transform"]


def test_control_points_alone_are_kept(make_raster):
    points = [GroundControlPoint(row=r, col=c, x=9 + c / 1e3, y=45 - r / 1e3) for r in (0, 60) for c in (0, 200)]
    path = make_raster(power(), descriptions=["Sigma0_VH"], gcps=points, crs="EPSG:4326")
    with open_scene(path, ("VH",)) as scene:
        assert len(scene.georeference.gcps) == 4
        assert scene.georeference.transform is None


@pytest.mark.parametrize("transform", [Affine(0, 0, 5e5, 0, -10, 5e6), Affine(10, 20, 5e5, 5, 10, 5e6)])
def test_an_affine_without_area_is_refused(make_raster, tmp_path, transform):
    source = make_raster(power(), descriptions=["Sigma0_VH"], **UTM)
    path = tmp_path / "flat.vrt"
    numbers = ",".join(map(str, transform.to_gdal()))
    path.write_text(
        f'<VRTDataset rasterXSize="200" rasterYSize="60"><SRS>EPSG:32631</SRS><GeoTransform>{numbers}</GeoTransform>'
        f'<VRTRasterBand dataType="Float32" band="1"><Description>Sigma0_VH</Description><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SceneUnreadable, match="is degenerate"):
        read(path)
