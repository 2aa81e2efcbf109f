"""Findings: the lines of the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["AREAS", "Area", "Finding", "State", "healthy", "squeezed"]

State = Literal["ok", "absent", "warning", "broken"]
"""State of a finding. absent: optional, and not installed. warning: works in part, or may fail. broken: required and
not installed, or installed and not working."""

Area = Literal["python", "backends", "model", "gpu", "rasters", "machine", "extras"]
"""Section of the report."""

AREAS: tuple[Area, ...] = get_args(Area)
"""All sections, in the order of the report."""

_LONGEST = 200


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    area: Area
    """Section."""
    name: str
    """Name of what was checked."""
    state: State
    """State."""
    detail: str
    """Observation."""
    remedy: str | None = None
    """Remedy, if one is needed."""


def healthy(findings: Iterable[Finding]) -> bool:
    """Return True if nothing is broken."""
    return all(finding.state != "broken" for finding in findings)


def squeezed(text: object) -> str:
    """Shorten a library's message or error to one line of the report."""
    return " ".join(str(text).split())[:_LONGEST]
