"""Write the files of the site that come from the Python package: model, unit names and examples."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from sar2optical.engines.registry import bundled
from sar2optical.scene.units import NAMES, NO_UNIT
from sar2optical.testing.simulate import SimulatedScene, write_scene

PUBLIC = Path(__file__).parent / "public"
GENERATED = Path(__file__).parent / "generated"
SIDE = 448
SEEDS = (11, 3, 27)
"""Seeds of the simulated examples."""
THUMBNAIL = 4
"""Factor by which a picture of an example is smaller than it."""


def main() -> None:
    """Write all files; existing ones are replaced."""
    examples = PUBLIC / "examples"
    examples.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundled(), PUBLIC / "generator.onnx")
    shutil.copyfile(Path(__file__).parent / "static" / "icon.svg", PUBLIC / "icon.svg")
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "units.json").write_text(json.dumps({"units": NAMES, "other": NO_UNIT}))
    for number, seed in enumerate(SEEDS, start=1):
        scene = examples / f"example-{number}.tif"
        write_scene(scene, SimulatedScene(height=SIDE, width=SIDE, seed=seed, border=False))
        write_thumbnail(scene, scene.with_suffix(".png"))


def write_thumbnail(scene: Path, picture: Path) -> None:
    """Write a small grey picture of a scene, stretched in dB."""
    with rasterio.open(scene) as source:
        side = SIDE // THUMBNAIL
        values = source.read(1).reshape(side, THUMBNAIL, side, THUMBNAIL).astype(np.float64)
    shown = np.log10(np.maximum(values.mean(axis=(1, 3)), 1))
    low, high = np.percentile(shown, (1, 99))
    grey = np.clip((shown - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(picture, "w", driver="PNG", height=side, width=side, count=1, dtype="uint8") as target:
        target.write(grey, 1)
    picture.with_suffix(".png.aux.xml").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
