"""The one encoder: scale SAR values to model input, and model output to bytes. Nothing else scales either.

::

    values of a scene -> convert to the model's unit -> scale to the model's range -> pad and copy to its channels
    output -> decode -> uint8, uint16 or float32, see `decoding`
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import UnitsMismatch
from sar2optical.signature import Bound, ModelSignature, Scaling, Standardize, Stretch, Unit

__all__ = [
    "AS_IT_IS",
    "Encoding",
    "choose_stretch",
    "convert",
    "encode_bands",
    "encodings_for",
    "resolve",
    "to_input",
    "warn_outside",
]

_log = logging.getLogger(__name__)

POWER_OF = {"dn": 2, "amplitude": 2, "power": 1}
"""Exponent that turns a value in a linear unit into power."""

_LOWEST = -10.0
"""Least number of standard deviations above the mean, where a signature has no clip."""


def convert(values: NDArray[np.float32], source: Unit, target: Unit) -> NDArray[np.float32]:
    """Convert between units: power = amplitude ** 2 = 10 ** (dB / 10).

    `dn` counts as amplitude: the calibration factor between the two is unknown here, see
    `Stretch.invariant_to_gain`.

    Parameters
    ----------
    values
        float32, any shape, in `source`. Negative power or amplitude (a result of noise removal) counts as 0.
    source, target
        Units; `byte` converts only to `byte`.

    Returns
    -------
    ndarray
        float32 of the same shape, in `target`; -inf dB where the power is 0. May be `values` itself.

    Raises
    ------
    UnitsMismatch
        If exactly one of the two units is `byte`.
    """
    if source == target or {source, target} == {"dn", "amplitude"}:
        return values
    if "byte" in (source, target):
        raise UnitsMismatch(
            f"values are {source} and cannot be converted to {target}, which the model expects: "
            "give --stretch LOW HIGH in the scene's unit"
        )
    with np.errstate(divide="ignore"):
        if target == "db":
            scale = np.float32(10 * POWER_OF[source])
            return np.asarray(scale * np.log10(np.maximum(values, 0)), np.float32)
        if source == "db":
            exponent = values / np.float32(10 * POWER_OF[target])
            # Damaged values may have any size: the exponent is limited to the largest that float32 holds.
            return np.asarray(np.power(np.float32(10), np.minimum(exponent, 38)), np.float32)
    if target == "power":
        return np.square(np.maximum(values, 0))
    return np.sqrt(np.maximum(values, 0))


@dataclass(frozen=True)
class Encoding:
    """Conversion of one band of a scene to model input; one for the whole scene, so that all windows agree."""

    source: Unit
    """Unit of the scene's values."""
    target: Unit
    """Unit in which the stretch is applied."""
    low: float
    """Value in `target` that becomes the first value of `to`."""
    high: float
    """Value in `target` that becomes the second value of `to`."""
    to: tuple[float, float] = (-1.0, 1.0)
    """What `low` and `high` become; 0 and 1 for a mean, and for a mean plus a standard deviation."""
    limits: tuple[float, float] | None = None
    """Range that results are clipped to; None: `to`, as in a stretch."""

    def __str__(self) -> str:
        if self.limits is not None:
            return f"{self.source} as {self.target}, mean {self.low:.4g}, deviation {self.high - self.low:.4g}"
        if self.source == self.target == "byte" and (self.low, self.high) == (0, 255):
            return "bytes as they are"
        return f"{self.source} as {self.target}, {self.low:.4g} to {self.high:.4g}"

    def encode(
        self, values: NDArray[np.float32], valid: NDArray[np.bool_] | None, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Scale a band and clip it; invalid pixels become 0, see `sar2optical.tiling.fill`.

        Parameters
        ----------
        values
            float32 (H, W) in `source`.
        valid
            bool (H, W); None: all pixels are valid.
        out
            float32 (H, W), where the result is stored; a new array by default.

        Returns
        -------
        ndarray
            float32 (H, W) in `to`, or in `limits`; without NaN.
        """
        out = np.empty(values.shape, np.float32) if out is None else out
        converted = convert(values, self.source, self.target)
        # -inf (power of 0, in dB) is clipped; damaged values may overflow, and are clipped as well.
        first, last = self.to
        with np.errstate(over="ignore"):
            np.subtract(converted, np.float32(self.low), out=out)
            out *= np.float32((last - first) / (self.high - self.low))
        if first:
            out += np.float32(first)
        np.clip(out, *(self.limits or self.to), out=out)
        if valid is not None and not valid.all():
            out[~valid] = 0
        return out


AS_IT_IS = Encoding("byte", "byte", 0, 255)
"""Encoding of values that are already scaled to 8 bits: 0 becomes -1, 255 becomes 1."""


def encodings_for(
    unit: Unit | None,
    samples: Sequence[NDArray[np.float32]],
    signature: ModelSignature,
    stretch: Stretch | None = None,
) -> list[Encoding]:
    """Choose the encoding of each band of a scene.

    Parameters
    ----------
    unit
        Unit of the scene's values; None where the scene has no valid pixel to guess it from.
    samples
        By band: float32 (n,), valid pixels of the whole scene in `unit`, see `Scene.read_samples`.
    signature
        Signature of the model.
    stretch
        The user's stretch for all bands; None: the signature's.

    Returns
    -------
    list of Encoding
        One per band of the model; `AS_IT_IS` where no pixel is valid, as none will be encoded.

    Raises
    ------
    UnitsMismatch
        As `choose_stretch` and `resolve` do.
    """
    if unit is None or not samples[0].size:
        return [AS_IT_IS] * len(signature.bands)
    target, scalings = choose_stretch(unit, signature, stretch)
    return [
        _standardized(unit, target, chosen)
        if isinstance(chosen, Standardize)
        else Encoding(unit, target, *resolve(chosen, convert(sample, unit, target)), chosen.to)
        for chosen, sample in zip(scalings, samples, strict=True)
    ]


def _standardized(source: Unit, target: Unit, chosen: Standardize) -> Encoding:
    """Return the encoding (x - mean) / std. Without a clip, -inf dB, a power of 0, becomes `_LOWEST`."""
    limits = (_LOWEST, math.inf)
    if chosen.clip:
        lowest, highest = ((limit - chosen.mean) / chosen.std for limit in chosen.clip)
        limits = lowest, highest
    return Encoding(source, target, chosen.mean, chosen.mean + chosen.std, (0.0, 1.0), limits)


def warn_outside(name: str, encodings: Sequence[Encoding], samples: Sequence[NDArray[np.float32]]) -> None:
    """Log a warning if all values of a band lie outside its stretch: the band then has one grey level."""
    for encoding, sample in zip(encodings, samples, strict=True):
        if not sample.size or encoding == AS_IT_IS:
            continue
        ends = np.array([sample.min(), sample.max()], np.float32)  # every conversion is monotone
        lowest, highest = map(float, convert(ends, encoding.source, encoding.target))
        if encoding.limits is None and (highest < encoding.low or lowest > encoding.high):
            _log.warning(
                "%s: all values (%.4g to %.4g %s) lie outside the stretch %.4g to %.4g; the mosaic will have one "
                "colour: give --stretch in %s, or percentiles (p1 p99)",
                name, lowest, highest, encoding.target, encoding.low, encoding.high, encoding.target,
            )  # fmt: skip


def encode_bands(
    encodings: Sequence[Encoding], values: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Encode all bands of a scene, or of a part of it.

    Parameters
    ----------
    encodings
        One per band.
    values
        float32 (bands, H, W) in the scene's unit.
    valid
        bool (H, W).

    Returns
    -------
    ndarray
        float32 (bands, H, W) in [-1, 1]; 0 where invalid.
    """
    encoded = np.empty(values.shape, np.float32)
    for encoding, band, out in zip(encodings, values, encoded, strict=True):
        encoding.encode(band, valid, out)
    return encoded


def to_input(
    sar: NDArray[np.float32], valid: NDArray[np.bool_], *, shape: tuple[int, int], channels: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pad encoded bands to the size of a window (or of a row of windows), and copy a lone band to all channels.

    Parameters
    ----------
    sar
        float32 (bands, H, W) in [-1, 1], from `encode_bands`.
    valid
        bool (H, W).
    shape
        Height and width of the result, at least H and W.
    channels
        Input channels of the model: as many as bands, or any number where there is one band.

    Returns
    -------
    sar
        float32 (channels, *shape); padded with 0 at the bottom and on the right. Copied channels share their
        memory and are read-only.
    valid
        bool (*shape); padding is invalid.
    """
    missing = (0, shape[0] - valid.shape[0]), (0, shape[1] - valid.shape[1])
    if np.any(missing):
        sar, valid = np.pad(sar, ((0, 0), *missing)), np.pad(valid, missing)
    if len(sar) != channels:
        sar = np.broadcast_to(sar, (channels, *sar.shape[1:]))
    return sar, valid


def choose_stretch(
    source: Unit, signature: ModelSignature, stretch: Stretch | None
) -> tuple[Unit, tuple[Scaling, ...]]:
    """Choose the unit in which values are scaled, and the scaling of each band of the model.

    Parameters
    ----------
    source
        Unit of the scene's values.
    signature
        Signature of the model.
    stretch
        The user's stretch: in the model's unit, or in the scene's where the two cannot be converted. None: the
        signature's.

    Returns
    -------
    unit, scalings
        Values in `byte` are already scaled: without a user's stretch, 0 to 255 is theirs, unless the model has a mean
        and a standard deviation of bytes.

    Raises
    ------
    UnitsMismatch
        If the model expects bytes and the scene has others, or one of the two is calibrated, the other is not, and
        the signature's stretch has fixed bounds; or a bound of the user's stretch is below 0 in a linear unit; or a
        stretch, the user's or that of bytes, would replace a mean and a standard deviation.
    """
    given = tuple(_in_place_of(own, stretch) for own in signature.stretch) if stretch else None
    if source == "byte":
        if given is None and signature.unit == "byte" and any(isinstance(s, Standardize) for s in signature.stretch):
            return "byte", signature.stretch
        return "byte", given or tuple(_in_place_of(own, Stretch(Bound(0), Bound(255))) for own in signature.stretch)
    if signature.unit == "byte":
        if given is None:
            raise UnitsMismatch(
                f"values are {source}, the model expects values already scaled to 8 bits: give --stretch p1 p99 "
                "or other bounds, or a scene of bytes"
            )
        return source, given
    if stretch and signature.unit != "db" and any(b.at < 0 for b in (stretch.low, stretch.high)):
        raise UnitsMismatch(
            f"stretch {stretch}: has a negative bound, but the model expects {signature.unit}: give bounds of 0 or "
            "more, or percentiles (p1 p99)"
        )
    chosen = given or signature.stretch
    fixed = [s for s in chosen if not s.invariant_to_gain(signature.unit)]
    if source != "dn" and fixed and stretch is None and signature.unit == "dn":
        raise UnitsMismatch(
            f"values are calibrated {source}, the model expects uncalibrated DN, stretched from {fixed[0]}: "
            "give the uncalibrated scene, or --stretch p1 p99"
        )
    if source == "dn" and fixed and stretch is None and signature.unit != "dn":
        raise UnitsMismatch(
            f"values are uncalibrated DN, the model expects calibrated {signature.unit}, stretched from {fixed[0]}: "
            "calibrate the scene, or give --stretch p1 p99"
        )
    return signature.unit, chosen


def _in_place_of(own: Scaling, stretch: Stretch) -> Stretch:
    """Return a stretch to the range of the model's own scaling, which it replaces."""
    if isinstance(own, Standardize):
        raise UnitsMismatch(
            f"the model takes values with {own}, which stretch {stretch} cannot replace: leave out --stretch, and "
            "give a scene in a unit that the model takes"
        )
    return replace(stretch, to=own.to)


def resolve(stretch: Stretch, sample: NDArray[np.float32]) -> tuple[float, float]:
    """Compute the two values of a stretch: percentiles are taken from a sample.

    Parameters
    ----------
    stretch
        Values or percentiles.
    sample
        float32 (n,), valid pixels of the whole scene (never of one window) in the stretch's unit. May be empty.

    Returns
    -------
    low, high
        low < high. Where percentiles coincide (a flat scene), high is raised by the smallest step that float32
        resolves, so that the flat value becomes the low end.

    Raises
    ------
    UnitsMismatch
        If a percentile and a fixed value give low > high.
    """
    low, high = (_value(bound, sample) for bound in (stretch.low, stretch.high))
    if low > high:  # only where one bound is a percentile and the other a value
        raise UnitsMismatch(
            f"stretch {stretch} gives {low:.4g} to {high:.4g} on this scene, but low must be below high: "
            "give --stretch p1 p99"
        )
    return low, max(high, low + max(abs(low) * 1e-6, 1e-12))


def _value(bound: Bound, sample: NDArray[np.float32]) -> float:
    if not bound.percentile:
        return bound.at
    finite = sample[np.isfinite(sample)]  # without -inf dB, where the power is 0
    return float(np.percentile(finite, bound.at)) if finite.size else 0.0
