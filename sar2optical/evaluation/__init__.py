"""Metrics of predicted optical images. Importing this package loads numpy only, neither torch nor rasterio."""

from sar2optical.evaluation.dark import DarkArea, dark_areas, dark_in_both
from sar2optical.evaluation.detail import (
    OCTAVES,
    Fit,
    better_sign,
    block_means,
    corner_share,
    fitted,
    low_passed,
    octave_energies,
    radar_picture,
)
from sar2optical.evaluation.scores import METRICS, Figure, Score, Scores, measure, scores_of
from sar2optical.evaluation.shifts import SHIFTS, Shifted, ShiftScore, shift_consistency, shift_score

__all__ = [
    "METRICS",
    "OCTAVES",
    "SHIFTS",
    "DarkArea",
    "Figure",
    "Fit",
    "Score",
    "Scores",
    "ShiftScore",
    "Shifted",
    "better_sign",
    "block_means",
    "corner_share",
    "dark_areas",
    "dark_in_both",
    "fitted",
    "low_passed",
    "measure",
    "octave_energies",
    "radar_picture",
    "scores_of",
    "shift_consistency",
    "shift_score",
]
