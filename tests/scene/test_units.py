"""Guessing units from names and values."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.errors import UnitsUnknown
from sar2optical.scene.units import could_be, guess_unit


def floats(*values):
    return np.array(values, np.float32)


DB = floats(-31, -22, -14, -11.5, -9, 2)
POWER = floats(0.001, 0.01, 0.06, 0.09, 0.4, 3)
DN = floats(1, 60, 180, 240, 410, 9000)
SNAP = "S1A_IW_GRDH_1SDV_20200501T054104_20200501T054129_032370_03BF20_DB12_Orb_NR_Cal_TC{}.tif"
NRB = "s1a-iw-nrb-20220721t051225-044194-05465e-33tuf-vv-g-{}.{}"
HYP3 = "S1A_IW_20180605T233148_DVP_RTC30_G_{}_FD6A_VV.tif"

NAMED = {
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


@pytest.mark.parametrize(("dtype", "names", "sample", "unit"), NAMED.values(), ids=NAMED.keys())
def test_the_unit_is_guessed(dtype, names, sample, unit):
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
    "hundredths of dB under a name that says dB": ("int16", ("Sigma0_VV_db",), DB * 100),
    "16 bit that never leave a byte": ("uint16", ("scene.tif",), floats(0, 90, 255)),
    "signed bytes": ("int8", ("scene.tif",), floats(-25, -11, -3)),
    "floats far below any backscatter": ("float32", ("scene.tif",), floats(-9000, -12, -4)),
    "DN of floats under a name that says amplitude": ("float32", ("scene_amplitude.tif",), DN),
    "dB under a name that says linear, in words": ("float32", ("vh_linear.tif",), DB),
    "a reduction that is called bilinear": ("float32", ("vh_bilinear.tif",), POWER),
    "a tag of another product": ("uint16", ("Sentinel-1A IW SLC L1", "sea.tiff"), floats(20, 33, 90)),
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
def test_an_ambiguous_unit_is_asked_for(dtype, names, sample):
    with pytest.raises(UnitsUnknown, match="give --units") as caught:
        guess_unit(dtype, names, sample.astype(np.float32))
    lowest, highest = (f"{value:.4g}" for value in (sample.min(), sample.max()))
    assert f"{dtype} values from {lowest} to {highest}" in str(caught.value)


def test_a_refusal_shows_the_name_that_the_values_contradict():
    with pytest.raises(UnitsUnknown, match="Sigma0_VV"):
        guess_unit("float32", ("Sigma0_VV", "scene.tif"), DB)


@pytest.mark.parametrize(
    ("unit", "median", "expected"),
    [
        ("db", -60, True),
        ("db", 30, True),
        ("db", -61, False),
        ("db", 31, False),
        ("dn", 0, True),
        ("power", -1, False),
    ],
)
def test_a_median_outside_the_range_of_a_unit_is_impossible(unit, median, expected):
    assert could_be(unit, median) is expected
