"""Placement of a scene's pixels on Earth: by its affine, or by a thin-plate spline through its GCPs.

GCPs' heights are not used: there is no terrain correction, so mountains are displaced by layover and foreshortening.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import GCPTransformer

from sar2optical.errors import OptionError
from sar2optical.scene.bands import Georeference
from sar2optical.scene.geocode.coordinates import (
    EARTH_RADIUS,
    WGS84,
    Floats,
    apply_affine,
    crs_name,
    metres,
    near_meridian,
    reproject,
)
from sar2optical.scene.scene import SceneSource

__all__ = ["Placement", "Residuals", "pixel_size", "placement_of", "residuals"]


class Placement(Protocol):
    """Conversion from pixel to map coordinates and back; rows and columns are 0 at the first pixel's outer edge."""

    crs: CRS
    """CRS of the map coordinates."""

    def to_map(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        """Convert rows and columns, float64 (n,), to x and y."""
        ...

    def to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Convert x and y, float64 (n,), to rows and columns."""
        ...


class _AffinePlacement:
    """Placement by an affine and a CRS."""

    def __init__(self, transform: Affine, crs: CRS, centre: tuple[float, float]) -> None:
        self.crs = crs
        self._forward = transform
        self._inverse = ~transform
        self._meridian = float(apply_affine(transform, *(np.array([axis]) for axis in centre))[0][0])

    def __str__(self) -> str:
        return f"from {crs_name(self.crs)}"

    def to_map(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        return apply_affine(self._forward, cols, rows)

    def to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        cols, rows = apply_affine(self._inverse, near_meridian(x, self._meridian, self.crs), y)
        return rows, cols


class _GcpPlacement:
    """Placement by two of GDAL's thin-plate splines through GCPs, one per direction."""

    def __init__(self, gcps: Sequence[GroundControlPoint], crs: CRS) -> None:
        self.crs = crs
        self._count = len(gcps)
        # All on one side of the antimeridian: a spline through 179 and -179 would go around the world.
        self._meridian = gcps[0].x
        x = near_meridian(np.array([gcp.x for gcp in gcps]), self._meridian, crs)
        points = [GroundControlPoint(gcp.row, gcp.col, lon, gcp.y) for gcp, lon in zip(gcps, x, strict=True)]
        self._spline = GCPTransformer(points, tps=True)

    def __str__(self) -> str:
        return f"thin-plate spline through {self._count} GCPs without terrain correction"

    def holds(self, gcps: Sequence[GroundControlPoint]) -> bool:
        """Return whether the spline passes through its GCPs: not if two pixels have the same coordinates."""
        rows, cols = self.to_pixels(*(np.array(axis) for axis in zip(*((gcp.x, gcp.y) for gcp in gcps), strict=True)))
        error = np.hypot(rows - [gcp.row for gcp in gcps], cols - [gcp.col for gcp in gcps])
        return bool((error < 1).all())

    def to_map(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        x, y = self._spline.xy(rows, cols, offset="ul")
        return np.asarray(x), np.asarray(y)

    def to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        rows, cols = (np.full(len(x), np.nan) for _ in range(2))
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            x = near_meridian(x[known], self._meridian, self.crs)
            rows[known], cols[known] = self._spline.rowcol(x, y[known], op=np.asarray)
        return rows, cols


def placement_of(scene: SceneSource, option: str = "--geocode") -> Placement:
    """Return the placement of a scene, for an option that needs it.

    Raises
    ------
    OptionError
        If the scene has no georeference, or its GCPs are too few, on one line, or contradictory.
    """
    found = scene.georeference
    if found.gcps and found.gcp_crs is not None:
        if len(found.gcps) < 3 or _on_a_line(found.gcps):
            raise OptionError(
                f"{scene.path}: its {len(found.gcps)} GCPs are too few, or on one line: leave out {option}"
            )
        placement = _GcpPlacement(found.gcps, found.gcp_crs)
        if not placement.holds(found.gcps):
            raise OptionError(f"{scene.path}: its {len(found.gcps)} GCPs contradict one another: leave out {option}")
        return placement
    if found.transform is not None and found.crs is not None:
        return _AffinePlacement(found.transform, found.crs, (scene.shape[1] / 2, scene.shape[0] / 2))
    raise OptionError(
        f"{scene.path}: has no georeference: {option} needs GCPs, or an affine and a CRS: leave out {option}"
    )


def _on_a_line(gcps: Sequence[GroundControlPoint]) -> bool:
    """Return whether points are on one line, on the map or in the image, and leave a spline undetermined."""
    points = ([(gcp.x, gcp.y) for gcp in gcps], [(gcp.row, gcp.col) for gcp in gcps])
    return any(np.linalg.matrix_rank(np.array(at) - np.mean(at, axis=0), rtol=1e-6) < 2 for at in points)


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Distances of held-out GCPs from a thin-plate spline through the others.

    A spline through all GCPs has no residuals; held-out GCPs show its error in between. The spline through fewer
    GCPs is somewhat less accurate than the one that is used.
    """

    count: int
    """Number of held-out GCPs."""
    rms: float
    """Root mean square distance in metres."""
    max: float
    """Largest distance in metres."""

    def __str__(self) -> str:
        return f"{self.count} held-out GCPs off by {self.rms:.1f} m rms, {self.max:.1f} m at most"


def residuals(georeference: Georeference, *, every: int = 5) -> Residuals | None:
    """Fit a spline to some GCPs, and measure its distance from the held-out ones.

    Parameters
    ----------
    georeference
        Georeference of a scene.
    every
        Hold out the first GCP and every `every`-th after it. Sentinel-1 has rows of 21 GCPs: a number that does not
        divide 21 holds out some of each column.

    Returns
    -------
    Residuals or None
        None if the scene has no GCPs, or fewer than 4 remain to fit.
    """
    gcps = georeference.gcps
    kept = [gcp for k, gcp in enumerate(gcps) if k % every]
    held = gcps[::every]
    if len(kept) < 4 or _on_a_line(kept) or georeference.gcp_crs is None:
        return None
    x, y = _GcpPlacement(kept, georeference.gcp_crs).to_map(
        np.array([gcp.row for gcp in held]), np.array([gcp.col for gcp in held])
    )
    true_y = np.array([gcp.y for gcp in held])
    dx = np.array([gcp.x for gcp in held]) - x
    distance = metres(near_meridian(dx, 0, georeference.gcp_crs), true_y - y, true_y, georeference.gcp_crs)
    return Residuals(count=len(held), rms=float(np.sqrt(np.mean(distance**2))), max=float(distance.max()))


def pixel_size(scene: SceneSource) -> tuple[float, float] | None:
    """Compute the height and width of a pixel in the middle of the scene, in metres on the ground.

    Computed on a sphere, within 0.5 % of the ellipsoid, in any CRS.

    Returns
    -------
    (float, float) or None
        None if the scene has no georeference, or its GCPs contradict one another.
    """
    try:
        placement = placement_of(scene)
    except OptionError:
        return None
    height, width = scene.shape
    rows = np.array([0.25, 0.75, 0.5, 0.5]) * height
    cols = np.array([0.5, 0.5, 0.25, 0.75]) * width
    lon, lat = reproject(placement.crs, WGS84, *placement.to_map(rows, cols))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    east = np.radians(near_meridian(lon, float(lon[0]), WGS84)) * np.cos(np.radians(lat.mean())) * EARTH_RADIUS
    north = np.radians(lat) * EARTH_RADIUS
    (east_down, east_right), (north_down, north_right) = ((a[1] - a[0], a[3] - a[2]) for a in (east, north))
    down = 2 * math.hypot(east_down, north_down) / height
    right = 2 * math.hypot(east_right, north_right) / width
    return (down, right) if down and right else None
