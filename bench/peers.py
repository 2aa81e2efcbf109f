"""The same generator, scene, window and overlap through other tools, and through a plain loop, against ours."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.generators import bundled_checkpoint
from bench.harness import (
    Record,
    Row,
    interleaved,
    json_option,
    median,
    quick_option,
    ratio_cells,
    ratio_of,
    rounds_option,
    save,
    say,
    table,
    threads_option,
)
from bench.peer.environments import CHECKOUT, PEERS, Peer, install, python_of
from bench.peer.judge import Truth, exact_blend, interior_of, judge, survives
from bench.peer.protocol import Job, Outcome
from bench.peer.scenes import Scene, make_scene
from sar2optical.windows import DEFAULT_OVERLAP

WINDOW = 256
WIDE = (25_000, 16_700)
"""A whole IW scene, for which memory is extrapolated."""

PLAIN = "plain loop, no blending"
OURS = "sar2optical, same engine"
DEFAULT = "sar2optical, default engine"

_QUICK_SIDE = 1024
_MAP_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way of making the mosaic."""

    name: str
    way: str
    """Of the worker."""
    python: Path
    """Whose environment it runs in."""
    checkpoint: Path | None
    batch: int = 1
    peer: Peer | None = None


@dataclass
class Found:
    """What is known of a candidate so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of the rounds, over the large scene."""
    smaller: Outcome | None = None
    """Over a scene of half the side."""
    figures: dict[str, Any] = field(default_factory=dict)
    trouble: str | None = None


BATCHES = {"opensr-utils": 1, "geoai-py": 1, "pytorch-toolbelt": 1, "MONAI": 1, "plain": 1}
"""What each tool was the fastest with, of 1, 4 and 8."""


@click.command("peers")
@click.option("--install", "installing", is_flag=True, help="Make an environment for each tool, then stop.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=CHECKOUT / ".peers",
    show_default="in the checkout",
    help="Of environments and scenes.",
)
@click.option("--side", default=4096, show_default=True, help="Of the scene; memory is also measured at half of it.")
@click.option("--overlap", default=DEFAULT_OVERLAP, show_default=True)
@rounds_option
@threads_option
@quick_option
@json_option
def main(
    installing: bool,
    folder: Path,
    side: int,
    overlap: int,
    rounds: int,
    threads: int | None,
    quick: bool,
    out: Path | None,
) -> None:
    """Compare with other tools, each in an environment of its own."""
    if installing:
        for peer in PEERS:
            say(_installed(folder, peer))
        return
    side, rounds = (_QUICK_SIDE, 1) if quick else (side, rounds)
    work = folder / "scenes"
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = bundled_checkpoint(work / "generator.pth")
    base = Job(way="", scene="", out="", warm_up="", checkpoint=None, window=WINDOW, overlap=overlap, threads=threads)
    rows = measure(candidates(folder, checkpoint), base, work, side, rounds)
    record = Record(
        bench="peers",
        rows=rows,
        settings={"side": side, "window": WINDOW, "overlap": overlap, "rounds": rounds, "threads": threads},
        series={"verdicts": verdicts(rows)},
    )
    click.echo(report(record))
    save(record, out)


def candidates(folder: Path, checkpoint: Path) -> list[Candidate]:
    """Give all of them; the plain loop is the first, which the others are compared with."""
    here = Path(sys.executable)
    peers = [
        Candidate(
            name=f"{peer.name} {peer.version}",
            way=peer.name,
            python=python_of(folder, peer),
            checkpoint=checkpoint,
            batch=BATCHES[peer.name],
            peer=peer,
        )
        for peer in PEERS
    ]
    return [
        Candidate(name=PLAIN, way="plain", python=here, checkpoint=checkpoint, batch=BATCHES["plain"]),
        *peers,
        Candidate(name=OURS, way="sar2optical", python=here, checkpoint=checkpoint),
        Candidate(name=DEFAULT, way="sar2optical", python=here, checkpoint=None),
    ]


def measure(found: Sequence[Candidate], base: Job, work: Path, side: int, rounds: int) -> tuple[Row, ...]:
    """Take all of them over the scenes.

    Parameters
    ----------
    found
        The candidates.
    base
        What their jobs have in common.
    work
        Folder of scenes and mosaics.
    side
        Of the scene that is timed.
    rounds
        In which they take turns.
    """
    say("drawing the scenes")
    on_map = make_scene(work, _MAP_SIDE, mapped=True)
    smaller, larger = (make_scene(work, pixels) for pixels in (side // 2, side))
    known = {candidate.name: Found() for candidate in found}

    def run(candidate: Candidate, scene: Scene) -> Outcome | None:
        state = known[candidate.name]
        if state.trouble is None:
            try:
                return work_of(candidate, base, scene, on_map, mosaic_of(work, candidate))
            except WorkerFailed as error:
                state.trouble = str(error)
                say(f"left out: {candidate.name} ({error})")
        return None

    for candidate in found:  # what does not run at all is out before anything is timed
        state = known[candidate.name]
        if run(candidate, on_map):
            state.figures["survives"] = survives(mosaic_of(work, candidate), on_map.stored)
        state.smaller = run(candidate, smaller)

    def timed(candidate: Candidate) -> Callable[[], float]:
        def sample() -> float:
            outcome = run(candidate, larger)
            if outcome is None:
                return math.nan
            known[candidate.name].outcomes.append(outcome)
            return side**2 / 1e6 / outcome.seconds

        return sample

    interleaved({candidate.name: timed(candidate) for candidate in found}, rounds, told=say)
    truth = truth_of(larger, base, found[0].checkpoint)
    return tuple(_row(candidate, known[candidate.name], larger, work, truth) for candidate in found)


class WorkerFailed(Exception):
    """A candidate could not be run, or ended without a mosaic."""


def work_of(candidate: Candidate, base: Job, scene: Scene, first: Scene, out: Path) -> Outcome:
    """Have a candidate do its work in a process of its own, whose memory is all its own.

    Raises
    ------
    WorkerFailed
        With the last line that it said.
    """
    if not candidate.python.exists():
        raise WorkerFailed("not installed: python -m bench peers --install")
    out.unlink(missing_ok=True)
    job = replace(
        base,
        way=candidate.way,
        scene=str(scene.of(candidate.way)),
        warm_up=str(first.of(candidate.way)),
        out=str(out),
        checkpoint=str(candidate.checkpoint) if candidate.checkpoint else None,
        batch=candidate.batch,
    )
    command = [str(candidate.python), "-m", "bench.peer.run", job.to_json()]
    quiet = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=out.parent,  # some leave logs where they are started
        env={**os.environ, **quiet, "PYTHONPATH": str(CHECKOUT)},
    )
    if done.returncode or not out.exists():
        raise WorkerFailed(_last_line(done.stderr) or f"ended with {done.returncode}, and without a mosaic")
    return Outcome.from_json(done.stdout.strip().splitlines()[-1])


def mosaic_of(work: Path, candidate: Candidate) -> Path:
    """Give where a candidate writes."""
    return work / f"mosaic-{candidate.name.replace(' ', '-').replace(',', '')}.tif"


def truth_of(scene: Scene, base: Job, checkpoint: Path | None) -> Truth:
    """Blend the scene exactly, in this process."""
    import torch

    from sar2optical.models.checkpoint import load_generator

    assert checkpoint is not None
    generator, _ = load_generator(checkpoint)
    sar, valid = scene.read()

    @torch.inference_mode()
    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = generator(torch.from_numpy(windows)).numpy()
        return made

    say("blending exactly")
    levels = exact_blend(sar, base.window, base.overlap, run)
    return Truth(levels, valid, interior_of(valid, base.window), base.window)


def _row(candidate: Candidate, state: Found, scene: Scene, work: Path, truth: Truth) -> Row:
    peer, ours = candidate.peer, candidate.way == "sar2optical"
    row = Row(
        name=candidate.name,
        unit="Mpx/s",
        labels={
            "batch": candidate.batch,
            "blends": peer.blends if peer else ours,
            "streams": peer.streams if peer else True,
            "writes_file": peer.writes_file if peer else ours,
            "installed": peer.how if peer else None,
        },
        trouble=state.trouble,
    )
    if state.trouble or not state.outcomes:
        return row
    mosaic = mosaic_of(work, candidate)
    on_map = state.figures.get("survives", {})
    alive = {**survives(mosaic, scene.stored), "crs": on_map.get("crs")} if row.labels["writes_file"] else None
    return replace(
        row,
        samples=tuple(scene.side**2 / 1e6 / outcome.seconds for outcome in state.outcomes),
        figures={
            **figures_of(state.outcomes, scene.side**2),
            **_memory(state, scene.side, extrapolated=not ours),
            **judge(mosaic, state.outcomes[-1], truth),
            "interior_share": float(truth.interior.mean()),
            "survives": alive,
        },
    )


def figures_of(outcomes: Sequence[Outcome], pixels: int) -> dict[str, Any]:
    """Give what the rounds tell of time: medians."""
    outside = [outcome.seconds - outcome.seconds_engine for outcome in outcomes]
    last = outcomes[-1]
    return {
        "seconds": median([outcome.seconds for outcome in outcomes]),
        "seconds_outside_engine_per_mpx": median(outside) / (pixels / 1e6),
        "share_outside_engine": median([o / outcome.seconds for o, outcome in zip(outside, outcomes, strict=True)]),
        "engine_windows_per_second": median([outcome.windows / outcome.seconds_engine for outcome in outcomes]),
        "windows": last.windows,
        "engine": last.engine,
        "seconds_opening_engine": median([outcome.seconds_opening for outcome in outcomes]),
        "stages": dict(last.stages),
    }


def _memory(state: Found, side: int, *, extrapolated: bool) -> dict[str, Any]:
    """Give memory at both sizes and, linear in pixels, of a whole IW scene."""
    largest = max(state.outcomes, key=lambda outcome: outcome.peak_bytes)
    above = {side: (largest.peak_bytes - largest.engine_bytes) / 1e6}
    if state.smaller:
        above[side // 2] = (state.smaller.peak_bytes - state.smaller.engine_bytes) / 1e6
    found: dict[str, Any] = {
        "peak_memory_mb": largest.peak_bytes / 1e6,
        "memory_above_engine_mb": above[side],
        "memory_above_engine_mb_by_side": {str(pixels): value for pixels, value in sorted(above.items())},
    }
    if extrapolated and len(above) > 1:
        found["memory_above_engine_mb_extrapolated"] = extrapolate(above, math.prod(WIDE))
    return found


def extrapolate(by_side: dict[int, float], pixels: int) -> float:
    """Draw a line through two sizes of square scenes, in pixels; no less than at the larger one."""
    small, large = sorted(by_side)
    slope = (by_side[large] - by_side[small]) / (large**2 - small**2)
    return max(by_side[large], by_side[large] + slope * (pixels - large**2))


def verdicts(rows: Sequence[Row]) -> dict[str, float | str | None]:
    """Compare ours with the best of the tools: ratios, more is better but for time and memory."""
    by_name = {row.name: row for row in rows}
    peers = [row for row in rows if row.samples and row.name not in (PLAIN, OURS, DEFAULT)]
    ours, default, plain = by_name[OURS], by_name[DEFAULT], by_name[PLAIN]
    if not peers or not ours.samples:
        return {}
    best = max(peers, key=lambda row: median(row.samples))
    whole = [row for row in peers if row.labels["blends"] and row.labels["writes_file"]]
    best_whole = max(whole, key=lambda row: median(row.samples)) if whole else None
    found: dict[str, float | str | None] = {
        "fastest peer": best.name,
        "same engine / fastest peer": _times(ours, best),
        "same engine / plain loop": _times(ours, plain),
        "default engine / fastest peer": _times(default, best),
    }
    if best_whole:
        found |= {
            "fastest peer that blends and writes a georeferenced file": best_whole.name,
            "same engine / fastest peer that blends and writes a georeferenced file": _times(ours, best_whole),
        }
    for name in ("seconds_outside_engine_per_mpx", "seam_score", "seam_score_in_phase"):
        least = min(peers, key=lambda row: float(row.figures[name]))
        found[f"{name}, same engine / least of the peers ({least.name})"] = (
            ours.figures[name] / least.figures[name] if least.figures[name] else None
        )
    return found


def _times(row: Row, other: Row) -> float | None:
    return ratio_of(row.samples, other.samples).value if row.samples and other.samples else None


def report(record: Record) -> str:
    """Lay out what was found in tables."""
    speed = [["", "Mpx/s", "ratio", "s/Mpx outside", "share", "peak MB", "above MB", "25k MB (extrapolated)"]]
    looks = [["", "seams", "in phase", "worst", "low-passed", "crs", "gcps", "mask", "cog", "blends", "streams"]]
    for row in record.rows:
        figures = row.figures
        speed.append(
            [
                row.name,
                *ratio_cells(record, row),
                *(
                    _number(figures.get(name))
                    for name in (
                        "seconds_outside_engine_per_mpx",
                        "share_outside_engine",
                        "peak_memory_mb",
                        "memory_above_engine_mb",
                        "memory_above_engine_mb_extrapolated",
                    )
                ),
            ]
        )
        alive = figures.get("survives") or {}
        looks.append(
            [
                row.name,
                *(
                    _number(figures.get(name))
                    for name in ("seam_score", "seam_score_in_phase", "worst_difference", "low_passed_rms")
                ),
                *(_said(alive.get(name)) for name in ("crs", "gcps", "mask", "cog")),
                *(_said(row.labels.get(name)) for name in ("blends", "streams")),
            ]
        )
    lines = [f"{name}: {_number(value) if isinstance(value, float) else value}" for name, value in _verdicts(record)]
    return "\n\n".join([table(speed), table(looks), "\n".join(lines)])


def _verdicts(record: Record) -> Iterator[tuple[str, Any]]:
    yield from record.series["verdicts"].items()


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


def _said(value: Any) -> str:
    return "-" if value is None else "yes" if value else "no"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def _installed(folder: Path, peer: Peer) -> str:
    """Install a tool; one that cannot be is a line."""
    try:
        install(folder, peer)
    except (OSError, subprocess.CalledProcessError) as error:
        why = _last_line(getattr(error, "stderr", "") or str(error))
        (folder / f"{peer.name}.failed").write_text(json.dumps(why))
        return f"{peer.name} {peer.version}: {why}"
    return f"{peer.name} {peer.version}: installed {peer.how}"
