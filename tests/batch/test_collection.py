"""Items, the Collection and the VRT of a folder of mosaics: valid by the published schemas, and right when read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from sar2optical.batch.collection import write_collection, write_vrts
from sar2optical.batch.stac import write_item
from sar2optical.errors import OutputExists
from tests.batch.validation import errors_of

ZONE_31, ZONE_32 = "EPSG:32631", "EPSG:32632"


def mosaic(folder: Path, name: str, level: int, *, day: int = 1, col: int = 0, row: int = 0, **changes) -> Path:
    """Write a mosaic of one level, 30 x 40, whose first 10 columns are invalid, and its Item."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.tif"
    georeference = {"crs": ZONE_31, "transform": Affine(10, 0, 500_000 + 10 * col, 0, -10, 4_800_000 - 10 * row)}
    profile = {"driver": "GTiff", "height": 30, "width": 40, "count": 3, "dtype": "uint8"} | georeference | changes
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", photometric="RGB", **profile) as file:
        valid = np.full((30, 40), 255, np.uint8)
        valid[:, :10] = 0
        file.write(np.full((3, 30, 40), level, np.uint8) * (valid > 0))
        file.write_mask(valid)
        file.update_tags(SAR2OPTICAL_VERSION="0.1.0", SAR2OPTICAL_MODEL="tiny", SAR2OPTICAL_SOURCE="scene.tif")
    write_item(
        path,
        name=name,
        when=datetime(2026, 1, day, tzinfo=UTC),
        picture=None,
        derived_from=[str(folder.parent / "scenes" / "scene.tif"), "https://host/item.json?sig=SECRET"],
    )
    return path


def record_of(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_an_item_is_valid_and_names_bands_software_and_sources(tmp_path):
    record = record_of(mosaic(tmp_path / "out", "a", 7))
    assert errors_of(record) == []
    asset, properties = record["assets"]["mosaic"], record["properties"]
    assert [band["name"] for band in asset["bands"]] == ["red", "green", "blue"]
    assert asset["raster:bands"] == [{"data_type": "uint8"}] * 3
    assert properties["processing:software"] == {"sar2optical": "0.1.0"}
    assert properties["processing:lineage"].endswith("not a measurement, from scene.tif, by the generator tiny")
    assert (properties["proj:code"], properties["proj:shape"]) == (ZONE_31, [30, 40])
    sources = [link["href"] for link in record["links"] if link["rel"] == "derived_from"]
    assert sources == ["../scenes/scene.tif", "https://host/item.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record["properties"].update({"proj:shape": ["30", 40]}),
        lambda record: record["assets"]["mosaic"].update({"raster:bands": [{"data_type": "byte"}]}),
        lambda record: record["properties"].update({"processing:software": "0.1.0"}),
        lambda record: record["properties"].pop("datetime"),
        lambda record: record["geometry"].update({"type": "Ring"}),
    ],
    ids=["projection", "raster", "processing", "time", "geometry"],
)
def test_the_validation_finds_a_fault(tmp_path, spoil):
    record = record_of(mosaic(tmp_path / "out", "a", 7))
    spoil(record)
    assert errors_of(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"crs": None, "transform": Affine.identity()},
        {"transform": Affine(7, 7, 500_000, 7, -7, 4_800_000)},
        {"crs": "+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m"},
        {"crs": None, "transform": None, "gcps": True},
    ],
    ids=["no georeference", "rotated", "no EPSG code", "GCPs"],
)
def test_items_of_awkward_mosaics_are_valid(tmp_path, changes):
    if changes.get("gcps"):
        gcps = [GroundControlPoint(row, col, 5 + col / 100, 45 - row / 100) for row in (0, 30) for col in (0, 40)]
        changes = {"crs": CRS.from_epsg(4326), "gcps": gcps, "transform": None}
    path = mosaic(tmp_path / "out", "a", 7, **changes)
    assert errors_of(record_of(path)) == []
    write_collection(tmp_path / "out")
    assert errors_of(record_of(path)) == []
    assert errors_of(json.loads((tmp_path / "out" / "collection.json").read_text())) == []


def test_a_collection_covers_all_items_in_space_and_time(tmp_path):
    out = tmp_path / "out"
    for k, name in enumerate("ab"):
        mosaic(out, name, 7, day=3 - k, col=1000 * k)
    (out / "summary.json").write_text("{}")
    path = write_collection(out)
    record = json.loads(path.read_text())
    assert errors_of(record) == []
    boxes = [record_of(out / name)["bbox"] for name in ("a.tif", "b.tif")]
    west, south, east, north = record["extent"]["spatial"]["bbox"][0]
    assert (west, south, east, north) == (boxes[0][0], min(boxes[0][1], boxes[1][1]), boxes[1][2], boxes[0][3])
    assert record["extent"]["temporal"]["interval"] == [["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]]
    collection = pystac.Collection.from_file(str(path))
    items = list(collection.get_items())
    assert [item.id for item in items] == ["a", "b"]
    assert all(item.get_collection().id == collection.id for item in items)
    assert [errors_of(record_of(out / f"{name}.tif")) for name in "ab"] == [[], []]
    before = {path: path.read_bytes() for path in out.iterdir()}
    write_collection(out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_vrt_shows_the_latest_valid_pixel(tmp_path):
    out = tmp_path / "out"
    mosaic(out, "new", 200, day=9, col=20, row=10)
    mosaic(out, "old", 100, day=1)
    (path,) = write_vrts(out)
    assert path.name == "mosaics.vrt"
    wanted, valid = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    wanted[:30, 10:40], valid[:30, 10:40] = 100, 255
    wanted[10:, 30:], valid[10:, 30:] = 200, 255
    with rasterio.open(path) as vrt:
        assert (vrt.crs, vrt.transform) == (CRS.from_string(ZONE_31), Affine(10, 0, 500_000, 0, -10, 4_800_000))
        assert (vrt.read() == wanted).all()
        assert (vrt.dataset_mask() == valid).all()
        assert [colour.name for colour in vrt.colorinterp] == ["red", "green", "blue"]


def test_zones_have_a_vrt_each_and_stale_ones_are_deleted(tmp_path):
    out = tmp_path / "out"
    mosaic(out, "a", 7)
    assert [path.name for path in write_vrts(out)] == ["mosaics.vrt"]
    mosaic(out, "b", 7, crs=ZONE_32)
    mosaic(out, "gcps", 7, crs=None, transform=Affine.identity())
    assert [path.name for path in write_vrts(out)] == ["mosaics-EPSG-32631.vrt", "mosaics-EPSG-32632.vrt"]
    assert sorted(path.name for path in out.glob("*.vrt")) == ["mosaics-EPSG-32631.vrt", "mosaics-EPSG-32632.vrt"]


@pytest.mark.parametrize(("name", "write"), [("collection.json", write_collection), ("mosaics.vrt", write_vrts)])
def test_files_of_others_are_kept(tmp_path, name, write):
    out = tmp_path / "out"
    mosaic(out, "a", 7)
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(OutputExists, match=r"is not a .* of sar2optical"):
        write(out)
    assert (out / name).read_text() == '{"mine": 1}'


def test_an_item_that_somebody_changed_is_left_out_with_a_warning(tmp_path, caplog):
    folder = tmp_path / "out"
    kept, changed = mosaic(folder, "a", 1), mosaic(folder, "b", 2, col=40)
    record = record_of(changed)
    for spoilt in ({**record, "assets": {}}, {**record, "properties": {"sar2optical:model": "tiny"}}):
        changed.with_suffix(".json").write_text(json.dumps(spoilt))
        caplog.clear()
        path = write_collection(folder)
        assert path is not None
        hrefs = [link["href"] for link in json.loads(path.read_text())["links"] if link["rel"] == "item"]
        assert hrefs == [f"./{kept.stem}.json"]
        (vrt,) = write_vrts(folder)
        with rasterio.open(vrt) as file:
            assert file.shape == (30, 40)
        assert "b.json: is left out" in caplog.text
