#!/usr/bin/env bash
# What most would guess: a GeoTIFF in WebP at quality 90 is close to its pixels everywhere.
# What happens: blocks that reach beyond the raster are filled with 0 there before they are compressed, and the lossy coder, whose
#   chroma has half the resolution, smears that edge into the last pixels inside. An even colour of (200, 60, 90) comes back up to 66 levels
#   off in the last row and column. JPEG in the same driver repeats the last pixels instead, and keeps them.
# Version: rasterio 1.4.4 with its GDAL 3.10.3, numpy 2.4.6. Date: 2026-11-28.
# Source: GDAL's GTiff driver, creation option COMPRESS=WEBP; its COG driver writes the same blocks.
# Why a user cares: mosaics whose sides are no multiple of the block size get dark borders, and small overviews most of all. sar2optical
#   fills such blocks with their last pixels first (sar2optical/mosaic/coding.py), as tests/mosaic/test_writer.py shows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio

COLOUR = np.stack([np.full((201, 201), level, np.uint8) for level in (200, 60, 90)])


def worst(**options):
    """Return the largest error inside, and in the last row and column."""
    profile = {"driver": "GTiff", "width": 201, "height": 201, "count": 3, "dtype": "uint8", "tiled": True}
    profile |= {"blockxsize": 256, "blockysize": 256, "interleave": "pixel", **options}
    with rasterio.open("colour.tif", "w", **profile) as raster:
        raster.write(COLOUR)
    with rasterio.open("colour.tif") as raster:
        error = np.abs(raster.read().astype(int) - COLOUR)
    return int(error[:, :-20, :-20].max()), int(max(error[:, -1].max(), error[:, :, -1].max()))


webp = worst(compress="webp", webp_level=90, photometric="rgb")
jpeg = worst(compress="jpeg", jpeg_quality=90, photometric="ycbcr")
print(f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}: WebP inside {webp[0]}, at the edge {webp[1]} levels; "
      f"JPEG inside {jpeg[0]}, at the edge {jpeg[1]}")
assert webp[0] <= 2 and jpeg[1] <= 2
assert webp[1] > 10
PYTHON
echo "as described"
