"""Scaling of SAR values to the numbers that a generator takes: units, stretches, mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

__all__ = ["RANGES", "UNITS", "Bound", "Scaling", "Standardize", "Stretch", "Unit"]

Unit = Literal["dn", "amplitude", "power", "db", "byte"]
"""Unit of SAR values.

- dn: uncalibrated amplitude (digital number)
- amplitude: calibrated amplitude, the square root of sigma0 or gamma0
- power: sigma0 or gamma0, linear
- db: 10 * log10 of the power
- byte: grey level that is already scaled to 0..255
"""

UNITS: tuple[Unit, ...] = get_args(Unit)

RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
"""Ranges of numbers that generators take and give."""


@dataclass(frozen=True)
class Bound:
    """One end of a stretch: a value in the model's unit, or a percentile of the scene's valid pixels."""

    at: float
    percentile: bool = False

    def __post_init__(self) -> None:
        if self.percentile and not 0 <= self.at <= 100:
            raise ValueError(f"percentile {self.at:g} is outside 0 to 100: give 0 to 100")

    def __str__(self) -> str:
        # The shortest text that reads back as the same number.
        short = f"{self.at:g}"
        number = short if float(short) == self.at else repr(float(self.at))
        return f"p{number}" if self.percentile else number

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read `"-25"` as a value and `"p99"` as a percentile.

        Raises
        ------
        ValueError
            If the text is neither.
        """
        text = text.strip()
        percentile = text[:1] in ("p", "P")
        try:
            at = float(text[1:] if percentile else text)
        except ValueError:
            at = float("nan")
        if not abs(at) < float("inf"):  # NaN fails too
            raise ValueError(f"{text!r} is not a bound: give a number (-25) or a percentile (p99)")
        return cls(at, percentile)


@dataclass(frozen=True)
class Stretch:
    """Stretch of values to a range, [-1, 1] by default; values beyond it are clipped."""

    low: Bound
    """Value that becomes the range's low end."""
    high: Bound
    """Value that becomes the range's high end."""
    to: tuple[float, float] = (-1.0, 1.0)
    """Range of the result, one of `RANGES`."""

    def __post_init__(self) -> None:
        if self.low.percentile == self.high.percentile and self.low.at >= self.high.at:
            raise ValueError(f"stretch {self.low} to {self.high}: the low end must be below the high end")
        if self.to not in RANGES:
            raise ValueError(f"a stretch to {list(self.to)}: give one of {', '.join(str(list(r)) for r in RANGES)}")

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    @classmethod
    def parse(cls, low: str, high: str) -> Stretch:
        """Read both bounds; see `Bound.parse`."""
        return cls(Bound.parse(low), Bound.parse(high))

    def invariant_to_gain(self, unit: Unit) -> bool:
        """Return whether the stretched image stays the same when all power is multiplied by one factor.

        If so, uncalibrated values are as suitable as calibrated ones. Percentiles move with the values, and 0 in a
        linear unit stays 0.
        """
        zero_stays = unit in ("dn", "amplitude", "power")
        return all(b.percentile or (zero_stays and b.at == 0) for b in (self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class Standardize:
    """Subtraction of a mean and division by a standard deviation, both in the model's unit."""

    mean: float
    """Value that becomes 0."""
    std: float
    """Difference of values that becomes 1."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value in the model's unit; values beyond are set to them before. None: no limit."""

    def __post_init__(self) -> None:
        if not (isfinite(self.mean) and isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean {self.mean:g}, standard deviation {self.std:g}: give numbers, the second above 0")
        if self.clip and not (all(map(isfinite, self.clip)) and self.clip[0] < self.clip[1]):
            raise ValueError(f"clip is {list(self.clip)}: give two numbers, the lower one first")

    def __str__(self) -> str:
        limits = f", clipped to {self.clip[0]:g} to {self.clip[1]:g}" if self.clip else ""
        return f"mean {self.mean:g}, standard deviation {self.std:g}{limits}"

    def invariant_to_gain(self, _unit: Unit) -> bool:
        """Return False: a fixed mean needs calibrated values; see `Stretch.invariant_to_gain`."""
        return False


Scaling = Stretch | Standardize
"""Scaling of one band."""
