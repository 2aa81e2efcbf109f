"""Open scenes for reading: calibrated values in a known unit, with mask and georeference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.windows import Window

from sar2optical.api.keywords import naming_keywords, product_options, scene_options, target_of
from sar2optical.api.source import source_path, unit_of
from sar2optical.errors import OptionError
from sar2optical.scene.geocode.resample import geocoded
from sar2optical.scene.geocode.target import Target
from sar2optical.scene.raster import GDAL_CACHE_BYTES
from sar2optical.scene.safe.calibrate import Calibration
from sar2optical.scene.scene import SceneSource
from sar2optical.scene.scene import open_scene as open_source
from sar2optical.scene.sources import environment_of
from sar2optical.signature import Unit

__all__ = ["SarArray", "SceneReader", "open_scene"]

_DEFAULT_BANDS = ("VV|VH",)
"""Band that is read where none is asked for: VV, or VH where there is no VV."""


_KEY = "sar2optical"
_Original = tuple[NDArray[np.float32] | None, Unit | None, tuple[NDArray[np.float32], ...] | None]
_UNKNOWN: _Original = (None, None, None)


class SarArray(np.ma.MaskedArray[Any, Any]):
    """Values of a scene: a masked float32 array (bands, H, W), read-only, that remembers its unit.

    Slices keep the unit. Results of arithmetic and copies lose it, because their values may be in another one.
    """

    _optinfo: dict[str, Any]

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
        unit: Unit | None,
        samples: tuple[NDArray[np.float32], ...],
    ) -> SarArray:
        """Make one of a scene's values, and values sampled over the whole scene."""
        values.flags.writeable = False  # changed values would keep the unit
        array = np.ma.MaskedArray(values, mask=np.broadcast_to(~valid, values.shape).copy()).view(cls)
        array._optinfo[_KEY] = (values, unit, samples)  # numpy.ma passes this dict on to slices and results
        return array

    @property
    def unit(self) -> Unit | None:
        """Unit of the values; None if it is not known."""
        return self._original()[1]

    @property
    def samples(self) -> tuple[NDArray[np.float32], ...] | None:
        """By band: valid values sampled over the whole scene, for percentiles; None if they are not known."""
        origin, _, samples = self._original()
        if origin is None or samples is None:
            return None
        # Which bands of the scene these are follows from where they lie in its memory.
        bands = np.ma.getdata(self) if self.ndim == 3 else np.ma.getdata(self)[None]
        if bands.ndim != 3 or not bands.size:
            return None
        start = origin.__array_interface__["data"][0]
        offsets = [band.__array_interface__["data"][0] - start for band in bands]
        return tuple(samples[offset // origin[0].nbytes] for offset in offsets)

    def _original(self) -> _Original:
        """Return values, unit and samples of the scene; only a view of these values has their unit."""
        found: _Original = self._optinfo.get(_KEY, _UNKNOWN)
        return found if found[0] is not None and np.may_share_memory(np.ma.getdata(self), found[0]) else _UNKNOWN


class SceneReader:
    """An open scene; made by `open_scene`."""

    def __init__(self, source: SceneSource) -> None:
        self._source = source

    @cached_property
    def _samples(self) -> tuple[NDArray[np.float32], ...]:
        """Values sampled over the whole scene, read once while it is open: `predict` may run after it is closed."""
        return self._source.read_samples()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._source.shape

    @property
    def unit(self) -> Unit | None:
        """Unit of the values; None if no pixel is valid."""
        return self._source.unit

    @property
    def unit_reason(self) -> str:
        """What the unit was inferred from."""
        return self._source.unit_reason

    @property
    def polarisations(self) -> tuple[str | None, ...]:
        """Polarisation of each band; None if the file does not name it."""
        return self._source.polarisations

    @property
    def crs(self) -> CRS | None:
        """CRS of `transform`."""
        return self._source.georeference.crs

    @property
    def transform(self) -> Affine | None:
        """Affine from pixel to map coordinates; None if there is none."""
        return self._source.georeference.transform

    @property
    def gcps(self) -> tuple[tuple[GroundControlPoint, ...], CRS | None]:
        """Ground control points and their CRS."""
        return self._source.georeference.gcps, self._source.georeference.gcp_crs

    def read(self, window: Window | tuple[tuple[int, int], tuple[int, int]] | None = None) -> SarArray:
        """Read a window, or the whole scene.

        Parameters
        ----------
        window
            rasterio Window, or ((first row, past-the-last row), (first column, past-the-last column)).

        Returns
        -------
        SarArray
            Masked float32 (bands, rows, columns) in `unit`.

        Raises
        ------
        OptionError
            If the window is not inside the scene.
        SceneUnreadable
            If the file is truncated or damaged.
        """
        if window is None:
            rows, cols = (0, self.shape[0]), (0, self.shape[1])
        else:
            ranges = window.toranges() if isinstance(window, Window) else window
            rows, cols = ((int(start), int(stop)) for start, stop in ranges)
        for (start, stop), side, name in zip((rows, cols), self.shape, ("rows", "columns"), strict=True):
            if not 0 <= start < stop <= side:
                raise OptionError(
                    f"window has {name} {start} to {stop}, the scene has {side}: give a window inside it"
                )
        with naming_keywords():
            values, valid = self._source.read(rows, cols)
            return SarArray.of(values, valid, self.unit, self._samples)


# 9 parameters: plain keywords, as in rasterio.open.
@contextmanager
def open_scene(
    source: Any,
    *,
    bands: Sequence[str | int] | None = None,
    unit: Unit | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    calibration: Calibration | None = None,
    denoise: bool = False,
    geocode: str | Target | None = None,
    resolution: float | None = None,
) -> Iterator[SceneReader]:
    """Open a SAR scene for reading.

    Parameters
    ----------
    source
        Path or address of anything that GDAL opens, or of a Sentinel-1 product; a list of paths, one for each
        polarisation; path of a STAC Item; an open rasterio dataset; a numpy (masked) array (H, W) or (bands, H, W);
        an xarray DataArray.
    bands
        Polarisations ("VH") or indices from 1; VV by default, or VH where there is no VV.
    unit, nodata, scale, calibration, denoise, geocode, resolution
        See `sar2optical.translate`.

    Yields
    ------
    SceneReader

    Raises
    ------
    Sar2OpticalError
        SceneUnreadable, BandNotFound, UnitsUnknown or OptionError.
    """
    with ExitStack() as stack:
        with naming_keywords():
            options = scene_options(bands, unit or unit_of(source), nodata, scale)
            target = target_of(geocode, resolution)
            path = stack.enter_context(source_path(source))
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **environment_of(path)))
            wanted = tuple(options.bands) or _DEFAULT_BANDS
            scene = stack.enter_context(open_source(path, wanted, options, product_options(calibration, denoise)))
            reader = SceneReader(geocoded(scene, target) if target else scene)
        yield reader
