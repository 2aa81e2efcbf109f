"""Write a scene and its mosaic as one self-contained HTML file: reduced pictures, a swipe, and the provenance."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.errors import OptionError, SceneUnreadable
from sar2optical.mosaic.coding import encode
from sar2optical.mosaic.tags import NOTE
from sar2optical.scene.sources import Source
from sar2optical.viewer.exhibit import Choices, Exhibit, open_exhibit
from sar2optical.viewer.page import placed, provenance, scene_title, size_text
from sar2optical.viewer.pyramid import Pyramid

__all__ = ["LONGEST", "check_html", "html_page", "write_html"]

LONGEST = 1600
"""Largest number of pixels a side of the pictures."""

_INVALID = 235  # grey of pixels without a value; JPEG has no alpha


def check_html(html: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Check that an HTML file can be written, before any work is done.

    Raises
    ------
    OptionError
        If its name does not end in .html, or it is an input.
    OutputExists, OutputUnwritable
        See `sar2optical._utils.files.refuse_existing`.
    """
    if html.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{html}: the viewer writes an HTML file: give a name that ends in .html")
    if html.exists() and any(path.exists() and html.samefile(path) for path in inputs):
        raise OptionError(f"{html}: is an input: choose another name")
    refuse_existing(html, overwrite=overwrite)


def write_html(html: Path, src: Source, mosaics: Sequence[Path], choices: Choices) -> None:
    """Write `html_page` of a scene and its mosaics, atomically.

    Raises
    ------
    SceneUnreadable, BandNotFound, UnitsUnknown, OptionError
        See `open_exhibit` and `html_page`.
    OutputUnwritable
        If the file cannot be written.
    """
    with open_exhibit(src, mosaics, choices) as exhibit:
        page = html_page(exhibit)
    write_output(html, page)


def html_page(exhibit: Exhibit) -> bytes:
    """Make an HTML page that needs no other file and no network.

    Its pictures are those of the first level with at most `LONGEST` pixels a side, as JPEG.

    Parameters
    ----------
    exhibit
        What is shown; its levels are computed here where they are not yet.

    Raises
    ------
    SceneUnreadable
        If a file cannot be read.
    """
    shapes = exhibit.shapes
    level = next(k for k, shape in enumerate(shapes) if max(shape) <= LONGEST)
    whole = (0, shapes[level][0]), (0, shapes[level][1])
    for pyramid in exhibit.pyramids:
        if not pyramid.has(level):
            _build(pyramid, exhibit)
    values = exhibit.radar_levels.read(level, *whole)[0]
    grey = np.where(np.isnan(values), _INVALID, exhibit.radar.grey(0, values)).astype(np.uint8)
    layers = [(layer.picture.path.name, layer) for layer in exhibit.mosaics]
    if exhibit.truth:
        layers.append((f"Optical image {exhibit.truth.picture.path.name}", exhibit.truth))
    rights = []
    for name, layer in layers:
        rgb, valid = layer.read(level, *whole)
        rights.append((name, np.where(valid, rgb, np.uint8(_INVALID))))
    return (
        _template()
        .substitute(
            title=escape(f"{scene_title(exhibit)}: radar and {exhibit.mosaics[0].picture.path.name}"),
            note=escape(f"Mosaic: {NOTE}."),
            left=_data_uri(grey[None]),
            left_name=escape(f"Radar {exhibit.radar.names[0]}"),
            options="".join(f'<option value="{k}">{escape(name)}</option>' for k, (name, _) in enumerate(rights)),
            several="" if len(rights) > 1 else "hidden",
            rights="".join(
                f'<img class="right" alt="{escape(name)}" src="{_data_uri(rgb)}"{"" if k == 0 else " hidden"}>'
                for k, (name, rgb) in enumerate(rights)
            ),
            width=shapes[level][1],
            height=shapes[level][0],
            rows="".join(
                f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>"
                for name, value in _rows(exhibit, level)
            ),
        )
        .encode()
    )


def _build(pyramid: Pyramid, exhibit: Exhibit) -> None:
    try:
        pyramid.build()
    except OSError as error:
        raise SceneUnreadable(
            f"{scene_title(exhibit)}: no space for a reduced picture ({error.strerror}): set TMPDIR to another folder"
        ) from error


def _rows(exhibit: Exhibit, level: int) -> list[tuple[str, str]]:
    rows = [("Size", size_text(placed(exhibit), exhibit.shape))]
    if level:
        rows.append(("Shown here", f"every {2**level} x {2**level} pixels as one, JPEG"))
    return rows + provenance(exhibit.mosaics[0].picture.tags)


def _data_uri(bands: NDArray[np.uint8]) -> str:
    return "data:image/jpeg;base64," + b64encode(encode(bands, driver="JPEG", QUALITY=88)).decode()


def _template() -> Template:
    return Template((files(__package__) / "static" / "page.html").read_text(encoding="utf-8"))
