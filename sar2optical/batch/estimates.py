"""Estimate the runs of a batch before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sar2optical.batch.schedule import is_there
from sar2optical.batch.work import State, Work
from sar2optical.errors import Sar2OpticalError
from sar2optical.pipeline.estimate import Estimate, estimate
from sar2optical.pipeline.options import TranslateOptions

__all__ = ["Expected", "estimate_all"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a batch would do with one scene."""

    work: Work
    state: State
    """"done" if it would be translated, "there" if its mosaic exists, "failed" if it would fail."""
    estimate: Estimate | None = None
    """Windows, memory, disk and time of its run, if it would be translated."""
    error: str = ""
    """Why it would fail; of a mosaic that exists, that it may be another run's."""


def estimate_all(
    works: Sequence[Work], *, model: Path | None, options: TranslateOptions, on_progress: Callable[[int], None]
) -> list[Expected]:
    """Estimate the run of each scene; write nothing.

    A mosaic whose tags show another run counts as "there", with an error: the batch compares it with its scene.

    Parameters
    ----------
    works
        Scenes and their mosaics.
    model
        Path of the model file; None: the bundled generator.
    options
        Options of all scenes.
    on_progress
        Called with the number of estimated scenes.
    """
    found = []
    for number, work in enumerate(works, 1):
        found.append(_expected(work, model, options))
        on_progress(number)
    return found


def _expected(work: Work, model: Path | None, options: TranslateOptions) -> Expected:
    try:
        if os.path.lexists(work.out) and not options.overwrite:
            same = is_there(work, model, options)
            error = "" if same else f"{work.out}: may be another run's: the batch compares it with the scene"
            return Expected(work=work, state="there", error=error)
        found = estimate(work.source, _in_a_folder_that_exists(work.out), model=model, options=options)
    except Sar2OpticalError as error:
        return Expected(work=work, state="failed", error=str(error))
    return Expected(work=work, state="done", estimate=found)


def _in_a_folder_that_exists(out: Path) -> Path:
    """Return an output's path, or a free one on the same disk if its folder is still to be made."""
    if out.parent.is_dir():
        return out
    folder = next(parent for parent in out.resolve().parents if parent.is_dir())
    return folder / f"{uuid4().hex}{out.suffix}"
