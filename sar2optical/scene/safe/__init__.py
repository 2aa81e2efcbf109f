"""Sentinel-1 products in ESA's SAFE packaging, calibrated from their own tables."""
