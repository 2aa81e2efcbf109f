"""The scene that all of them are given: drawn, referenced by control points as a GRD product is, and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.windows import Window

from bench.peer.protocol import OPENSR_SCALE
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.prepare import prepared
from sar2optical.testing import SimulatedScene, write_scene

_GRID = 11
"""Control points along a side; a product has 10 by 21."""
_CORNER = (-118.3, 34.2)
_DEGREES = 1e-4
"""Of a pixel, roughly its 10 m."""
_STRIP = 512


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene in the forms that it is read in."""

    stored: Path
    """As a product has it: uint16, nodata 0. Ours reads this one."""
    encoded: Path
    """As the generator takes it: float32 in [-1, 1], nodata NaN."""
    scaled: Path
    """As opensr-utils takes it: float32 in 0 to 10,000, nodata NaN."""
    side: int

    def of(self, way: str) -> Path:
        """Give the form for a way."""
        return {"sar2optical": self.stored, "opensr-utils": self.scaled}.get(way, self.encoded)

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Give what the generator takes, float32 (H, W) with 0 for nothing, and the valid pixels, bool (H, W)."""
        with rasterio.open(self.encoded) as dataset:
            sar = dataset.read(1)
        valid = ~np.isnan(sar)
        return np.where(valid, sar, np.float32(0)), valid


def make_scene(folder: Path, side: int, *, mapped: bool = False) -> Scene:
    """Draw a square scene, and encode it as our own run over it does, before any clock runs.

    Parameters
    ----------
    folder
        Of its files.
    side
        Pixels.
    mapped
        Referenced by a map's grid, in place of control points.
    """
    name = f"{side}-{'map' if mapped else 'points'}"
    stored, encoded, scaled = (folder / f"{name}-{form}.tif" for form in ("stored", "encoded", "scaled"))
    write_scene(stored, SimulatedScene(height=side, width=side))
    if not mapped:
        with rasterio.open(stored, "r+") as dataset:
            dataset.gcps = control_points(side), CRS.from_epsg(4326)
    _encode(stored, encoded, scaled)
    return Scene(stored=stored, encoded=encoded, scaled=scaled, side=side)


def control_points(side: int) -> list[GroundControlPoint]:
    """Give a grid of points, turned a little as an orbit's are."""
    places = np.linspace(0, side, _GRID)
    return [
        GroundControlPoint(
            row=row,
            col=col,
            x=_CORNER[0] + _DEGREES * (col + 0.2 * row),
            y=_CORNER[1] - _DEGREES * (row - 0.2 * col),
            z=0,
        )
        for row in places
        for col in places
    ]


def _encode(stored: Path, encoded: Path, scaled: Path) -> None:
    """Write what the generator sees of a scene: not compressed, in blocks of a window, which is quickest to read."""
    options = TranslateOptions(overwrite=True)
    with prepared(stored, encoded, options=options) as job, rasterio.open(stored) as source, ExitStack() as stack:
        profile = {
            **{"driver": "GTiff", "height": source.height, "width": source.width, "count": 1, "dtype": "float32"},
            **{"nodata": np.nan, "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "none"},
        }
        outs = [stack.enter_context(rasterio.open(path, "w", **profile)) for path in (encoded, scaled)]
        for out in outs:
            _georeference(source, out)
        for top in range(0, source.height, _STRIP):
            stop = min(top + _STRIP, source.height)
            values, valid = job.scene.read_rows(top, stop)
            sar = np.where(valid, job.encodings[0].encode(values[0], valid), np.float32(np.nan))
            window = Window(0, top, source.width, stop - top)
            outs[0].write(sar, 1, window=window)
            outs[1].write((sar + 1) * np.float32(OPENSR_SCALE / 2), 1, window=window)


def _georeference(source: rasterio.DatasetReader, out: rasterio.io.DatasetWriter) -> None:
    points, crs = source.gcps
    if points:
        out.gcps = points, crs
    else:
        out.crs, out.transform = source.crs, source.transform


def same_points(points: Sequence[GroundControlPoint], others: Sequence[GroundControlPoint]) -> bool:
    """Tell whether two lists of control points are the same, whatever their ids."""
    ours, theirs = (np.array([(p.row, p.col, p.x, p.y) for p in some]) for some in (points, others))
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs))
