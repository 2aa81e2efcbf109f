"""Translate arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sar2optical.api.keywords import Bound, naming_keywords, scene_options, stretch_of
from sar2optical.api.scene import SarArray
from sar2optical.api.source import is_data_array, source_path, spatial_dims, unit_of
from sar2optical.engines import Engine
from sar2optical.errors import BandNotFound, OptionError
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.rasters import open_raster
from sar2optical.pipeline.flow import PIECE
from sar2optical.pipeline.job import Job
from sar2optical.pipeline.stream import stream
from sar2optical.scene.bands import Georeference
from sar2optical.scene.decoding import decoding_for
from sar2optical.scene.encoder import encodings_for, warn_outside
from sar2optical.scene.scene import SceneSource, open_scene
from sar2optical.signature import Stretch, Unit
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

__all__ = ["predict"]


def predict(
    sar: Any,
    engine: Engine,
    *,
    unit: Unit | None = None,
    stretch: Stretch | tuple[Bound, Bound] | None = None,
    window: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
) -> Any:
    """Translate an array of SAR values into RGB, window by window as `translate` does.

    Parameters
    ----------
    sar
        (H, W) or (bands, H, W): a `SarArray` from `SceneReader.read`, a numpy (masked) array, or an xarray DataArray.
        Arrays are treated as a file with these values: masked pixels, NaN and fill values are invalid. Percentiles of
        a stretch are taken from the whole scene of a `SarArray`, and from the given values otherwise.
    engine
        Engine from `open_engine`.
    unit
        Unit of the values: dn, amplitude, power, db or byte; by default that of a `SarArray`, the attribute `units`
        of a DataArray, or what dtype and values show.
    stretch
        Two bounds, as values or percentiles ("p1"), instead of the model's own.
    window
        Side of the windows, one that the model takes; None: the file's auto window, else that of training.
    overlap
        Least number of pixels that neighbouring windows share.

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
    if not isinstance(engine, Engine):
        raise OptionError(f"engine is a {type(engine).__name__}: give an engine from open_engine")
    with naming_keywords(), ExitStack() as stack:
        if isinstance(sar, SarArray) and sar.unit is not None:
            scene: SceneSource = _of_scene(sar, engine, unit)
        else:
            scene = stack.enter_context(_of_array(sar, engine, unit))
        stack.callback(engine.use_window, engine.window)  # `engine.run` takes what it took before
        engine.use_window(window or engine.signature.default_window)
        grid = window_grid(scene.shape, engine.window, overlap)
        encodings = encodings_for(scene.unit, scene.read_samples(), engine.signature, stretch_of(stretch))
        warn_outside("sar", encodings, scene.read_samples())
        job = Job(
            scene=scene, engine=engine, file=Path(), grid=grid, encodings=encodings, manifest=Manifest({}), tags={},
            ahead=1, cache=0, decoding=decoding_for(engine.signature.output),
        )  # fmt: skip
        rows = _Rows(scene.shape)
        stream(job, rows)
    if is_data_array(sar):
        return _like(sar, rows)
    return np.ma.MaskedArray(rows.rgb, mask=np.broadcast_to(~rows.valid, rows.rgb.shape))


def _of_scene(sar: SarArray, engine: Engine, unit: Unit | None) -> _ArrayScene:
    """Take values that `SceneReader.read` returned: unit and validity are known."""
    if unit not in (None, sar.unit):
        raise OptionError(f"unit is {unit}, but the scene is in {sar.unit}: leave out unit")
    bands = cast("SarArray", sar[None] if sar.ndim == 2 else sar)
    if bands.ndim != 3 or not bands.size:
        raise OptionError(f"sar has shape {sar.shape}: give (H, W) or (bands, H, W), 1 pixel or more")
    _check_count(len(bands), engine)
    return _ArrayScene(bands)


@contextmanager
def _of_array(sar: Any, engine: Engine, unit: Unit | None) -> Iterator[SceneSource]:
    """Open an array as a scene, so that unit, nodata and fill values are found as in a file."""
    if not is_data_array(sar) and not isinstance(sar, np.ndarray):
        raise OptionError(f"sar is a {type(sar).__name__}: give a numpy array, a SarArray or a DataArray")
    with source_path(sar) as path:
        with open_raster(Path(str(path))) as dataset:
            count, named = dataset.count, any(dataset.descriptions)
        _check_count(count, engine)
        # Named bands are found by the model's polarisations; others are taken in their order.
        bands = () if named else tuple(map(str, range(1, count + 1)))
        with open_scene(
            path, engine.signature.bands, scene_options(bands, unit or unit_of(sar), None, None)
        ) as scene:
            yield scene


def _check_count(count: int, engine: Engine) -> None:
    wanted = engine.signature.bands
    if count != len(wanted):
        raise BandNotFound(
            f"sar has {count} bands, the model takes {len(wanted)} ({', '.join(wanted)}): give only these bands"
        )


class _ArrayScene:
    """A `SarArray` as the source of a job."""

    path = "array"
    sources: tuple[str, ...] = ("array",)
    files: tuple[Path, ...] = ()
    georeference = Georeference()
    block, readers = (PIECE, 1), 1
    row_of_blocks = 0
    dtype = np.dtype(np.float32)
    unit_reason = "the scene's"

    def __init__(self, bands: SarArray) -> None:
        self.shape: tuple[int, int] = bands.shape[1:]
        self.polarisations: tuple[str | None, ...] = (None,) * len(bands)
        self.unit = bands.unit
        self._valid: NDArray[np.bool_] = np.logical_not(np.ma.getmaskarray(bands).any(axis=0))
        self._values = np.where(self._valid, np.ma.getdata(bands), np.float32(0))
        self._samples = bands.samples or tuple(band[self._valid] for band in self._values)

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """Return the values that percentiles are taken from."""
        return self._samples

    def estimate_valid_share(self) -> float:
        """Return the share of valid pixels."""
        return float(self._valid.mean())

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a rectangle."""
        return self._values[:, slice(*rows), slice(*cols)], self._valid[slice(*rows), slice(*cols)]

    def read_stored(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows: values are float32."""
        return self.read_rows(start, stop)

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


def _like(sar: Any, rows: _Rows) -> Any:
    """Return the result as a DataArray with the coordinates of the input."""
    import xarray

    y, x = spatial_dims(sar)
    kept = {name: value for name, value in sar.coords.items() if set(value.dims) <= {y, x} and name != "band"}
    coords = {**kept, "band": ["red", "green", "blue"], "valid": ((y, x), rows.valid)}
    return xarray.DataArray(rows.rgb, dims=("band", y, x), coords=coords, name="rgb")
