"""Choose the parts of a scene that stand for all of it: for percentiles, units and undeclared nodata."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from sar2optical.scene.bands import Bands
from sar2optical.scene.nodata import LEAST_RUN, Suspects, long_runs

__all__ = ["WHOLE_UP_TO", "Part", "count_runs", "covered", "in_db", "parts_of", "read_ahead", "without"]

WHOLE_UP_TO = 32_000_000
"""Pixels up to which a scene is read as a whole: less than half a second."""

_LEAST_ROWS = 64  # of a part: rows of one pixel are not worth a call each
_MOST_ROWS = 512


@dataclass(frozen=True)
class Part:
    """Rectangle of a scene."""

    rows: tuple[int, int]
    """First and past-the-last row."""
    cols: tuple[int, int]
    """First and past-the-last column."""
    sampled: bool = True
    """Whether its values are part of the sample; else only the ends of its rows are looked at."""


def parts_of(shape: tuple[int, int], block: tuple[int, int], *, whole: bool = False) -> list[Part]:
    """Choose parts of a scene, the same ones in each run.

    A small scene is covered by whole rows. Of a larger one, every second pair of blocks is taken, as on a chessboard:
    two blocks are decoded by two threads. On a scene of 25,000 x 16,700 pixels, the 1st and 99th percentile of these
    were within 0.08 % of the whole scene's; those of every third block within 0.27 %, of every eighth within 2.4 %.
    The first and the last block of each row of blocks are read in any case, for the ends of rows.

    Parameters
    ----------
    shape
        Height and width of the scene.
    block
        Height and width of its blocks.
    whole
        Cover the scene whatever its size.

    Returns
    -------
    list of Part
        From top to bottom.
    """
    height, width = shape
    tall = max(_LEAST_ROWS // block[0] * block[0], block[0])
    if whole or math.prod(shape) <= WHOLE_UP_TO:
        step = max(1, _MOST_ROWS // tall) * tall
        return [Part((row, min(row + step, height)), (0, width)) for row in range(0, height, step)]
    return list(_blocks(shape, (tall, block[1])))


def _blocks(shape: tuple[int, int], block: tuple[int, int]) -> Iterator[Part]:
    (height, width), (tall, wide) = shape, block
    last = max(0, (width - LEAST_RUN) // wide * wide)  # a narrower end belongs to the block before it
    for k, row in enumerate(range(0, height, tall)):
        rows = row, min(row + tall, height)
        for n, col in enumerate(range(0, max(1, width - LEAST_RUN + 1), 2 * wide)):
            stop = col + 2 * wide if width - (col + 2 * wide) >= LEAST_RUN else width
            if (k + n) % 2 == 0:
                yield Part(rows, (col, stop))
                continue
            if col == 0:
                yield Part(rows, (0, wide if last else width), sampled=False)
            if stop == width and last:
                yield Part(rows, (last, width), sampled=False)


def read_ahead(bands: Bands, parts: list[Part]) -> Iterator[tuple[Part, NDArray[np.float32], NDArray[np.bool_]]]:
    """Read parts of bands, the next ones in threads while one is in use."""
    ahead = bands.readers + 1
    with ThreadPoolExecutor(bands.readers, "sampler") as reader:
        coming = deque(reader.submit(bands.read, part.rows, part.cols) for part in parts[:ahead])
        try:
            for part, following in zip_longest(parts, parts[ahead:]):
                values, valid = coming.popleft().result()
                if following:
                    coming.append(reader.submit(bands.read, following.rows, following.cols))
                yield part, values, valid
        finally:
            for future in coming:
                future.cancel()


def covered(parts: list[Part]) -> int:
    """Return the number of sampled pixels."""
    return sum((p.rows[1] - p.rows[0]) * (p.cols[1] - p.cols[0]) for p in parts if p.sampled)


def in_db(sample: NDArray[np.float32], suspects: Suspects) -> bool:
    """Return whether most measurements are below 0, which is possible only in dB."""
    others = sample[~np.isin(sample, suspects.all)]
    return others.size > 0 and float(np.median(others)) < 0


def count_runs(band: NDArray[np.float32], valid: NDArray[np.bool_], zero: np.float32, part: Part, width: int) -> int:
    """Count the pixels in runs of 0; in part of a row, not those that reach its border, which may be fill."""
    zeros = valid & (band == zero)
    if not zeros.any():
        return 0
    found = long_runs(zeros)
    if part.cols != (0, width):
        blank = zeros | ~valid
        found[blank[:, 0] | blank[:, -1]] = False
    return int(np.count_nonzero(found))


def without(samples: tuple[NDArray[np.float32], ...], values: list[list[float]]) -> tuple[NDArray[np.float32], ...]:
    """Remove the pixels in which any band has one of its listed values."""
    if not any(values):
        return samples
    kept = ~np.logical_or.reduce([np.isin(sample, some) for sample, some in zip(samples, values, strict=True)])
    return tuple(sample[kept] for sample in samples)
