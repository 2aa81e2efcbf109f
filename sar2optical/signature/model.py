"""Signature of a generator as a whole, and its JSON form, which is stored in checkpoints and exported files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sar2optical.errors import SignatureError
from sar2optical.signature.record import read_version_2, refuse_newer_names, refuse_null, version_2
from sar2optical.signature.scaling import UNITS, Bound, Scaling, Stretch, Unit
from sar2optical.signature.tensors import Graph, Output

__all__ = [
    "BATCH_AXIS",
    "INPUT",
    "METADATA_KEY",
    "OUTPUT",
    "PRECISION_KEY",
    "VERSION",
    "ModelSignature",
    "alternatives",
    "listed",
    "read_record",
]

VERSION = 2
"""Newest version of the JSON form. A signature that needs nothing of it is written as version 1. Later versions are
an error."""

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


def read_record(text: str, *, versions: tuple[int, ...], source: str, name: str, remedy: str) -> Any:
    """Parse JSON that names its version.

    Parameters
    ----------
    text
        JSON object with a field `version`.
    versions
        Versions that this release reads.
    source, name, remedy
        Path of the file, name of the record in it, and remedy, for errors.

    Raises
    ------
    SignatureError
        If it is not such an object, or of another version.
    """
    try:
        record = json.loads(text, object_pairs_hook=_once)
        found = record["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = str(error)[:60]
        raise SignatureError(
            f"{source}: its {name} is not readable ({str(text)[:40]!r}, {reason}): {remedy}"
        ) from error
    if found not in versions or isinstance(found, bool):
        raise SignatureError(
            f"{source}: {name} version {found!r}, but this release reads {' and '.join(map(str, versions))}: "
            f"{remedy}, or use the release that created it"
        )
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of names that each occur once."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return made


@dataclass(frozen=True, kw_only=True)
class ModelSignature:
    """Input and output of a generator: bands, unit, scaling, window, tensors and colours.

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
    """Unit in which the values are scaled."""
    stretch: tuple[Scaling, ...] = (Stretch(Bound(1, True), Bound(99, True)),)
    """Scaling of each band."""
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
    graph: Graph = field(default_factory=Graph)
    """Tensors of the engine file."""
    output: Output = field(default_factory=Output)
    """Bands of the output."""

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
    def is_version_1(self) -> bool:
        """Whether version 1 can say all of it: bands stretched to [-1, 1], our own tensors, RGB in [-1, 1]."""
        stretched = all(isinstance(one, Stretch) and one.to == (-1.0, 1.0) for one in self.stretch)
        return stretched and self.graph == Graph() and self.output == Output()

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
        first = [[str(s.low), str(s.high)] for s in self.stretch if isinstance(s, Stretch)]
        record = {
            "version": 1 if self.is_version_1 else VERSION,
            "name": self.name,
            "bands": list(self.bands),
            "unit": self.unit,
            **({"stretch": first} if self.is_version_1 else {}),
            "window": self.window,
            **({"windows": list(self.windows)} if self.windows else {}),
            **({} if self.auto_window is None else {"auto_window": self.auto_window}),
            "channels": self.channels,
            **({} if self.pixel_size is None else {"pixel_size": self.pixel_size}),
            **({} if self.is_version_1 else version_2(self.stretch, self.graph, self.output)),
        }
        return json.dumps(record)

    @classmethod
    def read(cls, path: Path) -> ModelSignature:
        """Read a JSON file; see `from_json`.

        Raises
        ------
        SignatureError
            If it cannot be read, is malformed or of another version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SignatureError(f"{path}: cannot be read ({error}): give a JSON file with a signature") from error
        return cls.from_json(text, source=str(path))

    @classmethod
    def from_json(cls, text: str, *, source: str = "the model") -> ModelSignature:
        """Read the JSON form.

        Parameters
        ----------
        text
            JSON from `to_json`, or version 2 as docs/signature.md describes it.
        source
            Path of the file that contains it, for errors.

        Raises
        ------
        SignatureError
            If it is malformed or of another version.
        """
        versions = tuple(range(1, VERSION + 1))
        record = read_record(text, versions=versions, source=source, name="signature", remedy="export it again")
        remedy = "export it again" if record["version"] == 1 else "correct it as docs/signature.md describes"
        try:
            if record["version"] == 1:
                refuse_newer_names(record)
            else:
                refuse_null(record)
            return cls(
                name=str(record["name"]),
                bands=tuple(str(b) for b in record["bands"]),
                unit=record["unit"],
                window=int(record["window"]),
                windows=tuple(int(side) for side in record.get("windows", ())),
                auto_window=None if record.get("auto_window") is None else int(record["auto_window"]),
                channels=int(record["channels"]),
                pixel_size=None if record.get("pixel_size") is None else float(record["pixel_size"]),
                **(_version_1(record) if record["version"] == 1 else read_version_2(record)),
            )
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise SignatureError(f"{source}: malformed signature ({error}): {remedy}") from error


def _version_1(record: Any) -> dict[str, Any]:
    return {"stretch": tuple(Stretch.parse(*map(str, pair)) for pair in record["stretch"])}
