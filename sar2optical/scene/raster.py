"""Read a raster that GDAL opens as bands of SAR values. A raster is never opened for writing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from sar2optical._utils.addresses import redacted
from sar2optical._utils.cores import usable_cores
from sar2optical.errors import SceneUnreadable
from sar2optical.scene.band_names import POLARISATIONS, choose_bands, is_lone, polarisations_of, refuse_other_layers
from sar2optical.scene.bands import Georeference, SceneOptions
from sar2optical.scene.checks import refuse_complex, refuse_non_sar, refuse_pages, refuse_wider_than_memory
from sar2optical.scene.containers import raster_in
from sar2optical.scene.failures import DAMAGE, gdal_cause, readable_tags, why_unreadable
from sar2optical.scene.handles import Handles
from sar2optical.scene.nodata import LOWEST, SENTINEL, Suspects
from sar2optical.scene.remote import failure, is_remote
from sar2optical.scene.units import Hint
from sar2optical.signature import Unit

__all__ = [
    "GDAL_CACHE_BYTES",
    "RasterBands",
    "checked_bands",
    "georeference_of",
    "named_bands",
    "open_raster",
    "opened_dataset",
]

GDAL_CACHE_BYTES = 128_000_000
"""Value for `rasterio.Env(GDAL_CACHEMAX=...)`, in bytes: holds a row of blocks of a full scene. GDAL's default is 5 %
of the machine's memory."""

_MOST_READERS = 8
"""Threads that read at the same time: a core decodes 50 to 100 Mpx/s."""

_BEYOND = np.float32(1e18)
"""Limit of backscatter in any unit: a larger value is undeclared nodata (1e20, 3.4e38) or damage. Squares and
differences of smaller values stay within float32."""

_STORED_FILL = (-9999, -32768, -32767, 32767, 65535)
"""Stored integers that are nodata where they stand in runs, in addition to the limits of their type."""


class RasterBands:
    """Bands of an open GDAL dataset; created by `open_raster`.

    Parameters
    ----------
    dataset
        Open for reading; closed by `open_raster`.
    indices
        Bands to read, from 1.
    polarisations
        Polarisation of each of those bands; None where it is unknown.
    options
        The user's options.
    """

    stated: tuple[Unit, str] | None = None

    def __init__(
        self,
        dataset: Any,
        indices: tuple[int, ...],
        polarisations: tuple[str | None, ...],
        options: SceneOptions,
    ) -> None:
        self._handles = Handles(dataset, lambda: _with_threads(dataset.name))
        self._dataset = dataset
        self._indices = indices
        self._options = options
        self.path: str = redacted(dataset.name)  # units are guessed from the name as well: a query would mislead
        self.sources: tuple[str, ...] = (self.path,)
        self.files: tuple[Path, ...] = tuple(Path(name) for name in dataset.files)
        self.shape: tuple[int, int] = dataset.shape
        self.polarisations = polarisations
        self.georeference = georeference_of(dataset)
        self.block: tuple[int, int] = dataset.block_shapes[indices[0] - 1]
        self.readers = 1 if is_remote(dataset.name) else max(1, min(usable_cores() // 2, _MOST_READERS))
        self._scales = [self._scale(index) for index in indices]
        self.suspects = tuple(self._suspects(k) for k in range(len(indices)))
        self.dtype = np.dtype(np.uint16 if all(self._is_plain(k) for k in range(len(indices))) else np.float32)
        self._limits = [self._limits_of(k) for k in range(len(indices))]
        self.hints = tuple(self._hint(k, index) for k, index in enumerate(indices))
        self.sentinels_seen = False
        self._declares = any(dataset.mask_flag_enums[index - 1] != [MaskFlags.all_valid] for index in indices)
        self.row_of_blocks = sum(
            dataset.block_shapes[index - 1][0] * dataset.width * np.dtype(dataset.dtypes[index - 1]).itemsize
            for index in indices
        )

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Return True for DN, and for power and amplitude without a declared nodata: SNAP writes 0 outside."""
        if unit in ("power", "amplitude"):
            return not self._declares
        return unit == "dn"

    def close(self) -> None:
        """Close what reading in several threads has opened."""
        self._handles.close()

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle; see `Bands.read`."""
        return self._read(rows, cols, np.float32)

    def read_plain(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a rectangle; see `Bands.read_plain`."""
        return self._read(rows, cols, self.dtype)

    def _read(
        self, rows: tuple[int, int], cols: tuple[int, int], dtype: Any
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        window = RasterWindow.from_slices(rows, cols)
        values = np.empty((len(self._indices), rows[1] - rows[0], cols[1] - cols[0]), dtype)
        valid = np.ones(values.shape[1:], np.bool_)
        try:
            with self._handles.lent() as dataset:
                for k in range(len(self._indices)):
                    self._read_band(dataset, k, window, values[k], valid)
        except DAMAGE as error:
            why = (
                failure(self._dataset.name)
                if is_remote(self._dataset.name)
                else f"{gdal_cause(error)}: the file is truncated or damaged, fetch it again"
            )
            raise SceneUnreadable(f"{self.path}: rows {rows[0]} to {rows[1]} cannot be read: {why}") from error
        if not valid.all():
            for band in values:
                band[~valid] = 0  # keeps NaN and nodata out of all arithmetic
        return values, valid

    def _read_band(
        self, dataset: Any, k: int, window: RasterWindow, values: NDArray[Any], valid: NDArray[np.bool_]
    ) -> None:
        """Read the k-th band into `values`; clear `valid` where it has no measurement."""
        index = self._indices[k]
        # Values of the output's type are read directly into it: a copy takes as long as all checks.
        unscaled = dataset.dtypes[index - 1] == values.dtype and self._scales[k] == (1.0, 0.0)
        stored = dataset.read(index, window=window, out=values if unscaled else None)
        valid &= self._usable(dataset, index, stored, window)
        if not unscaled:
            self._scaled(stored, k, values)
        lowest, highest = self._limits[k]
        if not highest < _BEYOND:
            valid &= values < _BEYOND  # False for NaN
        if lowest <= self._floor(k):
            low = values <= self._floor(k)
            if low.any() and (low & valid).any():
                self.sentinels_seen = True
                valid &= ~low

    def _usable(
        self, dataset: Any, index: int, stored: NDArray[np.generic], window: RasterWindow
    ) -> NDArray[np.bool_]:
        usable = np.ones(stored.shape, np.bool_)
        for nodata in (dataset.nodatavals[index - 1], self._options.nodata):
            if nodata is not None and not np.isnan(nodata):
                usable &= stored != _as_stored(nodata, stored.dtype)
        # Mask bands, of the file or of this band, and alpha.
        if dataset.mask_flag_enums[index - 1] not in ([MaskFlags.all_valid], [MaskFlags.nodata]):
            usable &= dataset.read_masks(index, window=window) != 0
        elif ColorInterp.alpha in dataset.colorinterp:  # of a type that GDAL does not use as a mask
            alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
            usable &= dataset.read(alpha, window=window) != 0
        return usable

    def _scaled(self, stored: NDArray[np.generic], k: int, out: NDArray[np.float32]) -> None:
        """Scale the k-th band's stored values to their unit, into `out`; beyond float32 they become infinite."""
        scale, offset = self._scales[k]
        with np.errstate(over="ignore", invalid="ignore"):
            if (scale, offset) == (1.0, 0.0):
                np.copyto(out, stored, casting="unsafe")
                return
            np.multiply(stored, scale, out=out, casting="unsafe")
            out += np.float32(offset)

    def _suspects(self, k: int) -> Suspects:
        dtype = np.dtype(self._dataset.dtypes[self._indices[k] - 1])
        plain = not self._is_measured(k)
        if dtype.kind not in "iuf" or (plain and dtype == np.uint8):  # grey levels
            return Suspects()
        stored = [-9999.0] if dtype.kind == "f" else _stored_fill(np.iinfo(dtype))
        values = np.empty(1 + len(stored), np.float32)
        self._scaled(np.array([0, *stored], dtype), k, values)
        sentinels = tuple(dict.fromkeys(v for v in values[1:] if v != values[0]))
        return Suspects(values[0], sentinels, may_be_db=not (plain and dtype.kind == "u"))

    def _is_plain(self, k: int) -> bool:
        """Return whether the values of the k-th band are the stored ones, and integers of 16 bits or fewer."""
        stored = self._dataset.dtypes[self._indices[k] - 1]
        return stored in ("uint8", "uint16") and self._scales[k] == (1.0, 0.0)

    def _limits_of(self, k: int) -> tuple[np.float32, np.float32]:
        """Return the smallest and the largest value that the k-th band can hold; NaN for floats."""
        dtype = np.dtype(self._dataset.dtypes[self._indices[k] - 1])
        if dtype.kind not in "iu":
            return np.float32(-np.inf), np.float32(np.nan)
        info = np.iinfo(dtype)
        ends = np.empty(2, np.float32)
        self._scaled(np.array([info.min, info.max], dtype), k, ends)
        return ends.min(), ends.max()

    def _floor(self, k: int) -> np.float32:
        """Return the largest value of the k-th band that is certainly nodata, whatever its unit and scale."""
        scale, offset = self._scales[k]
        lowest = min(scale * SENTINEL + offset, float(LOWEST) + 1)  # -9999 hundredths are -99.99
        return np.float32(lowest + abs(lowest) * 1e-6) if scale > 0 else -_BEYOND  # float32 rounds the values

    def _scale(self, index: int) -> tuple[float, float]:
        """Return factor and offset from stored values to their unit."""
        if self._options.scale is not None:
            return self._options.scale, 0.0
        scale, offset = self._dataset.scales[index - 1], self._dataset.offsets[index - 1]
        if not (np.isfinite(scale) and scale and np.isfinite(offset)):
            raise SceneUnreadable(
                f"{self.path}: declares a scale of {scale:g} and an offset of {offset:g} for band {index}: "
                "give --scale FACTOR"
            )
        return scale, offset

    def _is_measured(self, k: int) -> bool:
        """Return whether the k-th band has floats or scaled integers, not plain integers."""
        kind = np.dtype(self._dataset.dtypes[self._indices[k] - 1]).kind
        return kind == "f" or self._scales[k] != (1.0, 0.0)

    def _hint(self, k: int, index: int) -> Hint:
        # Integers with a scale or an offset are packed floats.
        dtype = "float32" if self._is_measured(k) else str(self._dataset.dtypes[index - 1])
        return Hint(self.path, dtype, self._names(index))

    def _names(self, index: int) -> tuple[str, ...]:
        """Return texts that may name the unit, the most reliable first."""
        tags = {**self._dataset.tags(), **self._dataset.tags(index)}
        keys = ("units", "unit", "unittype", "long_name", "standard_name", f"band_{index}")
        tagged = [value for key, value in tags.items() if key.lower() in keys]
        # Floats that were computed from a GRD product may still carry its tag.
        if np.dtype(self._dataset.dtypes[index - 1]).kind == "u":
            tagged.append(tags.get("TIFFTAG_IMAGEDESCRIPTION", ""))
        texts = (
            self._dataset.units[index - 1], *tagged, self._dataset.descriptions[index - 1], Path(self.path).name
        )  # fmt: skip
        return tuple(text for text in texts if text)


@contextmanager
def open_raster(
    path: str | Path, model_bands: tuple[str, ...], options: SceneOptions | None = None
) -> Iterator[RasterBands]:
    """Open a raster's bands for reading.

    Parameters
    ----------
    path
        Anything that GDAL opens.
    model_bands
        Polarisations that the model needs, in its order.
    options
        The user's bands, nodata and scale.

    Yields
    ------
    RasterBands

    Raises
    ------
    SceneUnreadable
        If the file is missing, empty, truncated, not a raster, or complex.
    BandNotFound
        If the file has no such band, has another polarisation than the model's, or its bands have no names.
    """
    options = options or SceneOptions()
    path = raster_in(path, model_bands, options)
    with opened_dataset(path) as dataset:
        with readable_tags(path):
            named = named_bands(dataset, options)
            indices = choose_bands(dataset.name, named, model_bands, options.bands, lone=is_lone(dataset, named))
            bands = checked_bands(dataset, named, indices, options)
        try:
            yield bands
        finally:
            bands.close()


def named_bands(dataset: Any, options: SceneOptions) -> dict[int, str | None]:
    """Find the polarisation of each band, and check that the raster is SAR; see `open_raster`."""
    refuse_non_sar(dataset, options)
    refuse_pages(dataset, options)
    named = polarisations_of(dataset)
    if is_lone(dataset, named):  # a more helpful error than that of a missing polarisation
        refuse_other_layers(dataset, named, (next(iter(named)),))
    return named


def checked_bands(
    dataset: Any, named: Mapping[int, str | None], indices: tuple[int, ...], options: SceneOptions
) -> RasterBands:
    """Make readable bands of an open dataset, and check that they are SAR; see `open_raster`."""
    refuse_other_layers(dataset, named, indices)
    refuse_complex(dataset, indices)
    refuse_wider_than_memory(dataset, indices)
    single = tuple(named[index] if named[index] in POLARISATIONS else None for index in indices)
    return RasterBands(dataset, indices, single, options)


@contextmanager
def opened_dataset(path: str | Path) -> Iterator[Any]:
    """Open with GDAL, and turn its exceptions into ours."""
    # Warnings are filtered while the file is opened, not while it is read: the filter is the whole process's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # GCP scenes and chips are welcome
        try:
            dataset = _with_threads(path)
        except DAMAGE as error:
            raise SceneUnreadable(why_unreadable(path, error)) from error
    with dataset:
        if dataset.count == 0:
            inside = ", ".join(dataset.subdatasets[:3]) or "nothing"
            raise SceneUnreadable(f"{path}: has no band of its own, but contains {inside}: give one of those")
        yield dataset


def _with_threads(path: str | Path) -> Any:
    """Open a raster so that all cores decode a GeoTIFF's blocks: GDAL sets the number when it opens a file.

    An uncompressed file on a server is read by one thread: after a failed request, the threads of GDAL 3.10.3 raise
    no error and return wrong pixels (findings/gdal_threads_wrong_pixels.sh, OSGeo/gdal#11552).
    """
    if is_remote(path):
        with rasterio.Env(GDAL_NUM_THREADS="1"):
            dataset = rasterio.open(path)
        if dataset.compression is None:
            return dataset
        dataset.close()
    with rasterio.Env(GDAL_NUM_THREADS=str(usable_cores())):
        return rasterio.open(path)


def _stored_fill(limits: np.iinfo[Any]) -> list[int]:
    """Return the integers of a type that may be undeclared nodata."""
    known = [value for value in _STORED_FILL if limits.min <= value <= limits.max]
    return [*known, *([limits.min] if limits.min else []), limits.max]


def georeference_of(dataset: Any) -> Georeference:
    """Return the georeference; the affine wins over GCPs where a raster has both, as in GDAL and rasterio."""
    gcps, gcp_crs = dataset.gcps
    transform = None if dataset.transform == Affine.identity() else dataset.transform
    if transform is not None and not (np.isfinite(tuple(transform)).all() and transform.determinant):
        raise SceneUnreadable(
            f"{dataset.name}: its affine {tuple(transform)[:6]} is degenerate: correct it (rio edit-info)"
        )
    if gcps and (transform is None or dataset.crs is None):
        return Georeference(gcps=tuple(gcps), gcp_crs=gcp_crs)
    return Georeference(crs=dataset.crs, transform=transform)


def _as_stored(nodata: float, dtype: np.dtype[Any]) -> Any:
    """Convert nodata to the band's type, so that -3.4e38 or 0.1 compares equal in float32."""
    with np.errstate(over="ignore"):  # the lowest double may be declared for a float32 band
        return dtype.type(nodata) if np.issubdtype(dtype, np.floating) else nodata
