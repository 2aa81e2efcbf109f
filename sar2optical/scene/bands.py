"""What a scene is made of: its georeference, the user's options for it, and bands that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from sar2optical.errors import OptionError
from sar2optical.scene.nodata import Suspects
from sar2optical.scene.units import Hint
from sar2optical.signature import Unit

__all__ = ["Bands", "Described", "Georeference", "SceneOptions"]


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """Position of a raster on Earth: an affine and a CRS, or ground control points (GCPs), or none."""

    crs: CRS | None = None
    """CRS of `transform`."""
    transform: Affine | None = None
    """Affine from pixel to map coordinates; None where the raster has none (an identity counts as none)."""
    gcps: tuple[GroundControlPoint, ...] = ()
    """Ground control points, in the file's order."""
    gcp_crs: CRS | None = None
    """CRS of `gcps`."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """The user's options for reading a scene: they add to the file's metadata, or override it.

    Raises
    ------
    OptionError
        If the scale is 0 or not finite.
    """

    bands: tuple[str, ...] = ()
    """Indices from 1, or polarisations; one per band of the model. Empty: bands are chosen by the model's
    polarisations."""
    unit: Unit | None = None
    """Unit of the scaled values; None: it is guessed from the file."""
    nodata: float | None = None
    """Stored value that marks invalid pixels, in addition to the nodata that the file declares."""
    scale: float | None = None
    """Factor from stored values to their unit; None: as the file declares."""

    def __post_init__(self) -> None:
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale):
            raise OptionError(f"scale is {self.scale:g}: give a finite factor other than 0")


class Described(Protocol):
    """Description of a raster, available before its values are read."""

    path: str
    """Path of the raster, or of its source; for messages."""
    sources: tuple[str, ...]
    """Paths of the rasters that the bands are read from: `path`, or one path for each of several files."""
    files: tuple[Path, ...]
    """All files that are read; an output must never replace one of them."""
    shape: tuple[int, int]
    """Height and width in pixels."""
    polarisations: tuple[str | None, ...]
    """Polarisation of each band; None where it is unknown."""
    georeference: Georeference
    dtype: np.dtype[Any]
    """Smallest type that holds every value exactly: float32, or uint16 for plain unsigned integers."""
    block: tuple[int, int]
    """Height and width of the blocks in which the first band is stored."""
    readers: int
    """Threads that may read at the same time."""
    row_of_blocks: int
    """Bytes of one row of blocks in all bands that are read: a cache of this size decodes each block only once."""


class Bands(Described, Protocol):
    """Bands whose values can be read; a `sar2optical.scene.Scene` is made from them."""

    @property
    def stated(self) -> tuple[Unit, str] | None:
        """Unit of the values and the reason, where both are known without reading values; else None."""
        ...

    hints: tuple[Hint, ...]
    """By band: what the file says about the unit. Unused where the unit is stated."""

    suspects: tuple[Suspects, ...]
    """By band: values that may be undeclared nodata, see `sar2optical.scene.nodata`."""

    @property
    def sentinels_seen(self) -> bool:
        """Whether values at or below `nodata.SENTINEL` that the file does not declare were read and masked."""
        ...

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Return whether a value of exactly 0 is nodata in this unit."""
        ...

    def read_plain(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a rectangle as `dtype`; see `read`."""
        ...

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle.

        Parameters
        ----------
        rows, cols
            First and past-the-last, within the shape.

        Returns
        -------
        values
            float32 (bands, rows, columns) in the bands' unit; 0 where invalid.
        valid
            bool (rows, columns): every band has a value that is not nodata, finite and below 1e18.

        Raises
        ------
        SceneUnreadable
            If the file ends early or a block cannot be decoded.
        """
        ...
