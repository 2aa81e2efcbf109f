"""What of an address may be shown: not its query, nor its user and password, which may be secrets."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

__all__ = ["is_web_address", "redacted", "tells_file_in_query"]

_SCHEMES = "https?|ftp|s3|gs|az|abfss?|adl|oss|wasbs?|hdfs|webhdfs|swift"
# `Path` makes one slash of two. Of other schemes both are wanted: a colon and a slash are also in local paths.
_ADDRESS = re.compile(
    rf"(?P<scheme>(?:[a-z]+\+)?(?:(?:{_SCHEMES}):/{{1,3}}|[a-z][a-z0-9.\-]+://))(?P<rest>[^\s\"'`<>{{}}]+)",
    re.IGNORECASE,
)
"""An address, in a text or in one of GDAL's paths; quotes, braces and white space end it."""

_QUOTED = re.compile(r"/vsi(?P<store>[a-z0-9_]+)\?(?P<options>[^\s\"'`<>{}/]+)", re.IGNORECASE)
"""GDAL's path with options, where the address is quoted and others hold headers and passwords."""

_SIGNING = re.compile(
    "x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|.*token.*|"
    "sig|s[veprsi]|st|srt|spr|sip|sk[tesv]|(sko|skt|sao|suo|sc)id",
    re.IGNORECASE,
)
"""Names in the query of an address that sign it: AWS, Google and CloudFront; Azure's, which begin with s."""


def redacted(address: str | Path) -> str:
    """Give an address as it may be printed and kept: without query, fragment, user and password.

    Parameters
    ----------
    address
        An address, GDAL's path of one, or a text that holds some, such as an error message. A text without any
        comes back as it is.
    """
    text = _QUOTED.sub(_unquoted, str(address))
    if _is_one_address(text):
        match = _ADDRESS.search(text)
        if match and "}" not in text:  # white space belongs to it
            return text[: match.start()] + _stripped(match["scheme"], text[match.start("rest") :])
    return _ADDRESS.sub(lambda match: _stripped_in_text(match["scheme"], match["rest"]), text)


def is_web_address(text: str) -> bool:
    """Say whether a text begins with a scheme, as `s3://bucket/key` and `HTTPS://host/a.tif` do."""
    return re.match(r"[a-z][a-z0-9+.\-]+://", text, re.IGNORECASE) is not None


def tells_file_in_query(address: str | Path) -> bool:
    """Say whether an address without its query may be that of several files, as `https://host/get?id=1` is.

    A signature, as object stores make them, tells no file.
    """
    text = str(address)
    if _ADDRESS.search(text) is None and _QUOTED.search(text) is None:
        return False
    query = text.partition("?")[2] if _QUOTED.search(text) is None else urlsplit(_QUOTED.sub(_decoded, text)).query
    return any(not _SIGNING.fullmatch(name) for name, _ in parse_qsl(query, keep_blank_values=True))


def _is_one_address(text: str) -> bool:
    """Say whether a whole text is one address: a text about one goes on after a colon and a space."""
    return re.match(r"(/vsi[a-z0-9_]+/+)*([a-z]+\+)?[a-z][a-z0-9.\-]+://", text, re.IGNORECASE) is not None and (
        re.search(r":\s|\n|[\"'`]|\(", text) is None
    )


def _stripped_in_text(scheme: str, rest: str) -> str:
    body = rest.rstrip(").,:;!")
    return _stripped(scheme, body) + rest[len(body) :]


def _stripped(scheme: str, rest: str) -> str:
    inner = ""
    if "+" in scheme:  # rasterio's zip+https://host/archive.zip!name
        rest, mark, name = rest.partition("!")
        inner = mark + name
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = re.split(r"[?#]", rest[len(authority) :], maxsplit=1)[0]
    if not path and "@" in rest[len(authority) :]:
        return f"{scheme}...{inner}"  # an odd password, or no path: which, cannot be told
    return f"{scheme}{authority.rpartition('@')[2]}{path}{inner}"


def _decoded(match: re.Match[str]) -> str:
    found: str = dict(parse_qsl(match["options"])).get("url", "")
    return found


def _unquoted(match: re.Match[str]) -> str:
    """Give `/vsicurl/https://host/key` for `/vsicurl?url=https%3A%2F%2Fhost%2Fkey&...`."""
    return f"/vsi{match['store']}/{_decoded(match)}"
