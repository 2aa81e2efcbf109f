"""Translate many scenes, on one machine or a Dask cluster, and write STAC Items of the mosaics.

Dask and pystac are optional: they are imported when `connected`, `translate_all` and `write_item` are called.
"""

from sar2optical.batch.cluster import connected, default_threads
from sar2optical.batch.footprint import outline
from sar2optical.batch.schedule import translate_all
from sar2optical.batch.stac import footprint, write_item
from sar2optical.batch.work import Outcome, Work
from sar2optical.scene.items import SceneItem, read_items

__all__ = [
    "Outcome",
    "SceneItem",
    "Work",
    "connected",
    "default_threads",
    "footprint",
    "outline",
    "read_items",
    "translate_all",
    "write_item",
]
