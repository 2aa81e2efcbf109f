"""Compare the package with other tools and a plain loop: same generator, scene, window and overlap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from bench.generators import bundled_checkpoint, default_engine
from bench.harness import (
    Record,
    Row,
    json_option,
    one_line,
    quick_option,
    rounds_option,
    save,
    say,
    take_turns,
    threads_option,
)
from bench.peer.environments import CHECKOUT, PEERS, install, last_line, missing, python_of
from bench.peer.figures import WIDE, Candidate, Found, row_of
from bench.peer.judge import Truth, exact_blend, interior_of, survives
from bench.peer.protocol import Job, Outcome
from bench.peer.scenes import Scene, make_scene
from bench.peer.verdicts import AS_IT_LOADS, DEFAULT, OURS, PLAIN, report, verdicts
from sar2optical.engines import EngineOptions
from sar2optical.engines.base import default_threads
from sar2optical.testing import SimulatedScene, write_scene
from sar2optical.tiling.windows import DEFAULT_OVERLAP

WINDOW = 256

BATCHES = {"plain": 8, "opensr-utils": 4, "geoai-py": 8, "pytorch-toolbelt": 4, "MONAI": 8, "sar2optical": 4}
"""Fastest batch size of 1, 4 and 8 over a scene of 2048 x 2048, on two cores with AVX2."""

_FASTEST = ("pytorch-toolbelt", "MONAI")
"""Tools that also run with the generator as PyTorch loads it, as in their documentation."""

_QUICK_SIDE = 1024
_SMALL_SIDE = 512
_NO_MOSAIC = (RasterioError, ValueError, IndexError, KeyError, OSError)
"""Errors from reading a mosaic that is unreadable or has another shape."""
_TIMEOUT = 3600  # seconds for one worker


# As many parameters as options: click passes each by its name.
@click.command("peers")
@click.option("--install", "installing", is_flag=True, help="Create an environment for each tool and exit.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=CHECKOUT / ".peers",
    show_default="in the checkout",
    help="Folder of environments and scenes.",
)
@click.option(
    "--side",
    type=click.IntRange(min=512),
    default=4096,
    show_default=True,
    help="Side of the scene in pixels; memory is also measured at half of it.",
)
@click.option(
    "--wide",
    type=click.Path(path_type=Path),
    help="Whole IW scene for a second measurement of our memory; simulated if the file is missing.",
)
@click.option("--overlap", default=DEFAULT_OVERLAP, show_default=True)
@rounds_option
@threads_option
@quick_option
@json_option
def main(
    installing: bool,
    folder: Path,
    side: int,
    wide: Path | None,
    overlap: int,
    rounds: int,
    threads: int | None,
    quick: bool,
    out: Path | None,
) -> None:
    """Compare with other tools, each in its own environment."""
    folder = folder.resolve()
    if installing:
        for peer in PEERS:
            say(install(folder, peer))
        return
    side, rounds = (_QUICK_SIDE, 1) if quick else (side, rounds)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scenes-", dir=folder) as work:
        checkpoint = bundled_checkpoint(Path(work) / "generator.pth")
        base = Job(window=WINDOW, overlap=overlap, threads=threads)
        chosen = None if quick else default_engine(EngineOptions(threads=threads))  # before any measurement
        rows = measure(candidates(folder, checkpoint), base, Path(work), side, rounds, halved=not quick)
        if wide:
            rows = tuple(_with_wide(row, base, wide, Path(work)) for row in rows)
    record = Record(
        bench="peers",
        rows=rows,
        settings={
            "side": side,
            "window": WINDOW,
            "overlap": overlap,
            "rounds": rounds,
            "threads": threads or default_threads(),
            "default engine": chosen,
        },
        series={"verdicts": verdicts(rows)},
    )
    click.echo(report(record))
    save(record, out)


def candidates(folder: Path, checkpoint: Path) -> list[Candidate]:
    """Return all candidates; the first is the plain loop, which the others are compared with."""
    here = Path(sys.executable)
    peers = [
        Candidate(
            name=f"{peer.name} {peer.version}",
            way=peer.name,
            python=python_of(folder, peer),
            checkpoint=checkpoint,
            batch=BATCHES[peer.name],
            peer=peer,
            missing=missing(folder, peer),
        )
        for peer in PEERS
    ]
    as_documented = [
        replace(peer, name=f"{peer.name}, {AS_IT_LOADS}", channels_last=False)
        for peer in peers
        if peer.way in _FASTEST
    ]
    return [
        Candidate(name=PLAIN, way="plain", python=here, checkpoint=checkpoint, batch=BATCHES["plain"]),
        *peers,
        *as_documented,
        Candidate(name=OURS, way="sar2optical", python=here, checkpoint=checkpoint, batch=BATCHES["sar2optical"]),
        Candidate(name=DEFAULT, way="sar2optical", python=here, checkpoint=None),
    ]


def measure(
    found: Sequence[Candidate], base: Job, work: Path, side: int, rounds: int, *, halved: bool = True
) -> tuple[Row, ...]:
    """Run all candidates over the scenes.

    Parameters
    ----------
    found
        The candidates, one with a checkpoint first.
    base
        Settings that their jobs share.
    work
        Folder of scenes and mosaics.
    side
        Side of the timed scene in pixels.
    rounds
        Number of rounds in which they take turns.
    halved
        Measure memory at half of the side as well.
    """
    say("drawing the scenes")
    small = make_scene(work, _SMALL_SIDE, mapped=True)
    half, whole = make_scene(work, side // 2) if halved else None, make_scene(work, side)
    known = {candidate.name: Found(trouble=candidate.missing) for candidate in found}

    def run(candidate: Candidate, scene: Scene) -> Outcome | None:
        state = known[candidate.name]
        if state.trouble is None:
            try:
                return work_of(candidate, base, scene, small, mosaic_of(work, candidate))
            except WorkerFailed as error:
                state.trouble = str(error)
        return None

    for candidate in found:  # exclude candidates that fail before anything is timed
        state = known[candidate.name]
        if run(candidate, small):
            try:
                state.on_map = survives(mosaic_of(work, candidate), small.stored)
            except _NO_MOSAIC as error:
                state.trouble = f"its mosaic: {one_line(error)}"
        state.smaller = run(candidate, half) if half else None
        if state.trouble:
            say(f"left out: {candidate.name} ({state.trouble})")

    def timed(candidate: Candidate, _: int) -> Outcome:
        return work_of(candidate, base, whole, small, mosaic_of(work, candidate))

    able = {c.name: partial(timed, c) for c in found if known[c.name].trouble is None}
    outcomes, failures = take_turns(able, rounds, on_progress=say)
    for name in able:
        known[name].outcomes, known[name].trouble = outcomes.get(name, []), failures.get(name)
    truth = truth_of(whole, base, found[0].checkpoint)
    return tuple(_row(c, known[c.name], whole, mosaic_of(work, c), truth) for c in found)


def _row(candidate: Candidate, found: Found, scene: Scene, mosaic: Path, truth: Truth) -> Row:
    """Return a candidate's row; with the reason if its mosaic has another shape or cannot be read."""
    try:
        return row_of(candidate, found, scene, mosaic, truth)
    except _NO_MOSAIC as error:
        return row_of(candidate, Found(trouble=f"its mosaic: {one_line(error)}"), scene, mosaic, truth)


def _with_wide(row: Row, base: Job, wide: Path, work: Path) -> Row:
    """Add the memory over a whole IW scene to the default engine's row; return other rows unchanged."""
    if row.name != DEFAULT or row.trouble:
        return row
    columns, rows = WIDE
    try:
        if not wide.exists():
            say(f"simulating {wide.name}")
            write_scene(wide, SimulatedScene(height=rows, width=columns))
        with rasterio.open(wide) as dataset:
            shape = dataset.shape
        if shape == (rows, columns):
            return _measured_wide(row, base, wide, work)
        trouble = f"{wide.name} has {shape[1]} x {shape[0]} pixels, not {columns} x {rows}"
    except (WorkerFailed, RasterioError, OSError) as error:  # keep the timed results
        trouble = one_line(error)
    say(f"no memory over a whole scene: {trouble}")
    return row


def _measured_wide(row: Row, base: Job, wide: Path, work: Path) -> Row:
    columns, rows = WIDE
    say(f"{row.name}, over {columns} x {rows}")
    job = replace(
        base, way="sar2optical", scene=str(wide.resolve()), warm_up=str(work / f"{_SMALL_SIDE}-map-stored.tif")
    )
    found = answered(Path(sys.executable), replace(job, out=str(work / "wide-mosaic.tif")))
    above = (found.peak_bytes - found.engine_bytes) / 1e6
    return replace(row, figures={**row.figures, "memory_above_engine_mb_wide": above})


class WorkerFailed(RuntimeError):
    """A candidate's process ended without a mosaic."""


def work_of(candidate: Candidate, base: Job, scene: Scene, small: Scene, out: Path) -> Outcome:
    """Run a candidate in a process of its own, so that memory is its own.

    Parameters
    ----------
    candidate, base
        The candidate, and the settings that all jobs share.
    scene, small
        The timed scene, and the scene for warming up.
    out
        Path of the mosaic.

    Raises
    ------
    WorkerFailed
        With the last line of its output.
    """
    return answered(candidate.python, job_of(candidate, base, scene, small, out))


def answered(python: Path, job: Job) -> Outcome:
    """Run a job in an environment; see `work_of`."""
    out = Path(job.out)
    out.unlink(missing_ok=True)
    quiet = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [str(python), "-m", "bench.peer.run", job.to_json()],
            capture_output=True,
            text=True,
            check=False,
            cwd=out.parent,  # some tools leave files there
            env={**os.environ, **quiet, "PYTHONPATH": str(CHECKOUT)},
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerFailed(f"no result after {_TIMEOUT} s") from error
    if done.returncode or not out.exists():
        reason = last_line(done.stderr) or f"exit code {done.returncode}, no mosaic"
        raise WorkerFailed(one_line(RuntimeError(reason)))
    try:
        return Outcome.from_json(last_line(done.stdout, most=None))
    except (ValueError, TypeError) as error:
        raise WorkerFailed(f"cannot parse its answer: {one_line(error)}") from error


def job_of(candidate: Candidate, base: Job, scene: Scene, small: Scene, out: Path) -> Job:
    """Return a candidate's job."""
    return replace(
        base,
        way=candidate.way,
        scene=str(scene.of(candidate.way)),
        warm_up=str(small.of(candidate.way)),
        out=str(out),
        checkpoint=str(candidate.checkpoint) if candidate.checkpoint else None,
        channels_last=candidate.channels_last,
        batch=candidate.batch,
    )


def mosaic_of(work: Path, candidate: Candidate) -> Path:
    """Return the path of a candidate's mosaic."""
    return work / f"mosaic-{candidate.name.replace(' ', '-').replace(',', '')}.tif"


def truth_of(scene: Scene, base: Job, checkpoint: Path | None) -> Truth:
    """Blend the scene exactly, in this process; the truth that mosaics are compared with."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    assert checkpoint is not None, "the exact blend runs in PyTorch"
    say("blending exactly")
    generator, _ = load_generator(checkpoint)
    sar, valid = scene.read()

    @torch.inference_mode()
    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = generator(torch.from_numpy(windows)).numpy()
        return made

    levels = exact_blend(sar, base.window, base.overlap, run)
    return Truth(levels, valid, interior_of(valid, base.window), base.window)
