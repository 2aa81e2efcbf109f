"""Open a SAR scene: bands in a known unit, validity of each pixel, and samples of the whole scene for a stretch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sar2optical.scene.bands import Bands, Described, SceneOptions
from sar2optical.scene.companions import with_companions
from sar2optical.scene.joined import open_joined
from sar2optical.scene.nodata import LEAST_RUN, LOWEST, SENTINEL, Fill, FillFinder, long_runs
from sar2optical.scene.raster import open_raster
from sar2optical.scene.safe import ProductOptions, is_product, open_product
from sar2optical.scene.sampling import Part, count_runs, covered, in_db, parts_of, read_ahead, without
from sar2optical.scene.sources import SceneFiles, Source, refuse_calibration
from sar2optical.scene.units import refuse_impossible, unit_of
from sar2optical.signature import Unit

__all__ = ["SAMPLE_LEAST", "SAMPLE_LIMIT", "Scene", "SceneSource", "open_bands", "open_scene"]

SAMPLE_LIMIT = 4_000_000
"""Largest sample, in pixels: its 99th percentile is within 0.01 percentiles of the scene's."""

SAMPLE_LEAST = 100_000
"""Smallest sample, in pixels: a sparse scene is sampled again on a finer grid below it. The 99th percentile of such a
sample is within 0.1 percentiles of the scene's."""

_log = logging.getLogger(__name__)

_MANY_ZEROS = 0.02
"""Share of the valid pixels that are in areas of 0: a larger one is logged."""
NO_FILL = Fill()


class SceneSource(Described, Protocol):
    """A scene as the pipeline reads it: a `Scene`, or a geocoded one."""

    unit: Unit | None
    """Unit of the values; None where no pixel is valid."""
    unit_reason: str
    """Reason for the unit, for messages."""

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """See `Scene.read_samples`."""
        ...

    def estimate_valid_share(self) -> float:
        """See `Scene.estimate_valid_share`."""
        ...

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Scene.read`."""
        ...

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Scene.read_rows`."""
        ...

    def read_stored(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """See `Scene.read_stored`."""
        ...


class Scene:
    """Bands that are ready to be encoded: their unit is known, and pixels without a measurement are invalid.

    Parameters
    ----------
    bands
        Bands, open for reading.
    unit
        Unit that the user gives; None: it is guessed from the file.
    """

    def __init__(self, bands: Bands, unit: Unit | None = None) -> None:
        self._bands = bands
        self.path = bands.path
        self.sources = bands.sources
        self.files = bands.files
        self.shape = bands.shape
        self.polarisations = bands.polarisations
        self.georeference = bands.georeference
        self.block = bands.block
        self.readers = bands.readers
        self.row_of_blocks = bands.row_of_blocks
        self.dtype = bands.dtype
        self._sampled: tuple[NDArray[np.float32], ...] | None = None
        self._valid_share = 0.0
        self._zeros_inside = 0.0
        self._fill: Fill | None = None if any(some.all for some in bands.suspects) else NO_FILL
        self._filled_rows = 0
        self._fill_seen: tuple[float, ...] = ()
        self.unit, self.unit_reason = self._unit(unit)
        self._zero_is_nodata = bands.zero_is_nodata(self.unit)
        self._log_fill()

    def read_samples(self) -> tuple[NDArray[np.float32], ...]:
        """Sample the valid values of each band on a regular grid.

        The first call reads the scene, or the parts of it that stand for a large one (`sampling.parts_of`); later
        calls return the same samples.

        Returns
        -------
        tuple of ndarray
            By band: float32 (n,) in `unit`; n is about `SAMPLE_LIMIT` at most. Empty where no pixel is valid.

        Raises
        ------
        SceneUnreadable
            If the file ends early or a block cannot be decoded.
        """
        samples = self._raw_samples()
        return tuple(sample[sample != 0] for sample in samples) if self._zero_is_nodata else samples

    def estimate_valid_share(self) -> float:
        """Estimate the share of the pixels that are valid, 0 to 1; reads the scene as `read_samples` does."""
        self._raw_samples()
        return self._valid_share

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle.

        Parameters
        ----------
        rows, cols
            First and past-the-last, within the scene.

        Returns
        -------
        values
            float32 (bands, rows, columns) in `unit`; 0 where invalid.
        valid
            bool (rows, columns): every band has a finite value that is not nodata.

        Raises
        ------
        SceneUnreadable
            If the file ends early or a block cannot be decoded.
        """
        whole = (0, self.shape[1])
        # Runs are recognised by their length: read beyond the rectangle those that it cuts.
        wider = max(0, cols[0] - LEAST_RUN), min(whole[1], cols[1] + LEAST_RUN)
        values, valid = self._bands.read(rows, wider)
        if wider != whole and self._fill_known().touches(values, valid):
            wider = whole  # the ends of rows are recognised in whole rows
            values, valid = self._bands.read(rows, whole)
        values, valid = self._masked(values, valid)
        inner = slice(cols[0] - wider[0], cols[1] - wider[0])
        return values[..., inner], valid[:, inner]

    def _masked(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        inside = self._fill_known().inside(values, valid)
        if self._zero_is_nodata:
            # Single zeros stay valid: noise removal leaves power of 0, and shadows DN of 0.
            for band in values:
                zero = band == 0
                if zero.any():
                    inside = inside & ~long_runs(zero)
        if inside is not valid:  # saves a pass over the values of most scenes
            values *= inside
        return values, inside

    def read_rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read whole rows; see `read`."""
        return self.read((start, stop), (0, self.shape[1]))

    def read_stored(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read whole rows as `dtype`: plain integers need half of the memory, and no conversion; see `read`."""
        if self.dtype == np.float32:
            return self.read_rows(start, stop)
        return self._masked(*self._bands.read_plain((start, stop), (0, self.shape[1])))

    def _fill_known(self) -> Fill:
        """Return the undeclared nodata; the scene, or parts of a large one, are read for it once."""
        if self._fill is None:
            self._raw_samples()
        assert self._fill is not None
        return self._fill

    def _log_fill(self) -> None:
        if self._bands.sentinels_seen:
            _log.info(
                "%s: values of %g or less are masked, but not declared as nodata in the file", self.path, SENTINEL
            )
        if self._filled_rows:
            _log.info(
                "%s: fill values at the ends of at least %d rows are masked, but not declared as nodata in the file",
                self.path, self._filled_rows
            )  # fmt: skip
        if self._fill_seen:
            _log.info(
                "%s: values %s inside the scene are masked, but not declared as nodata in the file",
                self.path, ", ".join(f"{value:g}" for value in self._fill_seen),
            )  # fmt: skip
        if self._zeros_inside > _MANY_ZEROS and not self._zero_is_nodata:
            _log.warning(
                "%s: %.0f %% of the valid pixels are zeros in areas inside the scene, and are kept as measurements: "
                "give --nodata 0 if these zeros are nodata", self.path, 100 * self._zeros_inside
            )  # fmt: skip

    def _sample(self) -> tuple[NDArray[np.float32], ...]:
        """Sample the valid values of each band on a regular grid; on a finer one where few pixels are valid."""
        find = self._fill is None
        for whole in (False, True):
            parts = parts_of(self.shape, self._bands.block, whole=whole)
            partial = covered(parts) < math.prod(self.shape)
            finder = FillFinder(self.shape, self._bands.suspects) if find else None
            samples, valid, runs = self._on_grid(parts, finder)
            if finder:
                samples, valid = self._without_fill(finder, samples, valid, runs, partial=partial)
            if samples[0].size >= SAMPLE_LEAST or not partial:
                break
        if samples[0].size < min(valid, SAMPLE_LEAST):
            samples, _, _ = self._on_grid(parts, step=_grid_step(valid))
        self._valid_share = valid / covered(parts)
        return samples

    def _without_fill(
        self,
        finder: FillFinder,
        samples: tuple[NDArray[np.float32], ...],
        valid: int,
        runs: list[int],
        *,
        partial: bool,
    ) -> tuple[tuple[NDArray[np.float32], ...], int]:
        """Find the undeclared nodata, remove it from samples, and correct the number of valid pixels."""
        self._fill, self._fill_seen = self._found(finder, samples, runs)
        self._filled_rows = finder.rows
        suspects, before = self._bands.suspects, samples[0].size
        # In parts of rows, runs of 0 are not counted where they reach a border: 0 in dB is removed in any case.
        zeros = [[s.zero] if partial and s.zero in r else [] for s, r in zip(suspects, self._fill.runs, strict=True)]
        samples = without(
            samples,
            [[*finder.known(k).tolist(), *self._fill_seen, *map(float, zeros[k])] for k in range(len(samples))],
        )
        counted = [n for n, some in zip(runs, suspects, strict=True) if some.zero in self._fill_seen]
        masked = min(valid, max(finder.undeclared, *counted, 0))
        self._zeros_inside = max(0, max(runs) - (0 if partial else masked)) / max(valid, 1)
        return samples, round(valid * samples[0].size / max(before, 1)) if partial else valid - masked

    def _found(
        self, finder: FillFinder, samples: tuple[NDArray[np.float32], ...], runs: list[int]
    ) -> tuple[Fill, tuple[float, ...]]:
        """Choose the undeclared nodata, by what the finder saw and the sample; and list what was seen inside.

        In dB no run of pixels has exactly one value, so runs of a suspect value are nodata anywhere. Noise removal
        leaves power of 0 as well: inside an image it stays valid, see `_zero_is_nodata`.
        """
        inside, everywhere, seen = [], [], set()
        for k, (suspects, sample) in enumerate(zip(self._bands.suspects, samples, strict=True)):
            known, runs_of = finder.known(k), finder.inside(k)
            zero = (suspects.zero,) if suspects.zero is not None and in_db(sample, suspects) else ()
            inside.append((*zero, *suspects.sentinels))
            everywhere.append(tuple(v for v in {*known, *runs_of} if v <= LOWEST))
            seen |= {v for v in suspects.sentinels if v in known or v in runs_of} | {*everywhere[-1]}
            seen |= {*zero} if runs[k] else set()
        ends = tuple(finder.ends(k) for k in range(len(samples)))
        return Fill(ends, tuple(inside), tuple(everywhere)), tuple(sorted(float(v) for v in seen))

    def _on_grid(
        self, parts: list[Part], finder: FillFinder | None = None, step: int | None = None
    ) -> tuple[tuple[NDArray[np.float32], ...], int, list[int]]:
        """Read parts of the scene.

        Returns
        -------
        samples
            By band: float32 (n,), valid values of every `step`-th row and column.
        valid
            Number of valid pixels in the sampled parts.
        runs
            By band: number of pixels in runs of the value of a stored 0; 0 without a finder.
        """
        width = self.shape[1]
        step = step or _grid_step(covered(parts))
        samples: list[list[NDArray[np.float32]]] = [[] for _ in self.polarisations]
        runs = [0] * len(samples)
        total = 0
        for part, values, valid in read_ahead(self._bands, parts):
            if finder:
                ends = part.cols[0] == 0, part.cols[1] == width
                finder.look(values, valid, part.rows[0], left=ends[0], right=ends[1])
            if not part.sampled:
                continue
            for k, suspects in enumerate(self._bands.suspects if finder else ()):
                if suspects.zero is not None and suspects.may_be_db:
                    runs[k] += count_runs(values[k], valid, suspects.zero, part, width)
            whole = not finder and self._fill and part.cols == (0, width)
            usable = self._fill.inside(values, valid) if whole and self._fill else valid
            total += int(np.count_nonzero(usable))
            # Continues the grid across parts.
            rows, cols = slice(-part.rows[0] % step, None, step), slice(-part.cols[0] % step, None, step)
            chosen = usable[rows, cols]
            for sample, band in zip(samples, values, strict=True):
                sample.append(band[rows, cols][chosen])
        return tuple(np.concatenate(sample) for sample in samples), total, runs

    def _unit(self, asked: Unit | None) -> tuple[Unit | None, str]:
        if asked:
            if not self._bands.stated and (given := self._raw_samples())[0].size:
                refuse_impossible(asked, self._bands.hints, given)
            return asked, "given by the user"
        if self._bands.stated:
            return self._bands.stated
        samples = self._raw_samples()
        return unit_of(self._bands.hints, samples) if samples[0].size else (None, "no valid pixel")

    def _raw_samples(self) -> tuple[NDArray[np.float32], ...]:
        if self._sampled is None:
            self._sampled = self._sample()
        return self._sampled


@contextmanager
def open_scene(
    path: Source,
    model_bands: tuple[str, ...],
    options: SceneOptions | None = None,
    product: ProductOptions | None = None,
) -> Iterator[Scene]:
    """Open a SAR raster, or a Sentinel-1 product, for reading.

    Parameters
    ----------
    path
        Anything that GDAL opens; a `.SAFE` folder, its `manifest.safe`, or a zip of one; or the files of several
        polarisations. Those of one that the model also needs are found by its name.
    model_bands
        Polarisations that the model needs, in its order.
    options
        The user's bands, unit, nodata and scale.
    product
        Calibration of a product; None for other rasters.

    Yields
    ------
    Scene

    Raises
    ------
    SceneUnreadable
        If the file is missing, empty, truncated, not a raster, or complex.
    BandNotFound
        If the file has no such band, has another polarisation than the model's, or its bands have no names.
    UnitsUnknown
        If the unit is not given and is ambiguous.
    OptionWithoutEffect
        If a calibration is given for a raster that is not a product.
    """
    options = options or SceneOptions()
    with open_bands(path, model_bands, options, product) as bands:
        refuse_calibration(path, product)  # after opening: damage is the more important error
        yield Scene(bands, options.unit)


def open_bands(
    path: Source, model_bands: tuple[str, ...], options: SceneOptions, product: ProductOptions | None
) -> AbstractContextManager[Bands]:
    """Open the bands of a scene without reading values: the unit may be unknown; see `open_scene`."""
    if isinstance(path, SceneFiles):
        return open_joined(path, model_bands, options)
    if is_product(path):
        return open_product(path, model_bands, options, product)
    found = path if options.bands else with_companions(path, model_bands)
    if isinstance(found, SceneFiles):
        return open_joined(found, model_bands, options)
    return open_raster(path, model_bands, options)


def _grid_step(pixels: int) -> int:
    """Return the spacing of a grid of about `SAMPLE_LIMIT` points on so many pixels; odd, for patterns are even."""
    return max(1, int(np.ceil(np.sqrt(pixels / SAMPLE_LIMIT)))) | 1
