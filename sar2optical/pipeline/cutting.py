"""Cut finished rows of a scene to the pixels of its mosaic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.pipeline.flow import Writer
from sar2optical.pipeline.job import Job

__all__ = ["CutWriter", "from_top"]


class CutWriter:
    """A writer that passes on the columns of the mosaic, masked to its area.

    Parameters
    ----------
    job
        Job with a cut.
    writer
        Gets rows of the mosaic.
    row
        Row of the scene that comes first.
    """

    def __init__(self, job: Job, writer: Writer, row: int) -> None:
        if job.cut is None:
            raise ValueError("the job has no cut")
        self._job, self._writer, self._row = job, writer, row
        self._cols = slice(*job.cut.cols)

    def write(self, rgb: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Write the next rows of the scene; see `Writer.write`."""
        start, self._row = self._row, self._row + len(valid)
        self._writer.write(np.ascontiguousarray(rgb[:, :, self._cols]), self._job.visible(start, valid))


def from_top(job: Job, on_progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Turn a callback of rows of the mosaic into one of rows of the scene."""
    return (lambda row: on_progress(row - job.top)) if on_progress else None
