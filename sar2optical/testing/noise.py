"""Noise and hashes with the same values on every machine, for areas of any size."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Area", "Bools", "Extent", "Floats", "Hashes", "unit"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint32]


class Extent(Protocol):
    """Size and seed of a scene."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    @property
    def seed(self) -> int:
        """Seed of all hashes."""
        ...


@dataclass(frozen=True)
class Area:
    """Position of a cell in the scene, with the noise and hashes there.

    `x` is float32 (1, w) and `y` float32 (h, 1): columns and rows of the scene, in pixels.
    """

    scene: Extent
    x: Floats
    y: Floats

    def noise(self, name: str, wavelength: float, *, stretch: float = 1.0) -> Floats:
        """Compute smooth noise of mean 0 and standard deviation about 0.55; float32 (h, w).

        `wavelength` is in pixels along x, and `stretch` times that along y.

        Random values on a lattice are interpolated by cubic B-splines (de Boor 1978), whose slopes are continuous, as
        illuminated terrain needs.
        """
        salt = self._salt(name)
        first_i, weights_x = _spline(self.x[0], wavelength)
        first_j, weights_y = _spline(self.y[:, 0], wavelength * stretch)
        i = np.arange(first_i.min(), first_i.max() + 4, dtype=np.int32)[None, :]
        j = np.arange(first_j.min(), first_j.max() + 4, dtype=np.int32)[:, None]
        lattice = 4 * unit(_hash(i, j, salt)) - 2
        across = _interpolate(lattice, first_i - i[0, 0], weights_x)
        return _interpolate(across.T, first_j - j[0, 0], weights_y).T

    def hash(self, name: str, i: Floats | Hashes, j: Floats | Hashes) -> Hashes:
        """Hash two arrays of whole numbers; uint32 of their common shape."""
        return _hash(i, j, self._salt(name))

    def chance(self, name: str, i: Floats | Hashes, j: Floats | Hashes) -> Floats:
        """Hash two arrays to uniform float32 in [0, 1), equal for equal `i` and `j`."""
        return unit(self.hash(name, i, j))

    def _salt(self, name: str) -> int:
        return zlib.crc32(f"{self.scene.seed} {name}".encode())


def _spline(position: Floats, wavelength: float) -> tuple[npt.NDArray[np.int32], list[Floats]]:
    """Compute the first lattice index of each position, int32 (n,), and its four B-spline weights, float32 (n,)."""
    scaled = position / np.float32(wavelength)
    first = np.floor(scaled)
    t = scaled - first
    s = 1 - t
    inner = [t * t * (3 * t - 6) + 4, s * s * (3 * s - 6) + 4]
    weights = [s * s * s / 6, inner[0] / 6, inner[1] / 6, t * t * t / 6]
    return first.astype(np.int32), weights


def _interpolate(values: Floats, first: npt.NDArray[np.int32], weights: list[Floats]) -> Floats:
    """Interpolate along the last axis from four neighbours: values (m, lattice), others (n,) -> float32 (m, n)."""
    total = weights[0] * values[:, first]
    for k in range(1, 4):
        total += weights[k] * values[:, first + k]
    return total


def _hash(i: npt.NDArray[Any], j: npt.NDArray[Any], salt: int) -> Hashes:
    """Hash two arrays of whole numbers; uint32 of their common shape.

    Applies `lowbias32` (C. Wellons, hash-prospector, public domain) once for each coordinate.
    """
    return _mix(_mix(_whole(i) ^ np.uint32(salt)) + _whole(j))


def _mix(value: Hashes) -> Hashes:
    value = value ^ (value >> np.uint32(16))
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    return value


def _whole(value: npt.NDArray[Any]) -> Hashes:
    # Through int32, because the conversion of a negative float32 to uint32 is undefined.
    return value if value.dtype == np.uint32 else value.astype(np.int32).view(np.uint32)


def unit(value: Hashes) -> Floats:
    """Convert to uniform float32 in [0, 1): the upper 24 bits, which float32 represents exactly."""
    return (value >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
