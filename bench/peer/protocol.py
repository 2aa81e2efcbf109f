"""What is asked of a worker, and what it answers: JSON, for it runs in an environment of another tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

OPENSR_SCALE = 10_000
"""opensr-utils takes values of 0 to this, divides by it, and writes as much."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A scene to be translated, in one way."""

    way: str = ""
    """Whose: a name of `bench.peer.ways.WAYS`, or one of ours."""
    scene: str = ""
    """What the way reads; see `bench.peer.scenes`."""
    out: str = ""
    """The GeoTIFF to be written."""
    warm_up: str = ""
    """A small scene in the same form, done first and outside the clock: libraries load parts of themselves late."""
    checkpoint: str | None = None
    """Of the generator; None: the bundled one in its own engine, which only we have."""
    channels_last: bool = True
    """Whether the generator's weights lie as its convolutions are the fastest with. No tool does that by itself."""
    window: int = 256
    overlap: int = 64
    batch: int = 1
    """Windows that the generator is given at once."""
    threads: int | None = None
    """Of the CPU; all where None."""

    def to_json(self) -> str:
        """Write it in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    seconds: float
    """From before the scene is opened to the finished file. Libraries and generator are loaded, and warm."""
    seconds_engine: float
    """Inside the generator. Of ours, with several at once: the mean of their threads, or, where that is less, what
    the engine alone takes for as many windows."""
    windows: int
    """That the generator was given."""
    peak_bytes: int
    """Resident, of the whole process."""
    engine_bytes: int
    """Resident at most while the small scene was done: Python, libraries, and the generator at work."""
    rows: tuple[int, ...]
    """First row of each row of windows; below 0 where it begins outside of the scene."""
    cols: tuple[int, ...]
    """First column of each column of windows, likewise."""
    engine: str
    """What ran."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of parts of the work, where the way tells."""
    seconds_opening: float = 0.0
    """Of the engine, before the clock."""

    def to_json(self) -> str:
        """Write it in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        return cls(**{**content, "rows": tuple(content["rows"]), "cols": tuple(content["cols"])})
