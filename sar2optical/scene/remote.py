"""Scenes and mosaics on a server: GDAL's settings for it, uploads, and the causes of failures."""

from __future__ import annotations

import os
import re
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copyfiles
from rasterio.shutil import exists as _opens

from sar2optical._utils.addresses import redacted
from sar2optical._utils.files import cause
from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.errors import OptionError, OutputUnwritable

__all__ = ["exists", "failure", "gdal_environment", "is_remote", "upload", "vsi_path"]

_STORES = {"s3": "s3", "gs": "gs", "az": "az", "abfs": "az", "oss": "oss"}
_WEB = ("http", "https", "ftp")
_REMOTE_VSI = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?[/?]")
_REMOTE_URL = re.compile(rf"([a-z]+\+)?({'|'.join((*_WEB, *_STORES))})://", re.IGNORECASE)

_MEBIBYTE = 1 << 20

_TIMEOUT = 5.0  # seconds
_PARTIAL = 206  # RFC 9110, 15.3.7
_BROKE = "the connection broke, or the file is truncated: run the same command again"
_FETCH_WHOLE = "download the file, and give the local path"

_SETTINGS: dict[str, str | int] = {
    # Do not list the file's folder: a bucket may have a million names.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # The first request reads a TIFF's header and, in most files, its whole directory.
    "GDAL_INGESTED_BYTES_AT_OPEN": 64 * 1024,
    # One request per row of blocks; all other reads by the mebibyte instead of 16 KiB.
    "CPL_VSIL_CURL_CHUNK_SIZE": _MEBIBYTE,
    "CPL_VSIL_CURL_CACHE_SIZE": 64 * _MEBIBYTE,
    "GDAL_HTTP_MULTIRANGE": "YES",
    # Retry after 429 and 5xx, with a pause that doubles: 1 + 2 + 4 + 8 seconds.
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    # Give up on a stall (less than 1 kB/s for 30 seconds), not on a long transfer.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
}
"""GDAL's configuration options; see https://gdal.org/en/stable/user/configoptions.html."""


def is_remote(path: str | Path) -> bool:
    """Return whether a path is on a server: a URL that GDAL reads, or GDAL's `/vsi` path of one."""
    text = str(path)
    return bool(_REMOTE_URL.match(text) or _REMOTE_VSI.search(text))


def vsi_path(path: str | Path) -> str:
    """Convert a URL to GDAL's path; other paths are returned unchanged.

    ``https://host/key`` becomes ``/vsicurl/https://host/key``, ``s3://bucket/key`` becomes ``/vsis3/bucket/key``.
    """
    text = str(path)
    parts = urlsplit(text)
    if parts.scheme.lower() in _WEB:
        return f"/vsicurl/{text}"
    if store := _STORES.get(parts.scheme.lower()):
        return f"/vsi{store}/{text.split('://', 1)[1]}"
    return text


def gdal_environment(path: str | Path) -> dict[str, str | int]:
    """Return options for `rasterio.Env` that read a remote file in few large requests, with timeouts.

    Parameters
    ----------
    path
        Path of the file that will be read.

    Returns
    -------
    dict
        Empty for a local file. Without the options that the user sets in the environment, which take precedence.
    """
    if not is_remote(path):
        return {}
    return {name: value for name, value in _SETTINGS.items() if name not in os.environ}


def failure(path: str | Path) -> str:
    """Find out why GDAL could not read from a server, by a request of our own: GDAL's error seldom names the cause.

    Parameters
    ----------
    path
        Address, or GDAL's path of one.

    Returns
    -------
    str
        Cause and remedy, as the end of a message "...: cannot be read: ". For stores with their own protocols (s3),
        and where the server answers correctly now: that the connection broke.
    """
    address = str(path).removeprefix("/vsicurl/")
    if not address.lower().startswith(("http://", "https://")):
        return _BROKE
    asked = Request(address, headers={"Range": "bytes=0-1023", "User-Agent": "sar2optical"})
    try:
        with urlopen(asked, timeout=_TIMEOUT) as answer:
            kind = answer.headers.get_content_type()
            if kind == "text/html" or answer.read(15).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                moved = "" if answer.url == address else f", after a redirect to {redacted(answer.url)}"
                return (
                    f"the server sends a web page ({kind}){moved}: log in, or give the direct address of the raster"
                )
            return _BROKE if answer.status == _PARTIAL else f"the server ignores ranges: {_FETCH_WHOLE}"
    except HTTPError as error:
        advice = "renew the address or its credentials" if error.code in (401, 403) else "check the address"
        return f"the server answers {error.code} {error.reason}: {advice}, then run the same command again"
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        words = redacted(str(reason))
        return f"the server cannot be reached ({words}): check the network, then run the same command again"


def exists(remote: str) -> bool:
    """Return whether a remote path is a raster; False for an object of another kind.

    Raises
    ------
    OutputUnwritable
        If the server refuses the request, or cannot be reached.
    """
    try:
        with rasterio.Env(**gdal_environment(remote)):
            return bool(_opens(vsi_path(remote)))
    except (RasterioError, CPLE_BaseError, OSError) as error:
        if "404" in str(error):
            return False
        raise OutputUnwritable(
            f"{remote}: cannot be looked up ({cause(error)}): check bucket and credentials"
        ) from error


def upload(local: Path, remote: str) -> None:
    """Upload a finished raster, byte by byte; an existing object is replaced.

    Stores such as S3 show an object only when it is complete.

    Parameters
    ----------
    local
        Raster that consists of one file.
    remote
        Address (``s3://``, ``gs://``, ``az://``, ``oss://``, ...), or GDAL's path of one. Credentials are read from
        the environment, by GDAL's names.

    Raises
    ------
    OptionError
        If the remote path is of a kind that accepts no uploads, such as ``https://``.
    OutputUnwritable
        If the server refuses the upload, or cannot be reached.
    """
    target = vsi_path(remote)
    if not is_remote(remote) or target.startswith("/vsicurl"):
        raise OptionError(f"{remote}: accepts no uploads: give s3://bucket/key, or a key of another store")
    try:
        with rasterio.Env(**gdal_environment(remote)):
            copyfiles(str(local), target)
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise OutputUnwritable(
            f"{remote}: cannot be uploaded ({cause(error)}): check bucket and credentials; {local} is kept"
        ) from error
