"""Cut a scene to an area: its windows that touch the area, and the pixels that the mosaic has.

Windows stay where they are in the whole scene, so a pixel has the value that it has in the mosaic of the whole scene.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from sar2optical.errors import OptionError
from sar2optical.scene.area import Area
from sar2optical.scene.bands import Georeference
from sar2optical.scene.geocode.coordinates import crs_name, near_meridian, reproject
from sar2optical.scene.geocode.placement import Placement, placement_of
from sar2optical.scene.geocode.target import crs_named
from sar2optical.scene.polygons import Polygon, Ring, clipped, densified, inside
from sar2optical.scene.scene import SceneSource
from sar2optical.tiling.windows import WindowGrid

__all__ = ["Cut", "CutScene", "cut_to"]

_LATTICE = 65  # points per side that outline a scene in the area's CRS
_MARGIN = 0.05  # of the outline: more than between two of its points
_STEPS = 256  # of an edge across the outline: straight in one CRS, it is a curve in another
_CHUNK_ROWS = 256


@dataclass(frozen=True, eq=False)
class Cut:
    """Pixels of a cut scene that the mosaic has, and the windows that they need."""

    rows: tuple[int, int]
    """First and past-the-last row, in the cut scene."""
    cols: tuple[int, int]
    """First and past-the-last column, in the cut scene."""
    georeference: Georeference
    """Georeference of the mosaic."""
    windows: NDArray[np.bool_]
    """bool (rows, columns of windows): whether a window has a pixel of the area."""
    text: str
    """Rows and columns of the whole scene, and the area."""
    polygons: Sequence[Polygon] | None
    """In pixels of the cut scene; None: all pixels of the rectangle belong to the area."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the whole scene that the cut scene begins with."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the mosaic."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    def visible(self, start: int, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which pixels of the mosaic are valid and in the area.

        Parameters
        ----------
        start
            Row of the cut scene, among those of the mosaic, that `valid` begins with.
        valid
            bool (rows, width of the cut scene).

        Returns
        -------
        ndarray
            bool (rows, width of the mosaic).
        """
        usable = valid[:, slice(*self.cols)]
        if self.polygons is None:
            return usable
        return usable & inside(self.polygons, (start, start + len(usable)), self.cols)


class CutScene:
    """The part of a scene that some windows of its grid cover, with the interface of `Scene`.

    Statistics stay those of the whole scene.

    Parameters
    ----------
    scene
        Whole scene, open for as long as this is read.
    rows, cols
        First and past-the-last of the part.
    """

    def __init__(self, scene: SceneSource, rows: tuple[int, int], cols: tuple[int, int]) -> None:
        self._scene, self._top, self._cols = scene, rows[0], cols
        self.path, self.sources, self.files = scene.path, scene.sources, scene.files
        self.polarisations, self.unit, self.unit_reason = scene.polarisations, scene.unit, scene.unit_reason
        self.shape = rows[1] - rows[0], cols[1] - cols[0]
        self.georeference = _shifted(scene.georeference, rows[0], cols[0])
        self.block, self.readers = scene.block, scene.readers
        width, wide = scene.shape[1], scene.block[1]
        touched = min(width, (self.shape[1] // wide + 2) * wide)
        self.row_of_blocks = math.ceil(scene.row_of_blocks * touched / width)
        self._whole = cols == (0, width)
        self.dtype = scene.dtype if self._whole else np.dtype(np.float32)

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """Return the samples of the whole scene; see `Scene.read_samples`."""
        return self._scene.read_samples()

    def estimate_valid_share(self) -> float:
        """Return the share of the whole scene; see `Scene.estimate_valid_share`."""
        return self._scene.estimate_valid_share()

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle of the part; see `Scene.read`."""
        left = self._cols[0]
        return self._scene.read((self._top + rows[0], self._top + rows[1]), (left + cols[0], left + cols[1]))

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows of the part; see `read`."""
        return self.read((start, stop), (0, self.shape[1]))

    def read_stored(self, start: int, stop: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read whole rows of the part as `dtype`; see `Scene.read_stored`."""
        if self._whole:
            return self._scene.read_stored(self._top + start, self._top + stop)
        return self.read_rows(start, stop)


def cut_to(scene: SceneSource, grid: WindowGrid, area: Area) -> tuple[CutScene, WindowGrid, Cut]:
    """Cut a scene to the pixels whose centre is in an area.

    Parameters
    ----------
    scene
        Whole scene.
    grid
        Its window grid.
    area
        Box or polygons.

    Returns
    -------
    scene
        Part of the scene that the windows of the area cover.
    grid
        Those windows, in pixels of the part.
    cut
        Pixels of the mosaic.

    Raises
    ------
    OptionError
        If the scene has no usable georeference, or no pixel in the area.
    """
    placement = placement_of(scene, area.text.split()[0])
    polygons, covers = _in_pixels(scene.shape, placement, area)
    rows, cols, windows = _found(polygons, scene.shape, grid)
    if not windows.any():
        raise OptionError(
            f"{scene.path}: {area.text} contains no pixel of the scene, which covers {covers}: give an area "
            "in the scene"
        )
    (top, bottom), (left, right) = (
        (int(k[0]), int(k[-1])) for k in (np.flatnonzero(windows.any(axis=axis)) for axis in (1, 0))
    )
    origin = grid.rows[top], grid.cols[left]
    ends = (
        min(starts[last] + grid.window, side)
        for starts, last, side in zip((grid.rows, grid.cols), (bottom, right), grid.shape, strict=True)
    )
    part = CutScene(scene, *zip(origin, ends, strict=True))
    inner = WindowGrid(
        part.shape,
        grid.window,
        grid.overlap,
        tuple(row - origin[0] for row in grid.rows[top : bottom + 1]),
        tuple(col - origin[1] for col in grid.cols[left : right + 1]),
    )
    cut = Cut(
        rows=(rows[0] - origin[0], rows[1] - origin[0]),
        cols=(cols[0] - origin[1], cols[1] - origin[1]),
        georeference=_shifted(scene.georeference, rows[0], cols[0]),
        windows=windows[top : bottom + 1, left : right + 1],
        text=f"rows {rows[0]} to {rows[1]}, columns {cols[0]} to {cols[1]}{'' if area.is_box else f', {area}'}",
        polygons=None if area.is_box else [[ring - origin for ring in polygon] for polygon in polygons],
        origin=origin,
    )
    return part, inner, cut


def _in_pixels(shape: tuple[int, int], placement: Placement, area: Area) -> tuple[list[list[Ring]], str]:
    """Convert polygons to rows and columns, near the scene; return them, and what the scene covers in their CRS."""
    crs = crs_named(area.crs)
    lines = (np.linspace(0, side, _LATTICE) for side in shape)
    rows, cols = (axis.ravel() for axis in np.meshgrid(*lines, indexing="ij"))
    x, y = reproject(placement.crs, crs, *placement.to_map(rows, cols))
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return [], f"no place in {crs_name(crs)}: give another CRS"
    x, y = x[known], y[known]
    middle = float(x[len(x) // 2])
    x = near_meridian(x, middle, crs)
    low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
    covers = f"{low[0]:.6g} {low[1]:.6g} {high[0]:.6g} {high[1]:.6g} ({crs_name(crs)}): give an area in it"
    steps = np.maximum((high - low) / _STEPS, 1e-12)
    low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    if crs.is_geographic:
        low, high = np.maximum(low, [middle - 180, -90]), np.minimum(high, [middle + 180, 90])
    found = []
    for turn in (-360.0, 0.0, 360.0) if crs.is_geographic else (0.0,):
        for polygon in area.polygons:
            rings = [clipped(np.array(ring) + np.array([turn, 0.0]), low, high) for ring in polygon]
            pixels = [_to_pixels(densified(ring, steps), crs, placement) for ring in rings if len(ring)]
            if pixels:
                found.append(pixels)
    return found, covers


def _to_pixels(ring: Ring, crs: CRS, placement: Placement) -> Ring:
    pixels = np.stack(placement.to_pixels(*reproject(crs, placement.crs, *ring.T)), axis=1)
    return pixels[np.isfinite(pixels).all(axis=1)]


def _found(
    polygons: list[list[Ring]], shape: tuple[int, int], grid: WindowGrid
) -> tuple[tuple[int, int], tuple[int, int], NDArray[np.bool_]]:
    """Find the rows and columns with a pixel in some polygon, and the windows with one."""
    points = np.concatenate([np.zeros((0, 2)), *(ring for polygon in polygons for ring in polygon)])
    windows = np.zeros((len(grid.rows), len(grid.cols)), np.bool_)
    if not len(points):
        return (0, 0), (0, 0), windows
    low = np.clip(np.floor(points.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)), 0, shape).astype(int)
    across = np.zeros(shape[1], np.bool_)
    met = np.zeros((shape[0], len(grid.cols)), np.bool_)
    for start, mask in _masks(polygons, (low[0], high[0]), (low[1], high[1])):
        across[low[1] : high[1]] |= mask.any(axis=0)
        for k, col in enumerate(grid.cols):
            span = slice(max(col - low[1], 0), max(col + grid.window - low[1], 0))
            met[start : start + len(mask), k] = mask[:, span].any(axis=1)
    down = np.flatnonzero(met.any(axis=1))
    sides = np.flatnonzero(across)
    if not len(down):
        return (0, 0), (0, 0), windows
    for k, row in enumerate(grid.rows):
        windows[k] = met[row : row + grid.window].any(axis=0)
    return (int(down[0]), int(down[-1]) + 1), (int(sides[0]), int(sides[-1]) + 1), windows


def _masks(
    polygons: list[list[Ring]], rows: tuple[int, int], cols: tuple[int, int]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for start in range(rows[0], rows[1], _CHUNK_ROWS):
        yield start, inside(polygons, (start, min(start + _CHUNK_ROWS, rows[1])), cols)


def _shifted(place: Georeference, row: int, col: int) -> Georeference:
    """Return the georeference of the part of a raster that begins at a pixel."""
    gcps = tuple(
        GroundControlPoint(gcp.row - row, gcp.col - col, gcp.x, gcp.y, gcp.z, gcp.id, gcp.info) for gcp in place.gcps
    )
    transform = None if place.transform is None else place.transform @ Affine.translation(col, row)
    return Georeference(crs=place.crs, transform=transform, gcps=gcps, gcp_crs=place.gcp_crs)
