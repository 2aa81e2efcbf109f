"""Everything that is shown: radar, mosaics and optical image on one grid, with their reduced levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from sar2optical.errors import OptionError
from sar2optical.mosaic.rasters import no_georeference_warning
from sar2optical.scene.sources import Source, environment_of
from sar2optical.signature import Unit
from sar2optical.viewer.pictures import OPTICAL_MAX, Picture, open_mosaic, open_truth, same_grid
from sar2optical.viewer.pyramid import Pyramid, Span, level_shapes
from sar2optical.viewer.radar import Radar, open_radar

__all__ = ["Choices", "Exhibit", "Layer", "open_exhibit"]

_CACHE = 24_000_000
"""Bytes of GDAL's block cache: blocks of a few tiles side by side."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options of the user."""

    band: str | None = None
    """Polarisation or index of the scene's band; None: that of the mosaic's run."""
    unit: Unit | None = None
    """Unit of the scene's values; None: that of the mosaic's run."""
    truth: Path | None = None
    """Optical image to compare with."""
    optical_max: float = OPTICAL_MAX
    """Reflectance x 10000 that is white in it."""


@dataclass(frozen=True)
class Layer:
    """A picture and its reduced levels: its own overviews, or computed ones."""

    picture: Picture
    levels: Pyramid | None

    def has(self, level: int) -> bool:
        """Return whether a level can be read now."""
        return self.levels is None or self.levels.has(level)

    def read(self, level: int, rows: Span, cols: Span) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read a rectangle of a level: uint8 (3, h, w), and bool (h, w) for valid."""
        if self.levels is None:
            scale, shape = 2**level, self.picture.shape
            return self.picture.read(
                (rows[0] * scale, min(rows[1] * scale, shape[0])),
                (cols[0] * scale, min(cols[1] * scale, shape[1])),
                scale,
            )
        values = self.levels.read(level, rows, cols)
        valid = ~np.isnan(values[0])
        return np.asarray(np.nan_to_num(values) + 0.5, np.uint8), valid


@dataclass(frozen=True)
class Exhibit:
    """What is shown, open for reading."""

    radar: Radar
    radar_levels: Pyramid
    mosaics: tuple[Layer, ...]
    truth: Layer | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid in pixels."""
        return self.radar.shape

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each level, the finest first."""
        return level_shapes(self.shape)

    @property
    def pyramids(self) -> list[Pyramid]:
        """Pyramids that are computed."""
        layers = [*self.mosaics, *([self.truth] if self.truth else [])]
        return [self.radar_levels, *(layer.levels for layer in layers if layer.levels)]


@contextmanager
def open_exhibit(src: Source, mosaics: Sequence[Path], choices: Choices) -> Iterator[Exhibit]:
    """Open a scene and its mosaics. Reduced levels are computed by `Pyramid.start` or `build`.

    Parameters
    ----------
    src
        The scene.
    mosaics
        Mosaics of it, on one grid; the first one's tags state how the scene was read.
    choices
        Options of the user.

    Raises
    ------
    SceneUnreadable, BandNotFound, UnitsUnknown, OptionError
        If a file cannot be read, or the files do not fit each other.
    """
    if not mosaics:
        raise OptionError("no mosaic is given: give its path")
    with ExitStack() as stack:
        stack.enter_context(no_georeference_warning())  # tiles have none; threads share the filter
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE, **environment_of(src)))
        pictures = [stack.enter_context(open_mosaic(path)) for path in mosaics]
        same_grid(pictures)
        first = pictures[0]
        radar = stack.enter_context(open_radar(src, first, band=choices.band, unit=choices.unit))
        bands = radar.bands
        levels = Pyramid(
            radar.read, bands=len(radar.names), shape=first.shape, block=bands.block, readers=bands.readers
        )
        stack.enter_context(levels)
        layers = tuple(_layer(picture, stack) for picture in pictures)
        truth = None
        if choices.truth:
            truth = _layer(stack.enter_context(open_truth(choices.truth, first, choices.optical_max)), stack)
        yield Exhibit(radar, levels, layers, truth)


def _layer(picture: Picture, stack: ExitStack) -> Layer:
    if picture.is_cog:
        return Layer(picture, None)
    levels = Pyramid(picture.read_floats, bands=3, shape=picture.shape, block=picture.block, readers=1)
    return Layer(picture, stack.enter_context(levels))
