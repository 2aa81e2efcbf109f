"""Redacted addresses: no query and no password, anywhere in a text."""

from __future__ import annotations

import logging
import pickle

import pytest

from sar2optical._utils.addresses import has_file_in_query, redacted
from sar2optical._utils.files import cause
from sar2optical.cli.common import one_line, set_up_logging
from sar2optical.errors import OptionError, SceneUnreadable


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://host/a/b.tif?st=1&sig=SECRET%3D", "https://host/a/b.tif"),
        ("https://me:SECRET@host:8080/b.tif#SECRET", "https://host:8080/b.tif"),
        ("https://me:SEC@RET@host/b@c.tif", "https://host/b@c.tif"),
        ("https://me:a?SECRET@host/b.tif", "https://..."),
        ("HTTPS://SECRET@host/B.TIF?SECRET", "HTTPS://host/B.TIF"),
        ("s3://key:SECRET@bucket/a b.tif?versionId=SECRET 1", "s3://bucket/a b.tif"),
        ("https:/host/b.tif?SECRET", "https:/host/b.tif"),  # as `Path` writes it
        ("/vsicurl/https://me:SECRET@host/b.tif?SECRET", "/vsicurl/https://host/b.tif"),
        (
            "/vsicurl?max_retry=1&header.Authorization=SECRET&url=https%3A%2F%2Fhost%2Fb.tif%3Fsig%3DSECRET",
            "/vsicurl/https://host/b.tif",
        ),
        ("/vsizip/{/vsicurl/https://host/b.zip?SECRET}/vh.tif", "/vsizip/{/vsicurl/https://host/b.zip}/vh.tif"),
        ("zip+https://me:SECRET@host/b.zip?SECRET!vh.tif", "zip+https://host/b.zip!vh.tif"),
        ('NETCDF:"https://host/b.nc?SECRET":vh', 'NETCDF:"https://host/b.nc":vh'),
        (
            "HTTP response code on http://host/b.tif?sig=SECRET: 403 ('/vsis3/b', see https://me:SECRET@host/c?SECRET).",
            "HTTP response code on http://host/b.tif: 403 ('/vsis3/b', see https://host/c).",
        ),
    ],
)
def test_query_and_password_are_redacted(address, said):
    assert redacted(address) == said
    assert redacted(said) == said


@pytest.mark.parametrize(
    "text",
    [
        "scene.tif",
        "/data/what?.tif",
        "C:\\scenes\\what?.tif",
        "C:/scenes/what?.tif",
        "me@host: what?",
        "https://host",
        "",
    ],
)
def test_other_text_stays_unchanged(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("address", "selects"),
    [
        ("https://host/get?id=1", True),
        ("https://host/get?swath=1&sig=x", True),
        ("/vsicurl?url=https%3A%2F%2Fhost%2Fget%3Fid%3D1", True),
        ("https://host/a.tif?sv=2&st=1&se=2&sp=r&sr=c&sig=x&skoid=1", False),
        ("https://host/a.tif?X-Amz-Signature=x&X-Amz-Date=1", False),
        ("/vsicurl?max_retry=1&url=https%3A%2F%2Fhost%2Fa.tif", False),
        ("https://host/a.tif", False),
        ("/data/what?id=1.tif", False),
    ],
)
def test_a_query_that_is_more_than_a_signature_may_select_the_file(address, selects):
    assert has_file_in_query(address) is selects


def test_errors_never_contain_a_secret():
    address = "https://me:SECRET@host/a.tif?sig=SECRET"
    for kind in (OptionError, SceneUnreadable):  # the second is an OSError, too
        error = kind(f"{address}: cannot be opened (HTTP 403 on {address}): check the address")
        assert (
            str(error) == "https://host/a.tif: cannot be opened (HTTP 403 on https://host/a.tif): check the address"
        )
        error.add_note(f"see {address}")
        assert "SECRET" not in one_line(error) + repr(error.args)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    long = OSError("x" * 140 + " https://me:SECRETSECRETSECRET@host/a.tif")
    assert "SECRET" not in cause(long)  # which cuts it


def test_log_lines_never_contain_a_secret(capsys):
    set_up_logging(0)
    logging.getLogger("sar2optical.somewhere").info("reading %s", "https://me:SECRET@host/a.tif?sig=SECRET")
    assert capsys.readouterr().err == "reading https://host/a.tif\n"
