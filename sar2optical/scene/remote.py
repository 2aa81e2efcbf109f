"""Scenes and mosaics that lie on a server: read in large pieces, retried, never waited for without end."""

from __future__ import annotations

import os
import re
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import rasterio
from rasterio._err import CPLE_BaseError  # rasterio.shutil raises it bare, and exports no other name for it
from rasterio.errors import RasterioError
from rasterio.shutil import copyfiles
from rasterio.shutil import exists as _opens

from sar2optical._utils.addresses import is_web_address, shown
from sar2optical._utils.files import cause
from sar2optical.errors import OptionError, OutputUnwritable

__all__ = ["exists", "failure", "gdal_environment", "is_remote", "is_web_address", "shown", "upload", "vsi_path"]

_STORES = {"s3": "s3", "gs": "gs", "az": "az", "abfs": "az", "oss": "oss"}
_WEB = ("http", "https", "ftp")
_REMOTE_VSI = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?[/?]")
_REMOTE_URL = re.compile(rf"([a-z]+\+)?({'|'.join((*_WEB, *_STORES))})://", re.IGNORECASE)

_MEBIBYTE = 1 << 20

_PATIENCE = 5.0  # seconds
_PARTIAL = 206  # RFC 9110, 15.3.7
_BROKE = "the connection broke, or the file is truncated: run the same command again"
_FETCH_WHOLE = "fetch the file, and give the local one"

_SETTINGS: dict[str, str | int] = {
    # What lies beside the file is not listed: of a bucket, that may be a million names.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # A TIFF's header and, in most, its whole directory in the first request.
    "GDAL_INGESTED_BYTES_AT_OPEN": 64 * 1024,
    # Rows of blocks are asked for in one request each; what is read otherwise, by the mebibyte and not by 16 KiB.
    "CPL_VSIL_CURL_CHUNK_SIZE": _MEBIBYTE,
    "CPL_VSIL_CURL_CACHE_SIZE": 64 * _MEBIBYTE,
    "GDAL_HTTP_MULTIRANGE": "YES",
    # 429 and 5xx, with a pause that doubles: 1 + 2 + 4 + 8 seconds.
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    # A stall ends it, not a long transfer: less than 1 kB/s for 30 seconds.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
}
"""GDAL's configuration options; see https://gdal.org/en/stable/user/configoptions.html."""


def is_remote(path: str | Path) -> bool:
    """Say whether a path is a server's: an URL of a kind that GDAL reads, or one of its `/vsi` paths of such."""
    text = str(path)
    return bool(_REMOTE_URL.match(text) or _REMOTE_VSI.search(text))


def vsi_path(path: str | Path) -> str:
    """Give GDAL's own path for an URL; others as they are.

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
    """Give options for `rasterio.Env`, so that a remote file is read in few large requests and nothing hangs.

    Parameters
    ----------
    path
        Of the file that will be read.

    Returns
    -------
    dict
        Empty for a local file. What the user has set in the environment is left out, so that it holds.
    """
    if not is_remote(path):
        return {}
    return {name: value for name, value in _SETTINGS.items() if name not in os.environ}


def failure(path: str | Path) -> str:
    """Say how a server answers now that GDAL could not read from it; GDAL's own error seldom names the cause.

    Parameters
    ----------
    path
        An address, or GDAL's path of one.

    Returns
    -------
    str
        Reads after "cannot be read: ". Of stores with their own protocols (s3), and where the server answers as it
        should: that the connection broke.
    """
    address = str(path).removeprefix("/vsicurl/")
    if not address.lower().startswith(("http://", "https://")):
        return _BROKE
    asked = Request(address, headers={"Range": "bytes=0-1023", "User-Agent": "sar2optical"})
    try:
        with urlopen(asked, timeout=_PATIENCE) as answer:
            kind = answer.headers.get_content_type()
            if kind == "text/html" or answer.read(15).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                moved = "" if answer.url == address else f", after a redirect to {shown(answer.url)}"
                return f"the server sends a web page ({kind}){moved}: log in, or give the raster's own address"
            return _BROKE if answer.status == _PARTIAL else f"the server ignores ranges: {_FETCH_WHOLE}"
    except HTTPError as error:
        advice = "renew the address or its credentials" if error.code in (401, 403) else "check the address"
        return f"the server answers {error.code} {error.reason}: {advice}, then run the same command again"
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return (
            f"the server cannot be reached ({shown(str(reason))}): check the network, then run the same command again"
        )


def exists(remote: str) -> bool:
    """Say whether a remote path is a raster; an object of another kind is not seen.

    Raises
    ------
    OutputUnwritable
        Where the server refuses to tell, or cannot be reached.
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
    """Copy a finished raster to a remote path, byte by byte; what is there is replaced.

    Stores such as S3 show an object when all of it has arrived, so that it is never seen half-written.

    Parameters
    ----------
    local
        A raster of one file.
    remote
        ``s3://``, ``gs://``, ``az://`` or ``oss://`` and the like, or GDAL's path of one. Credentials are the
        environment's, by the names that GDAL knows.

    Raises
    ------
    OptionError
        Where the remote path is of a kind that takes no files, such as ``https://``.
    OutputUnwritable
        Where the server refuses it, or cannot be reached.
    """
    target = vsi_path(remote)
    if not is_remote(remote) or target.startswith("/vsicurl"):
        raise OptionError(f"{remote}: takes no uploads: give s3://bucket/key, or another store's")
    try:
        with rasterio.Env(**gdal_environment(remote)):
            copyfiles(str(local), target)
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise OutputUnwritable(
            f"{remote}: cannot be uploaded ({cause(error)}): check bucket and credentials; {local} is kept"
        ) from error
