"""Download training data: archives by HTTP with resume, and the Kaggle set with kagglehub.

Tested against local servers only, not against Kaggle or TUM's archive.
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

__all__ = ["SOURCES", "OnProgress", "Source", "fetch", "fetch_kaggle"]

OnProgress: TypeAlias = Callable[[int, int], None]
"""Callback with the number of bytes downloaded and the total (0 if the server does not send it)."""

_CHUNK = 1 << 20  # bytes per read
_PATIENCE = 60  # seconds without data before a connection is given up


@dataclass(frozen=True)
class Source:
    """A source of training data."""

    by: Literal["kagglehub", "http"]
    """Client."""
    where: str
    """Kaggle handle, or address of the page that links to the archive."""
    what: str
    """Description of the data."""


SOURCES = {
    "kaggle": Source(
        "kagglehub",
        "requiemonk/sentinel12-image-pairs-segregated-by-terrain",
        "16,000 pairs of SEN1-2 in four terrain classes (folder v_2)",
    ),
    "tum": Source("http", "https://mediatum.ub.tum.de/1436631", "all of SEN1-2, 282,384 pairs, by season"),
}
"""Known sources. Addresses of archives are not listed, because none has been tested; the page links to them."""


def fetch_kaggle() -> Path:
    """Download the Kaggle set with kagglehub into its cache (set by `KAGGLEHUB_CACHE`).

    Returns
    -------
    Path
        Folder of the data set.

    Raises
    ------
    DataError
        If kagglehub is not installed, or fails.
    """
    handle = SOURCES["kaggle"].where
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        raise DataError(f"{handle} needs kagglehub: pip install 'sar2optical[download]'") from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub lets errors of its transport through
        raise DataError(f"{handle}: kagglehub failed ({error}): check the connection and the login") from error


def fetch(url: str, out: Path, *, sha256: str | None = None, on_progress: OnProgress | None = None) -> None:
    """Download a file by HTTP to `OUT.part`, then rename it; an interrupted download is resumed by the next call.

    A download is resumed only if the file is known to be the same: by the server's answer to If-Range, or by a
    checksum. Otherwise, or if the server ignores ranges, it starts again.

    Parameters
    ----------
    url
        Address, http or https.
    out
        Path of the file.
    sha256
        Checksum in hexadecimal, if known. A file with another checksum is deleted.
    on_progress
        Called after each block, see `OnProgress`.

    Raises
    ------
    DataError
        If the address is refused, the connection is lost, or the checksum differs.
    OutputExists
        If `out` exists.
    OutputUnwritable
        If its folder is missing, not writable or full.
    """
    if not re.match(r"https?://[^/]", url):
        raise DataError(f"{url}: not a web address: give one that starts with http:// or https://")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"--sha256 is {sha256!r}: give 64 hexadecimal digits")
    refuse_existing(out, overwrite=False)
    part, tag = _part(out), _tag(out)
    try:
        done, total = _transfer(url, part, tag, on_progress, checked=sha256 is not None)
    except HTTPError as error:
        error.close()
        raise DataError(f"{url}: the server answers {error.code} {error.reason}: check the address") from error
    except OutputUnwritable:  # an OSError too
        raise
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url}: the download failed ({getattr(error, 'reason', error)}): run the same command again to resume"
        ) from error
    if total and done < total:
        raise DataError(f"{url}: interrupted after {done} of {total} bytes: run the same command again to resume")
    _finish(url, part, out, sha256)


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _tag(out: Path) -> Path:
    """Path of the file that records the version of the partial download."""
    return out.with_name(f"{out.name}.part.tag")


def _transfer(url: str, part: Path, tag: Path, on_progress: OnProgress | None, *, checked: bool) -> tuple[int, int]:
    """Download the missing bytes; return the bytes present and the total, 0 if unknown."""
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
        # No bytes follow: the partial file is complete, or belongs to another file.
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return have, have
        part.unlink()
        return _transfer(url, part, tag, on_progress, checked=checked)
    with response:
        start, total = _extent(response, have)
        if start == 0:
            with _writing(part):
                part.write_bytes(b"")  # emptied before the tag is written, so that the tag always matches the data
                tag.write_text(_version(response), encoding="latin-1")
        return _append(response, part, start, total, on_progress), total


def _extent(response: HTTPResponse, have: int) -> tuple[int, int]:
    """Read the first byte of the answer and the total size from its headers."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            raise HTTPException(f"requested bytes from {have}, received {response.headers.get('Content-Range')}")
        return have, 0 if match[2] == "*" else int(match[2])
    return 0, int(response.headers.get("Content-Length") or 0)


def _version(response: HTTPResponse) -> str:
    """Get the validator for If-Range: a strong ETag, else a date (RFC 9110, 13.1.5), else an empty string."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _append(response: HTTPResponse, part: Path, start: int, total: int, on_progress: OnProgress | None) -> int:
    done = start
    with _writing(part):
        file = part.open("ab")
    with file:
        while chunk := response.read(_CHUNK):
            with _writing(part):
                file.write(chunk)
            done += len(chunk)
            if on_progress:
                on_progress(done, total)
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
                    f"{url}: the downloaded file has sha256 {found}, not {sha256.lower()}, and was deleted: "
                    "check address and checksum"
                )
        part.replace(out)
        _tag(out).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: cannot be written ({error.strerror}): free disk space, or choose another folder"
        ) from error
