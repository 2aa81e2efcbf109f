"""Web addresses in paths and texts: redact what may be secret in them (query, user, password)."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

__all__ = ["has_file_in_query", "is_web_address", "redacted"]

_SCHEMES = "https?|ftp|s3|gs|az|abfss?|adl|oss|wasbs?|hdfs|webhdfs|swift"
# `Path` turns two slashes into one. Other schemes need both: local paths may contain a colon and a slash.
_ADDRESS = re.compile(
    rf"(?P<scheme>(?:[a-z]+\+)?(?:(?:{_SCHEMES}):/{{1,3}}|[a-z][a-z0-9.\-]+://))(?P<body>[^\s\"'`<>{{}}]+)",
    re.IGNORECASE,
)
"""Address in a text or in a GDAL path; quotes, braces and white space end it."""

_QUOTED = re.compile(r"/vsi(?P<store>[a-z0-9_]+)\?(?P<options>[^\s\"'`<>{}/]+)", re.IGNORECASE)
"""GDAL path with options: one is the quoted address, others may contain headers and passwords."""

_SIGNING = re.compile(
    "x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|.*token.*|"
    "sig|s[veprsi]|st|srt|spr|sip|sk[tesv]|(sko|skt|sao|suo|sc)id",
    re.IGNORECASE,
)
"""Names of query parameters that sign an address: AWS, Google, CloudFront, and Azure (which begin with s)."""


def redacted(address: str | Path) -> str:
    """Remove query, fragment, user and password from addresses, so that they may be printed and stored.

    Parameters
    ----------
    address
        Address, GDAL's path of one, or a text that contains some, such as an error message.

    Returns
    -------
    str
        The same text with redacted addresses; unchanged where it contains none.
    """
    text = _QUOTED.sub(_unquoted, str(address))
    if _is_one_address(text):
        match = _ADDRESS.search(text)
        if match and "}" not in text:  # a lone address may contain white space
            return text[: match.start()] + _stripped(match["scheme"], text[match.start("body") :])
    return _ADDRESS.sub(lambda match: _stripped_in_text(match["scheme"], match["body"]), text)


def is_web_address(text: str) -> bool:
    """Return whether a text begins with a scheme, as `s3://bucket/key` and `HTTPS://host/a.tif` do."""
    return re.match(r"[a-z][a-z0-9+.\-]+://", text, re.IGNORECASE) is not None


def has_file_in_query(address: str | Path) -> bool:
    """Return whether the query of an address selects the file, as in `https://host/get?id=1`.

    The signatures of object stores do not.
    """
    text = str(address)
    if _ADDRESS.search(text) is None and _QUOTED.search(text) is None:
        return False
    query = text.partition("?")[2] if _QUOTED.search(text) is None else urlsplit(_QUOTED.sub(_decoded, text)).query
    return any(not _SIGNING.fullmatch(name) for name, _ in parse_qsl(query, keep_blank_values=True))


def _is_one_address(text: str) -> bool:
    """Return whether a whole text is one address; a message about one continues after a colon and a space."""
    return re.match(r"(/vsi[a-z0-9_]+/+)*([a-z]+\+)?[a-z][a-z0-9.\-]+://", text, re.IGNORECASE) is not None and (
        re.search(r":\s|\n|[\"'`]|\(", text) is None
    )


def _stripped_in_text(scheme: str, found: str) -> str:
    body = found.rstrip(").,:;!")
    return _stripped(scheme, body) + found[len(body) :]


def _stripped(scheme: str, body: str) -> str:
    inner = ""
    if "+" in scheme:  # rasterio's zip+https://host/archive.zip!name
        body, mark, name = body.partition("!")
        inner = mark + name
    authority = re.split(r"[/?#]", body, maxsplit=1)[0]
    path = re.split(r"[?#]", body[len(authority) :], maxsplit=1)[0]
    if not path and "@" in body[len(authority) :]:
        return f"{scheme}...{inner}"  # ambiguous: a password with a slash, or an address without a path
    return f"{scheme}{authority.rpartition('@')[2]}{path}{inner}"


def _decoded(match: re.Match[str]) -> str:
    """Return the address in GDAL's path with options."""
    found: str = dict(parse_qsl(match["options"])).get("url", "")
    return found


def _unquoted(match: re.Match[str]) -> str:
    """Convert `/vsicurl?url=https%3A%2F%2Fhost%2Fkey&...` to `/vsicurl/https://host/key`."""
    return f"/vsi{match['store']}/{_decoded(match)}"
