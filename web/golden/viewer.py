"""Write scenes, mosaics and expected values for the viewer's browser test."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from sar2optical import translate
from sar2optical.testing.simulate import SimulatedScene, write_scene
from sar2optical.viewer.exhibit import Choices
from sar2optical.viewer.html import write_html

OUT = Path(__file__).parent / "out" / "viewer"
PIXELS = ((450, 700), (610, 1111), (333, 280))
"""Rows and columns at which the page's values are compared with the files'."""


def main() -> None:
    """Write all files; existing ones are replaced."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    OUT.mkdir(parents=True, exist_ok=True)
    scene, mosaic = OUT / "scene.tif", OUT / "mosaic.tif"
    write_scene(scene, SimulatedScene(height=900, width=1300))
    translate(scene, mosaic, overwrite=True)
    write_truth(mosaic, OUT / "truth.tif")
    write_gcp_scene(scene, OUT / "gcp.tif")
    translate(OUT / "gcp.tif", OUT / "gcp-mosaic.tif", overwrite=True, compress="zstd")
    write_html(OUT / "page.html", scene, [mosaic], Choices(truth=OUT / "truth.tif"))
    (OUT / "values.json").write_text(json.dumps([values(scene, mosaic, *pixel) for pixel in PIXELS]))


def values(scene: Path, mosaic: Path, row: int, col: int) -> dict[str, Any]:
    """Read the values of one pixel with rasterio."""
    window = rasterio.windows.Window(col, row, 1, 1)
    with rasterio.open(scene) as radar, rasterio.open(mosaic) as rgb:
        return {
            "row": row,
            "col": col,
            "radar": float(radar.read(1, window=window)[0, 0]),
            "mosaic": rgb.read(window=window)[:, 0, 0].tolist(),
        }


def write_truth(mosaic: Path, truth: Path) -> None:
    """Write an optical image of half the resolution, a little brighter than a mosaic."""
    with rasterio.open(mosaic) as source:
        height, width = source.height // 2, source.width // 2
        rgb = source.read(out_shape=(3, height, width)).astype(np.int16)
        profile = {"crs": source.crs, "transform": source.transform @ Affine.scale(2), "count": 3, "dtype": "uint8"}
    with rasterio.open(truth, "w", driver="GTiff", height=height, width=width, **profile) as target:
        target.write(np.clip(rgb + 12, 0, 255).astype(np.uint8))


def write_gcp_scene(scene: Path, out: Path) -> None:
    """Write a part of a scene with control points in place of its affine."""
    with rasterio.open(scene) as source:
        values = source.read(1, window=rasterio.windows.Window(100, 100, 700, 500))
        tags = source.tags()
        names = source.descriptions
    points = [
        GroundControlPoint(row, col, 10 + col * 1.2e-4 + row * 2e-5, 50 - row * 9e-5 + col * 1.5e-5)
        for row in (0, 250, 500)
        for col in (0, 350, 700)
    ]
    profile = {"height": 500, "width": 700, "count": 1, "dtype": values.dtype, "gcps": points, "crs": "EPSG:4326"}
    with rasterio.open(out, "w", driver="GTiff", **profile) as target:
        target.write(values, 1)
        target.descriptions = names
        target.update_tags(**{name: text for name, text in tags.items() if name != "AREA_OR_POINT"})


if __name__ == "__main__":
    main()
