"""Pairs side by side in one picture (A|B, as pix2pix's aligned data sets have them)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.chipfile import SUFFIXES, opened, refuse_damaged
from sar2optical.errors import DataError

Side = Literal["left", "right"]
"""Half of a picture that is SAR."""

_ASKED = 16  # pictures that the side is told from
_GREY = 2.0
"""Grey levels between the least and the greatest colour of a pixel, on average, of what counts as grey: JPEG leaves
some where it halves the resolution of colours."""
_COLOURED = 1.0  # what the other half must have beyond twice as much


def pictures(root: Path, depth: int) -> list[Path]:
    """Give the pictures in a folder and in those below it, sorted.

    Parameters
    ----------
    root
        Folder.
    depth
        Folders between it and a picture, at most.
    """
    found = (path for k in range(depth + 1) for path in root.glob("*/" * k + "*"))
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def sar_side(paths: Sequence[Path]) -> Side:
    """Tell which half is SAR: the grey one, of the first picture to the last the same.

    Parameters
    ----------
    paths
        Pictures of one set; at most 16, evenly spread, are read.

    Raises
    ------
    DataError
        Where no picture tells, or two disagree.
    """
    votes: dict[Side, Path] = {}
    unreadable: list[DataError] = []
    for k in np.unique(np.linspace(0, len(paths) - 1, min(_ASKED, len(paths))).round().astype(int)):
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
            f"{votes['left']} has SAR (grey) on the left, {votes['right']} on the right: keep one order in a folder"
        )
    if unreadable:
        raise unreadable[0]
    raise DataError(
        f"{paths[0]}: in no picture exactly one half is grey, so which half is SAR cannot be told: --aligned reads "
        "pictures of a grey SAR half beside an optical half in colour"
    )


def read_aligned(path: Path, side: Side) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read both halves of a picture.

    Parameters
    ----------
    path
        Picture.
    side
        Half that is SAR.

    Returns
    -------
    sar, optical
        uint8 (1, H, W) and (3, H, W).

    Raises
    ------
    DataError
        Where the file is unreadable or damaged, is no colour picture of 8 bits and of even width, or the SAR half is
        in colour.
    """
    left, right = _halves(path)
    sar, optical = (left, right) if side == "left" else (right, left)
    if _spread(sar) > _GREY:
        raise DataError(f"{path}: its {side} half is in colour, SAR is grey there in other pictures: remove it")
    return np.rint(sar.mean(axis=0, keepdims=True)).astype(np.uint8), optical


def _halves(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    refuse_damaged(path)
    with opened(path) as picture:
        if picture.count not in (3, 4) or picture.dtypes[0] != "uint8":
            raise DataError(
                f"{path}: {picture.count} bands of {picture.dtypes[0]}: pictures with both halves are RGB of 8 bits"
            )
        if picture.width % 2:
            raise DataError(f"{path}: {picture.width} columns do not halve: both halves must be of equal width")
        both = np.asarray(picture.read([1, 2, 3]))
    middle = both.shape[2] // 2
    return both[..., :middle], both[..., middle:]


def _spread(half: NDArray[np.uint8]) -> float:
    """Give the mean difference between a pixel's greatest and least colour."""
    return float(np.mean(half.max(axis=0).astype(np.int16) - half.min(axis=0)))
