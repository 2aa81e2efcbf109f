"""What is known of a candidate, as a row of the record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.harness import Row, median
from bench.peer.environments import Peer
from bench.peer.judge import Truth, judge, survives
from bench.peer.protocol import Outcome
from bench.peer.scenes import Scene

WIDE = (25_000, 16_700)
"""A whole IW scene, for which memory is extrapolated."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way of making the mosaic."""

    name: str
    way: str
    """Of the worker."""
    python: Path
    """Whose environment it runs in."""
    checkpoint: Path | None
    """None: the engine that the command line takes."""
    batch: int = 1
    channels_last: bool = True
    peer: Peer | None = None
    missing: str | None = None
    """Why it cannot be run."""

    @property
    def labels(self) -> dict[str, Any]:
        """Say what it is."""
        ours, peer = self.way == "sar2optical", self.peer
        return {
            "batch": self.batch,
            "blends": peer.blends if peer else ours,
            "streams": peer.streams if peer else True,
            "writes_file": peer.writes_file if peer else ours,
            "installed": peer.how if peer else None,
            "as_it_loads": not self.channels_last,
        }


@dataclass
class Found:
    """What its runs have given so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of the rounds, over the large scene."""
    smaller: Outcome | None = None
    """Over a scene of half the side."""
    on_map: Mapping[str, bool] = field(default_factory=dict)
    """What survives of a scene on a map's grid."""
    trouble: str | None = None


def row_of(candidate: Candidate, found: Found, scene: Scene, mosaic: Path, truth: Truth) -> Row:
    """Put together all that was found of a candidate; `mosaic` is what it wrote last."""
    row = Row(name=candidate.name, unit="Mpx/s", labels=candidate.labels, trouble=found.trouble)
    if found.trouble or not found.outcomes:
        return row
    # The bench writes for tools that do not: what survives in its file is none of their doing.
    alive = {**survives(mosaic, scene.stored), "crs": found.on_map["crs"]} if row.labels["writes_file"] else None
    return replace(
        row,
        samples=tuple(scene.side**2 / 1e6 / outcome.seconds for outcome in found.outcomes),
        figures={
            **_time(found.outcomes, scene.side**2),
            **_memory(found, scene.side, extrapolated=candidate.way != "sar2optical"),
            **judge(mosaic, found.outcomes[-1], truth),
            "interior_share": float(truth.interior.mean()),
            "survives": alive,
        },
    )


def extrapolate(by_side: Mapping[int, float], pixels: int) -> float:
    """Draw a line through two sizes of square scenes, in pixels; it is not let fall below the larger one's."""
    small, large = sorted(by_side)
    slope = (by_side[large] - by_side[small]) / (large**2 - small**2)
    return max(by_side[large], by_side[large] + slope * (pixels - large**2))


def _time(outcomes: Sequence[Outcome], pixels: int) -> dict[str, Any]:
    """Give medians over the rounds."""
    outside = [outcome.seconds - outcome.seconds_engine for outcome in outcomes]
    last = outcomes[-1]
    return {
        "seconds": median([outcome.seconds for outcome in outcomes]),
        "seconds_outside_engine_per_mpx": median(outside) / (pixels / 1e6),
        "share_outside_engine": median([o / outcome.seconds for o, outcome in zip(outside, outcomes, strict=True)]),
        "engine_windows_per_second": median([outcome.windows / outcome.seconds_engine for outcome in outcomes]),
        "windows": last.windows,
        "engine": last.engine,
        "seconds_opening_engine": median([outcome.seconds_opening for outcome in outcomes]),
        "stages": dict(last.stages),
    }


def _memory(found: Found, side: int, *, extrapolated: bool) -> dict[str, Any]:
    """Give memory at both sizes and, linear in pixels, of a whole IW scene."""
    largest = max(found.outcomes, key=lambda outcome: outcome.peak_bytes - outcome.engine_bytes)
    above = {side: (largest.peak_bytes - largest.engine_bytes) / 1e6}
    if found.smaller:
        above[side // 2] = (found.smaller.peak_bytes - found.smaller.engine_bytes) / 1e6
    figures: dict[str, Any] = {
        "peak_memory_mb": largest.peak_bytes / 1e6,
        "memory_above_engine_mb": above[side],
        "memory_above_engine_mb_by_side": {str(pixels): value for pixels, value in sorted(above.items())},
    }
    if extrapolated and len(above) > 1:
        figures["memory_above_engine_mb_extrapolated"] = extrapolate(above, math.prod(WIDE))
    return figures
