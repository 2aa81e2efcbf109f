"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

State = Literal["ok", "absent", "warning", "broken"]
"""absent: optional, and not here. warning: not as one may think, or not for long. broken: needed and not here, or
installed and does not work."""

Area = Literal["python", "backends", "model", "gpu", "rasters", "machine", "extras"]

AREAS: tuple[Area, ...] = get_args(Area)
"""In the order of the page."""

_LONGEST = 200


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    area: Area
    name: str
    state: State
    detail: str
    remedy: str | None = None
    """What to do, where there is anything to do."""


def healthy(findings: Iterable[Finding]) -> bool:
    """Say whether nothing is broken."""
    return all(finding.state != "broken" for finding in findings)


def squeezed(text: object) -> str:
    """Bring a library's words, or its error's, to one line of the page."""
    return " ".join(str(text).split())[:_LONGEST]
