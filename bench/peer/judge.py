"""What a tool wrote, against the exact blend of the same windows: whole-scene, float64, plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from bench.peer.protocol import OPENSR_SCALE, Outcome
from bench.peer.scenes import same_points
from sar2optical.evaluation.metrics import low_passed_rms
from sar2optical.tiling.seams import SeamTally
from sar2optical.tiling.windows import window_grid

PATTERN = 16
"""Pixels: the coarsest pattern of transposed convolutions that was seen to step at edges."""

Generator = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 (N, 1, window, window) to float32 (N, 3, window, window), both in [-1, 1]."""


@dataclass(frozen=True)
class Truth:
    """What a mosaic is compared with."""

    levels: NDArray[np.float32]
    """(3, H, W), 0 to 255, not rounded."""
    valid: NDArray[np.bool_]
    """(H, W), of the scene."""
    interior: NDArray[np.bool_]
    """(H, W), see `interior_of`."""
    window: int


def exact_blend(
    sar: NDArray[np.float32], window: int, overlap: int, generator: Generator, *, batch: int = 8
) -> NDArray[np.float32]:
    """Blend all windows by a raised cosine over what neighbours share, with nothing done to save time or memory.

    Parameters
    ----------
    sar
        float32 (H, W) in [-1, 1], no smaller than a window.
    window, overlap
        As in `sar2optical.tiling.windows`, whose places are taken; weights are computed anew.
    generator
        What to blend.
    batch
        Windows it is given at once.

    Returns
    -------
    ndarray
        float32 (3, H, W): grey levels, clipped to 0 to 255, not rounded.
    """
    plan = window_grid((sar.shape[0], sar.shape[1]), window, overlap)
    tapers = [dict(zip(starts, _tapers(starts, window), strict=True)) for starts in (plan.rows, plan.cols)]
    places = [(row, col) for row in plan.rows for col in plan.cols]
    total, weight = np.zeros((3, *sar.shape)), np.zeros(sar.shape)
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        windows = np.stack([sar[None, row : row + window, col : col + window] for row, col in some])
        for (row, col), image in zip(some, generator(windows), strict=True):
            here = np.s_[row : row + window, col : col + window]
            share = np.outer(tapers[0][row], tapers[1][col])
            total[:, here[0], here[1]] += share * image
            weight[here] += share
    total /= weight
    return np.clip((total + 1) * 127.5, 0, 255).astype(np.float32)


def interior_of(valid: NDArray[np.bool_], window: int) -> NDArray[np.bool_]:
    """Tell the pixels that no window with an invalid pixel reaches, wherever it lies; bool (H, W).

    What a tool gives the generator where there is nothing changes the whole window, and is not what is compared here.
    """
    missing = np.pad(~valid, window - 1)
    for axis in (0, 1):  # a running count, whose difference over the reach is 0 where nothing is missing
        count = np.cumsum(np.insert(missing.astype(np.int32), 0, 0, axis=axis), axis=axis)
        reach = 2 * window - 1
        missing = np.take(count, np.arange(reach, count.shape[axis]), axis) > np.take(
            count, np.arange(count.shape[axis] - reach), axis
        )
    return ~missing


def judge(path: Path, outcome: Outcome, truth: Truth) -> dict[str, Any]:
    """Measure seams at the edges of a mosaic's own windows, and how far it is from the exact blend; interior only."""
    with rasterio.open(path) as dataset:
        image = _levels(dataset.read([1, 2, 3]))
    tally = SeamTally()
    tally.add(image, truth.interior)
    difference = np.abs(image - truth.levels).max(axis=0)[truth.interior]
    return {
        "seam_score": tally.score(outcome.rows, outcome.cols, truth.window),
        "seam_score_in_phase": tally.score(outcome.rows, outcome.cols, truth.window, period=PATTERN),
        "worst_difference": float(difference.max()) if difference.size else None,
        "low_passed_rms": low_passed_rms(truth.levels, image, truth.interior),
    }


def survives(path: Path, source: Path) -> dict[str, bool]:
    """Tell what of a scene its mosaic still has."""
    with rasterio.open(source) as scene, rasterio.open(path) as mosaic:
        return {
            "crs": scene.crs is not None and mosaic.crs == scene.crs and mosaic.transform == scene.transform,
            "gcps": bool(scene.gcps[0]) and same_points(mosaic.gcps[0], scene.gcps[0]),
            "mask": bool(((mosaic.dataset_mask() > 0) == (scene.dataset_mask() > 0)).all()),
            "cog": mosaic.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
        }


def _levels(image: NDArray[Any]) -> NDArray[np.float32]:
    """Bring what was written to 0 to 255: opensr-utils writes 16 bits."""
    scale = 255 / OPENSR_SCALE if image.dtype == np.uint16 else 1
    return np.asarray(image * np.float32(scale), np.float32)


def _tapers(starts: Sequence[int], window: int) -> list[NDArray[np.float64]]:
    """Weigh each window's pixels along one axis: sin ** 2 over what it shares with the one before, cos ** 2 after."""
    tapers = [np.ones(window) for _ in starts]
    for k, (one, other) in enumerate(pairwise(starts)):
        shared = one + window - other
        rise = np.sin(np.pi / 2 * (np.arange(shared) + 0.5) / shared) ** 2 if shared > 0 else np.zeros(0)
        tapers[k + 1][:shared] *= rise
        tapers[k][window - shared :] *= rise[::-1]
    return tapers
