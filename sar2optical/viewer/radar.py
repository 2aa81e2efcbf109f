"""The radar scene on a mosaic's grid: opened as the mosaic's run opened it, by the mosaic's tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import OptionError
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.tags import options_of
from sar2optical.scene.bands import Bands, Georeference, SceneOptions
from sar2optical.scene.geocode.placement import placement_of
from sar2optical.scene.geocode.resample import Geocoded
from sar2optical.scene.geocode.target import Grid
from sar2optical.scene.safe import ProductOptions, is_product
from sar2optical.scene.scene import open_bands, open_scene
from sar2optical.scene.sources import SceneFiles, Source
from sar2optical.signature import Unit
from sar2optical.viewer.pictures import Picture
from sar2optical.viewer.pyramid import Floats, Span

__all__ = ["Radar", "offset_of", "open_radar"]

_EXACT = 1e-3  # pixels: affines are stored as doubles


@dataclass(frozen=True)
class Radar:
    """Bands of a scene on the grid of a mosaic."""

    bands: Any
    """What the values are read from: `Bands`, or a `Geocoded` scene."""
    shape: tuple[int, int]
    """Height and width of the mosaic."""
    offset: tuple[int, int]
    """Row and column of the scene at which the mosaic begins."""
    unit: Unit | None
    """Unit of the values, from the mosaic's tags or the user; None: not known."""
    names: tuple[str, ...]
    """Name of each band: its polarisation."""
    stretch: tuple[tuple[float, float], ...]
    """By band: values (in dB, where `in_db`) that are shown as black and as white."""

    @property
    def in_db(self) -> bool:
        """Whether values are shown in dB: those of power have a range that is too wide for a linear scale."""
        return self.unit == "power"

    def read(self, rows: Span, cols: Span) -> Floats:
        """Read a rectangle of the mosaic's grid: float32 (bands, rows, columns) in `unit`, NaN where invalid."""
        return _read(self.bands, self.offset, rows, cols)

    def grey(self, band: int, values: Floats) -> NDArray[np.uint8]:
        """Convert values (rows, columns) of a band to grey levels; NaN gives 0."""
        low, high = self.stretch[band]
        with np.errstate(invalid="ignore"):
            levels = (_shown(values, in_db=self.in_db) - low) * (255 / (high - low)) + 0.5
            return np.asarray(np.nan_to_num(np.clip(levels, 0, 255), nan=0.0), np.uint8)


@contextmanager
def open_radar(src: Source, mosaic: Picture, *, band: str | None, unit: Unit | None) -> Iterator[Radar]:
    """Open the scene of a mosaic.

    Parameters
    ----------
    src
        The scene.
    mosaic
        Its mosaic.
    band, unit
        Polarisation or index, and unit, given by the user; None: those of the mosaic's tags.

    Raises
    ------
    SceneUnreadable, BandNotFound, UnitsUnknown
        See `sar2optical.scene.open_scene`.
    OptionError
        If the mosaic is not on the scene's grid, or geocoded by control points that the scene lacks.
    """
    tags = mosaic.tags
    was = options_of(tags) or Manifest({})
    known = unit or _unit_of(tags)
    names = (band,) if band else _bands_of(mosaic, was)
    options = SceneOptions(
        bands=(band,) if band else tuple(filter(None, was.entries.get("bands", "").split(", "))),
        unit=known,
        nodata=_number(was.entries.get("nodata")),
        scale=_number(was.entries.get("scale")),
    )
    if "SAR2OPTICAL_GEOCODING" in tags:
        place = mosaic.georeference
        if place.crs is None or place.transform is None:
            raise OptionError(f"{mosaic.path}: its tags say that it is geocoded, but it has no affine: make it again")
        grid = Grid(place.crs, place.transform, mosaic.shape)
        with open_scene(src, names, options, _product_of(src, was)) as scene:
            geocoded = Geocoded(scene, placement_of(scene), grid)
            yield _radar(geocoded, mosaic.shape, (0, 0), known or scene.unit)
        return
    with open_bands(src, names, options, _product_of(src, was)) as bands:
        stated = bands.stated[0] if bands.stated else None
        yield _radar(bands, mosaic.shape, offset_of(bands, mosaic), known or stated)


def offset_of(scene: Bands, mosaic: Picture) -> tuple[int, int]:
    """Return the row and the column of a scene at which its mosaic begins.

    Raises
    ------
    OptionError
        If the mosaic is not a part of the scene, on the same grid.
    """
    found = _offset(scene.georeference, mosaic.georeference)
    if found is None or any(
        not 0 <= start <= side - size for start, side, size in zip(found, scene.shape, mosaic.shape, strict=True)
    ):
        raise OptionError(
            f"{mosaic.path}: {mosaic.shape[1]} x {mosaic.shape[0]} pixels are not on the grid of {scene.path} "
            f"({scene.shape[1]} x {scene.shape[0]}): give the scene that the mosaic was made from"
        )
    return found


def _offset(scene: Georeference, mosaic: Georeference) -> tuple[int, int] | None:
    """Return the offset in whole pixels, by affine or control points; without a georeference none is assumed."""
    if mosaic.transform is None and not mosaic.gcps:  # a picture, or a scene without a georeference
        return 0, 0
    if mosaic.transform is not None and scene.transform is not None:
        relation = ~scene.transform @ mosaic.transform
        place = np.array([relation.f, relation.c])
        straight = np.allclose([relation.a, relation.b, relation.d, relation.e], [1, 0, 0, 1], atol=1e-6)
        if not straight or scene.crs != mosaic.crs or abs(place - np.rint(place)).max() > _EXACT:
            return None
        return int(np.rint(place[0])), int(np.rint(place[1]))
    if not mosaic.gcps or len(scene.gcps) != len(mosaic.gcps):
        return None
    pairs = list(zip(scene.gcps, mosaic.gcps, strict=True))
    steps = np.array([(ours.row - theirs.row, ours.col - theirs.col) for ours, theirs in pairs])
    alike = all(np.allclose((a.x, a.y), (b.x, b.y)) for a, b in pairs)
    if not alike or abs(steps - np.rint(steps[0])).max() > _EXACT:
        return None
    return int(np.rint(steps[0][0])), int(np.rint(steps[0][1]))


def _radar(bands: Any, shape: tuple[int, int], offset: tuple[int, int], unit: Unit | None) -> Radar:
    names = tuple(name or f"band {k}" for k, name in enumerate(bands.polarisations, 1))
    shown = _shown(_sample(bands, shape, offset), in_db=unit == "power")
    return Radar(bands, shape, offset, unit, names, tuple(_bounds(one) for one in shown))


def _read(bands: Any, offset: tuple[int, int], rows: Span, cols: Span) -> Floats:
    values, valid = bands.read((rows[0] + offset[0], rows[1] + offset[0]), (cols[0] + offset[1], cols[1] + offset[1]))
    values[:, ~valid] = np.nan
    return cast(Floats, values)


def _sample(bands: Any, shape: tuple[int, int], offset: tuple[int, int]) -> Floats:
    """Read 8 x 8 parts of at most 64 x 64 pixels, evenly spaced: float32 (bands, n), NaN where invalid."""
    spans = [[(start, start + min(64, side)) for start in _starts(side)] for side in shape]
    parts = [_read(bands, offset, rows, cols) for rows in spans[0] for cols in spans[1]]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _starts(side: int) -> list[int]:
    return sorted({int(start) for start in np.linspace(0, max(side - 64, 0), 8)})


def _shown(values: Floats, *, in_db: bool) -> Floats:
    if not in_db:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(values), np.float32)  # of 0: -inf, black


def _bounds(values: Floats) -> tuple[float, float]:
    """Return the 2nd and the 98th percentile of a sample's finite values; 0 and 1 where there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, (2, 98)))
    return (low, high) if high > low else (low - 1, low + 1)


def _bands_of(mosaic: Picture, was: Manifest) -> tuple[str, ...]:
    """Return the polarisations that the run read; VV for a band without a name, which any name selects."""
    named = tuple(filter(None, mosaic.tags.get("SAR2OPTICAL_BANDS", "").split(",")))
    asked = tuple(filter(None, was.entries.get("bands", "").split(", ")))
    if not (named or asked):
        raise OptionError(f"{mosaic.path}: its tags do not name the scene's band: give --band (VV, VH, or an index)")
    return tuple("VV" if name == "unknown" else name for name in named) or asked


def _unit_of(tags: Mapping[str, str]) -> Unit | None:
    found = tags.get("SAR2OPTICAL_UNITS")
    return cast(Unit, found) if found in get_args(Unit) else None


def _product_of(src: Source, was: Manifest) -> ProductOptions | None:
    if isinstance(src, SceneFiles) or not is_product(src):
        return None
    calibration = cast(Any, was.entries.get("calibration", "sigma0"))
    return ProductOptions(calibration=calibration, denoise=was.entries.get("denoise") == "True")


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
