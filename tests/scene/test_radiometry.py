"""Units, stretches and grey levels, against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.errors import UnitsMismatch, UnitsUnknown
from sar2optical.scene.radiometry import AS_IT_IS, Encoding, choose_stretch, convert, decode, guess_unit, resolve
from sar2optical.signature import Bound, ModelSignature, Stretch

LINEAR = ("amplitude", "power", "db")
PERCENTILES = Stretch.parse("p1", "p99")
FIXED = Stretch.parse("-25", "0")


def floats(*values):
    return np.array(values, np.float32)


def model(unit="db", *stretches, **fields):
    stretches = stretches or (PERCENTILES,)
    bands = ("VV", "VH")[: len(stretches)]
    return ModelSignature(name="m", bands=bands, unit=unit, stretch=stretches, channels=len(bands), **fields)


# units


@pytest.mark.parametrize(
    ("power", "amplitude", "db"),
    [(1, 1, 0), (0.1, 0.31622777, -10), (0.01, 0.1, -20), (100, 10, 20), (0.5, 0.70710678, -3.0103)],
)
def test_one_backscatter_in_three_units(power, amplitude, db):
    values = {"power": power, "amplitude": amplitude, "db": db}
    for source in LINEAR:
        for target in LINEAR:
            found = convert(floats(values[source]), source, target)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, values[target], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("source", [*LINEAR, "dn"])
@pytest.mark.parametrize("target", [*LINEAR, "dn"])
def test_there_and_back_is_where_it_was(source, target):
    values = np.linspace(-40, 10, 201, dtype=np.float32) if source == "db" else np.geomspace(1e-4, 50, 201)
    values = values.astype(np.float32).reshape(3, 67)
    np.testing.assert_allclose(convert(convert(values, source, target), target, source), values, rtol=1e-5, atol=1e-5)


def test_dn_counts_as_amplitude():
    np.testing.assert_allclose(convert(floats(10, 1000), "dn", "db"), [20, 60], rtol=1e-6)
    np.testing.assert_array_equal(convert(floats(3), "dn", "power"), floats(9))


@pytest.mark.parametrize("source", ["power", "amplitude", "dn"])
def test_no_power_is_minus_infinity_in_db_without_a_warning(source):
    np.testing.assert_array_equal(convert(floats(0, -0.25), source, "db"), floats(-np.inf, -np.inf))


def test_minus_infinity_in_db_is_no_power():
    assert convert(floats(-np.inf), "db", "power") == 0
    assert convert(floats(-np.inf), "db", "amplitude") == 0


def test_negative_power_counts_as_none():
    np.testing.assert_array_equal(convert(floats(-0.5, 4), "power", "amplitude"), floats(0, 2))
    np.testing.assert_array_equal(convert(floats(-2, 3), "amplitude", "power"), floats(0, 9))


@pytest.mark.parametrize("unit", [*LINEAR, "dn"])
def test_bytes_convert_to_nothing_and_nothing_to_bytes(unit):
    for pair in (("byte", unit), (unit, "byte")):
        with pytest.raises(UnitsMismatch, match=f"{pair[0]}.*{pair[1]}.*--stretch"):
            convert(floats(1), *pair)
    assert convert(floats(7), "byte", "byte") == 7


def test_conversion_leaves_its_input_as_it_was():
    for source in LINEAR:
        values = floats(-1, 0, 0.5)
        for target in LINEAR:
            convert(values, source, target)
            np.testing.assert_array_equal(values, floats(-1, 0, 0.5))


# encoding and decoding


def encode(encoding, values, valid=None):
    values = np.atleast_2d(floats(*values))
    return encoding.encode(values, np.ones(values.shape, bool) if valid is None else np.atleast_2d(valid))[0]


def test_the_ends_of_a_stretch_become_minus_one_and_one_and_what_lies_beyond_is_clipped():
    encoding = Encoding("db", "db", -25, 0)
    expected = [-1, -1, -0.5, 0, 1, 1]
    np.testing.assert_allclose(encode(encoding, [-99, -25, -18.75, -12.5, 0, 30]), expected, atol=1e-6)


def test_values_are_converted_before_they_are_stretched():
    encoding = Encoding("power", "db", -20, 0)
    np.testing.assert_allclose(encode(encoding, [1, 0.1, 0.01]), [1, 0, -1], atol=1e-6)


def test_infinities_are_clipped():
    np.testing.assert_array_equal(encode(Encoding("db", "db", -25, 0), [-np.inf, np.inf]), [-1, 1])
    np.testing.assert_array_equal(encode(Encoding("power", "db", -25, 0), [0, -1, np.inf]), [-1, -1, 1])


def test_invalid_pixels_become_0_whatever_they_hold():
    values = [np.nan, -32768, np.inf, 0.5, 0.2]
    valid = [False, False, False, False, True]
    for source in LINEAR:
        encoded = encode(Encoding(source, "db", -20, 0), values, valid)
        assert encoded[:4].tolist() == [0] * 4
        assert encoded[4] != 0


def test_encoding_leaves_the_scenes_values_as_they_were():
    values = np.array([[0.5, 3, np.nan]], np.float32)
    for encoding in (Encoding("amplitude", "amplitude", 0, 1), AS_IT_IS, Encoding("power", "db", -20, 0)):
        encoding.encode(values, np.array([[True, True, False]]))
        np.testing.assert_array_equal(values, np.array([[0.5, 3, np.nan]], np.float32))


def test_all_256_bytes_come_back_as_they_were():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    encoded = AS_IT_IS.encode(grey.astype(np.float32), np.ones(grey.shape, bool))
    assert encoded.dtype == np.float32
    assert (encoded.min(), encoded.max()) == (-1, 1)
    np.testing.assert_allclose(encoded, (grey / 255 - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(decode(encoded), grey)


def test_grey_levels_are_clipped_and_rounded():
    wanted = {-9: 0, -1: 0, 0.002: 128, 0.25: 159, -0.6: 51, 0.996: 254, 0.9961: 255, 1: 255, 9: 255}
    found = decode(floats(*wanted))
    assert found.dtype == np.uint8
    assert found.tolist() == list(wanted.values())


def test_decoding_leaves_the_image_as_it_was():
    image = floats(-2, 0.3)
    decode(image)
    np.testing.assert_array_equal(image, floats(-2, 0.3))


def test_an_encoding_says_what_it_does():
    assert str(AS_IT_IS) == "bytes as they are"
    assert str(Encoding("power", "db", -25, -0.5)) == "power as db, -25 to -0.5"


# stretches


def test_percentiles_are_of_the_sample():
    sample = np.random.default_rng(0).permutation(np.arange(101, dtype=np.float32))
    assert resolve(Stretch.parse("p1", "p99"), sample) == (1, 99)
    assert resolve(Stretch.parse("p0", "p100"), sample) == (0, 100)
    assert resolve(Stretch.parse("p2.5", "p50"), sample) == (2.5, 50)


def test_values_are_values_whatever_the_sample():
    assert resolve(FIXED, floats(3, 4)) == (-25, 0)
    assert resolve(Stretch.parse("0", "p50"), floats(1, 2, 9)) == (0, 2)


def test_percentiles_pass_over_pixels_without_power():
    sample = np.concatenate([np.full(50, -np.inf), np.arange(101)]).astype(np.float32)
    assert resolve(PERCENTILES, sample) == (1, 99)


@pytest.mark.parametrize("flat", [-20.0, 0.0, 1e-4, 4000.0, 65535.0])
def test_a_flat_scene_becomes_minus_one_and_what_is_brighter_one(flat):
    low, high = resolve(PERCENTILES, np.full(10, flat, np.float32))
    assert low < high
    brighter = flat + max(abs(flat), 1) * 1e-3
    assert encode(Encoding("db", "db", low, high), [flat, brighter]).tolist() == [-1, 1]


@pytest.mark.parametrize("sample", [floats(), floats(-np.inf, -np.inf)])
def test_a_scene_without_a_value_still_has_a_range(sample):
    low, high = resolve(PERCENTILES, sample)
    assert np.isfinite([low, high]).all()
    assert low < high


def test_percentiles_in_db_do_not_see_a_calibration_factor():
    dn = np.random.default_rng(1).gamma(4, 80, (16, 16)).astype(np.float32)
    images = []
    for values in (dn, dn / 437):
        low, high = resolve(PERCENTILES, convert(values.ravel(), "dn", "db"))
        images.append(Encoding("dn", "db", low, high).encode(values, np.ones(dn.shape, bool)))
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    assert images[0].std() > 0.2


@pytest.mark.parametrize("source", LINEAR)
def test_calibrated_values_take_the_models_own_stretch_in_the_models_unit(source):
    assert choose_stretch(source, model("db", FIXED), None) == ("db", (FIXED,))
    vh = Stretch.parse("-32.5", "0")
    assert choose_stretch(source, model("db", FIXED, vh), None) == ("db", (FIXED, vh))


@pytest.mark.parametrize(("unit", "stretch"), [("db", "-25 0"), ("amplitude", "0 0.5"), ("power", "0.01 p99")])
def test_uncalibrated_dn_are_refused_by_a_fixed_range(unit, stretch):
    with pytest.raises(UnitsMismatch, match=r"uncalibrated DN.*calibrate the scene, or give --stretch"):
        choose_stretch("dn", model(unit, Stretch.parse(*stretch.split())), None)


def test_dn_are_refused_when_only_one_of_two_bands_has_a_fixed_range():
    with pytest.raises(UnitsMismatch, match="-25 to 0"):
        choose_stretch("dn", model("db", PERCENTILES, FIXED), None)


@pytest.mark.parametrize(("unit", "stretch"), [("db", "p1 p99"), ("amplitude", "0 p99"), ("power", "p0 p99")])
def test_uncalibrated_dn_pass_where_the_stretch_moves_with_them(unit, stretch):
    moving = Stretch.parse(*stretch.split())
    assert choose_stretch("dn", model(unit, moving), None) == (unit, (moving,))


def test_dn_pass_into_a_model_of_dn():
    fixed = Stretch.parse("0", "800")
    assert choose_stretch("dn", model("dn", fixed), None) == ("dn", (fixed,))


@pytest.mark.parametrize("source", LINEAR)
def test_calibrated_values_are_refused_by_a_fixed_range_of_dn(source):
    with pytest.raises(UnitsMismatch, match=source):
        choose_stretch(source, model("dn", Stretch.parse("0", "800")), None)


def test_bytes_pass_as_their_maker_stretched_them():
    whole = Stretch.parse("0", "255")
    for signature in (model("byte", whole), model("db", FIXED), model("amplitude", PERCENTILES)):
        assert choose_stretch("byte", signature, None) == ("byte", (whole,))


@pytest.mark.parametrize("source", [*LINEAR, "dn"])
def test_a_model_of_bytes_takes_no_other_values_unasked(source):
    with pytest.raises(UnitsMismatch, match=f"values are {source}.*--stretch"):
        choose_stretch(source, model("byte", Stretch.parse("0", "255")), None)


@pytest.mark.parametrize(
    ("source", "unit", "expected"),
    [("db", "db", "db"), ("power", "db", "db"), ("dn", "db", "db"), ("byte", "db", "byte"), ("db", "byte", "db")],
)
def test_a_users_stretch_wins_over_the_models(source, unit, expected):
    mine = Stretch.parse("-18", "p97")
    theirs = FIXED if unit == "db" else Stretch.parse("0", "255")
    assert choose_stretch(source, model(unit, theirs, theirs), mine) == (expected, (mine, mine))


# telling the unit

DB = floats(-31, -22, -14, -11.5, -9, 2)
POWER = floats(0.001, 0.01, 0.06, 0.09, 0.4, 3)
DN = floats(1, 60, 180, 240, 410, 9000)
SNAP = "S1A_IW_GRDH_1SDV_20200501T054104_20200501T054129_032370_03BF20_DB12_Orb_NR_Cal_TC{}.tif"
NRB = "s1a-iw-nrb-20220721t051225-044194-05465e-33tuf-vv-g-{}.{}"
HYP3 = "S1A_IW_20180605T233148_DVP_RTC30_G_{}_FD6A_VV.tif"

TOLD = {
    "raw GRD": ("uint16", ("s1a-iw-grd-vh-20230108t170615-20230108t170640-046698-0598f1-002.tiff",), DN, "dn"),
    "raw GRD whose data take is named db": (
        "uint16",
        ("s1a-iw-grd-vv-20200501t054104-20200501t054129-032370-03b1db-001.tiff",),
        DN,
        "dn",
    ),
    "raw GRD of a product whose id begins with DB": (
        "uint16",
        ("S1A_IW_GRDH_1SDV_20200501T054104_20200501T054129_032370_03BF20_DB12_VV.tif",),
        DN,
        "dn",
    ),
    "dB of power": ("float32", ("VH_power_dB",), DB, "db"),
    "intensity in dB": ("float32", ("Intensity_VH_db",), DB, "db"),
    "a unit tag before another name": ("float32", ("amplitude", "Sigma0_VH"), np.sqrt(POWER), "amplitude"),
    "DN that SNAP names": ("float32", ("Amplitude_VV",), DN, "dn"),
    "Planetary Computer RTC": ("float32", ("iw-vv.rtc.tiff",), POWER, "power"),
    "HyP3 power": ("float32", (HYP3.format("gpuned"),), POWER, "power"),
    "HyP3 dB": ("float32", (HYP3.format("gduned"),), DB, "db"),
    "HyP3 amplitude": ("float32", (HYP3.format("gauned"),), np.sqrt(POWER), "amplitude"),
    "HyP3 sigma0 power, filtered, clipped, matched": ("float32", (HYP3.format("spufcm"),), POWER, "power"),
    "HyP3 power, water masked": ("float32", (HYP3.format("gpwned"),), POWER, "power"),
    "HyP3 amplitude, water masked": ("float32", (HYP3.format("sawfcm"),), np.sqrt(POWER), "amplitude"),
    "Earth Engine, linear": ("float32", ("COPERNICUS_S1_GRD_FLOAT_VV.tif",), POWER, "power"),
    "Planetary Computer RTC, saved under a name": ("float32", ("vv_20240105_rtc.tif",), POWER, "power"),
    "Sentinel Hub, by its coefficient": ("float32", ("VV", "s1_gamma0_terrain.tif"), POWER, "power"),
    "openEO, by its coefficient": ("float32", ("VH", "sigma0-ellipsoid_2023-05-01.tif"), POWER, "power"),
    "pyroSAR": ("float32", ("S1A__IW___A_20150309T173017_VV_gamma0-rtc.tif",), POWER, "power"),
    "pyroSAR, dB": ("float32", ("S1A__IW___A_20150309T173017_VV_gamma0-rtc_db.tif",), DB, "db"),
    "NRB": ("float32", (NRB.format("lin", "tif"),), POWER, "power"),
    "NRB, dB": ("float32", (NRB.format("log", "vrt"),), DB, "db"),
    "Earth Engine": ("float64", ("VV", "scene.tif"), DB, "db"),
    "SNAP, linear": ("float32", ("Sigma0_VV", "scene.tif"), POWER, "power"),
    "SNAP, linear, cross-polarised": ("float32", ("Gamma0_VH", "scene.tif"), POWER, "power"),
    "SNAP, linear, polar waters": ("float32", ("Sigma0_HH", "scene.tif"), POWER, "power"),
    "SNAP, dB": ("float32", ("Sigma0_VV_db", "scene.tif"), DB, "db"),
    "SNAP, a stack": ("float32", ("Sigma0_VV_slv1_05Jun2018", "stack.tif"), POWER, "power"),
    "SNAP, a stack in dB": ("float32", ("Sigma0_VV_slv1_05Jun2018_db", "stack.tif"), DB, "db"),
    "SNAP, slant range": ("float32", ("Beta0_VH", "scene.tif"), POWER, "power"),
    "SNAP, by its file name": ("float32", ("band_1", SNAP.format("")), POWER, "power"),
    "SNAP, dB by its file name": ("float32", ("band_1", SNAP.format("_dB")), DB, "db"),
    "SNAP, intensity": ("float32", ("Intensity_VH",), POWER, "power"),
    "OPERA RTC-S1": (
        "float32",
        ("OPERA_L2_RTC-S1_T064-135518-IW1_20230101T014939Z_20230101T100000Z_S1A_30_v1.0_VV.tif",),
        POWER,
        "power",
    ),
    "linear, in words": ("float32", ("vh_linear.tif",), POWER, "power"),
    "power, in words": ("float32", ("S1_VH_power_2024.tif",), POWER, "power"),
    "linear and dB, in words": ("float32", ("linear_to_db.tif",), DB, "db"),
    "amplitude, in words": ("float32", ("scene-amplitude-vv.tif",), np.sqrt(POWER), "amplitude"),
    "amplitude of integers": ("uint16", ("scene_amplitude.tif",), DN, "dn"),
    "a dark sea, by the processor's tag": (
        "uint16",
        ("Sentinel-1B EW GRD MR L1", "sea.tiff"),
        floats(20, 33, 90),
        "dn",
    ),
    "a unit tag of dB": ("float32", ("dB", "VV", "scene.tif"), DB, "db"),
    "a band name before the file's": ("float32", ("Sigma0_VV", "scene_db.tif"), POWER, "power"),
    "a chip": ("uint8", ("ROIs1868_summer_s1_59_p11.png",), floats(0, 30, 130, 200, 255), "byte"),
    "a dark chip": ("uint8", (), floats(0, 1, 2), "byte"),
}


@pytest.mark.parametrize(("dtype", "names", "sample", "unit"), TOLD.values(), ids=TOLD.keys())
def test_the_unit_is_told(dtype, names, sample, unit):
    found, reason = guess_unit(dtype, names, sample.astype(np.float32))
    assert found == unit
    assert reason


REFUSED = {
    "integers with a sign": ("int16", (), DN),
    "integers of 32 bits": ("int32", (), DN),
    "power and amplitude in one name": ("float32", ("power_plant_VH_amplitude.tif",), POWER),
    "SNAP's name of power, and amplitude": ("float32", ("Sigma0_VH_amplitude",), POWER),
    "a natural logarithm": ("float32", ("Sigma0_VV_ln",), floats(-9, -4, -1)),
    "a natural logarithm without a name": ("float32", ("scene.tif",), floats(-9, -4, -1)),
    "a phase that is named": ("float32", ("phase_VV.tif",), floats(-3.1, -0.1, 3.1)),
    "a natural logarithm in words": ("float32", ("natural logarithm", "VH"), floats(-19, -12, -8)),
    "a natural logarithm of a description": ("float32", ("natural log of VH",), floats(-19, -12, -8)),
    "a logarithm of no base": ("float32", ("VH_log.tif",), DB),
    "radians": ("float32", ("rad", "VV"), DB),
    "millimetres": ("float32", ("mm", "VV"), DB),
    "power about 0 that a name calls dB": ("float32", ("VH_dB",), floats(-0.001, -0.00002, 0.001)),
    "a root of power": ("float32", ("Sigma0_VV_sqrt.tif",), np.sqrt(POWER)),
    "a phase of negative median": ("float32", ("scene.tif",), floats(-3.1, -0.1, 3.1)),
    "power below 0 that a name calls dB": ("float32", ("db_export.tif",), floats(-0.001, 0.05, 0.6)),
    "fractions without a name": ("float32", ("scene.tif",), floats(0, 0.02, 0.1, 0.9)),
    "large positive floats without a name": ("float32", ("scene.tif",), DN),
    "hundredths of dB": ("int16", ("scene.tif",), DB * 100),
    "hundredths of dB that say dB": ("int16", ("Sigma0_VV_db",), DB * 100),
    "16 bit that never leave a byte": ("uint16", ("scene.tif",), floats(0, 90, 255)),
    "signed bytes": ("int8", ("scene.tif",), floats(-25, -11, -3)),
    "floats far below any backscatter": ("float32", ("scene.tif",), floats(-9000, -12, -4)),
    "DN of floats under a name that says amplitude": ("float32", ("scene_amplitude.tif",), DN),
    "dB under a name that says linear, in words": ("float32", ("vh_linear.tif",), DB),
    "a reduction that is called bilinear": ("float32", ("vh_bilinear.tif",), POWER),
    "a tag that speaks of another product": ("uint16", ("Sentinel-1A IW SLC L1", "sea.tiff"), floats(20, 33, 90)),
    "a phase": ("float32", ("scene.tif",), floats(-3.1, 0.1, 3.1)),
    "dB under a name that says linear": ("float32", ("Sigma0_VV",), DB),
    "dB under a HyP3 name that says power": ("float32", (HYP3.format("gpuned"),), DB),
    "dB under a HyP3 name that says amplitude": ("float32", (HYP3.format("gauned"),), DB),
    "Sentinel Hub without a name": ("float32", ("VV", "response.tiff"), POWER),
    "dB under a SNAP file name that says linear": ("float32", (SNAP.format(""),), DB),
    "a model's output whose name ends in cal": ("float32", ("s1_optical_cal.tif",), POWER),
    "DN under a name that says RTC": ("uint16", ("vv_rtc.tif",), DN),
    "dB under a name that says RTC": ("float32", ("iw-vv.rtc.tiff",), DB),
    "DN under a name that says dB": ("float32", ("VV_db.tif",), DN),
    "power under a name that says dB": ("float32", ("VV_db.tif",), POWER),
    "power under a HyP3 name that says dB": ("float32", (HYP3.format("gduned"),), POWER),
    "DN under a name that says power": ("uint16", ("Sigma0_VV",), DN),
    "a chip under a name that says power": ("uint8", ("Sigma0_VV",), floats(0, 30, 130, 200, 255)),
}


@pytest.mark.parametrize(("dtype", "names", "sample"), REFUSED.values(), ids=REFUSED.keys())
def test_a_unit_that_cannot_be_told_is_asked_for(dtype, names, sample):
    with pytest.raises(UnitsUnknown, match="give --units") as caught:
        guess_unit(dtype, names, sample.astype(np.float32))
    lowest, highest = (f"{value:.4g}" for value in (sample.min(), sample.max()))
    assert f"{dtype} values from {lowest} to {highest}" in str(caught.value)


def test_a_refusal_shows_the_name_that_the_values_contradict():
    with pytest.raises(UnitsUnknown, match="Sigma0_VV"):
        guess_unit("float32", ("Sigma0_VV", "scene.tif"), DB)


def test_a_mixed_stretch_that_the_scene_turns_upside_down_is_refused():
    with pytest.raises(ValueError, match="p1"):
        resolve(Stretch(Bound(1, True), Bound(-40)), floats(-20, -10, -5))
