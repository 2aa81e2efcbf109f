"""Compare what the browser saved with what the Python package makes; exit 1 where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

WEB = Path(__file__).parents[1]
MOST = 1
"""Largest difference that is allowed, in grey levels."""
PAIRS = {
    "chip.saved.png": "chip.mosaic.tif",
    "simulated.saved.tif": "simulated.mosaic.tif",
    "area.saved.tif": "area.mosaic.tif",
    "area.saved.png": "area.mosaic.tif",
    "unnamed.saved.tif": "unnamed.mosaic.tif",
    "published.saved.png": "chip.mosaic.tif",
}


def difference(saved: Path, mosaic: Path) -> str:
    """Compare pixels, masks and georeference; return the first difference in words, or nothing."""
    with rasterio.open(saved) as found, rasterio.open(mosaic) as expected:
        if found.shape != expected.shape:
            return f"has {found.shape} pixels, not {expected.shape}"
        valid = expected.dataset_mask() > 0
        if not np.array_equal(found.dataset_mask() > 0, valid):
            return "has another mask"
        levels = np.abs(found.read([1, 2, 3]).astype(int) - expected.read([1, 2, 3]))[:, valid].max()
        if levels > MOST:
            return f"differs by {levels} levels"
        if saved.suffix == ".tif":
            if found.crs != expected.crs:
                return f"has the CRS {found.crs}, not {expected.crs}"
            if not found.transform.almost_equals(expected.transform, precision=1e-9):
                return f"has the affine {found.transform}, not {expected.transform}"
    return ""


def main() -> None:
    """Compare all files."""
    faults = 0
    for saved, mosaic in PAIRS.items():
        fault = difference(WEB / "test-results" / saved, WEB / "golden" / "out" / mosaic)
        print(f"{saved}: {fault or 'equals ' + mosaic + f' within {MOST} level'}")
        faults += bool(fault)
    raise SystemExit(min(faults, 1))


if __name__ == "__main__":
    main()
