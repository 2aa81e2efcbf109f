"""`python -m bench.peer.run JOB`: does a job in this process and environment; the last line printed is the answer."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.peer.protocol import Job, Outcome
from bench.peer.resident import forget_peak
from sar2optical._utils.memory import peak_bytes

OURS = "sar2optical"
"""The way that is not one of another tool's."""


def main(job: Job) -> Outcome:
    """Load, warm up, then take the time of what is left."""
    if job.way == OURS:
        from bench.peer import ours

        return ours.run(job)
    import torch

    from bench.peer.ways import WAYS, Timed
    from sar2optical.models.checkpoint import load_generator

    if job.threads:
        torch.set_num_threads(job.threads)
    assert job.checkpoint is not None, "other tools run checkpoints"
    began = time.perf_counter()
    generator, _ = load_generator(Path(job.checkpoint))
    # Of the two layouts the one in which the generator is faster here, by a third.
    if job.channels_last:
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Timed(generator, units=job.way == "opensr-utils").eval()
    opening = time.perf_counter() - began
    forget_peak()
    WAYS[job.way](replace(job, scene=job.warm_up), model)
    model.seconds, model.windows = 0.0, 0
    held = peak_bytes()
    began = time.perf_counter()
    rows, cols = WAYS[job.way](job, model)
    return Outcome(
        seconds=time.perf_counter() - began,
        seconds_engine=model.seconds,
        windows=model.windows,
        peak_bytes=peak_bytes(),
        engine_bytes=held,
        rows=tuple(rows),
        cols=tuple(cols),
        engine=f"pytorch fp32, {torch.get_num_threads()} threads on one batch of {job.batch}",
        seconds_opening=opening,
    )


if __name__ == "__main__":
    print(main(Job.from_json(sys.argv[1])).to_json())
