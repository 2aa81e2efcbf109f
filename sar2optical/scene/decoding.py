"""Convert model output to what a mosaic stores: the other end of `encoder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import OptionError
from sar2optical.signature import Output, Reflectance

__all__ = ["DTYPES", "RGB", "Decoding", "PixelType", "decode", "decoding_for"]

PixelType = Literal["uint8", "uint16", "float32"]
"""Type of a mosaic's pixels."""

DTYPES: tuple[PixelType, ...] = get_args(PixelType)

_PER_REFLECTANCE = 10_000.0
"""Steps of uint16 for a reflectance of 1, as in Sentinel-2 products."""

_IN_CACHE = 1 << 16  # pixels whose passes stay in the cache of a core


def decode(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert output in [-1, 1] to bytes: clip to [-1, 1], (y + 1) / 2 * 255, rounded.

    Rounding makes this the exact inverse of `sar2optical.scene.encoder.AS_IT_IS`. (The re-implemented system
    truncates, which is half a level darker on average.)

    Parameters
    ----------
    image
        float32, any shape, in [-1, 1].

    Returns
    -------
    ndarray
        uint8 of the same shape.
    """
    found: NDArray[np.uint8] = RGB.decode(image)
    return found


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Choice of a model's bands, and the conversion of their numbers to stored ones: number * factor + summand."""

    bands: tuple[str, ...] = ("red", "green", "blue")
    """Names of the mosaic's bands."""
    index: tuple[int, ...] | None = None
    """Index of each of them in the model's output; None: all bands of the model, in its order."""
    dtype: PixelType = "uint8"
    """Type of the stored numbers. Integers are rounded and clipped to their range."""
    factor: float = 127.5
    """Factor."""
    summand: float = 127.5
    """Summand."""
    measures: tuple[float, float] | None = None
    """Scale and offset that turn stored numbers into values: in the model's range, or reflectance. None: stored
    numbers are colours."""

    @property
    def is_rgb(self) -> bool:
        """Whether the mosaic has three bands of bytes, which viewers show as red, green and blue."""
        return self.dtype == "uint8" and len(self.bands) == 3

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in all bands."""
        return len(self.bands) * np.dtype(self.dtype).itemsize

    def chosen(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Choose the mosaic's bands of a window, float32 (K, H, W); the window itself where these are all."""
        return image if self.index is None else image[list(self.index)]

    def decode(self, image: NDArray[np.float32]) -> NDArray[Any]:
        """Convert chosen bands, float32 of any shape, to stored numbers."""
        decoded = np.empty(image.shape, self.dtype)
        if image.ndim < 2 or not image.size:
            self._decode(image, decoded)
            return decoded
        rows = max(1, _IN_CACHE // image.shape[-1])
        for index in np.ndindex(image.shape[:-2]):
            plane, out = image[index], decoded[index]
            for start in range(0, len(plane), rows):
                self._decode(plane[start : start + rows], out[start : start + rows])
        return decoded

    def _decode(self, image: NDArray[np.float32], out: NDArray[Any]) -> None:
        scaled = image * np.float32(self.factor)
        if self.dtype == "float32":
            np.add(scaled, np.float32(self.summand), out=out)
            return
        scaled += np.float32(self.summand + 0.5)  # half a level for rounding
        np.clip(scaled, 0, np.iinfo(self.dtype).max, out=scaled)
        np.copyto(out, scaled, casting="unsafe")


RGB = Decoding()
"""Decoding of RGB in [-1, 1] to bytes."""


def decoding_for(output: Output, bands: tuple[str, ...] = (), dtype: PixelType | None = None) -> Decoding:
    """Choose how a model's output is stored.

    Parameters
    ----------
    output
        Output of the model.
    bands
        Names of its bands, in the order of the mosaic; ("all",): all of them. Empty, or ("rgb",): those that are
        shown as red, green and blue.
    dtype
        uint8: values are shown as the signature says. uint16: reflectance * 10000, or the model's range scaled to 0
        to 65535. float32: values as they are. None: uint8.

    Raises
    ------
    OptionError
        A band is unknown or named twice.
    """
    names = {(): output.rgb, ("rgb",): output.rgb, ("all",): output.bands}.get(bands, bands)
    if unknown := [name for name in names if name not in output.bands]:
        raise OptionError(
            f"output band {unknown[0]} is not one of the model's: give --output-bands all, or some of "
            f"{','.join(output.bands)}"
        )
    if bands and len(set(names)) != len(names):
        raise OptionError(f"output bands {','.join(names)}: a band is named twice: give each once")
    kind: PixelType = dtype or "uint8"
    if kind not in DTYPES:
        raise OptionError(f"dtype is {dtype!r}: give one of {', '.join(DTYPES)}")
    scale, offset = _measures(output, kind)
    gain, shift = output.gain
    index = tuple(output.bands.index(name) for name in names)
    pictured = names == output.rgb and kind == "uint8"
    return Decoding(
        bands=names,
        index=None if index == tuple(range(len(output.bands))) else index,
        dtype=kind,
        factor=gain / scale,
        summand=(shift - offset) / scale,
        measures=None if pictured else (scale, offset),
    )


def _measures(output: Output, dtype: PixelType) -> tuple[float, float]:
    """Return the scale and offset that turn stored numbers into values."""
    if dtype == "float32":
        return 1.0, 0.0
    if dtype == "uint8":
        low, high = output.shown
        return (high - low) / 255, low
    if isinstance(output.values, Reflectance):
        return 1 / _PER_REFLECTANCE, 0.0
    low, high = output.values
    return (high - low) / 65535, low
