"""Translate many scenes, on one machine or a Dask cluster; STAC Items of mosaics."""
