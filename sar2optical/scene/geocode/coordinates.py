"""Map coordinates as arrays: reprojection, affines, longitudes across the antimeridian, distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as _warp_transform

from sar2optical._utils.gdal_errors import CPLE_BaseError

__all__ = [
    "EARTH_RADIUS",
    "WGS84",
    "Floats",
    "apply_affine",
    "crs_name",
    "metres",
    "near_meridian",
    "reproject",
]

Floats = NDArray[np.float64]
"""Coordinates of points, (n,)."""

EARTH_RADIUS = 6_371_008.8
"""Mean radius of the Earth in metres (IUGG, Moritz 2000, Geodetic Reference System 1980)."""

WGS84 = CRS.from_epsg(4326)


def reproject(source: CRS, destination: CRS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Transform map coordinates from one CRS to another; NaN where a point has no coordinates in the other."""
    if source == destination:
        return x, y
    try:
        found: Any = _warp_transform(source, destination, x, y)
        return np.array(found[0]), np.array(found[1])
    except CPLE_BaseError:  # raised for all points if one is outside the domain
        if len(x) == 1:
            return np.array([np.nan]), np.array([np.nan])
        half = len(x) // 2
        parts = [reproject(source, destination, x[at], y[at]) for at in (slice(half), slice(half, None))]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def apply_affine(transform: Affine, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Apply an affine to arrays: `*` on arrays differs between versions of the affine library."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


def near_meridian(x: Floats, meridian: float, crs: CRS) -> Floats:
    """Shift longitudes to within 180 degrees of a meridian; coordinates that are no longitudes stay unchanged."""
    if not crs.is_geographic:
        return x
    turns: Floats = np.round((x - meridian) / 360)
    return x - 360 * turns


def metres(dx: Floats, dy: Floats, y: Floats, crs: CRS) -> Floats:
    """Compute distances in metres from differences of coordinates.

    Degrees are converted on a sphere, within 0.5 % of the ellipsoid.

    Parameters
    ----------
    dx, dy
        float64 (n,), differences in the CRS's unit.
    y
        float64 (n,), latitudes where the CRS is geographic.
    crs
        CRS of the differences.
    """
    if not crs.is_geographic:
        scale = float(crs.linear_units_factor[1])
    else:
        scale = EARTH_RADIUS
        dx, dy = np.radians(dx) * np.cos(np.radians(y)), np.radians(dy)
    distance: Floats = np.hypot(dx, dy) * scale
    return distance


def crs_name(crs: CRS) -> str:
    """Return the code of a CRS ("EPSG:32643"), or else the start of its definition."""
    code = crs.to_authority()
    return ":".join(code) if code else str(crs.to_string())[:60]
