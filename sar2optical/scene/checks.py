"""Checks that an open raster can be used as a scene."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterWindow

from sar2optical.errors import BandNotFound, SceneUnreadable
from sar2optical.scene.band_names import RGB
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.failures import DAMAGE, gdal_cause

__all__ = ["refuse_complex", "refuse_non_sar", "refuse_pages", "refuse_wider_than_memory"]

_ROWS_CHECKED = 17
"""Rows that are compared for grey: a single row of a photograph may be black."""

_BYTES_PER_COLUMN = 36_000
"""Bytes that `sar2optical.pipeline.stream` holds per column of a scene with one band."""


def refuse_non_sar(dataset: Any, options: SceneOptions) -> None:
    """Check that a raster is not a colour picture. Grey saved as RGB passes, and so do bands that the user chooses.

    Raises
    ------
    SceneUnreadable
        If it has a colour palette, or cannot be read.
    BandNotFound
        If red, green and blue differ.
    """
    kinds = dataset.colorinterp
    if kinds[0] == ColorInterp.palette:
        raise SceneUnreadable(
            f"{dataset.name}: has a colour palette, so its values are not grey levels: convert it to grey"
        )
    if options.bands or kinds[:3] != RGB:
        return
    for row in np.unique(np.linspace(0, dataset.height - 1, _ROWS_CHECKED).astype(int)):
        try:
            red, green, blue = dataset.read([1, 2, 3], window=RasterWindow(0, int(row), dataset.width, 1))
        except DAMAGE as error:
            raise SceneUnreadable(f"{dataset.name}: cannot be read ({gdal_cause(error)}): fetch it again") from error
        if (red != green).any() or (red != blue).any():
            raise BandNotFound(
                f"{dataset.name}: is a colour picture (red, green, blue differ), not SAR: give a SAR raster, "
                "or --band 1 to use one band anyway"
            )


def refuse_pages(dataset: Any, options: SceneOptions) -> None:
    """Check that a TIFF has one page: GDAL opens the first, and its polarisation is unknown.

    Raises
    ------
    BandNotFound
        If it has several, and the user chooses no band.
    """
    pages = [name for name in dataset.subdatasets if name.startswith("GTIFF_DIR:")]
    if pages and not options.bands:
        raise BandNotFound(
            f"{dataset.name}: has {len(pages)} pages: give one of {', '.join(pages[:4])}, or --band 1 for page 1"
        )


def refuse_complex(dataset: Any, indices: tuple[int, ...]) -> None:
    """Check that bands are real.

    Raises
    ------
    SceneUnreadable
        If one is complex, as of an SLC product.
    """
    for index in indices:
        if "complex" in dataset.dtypes[index - 1]:
            raise SceneUnreadable(
                f"{dataset.name}: band {index} is {dataset.dtypes[index - 1]} (SLC): "
                "detect and multilook it first, or give a GRD or RTC product"
            )


def refuse_wider_than_memory(dataset: Any, indices: tuple[int, ...]) -> None:
    """Check that the memory of the machine holds a strip: allocating a larger one could kill other processes.

    Raises
    ------
    SceneUnreadable
        If the width or the blocks are too large.
    """
    block_rows, block_cols = max(dataset.block_shapes[index - 1] for index in indices)
    sizes = [np.dtype(dataset.dtypes[index - 1]).itemsize for index in indices]
    needed = len(indices) * _BYTES_PER_COLUMN * dataset.width + block_rows * block_cols * sum(sizes)
    there = _memory_of_machine()
    if there and needed > there:
        raise SceneUnreadable(
            f"{dataset.name}: has {dataset.width} columns in blocks of {block_cols} x {block_rows}, which need "
            f"{needed / 1e9:.0f} GB of memory, but the machine has {there / 1e9:.0f} GB: crop it, or "
            "fetch it again if it is damaged"
        )


def _memory_of_machine() -> int | None:
    """Return the machine's memory in bytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
