"""GDAL's own exceptions, which rasterio raises bare and exports under no public name."""

from rasterio._err import CPLE_BaseError

__all__ = ["CPLE_BaseError"]
