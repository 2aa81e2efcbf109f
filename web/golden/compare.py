"""Compare what the browser saved with what the Python package makes; exit 1 where they differ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

WEB = Path(__file__).parents[1]
MOST = 1
"""Largest difference that is allowed, in grey levels."""
PAIRS = {
    "chip.saved.png": "chip.mosaic.tif",
    "simulated.saved.tif": "simulated.mosaic.tif",
    "area.saved.tif": "area.mosaic.tif",
    "area.saved.png": "area.mosaic.tif",
    "packed.saved.tif": "packed.mosaic.tif",
    "unnamed.saved.tif": "unnamed.mosaic.tif",
    "published.saved.png": "chip.mosaic.tif",
}


def differences(saved: Path, mosaic: Path) -> list[str]:
    """Compare pixels, masks and georeference; return all differences in words."""
    faults = []
    with rasterio.open(saved) as found, rasterio.open(mosaic) as expected:
        if found.shape != expected.shape:
            return [f"has {found.shape} pixels, not {expected.shape}"]
        valid = expected.dataset_mask() > 0
        if not np.array_equal(found.dataset_mask() > 0, valid):
            faults.append("has another mask")
        levels = np.abs(found.read([1, 2, 3]).astype(int) - expected.read([1, 2, 3]))[:, valid].max()
        if levels > MOST:
            faults.append(f"differs by {levels} levels")
        if saved.suffix == ".tif":
            if (found.crs, found.gcps[1]) != (expected.crs, expected.gcps[1]):
                faults.append(f"has the CRS {found.crs or found.gcps[1]}, not {expected.crs or expected.gcps[1]}")
            if points(found) != points(expected):
                faults.append(f"has the control points {points(found)}, not {points(expected)}")
            if not found.transform.almost_equals(expected.transform, precision=1e-9):
                faults.append(f"has the affine {found.transform}, not {expected.transform}")
    return faults


def points(dataset: Any) -> list[tuple[float, ...]]:
    """Return the control points of a raster: row, column, x and y of each."""
    return [(point.row, point.col, point.x, point.y) for point in dataset.gcps[0]]


def main() -> None:
    """Compare all files."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    faults = 0
    for saved, mosaic in PAIRS.items():
        found = differences(WEB / "test-results" / saved, WEB / "golden" / "out" / mosaic)
        print(f"{saved}: {'; '.join(found) or f'equals {mosaic} within {MOST} level'}")
        faults += len(found)
    raise SystemExit(min(faults, 1))


if __name__ == "__main__":
    main()
