"""The server: token, host, ranges, values, and nothing else."""

from __future__ import annotations

import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from starlette.testclient import TestClient

from sar2optical.scene.bands import Georeference
from sar2optical.scene.geocode.placement import placement_of
from sar2optical.viewer.app import PAGE_FILES, make_app
from sar2optical.viewer.exhibit import Choices, open_exhibit
from sar2optical.viewer.page import provenance, size_text

PORT = 4711
BASE = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def client(exhibit):
    with TestClient(make_app(exhibit, token="secret", port=PORT), base_url=BASE) as client:
        yield client


def test_the_page_is_served_with_a_policy_that_allows_its_own_files_only(client):
    answer = client.get("/secret/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe-inline" not in policy
    assert "access-control-allow-origin" not in answer.headers
    for address in PAGE_FILES:
        assert client.get(f"/secret/{address}").status_code == 200
    assert client.get("/secret/viewer.js").headers["content-type"].startswith("text/javascript")
    assert "ol 10." in client.get("/secret/licenses.txt").text


@pytest.mark.parametrize(
    "path", ["/", "/secret", "/wrong/", "/secretx/", "//secret/", "/Secret/data.json", "/data.json"]
)
def test_without_the_token_nothing_is_served(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (403, "wrong token")


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"localhost.example.org:{PORT}"]
)
def test_another_host_is_refused(client, host):
    answer = client.get("/secret/", headers={"host": host})
    assert (answer.status_code, answer.text) == (400, "wrong host")


def test_localhost_is_this_machine(client):
    assert client.get("/secret/", headers={"host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "files/1",
        "files/-1",
        "files/..%2f..%2fetc%2fpasswd",
        "files/0/../../x",
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "static/",
        "page.html",
        "app.py",
        "tiles/mosaic-0/3/9/9",
        "tiles/..%2f/0/0/0",
        "values.json?row=1100&col=0",
        "values.json?row=-1&col=0",
    ],
)
def test_there_is_nothing_else(client, path):
    assert client.get(f"/secret/{path}").status_code in (403, 404)


def test_other_methods_are_refused(client):
    assert client.post("/secret/data.json").status_code == 405
    assert client.options("/secret/files/0").status_code == 405


@pytest.mark.parametrize("span", [(0, 0), (0, 65535), (100, 2099), (1_000_000, 1_000_000)])
def test_a_range_has_the_files_bytes(client, mosaic, span):
    answer = client.get("/secret/files/0", headers={"range": f"bytes={span[0]}-{span[1]}"})
    content = mosaic.read_bytes()
    assert answer.status_code == 206
    assert answer.content == content[span[0] : span[1] + 1]
    assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1]}/{len(content)}"


def test_the_end_of_the_file_and_its_size(client, mosaic):
    content = mosaic.read_bytes()
    answer = client.get("/secret/files/0", headers={"range": "bytes=-100"})
    assert (answer.status_code, answer.content) == (206, content[-100:])
    answer = client.head("/secret/files/0")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(content)
    assert answer.headers["accept-ranges"] == "bytes"
    assert client.get("/secret/files/0").content == content


@pytest.mark.parametrize("beyond", ["bytes=999999999-", "bytes=999999999-1000000000"])
def test_a_range_beyond_the_file_is_refused(client, beyond):
    assert client.get("/secret/files/0", headers={"range": beyond}).status_code == 416


def test_a_file_that_has_changed_is_not_mixed_with_what_the_page_knows(client, mosaic):
    mosaic.write_bytes(mosaic.read_bytes() + b"x")
    answer = client.get("/secret/files/0", headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.text) == (410, "mosaic.tif: has changed: start the viewer again")


@pytest.mark.parametrize(("row", "col"), [(0, 0), (39, 17), (40, 17), (1099, 1300), (555, 777)])
def test_values_are_those_of_the_files(client, scene, mosaic, truth, row, col):
    found = client.get(f"/secret/values.json?row={row}&col={col}").json()

    def pixel(path):
        with rasterio.open(path) as dataset:
            return dataset.read(window=rasterio.windows.Window(col, row, 1, 1))[:, 0, 0].tolist()

    assert found["radar"] == ([None] if row == 0 else pixel(scene))
    assert found["mosaics"] == [None if row < 40 else pixel(mosaic)]
    assert found["truth"] == pixel(truth)
    with rasterio.open(mosaic) as dataset:
        assert found["map"] == pytest.approx(dataset.xy(row, col))
        lon, lat = rasterio.warp.transform(dataset.crs, "EPSG:4326", *([axis] for axis in dataset.xy(row, col)))
    assert found["lonlat"] == pytest.approx([lon[0], lat[0]])


@pytest.mark.parametrize("query", ["", "?row=1", "?row=a&col=2", "?row=1.5&col=2"])
def test_values_need_a_row_and_a_column(client, query):
    assert client.get(f"/secret/values.json{query}").status_code == 400


def test_the_page_knows_size_windows_and_provenance(client):
    data = client.get("/secret/data.json").json()
    assert (data["title"], data["shape"], data["unit"]) == ("scene.tif", [1100, 1301], "dn")
    assert data["metres"] == pytest.approx(10, rel=0.01)
    assert data["georeference"] == "EPSG:32631"
    assert data["grid"]["window"] == 256
    assert data["grid"]["cols"] == [0, 174, 348, 522, 696, 870, 1045]
    (mosaic,) = data["mosaics"]
    assert mosaic["file"] == "files/0"
    assert ["Model", "tiny <b>"] in mosaic["provenance"]
    assert ["Option nodata", "7.0"] in mosaic["provenance"]


def test_provenance_is_written_for_people():
    tags = {
        "SAR2OPTICAL_UNITS": "dn",
        "SAR2OPTICAL_STRETCH": "dn as db, 40.26 to 52.71; db as db, -25 to 0; bytes as they are",
        "TIFFTAG_DATETIME": "2026:01:31 04:12:21",
    }
    assert dict(provenance(tags)) == {
        "Unit of the scene": "DN",
        "Stretch": "40.26 to 52.71 dB, computed from DN; -25 to 0 dB; bytes as they are",
        "Made (UTC)": "2026-01-31 04:12:21",
    }


@pytest.mark.parametrize(
    ("crs", "pixel", "size"),
    [("EPSG:4326", 0.001, "55.6 x 111 m each"), ("EPSG:32631", 20.0, "19.9 m each")],
)
def test_the_size_of_a_pixel_has_both_sides_where_they_differ(crs, pixel, size):
    class Grid:
        path, shape = "grid", (200, 100)
        origin = (10.0, 60.1) if crs == "EPSG:4326" else (5e5, 6.65e6)
        georeference = Georeference(
            crs=CRS.from_string(crs), transform=Affine(pixel, 0.0, origin[0], 0.0, -pixel, origin[1])
        )

    assert size_text(placement_of(Grid, ""), Grid.shape) == f"100 x 200 pixels, about {size}"
    assert size_text(None, Grid.shape) == "100 x 200 pixels"


def test_tiles_come_when_they_are_computed(client, exhibit):
    answer = client.get("/secret/tiles/radar-0/0/0/0")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert client.get("/secret/state.json").json() == {"progress": 1, "error": ""}
    exhibit.radar_levels.progress = 0.5
    assert client.get("/secret/tiles/radar-0/1/0/0").status_code == 202


def test_a_scene_that_cannot_be_read_is_an_error_and_no_pixels(scene, mosaic):
    with open_exhibit(scene, [mosaic], Choices()) as shown:
        scene.write_bytes(scene.read_bytes()[:1_000_000])
        with TestClient(make_app(shown, token="secret", port=PORT), base_url=BASE) as client:
            answer = client.get("/secret/tiles/radar-0/3/0/3")
    assert answer.status_code == 500
    assert "scene.tif: rows 768 to 1024 cannot be read" in answer.text
    assert "\n" not in answer.text
