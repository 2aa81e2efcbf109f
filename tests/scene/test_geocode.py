"""Geocoding: positions on the map, independence of the rectangle that is read, and refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from sar2optical.errors import OptionError
from sar2optical.scene import Georeference, SceneOptions, open_scene
from sar2optical.scene.geocode import Target, geocoded, residuals
from tests.conftest import UTM, speckle

REAL = Path(__file__).parents[3] / "shared" / "data" / "scenes" / "gcp_only" / "iw-vh.tiff"
EAST, NORTH = 500_000, 4_800_000

BENT = (300, 360)


def opened(path, bands=("VV", "VH")):
    return open_scene(path, bands, SceneOptions(unit="amplitude"))


def bent(x, y):
    """Convert UTM to row and column: a scene of 10 m pixels, rotated by 12 degrees and bent by 8 pixels."""
    u, v = (np.asarray(x) - EAST) / 10, (NORTH - np.asarray(y)) / 10
    row = 0.978 * v - 0.208 * u + 60 + 8 * (u / 400) ** 2
    col = 0.208 * v + 0.978 * u - 40 + 5 * np.sin(v / 150)
    return row, col


def positions(shape):
    """Return two bands with the row and the column of each pixel's centre; none is 0."""
    return (np.indices(shape) + 0.5).astype(np.float32)


@pytest.fixture
def bent_scene(make_raster):
    """A scene with GCPs only, denser than Sentinel-1's so that a spline follows the bend."""
    x, y = (
        axis.ravel() for axis in np.meshgrid(EAST + np.arange(-600, 5000, 250), NORTH - np.arange(-600, 5000, 250))
    )
    gcps = [GroundControlPoint(*point) for point in zip(*bent(x, y), x, y, strict=True)]
    return make_raster(positions(BENT), descriptions=["VV", "VH"], gcps=gcps, crs="EPSG:32631")


def centres(grid):
    """Return map coordinates of the centres of a grid's pixels, (H, W) each."""
    rows, cols = np.indices(grid.shape) + 0.5
    a, _, c, _, e, f = tuple(grid.georeference.transform)[:6]
    return a * cols + c, e * rows + f


def whole(grid):
    return grid.read_rows(0, grid.shape[0])


def inner(row, col, shape, margin=1.0):
    """Return which source positions are surrounded by pixels, so that interpolation is exact."""
    return (row > margin) & (row < shape[0] - margin) & (col > margin) & (col < shape[1] - margin)


@pytest.mark.parametrize(("crs", "resolution"), [("EPSG:32631", 10), ("EPSG:32631", 6.5), ("EPSG:4326", 1e-4)])
def test_each_pixel_has_the_value_of_its_position(bent_scene, crs, resolution):
    with opened(bent_scene) as scene:
        grid = geocoded(scene, Target(crs=crs, resolution=resolution))
        values, valid = whole(grid)
    x, y = centres(grid)
    if crs != "EPSG:32631":
        x, y = (np.reshape(axis, grid.shape) for axis in transform(crs, "EPSG:32631", x.ravel(), y.ravel()))
    row, col = bent(x, y)
    seen = inner(row, col, BENT)
    assert seen.sum() > 0.95 * np.prod(BENT) * (10 / resolution) ** 2 or crs == "EPSG:4326"
    assert valid[seen].all()
    assert np.abs(values[0] - row)[seen].max() < 0.05
    assert np.abs(values[1] - col)[seen].max() < 0.05
    assert not valid[~inner(row, col, BENT, margin=-0.1)].any()
    assert not values[:, ~valid].any()


def test_the_grid_is_north_up_on_multiples_of_the_resolution_and_covers_the_scene(bent_scene):
    with opened(bent_scene) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631", resolution=12))
        _, valid = whole(grid)
        area = valid.sum() * 12**2
    step, turned, left, turned_too, down, top = tuple(grid.georeference.transform)[:6]
    assert (step, turned, turned_too, down) == (12, 0, 0, -12)
    assert left % 12 == 0
    assert top % 12 == 0
    assert grid.georeference.crs == rasterio.CRS.from_epsg(32631)
    assert not grid.georeference.gcps
    assert valid[:2].any()  # no wider than it must be
    assert valid[-2:].any()
    assert valid[:, :2].any()
    assert valid[:, -2:].any()
    x, y = centres(grid)
    assert area == pytest.approx(inner(*bent(x, y), BENT, margin=0).sum() * 12**2, rel=2e-3)


def test_the_resolution_is_by_default_the_scenes_own(bent_scene):
    with opened(bent_scene) as scene:
        assert geocoded(scene, Target(crs="EPSG:32631")).georeference.transform.a == 10
        in_degrees = geocoded(scene, Target(crs="EPSG:4326")).georeference.transform.a
    assert in_degrees == pytest.approx(10 / 111_195 / np.sqrt(np.cos(np.radians(43.3))), rel=0.05)


def test_the_attributes_of_a_scene_are_the_sources(bent_scene):
    with opened(bent_scene) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631"))
        for name in ("path", "files", "polarisations", "unit", "unit_reason"):
            assert getattr(grid, name) is getattr(scene, name)
        for found, expected in zip(grid.read_samples(), scene.read_samples(), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert grid.estimate_valid_share() == pytest.approx(whole(grid)[1].mean(), rel=0.02)
        assert (
            f"{len(scene.georeference.gcps)} GCPs without terrain correction to EPSG:32631 at 10 metre" in grid.note
        )


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:3857"])
def test_a_pixel_does_not_depend_on_the_rectangle_that_is_read(bent_scene, crs):
    with opened(bent_scene) as scene:
        grid = geocoded(scene, Target(crs=crs, resolution=4 if crs == "EPSG:32631" else 6))
        values, valid = whole(grid)
        single = [grid.read_rows(row, row + 1) for row in range(0, grid.shape[0], 7)]
        rows, cols = (130, 333), (77, 500)
        part, part_valid = grid.read(rows, cols)
        empty, _ = grid.read((5, 5), (0, 10))
    assert valid.mean() > 0.5
    np.testing.assert_array_equal(np.concatenate([row for row, _ in single], axis=1), values[:, ::7])
    np.testing.assert_array_equal(np.concatenate([ok for _, ok in single]), valid[::7])
    np.testing.assert_array_equal(part, values[:, slice(*rows), slice(*cols)])
    np.testing.assert_array_equal(part_valid, valid[slice(*rows), slice(*cols)])
    assert empty.shape == (2, 0, 10)


def test_a_nodata_border_stays_invalid_and_does_not_bleed(bent_scene, make_raster):
    levels = np.full(BENT, 100, np.float32)
    levels[:, :50] = levels[-40:] = -9999
    levels[100, 200] = np.nan
    with rasterio.open(bent_scene) as src:
        gcps, crs = src.gcps
    path = make_raster(levels, "border.tif", descriptions=["VH"], gcps=gcps, crs=crs, nodata=-9999)
    with opened(path, ("VH",)) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631", resolution=5))
        values, valid = whole(grid)
    np.testing.assert_allclose(values[0, valid], 100, rtol=1e-6)
    row, col = bent(*centres(grid))
    held = (row >= 0) & (row < 260) & (col >= 50) & (col < 360)
    held &= (row < 100) | (row >= 101) | (col < 200) | (col >= 201)
    assert (valid != held).mean() < 1e-3  # on the very edge, where a spline may be off by 0.05 pixels
    assert (~valid[(abs(row - 100.5) < 0.4) & (abs(col - 200.5) < 0.4)]).all()


def test_a_scene_on_its_own_grid_is_itself(make_raster):
    data = speckle((70, 90)).astype(np.float32)
    path = make_raster(data, descriptions=["VH"], **UTM)
    with opened(path, ("VH",)) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631"))
        values, valid = whole(grid)
        assert grid.georeference == scene.georeference
        assert "terrain" not in grid.note
    assert valid.all()
    np.testing.assert_array_equal(values[0], data)


def test_a_scene_between_the_grids_lines_is_interpolated_wherever_reading_begins(make_raster):
    transform = Affine(10, 0, EAST + 3, 0, -10, NORTH - 4)
    path = make_raster(positions((150, 200)), descriptions=["VV", "VH"], crs=UTM["crs"], transform=transform)
    with opened(path) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631"))
        assert grid.shape == (151, 201)
        for row, col in [(1, 1), (32, 32), (64, 64), (64, 128), (65, 127), (128, 64)]:
            values, valid = grid.read((row, row + 5), (col, col + 7))
            assert valid.all()
            rows, cols = np.indices((5, 7)) + 0.5
            np.testing.assert_allclose(values[0], rows + row - 0.4, atol=1e-4)
            np.testing.assert_allclose(values[1], cols + col - 0.3, atol=1e-4)


def test_one_map_becomes_another_as_gdal_does_it(make_raster):
    data = speckle((150, 180)).astype(np.float32)
    turned = UTM["transform"] @ Affine.rotation(20) if hasattr(Affine, "__matmul__") else None
    turned = turned or UTM["transform"] * Affine.rotation(20)
    path = make_raster(data, descriptions=["VH"], crs=UTM["crs"], transform=turned)
    with opened(path, ("VH",)) as scene:
        grid = geocoded(scene, Target(crs="EPSG:3035"))
        values, valid = whole(grid)
    target = grid.georeference
    with (
        rasterio.open(path) as src,
        WarpedVRT(
            src, crs=target.crs, transform=target.transform, height=grid.shape[0], width=grid.shape[1], nodata=-1,
            resampling=Resampling.bilinear, tolerance=1e-3,
        ) as warped,
    ):  # fmt: skip
        gdal = warped.read(1)
    assert (valid != (gdal != -1)).mean() < 1e-4
    valid &= gdal != -1
    assert np.abs(values[0] - gdal)[valid].max() < 0.01 * 250  # a hundredth of a pixel


def across_the_antimeridian(make_raster):
    """Write a scene of 0.001 degrees a pixel from 179.9 E to 179.9 W; GCPs' longitudes jump as in real products."""
    gcps = [
        GroundControlPoint(row, col, (179.9 + col / 1000 + 180) % 360 - 180, 60 - row / 1000)
        for row in range(0, 101, 20)
        for col in range(0, 201, 20)
    ]
    return make_raster(positions((100, 200)), descriptions=["VV", "VH"], gcps=gcps, crs="EPSG:4326")


def test_a_scene_across_the_antimeridian_stays_in_one_piece(make_raster):
    with opened(across_the_antimeridian(make_raster)) as scene:
        grid = geocoded(scene, Target(crs="EPSG:4326", resolution=0.001))
        values, valid = whole(grid)
        utm = geocoded(scene, Target(crs="EPSG:32660", resolution=80))
        utm_values, utm_valid = whole(utm)
        with pytest.raises(OptionError, match="CRS of its region"):
            geocoded(scene, Target(crs="EPSG:3857"))
    assert grid.shape[1] < 203
    x, y = centres(grid)
    seen = inner((60 - y) * 1000, (x % 360 - 179.9) * 1000, (100, 200))
    assert valid[seen].all()
    assert np.abs(values[0] - (60 - y) * 1000)[seen].max() < 0.05
    assert np.abs(values[1] - (x % 360 - 179.9) * 1000)[seen].max() < 0.05
    lon, lat = (np.reshape(a, utm.shape) for a in transform("EPSG:32660", "EPSG:4326", *map(np.ravel, centres(utm))))
    row, col = (60 - lat) * 1000, (lon % 360 - 179.9) * 1000
    seen = inner(row, col, (100, 200))
    assert utm_valid[seen].all()
    assert np.abs(utm_values[1] - col)[seen].max() < 0.05


@pytest.mark.parametrize(
    ("lon", "lat", "code"), [(78, 10, 32644), (77.9, 10, 32643), (-60, -33, 32721), (15, 88, 32661), (15, -85, 32761)]
)
def test_the_utm_zone_is_that_of_the_centre(make_raster, lon, lat, code):
    transform = Affine(1e-4, 0, lon - 1e-3 + 1e-6, 0, -1e-4, lat + 1e-3)
    with opened(
        make_raster(speckle((20, 20)), descriptions=["VH"], crs="EPSG:4326", transform=transform), ("VH",)
    ) as scene:
        assert geocoded(scene, Target(crs="auto-utm")).georeference.crs == rasterio.CRS.from_epsg(code)


def test_held_out_gcps_measure_the_displacement_of_one():
    """One GCP of a regular grid is displaced by 100 m, and is held out."""
    gcps = [
        GroundControlPoint(row * 50, col * 60, EAST + col * 600, NORTH - row * 500)
        for row in range(7)
        for col in range(7)
    ]
    crs = rasterio.CRS.from_epsg(32631)
    even = residuals(Georeference(gcps=tuple(gcps), gcp_crs=crs))
    assert even.count == 10
    assert even.max < 1e-3
    gcps[25].x += 100
    off = residuals(Georeference(gcps=tuple(gcps), gcp_crs=crs))
    assert off.max == pytest.approx(100, rel=1e-3)
    assert off.rms == pytest.approx(off.max / np.sqrt(10), rel=1e-3)
    degrees = [GroundControlPoint(g.row, g.col, 3 + (g.col / 60) * 1e-3, 60 - (g.row / 50) * 1e-3) for g in gcps]
    degrees[25].x += 4e-4  # 22.2 m at 60 degrees north
    off = residuals(Georeference(gcps=tuple(degrees), gcp_crs=rasterio.CRS.from_epsg(4326)))
    assert off.max == pytest.approx(22.2, rel=0.01)


def test_few_gcps_or_none_have_no_residuals():
    assert residuals(Georeference()) is None
    few = tuple(GroundControlPoint(r, c, c, r) for r in (0, 9) for c in (0, 9))
    assert residuals(Georeference(gcps=few, gcp_crs=rasterio.CRS.from_epsg(4326))) is None


@pytest.mark.parametrize("resolution", [0, -10, float("nan"), float("inf")])
def test_a_resolution_is_a_positive_number(resolution):
    with pytest.raises(OptionError, match="positive"):
        Target(crs="EPSG:32631", resolution=resolution)


@pytest.mark.parametrize(
    ("crs", "says"),
    [
        ("EPSG:999999", "EPSG:999999.*EPSG:32643"),
        ("no such thing", "no such thing"),
        ("EPSG:4978", "neither projected nor geographic"),
    ],
)
def test_a_crs_that_is_not_a_maps_is_refused_before_anything_is_opened(crs, says, capfd):
    with pytest.raises(OptionError, match=says):
        Target(crs=crs)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Target(crs="EPSG:4326", resolution=10), "about 0.0001"),
        (Target(crs="EPSG:32631", resolution=0.1), "about 10,"),
        (Target(crs="EPSG:32631", resolution=1000), "about 10,"),
        (Target(crs="+proj=ortho +lat_0=-60 +lon_0=-120"), "CRS of its region"),
    ],
    ids=lambda value: getattr(value, "crs", ""),
)
def test_an_unsuitable_target_is_refused_in_one_line(bent_scene, target, says):
    with opened(bent_scene) as scene, pytest.raises(OptionError, match=says) as caught:
        geocoded(scene, target)
    assert "\n" not in str(caught.value)


def test_a_scene_without_a_georeference_is_refused(make_raster):
    line = [GroundControlPoint(k, k, k, k) for k in range(5)]
    twice = [GroundControlPoint(r, c, c / 10, r / 10) for r in (0, 20) for c in (0, 20)]
    twice.append(GroundControlPoint(10, 10, 0, 0))
    georeferences = {
        "none": {},
        "line": {"gcps": line, "crs": "EPSG:4326"},
        "twice": {"gcps": twice, "crs": "EPSG:4326"},
    }
    for name, georeference in georeferences.items():
        path = make_raster(speckle((20, 20)), f"{name}.tif", descriptions=["VH"], **georeference)
        with opened(path, ("VH",)) as scene, pytest.raises(OptionError, match="--geocode"):
            geocoded(scene, Target(crs="EPSG:32631"))


def test_how_much_of_the_source_a_strip_touches(bent_scene):
    with opened(bent_scene) as scene:
        grid = geocoded(scene, Target(crs="EPSG:32631"))
        asked = []
        spy = SimpleNamespace(shape=scene.shape, read=lambda rows, cols: asked.append(rows) or scene.read(rows, cols))
        grid._scene = spy
        most = 0
        for start in range(0, grid.shape[0] - 64, 32):
            asked.clear()
            grid.read_rows(start, start + 64)
            most = max(most, max(b for _, b in asked) - min(a for a, _ in asked))
        assert 0.9 * most < grid.source_rows(64) < 1.1 * most
        row_of_pixels = 2 * 360 * 4  # two bands, in blocks of a few rows
        assert grid.row_of_blocks >= min(grid.source_rows(192) * row_of_pixels, 2 * scene.row_of_blocks)


@pytest.mark.skipif(
    not REAL.exists(), reason="needs a real GRD scene with GCPs, which does not come with the project"
)
def test_a_real_scene_is_geocoded_as_by_gdals_exact_spline():
    """GDAL's VRT transforms each pixel through the spline, and takes 50 times as long."""
    with open_scene(REAL, ("VH",)) as scene:
        grid = geocoded(scene, Target(crs="auto-utm"))
        rows, cols = (500, 628), (0, grid.shape[1])
        values, valid = grid.read(rows, cols)
        print(grid.note)  # pytest -s
        assert grid.residuals.rms < 20
    with rasterio.open(vrt_with_spline(REAL, grid, rows)) as exact:
        expected = exact.read(1)
    assert valid.mean() > 0.5
    assert (valid != (expected != -1)).mean() < 1e-4
    valid &= expected != -1
    off = np.abs(values[0] - expected)[valid]
    # Neighbouring pixels differ by some 40: a hundredth of a pixel is 0.4.
    assert off.mean() < 0.02
    assert np.percentile(off, 99.9) < 0.4


def vrt_with_spline(path, grid, rows):
    """Return a VRT in which GDAL warps to rows of a grid by a spline without approximation.

    With XSCALE and YSCALE of 1: a strip across a turned scene touches many more rows than it has itself, which GDAL
    takes for a reduction, and blurs.
    """
    with rasterio.open(path) as src:
        gcps, crs = src.gcps
    points = "".join(f'<GCP Pixel="{g.col!r}" Line="{g.row!r}" X="{g.x!r}" Y="{g.y!r}"/>' for g in gcps)
    srs = grid.georeference.crs.to_wkt().replace('"', "&quot;")
    source = crs.to_wkt().replace('"', "&quot;")
    step, _, left, _, _, top = tuple(grid.georeference.transform)[:6]
    transform = Affine(step, 0, left, 0, -step, top - rows[0] * step)
    there, back = (",".join(map(repr, each.to_gdal())) for each in (transform, ~transform))
    return f"""
<VRTDataset rasterXSize="{grid.shape[1]}" rasterYSize="{rows[1] - rows[0]}" subClass="VRTWarpedDataset">
  <SRS>{srs}</SRS><GeoTransform>{there}</GeoTransform>
  <VRTRasterBand dataType="Float32" band="1" subClass="VRTWarpedRasterBand">
    <NoDataValue>-1</NoDataValue>
  </VRTRasterBand>
  <BlockXSize>512</BlockXSize><BlockYSize>128</BlockYSize>
  <GDALWarpOptions>
    <ResampleAlg>Bilinear</ResampleAlg><WorkingDataType>Float32</WorkingDataType>
    <Option name="INIT_DEST">NO_DATA</Option><Option name="SAMPLE_GRID">YES</Option>
    <Option name="XSCALE">1</Option><Option name="YSCALE">1</Option>
    <SourceDataset relativeToVRT="0">{path}</SourceDataset>
    <Transformer><GenImgProjTransformer>
      <SrcTPSTransformer><TPSTransformer><Reversed>0</Reversed><GCPList>{points}</GCPList></TPSTransformer></SrcTPSTransformer>
      <DstGeoTransform>{there}</DstGeoTransform><DstInvGeoTransform>{back}</DstInvGeoTransform>
      <ReprojectTransformer><ReprojectionTransformer>
        <SourceSRS>{source}</SourceSRS><TargetSRS>{srs}</TargetSRS>
      </ReprojectionTransformer></ReprojectTransformer>
    </GenImgProjTransformer></Transformer>
    <BandList><BandMapping src="1" dst="1">
      <SrcNoDataReal>0</SrcNoDataReal><DstNoDataReal>-1</DstNoDataReal>
    </BandMapping></BandList>
  </GDALWarpOptions>
</VRTDataset>""".strip()
