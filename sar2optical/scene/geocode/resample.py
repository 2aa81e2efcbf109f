"""Resample a scene to a map's grid, north up, as it is read.

Values are interpolated bilinearly in the scene's own unit: decibels as decibels.

GDAL's warper is not used, because its values depend on which rows are read together: it approximates along rows, and
blurs strips across a rotated scene: such a strip touches many more rows than it has, which the warper treats as a
reduction. Its exact mode takes 50 times as long. Here the exact transformation is computed at nodes that are fixed to
the map, and interpolated between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sar2optical.scene.bands import Georeference
from sar2optical.scene.geocode.coordinates import Floats, apply_affine, crs_name, reproject
from sar2optical.scene.geocode.placement import Placement, placement_of, residuals
from sar2optical.scene.geocode.target import Grid, Target, choose_grid
from sar2optical.scene.scene import Scene

__all__ = ["Geocoded", "geocoded"]

_TOLERANCE = 0.01
"""Largest error of interpolation between nodes, in source pixels: it changes a bilinear value by 1 % of the step to
the next pixel."""

_WIDEST_NODES = 64  # grid pixels between nodes: halved until the tolerance is kept

_RECTANGLE = 2**18
"""Source pixels that are read at a time: with the results, they stay in a core's cache."""

_STRIP = 192  # rows that the pipeline reads at a time: windows of 256 with an overlap of 64
_LATTICE = 65  # points per side that the valid share is estimated at


class Geocoded:
    """A scene on a map's grid, with the interface of `Scene`. Created by `geocoded`.

    A pixel depends only on its position, not on the rectangle that is read.

    Parameters
    ----------
    scene
        Scene, open for as long as this is read.
    placement
        Placement of the scene.
    grid
        Grid to resample to.
    """

    def __init__(self, scene: Scene, placement: Placement, grid: Grid) -> None:
        self._scene = scene
        self._placement = placement
        self._crs = grid.crs
        self._transform = grid.transform
        self.path = scene.path
        self.sources = scene.sources
        self.files = scene.files
        self.shape = grid.shape
        """Height and width of the grid."""
        self.polarisations = scene.polarisations
        self.georeference = Georeference(crs=grid.crs, transform=grid.transform)
        self.unit = scene.unit
        self.unit_reason = scene.unit_reason
        self.residuals = residuals(scene.georeference)
        """Residuals of the source's GCPs; None where it has none, or few."""
        self._spacing = self._choose_spacing()
        self._node_row = lru_cache(maxsize=64)(self._compute_node_row)
        self.dtype = np.dtype(np.float32)
        self.block = scene.block
        self.readers = 1  # it caches lines of its grid
        self.row_of_blocks = self._bytes_touched()
        """Bytes of the blocks that a typical strip touches: a cache of this size decodes each block only once."""

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """Return the source's samples, so that its stretch is the same; see `Scene.read_samples`."""
        return self._scene.read_samples()

    def estimate_valid_share(self) -> float:
        """Estimate the share of the grid's pixels that are valid, 0 to 1: those in the scene, by its own share."""
        lines = ((np.arange(_LATTICE) + 0.5) * side / _LATTICE - 0.5 for side in self.shape)
        row, col = self._source_of(*(axis.ravel() for axis in np.meshgrid(*lines, indexing="ij")))
        inside = (row >= 0) & (row < self._scene.shape[0]) & (col >= 0) & (col < self._scene.shape[1])
        return float(inside.mean()) * self._scene.estimate_valid_share()

    @property
    def note(self) -> str:
        """One line for log and tags: method and residuals of the geocoding."""
        unit = "degree" if self._crs.is_geographic else self._crs.linear_units
        grid = f"{crs_name(self._crs)} at {self._transform.a:g} {unit}"
        off = f"; {self.residuals}" if self.residuals else ""
        return f"{self._placement} to {grid}, bilinear{off}"

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
            bool (rows, columns): validity of the nearest pixel of the scene. Invalid pixels have a weight of 0.

        Raises
        ------
        SceneUnreadable
            If the scene's file ends early or a block cannot be decoded.
        """
        values = np.zeros((len(self.polarisations), rows[1] - rows[0], cols[1] - cols[0]), np.float32)
        valid = np.zeros(values.shape[1:], np.bool_)
        if valid.size:
            first = rows[0] // self._spacing
            last = -(-(rows[1] - 1) // self._spacing)
            nodes = np.stack([self._node_row(k) for k in range(first, max(last, first + 1) + 1)], axis=1)
            self._fill(_Part(rows, cols), (rows[0], cols[0]), _Nodes(nodes, first, self._spacing), values, valid)
        return values, valid

    def read_stored(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows: values are float32."""
        return self.read_rows(start, stop)

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows; see `read`."""
        return self.read((start, stop), (0, self.shape[1]))

    def _bytes_touched(self) -> int:
        own = self._scene.row_of_blocks
        thin = own <= 8 * self._scene.shape[1] * len(
            self.polarisations
        )  # blocks of one row, of at most 8 bytes per pixel
        return own * self.source_rows(_STRIP) if thin else 2 * own  # a slanted strip crosses rows of blocks

    def source_rows(self, rows: int) -> int:
        """Estimate how many source rows a strip of grid rows touches at most.

        A file that is compressed in whole rows is decoded repeatedly unless GDAL's cache holds all of these.
        """
        height, width = self.shape
        starts = np.linspace(0, max(height - rows, 0), 17)
        cols: Floats = np.linspace(0.0, width - 1, 129)
        most = 0.0
        for start in starts:
            edges = [self._source_of(np.full(129, row), cols) for row in (start, min(start + rows, height) - 1)]
            row, col = np.concatenate(edges, axis=1)
            seen = row[(col >= 0) & (col <= self._scene.shape[1])]
            if seen.size:
                most = max(most, float(np.ptp(np.clip(seen, 0, self._scene.shape[0]))))
        return math.ceil(1.05 * most) + 2  # rows of nodes reach slightly further

    def _fill(
        self,
        part: _Part,
        origin: tuple[int, int],
        nodes: _Nodes,
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:
        """Fill a part of a rectangle; split it in halves while it needs too many source pixels at once."""
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

    def _compute_node_row(self, index: int) -> Floats:
        """Compute source rows and columns, (2, nodes), along one row of nodes."""
        count = max(-(-(self.shape[1] - 1) // self._spacing), 1) + 1
        cols = np.arange(count, dtype=np.float64) * self._spacing
        return self._source_of(np.full(count, index * float(self._spacing)), cols)

    def _source_of(self, rows: Floats, cols: Floats) -> Floats:
        """Compute source rows and columns, (2, n), of the centres of grid pixels; NaN where they have none."""
        x, y = apply_affine(self._transform, cols + 0.5, rows + 0.5)
        return np.stack(self._placement.to_pixels(*reproject(self._crs, self._placement.crs, x, y)))

    def _choose_spacing(self) -> int:
        """Choose a spacing of nodes with which bilinear interpolation keeps the tolerance all over the scene."""
        spacing = _WIDEST_NODES
        while spacing > 1 and self._interpolation_error(spacing) > _TOLERANCE:
            spacing //= 2
        return spacing

    def _interpolation_error(self, spacing: int) -> float:
        """Compute the largest error, in source pixels, in the middle of sampled cells."""
        # Steps are irregular, so that GCPs on a regular grid are at different positions in the sampled cells.
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
    """Geocode a scene to a map's grid, north up; nothing is read yet.

    Parameters
    ----------
    scene
        Scene with GCPs, or an affine and a CRS; open for as long as the result is read.
    target
        CRS and resolution. The grid covers the whole scene; its lines are on multiples of the resolution.

    Returns
    -------
    Geocoded

    Raises
    ------
    OptionError
        If the scene has no usable georeference, the CRS is not defined all over it, or the resolution would give
        too many or too few pixels.
    """
    placement = placement_of(scene)
    return Geocoded(scene, placement, choose_grid(scene, placement, target))


@dataclass(frozen=True)
class _Part:
    """A rectangle of pixels; first and past-the-last of its rows and columns."""

    rows: tuple[int, int]
    cols: tuple[int, int]

    @property
    def size(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])

    def halves(self) -> tuple[_Part, _Part]:
        """Split the longer side."""
        (top, bottom), (left, right) = self.rows, self.cols
        if right - left >= bottom - top:
            middle = (left + right) // 2
            return _Part(self.rows, (left, middle)), _Part(self.rows, (middle, right))
        middle = (top + bottom) // 2
        return _Part((top, middle), self.cols), _Part((middle, bottom), self.cols)

    def slices(self, origin: tuple[int, int]) -> tuple[slice, slice]:
        """Return slices into an array whose first pixel is at `origin`."""
        row, col = origin
        return slice(self.rows[0] - row, self.rows[1] - row), slice(self.cols[0] - col, self.cols[1] - col)


@dataclass(frozen=True)
class _Nodes:
    """Source coordinates at nodes that are fixed to the grid."""

    source: Floats
    """float64 (2, rows of nodes, columns of nodes): source rows and columns; NaN where a node has none."""
    first: int
    """Index of the first row of nodes."""
    spacing: int
    """Grid pixels from node to node."""

    def _around(self, part: _Part) -> tuple[Floats, int, int]:
        """Return the nodes around a part, and the row and column of the first of them."""
        top, left = part.rows[0] // self.spacing, part.cols[0] // self.spacing
        bottom, right = (part.rows[1] - 1) // self.spacing + 2, (part.cols[1] - 1) // self.spacing + 2
        return self.source[:, top - self.first : bottom - self.first, left:right], top, left

    def rectangle(self, part: _Part, shape: tuple[int, int]) -> _Part | None:
        """Return the source pixels that interpolation within a part needs; None where it is outside the source."""
        nodes, _, _ = self._around(part)
        sides = []
        for axis, length in zip(nodes, shape, strict=True):
            known = axis[np.isfinite(axis)]
            # Interpolated coordinates are between those of the nodes.
            if not known.size or known.max() < 0 or known.min() > length:
                return None
            # Half a pixel from edges to centres, plus a margin for rounding.
            first = min(max(math.floor(known.min() - 0.500001), 0), length - 1)
            sides.append((first, max(min(math.floor(known.max() - 0.499999) + 2, length), first + 1)))
        return _Part(*sides)

    def coordinates(self, part: _Part) -> tuple[Floats, Floats]:
        """Interpolate source rows and columns of a part's pixels, each independently of the others."""
        nodes, top, left = self._around(part)
        k, t = np.divmod(np.arange(*part.rows) - top * self.spacing, self.spacing)
        weight = (t / self.spacing)[:, None]
        j, s = np.divmod(np.arange(*part.cols) - left * self.spacing, self.spacing)
        along = s / self.spacing
        found = []
        for axis in nodes:
            # A part may end on the last node: the missing next one would have a weight of 0.
            rows = axis[k] + (axis[np.minimum(k + 1, len(axis) - 1)] - axis[k]) * weight
            after = np.minimum(j + 1, axis.shape[1] - 1)
            base = rows[:, j]
            found.append(base + (rows[:, after] - base) * along)
        return found[0], found[1]


class _Sampler:
    """Interpolation between the pixels of a rectangle of the source."""

    def __init__(
        self, row: Floats, col: Floats, inside: NDArray[np.bool_], source: _Part, shape: tuple[int, int]
    ) -> None:
        if not inside.all():
            row = np.where(inside, row, source.rows[0] + 0.5)  # any valid position; the result is masked
            col = np.where(inside, col, source.cols[0] + 0.5)
        above, self._down = _split(row, shape[0])
        before, self._right = _split(col, shape[1])
        self._width = source.cols[1] - source.cols[0]
        # Steps to the next row and column; 0 on the source's last ones, which have no next.
        self._step = np.where(above < source.rows[1] - 1, self._width, 0)
        self._first = (above - source.rows[0]) * self._width + (before - source.cols[0])
        self._next = self._first + (before < source.cols[1] - 1)

    def bilinear(self, band: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate a band, float32 (rows, columns) of the rectangle, bilinearly."""
        flat = band.reshape(-1)
        a, c = flat.take(self._first), flat.take(self._first + self._step)
        a += (flat.take(self._next) - a) * self._right
        c += (flat.take(self._next + self._step) - c) * self._right
        return a + (c - a) * self._down

    def nearest(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take the nearest pixel of a mask, bool (rows, columns) of the rectangle."""
        index = np.where(self._right < 0.5, self._first, self._next)
        index += np.where(self._down < 0.5, 0, self._step)
        return usable.reshape(-1).take(index)


def _split(axis: Floats, length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Split coordinates into the pixel whose centre is before them, and the distance from it, in [0, 1)."""
    centred = np.clip(axis - 0.5, 0, length - 1)
    whole = centred.astype(np.intp)
    return whole, (centred - whole).astype(np.float32)
