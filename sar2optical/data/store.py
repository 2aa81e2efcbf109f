"""Store of chips: read every pair once, and keep as many in memory as fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

from sar2optical.data.pairs import Chips, Pair, Reading, read_pair
from sar2optical.errors import DataError, OptionError

__all__ = ["ChipStore", "OnProgress", "available_memory", "in_order"]

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[int, int], None]
"""Callback with the number of pairs done and the total."""

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 64  # decoded pairs that wait for use; limits the memory of the first pass


class ChipStore(Sequence[Chips]):
    """Sequence of chips, created by `ChipStore.open`. Thread-safe.

    Parameters
    ----------
    pairs
        Pairs, in the order of the indices.
    reading
        How the pairs are read.
    shapes
        Height and width of each pair, in pixels.
    kept
        Chips in memory, by index.
    skipped
        Pairs that were skipped, each with the reason.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        reading: Reading,
        shapes: Sequence[tuple[int, int]],
        kept: dict[int, Chips],
        skipped: Sequence[tuple[Pair, str]],
    ) -> None:
        self.pairs = tuple(pairs)
        self.reading = reading
        self.shapes = list(shapes)
        """Height and width of each pair, to weight sampling by area."""
        self.skipped = tuple(skipped)
        # Not modified after this, so threads need no lock.
        self._kept = kept

    @classmethod
    def open(
        cls,
        pairs: Iterable[Pair],
        reading: Reading | None = None,
        *,
        cache_bytes: int | None = None,
        skip_unreadable: bool = False,
        workers: int = 2,
        on_progress: OnProgress | None = None,
    ) -> ChipStore:
        """Read every pair once, so that unusable pairs are found before training starts.

        Parameters
        ----------
        pairs
            Pairs, from `find_pairs`.
        reading
            How to read them; None reads bytes of at least 256 x 256.
        cache_bytes
            Memory for decoded chips, filled in order; other chips are decoded again when indexed. None takes half of
            the available memory.
        skip_unreadable
            Skip pairs that cannot be used, with a warning for each, instead of failing.
        workers
            Number of reading threads.
        on_progress
            Called after each pair with the number of pairs done and the total.

        Returns
        -------
        ChipStore
            Chips in the order of `pairs`.

        Raises
        ------
        DataError
            If a pair cannot be used, with the first such pair and their number; or if no pair is left.
        OptionError
            If `workers` is less than 1, or `cache_bytes` less than 0.
        """
        _check_limits(workers, cache_bytes)
        pairs, reading = list(pairs), reading or Reading()
        budget = available_memory() // 2 if cache_bytes is None else cache_bytes
        used: list[Pair] = []
        shapes: list[tuple[int, int]] = []
        kept: dict[int, Chips] = {}
        skipped: list[tuple[Pair, str]] = []
        for pair, chips in _read_all(pairs, reading, workers, on_progress):
            if isinstance(chips, DataError):
                skipped.append((pair, str(chips)))
                continue
            size = chips.sar.nbytes + chips.optical.nbytes
            if size <= budget:
                kept[len(used)] = chips
                budget -= size
            used.append(pair)
            shapes.append((chips.optical.shape[1], chips.optical.shape[2]))
        _report_skipped(skipped, len(pairs), allowed=skip_unreadable)
        return cls(used, reading, shapes, kept, skipped)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Chips: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chips]: ...
    def __getitem__(self, index: int | slice) -> Chips | list[Chips]:
        """Get chips, from memory or read again.

        Raises
        ------
        IndexError
            If there is no such pair.
        DataError
            If the files have changed and cannot be used any more.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = index + len(self) if index < 0 else index
        if not 0 <= k < len(self):
            raise IndexError(f"pair {index} does not exist: there are {len(self)} pairs")
        if k in self._kept:
            return self._kept[k]
        return read_pair(self.pairs[k], self.reading)


def _check_limits(workers: int, cache_bytes: int | None) -> None:
    if workers < 1:
        raise OptionError(f"workers is {workers}: give 1 or more")
    if cache_bytes is not None and cache_bytes < 0:
        raise OptionError(f"--cache is {cache_bytes} bytes: give 0 or more")


def _read_all(
    pairs: Sequence[Pair], reading: Reading, workers: int, on_progress: OnProgress | None
) -> Iterator[tuple[Pair, Chips | DataError]]:
    """Read pairs in order; a pair that cannot be used comes with its error."""

    def read(pair: Pair) -> Chips | DataError:
        try:
            return read_pair(pair, reading)
        except DataError as error:
            return error

    for done, result in enumerate(in_order(read, pairs, workers), 1):
        yield result
        if on_progress:
            on_progress(done, len(pairs))


def in_order(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """Apply a function in threads, and yield items and results in order; few results wait at a time.

    Threads are enough, because GDAL and zlib release Python's global lock.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="chips") as pool:
        for start in range(0, len(items), _AHEAD):
            some = items[start : start + _AHEAD]
            yield from zip(some, pool.map(work, some), strict=True)


def _report_skipped(skipped: Sequence[tuple[Pair, str]], total: int, *, allowed: bool) -> None:
    """Raise an error for unusable pairs, or log a warning for each."""
    if skipped and not allowed:
        more = f"{len(skipped)} of {total} pairs cannot be used" if len(skipped) > 1 else f"1 of {total} pairs"
        raise DataError(f"{skipped[0][1]} ({more}; give --skip-unreadable to skip such pairs)")
    if len(skipped) == total:
        raise DataError(
            f"{skipped[0][1]} (none of {total} pairs can be used)" if skipped else "no pairs: give at least one"
        )
    for _, reason in skipped:
        logger.warning("pair skipped: %s", reason)


def available_memory() -> int:
    """Get the bytes that are available without swapping, on the machine or in the container."""
    free = 2_000_000_000  # used if the system does not report it
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError, StopIteration):  # "max" if there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        taken = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        files = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
        free = min(free, max(0, limit - taken + files))  # cached files are evicted on demand
    return free
