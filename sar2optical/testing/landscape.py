"""Land cover of a simulated scene: VH sigma0 in dB of a coast, a city, fields, hills and a river."""

from __future__ import annotations

import numpy as np

from sar2optical.testing.noise import Area, Bools, Floats, Hashes, unit

__all__ = ["land_cover"]

SEA, LAKE, RIVER, SAND, ROAD = -26.0, -26.5, -25.0, -21.5, -19.5
SOIL, CROP, ORCHARD, SCRUB, FOREST = -20.0, -16.5, -14.0, -14.5, -13.5
PARK, STREET, HOUSES, LOT, HALL = -16.0, -14.0, -11.0, -10.5, -7.0
"""VH sigma0 in dB: chosen values, typical of C band at 30 to 45 degrees of incidence. Water is darker than the noise
floor that IW guarantees (-22 dB: ESA, Sentinel-1 Product Specification), so no noise is added."""

# Lengths are in pixels of 10 m, chosen for the look of the image.


def land_cover(area: Area) -> Floats:
    """Compute the VH sigma0 of the ground in dB, float32 (h, w), before speckle."""
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
    """Offsets of the city's edge by half-mile squares, as land is sold; float32 (h, w)."""
    return 0.3 * area.chance("plots", np.floor(area.x / 80), np.floor(area.y / 80)) - np.float32(0.15)


def _turned(area: Area, cosine: float, sine: float) -> tuple[Floats, Floats]:
    """Coordinates turned by an angle; two float32 (h, w)."""
    return (
        np.float32(cosine) * area.x + np.float32(sine) * area.y,
        np.float32(cosine) * area.y - np.float32(sine) * area.x,
    )


def _hills(area: Area, rise: Floats) -> Floats:
    """Scrub and forest on ridges, bright towards a sensor in the west; float32 (h, w), dB.

    Brightness follows the slope along the range direction, more steeply on slopes that face the sensor, where
    foreshortening gathers many metres of ground in one pixel.
    """
    one_more = Area(area.scene, np.append(area.x, area.x[:, -1:] + 1, axis=1), area.y)
    ground = 60 * one_more.noise("massif", 120, stretch=1.3)
    for wavelength, size in ((62, 40.0), (33, 24.0), (17, 9.0)):
        # Creases at the zeros of the noise make crests that run from north to south.
        ground -= size * np.abs(one_more.noise(f"crests {wavelength}", wavelength, stretch=2.2))
    slope = np.diff(ground, axis=1) * rise - np.float32(0.15)
    lit = np.clip(slope * np.where(slope > 0, np.float32(6), np.float32(2.6)), -5.5, 6.5)
    cover = np.where(area.noise("woods", 110) > 0.1, np.float32(FOREST), np.float32(SCRUB))
    return np.asarray(cover - 1 + lit + 0.8 * area.noise("scrub", 5), np.float32)


def _farmland(area: Area) -> Floats:
    """Fields cut from square miles, with tracks and woods; float32 (h, w), dB."""
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
    """Split squares of `size` at random, alternately in x and in y.

    Returns
    -------
    tuple
        Field of each pixel, uint32 (h, w), and the pixel's distance to the field's edge, float32 (h, w), in
        pixels.
    """
    i, j = np.floor(x / size), np.floor(y / size)
    field = area.hash("mile", i, j)
    at = [x - size * i, y - size * j]
    low = [np.zeros_like(at[0]), np.zeros_like(at[1])]
    high = [np.full_like(at[0], size), np.full_like(at[1], size)]
    for turn in range(turns):
        axis = turn % 2
        share = area.chance(f"split {turn}", field, field)
        # Above 0.75 a field is not split, which makes sizes uneven.
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
    # The sum of two uniform numbers approximates the spread between roofs.
    spread = area.chance("roof", house, house) + area.chance("yard", house, house) - 1
    bright = unit(house)
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
    """Draw wide dark roads on the plain; float32 (h, w), dB."""
    bend = area.noise("bend", 620)
    distance = np.full_like(decibel, np.inf)
    for cosine, sine, period, sway in ((0.848, 0.53, 940, 85), (-0.616, 0.788, 1180, -70)):
        position = (_turned(area, cosine, sine)[0] + sway * bend) / period
        distance = np.minimum(distance, np.abs(position - np.floor(position) - np.float32(0.5)) * period)
    on_plain = hilly < 0.3
    decibel = np.where((distance < 4.5) & on_plain, np.float32(CROP + 1), decibel)
    return np.where((distance < 2.6) & on_plain, np.float32(ROAD), decibel)


def _with_water(area: Area, decibel: Floats, hilly: Floats) -> Floats:
    """Draw a meandering river with its banks, and lakes; float32 (h, w), dB."""
    height, width = area.scene.height, area.scene.width
    middle = Area(area.scene, area.x[:, :1] * 0, np.append(area.y, area.y[-1:] + 1, axis=0))
    course = 70 * middle.noise("valley", 520) + 46 * middle.noise("meander", 150) + 9 * middle.noise("bank", 48)
    course += np.float32(0.74 * width) - np.float32(0.2 * width / height) * middle.y
    fall = np.diff(course, axis=0)
    # Divided by the slope of the course, so that the river has the same width where it runs across the rows.
    distance = np.abs(area.x - course[:-1]) / np.sqrt(1 + fall * fall)
    breadth = 2.5 + 5.5 * area.y / height
    decibel = np.where(distance < breadth + 3.5, np.float32(FOREST), decibel)
    decibel = np.where(distance < breadth, np.float32(RIVER), decibel)
    lake = area.noise("lakes", 140) + 0.2 * area.noise("inlets", 34)
    return np.where((lake > 1.3) & (hilly < 0.5), np.float32(LAKE), decibel)
