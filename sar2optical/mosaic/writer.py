"""Write a mosaic row by row: strips and overviews to disk, then one file, renamed to its final path when complete.

The strips are in the output's run folder, `OUT.parts`, see `strip_store`, beside the files that are made of them::

    mosaic.vrt    georeference and tags, or all strips of a picture as one raster
    mosaic.tif    the output, until it is verified and renamed

A run that stops before its output is complete leaves its strips; `MosaicWriter.resume` reads them in the next run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio

from sar2optical._utils.files import write_whole
from sar2optical.errors import OptionError
from sar2optical.mosaic.coding import BlockCoding
from sar2optical.mosaic.cog import build_cog, verify_cog
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import check_output, driver_of, output_errors, publish
from sar2optical.mosaic.pictures import check_picture, encode_preview, write_picture
from sar2optical.mosaic.sidecars import refuse_sidecars, sidecars_of
from sar2optical.mosaic.strip_store import StripStore
from sar2optical.mosaic.tags import to_comment
from sar2optical.mosaic.vrt import BandNotes, band_elements, georeference_elements, metadata_elements
from sar2optical.scene.bands import Georeference
from sar2optical.scene.raster import GDAL_CACHE_BYTES

__all__ = ["MosaicOptions", "MosaicWriter", "coding_of"]

_GDAL = {
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # strips have no sidecars to search for
}


@dataclass(frozen=True, kw_only=True)
class MosaicOptions:
    """How a mosaic is written."""

    coding: BlockCoding = field(default_factory=BlockCoding)
    """Size and compression of a COG's blocks."""
    overwrite: bool = False
    """Whether an existing file may be replaced; it stays until the new one is complete."""
    threads: int = 1
    """Threads that compress blocks."""
    restart: bool = False
    """Whether strips of an earlier run are removed."""
    worldfile: bool = False
    """Whether a picture's georeference is written beside it."""
    notes: BandNotes | None = None
    """Names of the bands, and what their numbers are; None: they are red, green and blue."""


def coding_of(out: Path, coding: BlockCoding) -> BlockCoding:
    """Return the coding of an output's strips: that of its blocks; a fast one for a picture, which decodes them."""
    return coding if driver_of(out) == "COG" else replace(coding, compress="zstd")


class MosaicWriter:
    """Write rows from top to bottom into a COG or a picture.

    A context manager: the file at `out` is either unchanged or the complete mosaic. The strips are removed when the
    mosaic is complete. Memory is a few strips, whatever the mosaic's height.

    Parameters
    ----------
    out
        Path of the output: .tif and .tiff become a COG; .png, .jpg and .jpeg a picture without georeference.
    shape
        Rows and columns of the mosaic.
    georeference
        Georeference of the COG, kept exactly.
    tags
        Metadata of the COG.
    manifest
        Manifest of the run. With one, the strips of an incomplete run stay, and a later run with an equal manifest
        can `resume`. Without one, they are always removed.
    options
        Compression, overwriting, threads.

    Raises
    ------
    OptionError
        The suffix or the compression is not supported, or the picture is too large for its format.
    OutputExists, OutputUnwritable
        See `check_output`.
    OtherRun
        On entering: the run folder holds strips of another run.
    """

    def __init__(
        self,
        out: Path,
        *,
        shape: tuple[int, int],
        georeference: Georeference,
        tags: Mapping[str, str],
        manifest: Manifest | None = None,
        options: MosaicOptions | None = None,
    ) -> None:
        options = options or MosaicOptions()
        check_output(out, overwrite=options.overwrite)
        self._driver = driver_of(out)
        check_picture(out, self._driver, shape, options.coding)
        if options.worldfile:
            refuse_sidecars(out, georeference, overwrite=options.overwrite)
        self._sidecars = sidecars_of(out, georeference) if options.worldfile else {}
        self._out = out
        self._target = out.resolve()  # a link stays a link
        self._options = options
        self._strips = StripStore(
            out,
            shape,
            manifest=manifest,
            restart=options.restart,
            coding=coding_of(out, options.coding),
            threads=options.threads,
        )
        self._description = [
            *georeference_elements(georeference),
            *metadata_elements(tags),
            *band_elements(options.coding.bands, options.coding.dtype, options.notes),
        ]
        self._comment = to_comment(tags)

    def __enter__(self) -> Self:
        self._strips.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._strips.__exit__(kind, error, trace)

    @property
    def rows(self) -> int:
        """Number of rows written so far; `rows_on_disk` may be fewer."""
        return self._strips.mosaic.rows

    def rows_on_disk(self) -> int:
        """Wait for strips that are being written, and count the rows on disk, from the top to the first failure."""
        return self._strips.rows_on_disk()

    @property
    def bytes_of_strips(self) -> int:
        """Size of all strips on disk in bytes, overviews included."""
        return self._strips.bytes_on_disk()

    def resume(self, on_progress: Callable[[int], None] | None = None) -> int:
        """Read strips of an earlier run, each checked, from the top to the first that is missing or damaged.

        Parameters
        ----------
        on_progress
            Called with the number of rows so far.

        Returns
        -------
        int
            Number of rows that the earlier run has finished.
        """
        return self._strips.resume(on_progress)

    def write(self, rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows to disk, and what they complete of the overviews.

        Returns before the rows are on disk; `finish` and leaving the context wait for them.

        Parameters
        ----------
        rgb
            `(bands, rows, width)` of the coding's type; values where `valid` is false are ignored.
        valid
            bool `(rows, width)`, True where the pixel is usable.

        Raises
        ------
        OutputUnwritable
            These or earlier rows cannot be written: the disk is full or the folder is not writable.
        ValueError
            The arrays have another shape or type, or the mosaic has fewer rows.
        """
        mosaic = self._strips.mosaic
        rows, bands = valid.shape[0], mosaic.bands
        if rgb.shape != (bands, rows, mosaic.width) or valid.shape != rgb.shape[1:] or rows == 0:
            raise ValueError(
                f"rgb is {rgb.shape}, valid is {valid.shape}: give ({bands}, N, {mosaic.width}) and "
                f"(N, {mosaic.width}), N at least 1"
            )
        if rgb.dtype != mosaic.dtype or valid.dtype != np.bool_:
            raise ValueError(f"rgb is {rgb.dtype}, valid is {valid.dtype}: give {mosaic.dtype} and bool")
        if mosaic.rows + rows > mosaic.height:
            raise ValueError(
                f"{mosaic.rows} rows are written: give at most {mosaic.height - mosaic.rows} more, not {rows}"
            )
        self._strips.write(rgb, valid)

    def finish(self) -> None:
        """Assemble the output from the strips, verify it and rename it to its final path.

        Raises
        ------
        OutputExists
            Another program has created `out` during the run, and it may not be overwritten.
        OutputUnwritable
            The disk is full, or the written file does not read back correctly.
        ValueError
            Rows are missing.
        """
        strips, options = self._strips, self._options
        strips.complete()
        made = strips.path / f"mosaic{self._out.suffix.lower()}"
        with output_errors(self._out), rasterio.Env(**_GDAL):
            if self._driver == "COG":
                self._make_cog(made)
            else:
                strips.check_run()
                write_picture(
                    made, strips.mosaic, driver=self._driver, all_valid=strips.all_valid, comment=self._comment
                )
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            for path, content in self._sidecars.items():
                write_whole(path.resolve(), content)
            publish(made, self._out, self._target, overwrite=options.overwrite)
        strips.discard()

    def write_preview(self, path: Path, longest: int = 1024) -> None:
        """Write a small PNG of the mosaic, with alpha where something is invalid; before or after `finish`.

        Parameters
        ----------
        path
            Path of the .png; an existing file is replaced if the output may be.
        longest
            Maximum number of pixels a side. The mosaic is halved until it fits, so the picture may have half of it.

        Raises
        ------
        OptionError
            `path` is not a .png, or `longest` is below 1.
        OutputExists, OutputUnwritable
            See `check_output`.
        ValueError
            Rows are missing.
        """
        check_output(path, overwrite=self._options.overwrite)
        if driver_of(path) != "PNG" or longest < 1:
            raise OptionError(
                f"preview {path.name} of at most {longest} pixels cannot be written: give a name that ends in .png, "
                "and 1 pixel or more"
            )
        self._strips.complete()
        with output_errors(path), rasterio.Env(**_GDAL):
            encoded = encode_preview(self._strips.path, self._strips.levels, longest=longest, comment=self._comment)
            write_whole(path.resolve(), encoded)

    def _make_cog(self, made: Path) -> None:
        strips = self._strips
        build_cog(
            made,
            strips.levels,
            run=strips.run,
            description=self._description,
            out=self._out,
            threads=self._options.threads,
        )
        verify_cog(made, strips.levels, run=strips.run)
