"""Opening scenes: bands, units, validity, and refusals."""

from __future__ import annotations

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from sar2optical.errors import BandNotFound, OptionError, SceneUnreadable, UnitsUnknown
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.scene.scene import SAMPLE_LEAST
from tests.conftest import UTM, speckle

VH = ("VH",)
DB = np.linspace(-25, -3, 40 * 30, dtype=np.float32).reshape(40, 30)


def opened(path, **options):
    return open_scene(path, VH, SceneOptions(**options))


def rows_of(path, **options):
    with opened(path, **options) as scene:
        return scene.read_rows(0, scene.shape[0])


def test_values_and_georeference_are_read_unchanged(make_raster):
    path = make_raster(DB, descriptions=["VH"], **UTM)
    with opened(path) as scene:
        values, valid = scene.read_rows(10, 25)
        assert scene.shape == (40, 30)
        assert scene.unit == "db"
        assert scene.georeference.crs == rasterio.CRS.from_epsg(32631)
        assert scene.georeference.transform == UTM["transform"]
        assert not scene.georeference.gcps
    assert valid.all()
    np.testing.assert_array_equal(values[0], DB[10:25])


def test_gcps_are_kept_and_not_turned_into_an_affine(make_raster):
    gcps = [GroundControlPoint(r, c, 7 + c / 100, 45 - r / 100, 3.5) for r in (0, 40) for c in (0, 30)]
    path = make_raster(speckle((40, 30)).astype(np.uint16) * 3, gcps=gcps, crs="EPSG:4326")
    with opened(path) as scene:
        found = scene.georeference
    assert [(g.row, g.col, g.x, g.y, g.z) for g in found.gcps] == [(g.row, g.col, g.x, g.y, g.z) for g in gcps]
    assert found.gcp_crs == rasterio.CRS.from_epsg(4326)
    assert found.transform is None


def test_a_picture_without_a_georeference_has_none(make_raster):
    with opened(make_raster(speckle((20, 20)), "chip.png")) as scene:
        assert scene.georeference.transform is None
        assert scene.georeference.crs is None
        assert scene.unit == "byte"


@pytest.mark.parametrize("nodata", [-99.0, -9999.0, -3.4028234663852886e38])
def test_declared_nodata_is_invalid_and_zero(make_raster, nodata):
    values = DB.copy()
    values[3, 4] = nodata
    found, valid = rows_of(make_raster(values, nodata=nodata, descriptions=["VH"]))
    assert not valid[3, 4]
    assert valid.sum() == valid.size - 1
    assert found[0, 3, 4] == 0


def test_nan_and_infinity_are_invalid(make_raster):
    values = DB.copy()
    values[0, 0], values[5, 6] = np.nan, -np.inf
    found, valid = rows_of(make_raster(values, nodata=np.nan), unit="db")
    assert [tuple(pixel) for pixel in np.argwhere(~valid)] == [(0, 0), (5, 6)]
    assert np.isfinite(found).all()


def test_a_users_nodata_adds_to_the_files(make_raster):
    values = DB.copy()
    values[0, 0], values[1, 1] = -99, -88
    _, valid = rows_of(make_raster(values, nodata=-99), unit="db", nodata=-88)
    assert [tuple(pixel) for pixel in np.argwhere(~valid)] == [(0, 0), (1, 1)]


def test_a_mask_band_is_used(make_raster):
    mask = np.full((40, 30), 255, np.uint8)
    mask[:, :7] = 0
    _, valid = rows_of(make_raster(DB, mask=mask), unit="db")
    np.testing.assert_array_equal(valid, mask == 255)


def test_an_alpha_band_is_used(make_raster):
    grey = speckle((20, 20))
    alpha = np.full((20, 20), 255, np.uint8)
    alpha[4] = 0
    _, valid = rows_of(make_raster(np.stack([grey, grey, grey, alpha]), "chip.png"))
    np.testing.assert_array_equal(valid, alpha == 255)


def test_the_zero_border_of_a_raw_grd_is_invalid(make_raster):
    dn = speckle((40, 30)).astype(np.uint16) * 4
    dn[:, :5] = 0
    with opened(make_raster(dn)) as scene:
        _, valid = scene.read_rows(0, 40)
        assert scene.unit == "dn"
        assert scene.read_samples()[0].min() > 0
    np.testing.assert_array_equal(valid, dn > 0)


def test_zero_decibels_are_a_value(make_raster):
    values = DB.copy()
    values[2, 2] = 0
    _, valid = rows_of(make_raster(values), unit="db")
    assert valid.all()


def test_the_files_scale_and_offset_are_applied(make_raster):
    stored = (DB * 100).round().astype(np.int16)
    path = make_raster(stored, descriptions=["Sigma0_VH_db"], scales=[0.01])
    values, _ = rows_of(path)
    np.testing.assert_allclose(values[0], stored * 0.01, rtol=1e-5)


def test_a_users_scale_replaces_the_files(make_raster):
    stored = (DB * 100).round().astype(np.int16)
    values, _ = rows_of(make_raster(stored), unit="db", scale=0.01)
    np.testing.assert_allclose(values[0], stored * 0.01, rtol=1e-5)


def test_hundredths_of_decibels_without_a_scale_are_refused(make_raster):
    stored = (DB * 100).round().astype(np.int16)
    with pytest.raises(UnitsUnknown, match=r"--units"), opened(make_raster(stored)):
        pass


@pytest.mark.parametrize("band", ["VH", "vh", "2"])
def test_a_band_by_polarisation_or_index(make_raster, band):
    path = make_raster(np.stack([DB, DB - 7]), descriptions=["VV", "VH"])
    with open_scene(path, ("VV",), SceneOptions(bands=(band,), unit="db")) as scene:
        values, _ = scene.read_rows(0, 40)
    np.testing.assert_array_equal(values[0], DB - 7)


def test_the_models_polarisation_is_found_by_description(make_raster):
    path = make_raster(np.stack([DB, DB - 7]), descriptions=["Sigma0_VV_db", "Sigma0_VH_db"])
    with opened(path) as scene:
        assert scene.polarisations == ("VH",)
        np.testing.assert_array_equal(scene.read_rows(0, 40)[0][0], DB - 7)


def test_another_polarisation_is_taken_only_when_asked_for(make_raster):
    path = make_raster(DB, "S1A_IW_VV_db.tif")
    with pytest.raises(BandNotFound, match=r"trained on VH, the file has 1 \(VV\): give --band VV"), opened(path):
        pass
    with opened(path, bands=("VV",)) as scene:
        assert scene.polarisations == ("VV",)


@pytest.mark.parametrize(
    ("names", "taken"),
    [(("VV", "VH"), "VV"), (("VH", "VV"), "VV"), (("HH", "VH"), "VH"), (("VH",), "VH"), (("VV",), "VV")],
)
def test_a_model_of_either_polarisation_takes_the_one_that_it_prefers(make_raster, names, taken):
    path = make_raster(np.stack([DB - k for k in range(len(names))]), descriptions=names)
    with open_scene(path, ("VV|VH",)) as scene:
        assert scene.polarisations == (taken,)
        np.testing.assert_array_equal(scene.read_rows(0, 40)[0][0], DB - names.index(taken))


def test_a_model_of_either_polarisation_refuses_a_third_and_two_of_one(make_raster):
    path = make_raster(DB, descriptions=["HH"])
    with (
        pytest.raises(BandNotFound, match=r"trained on VV or VH, the file has 1 \(HH\)"),
        open_scene(path, ("VV|VH",)),
    ):
        pass
    path = make_raster(np.stack([DB, DB, DB]), descriptions=["VV", "VV", "VH"])
    with pytest.raises(BandNotFound, match=r"give --band 1 or 2$"), open_scene(path, ("VV|VH",)):
        pass


def test_a_lone_band_without_a_name_is_taken(make_raster):
    with opened(make_raster(DB)) as scene:
        assert scene.polarisations == (None,)


def test_several_bands_without_names_are_not_guessed(make_raster):
    with (
        pytest.raises(BandNotFound, match=r"1 \(not named\), 2 \(not named\)"),
        opened(make_raster(np.stack([DB, DB]))),
    ):
        pass


@pytest.mark.parametrize("band", ["0", "3", "HH"])
def test_a_missing_band_is_named(make_raster, band):
    path = make_raster(np.stack([DB, DB]), descriptions=["VV", "VH"])
    with (
        pytest.raises(BandNotFound, match=rf"no band {band}, the file has 1 \(VV\), 2 \(VH\)"),
        opened(path, bands=(band,)),
    ):
        pass


def test_a_grey_picture_saved_in_colour_is_grey(make_raster):
    grey = speckle((20, 20))
    values, _ = rows_of(make_raster(np.stack([grey] * 3), "chip.png"))
    np.testing.assert_array_equal(values[0], grey)


def test_a_colour_picture_is_not_sar(make_raster):
    colours = np.stack([speckle((20, 20), seed=k) for k in range(3)])
    path = make_raster(colours, "photo.png")
    with pytest.raises(BandNotFound, match="not SAR"), opened(path):
        pass


def test_a_palette_is_refused(make_raster):
    path = make_raster(speckle((20, 20)), palette={k: (k, 0, 255 - k, 255) for k in range(256)})
    with pytest.raises(SceneUnreadable, match="palette"), opened(path):
        pass


def test_complex_data_is_refused(make_raster):
    path = make_raster(DB.astype(np.complex64))
    with pytest.raises(SceneUnreadable, match=r"complex64.*SLC"), opened(path):
        pass


def test_missing_empty_and_disguised_files_are_named_as_such(tmp_path):
    empty, text = tmp_path / "empty.tif", tmp_path / "text.tif"
    empty.touch()
    text.write_text("not a raster at all")
    for path, said in [
        (tmp_path / "none.tif", "no such file"),
        (empty, "empty"),
        (text, "not a raster"),
        (tmp_path, "folder"),
    ]:
        with pytest.raises(SceneUnreadable, match=said) as caught, opened(path):
            pass
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_truncated_file_names_the_rows(make_raster):
    path = make_raster(np.random.default_rng(1).normal(-15, 3, (600, 600)).astype(np.float32), blockysize=16)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneUnreadable, match=r"rows \d+ to \d+ .*truncated"):
        rows_of(path, unit="db")


def test_reading_leaves_the_file_as_it_was(make_raster):
    path = make_raster(DB, nodata=-99, **UTM)
    path.chmod(0o444)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    rows_of(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_percentiles_of_a_few_scattered_pixels_are_of_all_of_them(make_raster):
    values = np.zeros((3000, 3000), np.float32)  # sampled every second pixel at first
    positions = (np.arange(1, 2999, 300), np.arange(1, 2999, 300))
    values[positions] = np.arange(1, 11)
    with opened(make_raster(values, nodata=0), unit="power") as scene:
        assert sorted(scene.read_samples()[0]) == list(range(1, 11))


def test_the_sample_of_a_large_scene_is_bounded_and_true(make_raster):
    ramp = np.broadcast_to(np.linspace(1, 1000, 4500, dtype=np.uint16), (2500, 4500))
    with opened(make_raster(ramp, tiled=True, blockxsize=256, blockysize=256)) as scene:
        sample = scene.read_samples()[0]
    assert SAMPLE_LEAST < sample.size < 4_000_000
    assert np.percentile(sample, 50) == pytest.approx(500, abs=2)


def test_a_rotated_affine_is_kept(make_raster):
    rotated = Affine(9.78, 2.08, 500_000, 2.08, -9.78, 4_800_000)
    with opened(make_raster(DB, crs="EPSG:32631", transform=rotated), unit="db") as scene:
        assert scene.georeference.transform == rotated


def test_an_alpha_band_hides_no_polarisation(make_raster):
    alpha = np.full((40, 30), 255, np.uint8)
    alpha[:, :4] = 0
    bands = np.stack([speckle((40, 30)), speckle((40, 30), seed=1), alpha])
    kinds = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    path = make_raster(
        bands, descriptions=["Gamma0_VV", "Gamma0_VH", ""], photometric="MINISBLACK", colorinterp=kinds
    )
    with opened(path, unit="power") as scene:
        values, valid = scene.read_rows(0, 40)
        assert scene.polarisations == ("VH",)
    np.testing.assert_array_equal(valid, alpha == 255)
    np.testing.assert_array_equal(values[0][valid], bands[1][valid])


def test_a_bands_own_mask_is_used(make_raster, tmp_path):
    values = make_raster(DB, "values.tif")
    mask = make_raster(np.where(np.arange(30) < 11, 0, 255).astype(np.uint8)[None].repeat(40, axis=0), "mask.tif")
    size = 'rasterXSize="30" rasterYSize="40"'
    source = "<SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        f'<VRTDataset {size}><VRTRasterBand dataType="Float32" band="1">{source.format(values)}'
        f'<MaskBand><VRTRasterBand dataType="Byte">{source.format(mask)}</VRTRasterBand></MaskBand>'
        "</VRTRasterBand></VRTDataset>"
    )
    _, valid = rows_of(vrt, unit="db")
    assert valid.sum() == 40 * 19
    assert not valid[:, :11].any()


def test_the_remedy_for_a_grey_picture_of_another_polarisation_works(make_raster):
    path = make_raster(np.stack([speckle((20, 20))] * 3), "chip_VV.png")
    with pytest.raises(BandNotFound, match="give --band VV"), opened(path):
        pass
    with opened(path, bands=("VV",)) as scene:
        assert scene.polarisations == ("VV",)


def test_bands_of_one_name_are_asked_for_by_index(make_raster):
    path = make_raster(np.stack([DB, DB]), descriptions=["VV", "VV"])
    with pytest.raises(BandNotFound, match="give --band 1 "), opened(path):
        pass


def test_values_beyond_float32_are_invalid(make_raster):
    values = DB.astype(np.float64)
    values[1, 1] = 1e300
    found, valid = rows_of(make_raster(values), unit="db")
    assert [tuple(pixel) for pixel in np.argwhere(~valid)] == [(1, 1)]
    assert np.isfinite(found).all()


@pytest.mark.parametrize("scale", [0.0, np.inf, np.nan])
def test_a_scale_of_0_or_infinity_is_refused(scale):
    with pytest.raises(OptionError, match="scale is"):
        SceneOptions(scale=scale)


def test_grey_levels_under_a_name_of_calibrated_values_are_not_guessed(make_raster):
    path = make_raster(speckle((40, 30), high=60), "OPERA_L2_RTC-S1_T137_VH_BROWSE.png")
    with pytest.raises(UnitsUnknown, match="--units byte"), opened(path):
        pass


def test_a_file_name_that_is_not_utf8_is_accepted(tmp_path):
    with pytest.raises(SceneUnreadable), opened(tmp_path / "bad\udcff.tif"):
        pass


def test_a_scene_without_a_georeference_is_read_without_a_warning(make_raster):
    path = make_raster(speckle((20, 20)), "chip.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        assert rows_of(path)[1].all()


def test_the_filter_of_warnings_is_unchanged_while_a_scene_is_open(make_raster):
    path = make_raster(speckle((20, 20)), "chip.png")
    filters = warnings.filters
    with opened(path):
        assert warnings.filters is filters


def filled_dn(high=40_000):
    """DN with a border of 0, nodata of 65535 in a block and at the right, and single zeros."""
    dn = (speckle((200, 300)).astype(np.uint32) * high // 255).astype(np.uint16) + 1
    dn[:, :20] = 0
    dn[50:60, 100:180] = 65535
    dn[:, 290:] = 65535
    dn[120, 130] = 0
    dn[150:160, 40:90] = 0
    return dn


STORED = {
    "DN with fill that is not declared": (filled_dn(), {}),
    "DN with nodata": (filled_dn(), {"nodata": 65535}),
    "bytes": (speckle((200, 300)), {}),
    "scaled": (filled_dn(), {"scales": [0.001]}),
    "float": (np.where(speckle((200, 300)) > 30, speckle((200, 300)) / 9, np.nan).astype(np.float32), {}),
}


@pytest.mark.parametrize(("array", "profile"), STORED.values(), ids=STORED.keys())
def test_values_as_they_are_stored_are_those_of_read(make_raster, array, profile):
    with opened(make_raster(array, **profile), unit="amplitude") as scene:
        values, valid = scene.read_rows(0, 200)
        stored, same = scene.read_stored(0, 200)
    assert stored.dtype == (np.uint16 if array.dtype.kind == "u" and "scales" not in profile else np.float32)
    np.testing.assert_array_equal(stored, values)
    np.testing.assert_array_equal(same, valid)
    assert valid.any()
    if array.dtype == np.uint16:
        assert not valid[50:60, 100:180].any()
        assert valid[100, 150]


def test_threads_read_what_one_thread_reads(make_raster):
    """Each thread has a dataset of its own while it reads."""
    dn = filled_dn()
    with opened(make_raster(dn, tiled=True, blockxsize=64, blockysize=64, compress="deflate")) as scene:
        expected, _ = scene.read_rows(0, 200)
        with ThreadPoolExecutor(8) as threads:
            for _ in range(5):
                parts = list(threads.map(lambda row: scene.read_rows(row, row + 8)[0], range(0, 200, 8)))
                np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
