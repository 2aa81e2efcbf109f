"""Examine this machine: what is installed, what works, and how to fix what does not."""

from sar2optical.doctor.examine import TIMEOUT, examine
from sar2optical.doctor.finding import AREAS, Area, Finding, State, healthy

__all__ = ["AREAS", "TIMEOUT", "Area", "Finding", "State", "examine", "healthy"]
