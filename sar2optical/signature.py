"""Signature of a generator: its input bands, unit and scaling; stored in checkpoints and exported files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from sar2optical.errors import SignatureError

__all__ = [
    "BATCH_AXIS",
    "INPUT",
    "METADATA_KEY",
    "OUTPUT",
    "PRECISION_KEY",
    "UNITS",
    "VERSION",
    "Bound",
    "ModelSignature",
    "Stretch",
    "Unit",
    "alternatives",
    "listed",
    "read_record",
]

Unit = Literal["dn", "amplitude", "power", "db", "byte"]
"""Unit of SAR values.

- dn: uncalibrated amplitude (digital number)
- amplitude: calibrated amplitude, the square root of sigma0 or gamma0
- power: sigma0 or gamma0, linear
- db: 10 * log10 of the power
- byte: grey level that is already scaled to 0..255
"""

UNITS: tuple[Unit, ...] = get_args(Unit)

VERSION = 1
"""Version of the JSON form. Other versions are an error."""

INPUT, OUTPUT = "sar", "optical"
"""Names of the tensors in an exported graph."""

BATCH_AXIS = "N"
"""Name of the tensors' dynamic batch dimension."""

METADATA_KEY = "sar2optical.signature"
"""Key of the JSON form in ONNX `metadata_props`."""

_OR = "|"
"""Separator of polarisations that are equally suitable for an input band."""

PRECISION_KEY = "sar2optical.precision"
"""Key of the graph's precision in ONNX `metadata_props`; fp32 where it is absent."""


def alternatives(band: str) -> tuple[str, ...]:
    """Split a signature's band into the suitable polarisations, the preferred one first.

    A generator that was trained on both VV and VH has the band "VV|VH".
    """
    return tuple(band.split(_OR))


def listed(*bands: str) -> str:
    """Format bands for messages: "VV or VH"; several are separated by commas."""
    return ", ".join(" or ".join(alternatives(band)) for band in bands)


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
    """Stretch of values to [-1, 1]; values beyond it are clipped."""

    low: Bound
    """Value that becomes -1."""
    high: Bound
    """Value that becomes 1."""

    def __post_init__(self) -> None:
        if self.low.percentile == self.high.percentile and self.low.at >= self.high.at:
            raise ValueError(f"stretch {self.low} to {self.high}: the low end must be below the high end")

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


def read_record(text: str, *, version: int, source: str, name: str, remedy: str) -> Any:
    """Parse JSON that names its version.

    Parameters
    ----------
    text
        JSON object with a field `version`.
    version
        Version that this release reads.
    source, name, remedy
        Path of the file, name of the record in it, and remedy, for errors.

    Raises
    ------
    SignatureError
        If it is not such an object, or of another version.
    """
    try:
        record = json.loads(text)
        found = record["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SignatureError(f"{source}: its {name} is not readable ({str(text)[:40]!r}): {remedy}") from error
    if found != version:
        raise SignatureError(
            f"{source}: {name} version {found!r}, but this release reads {version}: "
            f"{remedy}, or use the release that created it"
        )
    return record


@dataclass(frozen=True, kw_only=True)
class ModelSignature:
    """Input of a generator: bands, unit, stretch and window.

    Raises
    ------
    ValueError
        If fields contradict one another or are out of range.
    """

    name: str
    """Name of the model in tags and messages."""
    bands: tuple[str, ...] = ("VV",)
    """Polarisations that the model was trained on, one entry per input band; see `alternatives`."""
    unit: Unit = "db"
    """Unit in which the stretch is applied."""
    stretch: tuple[Stretch, ...] = (Stretch(Bound(1, True), Bound(99, True)),)
    """Stretch of each band."""
    window: int = 256
    """Height and width of the input in training, in pixels."""
    windows: tuple[int, ...] = ()
    """Larger heights and widths that the model also takes, ascending; see `sides`."""
    auto_window: int | None = None
    """Window that `--window auto` takes, one of `sides`; None: the model's own. See `default_window`."""
    channels: int = 1
    """Number of input channels: one per band, or several copies of a single band."""
    pixel_size: float | None = None
    """Side of a pixel of the training data, in metres on the ground; None: unknown."""

    def __post_init__(self) -> None:
        if not self.bands or len(self.stretch) != len(self.bands):
            raise ValueError(f"{len(self.bands)} bands with {len(self.stretch)} stretches: give one stretch per band")
        if self.channels != len(self.bands) and len(self.bands) != 1:
            raise ValueError(f"{self.channels} channels for bands {self.bands}: give one channel per band")
        if any(not all(alternatives(band)) for band in self.bands):
            raise ValueError(f"bands {self.bands}: a polarisation has no name: give names such as VV|VH")
        if self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}: give one of {', '.join(UNITS)}")
        if self.window < 1 or self.channels < 1:
            raise ValueError(f"window {self.window}, channels {self.channels}: both must be positive")
        larger = (self.window, *self.windows)
        if any(b <= a or b % self.window for a, b in pairwise(larger)):
            raise ValueError(f"windows {self.windows}: give multiples of {self.window}, ascending")
        if self.auto_window not in (None, *self.sides):
            sides = ", ".join(map(str, self.sides))
            raise ValueError(f"auto window {self.auto_window} is not a window of the model: give one of {sides}")
        if self.pixel_size is not None and not 0 < self.pixel_size < float("inf"):  # NaN fails too
            raise ValueError(f"pixel size is {self.pixel_size:g} m: give a positive number")

    @property
    def sides(self) -> tuple[int, ...]:
        """All heights and widths that the model takes, ascending; its own first."""
        return (self.window, *self.windows)

    @property
    def default_window(self) -> int:
        """Height and width of the windows of a run for which the user gives none."""
        return self.auto_window or self.window

    def in_window(self, side: int) -> ModelSignature:
        """Return the signature of the model with windows of one size only."""
        return replace(self, window=side, windows=(), auto_window=None)

    @property
    def replicated(self) -> bool:
        """Whether the input channels are copies of one band."""
        return self.channels > len(self.bands)

    def to_json(self) -> str:
        """Convert to JSON; `from_json` returns an equal signature."""
        record = {
            "version": VERSION,
            "name": self.name,
            "bands": list(self.bands),
            "unit": self.unit,
            "stretch": [[str(s.low), str(s.high)] for s in self.stretch],
            "window": self.window,
            **({"windows": list(self.windows)} if self.windows else {}),
            **({} if self.auto_window is None else {"auto_window": self.auto_window}),
            "channels": self.channels,
            **({} if self.pixel_size is None else {"pixel_size": self.pixel_size}),
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str, *, source: str = "the model") -> ModelSignature:
        """Read the JSON form.

        Parameters
        ----------
        text
            JSON from `to_json`.
        source
            Path of the file that contains it, for errors.

        Raises
        ------
        SignatureError
            If it is malformed or of another version.
        """
        record = read_record(text, version=VERSION, source=source, name="signature", remedy="export it again")
        try:
            return cls(
                name=str(record["name"]),
                bands=tuple(str(b) for b in record["bands"]),
                unit=record["unit"],
                stretch=tuple(Stretch.parse(*map(str, pair)) for pair in record["stretch"]),
                window=int(record["window"]),
                windows=tuple(int(side) for side in record.get("windows", ())),
                auto_window=None if record.get("auto_window") is None else int(record["auto_window"]),
                channels=int(record["channels"]),
                pixel_size=None if record.get("pixel_size") is None else float(record["pixel_size"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise SignatureError(f"{source}: malformed signature ({error}): export it again") from error
