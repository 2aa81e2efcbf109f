"""A simulated Sentinel-1 IW GRD scene: VH amplitude DN of a coast, a city, fields, hills and a river.

Nothing here was measured, and the picture is of no place. It stands in for a real scene where none may be
downloaded: in the demo, in tests and in benches. Every pixel is a function of the seed, the scene's size
and the pixel's position, made of integer hashes and of float32 `+ - * /` and roots (which IEEE 754 rounds
alike on every machine); logarithms and powers enter only through small tables that are rounded. So one
seed and size give the same pixels anywhere, streamed in strips of any height.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.windows import Window

from sar2optical.errors import OptionError, OutputExists

__all__ = ["CALIBRATION", "LOOKS", "Area", "SimulatedScene", "land_cover", "write_scene"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint32]

LOOKS = 4.4
"""Equivalent number of looks of IW GRDH (ESA, Sentinel-1 Product Specification, Level-1 GRD IW HR)."""

CALIBRATION = 400.0
"""DN of sigma0 = 1. Chosen: the sigmaNought tables of real products hold values of a few hundred."""

PIXEL_M = 10.0
"""Pixel spacing of IW GRDH in metres."""

UTM = "EPSG:32611"
ORIGIN_M = (380_000.0, 3_790_000.0)
"""Upper left corner, easting and northing in metres: any place inside the zone would do."""

BLOCK = 512
"""Block of the GeoTIFF, in pixels."""

CELL_ROWS, CELL_COLS = 256, 512
"""Pixels that are drawn together; small, because a dozen float32 layers of them should fit the cache."""

SWATH_SLOPE = 0.06
"""Columns per row of the swath's edge on the map grid. An orbit at 98 degrees inclination gives about 0.2 at
mid latitudes; less than that leaves more land in a small scene."""

SEA, LAKE, RIVER, SAND, ROAD = -26.0, -26.5, -25.0, -21.5, -19.5
SOIL, CROP, ORCHARD, SCRUB, FOREST = -20.0, -16.5, -14.0, -14.5, -13.5
PARK, STREET, HOUSES, LOT, HALL = -16.0, -14.0, -11.0, -10.5, -7.0
"""VH sigma0 in dB. Chosen, typical of C band at 30 to 45 degrees of incidence. Water is darker than the noise
floor that IW guarantees (-22 dB: ESA, Sentinel-1 Product Specification), so no noise is added."""

LOWEST_DB, HIGHEST_DB, STEP_DB = -40.0, 12.0, 0.05
"""Range and step of the table from dB to DN."""


@dataclass(frozen=True, kw_only=True)
class SimulatedScene:
    """What decides every pixel of a simulated scene.

    Raises
    ------
    OptionError
        A height or width below 1, or a negative seed.
    """

    height: int = 2000
    """Rows."""

    width: int = 2000
    """Columns."""

    seed: int = 11
    """Which landscape and which speckle."""

    border: bool = True
    """Whether the swath ends inside the raster: slanted edges, DN 0 outside."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.height < 1 or self.width < 1:
            raise OptionError(f"A scene needs at least 1 x 1 pixels, not {self.height} x {self.width}")
        if self.seed < 0:
            raise OptionError(f"The seed is {self.seed}; give 0 or a positive number")

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Draw the rows from `start` up to `stop`.

        Whole cells are drawn and cut, so strips that are a multiple of `CELL_ROWS` cost least.

        Returns
        -------
        numpy.ndarray
            uint16, shape (stop - start, width): amplitude DN, 0 outside the swath and at least 1 inside.

        Raises
        ------
        IndexError
            If the rows are not all inside the scene.
        """
        if not 0 <= start <= stop <= self.height:
            raise IndexError(f"rows {start} to {stop} are not inside 0 to {self.height}")
        out = np.empty((stop - start, self.width), np.uint16)
        for top in range(start - start % CELL_ROWS, stop, CELL_ROWS):
            first, last = max(start, top), min(stop, top + CELL_ROWS)
            for left in range(0, self.width, CELL_COLS):
                right = min(self.width, left + CELL_COLS)
                cell = _draw_cell(self, top, left)
                out[first - start : last - start, left:right] = cell[first - top : last - top, : right - left]
        return out


def write_scene(path: Path, scene: SimulatedScene, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a scene as a tiled GeoTIFF, strip by strip; a file already at `path` is replaced when done.

    Parameters
    ----------
    path
        The GeoTIFF: uint16 DN, band "VH", nodata 0 (declared even where there is no border).
    scene
        What to draw.
    progress
        Called after each strip with the rows done and the rows in all.

    Raises
    ------
    rasterio.errors.RasterioIOError
        If the file cannot be written. Nothing is left at `path`, nor beside it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with rasterio.open(partial, "w", **_profile(scene)) as target:
            target.set_band_description(1, "VH")
            target.update_tags(SIMULATED=f"seed {scene.seed}; no measurement", UNITS="amplitude DN")
            for start in range(0, scene.height, BLOCK):
                stop = min(start + BLOCK, scene.height)
                target.write(scene.rows(start, stop), 1, window=Window(0, start, scene.width, stop - start))
                if progress is not None:
                    progress(stop, scene.height)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _profile(scene: SimulatedScene) -> dict[str, Any]:
    """Return rasterio's creation options; level 1, since speckle hardly compresses at any level."""
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


# One cell: land cover in dB, through a table to DN, times speckle.


@dataclass(frozen=True)
class Area:
    """Where a cell lies, and the noise and hashes of that place.

    `x` is float32 (1, w) and `y` float32 (h, 1): columns and rows of the scene, in pixels.
    """

    scene: SimulatedScene
    x: Floats
    y: Floats

    def noise(self, name: str, wavelength: float, *, stretch: float = 1.0) -> Floats:
        """Smooth noise of mean 0 and standard deviation about 0.55; float32 (h, w).

        `wavelength` is in pixels along x, and `stretch` times that along y.

        Random values on a lattice, interpolated by cubic B-splines (de Boor 1978), which have the
        continuous slopes that lit terrain needs.
        """
        salt = self._salt(name)
        first_i, weights_x = _spline(self.x[0], wavelength)
        first_j, weights_y = _spline(self.y[:, 0], wavelength * stretch)
        i = np.arange(first_i.min(), first_i.max() + 4, dtype=np.int32)[None, :]
        j = np.arange(first_j.min(), first_j.max() + 4, dtype=np.int32)[:, None]
        lattice = 4 * _unit(_hash(i, j, salt)) - 2
        across = _interpolate(lattice, first_i - i[0, 0], weights_x)
        return _interpolate(across.T, first_j - j[0, 0], weights_y).T

    def hash(self, name: str, i: Floats | Hashes, j: Floats | Hashes) -> Hashes:
        """Hash two arrays of whole numbers; uint32 of their common shape."""
        return _hash(i, j, self._salt(name))

    def chance(self, name: str, i: Floats | Hashes, j: Floats | Hashes) -> Floats:
        """Uniform float32 in [0, 1), the same wherever `i` and `j` are the same."""
        return _unit(self.hash(name, i, j))

    def _salt(self, name: str) -> int:
        return zlib.crc32(f"{self.scene.seed} {name}".encode())


def _draw_cell(scene: SimulatedScene, top: int, left: int) -> npt.NDArray[np.uint16]:
    """Draw the cell at a corner: uint16 DN, shape (CELL_ROWS, CELL_COLS)."""
    x = np.arange(left - 1, left + CELL_COLS + 1, dtype=np.float32)[None, :]
    y = np.arange(top - 1, top + CELL_ROWS + 1, dtype=np.float32)[:, None]
    amplitude = np.sqrt(_resolved(land_cover(Area(scene, x, y)))) * _speckle(scene.seed, top, left)
    dn: npt.NDArray[np.uint16] = np.clip(np.rint(amplitude), 1, 65535).astype(np.uint16)
    if scene.border:
        dn[~_in_swath(scene, x[:, 1:-1], y[1:-1])] = 0
    return dn


def _in_swath(scene: SimulatedScene, x: Floats, y: Floats) -> Bools:
    """Where the slanted swath lies; bool (h, w). It touches all four sides of the raster."""
    height, width = scene.height, scene.width
    # Less slanted in a long and narrow scene, of which nothing else would be left.
    slope = np.float32(min(SWATH_SLOPE, 0.2 * min(height, width) / max(height, width)))
    across, along = x + slope * y, y - slope * x
    inside = (across >= slope * height) & (across < width) & (along >= 0) & (along < height - slope * width)
    return np.asarray(inside)


def _resolved(decibel: Floats) -> Floats:
    """Return the power that a sensor of 20 m resolution sees: float32 (h - 2, w - 2), in DN ** 2.

    GRDH resolves 20 m by 22 m at a spacing of 10 m (ESA, Sentinel-1 Product Specification), so that every
    pixel holds something of its neighbours: [1, 2, 1] / 4 both ways, on power.
    """
    index = np.clip((decibel - LOWEST_DB) / STEP_DB + 0.5, 0, len(_power_table()) - 1).astype(np.int32)
    power = _power_table()[index]
    across = power[:, :-2] + 2 * power[:, 1:-1] + power[:, 2:]
    total: Floats = across[:-2] + 2 * across[1:-1] + across[2:]
    return total / np.float32(16)


@lru_cache(maxsize=1)
def _power_table() -> Floats:
    """DN ** 2 = A ** 2 * sigma0 of every step in dB, rounded so that no libm's last digit shows."""
    decibel = np.arange(LOWEST_DB, HIGHEST_DB + STEP_DB, STEP_DB)
    return np.round(CALIBRATION**2 * 10 ** (decibel / 10), 2).astype(np.float32)


def _speckle(seed: int, top: int, left: int) -> Floats:
    """Speckle of one cell: amplitude factors, float32 (CELL_ROWS, CELL_COLS), of mean power 1.

    The factor is the square root of a Gamma variable of shape L and scale 1/L, the distribution of
    multilooked power (Oliver & Quegan, Understanding Synthetic Aperture Radar Images, 4.3). Bytes are
    smoothed as the ground is (see `_resolved`), and a table takes each sum to the Gamma quantile of the same
    rank: correlated neighbours, and still exactly L looks.
    """
    generator = np.random.Generator(np.random.PCG64([seed, top // CELL_ROWS, left // CELL_COLS]))
    count = CELL_ROWS * CELL_COLS
    white = np.frombuffer(generator.bytes(count), np.uint8).reshape(CELL_ROWS, CELL_COLS).astype(np.uint16)
    # Wrapped round the cell, so that no neighbour need be drawn; a seam in speckle cannot be seen.
    across = np.roll(white, 1, 1) + 2 * white + np.roll(white, -1, 1)
    total = np.roll(across, 1, 0) + 2 * across + np.roll(across, -1, 0)
    factor: Floats = _speckle_table()[total]
    return factor


@lru_cache(maxsize=1)
def _speckle_table() -> Floats:
    """Amplitude factor of each weighted sum of nine bytes; float32 (16 * 255 + 1,)."""
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


def _spline(position: Floats, wavelength: float) -> tuple[npt.NDArray[np.int32], list[Floats]]:
    """First lattice index of each position, int32 (n,), and its four cubic B-spline weights, float32 (n,)."""
    scaled = position / np.float32(wavelength)
    first = np.floor(scaled)
    t = scaled - first
    s = 1 - t
    inner = [t * t * (3 * t - 6) + 4, s * s * (3 * s - 6) + 4]
    weights = [s * s * s / 6, inner[0] / 6, inner[1] / 6, t * t * t / 6]
    return first.astype(np.int32), weights


def _interpolate(values: Floats, first: npt.NDArray[np.int32], weights: list[Floats]) -> Floats:
    """Weigh four neighbours along the last axis: values (m, lattice), the rest (n,); float32 (m, n)."""
    total = weights[0] * values[:, first]
    for k in range(1, 4):
        total += weights[k] * values[:, first + k]
    return total


def _hash(i: npt.NDArray[Any], j: npt.NDArray[Any], salt: int) -> Hashes:
    """Mix two arrays of whole numbers; uint32 of their common shape.

    The mixer is `lowbias32` (C. Wellons, hash-prospector, public domain), once for each coordinate.
    """
    return _mix(_mix(_whole(i) ^ np.uint32(salt)) + _whole(j))


def _mix(value: Hashes) -> Hashes:
    value = value ^ (value >> np.uint32(16))
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    return value


def _whole(value: npt.NDArray[Any]) -> Hashes:
    # Through int32: a negative float32 has no defined uint32.
    return value if value.dtype == np.uint32 else value.astype(np.int32).view(np.uint32)


def _unit(value: Hashes) -> Floats:
    """Uniform in [0, 1): the upper 24 bits, which float32 holds exactly."""
    return (value >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


# The landscape. Lengths are in pixels of 10 m; all of them were chosen for the look of the picture.


def land_cover(area: Area) -> Floats:
    """VH sigma0 of the ground in dB, float32 (h, w), before speckle."""
    height, width = area.scene.height, area.scene.width
    u, v = area.x / width, area.y / height
    coast = (0.9 * u + 0.55 * (1 - v) - 0.3 + 0.04 * area.noise("coast", width / 6)) * width
    coast += 14 * area.noise("coves", 70) + 4 * area.noise("rocks", 22)
    hilly = np.clip((0.3 - v + 0.1 * area.noise("range", width / 5) + 0.02 * area.noise("spurs", 60)) / 0.14, 0, 1)
    city = 0.56 - u + 0.4 * area.noise("city", 640) + _raggedness(area)
    decibel = np.where(city > 0, _city(area), _farmland(area))
    decibel = np.where(hilly > 0.08, _hills(area, hilly), decibel)
    decibel = _with_freeways(area, decibel, hilly)
    decibel = _with_water(area, decibel, hilly)
    beach = np.where(coast < 7, np.float32(SAND), decibel)
    return np.where(coast < 0, SEA + 1.2 * area.noise("swell", 300), beach).astype(np.float32)


def _raggedness(area: Area) -> Floats:
    """Push the city's edge to and fro by half-mile squares, as land is sold; float32 (h, w)."""
    return 0.3 * area.chance("plots", np.floor(area.x / 80), np.floor(area.y / 80)) - np.float32(0.15)


def _turned(area: Area, cosine: float, sine: float) -> tuple[Floats, Floats]:
    """Coordinates turned by an angle; two float32 (h, w)."""
    return (
        np.float32(cosine) * area.x + np.float32(sine) * area.y,
        np.float32(cosine) * area.y - np.float32(sine) * area.x,
    )


def _hills(area: Area, rise: Floats) -> Floats:
    """Scrub and forest on ridges, bright towards a sensor in the west; float32 (h, w), dB.

    Brightness follows the slope along the range direction, and more steeply where it faces the sensor:
    there foreshortening gathers many metres of ground in one pixel.
    """
    one_more = Area(area.scene, np.append(area.x, area.x[:, -1:] + 1, axis=1), area.y)
    ground = 60 * one_more.noise("massif", 120, stretch=1.3)
    for wavelength, size in ((62, 40.0), (33, 24.0), (17, 9.0)):
        # Creases at the zeros of the noise make crests; they run with the range, from north to south.
        ground -= size * np.abs(one_more.noise(f"crests {wavelength}", wavelength, stretch=2.2))
    slope = np.diff(ground, axis=1) * rise - np.float32(0.15)
    lit = np.clip(slope * np.where(slope > 0, np.float32(6), np.float32(2.6)), -5.5, 6.5)
    cover = np.where(area.noise("woods", 110) > 0.1, np.float32(FOREST), np.float32(SCRUB))
    return np.asarray(cover - 1 + lit + 0.8 * area.noise("scrub", 5), np.float32)


def _farmland(area: Area) -> Floats:
    """Fields cut from square miles, tracks between them, woods; float32 (h, w), dB."""
    x, y = _turned(area, 0.9962, 0.0872)  # 5 degrees
    x = x + 5 * area.noise("bent x", 190)
    y = y + 5 * area.noise("bent y", 190)
    field, edge = _split_fields(area, x, y, 161)  # 161 px: one mile
    kind, shade = area.chance("crop", field, field), area.chance("shade", field, field)
    level = np.where(kind < 0.34, np.float32(SOIL), np.float32(CROP))
    level = np.where(kind > 0.84, np.float32(ORCHARD), level) + 3 * shade - np.float32(1.5)
    level += 0.6 * area.noise("moisture", 24)
    along = np.where(shade > 0.5, x, y)
    ploughed = (along - 5 * np.floor(along / 5) < 2) & (kind > 0.6)
    level = np.where(ploughed, level - np.float32(1.4), level)
    hedge = np.where(area.chance("hedge", field, field) < 0.3, np.float32(FOREST), np.float32(ROAD))
    level = np.where(edge < 0.9, hedge, level)
    farm = (area.chance("farm", np.floor(x / 3), np.floor(y / 3)) < 0.0012) & (edge < 14)
    level = np.where(farm, np.float32(-6), level)
    wooded = area.noise("forest", 210) + 0.25 * area.noise("clearings", 40) > 0.55
    return np.where(wooded, FOREST + 0.7 * area.noise("crowns", 4), level)


def _split_fields(area: Area, x: Floats, y: Floats, size: float, *, turns: int = 5) -> tuple[Hashes, Floats]:
    """Split squares of `size` at random, by turns in x and in y.

    Returns
    -------
    tuple
        The field that each pixel is in, uint32 (h, w), and its distance to that field's edge, float32
        (h, w), in pixels.
    """
    i, j = np.floor(x / size), np.floor(y / size)
    field = area.hash("mile", i, j)
    at = [x - size * i, y - size * j]
    low = [np.zeros_like(at[0]), np.zeros_like(at[1])]
    high = [np.full_like(at[0], size), np.full_like(at[1], size)]
    for turn in range(turns):
        axis = turn % 2
        share = area.chance(f"split {turn}", field, field)
        # Beyond 0.75 a field stays whole, which makes sizes uneven.
        cut = low[axis] + (high[axis] - low[axis]) * np.where(share < 0.75, 0.3 + 0.5 * share, 1)
        after = at[axis] > cut
        low[axis] = np.where(after, cut, low[axis])
        high[axis] = np.where(after, high[axis], cut)
        field = area.hash("part", field, after.astype(np.uint32))
    across = np.minimum(at[0] - low[0], high[0] - at[0])
    down = np.minimum(at[1] - low[1], high[1] - at[1])
    return field, np.minimum(across, down)


def _city(area: Area) -> Floats:
    """Streets, houses, halls, parks and double-bounce points; float32 (h, w), dB."""
    turned_x, turned_y = _turned(area, 0.8192, 0.5736)  # 35 degrees
    old_town = area.noise("old town", 420) > 0.42
    x = np.where(old_town, turned_x, area.x)
    y = np.where(old_town, turned_y, area.y)
    i, j = np.floor(x / 80), np.floor(y / 80)  # half a mile
    in_x, in_y = x - 80 * i, y - 80 * j
    use = area.chance("use", i, j) + 0.22 * area.noise("trade", 260)
    level = _houses(area, in_x, in_y, area.chance("direction", i, j) < 0.65)
    use = use + 0.3 * area.chance("lease", np.floor(x / 40), np.floor(y / 40))
    level = np.where(use > 0.97, _halls(area, x, y), level)
    level += 1.6 * area.noise("wealth", 120)
    green, edge = _split_fields(area, x, y, 80)
    park = (area.chance("green", green, green) < 0.07) & (edge > 1)
    level = np.where(park, PARK - 3 * area.chance("lawn", green, green), level)
    avenue = (in_x < 2.4) | (in_y < 2.4)
    return np.where(avenue, np.float32(ROAD), level)


def _houses(area: Area, in_x: Floats, in_y: Floats, north: Bools) -> Floats:
    """Rows of houses between streets, two parcels deep; float32 (h, w), dB."""
    short, long = np.where(north, in_x, in_y), np.where(north, in_y, in_x)
    row, block = np.floor(short / 8), np.floor(long / 26)
    street = (short - 8 * row < 1.5) | (long - 26 * block < 1.5)
    i, j = np.floor(area.x / 2), np.floor(area.y / 2)
    house = area.hash("house", i, j)
    # The sum of two uniform numbers is bell-shaped enough for the spread between roofs.
    spread = area.chance("roof", house, house) + area.chance("yard", house, house) - 1
    bright = _unit(house)
    level = HOUSES + 7 * spread + np.where(bright > 0.98, np.float32(9), np.float32(0))
    return np.where(street, STREET + 4 * spread, level)


def _halls(area: Area, x: Floats, y: Floats) -> Floats:
    """Large roofs and yards, with bright walls towards the sensor; float32 (h, w), dB."""
    lot, edge = _split_fields(area, x, y, 40, turns=3)
    kind = area.chance("lot", lot, lot)
    level = np.where(kind < 0.3, np.float32(SOIL + 2), np.float32(LOT))
    level = np.where(kind > 0.8, np.float32(HALL), level)
    point = area.chance("wall", np.floor(area.x / 2), np.floor(area.y / 2))
    level = level + 6 * area.chance("mast", np.floor(area.x / 3), np.floor(area.y / 3)) - 3
    level = np.where((point > 0.975) & (kind > 0.3), np.float32(2), level)
    return np.where(edge < 0.8, np.float32(STREET - 1), level)


def _with_freeways(area: Area, decibel: Floats, hilly: Floats) -> Floats:
    """Lay wide dark roads over the plain; float32 (h, w), dB."""
    bend = area.noise("bend", 620)
    distance = np.full_like(decibel, np.inf)
    for cosine, sine, period, sway in ((0.848, 0.53, 940, 85), (-0.616, 0.788, 1180, -70)):
        position = (_turned(area, cosine, sine)[0] + sway * bend) / period
        distance = np.minimum(distance, np.abs(position - np.floor(position) - np.float32(0.5)) * period)
    on_plain = hilly < 0.3
    decibel = np.where((distance < 4.5) & on_plain, np.float32(CROP + 1), decibel)
    return np.where((distance < 2.6) & on_plain, np.float32(ROAD), decibel)


def _with_water(area: Area, decibel: Floats, hilly: Floats) -> Floats:
    """Cut a meandering river with its banks, and lakes; float32 (h, w), dB."""
    height, width = area.scene.height, area.scene.width
    middle = Area(area.scene, area.x[:, :1] * 0, np.append(area.y, area.y[-1:] + 1, axis=0))
    course = 70 * middle.noise("valley", 520) + 46 * middle.noise("meander", 150) + 9 * middle.noise("bank", 48)
    course += np.float32(0.74 * width) - np.float32(0.2 * width / height) * middle.y
    fall = np.diff(course, axis=0)
    # Over the course's own slope, so that the river is as wide where it runs across the rows.
    distance = np.abs(area.x - course[:-1]) / np.sqrt(1 + fall * fall)
    breadth = 2.5 + 5.5 * area.y / height
    decibel = np.where(distance < breadth + 3.5, np.float32(FOREST), decibel)
    decibel = np.where(distance < breadth, np.float32(RIVER), decibel)
    lake = area.noise("lakes", 140) + 0.2 * area.noise("inlets", 34)
    return np.where((lake > 1.3) & (hilly < 0.5), np.float32(LAKE), decibel)


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--size", nargs=2, type=click.IntRange(min=1), default=(2000, 2000), metavar="HEIGHT WIDTH")
@click.option("--seed", type=click.IntRange(min=0), default=SimulatedScene.seed, show_default=True)
@click.option("--no-border", is_flag=True, help="A dense scene: no nodata anywhere.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def main(out: Path, size: tuple[int, int], seed: int, no_border: bool, overwrite: bool) -> None:
    """Write a simulated Sentinel-1 VH scene to OUT, a GeoTIFF of amplitude DN."""
    if out.exists() and not overwrite:
        raise click.ClickException(str(OutputExists(f"{out} exists; give --overwrite to replace it")))
    started = time.perf_counter()
    scene = SimulatedScene(height=size[0], width=size[1], seed=seed, border=not no_border)
    try:
        write_scene(out, scene)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise click.ClickException(f"{out} cannot be written: {error}") from error
    click.echo(f"{out}: {size[0]} x {size[1]} pixels, seed {seed}, {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
