"""Pairs stored side by side in one image (A|B, as in pix2pix's aligned data sets)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.chipfile import SUFFIXES, opened, refuse_damaged
from sar2optical.errors import DataError

__all__ = ["Side", "pictures", "read_aligned", "sar_side"]

Side = Literal["left", "right"]
"""Half of an image that is SAR."""

_SAMPLED = 16  # images that are read to find the SAR half
_GREY = 2.0
"""Largest mean difference in grey levels between the colours of a pixel in a grey half. It is not 0 because JPEG
halves the resolution of colours."""
_COLOURED = 1.0  # the other half's mean difference must exceed twice the grey half's by this


def pictures(root: Path, depth: int) -> list[Path]:
    """List the images in a folder and its subfolders, sorted.

    Parameters
    ----------
    root
        Folder to search.
    depth
        Largest number of folders between `root` and an image.
    """
    found = (path for k in range(depth + 1) for path in root.glob("*/" * k + "*"))
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def sar_side(paths: Sequence[Path]) -> Side:
    """Find the half that is SAR: the grey one, which must be the same in all images.

    Parameters
    ----------
    paths
        Images of one data set; at most 16, evenly spread, are read.

    Raises
    ------
    DataError
        If no image has exactly one grey half, or two images disagree.
    """
    votes: dict[Side, Path] = {}
    unreadable: list[DataError] = []
    for k in np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).round().astype(int)):
        try:
            left, right = (_spread(half) for half in _halves(paths[k]))
        except DataError as error:
            unreadable.append(error)
            continue
        if min(left, right) <= _GREY and max(left, right) > 2 * min(left, right) + _COLOURED:
            votes.setdefault("left" if left < right else "right", paths[k])
    if len(votes) == 1:
        return next(iter(votes))
    if votes:
        raise DataError(
            f"{votes['left']} has SAR (grey) on the left, {votes['right']} on the right: use one order per folder"
        )
    if unreadable:
        raise unreadable[0]
    raise DataError(
        f"{paths[0]}: cannot find the SAR half, because no image has exactly one grey half: give images with a "
        "grey SAR half and an optical half in colour, or remove --aligned"
    )


def read_aligned(path: Path, side: Side) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read both halves of an image.

    Parameters
    ----------
    path
        Path of the image.
    side
        Half that is SAR.

    Returns
    -------
    sar, optical
        uint8 (1, H, W) and (3, H, W).

    Raises
    ------
    DataError
        If the file is unreadable or damaged, is not an 8-bit colour image of even width, or its SAR half is in
        colour.
    """
    left, right = _halves(path)
    sar, optical = (left, right) if side == "left" else (right, left)
    if _spread(sar) > _GREY:
        raise DataError(
            f"{path}: its {side} half is in colour, but in other images that half is grey SAR: remove this image"
        )
    return np.rint(sar.mean(axis=0, keepdims=True)).astype(np.uint8), optical


def _halves(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    refuse_damaged(path)
    with opened(path) as picture:
        if picture.count not in (3, 4) or picture.dtypes[0] != "uint8":
            raise DataError(
                f"{path}: {picture.count} bands of {picture.dtypes[0]}: convert it to 8-bit RGB, as --aligned needs"
            )
        if picture.width % 2:
            raise DataError(
                f"{path}: odd width of {picture.width} pixels: give an image with two halves of equal width"
            )
        both = np.asarray(picture.read([1, 2, 3]))
    middle = both.shape[2] // 2
    return both[..., :middle], both[..., middle:]


def _spread(half: NDArray[np.uint8]) -> float:
    """Compute the mean difference between the largest and smallest colour of a pixel."""
    return float(np.mean(half.max(axis=0).astype(np.int16) - half.min(axis=0)))
