"""Translate arrays in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.api.keywords import Bound, naming_keywords, stretch_of
from sar2optical.api.scene import SarArray
from sar2optical.api.source import is_data_array
from sar2optical.engines import Engine
from sar2optical.errors import BandNotFound, OptionError, UnitsUnknown
from sar2optical.mosaic.manifest import Manifest
from sar2optical.pipeline.job import Job
from sar2optical.pipeline.stream import stream
from sar2optical.scene.bands import Georeference
from sar2optical.scene.encoder import encodings_for
from sar2optical.scene.units import could_be, guess_unit
from sar2optical.signature import UNITS, Stretch, Unit
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

__all__ = ["predict"]


def predict(
    sar: Any,
    engine: Engine,
    *,
    unit: Unit | None = None,
    stretch: Stretch | tuple[Bound, Bound] | None = None,
    overlap: int = DEFAULT_OVERLAP,
) -> Any:
    """Translate an array of SAR values into RGB, window by window as `translate` does.

    Parameters
    ----------
    sar
        (H, W) or (bands, H, W): a numpy array, a masked array, a `SarArray` from `SceneReader.read`, or an xarray
        DataArray. NaN and masked pixels are invalid. Percentiles of a stretch are taken from the whole scene of a
        `SarArray`, and from the given values otherwise.
    engine
        Engine from `open_engine`.
    unit
        Unit of the values: dn, amplitude, power, db or byte; by default that of a `SarArray`, the attribute `units`
        of a DataArray, or what dtype and values show.
    stretch
        Two bounds, as values or percentiles ("p1"), instead of the model's own.
    overlap
        Pixels that neighbouring windows share.

    Returns
    -------
    numpy.ma.MaskedArray or xarray.DataArray
        uint8 (3, H, W): red, green, blue. A DataArray has the input's coordinates, and `valid` (H, W).

    Raises
    ------
    UnitsUnknown
        If the unit is not given and not evident.
    BandNotFound
        If the number of bands is not the model's.
    """
    values = np.ma.asanyarray(sar.values if is_data_array(sar) else sar)
    bands = values[None] if values.ndim == 2 else values
    if bands.ndim != 3 or not bands.size or bands.dtype.kind not in "iuf":
        raise OptionError(f"sar is {values.dtype} {values.shape}: give real numbers of shape (H, W) or (bands, H, W)")
    wanted = engine.signature.bands
    if len(bands) != len(wanted):
        raise BandNotFound(f"sar has {len(bands)} bands, the model takes {len(wanted)} ({', '.join(wanted)})")
    with naming_keywords():
        scene = _ArrayScene(bands, _unit_of(sar, bands, unit))
        grid = window_grid(scene.shape, engine.signature.window, overlap)
        encodings = encodings_for(scene.unit, scene.read_samples(), engine.signature, stretch_of(stretch))
        job = Job(
            scene=scene, engine=engine, file=Path(), grid=grid, encodings=encodings, manifest=Manifest({}), tags={},
            ahead=1, cache=0,
        )  # fmt: skip
        rows = _Rows(scene.shape)
        stream(job, rows)
    if is_data_array(sar):
        return _like(sar, rows)
    return np.ma.MaskedArray(rows.rgb, mask=np.broadcast_to(~rows.valid, rows.rgb.shape))


class _ArrayScene:
    """Bands in memory, as the source of a job."""

    path = "array"
    files: tuple[Path, ...] = ()
    georeference = Georeference()
    row_of_blocks = 0
    unit_reason = "array"

    def __init__(self, bands: NDArray[Any], unit: Unit | None) -> None:
        self.shape: tuple[int, int] = bands.shape[1:]
        self.polarisations: tuple[str | None, ...] = (None,) * len(bands)
        self.unit = unit
        data = np.ma.getdata(bands).astype(np.float32)
        self._valid: NDArray[np.bool_] = np.logical_and(
            np.isfinite(data).all(axis=0), ~np.ma.getmaskarray(bands).any(axis=0)
        )
        self._values = np.where(self._valid, data, np.float32(0))
        known = bands.samples if isinstance(bands, SarArray) else None
        self._samples = known or tuple(band[self._valid] for band in self._values)

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """Return the values that percentiles are taken from."""
        return self._samples

    def estimate_valid_share(self) -> float:
        """Return the share of valid pixels."""
        return float(self._valid.mean())

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a rectangle."""
        return self._values[:, slice(*rows), slice(*cols)], self._valid[slice(*rows), slice(*cols)]

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return whole rows."""
        return self.read((start, stop), (0, self.shape[1]))


class _Rows:
    """A writer that keeps finished rows in memory."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.rgb = np.zeros((3, *shape), np.uint8)
        self.valid = np.zeros(shape, np.bool_)
        self._row = 0

    def write(self, rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Store the next rows."""
        rows = slice(self._row, self._row + len(valid))
        self.rgb[:, rows], self.valid[rows] = rgb * valid, valid
        self._row = rows.stop


def _unit_of(sar: Any, bands: NDArray[Any], unit: Unit | None) -> Unit | None:
    """Return the unit that is given, attached or evident; None if no pixel is valid."""
    valid = np.ma.masked_invalid(bands, copy=True).compressed()
    if not valid.size:
        return unit
    if unit is None:
        unit = bands.unit if isinstance(bands, SarArray) else sar.attrs.get("units") if is_data_array(sar) else None
    if unit is None:
        return guess_unit(str(bands.dtype), (), valid.astype(np.float32))[0]
    if unit not in UNITS:
        raise OptionError(f"unit is {unit!r}: give one of {', '.join(UNITS)}")
    median = float(np.median(valid))
    if bands.dtype != np.uint8 and not could_be(unit, median):
        raise UnitsUnknown(f"unit is {unit}, but the median of the values is {median:.4g}: give their real unit")
    return unit


def _like(sar: Any, rows: _Rows) -> Any:
    """Return the result as a DataArray with the coordinates of the input."""
    import xarray

    y, x = sar.dims[-2:]
    kept = {name: value for name, value in sar.coords.items() if set(value.dims) <= {y, x} and name != "band"}
    coords = {**kept, "band": ["red", "green", "blue"], "valid": ((y, x), rows.valid)}
    return xarray.DataArray(rows.rgb, dims=("band", y, x), coords=coords, name="rgb")
