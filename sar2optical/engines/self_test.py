"""The self-test of an exported file: the output of its source for one synthetic chip, stored in its metadata.

Every engine runs the self-test when it is opened, because libraries were seen to run a file and return another
image: int8 products that saturate, a lost zero point, fp16 that overflows.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.psnr import psnr
from sar2optical.signature import ModelSignature

__all__ = ["KEY", "PARITY_KEY", "STEP", "SelfTest", "self_test_input"]

KEY = "sar2optical.known_answer"
"""Metadata key of the self-test's output."""

PARITY_KEY = "sar2optical.parity_psnr_db"
"""Metadata key of the PSNR of the file against its source, in dB, lowest of all chips."""

STEP = 16
"""Spacing of the stored pixels, in rows and columns."""

_LEVELS = 127.0  # of a stored value: a byte holds [-1, 1] to 53 dB
_FLOOR = 30.0
_LEAST = 25.0  # swapping red and green gives 16 to 24 dB on the bundled generator's image
_MARGIN = 10.0  # the synthetic chip may be harder than real ones
_CELL = 32


@dataclass(frozen=True)
class SelfTest:
    """Output of a generator for `self_test_input`, at every `STEP`-th pixel."""

    pixels: bytes
    """Bytes of int8 (3, window / STEP, window / STEP), in C order: values in [-1, 1] times 127."""
    floor: float = _FLOOR
    """Least PSNR in dB, on [-1, 1], that an engine's output must reach."""

    @classmethod
    def of(cls, image: NDArray[np.float32], floor: float = _FLOOR) -> SelfTest:
        """Store a generator's output, float32 (1, 3, H, W) in [-1, 1]."""
        return cls(np.rint(_sampled(image) * _LEVELS).clip(-_LEVELS, _LEVELS).astype(np.int8).tobytes(), floor)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> SelfTest | None:
        """Read the self-test from a file's metadata; None if it has none.

        The floor is 30 dB, or 10 dB below the file's parity if that is lower, and never below 25 dB.
        """
        try:
            pixels = base64.b64decode(metadata[KEY], validate=True)
            floor = min(_FLOOR, float(metadata[PARITY_KEY]) - _MARGIN)
            return cls(pixels, max(floor, _LEAST))
        except (KeyError, ValueError, binascii.Error):
            return None

    def write(self) -> dict[str, str]:
        """Return the metadata entry."""
        return {KEY: base64.b64encode(self.pixels).decode()}

    def agreement(self, image: NDArray[np.float32]) -> float:
        """Compute the PSNR in dB, on [-1, 1], of an engine's output, float32 (1, 3, H, W).

        NaN if the output holds NaN or infinity, or has another size.
        """
        found = _sampled(image)
        expected = np.frombuffer(self.pixels, np.int8)
        if expected.size != found.size or not np.isfinite(image).all():
            return float("nan")
        return psnr(expected.reshape(found.shape) / _LEVELS, found, data_range=2.0)


def self_test_input(signature: ModelSignature) -> NDArray[np.float32]:
    """Make the input of the self-test: patches of land under four-look speckle.

    Integer arithmetic, not a library's random numbers, makes the same chip on every machine.

    Returns
    -------
    ndarray
        float32 (1, C, window, window) in [-1, 1].
    """
    side, bands = signature.window, len(signature.bands)
    band, row, col = np.indices((bands, side, side), dtype=np.uint32)
    land = 0.1 + 0.7 * _uniform(band, row // _CELL, col // _CELL, 0)
    # Power of four-look speckle: the mean of four exponentials (gamma distribution, shape 4).
    power = -np.mean([np.log(_uniform(band, row, col, look)) for look in range(1, 5)], axis=0)
    chip = np.clip(2 * land * np.sqrt(power) - 1, -1, 1).astype(np.float32)
    return np.array(np.broadcast_to(chip, (signature.channels, side, side))[None])


def _uniform(band: Any, row: Any, col: Any, stream: int) -> NDArray[np.float64]:
    """Hash pixel positions to numbers in (0, 1), with 32 bits (constants: C. Wellons, hash-prospector, 2018)."""
    mixed = (row * np.uint32(0x9E3779B1)) ^ (col * np.uint32(0x85EBCA77)) ^ (band * np.uint32(0xC2B2AE3D))
    mixed = mixed ^ np.uint32(stream * 0x27D4EB2F & 0xFFFFFFFF)
    for factor in (0x2C1B3C6D, 0x297A2D39):
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(factor)
    mixed = mixed ^ (mixed >> np.uint32(15))
    out: NDArray[np.float64] = (mixed.astype(np.float64) + 0.5) / 2**32
    return out


def _sampled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image[0, :, STEP // 2 :: STEP, STEP // 2 :: STEP]
