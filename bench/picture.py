"""Draw a scene beside its mosaic, reduced."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

_GAP = 16  # pixels between scene and mosaic
_WHITE = 255


@click.command("picture")
@click.argument("scene", type=click.Path(path_type=Path))
@click.argument("mosaic", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--longest", default=720, show_default=True, help="Longest side of each, in pixels.")
def main(scene: Path, mosaic: Path, out: Path, longest: int) -> None:
    """Draw SCENE and its MOSAIC side by side into OUT (.jpg, .png); nodata is white."""
    values, valid = _read(scene, longest, 1)
    high = np.percentile(values[:, valid], 99) if valid.any() else 1
    sar = np.where(valid, np.clip(values / high, 0, 1) * _WHITE, _WHITE).repeat(3, axis=0)
    optical, valid = _read(mosaic, longest, 3)
    gap = np.full((3, sar.shape[1], _GAP), _WHITE)
    picture = np.concatenate((sar, gap, np.where(valid, optical, _WHITE)), axis=2).round().astype(np.uint8)
    driver, options = ("JPEG", {"quality": 88}) if out.suffix in (".jpg", ".jpeg") else ("PNG", {})
    size = {"height": picture.shape[1], "width": picture.shape[2]}
    with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED=False):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(out, "w", driver=driver, count=3, dtype="uint8", **size, **options) as dst:
            dst.write(picture)
    click.echo(f"{out}: {picture.shape[2]} x {picture.shape[1]}")


def _read(path: Path, longest: int, bands: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the first bands, reduced by averaging: float32 (bands, H, W), and their validity, bool (H, W)."""
    with rasterio.open(path) as src:
        scale = longest / max(src.shape)
        shape = tuple(max(1, round(n * scale)) for n in src.shape)
        read = src.read(
            list(range(1, bands + 1)), out_shape=(bands, *shape), resampling=Resampling.average, masked=True
        )
    invalid = np.logical_or.reduce(np.ma.getmaskarray(read), axis=0)
    return read.filled(0).astype(np.float32), ~invalid
