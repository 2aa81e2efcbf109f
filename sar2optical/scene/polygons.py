"""Polygons as arrays of points: clip to a rectangle, add points to long edges, and find the pixels inside.

Pure numpy. A ring is float64 (n, 2), without a repeated last point; a polygon is a list of rings: those of a
polygon with holes, in any order and direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Polygon", "Ring", "clipped", "densified", "inside"]

Ring = NDArray[np.float64]
Polygon = Sequence[Ring]


def clipped(ring: Ring, low: Sequence[float], high: Sequence[float]) -> Ring:
    """Clip a ring to a rectangle (Sutherland and Hodgman 1974).

    Where the result has several pieces, they are connected by edges on the rectangle's border, to no effect on
    what is inside.

    Parameters
    ----------
    ring
        Points.
    low, high
        Corners of the rectangle: smallest and largest coordinates.

    Returns
    -------
    ndarray
        Ring within the rectangle; (0, 2) if the ring is outside.
    """
    for axis in (0, 1):
        for limit, sign in ((low[axis], 1.0), (high[axis], -1.0)):
            if not len(ring):
                return ring
            before = np.roll(ring, 1, axis=0)
            here, there = (ring[:, axis] - limit) * sign, (before[:, axis] - limit) * sign
            crosses = (here >= 0) != (there >= 0)
            share = there / np.where(crosses, there - here, 1)
            crossings = before + share[:, None] * (ring - before)
            crossings[:, axis] = limit
            # In order: the crossing of the edge that ends in a point, then the point itself.
            both = np.stack([crossings, ring], axis=1).reshape(-1, 2)
            ring = both[np.stack([crosses, here >= 0], axis=1).ravel()]
    return ring


def densified(ring: Ring, steps: Sequence[float]) -> Ring:
    """Add points to edges, so that no step along an axis is longer than that of `steps`."""
    after = np.roll(ring, -1, axis=0)
    counts = np.maximum(np.ceil(np.abs(after - ring) / steps).max(axis=1, initial=1).astype(int), 1)
    index = np.repeat(np.arange(len(ring)), counts)
    nth = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    found: Ring = ring[index] + (after - ring)[index] * (nth / counts[index])[:, None]
    return found


def inside(polygons: Sequence[Polygon], rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the pixels whose centre is inside a polygon.

    A pixel does not depend on which others are asked for. Of a centre exactly on an edge, the pixel belongs to the
    polygon on the right or below.

    Parameters
    ----------
    polygons
        Rings of (row, column), where the first pixel's outer corner is (0, 0).
    rows, cols
        First and past-the-last pixel.

    Returns
    -------
    ndarray
        bool (rows, columns).
    """
    found = np.zeros((rows[1] - rows[0], cols[1] - cols[0]), np.bool_)
    width = found.shape[1]
    for polygon in polygons:
        starts = np.concatenate(list(polygon))
        ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in polygon])
        near = (np.minimum(starts[:, 0], ends[:, 0]) <= rows[1]) & (np.maximum(starts[:, 0], ends[:, 0]) >= rows[0])
        (top, left), (bottom, right) = starts[near].T, ends[near].T
        for k in range(len(found)):
            y = rows[0] + k + 0.5
            crossed = (top <= y) != (bottom <= y)
            if not crossed.any():
                continue
            r, c = top[crossed], left[crossed]
            x = c + (y - r) * ((right[crossed] - c) / (bottom[crossed] - r))
            ends_of_runs = np.sort(np.clip(np.ceil(x - 0.5) - cols[0], 0, width).astype(np.intp)).tolist()
            # Between an odd and an even crossing, centres are inside.
            for first, stop in zip(ends_of_runs[::2], ends_of_runs[1::2], strict=True):
                found[k, first:stop] = True
    return found
