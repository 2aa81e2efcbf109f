"""Geocode scenes: locate pixels by GCPs or an affine, and resample scenes to a map's grid."""

from sar2optical.scene.geocode.placement import Residuals, pixel_size, residuals
from sar2optical.scene.geocode.resample import Geocoded, geocoded
from sar2optical.scene.geocode.target import AUTO_UTM, Target

__all__ = ["AUTO_UTM", "Geocoded", "Residuals", "Target", "geocoded", "pixel_size", "residuals"]
