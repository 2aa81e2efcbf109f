"""Chips of many pairs: each read once before work begins, as many kept in memory as fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

from sar2optical.data.pairs import Chips, Pair, Reading, read_pair
from sar2optical.errors import DataError, OptionError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 64  # pairs that are decoded and wait to be kept or dropped: bounds the memory of a first pass


class ChipStore(Sequence[Chips]):
    """Pairs as chips, by index; made by `ChipStore.open`. May be read from several threads.

    Parameters
    ----------
    pairs
        In the order of indices.
    reading
        How they are read.
    shapes
        Of each pair, in pixels.
    kept
        Chips by index that need no reading.
    skipped
        Pairs that were left out, and why.
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
        """Height and width of each pair, so that sampling can be weighted by area."""
        self.skipped = tuple(skipped)
        # Never changed again, so threads need no lock.
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
        progress: Callable[[int, int], None] | None = None,
    ) -> ChipStore:
        """Read every pair once, so that all that cannot be used are known before work begins.

        Parameters
        ----------
        pairs
            As `find_pairs` gives them.
        reading
            How; bytes of at least 256 x 256 where not given.
        cache_bytes
            Decoded chips that are kept, in bytes, first come first; the others are decoded again when asked for.
            None: half of the memory that is available now.
        skip_unreadable
            Leave pairs out that cannot be used, with a warning each, instead of failing.
        workers
            Threads that read.
        progress
            Called with the pairs read so far, and their number in all.

        Returns
        -------
        ChipStore
            In the order of `pairs`.

        Raises
        ------
        DataError
            Where a pair cannot be used; names the first, and says how many there are. Where none is left.
        OptionError
            Where `workers` is less than 1, or `cache_bytes` less than 0.
        """
        _refuse_nonsense(workers, cache_bytes)
        pairs, reading = list(pairs), reading or Reading()
        room = available_memory() // 2 if cache_bytes is None else cache_bytes
        used: list[Pair] = []
        shapes: list[tuple[int, int]] = []
        kept: dict[int, Chips] = {}
        bad: list[tuple[Pair, str]] = []
        read = partial(_read_or_tell, reading)
        for done, (pair, chips) in enumerate(in_order(read, pairs, workers), 1):
            if isinstance(chips, Chips):
                size = chips.sar.nbytes + chips.optical.nbytes
                if size <= room:
                    kept[len(used)] = chips
                    room -= size
                used.append(pair)
                shapes.append((chips.optical.shape[1], chips.optical.shape[2]))
            else:
                bad.append((pair, str(chips)))
            if progress:
                progress(done, len(pairs))
        _judge(bad, len(pairs), skip=skip_unreadable)
        return cls(used, reading, shapes, kept, bad)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Chips: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chips]: ...
    def __getitem__(self, index: int | slice) -> Chips | list[Chips]:
        """Give chips, from memory or read again.

        Raises
        ------
        IndexError
            Where there is no such pair.
        DataError
            Where the files have changed since, and cannot be used any more.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = index + len(self) if index < 0 else index
        if not 0 <= k < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if k in self._kept:
            return self._kept[k]
        return read_pair(self.pairs[k], self.reading)


def _refuse_nonsense(workers: int, cache_bytes: int | None) -> None:
    if workers < 1:
        raise OptionError(f"workers is {workers}: give 1 or more")
    if cache_bytes is not None and cache_bytes < 0:
        raise OptionError(f"cache of {cache_bytes} bytes: give 0 or more")


def _read_or_tell(reading: Reading, pair: Pair) -> Chips | DataError:
    try:
        return read_pair(pair, reading)
    except DataError as error:
        return error


def in_order(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """Work in threads (GDAL and zlib let go of Python's lock), give in order, with few results waiting."""
    with ThreadPoolExecutor(workers, thread_name_prefix="chips") as pool:
        for start in range(0, len(items), _AHEAD):
            some = items[start : start + _AHEAD]
            yield from zip(some, pool.map(work, some), strict=True)


def _judge(bad: Sequence[tuple[Pair, str]], total: int, *, skip: bool) -> None:
    if bad and not skip:
        more = f"{len(bad)} of {total} pairs cannot be used" if len(bad) > 1 else f"1 of {total} pairs"
        raise DataError(f"{bad[0][1]} ({more}; --skip-unreadable leaves them out)")
    if len(bad) == total:
        raise DataError(f"{bad[0][1]} (and none of {total} pairs can be used)" if bad else "no pairs: give some")
    for _, reason in bad:
        logger.warning("left out: %s", reason)


def available_memory() -> int:
    """Give the bytes that can be taken without swapping: the machine's, or what a container leaves of them."""
    free = 2_000_000_000  # where nothing tells
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError, StopIteration):  # no limit reads "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        taken = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        files = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
        free = min(free, max(0, limit - taken + files))  # files that are cached give way
    return free
