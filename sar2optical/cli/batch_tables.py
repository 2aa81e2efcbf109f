"""Tables that `sar2opt-batch` prints."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sar2optical.cli.scene_lists import shown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sar2optical.batch.estimates import Expected
    from sar2optical.batch.work import Outcome, State

__all__ = ["table", "table_of_estimates"]

_LABELS: dict[State, str] = {"done": "done", "there": "already there", "failed": "failed"}
_EXPECTED: dict[State, str] = {"done": "to do", "there": "already there", "failed": "would fail"}


def table(outcomes: list[Outcome], seconds: float) -> str:
    """Format the outcomes as a table: one line per scene, then the totals."""
    rows = [("scene", "state", "Mpx", "seconds", "result")]
    pixels = 0.0
    for outcome in outcomes:
        report, name = outcome.report, shown_name(outcome.work.source)
        if report:
            mpx = report.shape[0] * report.shape[1] / 1e6
            pixels += mpx
            rows.append((name, "done", f"{mpx:.1f}", f"{report.seconds:.1f}", outcome.work.out.name))
        else:
            rows.append((name, _LABELS[outcome.state], "", "", outcome.error or outcome.work.out.name))
    counts = Counter(outcome.state for outcome in outcomes)
    totals = ", ".join(f"{counts[state]} {label}" for state, label in _LABELS.items() if counts[state])
    return f"{_aligned(rows)}\n{totals}; {pixels:.0f} Mpx in {seconds:.1f} s, {pixels / seconds:.2f} Mpx/s"


def table_of_estimates(expected: list[Expected]) -> str:
    """Format the estimates of a batch as a table: one line per scene, then the totals of one worker."""
    rows = [("scene", "state", "windows", "memory, MB", "disk, MB", "seconds", "result")]
    for scene in expected:
        found, name = scene.estimate, shown_name(scene.work.source)
        figures = ("", "", "", "")
        if found:
            seconds = found.seconds + found.seconds_mosaic
            figures = (
                f"{found.windows_run}",
                f"{found.memory / 1e6:.0f}",
                f"{found.mosaic / 1e6:.0f}",
                f"{seconds:.0f}",
            )
        rows.append((name, _EXPECTED[scene.state], *figures, scene.error or scene.work.out.name))
    counts = Counter(scene.state for scene in expected)
    totals = ", ".join(f"{counts[state]} {label}" for state, label in _EXPECTED.items() if counts[state])
    runs = [scene.estimate for scene in expected if scene.estimate]
    if runs:
        seconds = sum(run.seconds + run.seconds_mosaic for run in runs)
        totals += (
            f"; {sum(run.windows_run for run in runs)} windows, {sum(run.mosaic for run in runs) / 1e6:.0f} MB of "
            f"mosaics, about {seconds:.0f} s with one worker; {runs[0].free / 1e6:.0f} MB are free"
        )
    return f"{_aligned(rows)}\n{totals}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Align columns: text to the left, figures to the right; the last one has no width."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                f"{row[1]:<{widths[1]}}",
                *(f"{text:>{width}}" for text, width in zip(row[2:-1], widths[2:], strict=True)),
                row[-1],
            ]
        )
        for row in rows
    )
