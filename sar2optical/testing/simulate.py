"""A simulated Sentinel-1 IW GRD scene: VH amplitude DN of a coast, a city, fields, hills and a river.

The landscape is invented, not measured. It replaces a real scene in the demo, tests and benches, which download
nothing. Every pixel is a function of the seed, the scene's size and the pixel's position, computed from integer
hashes and float32 `+ - * /` and roots, which IEEE 754 rounds equally on every machine; logarithms and powers are used
only in small rounded tables. So the same seed and size give the same pixels everywhere, in strips of any height.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.windows import Window

from sar2optical.errors import OptionError
from sar2optical.testing.landscape import land_cover
from sar2optical.testing.noise import Area, Bools, Floats

__all__ = ["CALIBRATION", "LOOKS", "SimulatedScene", "write_scene"]

LOOKS = 4.4
"""Equivalent number of looks of IW GRDH (ESA, Sentinel-1 Product Specification, Level-1 GRD IW HR)."""

CALIBRATION = 400.0
"""DN for sigma0 = 1; a chosen value, since the sigmaNought tables of real products hold values of a few hundred."""

PIXEL_M = 10.0
"""Pixel spacing of IW GRDH in metres."""

UTM = "EPSG:32611"
"""CRS of the scene."""

ORIGIN_M = (380_000.0, 3_790_000.0)
"""Upper left corner, easting and northing in metres; any position inside the zone would do."""

BLOCK = 512
"""Block of the GeoTIFF, in pixels."""

CELL_ROWS, CELL_COLS = 256, 512
"""Rows and columns that are computed together; small enough for a dozen float32 layers to fit the cache."""

SWATH_SLOPE = 0.06
"""Slope of the swath's edge on the map grid, in columns per row. An orbit at 98 degrees inclination gives about 0.2
at mid latitudes; a smaller slope leaves more land in a small scene."""

LOWEST_DB, HIGHEST_DB, STEP_DB = -40.0, 12.0, 0.05
"""Range and step of the table from dB to DN."""


@dataclass(frozen=True, kw_only=True)
class SimulatedScene:
    """Size and seed of a simulated scene, which determine every pixel.

    Raises
    ------
    OptionError
        If height or width is below 1, or the seed is negative.
    """

    height: int = 2000
    """Rows."""

    width: int = 2000
    """Columns."""

    seed: int = 11
    """Seed of landscape and speckle."""

    border: bool = True
    """Whether the swath ends inside the raster, with slanted edges and DN 0 outside."""

    def __post_init__(self) -> None:
        """Refuse invalid sizes and seeds."""
        if self.height < 1 or self.width < 1:
            raise OptionError(f"scene size is {self.height} x {self.width} pixels: give at least 1 x 1")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}: give 0 or a positive number")

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Compute the rows from `start` up to `stop`.

        Whole cells are computed and cropped, so strips that are a multiple of `CELL_ROWS` cost least.

        Returns
        -------
        numpy.ndarray
            uint16, shape (stop - start, width): amplitude DN, 0 outside the swath and at least 1 inside.

        Raises
        ------
        IndexError
            If the rows are not inside the scene.
        """
        if not 0 <= start <= stop <= self.height:
            raise IndexError(f"rows {start} to {stop} are not inside 0 to {self.height}: give rows of the scene")
        out = np.empty((stop - start, self.width), np.uint16)
        for top in range(start - start % CELL_ROWS, stop, CELL_ROWS):
            first, last = max(start, top), min(stop, top + CELL_ROWS)
            for left in range(0, self.width, CELL_COLS):
                right = min(self.width, left + CELL_COLS)
                cell = _draw_cell(self, top, left)
                out[first - start : last - start, left:right] = cell[first - top : last - top, : right - left]
        return out


def write_scene(path: Path, scene: SimulatedScene, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Write a scene as a tiled GeoTIFF, strip by strip; an existing file is replaced at the end.

    Parameters
    ----------
    path
        Path of the GeoTIFF: uint16 DN, band "VH", nodata 0 (declared even without a border).
    scene
        Scene to write.
    on_progress
        Called after each strip with the number of rows done and the total.

    Raises
    ------
    rasterio.errors.RasterioIOError
        If the file cannot be written. No partial file is left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with rasterio.open(partial, "w", **_profile(scene)) as target:
            target.set_band_description(1, "VH")
            target.update_tags(SIMULATED=f"seed {scene.seed}; no measurement", UNITS="amplitude DN")
            for start in range(0, scene.height, BLOCK):
                stop = min(start + BLOCK, scene.height)
                target.write(scene.rows(start, stop), 1, window=Window(0, start, scene.width, stop - start))
                if on_progress is not None:
                    on_progress(stop, scene.height)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _profile(scene: SimulatedScene) -> dict[str, Any]:
    """Make rasterio's creation options, with deflate level 1, because speckle hardly compresses at any level."""
    return {
        "driver": "GTiff",
        "height": scene.height,
        "width": scene.width,
        "count": 1,
        "dtype": "uint16",
        "crs": CRS.from_string(UTM),
        "transform": rasterio.Affine(PIXEL_M, 0, ORIGIN_M[0], 0, -PIXEL_M, ORIGIN_M[1]),
        "nodata": 0,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 2,
        "zlevel": 1,
        "bigtiff": "if_safer",
    }


def _draw_cell(scene: SimulatedScene, top: int, left: int) -> npt.NDArray[np.uint16]:
    """Compute the cell at a corner: uint16 DN, shape (CELL_ROWS, CELL_COLS)."""
    x = np.arange(left - 1, left + CELL_COLS + 1, dtype=np.float32)[None, :]
    y = np.arange(top - 1, top + CELL_ROWS + 1, dtype=np.float32)[:, None]
    amplitude = np.sqrt(_resolved(land_cover(Area(scene, x, y)))) * _speckle(scene.seed, top, left)
    dn: npt.NDArray[np.uint16] = np.clip(np.rint(amplitude), 1, 65535).astype(np.uint16)
    if scene.border:
        dn[~_in_swath(scene, x[:, 1:-1], y[1:-1])] = 0
    return dn


def _in_swath(scene: SimulatedScene, x: Floats, y: Floats) -> Bools:
    """Compute the mask of the slanted swath, bool (h, w). The swath touches all four sides of the raster."""
    height, width = scene.height, scene.width
    # Less slanted in a long and narrow scene, where the swath would otherwise vanish.
    slope = np.float32(min(SWATH_SLOPE, 0.2 * min(height, width) / max(height, width)))
    across, along = x + slope * y, y - slope * x
    inside = (across >= slope * height) & (across < width) & (along >= 0) & (along < height - slope * width)
    return np.asarray(inside)


def _resolved(decibel: Floats) -> Floats:
    """Compute the power at a resolution of 20 m: float32 (h - 2, w - 2), in DN ** 2.

    GRDH resolves 20 m by 22 m at a spacing of 10 m (ESA, Sentinel-1 Product Specification), so neighbouring pixels
    overlap: the power is filtered with [1, 2, 1] / 4 along both axes.
    """
    index = np.clip((decibel - LOWEST_DB) / STEP_DB + 0.5, 0, len(_power_table()) - 1).astype(np.int32)
    power = _power_table()[index]
    across = power[:, :-2] + 2 * power[:, 1:-1] + power[:, 2:]
    total: Floats = across[:-2] + 2 * across[1:-1] + across[2:]
    return total / np.float32(16)


@lru_cache(maxsize=1)
def _power_table() -> Floats:
    """Tabulate DN ** 2 = A ** 2 * sigma0 for every step in dB, rounded to hide differences between libms."""
    decibel = np.arange(LOWEST_DB, HIGHEST_DB + STEP_DB, STEP_DB)
    return np.round(CALIBRATION**2 * 10 ** (decibel / 10), 2).astype(np.float32)


def _speckle(seed: int, top: int, left: int) -> Floats:
    """Compute the speckle of one cell: amplitude factors, float32 (CELL_ROWS, CELL_COLS), of mean power 1.

    The factor is the square root of a Gamma variable of shape L and scale 1/L, the distribution of multilooked power
    (Oliver & Quegan, Understanding Synthetic Aperture Radar Images, 4.3). Random bytes are smoothed as the ground is
    (see `_resolved`), and a table maps each sum to the Gamma quantile of the same rank, which correlates neighbours
    and keeps exactly L looks.
    """
    generator = np.random.Generator(np.random.PCG64([seed, top // CELL_ROWS, left // CELL_COLS]))
    count = CELL_ROWS * CELL_COLS
    white = np.frombuffer(generator.bytes(count), np.uint8).reshape(CELL_ROWS, CELL_COLS).astype(np.uint16)
    # Wrapped around the cell, which avoids computing its neighbours; a seam in speckle is not visible.
    across = np.roll(white, 1, 1) + 2 * white + np.roll(white, -1, 1)
    total = np.roll(across, 1, 0) + 2 * across + np.roll(across, -1, 0)
    factor: Floats = _speckle_table()[total]
    return factor


@lru_cache(maxsize=1)
def _speckle_table() -> Floats:
    """Tabulate the amplitude factor of each weighted sum of nine bytes; float32 (16 * 255 + 1,)."""
    mass = np.ones(1)
    for weight in (1, 2, 1, 2, 4, 2, 1, 2, 1):
        byte = np.zeros(255 * weight + 1)
        byte[::weight] = 1 / 256
        mass = np.convolve(mass, byte)
    rank = np.cumsum(mass) - mass / 2
    power = np.linspace(0, 8, 80_001)
    density = power ** (LOOKS - 1) * np.exp(-LOOKS * power)
    quantile = np.interp(rank, np.cumsum(density) / density.sum(), power)
    quantile /= (mass * quantile).sum()
    return np.round(np.sqrt(quantile), 6).astype(np.float32)
