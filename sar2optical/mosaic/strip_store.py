"""Store the strips of a mosaic and of its overviews on disk, and find them again in a later run.

The strips are in the output's run folder, `OUT.parts`::

    strip-00000224.tif         rows from 224: red, green, blue, and 255 where valid
    overview-1-00000112.tif    the same rows at half the size, and so on
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from sar2optical.errors import OutputUnwritable
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import output_errors
from sar2optical.mosaic.overviews import Level, halve, levels_of, mask_out, strip_name
from sar2optical.mosaic.run_folder import RunFolder, run_folder_of, shared_run_folder
from sar2optical.mosaic.strips import belongs_to, read_strip, write_strip

__all__ = ["StripFiles", "StripStore", "strips_at_once"]

_MOST_STRIPS_AT_ONCE = 6


def strips_at_once(threads: int) -> int:
    """Return how many strips, of the mosaic and its overviews, are encoded and written at the same time."""
    return max(2, min(threads, _MOST_STRIPS_AT_ONCE))


class StripStore:
    """Strips of a mosaic and its overviews, encoded and written by threads.

    A context manager: entering locks the run folder and makes the thread pool; leaving removes the strips, unless
    `manifest` is given and `discard` was not called.

    Parameters
    ----------
    out
        Path of the mosaic.
    shape
        Rows and columns of the mosaic.
    manifest
        Manifest of the run, which a later run needs to resume from the strips.
    restart
        Whether strips of an earlier run are removed.
    threads
        Number of CPU threads; see `strips_at_once`.

    Raises
    ------
    OtherRun
        On entering: the run folder holds strips of another run.
    OutputUnwritable
        On entering: the run folder cannot be made or another run uses it.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int],
        *,
        manifest: Manifest | None = None,
        restart: bool = False,
        threads: int = 1,
    ) -> None:
        self._folder = RunFolder(out, manifest, restart=restart)
        self.path = self._folder.path
        """Path of the run folder."""
        self.levels = levels_of(shape)
        """The mosaic, then its overviews."""
        self.all_valid = True
        """Whether every pixel so far is valid."""
        self._out = out
        self._run = manifest.fingerprint if manifest else ""
        self._most = strips_at_once(threads)
        self._pool: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()
        self._stored: list[tuple[int, Future[None] | None]] = []

    def __enter__(self) -> Self:
        with output_errors(self._out):
            self._folder.__enter__()
        self._pool = ThreadPoolExecutor(self._most, "strips")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._pool:
                self._pool.shutdown()
        finally:
            self._folder.__exit__(kind, error, trace)

    @property
    def mosaic(self) -> Level:
        """Level 0: the mosaic at full size."""
        return self.levels[0]

    def rows_on_disk(self) -> int:
        """Wait for strips that are being written, and count the rows on disk, from the top to the first failure."""
        rows = 0
        for count, stored in self._stored:
            if stored is not None and stored.exception() is not None:
                break
            rows += count
        return rows

    def bytes_on_disk(self) -> int:
        """Return the size of all strips on disk in bytes, overviews included."""
        return sum(file.stat().st_size for file in self.path.glob("*.tif"))

    def resume(self, on_progress: Callable[[int], None] | None = None) -> int:
        """Read strips of an earlier run, each checked, from the top to the first that is missing or damaged.

        Their overviews are made again.

        Parameters
        ----------
        on_progress
            Called with the number of rows so far.

        Returns
        -------
        int
            Number of rows that the earlier run has finished.
        """
        mosaic = self.mosaic
        while mosaic.rows < mosaic.height:
            rgba = read_strip(self.path / mosaic.strip_name(mosaic.rows), width=mosaic.width, run=self._run)
            if rgba is None or mosaic.rows + rgba.shape[1] > mosaic.height:
                break
            self.all_valid = self.all_valid and bool(rgba[3].all())
            self._append(rgba, on_disk=True)
            if on_progress:
                on_progress(mosaic.rows)
        return mosaic.rows

    def write(self, rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows, and what they complete of the overviews; see `MosaicWriter.write`."""
        self.all_valid = self.all_valid and bool(valid.all())
        self._append(mask_out(rgb, valid))

    def wait(self, most: int = 0) -> None:
        """Wait until at most `most` strips are not on disk yet.

        Raises
        ------
        OutputUnwritable
            A strip that was waited for could not be written.
        """
        with output_errors(self._out):
            while len(self._writing) > most or (self._writing and self._writing[0].done()):
                self._writing.popleft().result()

    def complete(self) -> None:
        """Wait until all strips of the mosaic are on disk.

        Raises
        ------
        OutputUnwritable
            A strip could not be written.
        ValueError
            Rows are missing.
        """
        mosaic = self.mosaic
        if mosaic.rows != mosaic.height:
            raise ValueError(f"{mosaic.rows} of the mosaic's {mosaic.height} rows are written")
        self.wait()

    def check_run(self) -> None:
        """Refuse strips that another run has written over this one's, for example workers of an earlier run.

        Raises
        ------
        OutputUnwritable
            A strip carries another run's fingerprint.
        """
        for row, _ in self.mosaic.strips:
            if not belongs_to(self.path / self.mosaic.strip_name(row), self._run):
                raise OutputUnwritable(
                    f"cannot write {self._out}: another run has overwritten strips of this one; wait until that run "
                    "ends, then run the same command again"
                )

    def discard(self) -> None:
        """Mark the strips as no longer needed: leaving removes them."""
        self._folder.done = True

    def _append(self, rgba: npt.NDArray[np.uint8], *, on_disk: bool = False) -> None:
        """Store uint8 `(4, rows, width)` of the mosaic, and the rows of each overview that it completes."""
        if on_disk:
            self._stored.append((rgba.shape[1], None))
            self.mosaic.add_strip(rgba.shape[1])
        else:
            self._store(self.mosaic, rgba)
        for finer, coarser in pairwise(self.levels):
            ready = finer.gather(rgba)
            if ready is None:
                return
            rgba = halve(ready)
            self._store(coarser, rgba)

    def _store(self, level: Level, rgba: npt.NDArray[np.uint8]) -> None:
        """Encode and write a strip in the thread pool: one core encodes strips more slowly than a GPU makes them."""
        if self._pool is None:
            raise ValueError("strips are written inside a with statement only")
        self.wait(self._most - 1)
        writing = self._pool.submit(write_strip, self.path / level.strip_name(level.rows), rgba, self._run)
        self._writing.append(writing)
        if level.number == 0:
            self._stored.append((rgba.shape[1], writing))
        level.add_strip(rgba.shape[1])


class StripFiles:
    """Strips of a mosaic that another process assembles; without overviews.

    A context manager for `write`: it shares the run folder with other processes that write strips of the same run.

    Parameters
    ----------
    out
        Path of the mosaic.
    width
        Number of columns of the mosaic.
    manifest
        Manifest of the run.
    row
        First row to be written.
    """

    def __init__(self, out: Path, width: int, manifest: Manifest, row: int = 0) -> None:
        self._out = out
        self._width = width
        self._manifest = manifest
        self._row = row
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

    def rows(self, height: int) -> int:
        """Count the rows on disk that are intact and of this run, from the top."""
        row = 0
        while row < height:
            found = read_strip(self._path(row), width=self._width, run=self._manifest.fingerprint)
            if found is None:
                break
            row += found.shape[1]
        return row

    def __enter__(self) -> Self:
        self._sharing.enter_context(shared_run_folder(self._out, self._manifest))
        return self

    def __exit__(self, *_: object) -> None:
        self._sharing.close()

    def has(self, rows: tuple[int, int]) -> bool:
        """Return whether the strip of these rows, first and past-the-last, is on disk, intact and of this run."""
        found = read_strip(self._path(rows[0]), width=self._width, run=self._manifest.fingerprint)
        return found is not None and found.shape[1] == rows[1] - rows[0]

    def write(self, rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next strip; see `MosaicWriter.write`."""
        with output_errors(self._out):
            write_strip(self._path(self._row), mask_out(rgb, valid), self._manifest.fingerprint)
        self._row += len(valid)

    def _path(self, row: int) -> Path:
        return run_folder_of(self._out) / strip_name(row)
