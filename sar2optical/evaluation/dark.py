"""Areas that are dark in both SAR and truth, mostly water: find them, and check that a prediction is dark too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DarkArea", "dark_areas", "dark_in_both"]

_SMOOTHING = 5  # side of the running mean in pixels; removes the effect of single speckles
_DARK = -0.7  # in the encoded range -1 to 1
_LEAST_AREA = 300  # pixels; 3 hectares at 10 m
_RING = 8  # width of the ring around an area, in pixels
_CONTRAST = 10.0  # grey levels by which the ring must be brighter in the truth
_ROUNDING = 1e-6  # grey levels; larger than the rounding error of the mean of a constant


class DarkArea(NamedTuple):
    """A connected area that is dark in the SAR image, with the ring around it."""

    inside: NDArray[np.bool_]
    """Mask of the area, (H, W)."""
    ring: NDArray[np.bool_]
    """Mask of the pixels outside the area and within 8 rows and columns of it, (H, W)."""


def dark_areas(band: NDArray[np.floating]) -> list[DarkArea]:
    """Find connected areas of at least 300 pixels whose 5 x 5 running mean is below -0.7.

    Pixels are connected by their sides. The running mean repeats the outermost pixels beyond the border. An area
    that fills the image has no ring and is omitted.

    Parameters
    ----------
    band
        SAR band encoded to [-1, 1], (H, W).
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
        if label and ring.any():  # label 0 is the background
            areas.append(DarkArea(inside, ring))
    return areas


def dark_in_both(
    areas: Sequence[DarkArea], truth: NDArray[np.generic], prediction: NDArray[np.generic]
) -> tuple[int, int]:
    """Count the areas that are darker than their ring in the truth, and how many of them are in the prediction too.

    Parameters
    ----------
    areas
        See `dark_areas`.
    truth, prediction
        Images in grey levels, (C, H, W); luminance is the mean of the channels.

    Returns
    -------
    agreeing, counted
        An area is counted if the truth is at least 10 grey levels darker inside than in the ring. It agrees if the
        prediction is darker inside by any amount.
    """
    if not areas:
        return 0, 0
    real, fake = (image.mean(axis=0, dtype=np.float64) for image in (truth, prediction))
    counted = [area for area in areas if _contrast(area, real) >= _CONTRAST]
    return sum(_contrast(area, fake) > _ROUNDING for area in counted), len(counted)


def _contrast(area: DarkArea, luminance: NDArray[np.float64]) -> float:
    """Mean luminance of the ring minus that of the area."""
    return float(luminance[area.ring].mean() - luminance[area.inside].mean())


def _running_mean(band: NDArray[np.floating]) -> NDArray[np.float64]:
    out = np.pad(band.astype(np.float64), _SMOOTHING // 2, mode="edge")
    for axis in (0, 1):
        out = np.lib.stride_tricks.sliding_window_view(out, _SMOOTHING, axis=axis).mean(axis=-1)
    return out


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilate a mask by `_RING` rows and columns, one axis after the other."""
    out = np.pad(mask, _RING)
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(out, 2 * _RING + 1, axis=axis)
        out = np.logical_or.reduce(views, axis=-1)
    return out
