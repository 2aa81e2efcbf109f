"""Target of geocoding: a map's CRS and resolution, and the grid that covers a scene there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from sar2optical.errors import OptionError
from sar2optical.scene.geocode.coordinates import WGS84, Floats, crs_name, near_meridian, reproject
from sar2optical.scene.geocode.placement import Placement
from sar2optical.scene.scene import Scene

__all__ = ["AUTO_UTM", "TILE", "Grid", "Target", "Tiling", "choose_grid", "crs_named", "zoom_level"]

Tiling = Literal["web-mercator"]

TILE = 256
"""Side of a tile of web maps in pixels."""

_WEB_MERCATOR = "EPSG:3857"
_HALF_EARTH = math.pi * 6_378_137
"""Coordinate of the right and the upper edge of the map of zoom level 0, one tile (OGC 17-083r4, annex D.1)."""

AUTO_UTM = "auto-utm"
"""Name of a target CRS: the UTM zone of the scene's centre, or polar stereographic beyond UTM's 80 S and 84 N."""

_OUTLINE = 65  # points per line, and lines, of the lattice that outlines a scene

_MOST_PIXELS = 10  # target pixels per pixel of the scene: a box around a scene rotated by 45 degrees has 2

_COARSEST = 10.0  # resolution over the scene's own: beyond it, bilinear interpolation skips 99 of 100 pixels


@dataclass(frozen=True, kw_only=True)
class Target:
    """CRS and resolution of the map to geocode to.

    Raises
    ------
    OptionError
        If the resolution is not a positive number, or the CRS is unknown to GDAL, or neither projected nor
        geographic.
    """

    crs: str
    """CRS in any form that GDAL reads ("EPSG:32643", WKT, PROJ), or `AUTO_UTM`."""
    resolution: float | None = None
    """Side of a pixel in the CRS's unit (metres or degrees); None: about that of the scene."""
    tiling: Tiling | None = None
    """Tiles that the grid is made of; see `Target.of`."""

    @classmethod
    def of(cls, tiling: Tiling) -> Target:
        """Return the target of web maps: EPSG:3857, the zoom level nearest to the scene's resolution, whole tiles."""
        return cls(crs=_WEB_MERCATOR, tiling=tiling)

    def __post_init__(self) -> None:
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise OptionError(f"resolution is {self.resolution:g}: give a positive number, in the CRS's unit")
        if self.crs.lower() != AUTO_UTM:
            crs_named(self.crs)


@dataclass(frozen=True)
class Grid:
    """Pixels of a map, north up."""

    crs: CRS
    transform: Affine
    """Affine from pixel to map coordinates."""
    shape: tuple[int, int]
    """Height and width in pixels."""


def choose_grid(scene: Scene, placement: Placement, target: Target) -> Grid:
    """Choose the grid that covers a whole scene; its lines are on multiples of the resolution.

    Raises
    ------
    OptionError
        If the CRS is not defined all over the scene, or the resolution would give too many or too few pixels.
    """
    crs = _crs(target.crs, placement, scene)
    x, y = _outline(scene, placement, crs)
    own = _own_resolution(scene.shape, placement, crs)
    resolution = target.resolution or own
    step = 1
    if target.tiling:  # the map's origin, in its middle, is a corner of tiles at every level but 0
        resolution, step = _HALF_EARTH * 2 / TILE / 2 ** _nearest_level(own), TILE
    left, right = _outwards(x, resolution, step)
    bottom, top = _outwards(y, resolution, step)
    shape = top - bottom, right - left
    if shape[0] * shape[1] > _MOST_PIXELS * max(math.prod(scene.shape), 1000) or resolution > _COARSEST * own:
        raise OptionError(
            f"{scene.path}: resolution {resolution:g} in {crs_name(crs)} gives {shape[1]:,} x {shape[0]:,} pixels "
            f"from {scene.shape[1]:,} x {scene.shape[0]:,}: give one near the scene's own, about {own:g}, "
            "or another CRS"
        )
    transform = Affine(resolution, 0, left * resolution, 0, -resolution, top * resolution)
    return Grid(crs, transform, shape)


def _outwards(axis: Floats, resolution: float, step: int) -> tuple[int, int]:
    """Return the first and the past-the-last line of a grid around some coordinates, on multiples of `step` lines."""
    side = resolution * step
    return math.floor(axis.min() / side) * step, math.ceil(axis.max() / side) * step


def _nearest_level(resolution: float) -> int:
    return max(1, round(math.log2(_HALF_EARTH * 2 / TILE / resolution)))


def zoom_level(transform: Affine) -> int:
    """Return the zoom level of a grid of web maps, by its resolution in metres."""
    return _nearest_level(transform.a)


def _crs(text: str, placement: Placement, scene: Scene) -> CRS:
    return _utm(placement, scene) if text.lower() == AUTO_UTM else crs_named(text)


def crs_named(text: str) -> CRS:
    """Return a CRS by name, code or definition.

    Raises
    ------
    OptionError
        If GDAL does not know it, or it is neither projected nor geographic.
    """
    try:
        with rasterio.Env():  # without it, PROJ prints an error to stderr
            crs = CRS.from_user_input(text)
    except CRSError as error:
        raise OptionError(f"CRS {text!r} is unknown to GDAL: give a code such as EPSG:32643") from error
    if not (crs.is_geographic or crs.is_projected):
        raise OptionError(f"CRS {text!r} is neither projected nor geographic: give one that is, such as EPSG:32643")
    return crs


def _utm(placement: Placement, scene: Scene) -> CRS:
    """Return the UTM zone (WGS 84) of the scene's centre, without the exceptions around Norway and Svalbard."""
    x, y = placement.to_map(np.array([scene.shape[0] / 2]), np.array([scene.shape[1] / 2]))
    lon, lat = (float(axis[0]) for axis in reproject(placement.crs, WGS84, x, y))
    if not -80 <= lat <= 84:
        return CRS.from_epsg(32661 if lat > 0 else 32761)
    zone = int((lon + 180) // 6) % 60 + 1
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


def _outline(scene: Scene, placement: Placement, crs: CRS) -> tuple[Floats, Floats]:
    """Compute map coordinates of a lattice of points along the scene's edges and across it."""
    lines = (np.linspace(0, side, _OUTLINE) for side in scene.shape)
    rows, cols = (axis.ravel() for axis in np.meshgrid(*lines, indexing="ij"))
    x, y = reproject(placement.crs, crs, *placement.to_map(rows, cols))
    x = near_meridian(x, x[len(x) // 2], crs)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or _is_torn(x, y):
        raise OptionError(f"{scene.path}: reaches beyond the area of {crs_name(crs)}: give a CRS of its region")
    return x, y


def _is_torn(x: Floats, y: Floats) -> bool:
    """Return whether neighbours in the outline are far apart, as where a map is cut at the antimeridian."""
    grid = np.stack([x, y]).reshape(2, _OUTLINE, _OUTLINE)
    steps = (np.hypot(*np.diff(grid, axis=axis)) for axis in (1, 2))
    return any(step.max() > 10 * np.median(step) for step in steps)


def _own_resolution(shape: tuple[int, int], placement: Placement, crs: CRS) -> float:
    """Compute the side of a square as large as a pixel in the middle of the scene, to two digits."""
    height, width = shape
    rows = np.array([0.25, 0.75, 0.5, 0.5]) * height
    cols = np.array([0.5, 0.5, 0.25, 0.75]) * width
    x, y = reproject(placement.crs, crs, *placement.to_map(rows, cols))
    x = near_meridian(x, x[0], crs)
    down = (x[1] - x[0]) * 2 / height, (y[1] - y[0]) * 2 / height
    right = (x[3] - x[2]) * 2 / width, (y[3] - y[2]) * 2 / width
    return float(f"{math.sqrt(abs(down[0] * right[1] - down[1] * right[0])):.1e}")
