"""Sentinel-1 products: calibration by hand, noise, borders, bands, and damage."""

from __future__ import annotations

import math
import shutil
import warnings
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from sar2optical.errors import BandNotFound, OptionError, Sar2OpticalError, SceneUnreadable
from sar2optical.scene import Scene, SceneOptions
from sar2optical.scene.safe import ProductOptions, is_product, open_product

SHARED = Path(__file__).parents[3] / "shared"
REAL = sorted((SHARED / "data" / "scenes" / "safe_metadata_only").glob("S1*_GRD?_*.zip"))
needs_real = pytest.mark.skipif(
    not REAL, reason="needs a real product's metadata, which do not come with the project"
)

# A product of 40 lines and 60 samples. Tables of A end before the last line and sample, and differ along both.
HEIGHT, WIDTH = 40, 60
NAME = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255.SAFE"
IMAGES = {"VV": "001", "VH": "002"}
LINES, PIXELS = (0, 20, 36), (0, 10, 50)
A = {
    "sigmaNought": ((400, 300, 500), (200, 100, 300), (240, 140, 340)),
    "betaNought": ((100, 100, 100),) * 3,
    "gamma": ((50, 60, 80), (70, 80, 100), (70, 80, 100)),
}
NOISE_RANGE = ((1000, 2000, 3000), (3000, 4000, 5000), (3000, 4000, 5000))
NOISE_AZIMUTH = {"IW1": ((0, 29), (0, 39), (1, 2)), "IW2": ((30, 59), (0, 20, 39), (0.5, 0.5, 1))}
GCPS = [GroundControlPoint(r, c, 7 + c / 1000, 45 - r / 1000, 3.5) for r in (0, 40) for c in (0, 30, 60)]


def stem(polarisation):
    return f"s1a-iw-grd-{polarisation.lower()}-20210119t031653-20210119t031718-036201-043ed0-{IMAGES[polarisation]}"


def words(values):
    return " ".join(map(str, values))


def vectors(name, tables):
    """Write vectors at LINES and PIXELS; `tables` maps an element to its rows."""
    return "".join(
        f'<{name}><line>{line}</line><pixel count="3">{words(PIXELS)}</pixel>'
        + "".join(f'<{tag} count="3">{words(rows[k])}</{tag}>' for tag, rows in tables.items())
        + f"</{name}>"
        for k, line in enumerate(LINES)
    )


def noise_xml(version):
    if version < "002.90":
        return f"<noise>{vectors('noiseVector', {'noiseLut': NOISE_RANGE})}</noise>"
    azimuth = "".join(
        f"<noiseAzimuthVector><swath>{swath}</swath><firstAzimuthLine>0</firstAzimuthLine>"
        f"<firstRangeSample>{pixels[0]}</firstRangeSample><lastAzimuthLine>{HEIGHT - 1}</lastAzimuthLine>"
        f"<lastRangeSample>{pixels[1]}</lastRangeSample><line>{words(lines)}</line>"
        f"<noiseAzimuthLut>{words(factors)}</noiseAzimuthLut></noiseAzimuthVector>"
        for swath, (pixels, lines, factors) in NOISE_AZIMUTH.items()
    )
    return f"<noise>{vectors('noiseRangeVector', {'noiseRangeLut': NOISE_RANGE})}{azimuth}</noise>"


def manifest_xml(kind, version):
    spaces = 'xmlns:safe="http://www.esa.int/safe/sentinel-1.0" xmlns:l1="http://www.esa.int/safe/level-1"'
    return (
        f"<XFDU {spaces}><safe:processing><safe:software name='Sentinel-1 IPF' version='{version}'/>"
        "<safe:processing><safe:software name='Sentinel-1 IPF' version='002.20'/></safe:processing></safe:processing>"
        f"<safe:familyName>SENTINEL-1</safe:familyName><l1:productType>{kind}</l1:productType></XFDU>"
    )


def annotation_xml(shape, *, denoised="false"):
    return (
        f"<product><numberOfSamples>{shape[1]}</numberOfSamples><numberOfLines>{shape[0]}</numberOfLines>"
        f"<thermalNoiseCorrectionPerformed>{denoised}</thermalNoiseCorrectionPerformed></product>"
    )


def write_measurement(path, dn, gcps=GCPS):
    height, width = dn.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint16", gcps=gcps, crs="EPSG:4326"
    ) as dst:
        dst.write(dn, 1)


def make_product(folder, *, polarisations=("VV", "VH"), dn=None, kind="GRD", version="003.31", denoised="false"):
    """Write a small product in ESA's packaging; returns its folder. VH holds twice the DN of VV."""
    root = folder / NAME
    for part in ("measurement", "annotation/calibration", "preview"):
        (root / part).mkdir(parents=True)
    dn = made_dn() if dn is None else dn
    (root / "manifest.safe").write_text(manifest_xml(kind, version))
    for factor, polarisation in enumerate(polarisations, 1):
        name = stem(polarisation)
        write_measurement(root / f"measurement/{name}.tiff", dn * np.uint16(factor))
        (root / f"annotation/{name}.xml").write_text(annotation_xml(dn.shape, denoised=denoised))
        calibration = f"<calibration>{vectors('calibrationVector', A)}</calibration>"
        (root / f"annotation/calibration/calibration-{name}.xml").write_text(calibration)
        (root / f"annotation/calibration/noise-{name}.xml").write_text(noise_xml(version))
    return root


def made_dn():
    dn = np.random.default_rng(0).integers(1, 900, (HEIGHT, WIDTH)).astype(np.uint16)
    dn[:, -2:] = 0
    return dn


def zipped(root):
    path = root.parent / "product.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.fixture
def product(tmp_path):
    return make_product(tmp_path)


def read(path, *, bands=("VV",), rows=None, cols=None, options=None, **product):
    with open_product(path, bands, options, ProductOptions(**product)) as opened:
        return opened.read(rows or (0, opened.shape[0]), cols or (0, opened.shape[1]))


# what a product is


def test_products_are_distinguished_from_other_paths(product, tmp_path, make_raster):
    archive = zipped(product)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("readme.txt", "hello")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:2000])
    for path in (product, str(product), product / "manifest.safe", archive, cut):
        assert is_product(path)
    strange = ("", "no\0path", "bad\udcff.zip", "/vsizip/x.zip", "https://host/S1A_IW_GRDH.zip", "x" * 5000)
    for path in (tmp_path, other, make_raster(made_dn()), tmp_path / "none.SAFE", *strange):
        assert not is_product(path)


# calibration

BY_HAND = {
    "a node": ((20, 10), 100),
    "the first node": ((0, 0), 400),
    "between samples": ((0, 5), 350),
    "between lines": ((5, 10), 250),
    "between both": ((10, 20), (0.75 * 300 + 0.25 * 500 + 0.75 * 100 + 0.25 * 300) / 2),
    "beyond the last sample": ((20, 57), 300),
    "beyond the last line": ((39, 30), 240),
    "beyond both": ((39, 55), 340),
}


@pytest.mark.parametrize(("pixel", "a"), BY_HAND.values(), ids=BY_HAND.keys())
def test_sigma0_is_dn_squared_over_a_squared(product, pixel, a):
    values, valid = read(product)
    assert valid[pixel]
    assert values.dtype == np.float32
    assert values[0][pixel] == pytest.approx(int(made_dn()[pixel]) ** 2 / a**2, rel=1e-6)


@pytest.mark.parametrize(("calibration", "a"), [("sigma0", 100), ("beta0", 100), ("gamma0", 80)])
def test_each_calibration_has_a_table_of_its_own(product, calibration, a):
    values, _ = read(product, calibration=calibration)
    assert values[0, 20, 10] == pytest.approx(int(made_dn()[20, 10]) ** 2 / a**2, rel=1e-6)
    with open_product(product, ("VV",), product=ProductOptions(calibration=calibration)) as opened:
        unit, reason = opened.stated
    assert unit == "power"
    assert calibration in reason


def test_dn_stay_unchanged_on_request(product):
    values, valid = read(product, calibration="dn")
    np.testing.assert_array_equal(values[0], made_dn())
    np.testing.assert_array_equal(valid, made_dn() != 0)
    with open_product(product, ("VV",), product=ProductOptions(calibration="dn")) as opened:
        assert opened.stated[0] == "dn"


def test_a_folder_its_manifest_and_a_zip_file_hold_the_same(product, monkeypatch):
    expected = read(product, denoise=True)
    monkeypatch.chdir(product.parent)
    for path in (product / "manifest.safe", zipped(product), Path("product.zip"), Path(NAME) / "manifest.safe"):
        found = read(path, denoise=True)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("version", ["003.31", "002.60"])
def test_a_rectangle_is_a_part_of_the_whole(tmp_path, version):
    dn = made_dn()
    dn[3:9, :7], dn[12:30, 40:] = 2, 3  # borders, in an old product
    root = make_product(tmp_path, dn=dn, version=version)
    bands = ("VH", "VV")
    whole, valid = read(root, bands=bands, denoise=True)
    assert 0.5 < valid.mean() < 1
    for rows, cols in [((0, 1), (0, 60)), ((7, 33), (5, 41)), ((39, 40), (59, 60)), ((20, 21), (10, 11))]:
        part, usable = read(root, bands=bands, rows=rows, cols=cols, denoise=True)
        np.testing.assert_array_equal(part, whole[:, slice(*rows), slice(*cols)])
        np.testing.assert_array_equal(usable, valid[slice(*rows), slice(*cols)])


def test_what_is_invalid_in_one_band_is_0_in_every_band(product):
    nothing = int(made_dn()[5, 5])  # of VV; VH holds twice as much there
    values, valid = read(product, bands=("VV", "VH"), options=SceneOptions(nodata=nothing))
    assert not valid[5, 5]
    assert (values[:, ~valid] == 0).all()
    assert (values[:, valid] > 0).all()


# noise


def test_noise_of_range_and_azimuth_is_subtracted_swath_by_swath(tmp_path):
    root = make_product(tmp_path, dn=np.full((HEIGHT, WIDTH), 200, np.uint16))
    values, _ = read(root, denoise=True)
    by_hand = {
        (20, 10): (200**2 - 4000 * (1 + 20 / 39)) / 100**2,
        (20, 29): (200**2 - 4475 * (1 + 20 / 39)) / 195**2,  # the last of the first swath
        (20, 30): (200**2 - 4500 * 0.5) / 200**2,  # the first of the second
        (0, 0): (200**2 - 1000 * 1) / 400**2,
        (10, 10): (200**2 - 3000 * (1 + 10 / 39)) / 200**2,
        (39, 55): (200**2 - 5000 * 1) / 340**2,
    }
    for pixel, expected in by_hand.items():
        assert values[0][pixel] == pytest.approx(expected, rel=1e-5)


def test_noise_of_products_before_2_90_has_no_azimuth(tmp_path):
    root = make_product(tmp_path, dn=np.full((HEIGHT, WIDTH), 200, np.uint16), version="002.72")
    values, _ = read(root, denoise=True)
    assert values[0, 20, 30] == pytest.approx((200**2 - 4500) / 200**2, rel=1e-6)


def test_power_below_the_noise_is_0_and_valid(tmp_path):
    root = make_product(tmp_path, dn=np.full((HEIGHT, WIDTH), 30, np.uint16))
    values, valid = read(root, denoise=True)
    assert values[0, 20, 10] == 0  # 30^2 - 4000
    assert valid.all()
    with open_product(root, ("VV",), product=ProductOptions(denoise=True)) as bands:
        scene = Scene(bands)
        assert scene.unit == "power"
        assert scene.read_rows(0, 40)[1].all()


def test_noise_that_cannot_be_subtracted_is_refused(tmp_path):
    old = make_product(tmp_path / "old", version="002.43")
    done = make_product(tmp_path / "done", denoised="true")
    for root, said in ((old, r"IPF 2\.43"), (done, "removed already")):
        assert read(root)[1].any()
        with pytest.raises(OptionError, match=said):
            read(root, denoise=True)
    with pytest.raises(OptionError, match="not from dn"):
        ProductOptions(calibration="dn", denoise=True)
    with pytest.raises(OptionError, match="sigma0, gamma0, beta0, dn"):
        ProductOptions(calibration="sigma")


@pytest.mark.parametrize(("calibration", "unit"), [("sigma0", "db"), ("gamma0", "dn"), ("dn", "db"), ("dn", "power")])
def test_a_unit_that_the_product_is_not_in_is_refused(product, calibration, unit):
    with pytest.raises(OptionError, match=f"units are {unit}, but .*: leave out --units"):
        read(product, options=SceneOptions(unit=unit), calibration=calibration)


# borders


def bordered():
    """Land of DN 300 with faint noise around it, a bright speck in that, and dark water within."""
    dn = np.full((HEIGHT, WIDTH), 300, np.uint16)
    dn[:, :6], dn[:, 50:], dn[:4], dn[38:] = 2, 3, 2, 1  # under 100 / sqrt(1000)
    dn[10, 2] = 40
    dn[20:24, 20:30] = 1
    land = np.zeros(dn.shape, bool)
    land[4:38, 6:50] = True
    return dn, land


@pytest.mark.parametrize("calibration", ["sigma0", "dn"])
def test_old_products_lose_the_noise_beyond_their_borders_and_no_dark_water(tmp_path, calibration):
    dn, land = bordered()
    root = make_product(tmp_path, dn=dn, version="002.84")
    np.testing.assert_array_equal(read(root, calibration=calibration)[1], land)
    assert read(root, calibration=calibration, border=False)[1].all()


def test_products_since_2_90_keep_every_pixel_but_0(tmp_path):
    dn, _ = bordered()
    dn[0] = 0
    _, valid = read(make_product(tmp_path, dn=dn, version="002.90"))
    np.testing.assert_array_equal(valid, dn != 0)


def test_water_at_the_noise_floor_survives_at_the_border(tmp_path):
    """Speckle of 4.4 looks at -25 dB, the noise of IW's cross-polarisation, and nothing else."""
    power = np.random.default_rng(3).gamma(4.4, 1 / 4.4, (400, 300)) * 10**-2.5 * 100**2
    dn = np.maximum(np.round(np.sqrt(power)), 1).astype(np.uint16)
    _, valid = read(make_product(tmp_path, dn=dn, version="002.84"))
    assert valid.mean() > 0.995
    assert valid[:, 20:-20].all()


# bands, georeference, options


def test_bands_come_in_the_models_order_by_name_and_by_index(product):
    dn = made_dn()
    for asked, model in (((), ("VH", "VV")), (("vh", "VV"), ("VV", "VH")), (("2", "1"), ("VV", "VH"))):
        with open_product(product, model, SceneOptions(bands=asked), ProductOptions(calibration="dn")) as opened:
            assert opened.polarisations == ("VH", "VV")
            values, _ = opened.read((0, HEIGHT), (0, WIDTH))
        np.testing.assert_array_equal(values, np.stack([dn * 2, dn]))


def test_a_product_in_a_folder_of_its_own_name_is_found(tmp_path):
    root = make_product(tmp_path / "inner")
    outer = tmp_path / "outer" / root.name
    outer.parent.mkdir()
    outer.mkdir()
    root.rename(outer / root.name)
    with open_product(outer, ("VV",)) as opened:
        assert opened.polarisations == ("VV",)
    (outer / "other.SAFE").mkdir()
    (outer / "other.SAFE" / "manifest.safe").write_text("<x/>")
    with pytest.raises(SceneUnreadable, match="manifest"):
        read(outer)


def test_a_polarisation_that_the_product_lacks_is_named(tmp_path):
    root = make_product(tmp_path, polarisations=("VV",))
    with pytest.raises(BandNotFound, match=r"trained on VH, the product has 1 \(VV\): give --band VV"):
        read(root, bands=("VH",))
    for band in ("HH", "2", "0"):
        with pytest.raises(BandNotFound, match=rf"no band {band}, the product has 1 \(VV\)"):
            read(root, options=SceneOptions(bands=(band,)))
    with pytest.raises(BandNotFound, match="2 bands asked for"):
        read(root, options=SceneOptions(bands=("VV", "VV")))
    with pytest.raises(BandNotFound, match=r"trained on VH or HV, the product has 1 \(VV\)"):
        read(root, bands=("VH|HV",))
    with open_product(root, ("VH|VV",)) as opened:
        assert opened.polarisations == ("VV",)
    with open_product(root, ("VH",), SceneOptions(bands=("VV",))) as opened:
        assert opened.polarisations == ("VV",)


def test_ground_control_points_are_the_measurements(product):
    for path in (product, zipped(product)):
        with open_product(path, ("VV",)) as opened:
            found = opened.georeference
        assert [(g.row, g.col, g.x, g.y, g.z) for g in found.gcps] == [(g.row, g.col, g.x, g.y, g.z) for g in GCPS]
        assert found.gcp_crs == rasterio.CRS.from_epsg(4326)


def test_all_files_that_are_read_are_listed(product):
    archive = zipped(product)
    with open_product(product, ("VV",)) as opened:
        assert opened.path == str(product)
        assert product / f"measurement/{stem('VV')}.tiff" in opened.files
        assert product / f"annotation/calibration/calibration-{stem('VV')}.xml" in opened.files
        assert all(path.is_file() for path in opened.files)
    with open_product(archive, ("VV",)) as opened:
        assert (opened.path, opened.files) == (str(archive), (archive,))


def test_a_users_nodata_is_invalid_too(product):
    dn = made_dn()
    _, valid = read(product, options=SceneOptions(nodata=int(dn[7, 7])))
    np.testing.assert_array_equal(valid, (dn != 0) & (dn != dn[7, 7]))


def test_options_that_contradict_the_products_table_are_refused(product):
    for options, said in ((SceneOptions(scale=0.1), "--scale"), (SceneOptions(unit="db"), "--units")):
        with pytest.raises(OptionError, match=said):
            read(product, options=options)
    assert read(product, options=SceneOptions(unit="power"))[1].any()
    values, _ = read(product, options=SceneOptions(scale=2, unit="dn"), calibration="dn")
    np.testing.assert_array_equal(values[0], made_dn().astype(np.float32) * 2)


def test_a_product_is_a_scene(product):
    with open_product(product, ("VV",)) as bands:
        scene = Scene(bands)
        assert (scene.unit, scene.shape, scene.polarisations) == ("power", (HEIGHT, WIDTH), ("VV",))
        assert scene.read_samples()[0].size == (made_dn() != 0).sum()


# damage


def edit(name, change):
    """Change the text of a file; the change must have an effect."""

    def damage(root):
        path = root / name.format(stem("VV"))
        text = path.read_text()
        changed = change(text)
        assert changed != text
        path.write_text(changed)

    return damage


def remove(name):
    return lambda root: (root / name.format(stem("VV"))).unlink()


def no_measurements(root):
    shutil.rmtree(root / "measurement")
    (root / "measurement").mkdir()


def other_size(root):
    write_measurement(root / f"measurement/{stem('VV')}.tiff", made_dn()[:-1])


CALIBRATION = "annotation/calibration/calibration-{}.xml"
NOISE = "annotation/calibration/noise-{}.xml"
DAMAGE = {
    "no manifest": (remove("manifest.safe"), "no manifest.safe"),
    "a manifest cut short": (edit("manifest.safe", lambda text: text[:-40]), "manifest.safe is not XML"),
    "another mission": (
        edit("manifest.safe", lambda text: text.replace("SENTINEL-1", "SENTINEL-2")),
        "Sentinel-1 GRD",
    ),
    "SLC": (edit("manifest.safe", lambda text: text.replace(">GRD<", ">SLC<")), "is SLC, but GRD is needed"),
    "a version that is none": (
        edit("manifest.safe", lambda text: text.replace("003.31", "three")),
        "processor version .*three",
    ),
    "no measurement": (remove("measurement/{}.tiff"), r"measurement/s1a-iw-grd-vv-.*\.tiff is missing"),
    "no measurements": (no_measurements, r"measurement/s1a-iw-grd-vv-.*\.tiff is missing"),
    "a measurement of 0 bytes": (lambda root: (root / f"measurement/{stem('VV')}.tiff").write_bytes(b""), "empty"),
    "a measurement of another size": (other_size, r"\(39, 60\).*annotation gives \(40, 60\)"),
    "no annotation": (
        lambda root: [path.unlink() for path in (root / "annotation").glob("*.xml")],
        "no annotation of a GRD",
    ),
    "an annotation without a size": (
        edit("annotation/{}.xml", lambda text: text.replace("numberOfLines", "lines")),
        "numberOfLines",
    ),
    "no calibration": (remove(CALIBRATION), "calibration-s1a-.* is missing"),
    "a calibration in another encoding": (
        edit(CALIBRATION, lambda text: f'<?xml version="1.0" encoding="klingon"?>{text}'),
        "calibration-s1a-.* is not XML",
    ),
    "a calibration without a table": (
        edit(CALIBRATION, lambda text: text.replace("sigmaNought", "sigma")),
        "sigmaNought without numbers only",
    ),
    "a word in a table": (edit(CALIBRATION, lambda text: text.replace("400", "4oo")), "sigmaNought as '4oo"),
    "A of 0": (edit(CALIBRATION, lambda text: text.replace("400", "0")), "line 0 whose sigmaNought is invalid"),
    "A that is no number": (edit(CALIBRATION, lambda text: text.replace("400", "nan")), "without numbers only"),
    "a table without one number": (edit(CALIBRATION, lambda text: text.replace("400 ", "")), "is invalid"),
    "samples out of order": (edit(CALIBRATION, lambda text: text.replace("0 10 50", "0 50 10")), "is invalid"),
    "lines out of order": (edit(CALIBRATION, lambda text: text.replace(">20<", ">37<")), "out of order"),
    "noise below 0": (edit(NOISE, lambda text: text.replace("1000", "-1000")), "noiseRangeLut is invalid"),
    "noise without a table": (edit(NOISE, lambda text: text.replace("Vector", "")), "has no noiseVector"),
    "azimuth noise out of order": (
        edit(NOISE, lambda text: text.replace("0 20 39", "0 39 20")),
        "noiseAzimuthVector",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_the_error_of_a_damaged_product_names_the_damage(product, damage, said, packed):
    damage(product)
    path = zipped(product) if packed else product
    if packed and said == "empty":
        said = "cannot be opened"
    with pytest.raises(SceneUnreadable, match=said) as caught:
        read(path, denoise=True)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_truncated_zip_file_is_damaged(product):
    archive = zipped(product)
    data = archive.read_bytes()
    for size in (len(data) // 3, len(data) - 10, 100):
        archive.write_bytes(data[:size])
        with pytest.raises(SceneUnreadable, match=r"list of files cannot be read.*fetch"):
            read(archive)


def test_a_zip_file_of_two_products_is_not_chosen_from(product):
    archive = zipped(product)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("other.SAFE/manifest.safe", "<a/>")
    with pytest.raises(SceneUnreadable, match="contains 2 products"):
        read(archive)


def test_missing_paths_are_reported(tmp_path):
    for path in (tmp_path / "none.zip", tmp_path / "none.SAFE" / "manifest.safe"):
        with pytest.raises(SceneUnreadable, match="no such file"):
            read(path)


@pytest.mark.parametrize(
    "name", ["zip", "manifest.safe", "annotation/{}.xml", CALIBRATION, NOISE, "measurement/{}.tiff"]
)
def test_no_flipped_byte_ends_in_an_error_of_another_kind(product, name):
    archive = zipped(product)
    path = archive if name == "zip" else product / name.format(stem("VV"))
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    refused = []
    for position in rng.permutation(len(whole))[:250]:
        data = bytearray(whole)
        data[position] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            values, valid = read(archive if name == "zip" else product, denoise=True)
        except Sar2OpticalError as error:
            refused.append(str(error))
            continue
        assert np.isfinite(values).all()
        assert valid.shape == values.shape[1:]
    assert refused or name == "measurement/{}.tiff"
    assert not [text for text in refused if "\n" in text]


# a real product's metadata, with a measurement of its size


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Unpack the metadata; add a sparse measurement with speckle around ten pixels, and the annotation's GCPs."""
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(REAL[0]) as archive:
        archive.extractall(folder)
    (root,) = folder.glob("*.SAFE")
    rng = np.random.default_rng(11)
    for annotation in sorted((root / "annotation").glob("s1*.xml")):
        tree = ElementTree.parse(annotation).getroot()
        height, width = (int(tree.findtext(f".//{tag}")) for tag in ("numberOfLines", "numberOfSamples"))
        gcps = [
            GroundControlPoint(
                *(float(p.findtext(tag)) for tag in ("line", "pixel", "longitude", "latitude", "height"))
            )
            for p in tree.iter("geolocationGridPoint")
        ]
        shape = {"height": height, "width": width, "count": 1, "dtype": "uint16"}
        layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "SPARSE_OK": True}
        path = root / "measurement" / f"{annotation.stem}.tiff"
        with rasterio.open(path, "w", driver="GTiff", gcps=gcps, crs="EPSG:4326", **shape, **layout) as dst:
            for row, col in sampled_pixels((height, width)):
                window = around(row, col, (height, width))
                dst.write(rng.integers(1, 2000, (window.height, window.width)).astype(np.uint16), 1, window=window)
    return root


def sampled_pixels(shape):
    """Ten (line, pixel): nodes of the table, between samples, between lines, between both, and the corners."""
    height, width = shape
    return [
        (0, 0), (674, 40), (2023, 10_000), (8764, 25_880), (674, 57), (1000, 4000), (1685, 12_345), (9999, 20_021),
        (height - 1, 0), (height - 1, width - 1),
    ]  # fmt: skip


def around(row, col, shape, half=8):
    top, left = (min(max(at - half, 0), size - 2 * half) for at, size in zip((row, col), shape, strict=True))
    return Window(left, top, 2 * half, 2 * half)


def by_hand(path, tag, line, pixel):
    """Compute A from a calibration's numbers at one pixel: along the pixels of two vectors, then between them."""
    table = []
    for vector in ElementTree.parse(path).getroot().iter("calibrationVector"):
        at = [int(word) for word in vector.findtext("pixel").split()]
        values = [float(word) for word in vector.findtext(tag).split()]
        right = next(k for k, x in enumerate(at) if x >= pixel)
        left = max(right - 1, 0)
        share = (pixel - at[left]) / (at[right] - at[left]) if right else 0
        table.append((int(vector.findtext("line")), values[left] + share * (values[right] - values[left])))
    after = next(k for k, (at, _) in enumerate(table) if at >= line)
    if table[after][0] == line:
        return table[after][1]
    (first, a), (last, b) = table[after - 1 : after + 1]
    return a + (line - first) / (last - first) * (b - a)


@needs_real
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("polarisation", ["VV", "VH"])
@pytest.mark.parametrize(("calibration", "tag"), [("sigma0", "sigmaNought"), ("gamma0", "gamma")])
def test_a_real_products_backscatter_is_that_of_its_table_by_hand(real, polarisation, calibration, tag, packed):
    path = zipped(real) if packed else real
    (measurement,) = (real / "measurement").glob(f"*-{polarisation.lower()}-*.tiff")
    (table,) = (real / "annotation/calibration").glob(f"calibration-*-{polarisation.lower()}-*.xml")
    with (
        open_product(path, (polarisation,), product=ProductOptions(calibration=calibration)) as opened,
        rasterio.open(measurement) as src,
    ):
        assert opened.shape == (16854, 25931)
        assert len(opened.georeference.gcps) == 210
        for line, pixel in sampled_pixels(opened.shape):
            dn = int(src.read(1, window=Window(pixel, line, 1, 1))[0, 0])
            values, valid = opened.read((line, line + 1), (pixel, pixel + 1))
            assert valid.all()
            expected_db = 10 * math.log10(dn**2 / by_hand(table, tag, line, pixel) ** 2)
            assert 10 * math.log10(values.item()) == pytest.approx(expected_db, abs=1e-4)


@needs_real
@pytest.mark.parametrize(("calibration", "tag"), [("sigma0", "sigmaNought"), ("beta0", "betaNought")])
def test_a_real_products_backscatter_is_that_of_xarray_sentinel(real, calibration, tag):
    xarray_sentinel = pytest.importorskip("xarray_sentinel", reason="needs xarray-sentinel, the independent word")
    with (
        warnings.catch_warnings(),
        open_product(real, ("VH",), product=ProductOptions(calibration=calibration)) as ours,
    ):
        warnings.simplefilter("ignore")  # that library's own, about what it uses
        table = xarray_sentinel.open_sentinel1_dataset(real, group="IW/VH/calibration")[tag]
        dn = xarray_sentinel.open_sentinel1_dataset(real, group="IW/VH").measurement
        for line, pixel in sampled_pixels(ours.shape):
            window = around(line, pixel, ours.shape)
            rows, cols = window.toslices()
            theirs = xarray_sentinel.calibrate_intensity(
                dn.isel(azimuth_time=rows, ground_range=cols).swap_dims(azimuth_time="line", ground_range="pixel"),
                table,
            ).to_numpy()
            values, valid = ours.read((rows.start, rows.stop), (cols.start, cols.stop))
            assert valid.all()
            np.testing.assert_allclose(10 * np.log10(values[0]), 10 * np.log10(theirs), atol=1e-4)


@needs_real
def test_a_real_products_noise_is_less_than_its_power_and_differs_by_swath(real):
    (noise,) = (real / "annotation/calibration").glob("noise-*-vv-*.xml")
    root = ElementTree.parse(noise).getroot()
    line, pixel = 2022, 20_002  # a node of the range table, in the third swath
    vector = next(v for v in root.iter("noiseRangeVector") if v.findtext("line") == str(line))
    index = vector.findtext("pixel").split().index(str(pixel))
    block = list(root.iter("noiseAzimuthVector"))[2]
    at = [int(word) for word in block.findtext("line").split()]
    factors = [float(word) for word in block.findtext("noiseAzimuthLut").split()]
    expected = float(vector.findtext("noiseRangeLut").split()[index]) * np.interp(line, at, factors)
    (measurement,) = (real / "measurement").glob("*-vv-*.tiff")
    with rasterio.open(measurement, "r+") as dst:
        dst.write(np.full((1, 1), 900, np.uint16), 1, window=Window(pixel, line, 1, 1))
    rectangle = {"rows": (line, line + 1), "cols": (pixel, pixel + 1)}
    plain, denoised = (read(real, denoise=flag, **rectangle)[0].item() for flag in (False, True))
    assert 1 - denoised / plain == pytest.approx(expected / 900**2, rel=1e-4)


@needs_real
def test_a_real_product_without_its_measurement_is_refused():
    assert is_product(REAL[0])
    with pytest.raises(
        SceneUnreadable, match=r"measurement/s1a-iw-grd-vh-.*\.tiff is missing.*fetch the product again"
    ):
        read(REAL[0], bands=("VH",))
