"""Outlines in longitude and latitude, cut at the antimeridian and closed at a pole (RFC 7946).

Pure geometry. A ring is a list of (longitude, latitude) in degrees; its last point is connected to its first.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

__all__ = ["Point", "outline"]

Point = tuple[float, float]
"""Longitude and latitude in degrees."""

_LEAST_AREA = 1e-12
"""Square degrees (0.01 m2) below which a piece is a rounding error."""


def outline(ring: list[Point]) -> tuple[dict[str, Any], list[float]]:
    """Return the GeoJSON geometry of a ring, and its bounding box.

    Parameters
    ----------
    ring
        Three points or more. Adjacent points are connected in the direction in which they are less than 180 degrees
        of longitude apart.

    Returns
    -------
    geometry
        A Polygon, or a MultiPolygon cut at 180 degrees if the ring crosses the antimeridian (RFC 7946, 3.1.9).
        Exterior rings are counterclockwise.
    bbox
        West, south, east, north. West is greater than east if the ring crosses the antimeridian (5.2); from -180 to
        180 if a pole is inside (5.3).
    """
    unrolled = _unrolled(ring)
    turn = round((unrolled[-1][0] - unrolled[0][0]) / 360)
    if turn:
        unrolled = _closed_at_pole(unrolled[:-1], turn)
    else:
        unrolled.pop()
    lons, lats = [x for x, _ in unrolled], [y for _, y in unrolled]
    low, high = min(lons), max(lons)
    first, last = _turns(low, up=True), _turns(high, up=False)
    pieces = [
        [(x - 360 * k, y) for x, y in piece]
        for k in range(first, last + 1)
        for piece in _between(unrolled, 360 * k - 180, 360 * k + 180)
    ]
    whole = turn or high - low >= 360
    west, east = (-180.0, 180.0) if whole else (low - 360 * first, high - 360 * last)
    rings = [[[list(point) for point in [*piece, piece[0]]]] for piece in map(_counterclockwise, pieces)]
    if len(rings) == 1:
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": rings[0]}
    else:
        geometry = {"type": "MultiPolygon", "coordinates": rings}
    return geometry, [west, min(lats), east, max(lats)]


def _turns(lon: float, *, up: bool) -> int:
    """Count the full turns from -180..180 to a longitude; odd multiples of 180 are rounded `up` or down."""
    return math.floor((lon + 180) / 360) if up else math.ceil((lon - 180) / 360)


def _unrolled(ring: list[Point]) -> list[Point]:
    """Return the ring followed by its first point, with longitudes that are continuous."""
    found = [ring[0]]
    for lon, lat in [*ring[1:], ring[0]]:
        before = found[-1][0]
        step = (lon - before + 180) % 360 - 180
        # A step of exactly half a turn keeps its direction: it is the edge of a map of the whole world.
        found.append((lon if abs(lon - before) <= 180 else before + step, lat))
    return found


def _closed_at_pole(ring: list[Point], turn: int) -> list[Point]:
    """Cut a ring around a pole at 180 degrees, and close it along the pole's edge of the map."""
    pole = math.copysign(90.0, sum(lat for _, lat in ring))
    ring = [*ring, (ring[0][0] + 360 * turn, ring[0][1])]
    edge = 180 + 360 * math.floor((max(ring[0][0], ring[-1][0]) - 180) / 360)
    k = next(k for k, (a, b) in enumerate(pairwise(ring)) if min(a[0], b[0]) <= edge <= max(a[0], b[0]))
    at = _crossing(ring[k], ring[k + 1], edge)
    after = [(x + 360 * turn, y) for x, y in ring[1 : k + 1]]
    start, end = (edge, at), (edge + 360 * turn, at)
    return [start, *ring[k + 1 :], *after, end, (end[0], pole), (start[0], pole)]


def _between(ring: list[Point], west: float, east: float) -> list[list[Point]]:
    """Return the pieces of a ring between two meridians."""
    mirrored = [[(-x, y) for x, y in piece] for piece in _east_of(ring, west)]
    pieces = [[(-x, y) for x, y in piece] for one in mirrored for piece in _east_of(one, -east)]
    return [piece for piece in pieces if abs(_area(piece)) > _LEAST_AREA]


def _east_of(ring: list[Point], lon: float) -> list[list[Point]]:
    """Return the pieces of a simple ring east of a meridian."""
    inside = [x >= lon for x, _ in ring]
    if all(inside):
        return [ring]
    if not any(inside):
        return []
    start = next(k for k in range(len(ring)) if inside[k] and not inside[k - 1])
    chains: list[list[Point]] = []
    for k in range(start, start + len(ring)):
        before, here = ring[(k - 1) % len(ring)], ring[k % len(ring)]
        if inside[k % len(ring)]:
            if not inside[(k - 1) % len(ring)]:
                chains.append([(lon, _crossing(before, here, lon))])
            chains[-1].append(here)
        elif inside[(k - 1) % len(ring)]:
            chains[-1].append((lon, _crossing(before, here, lon)))
    # Along the meridian, the inside of the ring is between the first and second crossing, the third and fourth, ...
    ends = sorted((chain[end][1], number, end) for number, chain in enumerate(chains) for end in (0, -1))
    partner: dict[tuple[int, int], tuple[int, int]] = {}
    for (_, one, end), (_, other, start_) in zip(ends[::2], ends[1::2], strict=True):
        partner[one, end], partner[other, start_] = (other, start_), (one, end)
    return _joined(chains, partner)


def _joined(chains: list[list[Point]], partner: dict[tuple[int, int], tuple[int, int]]) -> list[list[Point]]:
    """Connect chains to rings: each end with the start that it is paired with."""
    left, rings = set(range(len(chains))), []
    while left:
        number, piece = min(left), []
        while number in left:
            left.remove(number)
            piece += chains[number]
            number = partner[number, -1][0]
        rings.append([point for k, point in enumerate(piece) if point != piece[k - 1]])
    return [ring for ring in rings if len(ring) > 2]


def _crossing(one: Point, other: Point, lon: float) -> float:
    """Return the latitude at which a segment crosses a meridian."""
    (x, y), (u, v) = one, other
    return y if u == x else y + (v - y) * (lon - x) / (u - x)


def _area(ring: list[Point]) -> float:
    # Relative to the first point: for a small ring far from 0, the products would cancel.
    x0, y0 = ring[0]
    moved = [(x - x0, y - y0) for x, y in ring]
    return sum(x * v - u * y for (x, y), (u, v) in pairwise([*moved, moved[0]])) / 2


def _counterclockwise(ring: list[Point]) -> list[Point]:
    return ring if _area(ring) > 0 else ring[::-1]
