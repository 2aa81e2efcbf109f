"""Downloads: atomic and resumable, tested against servers on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from sar2optical.data.download import SOURCES, fetch, fetch_kaggle
from sar2optical.errors import DataError, OutputExists, OutputUnwritable

BODY = np.random.default_rng(0).bytes(3_000_000)
SUM = sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serve `body` at /set.zip, with ranges (RFC 9110, 14); attributes switch on faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag = '"one"'
        self.ranges = True
        self.breaks_at: int | None = None
        self.length_known = True
        self.asked: list[str | None] = []
        self.sent = 0

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close the connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Suppress log lines."""

    def do_GET(self) -> None:
        server = self.server
        if self.path != "/set.zip":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        server.asked.append(asked)
        fresh = self.headers.get("If-Range") in (None, server.etag)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges and fresh else 0
        size = len(server.body)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length_known:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        stop = size if server.breaks_at is None else min(size, server.breaks_at)
        server.sent += stop - start  # before the client receives the last byte and reads this
        self.wfile.write(server.body[start:stop])


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken_off(server: Server, out: Path, at: int = 1_234_567) -> None:
    server.breaks_at = at
    with pytest.raises(DataError, match=f"interrupted after {at} of 3000000 bytes: run the same command again"):
        fetch(server.url, out)
    server.breaks_at = None
    server.sent = 0
    server.asked.clear()


def test_a_download_leaves_only_the_complete_file(server, tmp_path):
    calls: list[tuple[int, int]] = []
    fetch(server.url, tmp_path / "set.zip", sha256=SUM.upper(), on_progress=lambda *counts: calls.append(counts))
    assert (tmp_path / "set.zip").read_bytes() == BODY
    assert names(tmp_path) == ["set.zip"]
    assert calls[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_an_interrupted_download_is_not_at_the_outputs_name_and_resumes(server, tmp_path):
    out = tmp_path / "set.zip"
    broken_off(server, out)
    assert names(tmp_path) == ["set.zip.part", "set.zip.part.tag"]
    fetch(server.url, out)
    assert out.read_bytes() == BODY
    assert server.asked == ["bytes=1234567-"]
    assert server.sent == len(BODY) - 1_234_567
    assert names(tmp_path) == ["set.zip"]


def test_a_server_without_ranges_sends_the_whole_file_again(server, tmp_path):
    broken_off(server, tmp_path / "set.zip")
    server.ranges = False
    fetch(server.url, tmp_path / "set.zip")
    assert server.sent == len(BODY)
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_a_changed_file_is_not_mixed_with_the_old_one(server, tmp_path):
    broken_off(server, tmp_path / "set.zip")
    server.body, server.etag = BODY[::-1], '"two"'
    fetch(server.url, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == BODY[::-1]


def test_without_a_version_or_a_checksum_the_download_starts_again(server, tmp_path):
    server.etag = ""
    broken_off(server, tmp_path / "set.zip")
    fetch(server.url, tmp_path / "set.zip")
    assert server.asked == [None]
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_without_a_version_a_checksum_allows_to_resume(server, tmp_path):
    server.etag = ""
    broken_off(server, tmp_path / "set.zip")
    fetch(server.url, tmp_path / "set.zip", sha256=SUM)
    assert server.sent == len(BODY) - 1_234_567
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_another_checksum_deletes_the_file_and_is_an_error(server, tmp_path):
    with pytest.raises(DataError, match=f"file has sha256 {SUM}, not 0000.*deleted"):
        fetch(server.url, tmp_path / "set.zip", sha256="0" * 64)
    assert names(tmp_path) == []


def test_a_complete_partial_file_is_only_renamed(server, tmp_path):
    """The state after a kill between the last byte and the rename."""
    (tmp_path / "set.zip.part").write_bytes(BODY)
    (tmp_path / "set.zip.part.tag").write_text('"one"')
    fetch(server.url, tmp_path / "set.zip", sha256=SUM)
    assert server.sent == 0
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_a_partial_file_that_is_too_long_is_discarded(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(BODY + b"more")
    fetch(server.url, tmp_path / "set.zip", sha256=SUM)
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_a_download_of_unknown_length_works(server, tmp_path):
    server.length_known = False
    calls: list[tuple[int, int]] = []
    fetch(server.url, tmp_path / "set.zip", on_progress=lambda *counts: calls.append(counts))
    assert calls[-1] == (len(BODY), 0)
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_an_existing_file_is_kept(server, tmp_path):
    (tmp_path / "set.zip").write_text("mine")
    with pytest.raises(OutputExists):
        fetch(server.url, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_text() == "mine"
    assert server.asked == []


def test_missing_folders_are_named(server, tmp_path):
    with pytest.raises(OutputUnwritable, match="no folder"):
        fetch(server.url, tmp_path / "absent" / "set.zip")


def test_a_partial_file_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "set.zip.part").mkdir()
    with pytest.raises(OutputUnwritable, match=r"set\.zip\.part: cannot be written"):
        fetch(server.url, tmp_path / "set.zip")


def test_wrong_addresses_and_servers_without_answer_are_named(server, tmp_path):
    with pytest.raises(DataError, match="the server answers 404"):
        fetch(server.url + "x", tmp_path / "set.zip")
    for url in ("file:///etc/hostname", "set.zip", "https://"):
        with pytest.raises(DataError, match="not a web address"):
            fetch(url, tmp_path / "set.zip")
    with pytest.raises(DataError, match="give 64 hexadecimal digits"):
        fetch(server.url, tmp_path / "set.zip", sha256="abc")
    server.server_close()
    with pytest.raises(DataError, match="run the same command again"):
        fetch("http://127.0.0.1:9/set.zip", tmp_path / "set.zip")
    assert names(tmp_path) == []


@pytest.mark.skipif(find_spec("kagglehub") is not None, reason="kagglehub is installed")
def test_the_kaggle_set_names_the_missing_library():
    with pytest.raises(DataError, match=r"pip install 'sar2optical\[download\]'"):
        fetch_kaggle()


def test_the_sources_are_those_that_were_published():
    assert SOURCES["kaggle"].where == "requiemonk/sentinel12-image-pairs-segregated-by-terrain"
    assert SOURCES["tum"].where.endswith("1436631")
