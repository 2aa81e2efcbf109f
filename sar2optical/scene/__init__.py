"""Read SAR scenes: bands in a known unit, validity, georeference; and encode them for a model.

`open_scene` opens what GDAL reads and Sentinel-1 products (`scene.safe`). `scene.geocode` resamples a scene to a map,
`scene.encoder` scales values to model input and back, `scene.remote` handles addresses.
"""

from sar2optical.scene.bands import Georeference, SceneOptions
from sar2optical.scene.scene import Scene, open_scene

__all__ = ["Georeference", "Scene", "SceneOptions", "open_scene"]
