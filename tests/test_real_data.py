"""Real Sentinel-1 rasters, where they are at hand: each becomes a mosaic of its own shape, place and validity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from sar2optical.engines import EngineOptions
from sar2optical.errors import UnitsUnknown
from sar2optical.evaluation.metrics import psnr
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from tests.conftest import UTM

SHARED = Path(__file__).parents[2] / "shared"
SCENES = sorted(p for p in (SHARED / "data" / "scenes").rglob("*.tif*") if "S2RGB" not in p.parts)

pytestmark = pytest.mark.skipif(not SCENES, reason="needs real Sentinel-1 scenes, which do not come with the project")


def what_the_file_does_not_tell(path):
    """Hundredths of dB without a scale; bands without names."""
    if "SIG0" in path.name:
        return SceneOptions(unit="db", scale=0.01)
    return SceneOptions(bands=("1",)) if "282D" in path.name else SceneOptions()


def validity(path, index):
    """Which pixels hold a value: by the file's nodata, NaN, or the zero border of raw GRD."""
    with rasterio.open(path) as src:
        values, nodata = src.read(index), src.nodata
        raw = src.dtypes[0] == "uint16"
    usable = np.isfinite(values)
    if nodata is not None and not np.isnan(nodata):
        usable &= values != nodata
    return usable & (values != 0) if raw else usable


@pytest.mark.parametrize("path", SCENES, ids=lambda p: p.name)
def test_a_real_scene_becomes_its_mosaic(path, tmp_path):
    out = tmp_path / "out.tif"
    options = what_the_file_does_not_tell(path)
    translate(path, out, options=TranslateOptions(scene=options, preview=tmp_path / "preview.png"))
    assert cog_validate(out, strict=True) == (True, [], [])
    with rasterio.open(path) as src, rasterio.open(out) as mosaic:
        assert mosaic.shape == src.shape
        assert mosaic.crs == src.crs
        assert mosaic.transform == src.transform
        found, expected = mosaic.gcps, src.gcps
        assert [(g.row, g.col, g.x, g.y, g.z) for g in found[0]] == [
            (g.row, g.col, g.x, g.y, g.z) for g in expected[0]
        ]
        assert found[1] == expected[1]
        names = src.descriptions
        mask, rgb = mosaic.dataset_mask() == 255, mosaic.read()
    index = names.index("VV") + 1 if "VV" in names else 1
    np.testing.assert_array_equal(mask, validity(path, index))
    if mask.sum() > 1000:
        assert rgb[:, mask].std() > 5  # a picture, not a plain


def test_hundredths_of_decibels_are_rightly_refused(tmp_path):
    (path,) = [p for p in SCENES if "SIG0" in p.name]
    with pytest.raises(UnitsUnknown, match="--units"):
        translate(path, tmp_path / "out.tif", options=TranslateOptions(scene=SceneOptions(bands=("1",))))


def fragments():
    """Return the held-out fragments, uint8 (1024, 1024) each, without 0."""
    found = []
    for path in sorted((SHARED / "data" / "pairs_volkov" / "val" / "s1").iterdir()):
        with rasterio.open(path) as fragment:
            found.append(np.maximum(fragment.read(1), 1))
    assert len(found) == 5
    return found


def scene_of(pixels, path):
    """Write a scene of VH as bytes, with nodata 0."""
    height, width = pixels.shape
    layout = {"tiled": True, "compress": "deflate", "nodata": 0}
    with rasterio.open(path, "w", height=height, width=width, count=1, dtype="uint8", **layout, **UTM) as scene:
        scene.write(pixels, 1)
        scene.set_band_description(1, "VH")
    return path


def mosaic_of(scene, out, **engine):
    options = TranslateOptions(engine=EngineOptions(**engine), compress="none")
    report = translate(scene, out, options=options)
    with rasterio.open(out) as mosaic:
        return report, mosaic.read(), mosaic.dataset_mask() == 255


def test_batches_and_threads_change_no_pixel_of_a_sparse_scene(tmp_path):
    pixels, mosaics = np.zeros((5000, 5000), np.uint8), []
    for k, fragment in enumerate(fragments()):  # along the diagonal
        at = slice(1000 * k, 1000 * k + 700)
        pixels[at, at] = fragment[:700, :700]
    scene = scene_of(pixels, tmp_path / "sparse.tif")
    for batch, threads in [(1, 1), (3, 2), (8, 2)]:
        report, rgb, _ = mosaic_of(scene, tmp_path / "out.tif", batch=batch, threads=threads)
        (tmp_path / "out.tif").unlink()
        mosaics.append(rgb)
    assert report.windows_run < report.windows / 5
    assert mosaics[0].std() > 10
    np.testing.assert_array_equal(mosaics[0], mosaics[1])
    np.testing.assert_array_equal(mosaics[0], mosaics[2])


def test_what_auto_takes_and_int8_keep_40_db_against_fp32_with_the_bundled_generator(tmp_path):
    scene = scene_of(np.hstack(fragments()), tmp_path / "fragments.tif")
    _, reference, valid = mosaic_of(scene, tmp_path / "fp32.tif", precision="fp32")
    for precision in ("auto", "int8"):
        _, found, _ = mosaic_of(scene, tmp_path / f"{precision}.tif", precision=precision)
        figure = psnr(reference, found, data_range=255, valid=valid)
        print(f"{precision}: {figure:.1f} dB")  # pytest -s
        assert figure >= 40
