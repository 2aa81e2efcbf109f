"""A question that every exported file can be asked, and the answer that it must give, whatever runs it.

Libraries were seen to run a file and return something else: int8 products that saturate, a lost zero point, fp16
that overflows. A file's metadata hold the answer of its source to one synthetic chip; an engine is asked when it is
opened.
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

KEY = "sar2optical.known_answer"
"""Where metadata hold the answer."""

PARITY_KEY = "sar2optical.parity_psnr_db"
"""Where they hold the PSNR of the file against its source, in dB, lowest of any chip."""

STEP = 16
"""Every such pixel, down and across, is kept."""

_LEVELS = 127.0  # of a kept value: a byte holds [-1, 1] to 53 dB
_FLOOR = 30.0
_LEAST = 25.0  # red for green makes 16 to 24 dB of the bundled generator's image
_MARGIN = 10.0  # this chip is no real one, and may be harder
_CELL = 32


@dataclass(frozen=True)
class SelfTest:
    """What a generator gives for `question`, at every `STEP`-th pixel."""

    pixels: bytes
    """int8 (3, window / STEP, window / STEP), in C order: values of [-1, 1] times 127."""
    floor: float = _FLOOR
    """Least PSNR in dB, on [-1, 1], of an engine's answer against it."""

    @classmethod
    def of(cls, image: NDArray[np.float32], floor: float = _FLOOR) -> SelfTest:
        """Keep a generator's answer, float32 (1, 3, H, W) in [-1, 1]."""
        return cls(np.rint(_kept(image) * _LEVELS).clip(-_LEVELS, _LEVELS).astype(np.int8).tobytes(), floor)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> SelfTest | None:
        """Read a file's metadata; None where they hold none.

        The floor is 30 dB, or 10 dB under the file's own parity where that is less, and never under 25.
        """
        try:
            pixels = base64.b64decode(metadata[KEY], validate=True)
            floor = min(_FLOOR, float(metadata[PARITY_KEY]) - _MARGIN)
            return cls(pixels, max(floor, _LEAST))
        except (KeyError, ValueError, binascii.Error):
            return None

    def write(self) -> dict[str, str]:
        """Give the metadata entry."""
        return {KEY: base64.b64encode(self.pixels).decode()}

    def agreement(self, image: NDArray[np.float32]) -> float:
        """PSNR in dB, on [-1, 1], of an engine's answer, float32 (1, 3, H, W).

        NaN where the answer is not a number anywhere, or has another size.
        """
        found = _kept(image)
        expected = np.frombuffer(self.pixels, np.int8)
        if expected.size != found.size or not np.isfinite(image).all():
            return float("nan")
        return psnr(expected.reshape(found.shape) / _LEVELS, found, data_range=2.0)


def self_test_input(signature: ModelSignature) -> NDArray[np.float32]:
    """Make the chip that engines are asked about: patches of land under speckle of four looks.

    The same on every machine: from integer arithmetic, not from a library's random numbers.

    Returns
    -------
    ndarray
        float32 (1, C, window, window) in [-1, 1].
    """
    side, bands = signature.window, len(signature.bands)
    band, row, col = np.indices((bands, side, side), dtype=np.uint32)
    land = 0.1 + 0.7 * _uniform(band, row // _CELL, col // _CELL, 0)
    # The mean of four exponentials is four-look speckle's power (gamma distributed, shape 4).
    power = -np.mean([np.log(_uniform(band, row, col, look)) for look in range(1, 5)], axis=0)
    chip = np.clip(2 * land * np.sqrt(power) - 1, -1, 1).astype(np.float32)
    return np.array(np.broadcast_to(chip, (signature.channels, side, side))[None])


def _uniform(band: Any, row: Any, col: Any, stream: int) -> NDArray[np.float64]:
    """Numbers in (0, 1) from places, by a hash of 32 bits (constants: C. Wellons, hash-prospector, 2018)."""
    mixed = (row * np.uint32(0x9E3779B1)) ^ (col * np.uint32(0x85EBCA77)) ^ (band * np.uint32(0xC2B2AE3D))
    mixed = mixed ^ np.uint32(stream * 0x27D4EB2F & 0xFFFFFFFF)
    for factor in (0x2C1B3C6D, 0x297A2D39):
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(factor)
    mixed = mixed ^ (mixed >> np.uint32(15))
    out: NDArray[np.float64] = (mixed.astype(np.float64) + 0.5) / 2**32
    return out


def _kept(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image[0, :, STEP // 2 :: STEP, STEP // 2 :: STEP]
