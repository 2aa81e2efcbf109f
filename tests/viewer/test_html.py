"""The HTML file stands alone."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from sar2optical.viewer.exhibit import Choices
from sar2optical.viewer.html import LONGEST, html_page, write_html


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.pictures, self.links, self.rows = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag == "img":
            self.pictures.append(names["src"])
        self.links += [value for name, value in attrs if name in ("href", "src", "action") and tag != "img"]

    def handle_data(self, data):
        self.rows.append(data)


def pixels(source):
    kind, _, content = source.partition(",")
    assert kind == "data:image/jpeg;base64"
    with MemoryFile(b64decode(content)) as memory, memory.open() as dataset:
        return dataset.read()


def test_its_pictures_are_inside_and_nothing_else_is_asked_for(exhibit, mosaic):
    text = html_page(exhibit).decode()
    page = _Page(text)
    assert page.links == []
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    radar, rgb, truth = map(pixels, page.pictures)
    assert radar.shape == (1, 1100, 1301)
    assert rgb.shape == truth.shape == (3, 1100, 1301)
    with rasterio.open(mosaic) as dataset:
        stored = dataset.read()
    brightness = [picture[:, 48:].mean(axis=0).ravel() for picture in (rgb, stored)]
    assert np.corrcoef(brightness)[0, 1] > 0.8, "JPEG keeps the brightness of noise"
    assert rgb[:, :32].min() > 200, "invalid pixels are light"


def test_tags_are_text_and_no_markup(exhibit):
    text = html_page(exhibit).decode()
    assert "tiny &lt;b&gt;" in text
    assert "<b>tiny" not in text
    assert "tiny <b>" in "".join(_Page(text).rows)
    assert re.search(r"1301 x 1100 pixels, about (9\.9\d?|10(\.0)?) m each", text)
    assert "not a measurement" in text


def test_a_large_scene_is_reduced(make_raster, tmp_path):
    from tests.conftest import UTM
    from tests.viewer.conftest import random, write_cog

    shape = (300, 2 * LONGEST + 10)
    scene = make_raster(random(shape, np.uint16, 900), descriptions=["VH"], **UTM)
    mosaic = write_cog(tmp_path / "m.tif", random((3, *shape), np.uint8, 250), np.full(shape, 255, np.uint8), **UTM)
    write_html(tmp_path / "view.html", scene, [mosaic], Choices())
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert [pixels(source).shape[1:] for source in _Page(text).pictures] == [(75, 803)] * 2
    assert "every 4 x 4 pixels as one" in text


@pytest.mark.parametrize("name", ["view.png", "scene.tif"])
def test_it_has_the_name_of_an_html_file(name, tmp_path):
    from sar2optical.errors import OptionError
    from sar2optical.viewer.html import check_html

    with pytest.raises(OptionError, match=r"give a name that ends in \.html"):
        check_html(tmp_path / name, [], overwrite=True)
