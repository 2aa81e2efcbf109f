"""A scene and an engine, opened, and everything that decides the pixels of their mosaic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sar2optical.engines import Engine
from sar2optical.engines.base import default_threads
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter
from sar2optical.pipeline.options import TranslateOptions
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

    def writer(self, out: Path, options: TranslateOptions) -> MosaicWriter:
        """Make a writer of this job's mosaic."""
        return MosaicWriter(
            out,
            shape=self.scene.shape,
            georeference=self.scene.georeference,
            tags=self.tags,
            manifest=self.manifest,
            options=MosaicOptions(
                coding=options.coding,
                overwrite=options.overwrite,
                threads=engine_threads(options),
                restart=options.restart,
            ),
        )


def engine_threads(options: TranslateOptions) -> int:
    """Number of CPU threads for the engine, and for decoding and encoding beside it."""
    return options.engine.threads or default_threads()
