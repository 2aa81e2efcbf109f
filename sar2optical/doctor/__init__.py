"""What is installed, what works, and what to do about the rest."""

from sar2optical.doctor.examine import TIMEOUT, examine
from sar2optical.doctor.finding import AREAS, Area, Finding, State, healthy

__all__ = ["AREAS", "TIMEOUT", "Area", "Finding", "State", "examine", "healthy"]
