"""Store the strips of a mosaic and of its overviews on disk, and find them again in a later run.

The strips are in the output's run folder, `OUT.parts`, each one row of blocks of the COG::

    strip-00000512.tif         rows from 512: red, green, blue, and a mask
    half-00000512.tif          the same rows at half the size, only where strips are lossy
    overview-1-00000512.tif    rows from 512 of the first overview, and so on
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sar2optical._utils.masks import all_true
from sar2optical.mosaic.coding import BlockCoding, Blocks, chunks_of, compressed
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import output_errors
from sar2optical.mosaic.overviews import Level, half_name, halve, levels_of, mask_out
from sar2optical.mosaic.run_folder import RunFolder
from sar2optical.mosaic.strips import Strip, StripDamaged, write_blocks, write_strip

__all__ = ["StripStore", "bytes_of_store", "filled", "write_with_half"]

_MOST_STRIPS_AT_ONCE = 16
_MOST_WRITERS = 4
"""Threads that hash and write strips: each waits until its strip is on the disk."""
_FOR_HALVES = "zstd"


def strips_at_once(threads: int, width: int, coding: BlockCoding) -> int:
    """Return how many strips, of the mosaic and its overviews, are compressed and written at the same time."""
    parts = len(list(chunks_of(width, coding)))
    return max(2, min(2 * threads // parts, _MOST_STRIPS_AT_ONCE))


def bytes_of_store(shape: tuple[int, int], coding: BlockCoding, *, threads: int) -> int:
    """Estimate the peak memory of a `StripStore` in bytes: a strip of each level that fills, and those being written.

    A strip that is being written is held as pixels, as compressed blocks and as a file.
    """
    rows = coding.pixel_bytes * coding.blocksize * shape[1]
    return 2 * rows + strips_at_once(threads, shape[1], coding) * 3 * rows


def filled(
    level: Level, rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Add rows to a level; yield first row and pixels, `(bands + 1, rows, width)`, of strips that they complete."""
    start = 0
    while start < len(valid):
        room = level.room()
        part = slice(start, start + room.shape[1])
        count = len(valid[part])
        mask_out(rgb[:, part], valid[part], out=room[:, :count])
        strip = level.filled(count)
        if strip is not None:
            yield level.strips[-1][0], strip
        start += count


def write_with_half(
    path: Path, parts: Sequence[Blocks], half: npt.NDArray[Any] | None, run: str, coding: BlockCoding
) -> None:
    """Write a strip; and before it, the same rows at half the size where the strip is lossy.

    Overviews that are made again by a run that resumes are then those of a run without a pause.
    """
    if half is not None:
        lossless = replace(coding, compress=_FOR_HALVES)
        write_strip(path.with_name(half_name(int(path.stem.rpartition("-")[2]))), half, run, lossless)
    write_blocks(path, parts, run)


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
    coding
        Size and compression of the blocks.
    threads
        Number of CPU threads that compress.

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
        coding: BlockCoding | None = None,
        threads: int = 1,
    ) -> None:
        self._folder = RunFolder(out, manifest, restart=restart)
        self.path = self._folder.path
        """Path of the run folder."""
        self.coding = coding or BlockCoding()
        """Size and compression of the blocks."""
        self.levels = levels_of(shape, self.coding.blocksize, bands=self.coding.bands, dtype=self.coding.dtype)
        """The mosaic, then its overviews."""
        self.all_valid = True
        """Whether every pixel so far is valid."""
        self._out = out
        self.run = manifest.fingerprint if manifest else ""
        """Fingerprint of the run."""
        self._threads = threads
        self._most = strips_at_once(threads, shape[1], self.coding)
        self._pool: ThreadPoolExecutor | None = None
        self._disk: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()
        self._stored: list[tuple[int, Future[None] | None]] = []
        self._filling: list[list[Future[None]]] = [[] for _ in self.levels]  # tasks, by the level that they fill

    def __enter__(self) -> Self:
        with output_errors(self._out):
            self._folder.__enter__()
        self._pool = ThreadPoolExecutor(self._threads, "blocks")
        self._disk = ThreadPoolExecutor(min(self._threads, _MOST_WRITERS), "strips")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for pool in (self._disk, self._pool):
                if pool:
                    pool.shutdown()
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

        Their overviews are made again. A strip with blocks of another size or lossless compression is encoded again.

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
        while mosaic.rows < mosaic.height and self._take(self.path / mosaic.strip_name(mosaic.rows)):
            if on_progress:
                on_progress(mosaic.rows)
        return mosaic.rows

    def _take(self, path: Path) -> bool:
        """Append a strip of an earlier run; return False if it cannot be used."""
        mosaic = self.mosaic
        try:
            strip = Strip.read(path, self.run)
            rows, width = strip.shape
            as_it_is = self.coding.matches(strip.image) and mosaic.aligned and rows == mosaic.room().shape[1]
            if width != mosaic.width or rows > mosaic.height - mosaic.rows or (strip.lossy and not as_it_is):
                return False
            rgba = strip.pixels()
            half = None
            if strip.lossy and len(self.levels) > 1:
                half = Strip.read(path.with_name(half_name(mosaic.rows)), self.run).pixels()
                if half.shape[1:] != ((rows + 1) // 2, (width + 1) // 2):  # of blocks of another size
                    return False
        except StripDamaged:
            return False
        self.all_valid = self.all_valid and bool(rgba[-1].all())
        for _, complete in filled(mosaic, rgba[:-1], rgba[-1] != 0):
            self._add(mosaic, complete, on_disk=as_it_is, half=half)
        return True

    def write(self, rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows, and what they complete of the overviews; see `MosaicWriter.write`."""
        self.all_valid = self.all_valid and all_true(valid)
        for _, strip in filled(self.mosaic, rgb, valid):
            self._add(self.mosaic, strip)

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
            raise ValueError(
                f"the mosaic has {mosaic.rows} of {mosaic.height} rows: write all rows before finishing it"
            )
        self.wait()

    def check_run(self) -> None:
        """Refuse strips that another run has written over this one's, for example workers of an earlier run.

        Raises
        ------
        StripDamaged
            A strip is missing, or carries another run's fingerprint.
        """
        for row, _ in self.mosaic.strips:
            Strip.read_head(self.path / self.mosaic.strip_name(row), self.run)

    def discard(self) -> None:
        """Mark the strips as no longer needed: leaving removes them."""
        self._folder.done = True

    def _add(
        self,
        level: Level,
        strip: npt.NDArray[Any],
        *,
        on_disk: bool = False,
        half: npt.NDArray[Any] | None = None,
        after: Sequence[Future[None]] = (),
    ) -> None:
        """Store a complete strip of a level, and add it to the next overview at half the size, all in threads.

        Parameters
        ----------
        level
            Level that the strip belongs to.
        strip
            `(bands + 1, rows, width)`.
        on_disk
            Whether the strip is on disk already.
        half
            The strip at half the size, if it is known.
        after
            Tasks that still fill the strip. They were submitted earlier, so waiting for them inside the pool ends.
        """
        self.wait(self._most - 1)
        room, halving = self._halved(level, strip, half, after)
        if on_disk:
            self._stored.append((strip.shape[1], None))
        else:
            self._store(level, strip, room if level.number == 0 and self.coding.lossy else None, after, halving)
        if room is None:
            return
        coarser = self.levels[level.number + 1]
        self._filling[coarser.number] += halving
        complete = coarser.filled(room.shape[1])
        if complete is not None:
            filling, self._filling[coarser.number] = self._filling[coarser.number], []
            self._add(coarser, complete, after=filling)

    def _halved(
        self,
        level: Level,
        strip: npt.NDArray[Any],
        half: npt.NDArray[Any] | None,
        after: Sequence[Future[None]],
    ) -> tuple[npt.NDArray[Any] | None, list[Future[None]]]:
        """Begin to fill the next overview; return its rows and the tasks that fill them; None at the last level."""
        if level is self.levels[-1]:
            return None, []
        # Fits: strips have an even number of rows, but for the last one.
        room = self.levels[level.number + 1].room()[:, : (strip.shape[1] + 1) // 2]
        if half is not None:
            room[...] = half
            return room, []
        parts = chunks_of(level.width, self.coding)
        return room, [
            self._tasks.submit(_halve_into, strip[:, :, part], room[:, :, _half_of(part)], after) for part in parts
        ]

    def _store(
        self,
        level: Level,
        rgba: npt.NDArray[Any],
        half: npt.NDArray[Any] | None,
        after: Sequence[Future[None]],
        halving: Sequence[Future[None]],
    ) -> None:
        """Compress and write a strip in threads: one core encodes strips more slowly than a GPU makes them."""
        path = self.path / level.strip_name(level.strips[-1][0])
        parts = [
            self._tasks.submit(_compressed, rgba[:, :, part], self.coding, after)
            for part in chunks_of(level.width, self.coding)
        ]
        assert self._disk is not None, "entered with the pool"
        writing = self._disk.submit(self._write, path, parts, half, halving, level, rgba)
        self._writing.append(writing)
        if level.number == 0:
            self._stored.append((rgba.shape[1], writing))

    # Runs in another thread: every value that it needs is a parameter.
    def _write(
        self,
        path: Path,
        parts: Sequence[Future[Blocks]],
        half: npt.NDArray[Any] | None,
        halving: Sequence[Future[None]],
        level: Level,
        rgba: npt.NDArray[Any],
    ) -> None:
        blocks = [part.result() for part in parts]
        _wait_for(halving)
        if not self.coding.lossy:  # else the strip may hold a half that is not written yet
            level.reuse(rgba)
        write_with_half(path, blocks, half, self.run, self.coding)

    @property
    def _tasks(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise ValueError("the strip store is not open: write strips inside its with statement")
        return self._pool


def _half_of(part: slice) -> slice:
    return slice(part.start // 2, (part.stop + 1) // 2)


def _halve_into(rgba: npt.NDArray[Any], out: npt.NDArray[Any], after: Sequence[Future[None]]) -> None:
    _wait_for(after)
    out[...] = halve(rgba)


def _compressed(rgba: npt.NDArray[Any], coding: BlockCoding, after: Sequence[Future[None]]) -> Blocks:
    _wait_for(after)
    return compressed(rgba, coding)


def _wait_for(tasks: Sequence[Future[None]]) -> None:
    for task in tasks:
        task.result()
