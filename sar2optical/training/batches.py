"""Training windows, determined by the seed and the window's number, prepared ahead in threads."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sar2optical.data.augment import random_window, vary_sar
from sar2optical.data.pairs import Chips
from sar2optical.errors import DataError
from sar2optical.training.config import TrainConfig

__all__ = ["Batches", "Window", "plan_visits", "shapes_of", "to_tensor"]

Window = tuple[NDArray[Any], NDArray[np.uint8]]
"""SAR (C, H, W), uint8 or float32 in [-1, 1], and optical uint8 (3, H, W)."""

_AHEAD = 2  # batches that are prepared ahead


class Batches:
    """Endless sequence of training windows, in batches.

    An epoch visits each chip once per whole window that fits into it, chips of small terrain classes more often if
    the settings balance them, in random order. Window i does not depend on the batch size, the number of ranks or
    the number of threads, so a run can be resumed from its step number alone.

    Parameters
    ----------
    chips
        Training pairs; may decode when indexed.
    config
        Settings; batch, window, augmentation and seed are used.
    rank, ranks
        Share of every batch to return, and number of shares.
    workers
        Threads that prepare windows ahead; 0 prepares them when needed.

    Raises
    ------
    DataError
        If there is no chip, or one is smaller than a window.
    """

    def __init__(
        self, chips: Sequence[Chips], config: TrainConfig, *, rank: int = 0, ranks: int = 1, workers: int = 0
    ) -> None:
        self._chips, self._config = chips, config
        self._rank, self._share = rank, config.batch // ranks
        self._visits = plan_visits(chips, config)
        self._order = lru_cache(2)(self._shuffled)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: OrderedDict[int, list[Future[Window]]] = OrderedDict()

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows in one epoch."""
        return len(self._visits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return this rank's share of a batch, numbered from 0.

        Returns
        -------
        sar, optical
            float32 (n, C, window, window) and (n, 3, window, window) in [-1, 1].
        """
        indices = self._indices(number)
        if self._pool is None:
            windows = [self._window(index) for index in indices]
        else:
            for k in range(number, number + _AHEAD + 1):
                if k not in self._ahead:
                    self._ahead[k] = [self._pool.submit(self._window, index) for index in self._indices(k)]
            windows = [future.result() for future in self._ahead.pop(number)]
            for k in [k for k in self._ahead if k < number]:
                del self._ahead[k]
        # One by one, because a data set may mix bytes and encoded values.
        sar, optical = ([to_tensor(half) for half in halves] for halves in zip(*windows, strict=True))
        return torch.stack(sar), torch.stack(optical)

    def _indices(self, number: int) -> range:
        first = number * self._config.batch + self._rank * self._share
        return range(first, first + self._share)

    def _window(self, index: int) -> Window:
        epoch, position = divmod(index, len(self._visits))
        chip = self._chips[self._visits[self._order(epoch)[position]]]
        rng = np.random.default_rng([self._config.seed, index])
        config = self._config
        sar, optical = random_window(
            chip, config.window, rng, crop=config.crop, flips=config.flip, turns=config.turn, zoom=config.zoom
        )
        return (vary_sar(sar, rng) if rng.random() < config.vary_sar else sar), optical

    def _shuffled(self, epoch: int) -> NDArray[np.intp]:
        return np.random.default_rng([self._config.seed, epoch, 1]).permutation(len(self._visits))


def to_tensor(images: NDArray[Any]) -> Tensor:
    """Convert images of any shape to float32 in [-1, 1]: bytes by (x / 255 - 0.5) / 0.5, floats unchanged."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.float().div_(127.5).sub_(1) if images.dtype == np.uint8 else tensor.float()


def plan_visits(chips: Sequence[Chips], config: TrainConfig) -> NDArray[np.intp]:
    """List the chip index of each window of an epoch, before shuffling.

    Raises
    ------
    DataError
        If there is no chip, or one is smaller than a window.
    """
    return _visits(shapes_of(chips), config.window, _classes(chips), config.balance)


def shapes_of(chips: Sequence[Chips]) -> list[tuple[int, int]]:
    """List height and width of each chip."""
    known: list[tuple[int, int]] | None = getattr(chips, "shapes", None)  # a store has them without decoding
    return known if known is not None else [chip.optical.shape[1:] for chip in chips]


def _classes(chips: Sequence[Chips]) -> list[str]:
    pairs = getattr(chips, "pairs", None)  # only a store has them
    return [pair.terrain for pair in pairs] if pairs is not None else [""] * len(chips)


def _visits(
    shapes: Sequence[tuple[int, int]], window: int, classes: Sequence[str], balance: float
) -> NDArray[np.intp]:
    """Repeat each chip's index once per whole window, in small classes an integer multiple of that.

    A class of n windows has a weight of n ** (1 - balance), so each of its windows has n ** -balance.
    """
    if not shapes:
        raise DataError("no training pair left: give a folder that holds s1 and s2")
    smallest = min(shapes, key=min)
    if min(smallest) < window:
        raise DataError(
            f"a chip of {smallest[0]} x {smallest[1]} is smaller than the window of {window}: remove it, or give a "
            "smaller --window"
        )
    fitting = [(h // window) * (w // window) for h, w in shapes]
    windows: Counter[str] = Counter()
    for name, count in zip(classes, fitting, strict=True):
        windows[name] += count
    largest = max(windows.values())
    times = [
        count * round((largest / windows[name]) ** balance) for name, count in zip(classes, fitting, strict=True)
    ]
    return np.repeat(np.arange(len(shapes)), times)
