"""A scene and an engine, opened, and everything that decides the pixels of their mosaic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar2optical.engines import Engine
from sar2optical.engines.base import default_threads
from sar2optical.mosaic.coding import BlockCoding
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.vrt import BandNotes
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.scene.cut import Cut
from sar2optical.scene.decoding import RGB, Decoding
from sar2optical.scene.encoder import Encoding
from sar2optical.scene.scene import SceneSource
from sar2optical.signature import Unit
from sar2optical.tiling.windows import WindowGrid

__all__ = ["Job", "ResolvedOptions", "engine_threads"]


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions:
    """What `auto` and the scene's values came to; sent between processes that share a scene."""

    encodings: list[Encoding]
    """One for each band."""
    unit: Unit | None
    """Unit of the scene's values; None where no pixel is valid."""
    backend: str
    """Backend that runs the model."""
    precision: str
    """Precision of the arithmetic."""
    window: int
    """Height and width of the windows."""
    manifest: Manifest
    """Manifest of the run, the same for each process."""

    def applied_to(self, options: TranslateOptions) -> TranslateOptions:
        """Replace `auto` in options by what it came to."""
        engine = replace(options.engine, precision=self.precision)  # type: ignore[arg-type]
        scene = replace(options.scene, unit=self.unit)
        return replace(options, backend=self.backend, engine=engine, scene=scene, window=self.window)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A scene and an engine, opened, and everything that decides the pixels of their mosaic."""

    scene: SceneSource
    """Scene to read."""
    engine: Engine
    """Engine to run."""
    file: Path
    """Engine file."""
    grid: WindowGrid
    """Windows of the scene."""
    encodings: list[Encoding]
    """One for each band of the model."""
    manifest: Manifest
    """Everything that decides the pixels."""
    tags: Mapping[str, str]
    """Tags of the mosaic."""
    ahead: int
    """Pieces of the scene to read before they are needed."""
    cache: int
    """Size of GDAL's block cache, in bytes."""
    decoding: Decoding = RGB
    """Bands of the mosaic, and how the model's numbers are stored in them."""
    cut: Cut | None = None
    """Pixels of the scene that the mosaic has, where an area is given; None: all."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the mosaic."""
        return self.cut.shape if self.cut else self.grid.shape

    @property
    def top(self) -> int:
        """Row of the scene that is the first of the mosaic."""
        return self.cut.rows[0] if self.cut else 0

    @property
    def windows(self) -> int:
        """Number of windows that the mosaic may need."""
        return int(np.count_nonzero(self.cut.windows)) if self.cut else len(self.grid)

    def place(self, top: int, left: int) -> tuple[int, int]:
        """Return where a window begins in the whole scene, which an area cuts: its random numbers follow from it."""
        row, col = self.cut.origin if self.cut else (0, 0)
        return row + top, col + left

    def needs(self, row: int, cols: Iterable[int]) -> list[int]:
        """Return those of some windows of one row that have a pixel of the mosaic."""
        return [col for col in cols if self.cut is None or self.cut.windows[row, col]]

    def visible(self, start: int, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the valid pixels of the mosaic in some rows of the scene that it has; see `Cut.visible`."""
        return self.cut.visible(start, valid) if self.cut else valid

    @property
    def resolved(self) -> ResolvedOptions:
        """What another process needs to make a part of the same mosaic."""
        return ResolvedOptions(
            encodings=self.encodings,
            unit=self.scene.unit,
            backend=self.engine.backend,
            precision=self.engine.precision,
            window=self.grid.window,
            manifest=self.manifest,
        )

    def coding(self, options: TranslateOptions) -> BlockCoding:
        """Return size, compression, number and type of the mosaic's blocks."""
        return replace(options.coding, bands=len(self.decoding.bands), dtype=self.decoding.dtype)

    @property
    def notes(self) -> BandNotes | None:
        """What the mosaic says about its bands; None: they are red, green and blue."""
        if self.decoding.measures is None:
            return None
        scale, offset = self.decoding.measures
        return BandNotes(names=self.decoding.bands, scale=scale, offset=offset)

    def writer(self, out: Path, options: TranslateOptions) -> MosaicWriter:
        """Make a writer of this job's mosaic."""
        return MosaicWriter(
            out,
            shape=self.shape,
            georeference=self.cut.georeference if self.cut else self.scene.georeference,
            tags=self.tags,
            manifest=self.manifest,
            options=MosaicOptions(
                coding=self.coding(options),
                notes=self.notes,
                overwrite=options.overwrite,
                threads=engine_threads(options),
                restart=options.restart,
                worldfile=options.worldfile,
            ),
        )


def engine_threads(options: TranslateOptions) -> int:
    """Number of CPU threads for the engine, and for decoding and encoding beside it."""
    return options.engine.threads or default_threads()
