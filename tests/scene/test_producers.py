"""Rasters as producers deliver them: unit, polarisation and validity are found, or an option is asked for.

Each test is a row of docs/producers.md, which names versions and sources.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from sar2optical.errors import SceneUnreadable, UnitsUnknown
from sar2optical.scene import SceneOptions, open_scene
from tests.conftest import UTM
from tests.scene.test_safe import made_dn, make_product

SIDE = 40
OUTSIDE = (slice(None), slice(0, 10))
"""Columns without a measurement."""

ROWS = Path(__file__).parents[2] / "docs" / "producers.md"


def power(seed=0):
    """Linear backscatter of land: -11 dB, one look of speckle."""
    return (0.08 * np.random.default_rng(seed).exponential(size=(SIDE, SIDE)) + 1e-4).astype(np.float32)


def decibels():
    return (10 * np.log10(power())).astype(np.float32)


def dn():
    return np.rint(np.sqrt(power()) * 480 + 1).astype(np.uint16)


def gcps():
    corners = ((0, 0, 12.0, 47.0), (0, SIDE, 12.1, 47.0), (SIDE, 0, 12.0, 46.9), (SIDE, SIDE, 12.1, 46.9))
    return [GroundControlPoint(row, col, x, y) for row, col, x, y in corners]


def with_border(values, fill):
    values = values.copy()
    values[OUTSIDE] = fill
    return values


def write(path, *bands, nodata=None, names=(), tags=None, georeference=UTM, band_tags=None, driver="GTiff"):
    kind = {"driver": driver, "count": len(bands), "height": SIDE, "width": SIDE, "dtype": bands[0].dtype}
    with rasterio.open(path, "w", **kind, nodata=nodata, **georeference) as raster:
        for k, band in enumerate(bands, 1):
            raster.write(band, k)
        for k, name in enumerate(names, 1):
            raster.set_band_description(k, name)
        raster.update_tags(**(tags or {}))
        for k, texts in (band_tags or {}).items():
            raster.update_tags(k, **texts)
    return path


def raw_grd(folder):
    path = folder / "s1a-iw-grd-vh-20230108t170615-20230108t170640-046698-0598f1-002.tiff"
    return write(path, with_border(dn(), 0), georeference={"gcps": gcps(), "crs": "EPSG:4326"})


def raw_grd_renamed(folder):
    tags = {"TIFFTAG_IMAGEDESCRIPTION": "Sentinel-1A IW GRD HR L1", "TIFFTAG_SOFTWARE": "Sentinel-1 IPF 003.61"}
    dark = np.minimum(with_border(dn(), 0), 200)  # no value over 255 distinguishes it from 8-bit values
    return write(folder / "sea_VH.tiff", dark, tags=tags, georeference={"gcps": gcps(), "crs": "EPSG:4326"})


def grd_cog(folder):
    path = folder / "s1a-iw-grd-vh-20250108t170615-20250108t170640-056698-0698f1-002-cog.tiff"
    return write(path, with_border(dn(), 0), georeference={"gcps": gcps(), "crs": "EPSG:4326"})


def safe(folder):
    return make_product(folder)


def snap(folder):
    return write(folder / "Sigma0_VH.img", with_border(power(), 0), names=["Sigma0_VH"], driver="ENVI")


def snap_db(folder):
    name = "S1A_IW_GRDH_1SDV_20200501T054104_20200501T054129_032370_03BF20_DB12_Orb_NR_Cal_TC_dB_VH.tif"
    return write(folder / name, with_border(decibels(), 0), nodata=0)


def hyp3(letter, values):
    def made(folder):
        name = f"S1A_IW_20180605T233148_DVP_RTC30_G_g{letter}uned_FD6A_VH.tif"
        return write(folder / name, with_border(values(), 0), nodata=0)

    return made


def opera(folder):
    name = "OPERA_L2_RTC-S1_T137-292321-IW2_20250102T015906Z_20250102T190143Z_S1A_30_v1.0_VH.tif"
    return write(folder / name, with_border(power(), np.nan), nodata=np.nan)


def planetary_rtc(folder):
    return write(folder / "iw-vh.rtc.tiff", with_border(power(), -32768), nodata=-32768)


def planetary_grd(folder):
    return write(folder / "iw-vh.tiff", with_border(dn(), 0), georeference={"gcps": gcps(), "crs": "EPSG:4326"})


def earth_engine(folder):
    bands = (decibels(), decibels() - 6, np.full((SIDE, SIDE), 38.0, np.float32))
    return write(
        folder / "export.tif",
        *(with_border(band, np.nan) for band in bands),
        nodata=np.nan,
        names=["VV", "VH", "angle"],
    )


def earth_engine_float(folder):
    name = "COPERNICUS_S1_GRD_FLOAT.tif"
    return write(folder / name, *[with_border(power(), np.nan)] * 2, nodata=np.nan, names=["VV", "VH"])


def sentinel_hub(folder):
    mask = with_border(np.full((SIDE, SIDE), 1, np.float32), 0)
    path = folder / "gamma0_terrain_VH.tif"
    profile = {"driver": "GTiff", "count": 2, "height": SIDE, "width": SIDE, "dtype": "float32", "ALPHA": "YES"}
    with rasterio.open(path, "w", **profile, **UTM) as raster:
        raster.write(np.stack([with_border(power(), 0), mask]))
        raster.set_band_description(1, "VH")
    return path


def browser(folder):
    name = "2024-01-05-00_00_Sentinel-1_IW_VV+VH_VH_-_decibel_gamma0_-_radiometric_terrain_corrected.tiff"
    return write(folder / name, with_border(decibels(), np.nan), nodata=np.nan, names=["VH"])


def eopf(folder):
    return f'ZARR:"{eopf_store(folder)}":/{EOPF}_VH/measurements/grd'


EOPF = "S01SIWGRD_20250108T170615_0025_A303_98F1_0698F1"


def eopf_store(folder, polarisations=("VH",)):
    """A Zarr (version 2) of the layout: a group for each polarisation, arrays of measurement and quality in it."""
    root = folder / "S01SIWGRD_20250108T170615_0025_A303_S_98F1.zarr"
    for k, polarisation in enumerate(polarisations):
        group = root / f"{EOPF}_{polarisation}"
        add_array(root, group / "measurements" / "grd", with_border(dn() + np.uint16(k), 0))
        add_array(root, group / "quality" / "calibration" / "sigma_nought", np.full((8, 8), 300, np.uint16))
    return root


def add_array(root, array, values):
    array.mkdir(parents=True)
    for level in (*array.relative_to(root).parents,):
        (root / level / ".zgroup").write_text('{"zarr_format": 2}')
    about = {"zarr_format": 2, "shape": values.shape, "chunks": values.shape, "dtype": "<u2", "order": "C"}
    (array / ".zarray").write_text(json.dumps({**about, "compressor": None, "fill_value": None, "filters": None}))
    (array / "0.0").write_bytes(values.tobytes())


FOUND = {
    "Raw GRD": (raw_grd, "dn", "VH"),
    "Raw GRD under another name": (raw_grd_renamed, "dn", "VH"),
    "GRD-COG": (grd_cog, "dn", "VH"),
    "SAFE": (safe, "power", "VH"),
    "SNAP, BEAM-DIMAP": (snap, "power", "VH"),
    "SNAP, GeoTIFF in dB": (snap_db, "db", "VH"),
    "HyP3, power": (hyp3("p", power), "power", "VH"),
    "HyP3, decibel": (hyp3("d", decibels), "db", "VH"),
    "HyP3, amplitude": (hyp3("a", lambda: np.sqrt(power())), "amplitude", "VH"),
    "OPERA RTC-S1": (opera, "power", "VH"),
    "Planetary Computer, RTC": (planetary_rtc, "power", "VH"),
    "Planetary Computer, GRD": (planetary_grd, "dn", "VH"),
    "Earth Engine, S1_GRD": (earth_engine, "db", "VH"),
    "Earth Engine, S1_GRD_FLOAT": (earth_engine_float, "power", "VH"),
    "Sentinel Hub": (sentinel_hub, "power", "VH"),
    "Copernicus Browser": (browser, "db", "VH"),
    "EOPF": (eopf, "dn", "VH"),
}


@pytest.mark.parametrize(("make", "unit", "polarisation"), FOUND.values(), ids=FOUND)
def test_unit_polarisation_and_validity_of_a_producers_raster_are_found(tmp_path, make, unit, polarisation):
    with open_scene(make(tmp_path), ("VH",), SceneOptions()) as scene:
        assert scene.read_samples()[0].size > 0
        assert scene.unit == unit
        assert scene.polarisations == (polarisation,)
        _, valid = scene.read_rows(0, scene.shape[0])
    expected = np.ones(valid.shape, np.bool_)
    if make is safe:
        expected = made_dn() != 0
    else:
        expected[OUTSIDE] = False
    np.testing.assert_array_equal(valid, expected)


def test_every_row_of_the_table_has_a_test_and_every_test_a_row():
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", ROWS.read_text(), re.MULTILINE)
    assert rows == list(FOUND)


ASKED = {
    "Sentinel Hub under a name without a unit": lambda folder: write(folder / "response_VH.tiff", power()),
    "SNAP GeoTIFF without band names": lambda folder: write(folder / "subset_VH.tif", power()),
}


@pytest.mark.parametrize("make", ASKED.values(), ids=ASKED)
def test_an_option_is_asked_for_where_a_raster_lacks_a_unit(tmp_path, make):
    path = make(tmp_path)
    with pytest.raises(UnitsUnknown, match="give --units"), open_scene(path, ("VH",)):
        pass
    with open_scene(path, ("VH",), SceneOptions(unit="power")) as scene:
        assert scene.unit == "power"


def test_the_measurements_of_a_zarr_are_found_by_their_polarisation(tmp_path):
    root = eopf_store(tmp_path, ("VV", "VH"))
    with open_scene(root, ("VH",)) as scene:
        assert scene.polarisations == ("VH",)
        one, _ = scene.read_rows(0, SIDE)
    with open_scene(root, ("VV", "VH")) as scene:
        assert scene.polarisations == ("VV", "VH")
        both, valid = scene.read_rows(0, SIDE)
    np.testing.assert_array_equal(both[1], one[0])
    np.testing.assert_array_equal((both[1] - both[0])[valid], 1)
    with pytest.raises(SceneUnreadable, match="has no band of its own, but contains"), open_scene(root, ("HH",)):
        pass


def test_the_variables_of_a_netcdf_are_one_scene(tmp_path):
    from scipy.io import netcdf_file

    values = {name: np.float32(decibels() - k) for k, name in enumerate(("VH", "VV"))}
    with netcdf_file(tmp_path / "scene.nc", "w") as file:
        for size, name in zip(values["VV"].shape, "yx", strict=True):
            file.createDimension(name, size)
        for name, array in values.items():
            file.createVariable(name, "f4", ("y", "x"))[:] = array
    with open_scene(tmp_path / "scene.nc", ("VV", "VH"), SceneOptions(unit="db")) as scene:
        read, _ = scene.read_rows(0, SIDE)
    # GDAL takes the first row of a netCDF without coordinates as the lowest one.
    np.testing.assert_array_equal(read, np.stack([values["VV"], values["VH"]])[:, ::-1])


def test_both_polarisations_of_an_archive_are_one_scene(tmp_path):
    archive = tmp_path / "S1A_IW_20260101T053000_DVP_RTC30_G_gpuned_1A2B.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for k, name in enumerate(("VV", "VH", "dem")):
            path = write(tmp_path / f"{archive.stem}_{name}.tif", power() * (k + 1))
            file.write(path, path.name)
            path.unlink()
    with open_scene(archive, ("VV", "VH")) as scene:
        assert (scene.polarisations, scene.unit) == (("VV", "VH"), "power")
        read, _ = scene.read_rows(0, SIDE)
    np.testing.assert_array_equal(read, np.stack([power(), power() * 2]))


def test_polarisations_of_two_dates_in_an_archive_are_no_scene(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        for name in ("s1_20260101_VV.tif", "s1_20260113_VH.tif"):
            file.write(write(tmp_path / name, decibels()), name)
    with (
        pytest.raises(SceneUnreadable, match="give one of the rasters in it"),
        open_scene(tmp_path / "two.zip", ("VV", "VH")),
    ):
        pass
    with open_scene(tmp_path / "two.zip", ("VH",)) as scene:  # a model of one band needs no other
        assert scene.polarisations == ("VH",)
