"""Render tiles of 256 x 256 pixels as PNG: radar, pictures, mask, difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sar2optical.mosaic.coding import encode
from sar2optical.viewer.exhibit import Exhibit, Layer
from sar2optical.viewer.pyramid import TILE, Span

__all__ = ["GAIN", "MASK_COLOUR", "NoSuchTile", "NotReady", "tile"]

MASK_COLOUR = (230, 0, 126, 150)
"""Red, green, blue and opacity of invalid pixels in the mask layer."""

GAIN = 4
"""Factor by which differences are shown brighter: most are a few levels."""

Bytes: TypeAlias = NDArray[np.uint8]
_Render: TypeAlias = Callable[[int, Span, Span], Bytes]


class NoSuchTile(LookupError):
    """There is no layer of this name, or no tile at this place."""


class NotReady(LookupError):
    """The tile's level is still being computed."""


def tile(exhibit: Exhibit, layer: str, z: int, x: int, y: int) -> bytes:
    """Render a tile.

    Parameters
    ----------
    exhibit
        What is shown.
    layer
        radar-K (band K), mosaic-K, mask-K or difference-K (mosaic K), or truth.
    z, x, y
        Zoom, 0 for the level that fits into one tile; column and row of the tile, from the top left.

    Returns
    -------
    bytes
        PNG, transparent where invalid, and beyond the last row and column; without alpha where all is opaque.

    Raises
    ------
    NoSuchTile, NotReady
        See there.
    SceneUnreadable
        If the file cannot be read.
    """
    shapes = exhibit.shapes
    level = len(shapes) - 1 - z
    if not 0 <= level < len(shapes):
        raise NoSuchTile(f"zoom {z}")
    height, width = shapes[level]
    rows, cols = (TILE * y, min(TILE * (y + 1), height)), (TILE * x, min(TILE * (x + 1), width))
    if min(x, y) < 0 or rows[0] >= height or cols[0] >= width:
        raise NoSuchTile(f"tile {x}, {y}")
    found = _renderer(exhibit, layer, level)(level, rows, cols)
    if found.shape[1:] == (TILE, TILE) and found[-1].all() and layer.partition("-")[0] != "mask":
        return encode(found[:-1], driver="PNG", ZLEVEL=1)  # opaque: half the time without alpha
    whole = np.zeros((len(found), TILE, TILE), np.uint8)
    whole[:, : found.shape[1], : found.shape[2]] = found
    return encode(whole, driver="PNG", ZLEVEL=1)


def _renderer(exhibit: Exhibit, layer: str, level: int) -> _Render:
    """Return the function that renders a layer, once its level is ready."""
    if layer == "truth" and exhibit.truth:
        return _ready(exhibit.truth, level, lambda *place: _picture(exhibit.truth, *place))  # type: ignore[arg-type]
    kind, _, number = layer.partition("-")
    if not (number.isascii() and number.isdecimal() and len(number) < 4):
        raise NoSuchTile(layer)
    k = int(number)
    if kind == "radar" and k < len(exhibit.radar.names):
        if not exhibit.radar_levels.has(level):
            raise NotReady(layer)
        return lambda *place: _radar(exhibit, k, *place)
    if k >= len(exhibit.mosaics):
        raise NoSuchTile(layer)
    mosaic = exhibit.mosaics[k]
    if kind == "mosaic":
        return _ready(mosaic, level, lambda *place: _picture(mosaic, *place))
    if kind == "mask":
        return _ready(mosaic, level, lambda *place: _mask(mosaic, *place))
    if kind == "difference" and (truth := exhibit.truth):
        ready = _ready(truth, level, lambda *place: _difference(mosaic, truth, *place))
        return _ready(mosaic, level, ready)
    raise NoSuchTile(layer)


def _ready(layer: Layer, level: int, render: _Render) -> _Render:
    if not layer.has(level):
        raise NotReady(str(layer.picture.path.name))
    return render


def _radar(exhibit: Exhibit, band: int, level: int, rows: Span, cols: Span) -> Bytes:
    values = exhibit.radar_levels.read(level, rows, cols)[band]
    alpha = np.where(np.isnan(values), 0, 255).astype(np.uint8)
    return np.stack([exhibit.radar.grey(band, values), alpha])


def _picture(layer: Layer, level: int, rows: Span, cols: Span) -> Bytes:
    rgb, valid = layer.read(level, rows, cols)
    return np.concatenate([rgb, np.where(valid, 255, 0).astype(np.uint8)[None]])


def _mask(layer: Layer, level: int, rows: Span, cols: Span) -> Bytes:
    _, valid = layer.read(level, rows, cols)
    colour = np.array(MASK_COLOUR, np.uint8)[:, None, None]
    return np.where(valid, np.uint8(0), colour)


def _difference(mosaic: Layer, truth: Layer, level: int, rows: Span, cols: Span) -> Bytes:
    """Render `GAIN` times the absolute difference of each colour; transparent where one of the two is invalid."""
    (ours, ours_valid), (theirs, theirs_valid) = mosaic.read(level, rows, cols), truth.read(level, rows, cols)
    difference = np.minimum(np.maximum(ours, theirs) - np.minimum(ours, theirs), 255 // GAIN) * np.uint8(GAIN)
    alpha = np.where(ours_valid & theirs_valid, 255, 0).astype(np.uint8)
    return np.concatenate([difference, alpha[None]])
