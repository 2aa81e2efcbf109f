"""Public functions, with plain keywords; `sar2optical` loads them when they are first used."""

from sar2optical.api.engine import open_engine
from sar2optical.api.mosaic import open_mosaic
from sar2optical.api.predict import predict
from sar2optical.api.scene import SarArray, SceneReader, open_scene
from sar2optical.api.translate import estimate, translate

__all__ = [
    "SarArray",
    "SceneReader",
    "estimate",
    "open_engine",
    "open_mosaic",
    "open_scene",
    "predict",
    "translate",
]
