"""Open a SAR raster: which band, where it lies on Earth, which pixels are usable, what its values are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """Where a raster lies on Earth: an affine and a CRS, or ground control points, or nothing."""

    crs: CRS | None = None
    """Of `transform`, or None."""
    transform: Affine | None = None
    """Pixel to map coordinates; None where the raster has none (an identity is none)."""
    gcps: tuple[GroundControlPoint, ...] = ()
    """Ground control points, in the file's order."""
    gcp_crs: CRS | None = None
    """Of `gcps`, or None."""
