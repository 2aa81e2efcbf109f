"""Scenes of STAC ItemCollections: valid Items are read, each malformed one gives an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pystac
import pytest

from sar2optical.errors import OptionError
from sar2optical.scene.items import read_items


def item(name, assets=None, **changes):
    record = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2026-01-01T00:00:00Z"},
        "links": [],
        "assets": assets,
    }
    return record | changes


def saved(path, record):
    path.write_text(json.dumps(record))
    return path


def collected(*items):
    return {"type": "FeatureCollection", "features": list(items)}


VH = {"vh": {"href": "a.tif"}}


def test_items_name_scenes_by_polarisation(tmp_path):
    def made(name, *assets):
        item = pystac.Item(name, None, None, datetime(2024, 1, 1, tzinfo=UTC), {})
        for key in assets:
            item.add_asset(key, pystac.Asset(href=f"./{name}-{key}.tif"))
        return item

    path = tmp_path / "items.json"
    pystac.ItemCollection([made("a", "vv", "vh"), made("b", "VV"), made("c", "data")]).save_object(str(path))
    found = read_items(path)
    assert [Path(scene.href).name for scene in found] == ["a-vh.tif", "b-VV.tif", "c-data.tif"]
    assert [(scene.when, scene.error) for scene in found] == [(datetime(2024, 1, 1, tzinfo=UTC), "")] * 3
    assert Path(read_items(path, ("VV",))[0].href) == tmp_path / "a-vv.tif"


@pytest.mark.parametrize(
    "record", [item("a", VH), [item("a", VH)], collected(item("a", VH)), {"features": [item("a", VH)]}]
)
def test_a_single_item_and_an_array_of_items_are_read_too(tmp_path, record):
    (scene,) = read_items(saved(tmp_path / "x.json", record))
    assert (scene.name, scene.href, scene.error) == ("a", str(tmp_path / "a.tif"), "")


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": {"type": "Point", "coordinates": [0, 0]}},  # no bbox
        {"properties": None},
        {"properties": {"datetime": None}},
        {"properties": {"datetime": "yesterday"}},
        {"links": None},
        {"stac_version": "0.6.0"},
        {"stac_extensions": ["https://nowhere/schema.json"]},
        {"type": None},
    ],
)
def test_fields_that_are_not_needed_may_be_malformed(tmp_path, changes):
    (scene,) = read_items(saved(tmp_path / "x.json", collected(item("a", VH, **changes))))
    assert (scene.href, scene.error) == (str(tmp_path / "a.tif"), "")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            item("bad", {"red": {"href": "r.tif"}, "nir": {"href": "n.tif"}}),
            "no asset named after a polarisation, only red, nir",
        ),
        (
            item("bad", {"meta": {"href": "a.xml", "roles": ["metadata"]}}),
            "no asset named after a polarisation, only meta",
        ),
        (item("bad", {"thumbnail": {"href": "a.png"}}), "no asset named after a polarisation, only thumbnail"),
        (item("bad", {}), "has no assets"),
        (item("bad", None), "has no assets"),
        (item("bad", ["a.tif"]), "has no assets"),
        (item("bad", {"vh": {}, "vv": {"href": "v.tif"}}), "asset vh has no address"),
        (item("bad", {"vh": {"href": None}}), "asset vh has no address"),
        (item("bad", {"vh": "a.tif"}), "asset vh has no address"),
        (item("bad", VH, type="Collection"), "is a STAC Collection"),
        ({"id": "bad", "type": "Feature"}, "has no assets"),
    ],
)
def test_an_item_without_a_scene_has_an_error_and_the_others_are_read(tmp_path, odd, message):
    path = saved(tmp_path / "x.json", collected(item("a", VH), odd, item("b", VH)))
    first, bad, last = read_items(path)
    assert (first.error, last.error, bad.href) == ("", "", "")
    assert (first.name, bad.name, last.name) == ("a", "bad", "b")
    assert bad.error.startswith(f"{path}: item bad: ")
    assert message in bad.error


@pytest.mark.parametrize("odd", [None, 3, "a.tif", [], {}, {"id": None, "assets": {}}, {"id": [1]}, {"id": "\ud800"}])
def test_values_that_are_not_items_have_an_error(tmp_path, odd):
    _, bad = read_items(saved(tmp_path / "x.json", [item("a", VH), odd]))
    assert bad.error
    assert bad.name.encode()
    assert bad.name in ("item-2", "?")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"type": "Collection", "id": "c"}, "a STAC Collection, which contains no Items: give an ItemCollection"),
        ({"type": "Catalog", "id": "c"}, "a STAC Catalog, which contains no Items: give an ItemCollection"),
        ({"type": "FeatureCollection"}, "not a STAC ItemCollection but FeatureCollection"),
        ({"type": "FeatureCollection", "features": {}}, "not a STAC ItemCollection"),
        ({"mine": 1}, "not a STAC ItemCollection"),
        ("text", "not a STAC ItemCollection but str"),
        (None, "not a STAC ItemCollection"),
    ],
)
def test_documents_without_items_are_refused_in_one_line(tmp_path, record, message):
    with pytest.raises(OptionError, match="give") as caught:
        read_items(saved(tmp_path / "x.json", record))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, None])
def test_a_file_that_is_not_json_is_refused(tmp_path, data):
    if data is not None:
        (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(OptionError, match="not a STAC ItemCollection"):
        read_items(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("href", "wanted"),
    [
        ("https://host/a.tif?sig=x", "https://host/a.tif?sig=x"),
        ("S3://bucket/a.tif", "S3://bucket/a.tif"),
        ("/vsis3/bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("file:///data/a%20b.tif", "/data/a b.tif"),
        ("/data/a.tif", "/data/a.tif"),
    ],
)
def test_addresses_of_assets_are_unchanged(tmp_path, href, wanted):
    (scene,) = read_items(saved(tmp_path / "x.json", item("a", {"vh": {"href": href}})))
    assert scene.href == wanted
