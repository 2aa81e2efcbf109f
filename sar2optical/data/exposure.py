"""Check that 16-bit optical chips fit `--optical-max`, the value that becomes white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from sar2optical.data.optical import Stored, read_stored
from sar2optical.data.pairs import Pair, Reading
from sar2optical.errors import DataError

__all__ = ["WHITE", "counts_of", "misfit", "refuse_misfit", "too_white"]

WHITE = 0.5
"""Largest share of the values that may become white, as clouds and salt pans do."""

_LEVELS, _BYTE = 65536, 255
_BLACK = 0.1  # share of the white value; a data set with no value above it is black
_FITTING = 0.99  # share of the values below the suggested maximum
_SAMPLED = 64  # chips read to check a data set


def counts_of(stored: Stored) -> NDArray[np.int64]:
    """Count the stored values of a chip.

    Parameters
    ----------
    stored
        Stored values (3, H, W), from `read_stored`.

    Returns
    -------
    ndarray
        int64 (65536,): number of pixels per value; negative values count as 0. All zero for bytes.
    """
    if stored.dtype == np.uint8:
        return np.zeros(_LEVELS, np.int64)
    return np.bincount(np.maximum(stored, 0).ravel(), minlength=_LEVELS)


def too_white(counts: NDArray[np.int64], optical_max: float) -> str | None:
    """Describe the problem if too many values become white, with a maximum that fits.

    Parameters
    ----------
    counts
        int64 (65536,), from `counts_of`, of one chip or summed over several. Zeros are not measurements and are
        ignored.
    optical_max
        Value that becomes white, see `Reading`.

    Returns
    -------
    str or None
        None if at most `WHITE` of the values become white, or there are no 16-bit values.
    """
    total = int(counts[1:].sum())
    white = int(counts[max(1, math.ceil(optical_max * 254.5 / 255)) :].sum())
    if not total or white <= WHITE * total:
        return None
    fitting = 1 + int(np.searchsorted(np.cumsum(counts[1:]), _FITTING * total))
    return f"{white / total:.0%} of the 16-bit optical values become white: give --optical-max {_rounded_up(fitting)}"


def misfit(counts: NDArray[np.int64], optical_max: float) -> str | None:
    """Describe the problem if a data set becomes white or black, with a maximum that fits; see `too_white`."""
    found = np.flatnonzero(counts[1:])
    if not found.size or (top := int(found[-1]) + 1) >= _BLACK * optical_max:
        return too_white(counts, optical_max)
    fitting = _BYTE if top <= _BYTE else _rounded_up(top)
    return f"no 16-bit optical value is above {top}, so all become black: give --optical-max {fitting}"


def refuse_misfit(pairs: Sequence[Pair], reading: Reading) -> None:
    """Refuse 16-bit optical chips that become white or black; at most 64, evenly spread, are read.

    Parameters
    ----------
    pairs
        Pairs of one data set. Unreadable chips are ignored here.
    reading
        How the pairs are read.

    Raises
    ------
    DataError
        If the chips become white or black; the message suggests `--optical-max`.
    """
    chips = [pair.optical for pair in pairs if pair.sar_side is None]
    if not chips:
        return
    counts = np.zeros(_LEVELS, np.int64)
    for k in np.unique(np.linspace(0, len(chips) - 1, min(_SAMPLED, len(chips))).round().astype(int)):
        with suppress(DataError):
            counts += counts_of(read_stored(chips[k], reading.rgb))
    if problem := misfit(counts, reading.optical_max):
        raise DataError(f"{chips[0].parent}: at --optical-max {reading.optical_max:g}, {problem}")


def _rounded_up(value: int) -> int:
    """Round up to two digits, within 16 bits."""
    step = 10 ** max(0, len(str(value)) - 2)
    rounded: int = -(-value // step) * step
    return min(rounded, _LEVELS - 1)
