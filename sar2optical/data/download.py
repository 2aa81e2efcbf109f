"""Fetch training data: archives by HTTP that go on where they broke off, and the Kaggle set by its own client.

Tried against servers on this machine only: neither the real Kaggle set nor TUM's archive has been fetched with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from sar2optical._utils.files import refuse_existing
from sar2optical.errors import DataError, OutputUnwritable

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are there, and their number in all (0 where the server does not tell)."""

_CHUNK = 1 << 20  # bytes per read
_PATIENCE = 60  # seconds without a byte, after which a connection counts as broken


@dataclass(frozen=True)
class Source:
    """Where training data can be had."""

    by: Literal["kagglehub", "http"]
    where: str
    """A Kaggle handle, or the page that links to the archive."""
    what: str


SOURCES = {
    "kaggle": Source(
        "kagglehub",
        "requiemonk/sentinel12-image-pairs-segregated-by-terrain",
        "16,000 pairs of SEN1-2 in four terrain classes (folder v_2)",
    ),
    "tum": Source("http", "https://mediatum.ub.tum.de/1436631", "all of SEN1-2, 282,384 pairs, by season"),
}
"""Archives' own addresses are not listed: none has been tried, so the user gives the one that the page links to."""


def fetch_kaggle() -> Path:
    """Fetch the Kaggle set with kagglehub, into its cache (`KAGGLEHUB_CACHE` moves it).

    Returns
    -------
    Path
        Folder of the set.

    Raises
    ------
    DataError
        Where kagglehub is not installed, or fails.
    """
    handle = SOURCES["kaggle"].where
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        raise DataError(f"{handle} needs kagglehub: pip install 'sar2optical[download]'") from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # whatever its transport raises
        raise DataError(f"{handle}: kagglehub failed ({error}): check connection and login") from error


def fetch(url: str, out: Path, *, sha256: str | None = None, progress: Progress | None = None) -> None:
    """Fetch a file by HTTP, beside `out` as `OUT.part` first. Called again, it goes on where it broke off.

    It goes on only if that is the same file: the server says so (If-Range), or a checksum will tell. Where neither
    is at hand, or the server ignores ranges, it begins anew.

    Parameters
    ----------
    url
        Of http or https.
    out
        Where the file is to be.
    sha256
        Checksum in hexadecimal, if known. A file with another is deleted.
    progress
        See `Progress`.

    Raises
    ------
    DataError
        Where the address is refused, the connection breaks off, or the checksum differs.
    OutputExists
        Where `out` is there.
    OutputUnwritable
        Where its folder is missing, takes no files or is full.
    """
    if not re.match(r"https?://[^/]", url):
        raise DataError(f"{url}: no address of http or https: give one")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"sha256 is {sha256!r}: give 64 hexadecimal digits")
    refuse_existing(out, overwrite=False)
    part, tag = _part(out), _tag(out)
    try:
        done, total = _transfer(url, part, tag, progress, checked=sha256 is not None)
    except HTTPError as error:
        error.close()
        raise DataError(f"{url}: the server answers {error.code} {error.reason}: check the address") from error
    except OutputUnwritable:  # an OSError too
        raise
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: {getattr(error, 'reason', error)}: run the same command again to go on") from error
    if total and done < total:
        raise DataError(f"{url}: broke off after {done} of {total} bytes: run the same command again to go on")
    _finish(url, part, out, sha256)


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _tag(out: Path) -> Path:
    """Name the file that says which version of the server's file the part is of."""
    return out.with_name(f"{out.name}.part.tag")


def _transfer(url: str, part: Path, tag: Path, progress: Progress | None, *, checked: bool) -> tuple[int, int]:
    """Add what is missing to the part; give its size and the whole's, 0 where that is not told."""
    have = part.stat().st_size if part.is_file() else 0
    version = tag.read_text(encoding="latin-1") if tag.is_file() else ""
    headers = {"User-Agent": "sar2optical"}
    if have and (version or checked):
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_PATIENCE)
    except HTTPError as error:
        if error.code != 416 or "Range" not in headers:
            raise
        error.close()
        # Nothing lies beyond: the part is whole, or of another file.
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return have, have
        part.unlink()
        return _transfer(url, part, tag, progress, checked=checked)
    with response:
        start, total = _extent(response, have)
        if start == 0:
            with _writing(part):
                part.write_bytes(b"")  # before the tag: a part is never of another version than its tag says
                tag.write_text(_version(response), encoding="latin-1")
        return _append(response, part, start, total, progress), total


def _extent(response: HTTPResponse, have: int) -> tuple[int, int]:
    """Tell from which byte on the answer is, and the whole's size."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            raise HTTPException(f"asked for bytes from {have}, got {response.headers.get('Content-Range')}")
        return have, 0 if match[2] == "*" else int(match[2])
    return 0, int(response.headers.get("Content-Length") or 0)


def _version(response: HTTPResponse) -> str:
    """Give what names this version for If-Range: a strong ETag, or a date (RFC 9110, 13.1.5); else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _append(response: HTTPResponse, part: Path, start: int, total: int, progress: Progress | None) -> int:
    done = start
    with _writing(part):
        file = part.open("ab")
    with file:
        while chunk := response.read(_CHUNK):
            with _writing(part):
                file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
        with _writing(part):
            file.flush()
            os.fsync(file.fileno())
    return done


def _finish(url: str, part: Path, out: Path, sha256: str | None) -> None:
    with _writing(part):
        if sha256 is not None:
            with part.open("rb") as file:
                found = file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                part.unlink()
                _tag(out).unlink(missing_ok=True)
                raise DataError(
                    f"{url}: its sha256 is {found}, not {sha256.lower()}: deleted; check address and checksum"
                )
        part.replace(out)
        _tag(out).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: cannot be written ({error.strerror}): free space, or choose another folder"
        ) from error
