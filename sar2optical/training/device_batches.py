"""Training windows cut and varied on the device, for GPUs that are faster than the CPU threads of `Batches`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sar2optical.data import augment
from sar2optical.data.augment import SPAN_DB
from sar2optical.data.pairs import Chips
from sar2optical.errors import DataError
from sar2optical.training.batches import plan_visits, shapes_of
from sar2optical.training.config import TrainConfig

__all__ = ["DeviceBatches", "vary_sar"]

_ORIENTATIONS = 8  # of a square: four quarter turns, each mirrored or not


class DeviceBatches:
    """Endless sequence of training windows like `sar2optical.training.batches.Batches`, prepared on a device.

    The device's memory holds all chips. A batch is cut by one indexing operation, and the SAR half is varied in
    PyTorch. Order of chips, crops and shares of varied windows follow the rules of `Batches`, but the random numbers
    differ, and so do the windows. A batch depends on the seed, its number and the rank.

    Parameters
    ----------
    chips
        Training pairs; all are decoded and copied at the start.
    config
        Settings; batch, window, augmentation and seed are used.
    device
        Device that makes the windows.
    rank, ranks
        Share of every batch to return, and number of shares.

    Raises
    ------
    DataError
        If there is no chip, one is smaller than a window, or the device's memory is too small.
    """

    def __init__(
        self, chips: Sequence[Chips], config: TrainConfig, device: torch.device, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self._config, self._device, self._rank, self._share = config, device, rank, config.batch // ranks
        self._shapes = np.array(shapes_of(chips)).reshape(-1, 2)
        self._visits = plan_visits(chips, config)
        self._order: tuple[int, NDArray[np.intp]] | None = None
        areas = self._shapes.prod(axis=1)
        self._starts = np.concatenate(([0], areas.cumsum()[:-1]))
        try:
            self._sar = self._packed([chip.sar for chip in chips])
            self._optical = self._packed([chip.optical for chip in chips])
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"{len(chips)} chips of {areas.sum() / 1e6:.0f} million pixels do not fit into the memory of "
                f"{device}: give --windows-on host"
            ) from error

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows in one epoch."""
        return len(self._visits)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return this rank's share of a batch, numbered from 0.

        Returns
        -------
        sar, optical
            float32 (n, C, window, window) and (n, 3, window, window) in [-1, 1], on the device.
        """
        config, n = self._config, self._share
        first = number * config.batch + self._rank * n
        rng = np.random.default_rng([config.seed, number, self._rank, 2])
        torch.manual_seed(int(rng.integers(2**62)))
        chips = np.array([self._chip(index) for index in range(first, first + n)])
        side, factor = config.window, self._factors(chips, rng)
        margin = self._shapes[chips] - side * factor[:, None]
        if config.crop:
            corner = rng.integers(margin + 1)
        else:
            corner = rng.integers(self._shapes[chips] // (side * factor[:, None])) * side * factor[:, None]
        orientation = rng.integers(4, size=n) * config.turn + 4 * rng.integers(2, size=n) * config.flip
        sar = torch.empty((n, self._sar.shape[0], side, side), device=self._device)
        optical = torch.empty((n, 3, side, side), device=self._device)
        for k in np.unique(factor):
            which = np.flatnonzero(factor == k)
            where = self._pixels(chips[which], corner[which], orientation[which], side * int(k))
            radar, colours = (_encoded(half[:, where].movedim(0, 1)) for half in (self._sar, self._optical))
            if k > 1:
                radar, colours = _decibels(avg_pool2d(_power(radar), int(k))), avg_pool2d(colours, int(k))
            rows = torch.from_numpy(which).to(self._device)
            sar[rows], optical[rows] = radar, colours
        varied = np.flatnonzero(rng.random(n) < config.vary_sar)
        if len(varied):
            rows = torch.from_numpy(varied).to(self._device)
            sar[rows] = vary_sar(sar[rows])
        return sar, optical

    def _chip(self, index: int) -> int:
        epoch, position = divmod(index, len(self._visits))
        if self._order is None or self._order[0] != epoch:
            shuffled = np.random.default_rng([self._config.seed, epoch, 1]).permutation(len(self._visits))
            self._order = epoch, shuffled
        return int(self._visits[self._order[1][position]])

    def _factors(self, chips: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw the factor by which each window is reduced."""
        zoomed = rng.random(len(chips)) < augment.ZOOMED
        drawn = rng.integers(2, max(self._config.zoom, 2) + 1, size=len(chips))
        fits = self._shapes[chips].min(axis=1) // self._config.window
        return np.where(zoomed & (self._config.zoom > 1), np.minimum(drawn, fits), 1)

    def _pixels(self, chips: NDArray[Any], corner: NDArray[Any], orientation: NDArray[Any], side: int) -> Tensor:
        """Compute the index of each pixel of each window: int64 (n, side, side)."""
        line = torch.arange(side, device=self._device)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        rows, columns = torch.stack([_turned(grid, k) for k in range(_ORIENTATIONS)], dim=1)  # (8, side, side) each
        widths = self._shapes[chips, 1]
        starts = self._starts[chips] + corner[:, 0] * widths + corner[:, 1]
        start, width, turn = (torch.from_numpy(v).to(self._device) for v in (starts, widths, orientation))
        pixels: Tensor = start[:, None, None] + rows[turn] * width[:, None, None] + columns[turn]
        return pixels

    def _packed(self, halves: list[NDArray[Any]]) -> Tensor:
        """Concatenate the pixels of images of any shapes: (C, pixels), on the device."""
        exact = all(half.dtype == np.uint8 for half in halves)
        flat = [
            torch.from_numpy(np.ascontiguousarray(half)).flatten(1).to(self._device) if exact
            else _encoded(torch.from_numpy(np.ascontiguousarray(half)).flatten(1).to(self._device))
            for half in halves
        ]  # fmt: skip
        return torch.cat(flat, dim=1)


def vary_sar(sar: Tensor) -> Tensor:
    """Vary the SAR half as `sar2optical.data.augment.vary_sar` does.

    Parameters
    ----------
    sar
        float32 (n, C, H, W) in [-1, 1], taken as dB over `SPAN_DB`. Random numbers are PyTorch's.

    Returns
    -------
    Tensor
        float32 (n, C, H, W) in [-1, 1].
    """
    n, device = len(sar), sar.device

    def some(share: float) -> Tensor:
        return (torch.rand(n, device=device) < share)[:, None, None, None]

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, device=device))[:, None, None, None]

    def normal(mean: float, spread: float) -> Tensor:
        return (mean + spread * torch.randn(n, device=device))[:, None, None, None]

    looks = uniform(*augment.LOOKS).expand_as(sar)
    speckle = torch.distributions.Gamma(looks, looks).sample()
    speckled = sar + (20 / SPAN_DB) * speckle.clamp_min(augment.SHADOW).log10()
    image = torch.where(some(augment.SPECKLED), speckled, sar)
    image = torch.where(some(augment.SMOOTHED), _smoothed(image), image)
    slope = torch.linspace(-1, 1, sar.shape[-1], device=device) * normal(0, augment.TILT)
    image = torch.where(some(augment.TILTED), image + slope, image)
    outwards = some(augment.OF_A_SCENE)
    low = normal(-1, augment.LOW_SPREAD) - outwards * uniform(0, augment.BELOW)
    high = normal(1, augment.HIGH_SPREAD) + outwards * uniform(0, augment.ABOVE)
    amplitude = 2 * torch.pow(10.0, (image - high) * (SPAN_DB / 40)) - 1
    stretched = (image - low) * (2 / (high - low)) - 1
    return torch.where(some(augment.AMPLITUDE), amplitude, stretched).clamp(-1, 1)


def _smoothed(image: Tensor) -> Tensor:
    """Average power over 2 x 2 or 3 x 3 pixels, chosen at random; edges are repeated."""
    power = _power(image)
    means = []
    for side in range(*augment.SIDES):
        before, after = (side - 1) // 2, side // 2
        means.append(avg_pool2d(pad(power, (before, after, before, after), mode="replicate"), side, 1))
    drawn = torch.randint(len(means), (len(image),), device=image.device)
    return _decibels(torch.stack(means)[drawn, torch.arange(len(image), device=image.device)])


def _power(image: Tensor) -> Tensor:
    return torch.pow(10.0, (image - 1) * (SPAN_DB / 20))


def _decibels(power: Tensor) -> Tensor:
    return 1 + (20 / SPAN_DB) * power.log10()


def _encoded(images: Tensor) -> Tensor:
    """Convert bytes to float32 in [-1, 1]; floats are unchanged."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images.float()


def _turned(grid: Tensor, k: int) -> Tensor:
    """Turn by k quarters; from 4 on, also mirror left to right."""
    turned = torch.rot90(grid, k % 4, dims=(1, 2))
    return turned.flip(2) if k >= 4 else turned
