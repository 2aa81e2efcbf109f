"""Sentinel-1 GRD products in ESA's packaging (.SAFE): opened as calibrated bands."""

from sar2optical.scene.safe.calibrate import Calibration
from sar2optical.scene.safe.files import is_product, unnested
from sar2optical.scene.safe.product import ProductOptions, SafeBands, open_product

__all__ = ["Calibration", "ProductOptions", "SafeBands", "is_product", "open_product", "unnested"]
