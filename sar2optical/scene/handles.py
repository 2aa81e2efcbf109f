"""Open datasets of one raster: a GDAL dataset serves one thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from threading import Lock
from typing import Any

__all__ = ["Handles"]


class Handles:
    """Datasets of one raster, lent to threads; another one is opened only while all are in use.

    Parameters
    ----------
    first
        The first dataset; its owner closes it.
    reopen
        Opens the same raster again.
    """

    def __init__(self, first: Any, reopen: Callable[[], Any]) -> None:
        self.first = first
        """For properties that do not change."""
        self._reopen = reopen
        self._free: LifoQueue[Any] = LifoQueue()  # the last one used has blocks in the cache
        self._free.put(first)
        self._more: list[Any] = []
        self._lock = Lock()

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """Lend a dataset to the calling thread."""
        try:
            dataset = self._free.get_nowait()
        except Empty:
            dataset = self._reopen()
            with self._lock:
                self._more.append(dataset)
        try:
            yield dataset
        finally:
            self._free.put(dataset)

    def close(self) -> None:
        """Close all datasets but the first."""
        while self._more:
            with suppress(OSError):
                self._more.pop().close()
