"""Write the strips of a scene that several processes share; one of them assembles the mosaic."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sar2optical.mosaic.coding import BlockCoding, chunks_of, compressed
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import output_errors
from sar2optical.mosaic.overviews import Level, half_name, halve, strip_name
from sar2optical.mosaic.run_folder import RunFolder, run_folder_of, shared_run_folder
from sar2optical.mosaic.strip_store import filled, write_with_half
from sar2optical.mosaic.strips import Strip, StripDamaged

__all__ = ["StripFiles"]


class StripFiles:
    """Strips of a mosaic that another process assembles; without overviews.

    A context manager for `write`: it shares the run folder with other processes that write strips of the same run.

    Parameters
    ----------
    out
        Path of the mosaic.
    shape
        Rows and columns of the mosaic.
    manifest
        Manifest of the run.
    coding
        Size and compression of the blocks.
    row
        First row to be written, the first of a strip.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int],
        manifest: Manifest,
        *,
        coding: BlockCoding | None = None,
        row: int = 0,
    ) -> None:
        self._out = out
        self._manifest = manifest
        self._coding = coding or BlockCoding()
        self._level = Level(
            number=0, height=shape[0], width=shape[1], block=self._coding.blocksize, rows=row,
            bands=self._coding.bands, dtype=self._coding.dtype,
        )  # fmt: skip
        self._sharing = ExitStack()

    def begin(self, *, restart: bool = False) -> None:
        """Make the run folder, with the run's manifest, for the processes that write strips.

        Raises
        ------
        OtherRun, OutputUnwritable
            See `StripStore`.
        """
        with output_errors(self._out):
            RunFolder(self._out, self._manifest, restart=restart).prepare()

    def rows(self) -> int:
        """Count the rows on disk that are intact and of this run, from the top."""
        row = 0
        while row < self._level.height:
            strip = self._read(row)
            if strip is None:
                break
            row += strip.shape[0]
        return row

    def missing(self) -> list[int]:
        """Return the first row of each strip that is not on disk, or not as this run writes it."""
        block, height = self._level.block, self._level.height
        return [row for row in range(0, height, block) if not self._is_intact(row, min(block, height - row))]

    def __enter__(self) -> Self:
        self._sharing.enter_context(shared_run_folder(self._out, self._manifest))
        return self

    def __exit__(self, *_: object) -> None:
        self._sharing.close()

    def write(self, rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows; see `MosaicWriter.write`. They are on disk when their strip is complete."""
        for row, strip in filled(self._level, rgb, valid):
            with output_errors(self._out):
                half = halve(strip) if self._coding.lossy else None
                parts = [
                    compressed(strip[:, :, part], self._coding) for part in chunks_of(strip.shape[2], self._coding)
                ]
                write_with_half(self._path(row), parts, half, self._manifest.fingerprint, self._coding)

    def _is_intact(self, row: int, rows: int) -> bool:
        strip = self._read(row)
        return strip is not None and strip.shape[0] == rows and self._coding.matches(strip.image)

    def _read(self, row: int) -> Strip | None:
        """Read a strip that a run can resume from; None if there is none."""
        try:
            strip = Strip.read(self._path(row), self._manifest.fingerprint)
        except StripDamaged:
            return None
        usable = strip.shape[1] == self._level.width and (not strip.lossy or self._has_half(row, strip))
        return strip if usable else None

    def _has_half(self, row: int, strip: Strip) -> bool:
        """Return whether a lossy strip can be used: it has this coding, and an intact half if overviews need it."""
        try:
            if max(self._level.shape) > self._level.block:
                Strip.read(self._path(row).with_name(half_name(row)), self._manifest.fingerprint)
        except StripDamaged:
            return False
        return self._coding.matches(strip.image)

    def _path(self, row: int) -> Path:
        return run_folder_of(self._out) / strip_name(row)
