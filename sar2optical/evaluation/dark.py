"""Areas that are dark to the radar and in the truth, water above all: whether a prediction is dark there too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 5  # side of the running mean in pixels: single speckles neither make nor break an area
_DARK = -0.7  # of the encoded range -1 to 1
_LEAST_AREA = 300  # pixels, of means: 3 hectares at 10 m
_RING = 8  # pixels around an area
_CONTRAST = 10.0  # grey levels by which the truth's ring must be brighter
_ROUNDING = 1e-6  # grey levels: means of a constant differ by less


class DarkArea(NamedTuple):
    """A connected area that is dark in the SAR picture, with what surrounds it."""

    inside: NDArray[np.bool_]
    """(H, W)."""
    ring: NDArray[np.bool_]
    """(H, W): pixels within 8 rows and columns of the area, and not in it."""


def dark_areas(band: NDArray[np.floating]) -> list[DarkArea]:
    """Find connected areas of 300 pixels or more whose running mean of 5 x 5 is below -0.7.

    Pixels are connected by their sides. Beyond the border the running mean sees the outermost pixels repeated. An
    area that leaves no ring, because it fills the image, is left out.

    Parameters
    ----------
    band
        (H, W), the SAR picture encoded to [-1, 1].
    """
    from rasterio import features

    dark = _running_mean(band) < _DARK
    if np.count_nonzero(dark) < _LEAST_AREA:
        return []
    polygons = features.shapes(dark.astype(np.uint8), mask=dark, connectivity=4)
    numbered = [(polygon, k) for k, (polygon, _) in enumerate(polygons, 1)]
    labels = features.rasterize(numbered, out_shape=dark.shape, dtype="int32")
    sizes = np.bincount(labels.ravel())
    areas = []
    for label in np.flatnonzero(sizes >= _LEAST_AREA):
        inside = labels == label
        ring = _grown(inside) & ~inside
        if label and ring.any():  # 0 is what belongs to no area
            areas.append(DarkArea(inside, ring))
    return areas


def dark_in_both(
    areas: Sequence[DarkArea], truth: NDArray[np.generic], prediction: NDArray[np.generic]
) -> tuple[int, int]:
    """Count the areas that the prediction shows darker than their ring, and those that the truth does.

    Parameters
    ----------
    areas
        See `dark_areas`.
    truth, prediction
        (C, H, W) in grey levels; luminance is the mean of the channels.

    Returns
    -------
    agreeing, counted
        An area counts where the truth is darker inside than in the ring by 10 grey levels or more. It agrees where
        the prediction is darker inside by any amount.
    """
    if not areas:
        return 0, 0
    real, fake = (image.mean(axis=0, dtype=np.float64) for image in (truth, prediction))
    counted = [area for area in areas if _contrast(area, real) >= _CONTRAST]
    return sum(_contrast(area, fake) > _ROUNDING for area in counted), len(counted)


def _contrast(area: DarkArea, luminance: NDArray[np.float64]) -> float:
    """Mean of the ring minus mean of the inside."""
    return float(luminance[area.ring].mean() - luminance[area.inside].mean())


def _running_mean(band: NDArray[np.floating]) -> NDArray[np.float64]:
    out = np.pad(band.astype(np.float64), _SMOOTHING // 2, mode="edge")
    for axis in (0, 1):
        out = np.lib.stride_tricks.sliding_window_view(out, _SMOOTHING, axis=axis).mean(axis=-1)
    return out


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the pixels within `_RING` rows and columns: a square dilation, one axis after the other."""
    out = np.pad(mask, _RING)
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(out, 2 * _RING + 1, axis=axis)
        out = np.logical_or.reduce(views, axis=-1)
    return out
