"""Check a model of another exporter against its signature before it is used: shape, repeatability, range.

Files of `sar2opt-export` have a self-test instead, the output of their source.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar2optical.engines.base import Engine
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import ModelUnreadable
from sar2optical.signature import ModelSignature, Standardize

__all__ = ["acceptance_input", "refuse_implausible"]

_BEYOND = 0.05  # of the range: convolutions without a last activation overshoot
_LEAST_SPAN = 0.01  # of the range: numbers in [0, 1] span 0.004 of [0, 255]

_log = logging.getLogger(__name__)


def acceptance_input(signature: ModelSignature) -> NDArray[np.float32]:
    """Make a simulated chip as the signature scales it: float32 (1, C, window, window).

    A band with mean and standard deviation is within two deviations of its mean.
    """
    chip = self_test_input(signature)
    for channel in range(signature.channels):
        scaling = signature.stretch[min(channel, len(signature.stretch) - 1)]
        plane = chip[:, channel]
        if isinstance(scaling, Standardize):
            plane *= 2
            if scaling.clip:
                np.clip(plane, *((limit - scaling.mean) / scaling.std for limit in scaling.clip), out=plane)
        else:
            low, high = scaling.to
            plane[...] = low + (plane + 1) / 2 * (high - low)
    return chip


def refuse_implausible(engine: Engine, path: Path, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    """Compare two outputs for `acceptance_input` with each other, and with the range of the signature.

    The second one is of a run in which the other windows differ.

    Raises
    ------
    ModelUnreadable
        Two outputs for one window differ, or the numbers are not those of the signature's range.
    """
    if not np.array_equal(first, second):
        raise ModelUnreadable(
            f"{path}: two runs of one input differ by up to {np.abs(first - second).max():.3g} with {engine}: export "
            "it in evaluation mode (no random operators, no statistics of the batch), or with the noise as an input "
            "that the signature names"
        )
    output = engine.signature.output
    gain, shift = output.gain
    low, high = (float(value) * gain + shift for value in (first.min(), first.max()))
    lowest, highest = output.plausible
    span = highest - lowest
    fault = ""
    if low < lowest - _BEYOND * span or high > highest + _BEYOND * span:
        fault = "outside the range of the signature"
    elif high - low < _LEAST_SPAN * span:
        fault = f"less than {_LEAST_SPAN:.0%} of the range of the signature"
    if fault:
        raise ModelUnreadable(
            f"{path}: its output on a simulated chip is {low:.4g} to {high:.4g}, {fault}, {lowest:g} to {highest:g}: "
            "correct range, reflectance, unit or scaling in the signature"
        )
    if lowest < 0 <= low and output.values == (-1.0, 1.0):
        _log.warning(
            "%s: its output on a simulated chip is %.3g to %.3g, never below 0: check that its range is [-1, 1], not "
            "[0, 1]", path, low, high,
        )  # fmt: skip
