"""RGB rasters on one grid: mosaics, and optical images that are resampled to a mosaic's grid."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from sar2optical._utils.files import cause
from sar2optical.data.optical import to_bytes
from sar2optical.errors import OptionError, SceneUnreadable
from sar2optical.mosaic.rasters import open_raster
from sar2optical.scene.bands import Georeference
from sar2optical.scene.raster import georeference_of
from sar2optical.viewer.pyramid import Floats, Span

__all__ = ["OPTICAL_MAX", "Picture", "open_mosaic", "open_truth"]

OPTICAL_MAX = 3000.0
"""Reflectance x 10000 that is shown as white, as in training."""


@dataclass(frozen=True)
class Picture:
    """RGB raster of bytes on the grid of a mosaic."""

    path: Path
    dataset: Any
    """GDAL dataset, or a warped one; one thread at a time."""
    shape: tuple[int, int]
    tags: dict[str, str]
    georeference: Georeference
    note: str = ""
    """What was done to show it on the grid; empty for nothing."""
    optical_max: float = OPTICAL_MAX
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_cog(self) -> bool:
        """Whether a browser can read it by ranges: a GeoTIFF of bytes in blocks, with overviews."""
        data = self.dataset
        large = max(self.shape) > 1024
        return bool(
            data.driver == "GTiff"
            and data.count == 3
            and data.dtypes[0] == "uint8"
            and (not large or (data.block_shapes[0][1] < data.width and data.overviews(1)))
        )

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of its blocks."""
        found: tuple[int, int] = self.dataset.block_shapes[0]
        return found

    def read(self, rows: Span, cols: Span, scale: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read a rectangle, reduced by its overviews where `scale` is above 1.

        Parameters
        ----------
        rows, cols
            First and past-the-last, in pixels of the grid.
        scale
            Pixels of the grid per pixel of the result.

        Returns
        -------
        rgb
            uint8 (3, h, w), averages where reduced.
        valid
            bool (h, w), of the nearest pixel where reduced.

        Raises
        ------
        SceneUnreadable
            If a block cannot be decoded.
        """
        window = Window.from_slices(rows, cols)
        size = -(-(rows[1] - rows[0]) // scale), -(-(cols[1] - cols[0]) // scale)
        try:
            with self.lock:
                stored = self.dataset.read(
                    [1, 2, 3], window=window, out_shape=(3, *size), resampling=Resampling.average
                )
                valid = self.dataset.dataset_mask(window=window, out_shape=size) != 0
        except (RasterioError, OSError) as error:
            raise SceneUnreadable(
                f"{self.path}: rows {rows[0]} to {rows[1]}: {cause(error)}: make it again"
            ) from error
        return to_bytes(stored, self.optical_max), valid

    def read_floats(self, rows: Span, cols: Span) -> Floats:
        """Read a rectangle as float32 (3, rows, columns), NaN where invalid."""
        rgb, valid = self.read(rows, cols)
        return np.where(valid, rgb, np.nan).astype(np.float32)


@contextmanager
def open_mosaic(path: Path) -> Iterator[Picture]:
    """Open a mosaic.

    Raises
    ------
    SceneUnreadable
        If it is not a raster of three bands of bytes, with or without alpha.
    """
    with _opened(path) as dataset:
        if dataset.count not in (3, 4) or set(dataset.dtypes) != {"uint8"}:
            raise SceneUnreadable(
                f"{path}: has {dataset.count} bands of {dataset.dtypes[0]}: give a mosaic, three bands of 8 bits"
            )
        yield Picture(path, dataset, dataset.shape, dataset.tags(), georeference_of(dataset))


@contextmanager
def open_truth(path: Path, mosaic: Picture, optical_max: float = OPTICAL_MAX) -> Iterator[Picture]:
    """Open an optical image on the grid of a mosaic: its first three bands, by the nearest pixel.

    Parameters
    ----------
    path
        Bytes, or 16-bit reflectance x 10000.
    mosaic
        Picture whose grid is taken.
    optical_max
        Reflectance x 10000 that is white.

    Raises
    ------
    SceneUnreadable
        If it is not readable, or has other bands.
    OptionError
        If its grid differs, and one of the two has no affine and CRS.
    """
    with ExitStack() as stack:
        dataset = stack.enter_context(_opened(path))
        if dataset.count < 3 or dataset.dtypes[0] not in ("uint8", "uint16", "int16"):
            raise SceneUnreadable(
                f"{path}: has {dataset.count} bands of {dataset.dtypes[0]}: give red, green and blue, of 8 bits or "
                "of 16 bits (reflectance x 10000)"
            )
        own, wanted, note = georeference_of(dataset), mosaic.georeference, ""
        if dataset.shape != mosaic.shape or (own.transform, own.crs) != (wanted.transform, wanted.crs):
            if None in (own.transform, own.crs, wanted.transform, wanted.crs):
                raise OptionError(
                    f"{path}: is not on the grid of {mosaic.path}, and one of them has no affine and CRS: resample "
                    "it to the mosaic's grid"
                )
            dataset = stack.enter_context(
                WarpedVRT(
                    dataset,
                    crs=wanted.crs,
                    transform=wanted.transform,
                    height=mosaic.shape[0],
                    width=mosaic.shape[1],
                    resampling=Resampling.nearest,
                    add_alpha=dataset.nodata is None and dataset.count == 3,
                )
            )
            note = "resampled to the mosaic's grid, nearest pixel"
        yield Picture(path, dataset, mosaic.shape, {}, wanted, note, optical_max)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        dataset = open_raster(path)
    except (RasterioError, OSError) as error:
        raise SceneUnreadable(f"{path}: cannot be opened ({cause(error)}): give a raster") from error
    with dataset:
        yield dataset


def same_grid(pictures: Sequence[Picture]) -> None:
    """Refuse mosaics that are not on the grid of the first.

    Raises
    ------
    OptionError
        If size, affine or CRS differ.
    """
    first = pictures[0]
    for other in pictures[1:]:
        ours, theirs = first.georeference, other.georeference
        placed = (ours.transform, ours.crs) == (theirs.transform, theirs.crs) or None in (
            ours.transform,
            theirs.transform,
        )
        if other.shape != first.shape or not placed:
            raise OptionError(f"{other.path}: is not on the grid of {first.path}: view it by itself")
