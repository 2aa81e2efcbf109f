"""A scene as a map-projected one, north up, computed where it is read.

A scene that has only ground control points (GCPs) is placed by a thin-plate spline through all of them, as GDAL fits
it; one with an affine and a CRS by those. Values are interpolated bilinearly in the scene's own unit: of a scene in
decibels, decibels are. GCPs' heights are not used: there is no terrain correction, so that a mountain lies as far off
as layover and foreshortening put it.

GDAL's warper is not used, for its values depend on which rows are asked for together: it approximates along rows, and
blurs a strip across a turned scene, which touches many more rows than it has and is taken for a reduction. Exact, it
takes 50 times as long. Here the exact transformation is computed at nodes that are fixed to the map, and interpolated
between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio.warp raises it bare, and exports no other name for it
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import GCPTransformer
from rasterio.warp import transform as _warp_transform

from sar2optical.errors import OptionError
from sar2optical.scene.raster import Georeference
from sar2optical.scene.scene import Scene, SceneSource

__all__ = ["AUTO_UTM", "Geocoded", "Residuals", "Target", "geocoded", "pixel_size", "residuals"]

AUTO_UTM = "auto-utm"
"""Stands for the UTM zone of the scene's centre, or the polar stereographic one beyond UTM's 80 S and 84 N."""

_TOLERANCE = 0.01
"""Source pixels that interpolation between nodes may be off by; a bilinear value moves by as much of a step."""

_WIDEST_NODES = 64  # destination pixels between nodes: halved until the tolerance holds

_RECTANGLE = 2**18
"""Source pixels read at a time: with what is computed of them, they stay in a core's cache."""

_STRIP = 192  # rows that the corridor reads at a time: of windows of 256 that share 64
_OUTLINE = 65  # points along each edge of the scene, and as many lines of them

_MOST_PIXELS = 10  # of the destination, for each of the source: a box around a scene rotated by 45 degrees has 2
_COARSEST = 10.0  # resolution, in the scene's own: beyond it, bilinear interpolation skips 99 pixels of 100

_EARTH_RADIUS = 6_371_008.8
"""Mean radius of the Earth in metres (IUGG, Moritz 2000, Geodetic Reference System 1980)."""

_WGS84 = CRS.from_epsg(4326)
_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which map a scene goes to.

    Raises
    ------
    OptionError
        Where the resolution is not a positive number, or the CRS is none that GDAL knows, or no map's.
    """

    crs: str
    """Anything that names a CRS to GDAL ("EPSG:32643", WKT, PROJ), or `AUTO_UTM`."""
    resolution: float | None = None
    """Side of a pixel in the CRS's unit (metres or degrees); None: about the scene's own."""

    def __post_init__(self) -> None:
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise OptionError(f"resolution is {self.resolution:g}: give a positive number, in the CRS's unit")
        if self.crs.lower() != AUTO_UTM:
            _crs_named(self.crs)


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """How far a thin-plate spline through some GCPs lies from the others.

    Through all of them it has no residual by construction; held-out ones tell what it does in between. With fewer
    to go by, it is somewhat worse there than the spline through all.
    """

    count: int
    """GCPs held out."""
    rms: float
    """Root mean square distance in metres."""
    max: float
    """Largest distance in metres."""

    def __str__(self) -> str:
        return f"{self.count} held-out GCPs off by {self.rms:.1f} m rms, {self.max:.1f} m at most"


def residuals(georeference: Georeference, *, every: int = 5) -> Residuals | None:
    """Hold out every so many GCPs, fit the others, and tell how far the held-out ones lie from where they should.

    Parameters
    ----------
    georeference
        Of a scene.
    every
        The first GCP, and every so many after it, is held out. Sentinel-1 has them in rows of 21: a number that
        does not divide 21 takes some of each column.

    Returns
    -------
    Residuals or None
        None where the scene is not placed by GCPs, or fewer than 4 remain to fit.
    """
    gcps = georeference.gcps
    kept = [gcp for k, gcp in enumerate(gcps) if k % every]
    held = gcps[::every]
    if len(kept) < 4 or _on_a_line(kept) or georeference.gcp_crs is None:
        return None
    x, y = _GcpPlace(kept, georeference.gcp_crs).to_map(
        np.array([gcp.row for gcp in held]), np.array([gcp.col for gcp in held])
    )
    true_y = np.array([gcp.y for gcp in held])
    dx = np.array([gcp.x for gcp in held]) - x
    distance = _metres(_near(dx, 0, georeference.gcp_crs), true_y - y, true_y, georeference.gcp_crs)
    return Residuals(count=len(held), rms=float(np.sqrt(np.mean(distance**2))), max=float(distance.max()))


def pixel_size(scene: SceneSource) -> tuple[float, float] | None:
    """Give height and width, in metres on the ground, of a pixel in the scene's middle.

    On a sphere, within 0.5 % of the ellipsoid, whatever the scene's CRS. None where the scene does not tell where it
    lies, or its control points contradict one another.
    """
    try:
        place = _place(scene)
    except OptionError:
        return None
    height, width = scene.shape
    rows = np.array([0.25, 0.75, 0.5, 0.5]) * height
    cols = np.array([0.5, 0.5, 0.25, 0.75]) * width
    lon, lat = _reproject(place.crs, _WGS84, *place.to_map(rows, cols))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    east = np.radians(_near(lon, float(lon[0]), _WGS84)) * np.cos(np.radians(lat.mean())) * _EARTH_RADIUS
    north = np.radians(lat) * _EARTH_RADIUS
    (east_down, east_right), (north_down, north_right) = ((a[1] - a[0], a[3] - a[2]) for a in (east, north))
    down = 2 * math.hypot(east_down, north_down) / height
    right = 2 * math.hypot(east_right, north_right) / width
    return (down, right) if down and right else None


class Geocoded:
    """A scene on a map's grid; offers what `Scene` does. Made by `geocoded`.

    Each pixel depends on its place alone: not on which others are read with it.

    Parameters
    ----------
    scene
        Open for as long as this is read.
    place
        Where the scene's pixels lie.
    crs, transform, shape
        The grid.
    """

    def __init__(self, scene: Scene, place: _Place, crs: CRS, transform: Affine, shape: tuple[int, int]) -> None:
        self._scene = scene
        self._place = place
        self._crs = crs
        self._transform = transform
        self.path = scene.path
        self.files = scene.files
        self.shape = shape
        """Height and width of the grid."""
        self.polarisations = scene.polarisations
        self.georeference = Georeference(crs=crs, transform=transform)
        self.unit = scene.unit
        self.unit_reason = scene.unit_reason
        self.residuals = residuals(scene.georeference)
        """Of the source's GCPs; None where they do not place it, or are few."""
        self._spacing = self._choose_spacing()
        self._node_row = lru_cache(maxsize=64)(self._compute_node_row)
        self.row_of_blocks = self._bytes_touched()
        """Bytes of blocks that a usual strip touches: what a cache must hold so that none is decoded twice."""

    @property
    def samples(self) -> tuple[NDArray[np.float32], ...]:
        """The source's own, see `Scene.samples`: it is the same ground, so a stretch is the same."""
        return self._scene.samples

    @property
    def valid_share(self) -> float:
        """Share of the grid's pixels that are valid, 0 to 1, about: of those in the scene, the scene's share."""
        lines = ((np.arange(_OUTLINE) + 0.5) * side / _OUTLINE - 0.5 for side in self.shape)
        row, col = self._source_of(*(axis.ravel() for axis in np.meshgrid(*lines, indexing="ij")))
        inside = (row >= 0) & (row < self._scene.shape[0]) & (col >= 0) & (col < self._scene.shape[1])
        return float(inside.mean()) * self._scene.valid_share

    @property
    def note(self) -> str:
        """One line for log and tags: how the scene was placed, and how well."""
        unit = "degree" if self._crs.is_geographic else self._crs.linear_units
        grid = f"{_name(self._crs)} at {self._transform.a:g} {unit}"
        off = f"; {self.residuals}" if self.residuals else ""
        return f"{self._place} to {grid}, bilinear{off}"

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle of the grid.

        Parameters
        ----------
        rows, cols
            First and past-the-last, within the shape.

        Returns
        -------
        values
            float32 (bands, rows, columns) in `unit`; 0 where invalid.
        valid
            bool (rows, columns): the scene's pixel that it lies in is valid. That pixel's invalid neighbours weight
            nothing.

        Raises
        ------
        SceneUnreadable
            Where the scene's file ends early or a block does not decode.
        """
        values = np.zeros((len(self.polarisations), rows[1] - rows[0], cols[1] - cols[0]), np.float32)
        valid = np.zeros(values.shape[1:], np.bool_)
        if valid.size:
            first = rows[0] // self._spacing
            last = -(-(rows[1] - 1) // self._spacing)
            nodes = np.stack([self._node_row(k) for k in range(first, max(last, first + 1) + 1)], axis=1)
            self._fill(_Part(rows, cols), (rows[0], cols[0]), _Nodes(nodes, first, self._spacing), values, valid)
        return values, valid

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows, see `read`."""
        return self.read((start, stop), (0, self.shape[1]))

    def _bytes_touched(self) -> int:
        own = self._scene.row_of_blocks
        thin = own <= 8 * self._scene.shape[1] * len(self.polarisations)  # a row each, of 8 bytes a pixel at most
        return own * self.source_rows(_STRIP) if thin else 2 * own  # a slanted strip passes from row to row of blocks

    def source_rows(self, rows: int) -> int:
        """Give how many of the source's rows as many rows of the grid touch: about, and at most.

        A file that is compressed in whole rows is decoded again and again unless GDAL's cache holds them all.
        """
        height, width = self.shape
        starts = np.linspace(0, max(height - rows, 0), 17)
        cols: _Floats = np.linspace(0.0, width - 1, 129)
        most = 0.0
        for start in starts:
            edges = [self._source_of(np.full(129, row), cols) for row in (start, min(start + rows, height) - 1)]
            row, col = np.concatenate(edges, axis=1)
            seen = row[(col >= 0) & (col <= self._scene.shape[1])]
            if seen.size:
                most = max(most, float(np.ptp(np.clip(seen, 0, self._scene.shape[0]))))
        return math.ceil(1.05 * most) + 2  # node rows reach somewhat further

    def _fill(
        self,
        part: _Part,
        origin: tuple[int, int],
        nodes: _Nodes,
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:
        """Fill a part of what is read; by halves where it needs much of the source at once."""
        source = nodes.rectangle(part, self._scene.shape)
        if source is None:
            return
        if source.size > _RECTANGLE and part.size > 1:
            for half in part.halves():
                self._fill(half, origin, nodes, values, valid)
            return
        row, col = nodes.coordinates(part)
        inside = (row >= 0) & (row < self._scene.shape[0]) & (col >= 0) & (col < self._scene.shape[1])
        if not inside.any():
            return
        sampler = _Sampler(row, col, inside, source, self._scene.shape)
        found, usable = self._scene.read(source.rows, source.cols)
        here = part.slices(origin)
        valid[here] = sampler.nearest(usable) & inside if not usable.all() else inside
        weight = None if usable.all() else sampler.bilinear(usable.astype(np.float32))
        for out, band in zip(values, found, strict=True):
            value = sampler.bilinear(band)
            if weight is not None:
                np.divide(value, weight, out=value, where=valid[here])
            out[here] = np.where(valid[here], value, np.float32(0))

    def _compute_node_row(self, index: int) -> _Floats:
        """Give source rows and columns, (2, nodes), along one row of nodes."""
        count = max(-(-(self.shape[1] - 1) // self._spacing), 1) + 1
        cols = np.arange(count, dtype=np.float64) * self._spacing
        return self._source_of(np.full(count, index * float(self._spacing)), cols)

    def _source_of(self, rows: _Floats, cols: _Floats) -> _Floats:
        """Give source rows and columns, (2, n), of the centres of destination pixels; NaN where there are none."""
        x, y = _apply(self._transform, cols + 0.5, rows + 0.5)
        return np.stack(self._place.to_pixels(*_reproject(self._crs, self._place.crs, x, y)))

    def _choose_spacing(self) -> int:
        """Space nodes so that bilinear interpolation between them keeps the tolerance, tried all over the scene."""
        spacing = _WIDEST_NODES
        while spacing > 1 and self._interpolation_error(spacing) > _TOLERANCE:
            spacing //= 2
        return spacing

    def _interpolation_error(self, spacing: int) -> float:
        """Give the largest error, in source pixels, in the middle of sampled cells."""
        # Odd steps through the cells, so that GCPs on a regular grid do not always fall on the same place of a cell.
        top, left = (
            np.unique(np.linspace(0.0, max(side // spacing - 1, 0), 41).round()) * spacing for side in self.shape
        )
        rows, cols = (axis.ravel() for axis in np.meshgrid(top, left, indexing="ij"))
        corners = [self._source_of(rows + r * spacing, cols + c * spacing) for r in (0, 1) for c in (0, 1)]
        exact = self._source_of(rows + spacing / 2, cols + spacing / 2)
        height, width = self._scene.shape
        seen = (exact[0] >= 0) & (exact[0] < height) & (exact[1] >= 0) & (exact[1] < width)
        error = np.abs(np.mean(corners, axis=0) - exact)[:, seen]
        return float(np.nanmax(error, initial=0.0))


def geocoded(scene: Scene, target: Target) -> Geocoded:
    """Put a scene on a map's grid, north up; nothing is read yet.

    Parameters
    ----------
    scene
        With GCPs, or an affine and a CRS; open for as long as the result is read.
    target
        Which map. The grid covers the whole scene, its lines on multiples of the resolution.

    Returns
    -------
    Geocoded

    Raises
    ------
    OptionError
        Where the scene has no place on Earth, the CRS is none or does not reach there, or the resolution would give
        an absurd number of pixels.
    """
    place = _place(scene)
    crs = _crs(target.crs, place, scene)
    x, y = _outline(scene, place, crs)
    own = _own_resolution(scene.shape, place, crs)
    resolution = target.resolution or own
    left, right = math.floor(x.min() / resolution), math.ceil(x.max() / resolution)
    bottom, top = math.floor(y.min() / resolution), math.ceil(y.max() / resolution)
    shape = top - bottom, right - left
    if shape[0] * shape[1] > _MOST_PIXELS * max(math.prod(scene.shape), 1000) or resolution > _COARSEST * own:
        raise OptionError(
            f"{scene.path}: resolution {resolution:g} in {_name(crs)} makes {shape[1]:,} x {shape[0]:,} pixels of "
            f"{scene.shape[1]:,} x {scene.shape[0]:,}: give one near the scene's own, about {own:g}, or another CRS"
        )
    transform = Affine(resolution, 0, left * resolution, 0, -resolution, top * resolution)
    return Geocoded(scene, place, crs, transform, shape)


class _Place(Protocol):
    """Where pixels lie: rows and columns, from 0 at the first pixel's outer edge, to map coordinates and back."""

    crs: CRS

    def to_map(self, rows: _Floats, cols: _Floats) -> tuple[_Floats, _Floats]: ...

    def to_pixels(self, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]: ...


class _AffinePlace:
    def __init__(self, transform: Affine, crs: CRS, centre: tuple[float, float]) -> None:
        self.crs = crs
        self._forward = transform
        self._inverse = ~transform
        self._meridian = float(_apply(transform, *(np.array([axis]) for axis in centre))[0][0])

    def __str__(self) -> str:
        return f"from {_name(self.crs)}"

    def to_map(self, rows: _Floats, cols: _Floats) -> tuple[_Floats, _Floats]:
        return _apply(self._forward, cols, rows)

    def to_pixels(self, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
        cols, rows = _apply(self._inverse, _near(x, self._meridian, self.crs), y)
        return rows, cols


class _GcpPlace:
    """Two thin-plate splines of GDAL's, one for each way."""

    def __init__(self, gcps: Sequence[GroundControlPoint], crs: CRS) -> None:
        self.crs = crs
        self._count = len(gcps)
        # On one side of the antimeridian, all of them: a spline through 179 and -179 goes around the world.
        self._meridian = gcps[0].x
        x = _near(np.array([gcp.x for gcp in gcps]), self._meridian, crs)
        points = [GroundControlPoint(gcp.row, gcp.col, lon, gcp.y) for gcp, lon in zip(gcps, x, strict=True)]
        self._spline = GCPTransformer(points, tps=True)

    def __str__(self) -> str:
        return f"thin-plate spline through {self._count} GCPs without terrain correction"

    def holds(self, gcps: Sequence[GroundControlPoint]) -> bool:
        """Say whether the spline goes through its points; it does not where two are one place and two pixels."""
        rows, cols = self.to_pixels(*(np.array(axis) for axis in zip(*((gcp.x, gcp.y) for gcp in gcps), strict=True)))
        error = np.hypot(rows - [gcp.row for gcp in gcps], cols - [gcp.col for gcp in gcps])
        return bool((error < 1).all())

    def to_map(self, rows: _Floats, cols: _Floats) -> tuple[_Floats, _Floats]:
        x, y = self._spline.xy(rows, cols, offset="ul")
        return np.asarray(x), np.asarray(y)

    def to_pixels(self, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
        rows, cols = (np.full(len(x), np.nan) for _ in range(2))
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            x = _near(x[known], self._meridian, self.crs)
            rows[known], cols[known] = self._spline.rowcol(x, y[known], op=np.asarray)
        return rows, cols


@dataclass(frozen=True)
class _Part:
    """A rectangle of pixels."""

    rows: tuple[int, int]
    cols: tuple[int, int]

    @property
    def size(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])

    def halves(self) -> tuple[_Part, _Part]:
        (top, bottom), (left, right) = self.rows, self.cols
        if right - left >= bottom - top:
            middle = (left + right) // 2
            return _Part(self.rows, (left, middle)), _Part(self.rows, (middle, right))
        middle = (top + bottom) // 2
        return _Part((top, middle), self.cols), _Part((middle, bottom), self.cols)

    def slices(self, origin: tuple[int, int]) -> tuple[slice, slice]:
        row, col = origin
        return slice(self.rows[0] - row, self.rows[1] - row), slice(self.cols[0] - col, self.cols[1] - col)


@dataclass(frozen=True)
class _Nodes:
    """Source coordinates at the nodes of a grid that is fixed to the destination."""

    source: _Floats
    """(2, rows of nodes, columns of nodes): source rows and columns; NaN where there are none."""
    first: int
    """Index of the first row of nodes."""
    spacing: int
    """Destination pixels from node to node."""

    def _around(self, part: _Part) -> tuple[_Floats, int, int]:
        """Give the nodes around a part, and which row and column the first of them is."""
        top, left = part.rows[0] // self.spacing, part.cols[0] // self.spacing
        bottom, right = (part.rows[1] - 1) // self.spacing + 2, (part.cols[1] - 1) // self.spacing + 2
        return self.source[:, top - self.first : bottom - self.first, left:right], top, left

    def rectangle(self, part: _Part, shape: tuple[int, int]) -> _Part | None:
        """Give the source's pixels that interpolation within a part needs; None where there are none."""
        nodes, _, _ = self._around(part)
        sides = []
        for axis, length in zip(nodes, shape, strict=True):
            known = axis[np.isfinite(axis)]
            # Between nodes, values lie between theirs.
            if not known.size or known.max() < 0 or known.min() > length:
                return None
            # Half a pixel from edges to centres, and a little for rounding.
            first = min(max(math.floor(known.min() - 0.500001), 0), length - 1)
            sides.append((first, max(min(math.floor(known.max() - 0.499999) + 2, length), first + 1)))
        return _Part(*sides)

    def coordinates(self, part: _Part) -> tuple[_Floats, _Floats]:
        """Give source rows and columns of a part's pixels, each interpolated on its own."""
        nodes, top, left = self._around(part)
        k, t = np.divmod(np.arange(*part.rows) - top * self.spacing, self.spacing)
        weight = (t / self.spacing)[:, None]
        j, s = np.divmod(np.arange(*part.cols) - left * self.spacing, self.spacing)
        along = s / self.spacing
        found = []
        for axis in nodes:
            # Last node of all where a part ends on it: its successor is not there, and weighs nothing.
            rows = axis[k] + (axis[np.minimum(k + 1, len(axis) - 1)] - axis[k]) * weight
            after = np.minimum(j + 1, axis.shape[1] - 1)
            base = rows[:, j]
            found.append(base + (rows[:, after] - base) * along)
        return found[0], found[1]


class _Sampler:
    """Takes values between the pixels of a rectangle of the source."""

    def __init__(
        self, row: _Floats, col: _Floats, inside: NDArray[np.bool_], source: _Part, shape: tuple[int, int]
    ) -> None:
        if not inside.all():
            row = np.where(inside, row, source.rows[0] + 0.5)  # anything that is there
            col = np.where(inside, col, source.cols[0] + 0.5)
        above, self._down = _split(row, shape[0])
        before, self._right = _split(col, shape[1])
        self._width = source.cols[1] - source.cols[0]
        # Steps to the next row and column; none on the source's last ones, where the next is not there.
        self._step = np.where(above < source.rows[1] - 1, self._width, 0)
        self._first = (above - source.rows[0]) * self._width + (before - source.cols[0])
        self._next = self._first + (before < source.cols[1] - 1)

    def bilinear(self, band: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = band.reshape(-1)
        a, c = flat.take(self._first), flat.take(self._first + self._step)
        a += (flat.take(self._next) - a) * self._right
        c += (flat.take(self._next + self._step) - c) * self._right
        return a + (c - a) * self._down

    def nearest(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        index = np.where(self._right < 0.5, self._first, self._next)
        index += np.where(self._down < 0.5, 0, self._step)
        return usable.reshape(-1).take(index)


def _split(axis: _Floats, length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Split coordinates into the pixel whose centre is before them, and how far they are past it, in [0, 1)."""
    centred = np.clip(axis - 0.5, 0, length - 1)
    whole = centred.astype(np.intp)
    return whole, (centred - whole).astype(np.float32)


def _place(scene: SceneSource) -> _Place:
    found = scene.georeference
    if found.gcps and found.gcp_crs is not None:
        if len(found.gcps) < 3 or _on_a_line(found.gcps):
            raise OptionError(
                f"{scene.path}: its {len(found.gcps)} GCPs are too few, or on one line: do without --geocode"
            )
        place = _GcpPlace(found.gcps, found.gcp_crs)
        if not place.holds(found.gcps):
            raise OptionError(
                f"{scene.path}: its {len(found.gcps)} GCPs contradict one another: do without --geocode"
            )
        return place
    if found.transform is not None and found.crs is not None:
        return _AffinePlace(found.transform, found.crs, (scene.shape[1] / 2, scene.shape[0] / 2))
    raise OptionError(f"{scene.path}: has no place on Earth: --geocode needs GCPs, or an affine and a CRS")


def _on_a_line(gcps: Sequence[GroundControlPoint]) -> bool:
    """Say whether points leave a spline undetermined, on the map or in the image."""
    places = ([(gcp.x, gcp.y) for gcp in gcps], [(gcp.row, gcp.col) for gcp in gcps])
    return any(np.linalg.matrix_rank(np.array(at) - np.mean(at, axis=0), rtol=1e-6) < 2 for at in places)


def _crs(text: str, place: _Place, scene: Scene) -> CRS:
    return _utm(place, scene) if text.lower() == AUTO_UTM else _crs_named(text)


def _crs_named(text: str) -> CRS:
    try:
        with rasterio.Env():  # or PROJ prints an error of its own
            crs = CRS.from_user_input(text)
    except CRSError as error:
        raise OptionError(f"CRS {text!r} is none that GDAL knows: give a code such as EPSG:32643") from error
    if not (crs.is_geographic or crs.is_projected):
        raise OptionError(f"CRS {text!r} is no map's: give a projected or a geographic one, such as EPSG:32643")
    return crs


def _utm(place: _Place, scene: Scene) -> CRS:
    """Give the centre's UTM zone, without the exceptions around Norway and Svalbard; WGS 84."""
    x, y = place.to_map(np.array([scene.shape[0] / 2]), np.array([scene.shape[1] / 2]))
    lon, lat = (float(axis[0]) for axis in _reproject(place.crs, _WGS84, x, y))
    if not -80 <= lat <= 84:
        return CRS.from_epsg(32661 if lat > 0 else 32761)
    zone = int((lon + 180) // 6) % 60 + 1
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


def _outline(scene: Scene, place: _Place, crs: CRS) -> tuple[_Floats, _Floats]:
    """Give map coordinates of points along the scene's edges and across it."""
    lines = (np.linspace(0, side, _OUTLINE) for side in scene.shape)
    rows, cols = (axis.ravel() for axis in np.meshgrid(*lines, indexing="ij"))
    x, y = _reproject(place.crs, crs, *place.to_map(rows, cols))
    x = _near(x, x[len(x) // 2], crs)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or _is_torn(x, y):
        raise OptionError(f"{scene.path}: reaches beyond where {_name(crs)} is whole: give a CRS of its region")
    return x, y


def _is_torn(x: _Floats, y: _Floats) -> bool:
    """Say whether neighbours in the outline lie far apart: on both ends of a map that is cut at the antimeridian."""
    grid = np.stack([x, y]).reshape(2, _OUTLINE, _OUTLINE)
    steps = (np.hypot(*np.diff(grid, axis=axis)) for axis in (1, 2))
    return any(step.max() > 10 * np.median(step) for step in steps)


def _own_resolution(shape: tuple[int, int], place: _Place, crs: CRS) -> float:
    """Give the side of a square as large as a pixel in the scene's middle, to two digits."""
    height, width = shape
    rows = np.array([0.25, 0.75, 0.5, 0.5]) * height
    cols = np.array([0.5, 0.5, 0.25, 0.75]) * width
    x, y = _reproject(place.crs, crs, *place.to_map(rows, cols))
    x = _near(x, x[0], crs)
    down = (x[1] - x[0]) * 2 / height, (y[1] - y[0]) * 2 / height
    right = (x[3] - x[2]) * 2 / width, (y[3] - y[2]) * 2 / width
    return float(f"{math.sqrt(abs(down[0] * right[1] - down[1] * right[0])):.1e}")


def _reproject(source: CRS, destination: CRS, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
    """Take map coordinates from one CRS to another; NaN where there is no such place."""
    if source == destination:
        return x, y
    try:
        found: Any = _warp_transform(source, destination, x, y)
        return np.array(found[0]), np.array(found[1])
    except CPLE_BaseError:  # for one point outside the domain, all are refused
        if len(x) == 1:
            return np.array([np.nan]), np.array([np.nan])
        half = len(x) // 2
        parts = [_reproject(source, destination, x[at], y[at]) for at in (slice(half), slice(half, None))]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _apply(transform: Affine, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
    """Apply an affine to arrays; the operator for it differs among versions of its library."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _near(x: _Floats, meridian: float, crs: CRS) -> _Floats:
    """Give longitudes within 180 degrees of a meridian; other coordinates as they are."""
    if not crs.is_geographic:
        return x
    turns: _Floats = np.round((x - meridian) / 360)
    return x - 360 * turns


def _metres(dx: _Floats, dy: _Floats, y: _Floats, crs: CRS) -> _Floats:
    """Give distances from differences of coordinates; of degrees, on a sphere (within 0.5 % of the ellipsoid)."""
    if not crs.is_geographic:
        scale = float(crs.linear_units_factor[1])
    else:
        scale = _EARTH_RADIUS
        dx, dy = np.radians(dx) * np.cos(np.radians(y)), np.radians(dy)
    distance: _Floats = np.hypot(dx, dy) * scale
    return distance


def _name(crs: CRS) -> str:
    """Give a CRS's code, or the start of its definition."""
    code = crs.to_authority()
    return ":".join(code) if code else str(crs.to_string())[:60]
