"""Remote files, on a local server: reading, retries, timeouts and uploads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from sar2optical.errors import OptionError, OutputUnwritable, SceneUnreadable
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.scene.remote import exists, gdal_environment, is_remote, upload, vsi_path
from tests.conftest import UTM, speckle


class Server:
    """A store in another process: GDAL holds this one's lock at times while it waits for an answer."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def put(self, name, data):
        request = urllib.request.Request(f"{self.url}{name}", data, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def moods(self, **moods):
        self.put("/-/moods", json.dumps(moods).encode())

    def fetch(self, name):
        with urllib.request.urlopen(f"{self.url}{name}", timeout=10) as reply:
            return reply.read()

    def log(self):
        return json.loads(self.fetch("/-/log"))


@pytest.fixture
def server():
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("store.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def s3(server, monkeypatch):
    settings = {
        "AWS_S3_ENDPOINT": server.address, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_REGION": "here",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def tiled(make_raster):
    """8 MB that do not compress, in blocks of 256."""
    data = np.random.default_rng(0).integers(1, 60_000, (2048, 2048)).astype(np.uint16)
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    return data, make_raster(data, "s1-vh.tif", tags={"POLARISATION": "VH"}, **layout, **UTM)


@pytest.mark.parametrize(
    ("path", "remote", "gdal"),
    [
        ("https://host/a/b.tif?x=1", True, "/vsicurl/https://host/a/b.tif?x=1"),
        ("s3://bucket/a/b.tif", True, "/vsis3/bucket/a/b.tif"),
        ("gs://bucket/b.tif", True, "/vsigs/bucket/b.tif"),
        ("/vsis3/bucket/b.tif", True, "/vsis3/bucket/b.tif"),
        ("/vsizip/vsicurl/https://host/b.zip/b.tif", True, "/vsizip/vsicurl/https://host/b.zip/b.tif"),
        ("zip+https://host/b.zip!b.tif", True, "zip+https://host/b.zip!b.tif"),
        ("scene.tif", False, "scene.tif"),
        ("/data/s3/scene.tif", False, "/data/s3/scene.tif"),
        ("/vsizip/scene.zip/scene.tif", False, "/vsizip/scene.zip/scene.tif"),
        ("C:\\scenes\\scene.tif", False, "C:\\scenes\\scene.tif"),
    ],
)
def test_which_paths_are_remote_and_what_gdal_calls_them(path, remote, gdal):
    assert is_remote(path) is remote
    assert vsi_path(path) == gdal
    assert bool(gdal_environment(path)) is remote


def test_settings_of_the_user_take_precedence(monkeypatch):
    assert gdal_environment("s3://b/k")["GDAL_HTTP_MAX_RETRY"] == 4
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    assert "GDAL_HTTP_MAX_RETRY" not in gdal_environment("s3://b/k")


def test_a_scene_is_read_in_few_requests_and_each_byte_once(server, tiled):
    data, path = tiled
    size = path.stat().st_size
    server.put("/s1-vh.tif", path.read_bytes())
    server.moods()
    url = f"{server.url}/s1-vh.tif"
    with rasterio.Env(**gdal_environment(url)), rasterio.open(url) as src:
        opening = server.log()
        for start in range(0, 2048, 192):
            rows = rasterio.windows.Window(0, start, 2048, min(192, 2048 - start))
            np.testing.assert_array_equal(src.read(1, window=rows), data[start : start + 192])
    log = server.log()
    ranges = [tuple(map(int, re.findall(r"\d+", asked))) for _, _, asked in log if asked]
    fetched = sum(min(last, size - 1) - first + 1 for first, last in ranges)
    assert len(opening) <= 3
    assert len(log) <= 3 + 2048 / 256  # a row of blocks in one request, at the most
    assert {name for _, name, _ in log} == {"/s1-vh.tif"}  # nothing is looked for beside it
    assert size <= fetched < 1.05 * size


def test_reading_a_corner_transfers_only_a_corner(server, tiled):
    data, path = tiled
    server.put("/s1-vh.tif", path.read_bytes())
    server.moods()
    url = f"{server.url}/s1-vh.tif"
    with rasterio.Env(**gdal_environment(url)), rasterio.open(url) as src:
        corner = src.read(1, window=rasterio.windows.Window(1024, 1024, 100, 100))
    np.testing.assert_array_equal(corner, data[1024:1124, 1024:1124])
    asked = [tuple(map(int, re.findall(r"\d+", text))) for _, _, text in server.log() if text]
    assert sum(last - first + 1 for first, last in asked) < 3_000_000  # of 8 MB


def scene_at(url):
    with rasterio.Env(**gdal_environment(url)), open_scene(url, ("VH",), SceneOptions(unit="dn")) as scene:
        return scene.read_rows(0, scene.shape[0])


def test_a_request_that_fails_at_first_is_retried(server, make_raster, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")
    data = speckle((60, 70)).astype(np.uint16)
    server.put("/s1-vh.tif", make_raster(data, **UTM).read_bytes())
    server.moods(failures=2)
    values, valid = scene_at(f"{server.url}/s1-vh.tif")
    assert valid.all()
    np.testing.assert_array_equal(values[0], data)
    assert len(server.log()) > 2


def test_retried_requests_are_logged_without_their_query(server, make_raster, tmp_path):
    server.put("/s1-vh.tif", make_raster(speckle((60, 70)), **UTM).read_bytes())
    server.moods(failures=1)
    command = [
        Path(sys.executable).parent / "sar2opt-scene",
        f"{server.url}/s1-vh.tif?sig=SECRET",
        tmp_path / "out.tif",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/s1-vh.tif: the server answered 500; retrying in 1.0 s" in done.stderr
    assert "SECRET" not in done.stderr + done.stdout


def test_a_server_that_keeps_failing_is_an_error(server, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")
    server.moods(failures=100)
    with pytest.raises(SceneUnreadable, match="check the address"):
        scene_at(f"{server.url}/s1-vh.tif")
    server.moods()
    with pytest.raises(SceneUnreadable, match="check the address"):
        scene_at(f"{server.url}/none.tif")


@pytest.fixture
def plain(make_raster):
    """8 MB without compression, as ESA's own measurements are."""
    data = np.random.default_rng(0).integers(1, 60_000, (2048, 2048)).astype(np.uint16)
    return make_raster(data, "s1-vh.tif", tags={"POLARISATION": "VH"}, **UTM)


@pytest.mark.parametrize("layout", ["plain", "tiled"])
@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("forbidden_after", "the server answers 403 Forbidden: renew the address or its credentials"),
        ("page_after", r"the server sends a web page \(text/html\): log in"),
        ("cut_after", "the connection broke|cannot be reached"),
    ],
)
def test_a_read_that_fails_is_an_error_with_its_cause(server, request, monkeypatch, layout, mood, said):
    """With GDAL's threads, an uncompressed file was zeros from where requests failed, and no error."""
    found = request.getfixturevalue(layout)
    path = found[1] if layout == "tiled" else found
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    server.put("/s1-vh.tif", path.read_bytes())
    url = f"{server.url}/s1-vh.tif"
    server.moods(**{mood: 4})
    with pytest.raises(SceneUnreadable, match=rf"^{url}: rows \d+ to \d+ cannot be read: .*({said})"):
        scene_at(f"{url}?sig=SECRET")
    server.moods()
    values, valid = scene_at(url)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(values[0], file.read(1))
    assert valid.all()


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_vrt_over_a_server_is_right_or_an_error_whatever_threads_the_user_has_set(
    server, plain, tmp_path, monkeypatch, where
):
    """GDAL opens a VRT's sources when they are read: with the number of threads of that moment."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    server.put("/s1-vh.tif", plain.read_bytes())
    vrt = tmp_path / "mosaic_vh.vrt"
    server.moods()
    rasterio.shutil.copy(f"/vsicurl/{server.url}/s1-vh.tif", vrt, driver="VRT")
    server.put("/mosaic_vh.vrt", vrt.read_bytes())
    path = vrt if where == "here" else f"{server.url}/mosaic_vh.vrt"
    server.moods(forbidden_after=5)
    with pytest.raises(SceneUnreadable, match="cannot be read"):
        scene_at(path)
    server.moods()
    values, valid = scene_at(path)
    with rasterio.open(plain) as file:
        np.testing.assert_array_equal(values[0], file.read(1))
    assert valid.all()


def test_a_server_without_ranges_gives_the_scene_or_an_error(server, plain, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    server.put("/s1-vh.tif", plain.read_bytes())
    server.moods(no_ranges=1)
    said, values = "", None
    try:
        values, _ = scene_at(f"{server.url}/s1-vh.tif")
    except SceneUnreadable as error:
        said = str(error)
    with rasterio.open(plain) as file:
        whole = values is not None and np.array_equal(values[0], file.read(1))
    assert whole or "the server ignores ranges: fetch the file" in said


def test_a_web_page_instead_of_a_raster_is_named(server):
    server.put("/login.tif", b"<!DOCTYPE html><p>Log in")
    server.moods()
    with pytest.raises(SceneUnreadable, match=r"login\.tif: cannot be opened: the server sends a web page"):
        scene_at(f"{server.url}/login.tif")


@pytest.mark.parametrize("answered", [1, 2])
def test_a_server_that_stops_answering_times_out(server, tiled, monkeypatch, answered):
    """At the first request, or in the middle of the scene."""
    server.put("/s1-vh.tif", tiled[1].read_bytes())
    for name, value in {"LOW_SPEED_TIME": "1", "MAX_RETRY": "0", "CONNECTTIMEOUT": "2"}.items():
        monkeypatch.setenv(f"GDAL_HTTP_{name}", value)
    monkeypatch.setattr("sar2optical.scene.remote._TIMEOUT", 0.5)
    server.moods(hang=answered)
    began = time.monotonic()
    with pytest.raises(SceneUnreadable, match="s1-vh"):
        scene_at(f"{server.url}/s1-vh.tif")
    assert time.monotonic() - began < 30


def test_an_upload_is_the_file_byte_by_byte(s3, tiled):
    _, path = tiled
    assert not exists("s3://bucket/mosaics/out.tif")
    upload(path, "s3://bucket/mosaics/out.tif")
    assert s3.fetch("/bucket/mosaics/out.tif") == path.read_bytes()
    assert exists("s3://bucket/mosaics/out.tif")
    assert {asked.split("?")[0] for method, asked, _ in s3.log() if method == "PUT"} == {"/bucket/mosaics/out.tif"}


def test_a_large_upload_goes_in_parts(s3, tiled, monkeypatch):
    """GDAL's parts have 50 MB; here they have 5."""
    monkeypatch.setenv("VSIS3_CHUNK_SIZE", "5")
    _, path = tiled
    s3.moods(refuse_end=1)
    with pytest.raises(OutputUnwritable, match="uploaded"):
        upload(path, "s3://bucket/out.tif")
    assert not exists("s3://bucket/out.tif")
    s3.moods()
    upload(path, "s3://bucket/out.tif")
    assert [method for method, _, _ in s3.log()].count("PUT") == 2
    assert s3.fetch("/bucket/out.tif") == path.read_bytes()


def test_an_upload_that_is_refused_is_an_error(s3, tiled):
    s3.moods(refuse=1)
    with pytest.raises(OutputUnwritable, match=r"out\.tif: cannot be uploaded .*credentials") as caught:
        upload(tiled[1], "s3://bucket/out.tif")
    assert "\n" not in str(caught.value)
    assert tiled[1].exists()


def test_a_refused_look_up_is_not_a_missing_object(s3, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    s3.moods(failures=100)
    with pytest.raises(OutputUnwritable, match="looked up"):
        exists("s3://bucket/out.tif")


@pytest.mark.parametrize("target", ["https://host/out.tif", "/vsicurl/https://host/out.tif", "out.tif"])
def test_an_address_that_accepts_no_uploads_is_refused_before_anything_is_sent(tiled, target):
    with pytest.raises(OptionError, match="s3://bucket/key"):
        upload(tiled[1], target)
