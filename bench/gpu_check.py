"""Check a machine with a GPU in one run: tests, parity, TensorRT for RTX, and the time of a whole scene.

Each part prints its own lines and survives the failure of another.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.gpu_parts import Outcome, parity, rtx, scene_turns, stages_of_scene, tests_marked_gpu, this_card
from bench.harness import Record, Row, json_option, median, one_line, ratios_of, save
from bench.machine import this_machine
from bench.scene import size_of
from bench.simulated import Size, simulated_scene
from sar2optical.engines import Precision

BENCH = Path(__file__).parent
PARTS = ("card", "tests", "parity", "rtx", "scene")
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the check; those of the command have the command's meaning."""

    device: str = "cuda"
    size: Size = (16700, 25000)
    parity_size: Size = (4096, 4096)
    against: Path | None = None
    rounds: int = 3
    precision: Precision = "bf16"
    batch: int | None = None
    only: tuple[str, ...] = PARTS


@dataclass
class Check:
    """The check of one machine: runs the parts and keeps what they found."""

    options: Options
    folder: Path
    """Folder of scenes and mosaics."""
    out: Path | None
    """Path of the record, written after each part: a machine may be taken away."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)

    def run(self) -> bool:
        """Run all parts; return whether none failed."""
        parts: Mapping[str, Callable[[], Outcome]] = {
            "card": this_card,
            "tests": lambda: tests_marked_gpu(self.options.device),
            "parity": self._parity,
            "rtx": lambda: rtx(self.options.device),
            "scene": self._scene,
        }
        for name in self.options.only:
            try:
                outcome = parts[name]()
            except Exception as error:  # the machine is lent: the other parts still count
                outcome = Outcome(False, f"stopped: {type(error).__name__}: {one_line(error)}")
            self.outcomes[name] = outcome
            click.echo(f"{name}: {outcome}")
            save(self.record(), self.out)
        failed = [name for name, outcome in self.outcomes.items() if outcome.passed is False]
        click.echo(f"failed: {', '.join(failed)}" if failed else "all checks passed")
        return not failed

    def record(self) -> Record:
        """Return what was found so far."""
        options = self.options
        return Record(
            bench="gpu-check",
            rows=tuple(self.rows),
            settings={
                "device": options.device,
                "size": f"{options.size[1]} x {options.size[0]}",
                "precision": options.precision,
                "batch": options.batch,
                "rounds": options.rounds,
            },
            ceilings=self.ceilings,
            series={**self.series, "verdicts": {name: str(outcome) for name, outcome in self.outcomes.items()}},
        )

    def _parity(self) -> Outcome:
        scene = simulated_scene(self.folder, self.options.parity_size)
        outcome, found = parity(scene, self.folder, self.options.device, _PRECISIONS)
        self.series["parity"] = found
        return outcome

    def _scene(self) -> Outcome:
        options, scene = self.options, simulated_scene(self.folder, self.options.size)
        text, found = stages_of_scene(scene, self.folder, options.device, options.precision, options.batch)
        self.ceilings = found.pop("limits")
        self.series |= found
        click.echo(text)
        seconds, failures = scene_turns(
            scene, self.folder, options.device, options.precision,
            batch=options.batch, against=options.against, rounds=options.rounds,
        )  # fmt: skip
        area = math.prod(options.size) / 1e6
        self.rows += [
            Row(
                name=name, unit="Mpx/s", samples=tuple(area / one for one in many),
                labels={"width": options.size[1], "height": options.size[0], "base": list(seconds)[-1]},
                figures={"seconds": median(many)},
            )
            for name, many in seconds.items()
        ]  # fmt: skip
        lines = [_times(name, many) for name, many in seconds.items()] + _gain(seconds)
        lines += [f"{name} failed: {reason}" for name, reason in failures.items()]
        return Outcome(not failures, "; ".join(lines))


def _times(name: str, seconds: Sequence[float]) -> str:
    return f"{name} {', '.join(f'{one:.2f}' for one in seconds)} s"


def _gain(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Describe how many times as fast the first tree is as the second, round by round; empty for one tree."""
    if len(seconds) < 2 or len({len(many) for many in seconds.values()}) > 1:
        return []
    ratios = ratios_of(*list(seconds.values())[::-1])
    return [f"{median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"]


@click.command("gpu-check")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", callback=size_of, metavar="HEIGHTxWIDTH", help="Size of the scene.  [16700x25000]")
@click.option(
    "--parity-size", callback=size_of, metavar="HEIGHTxWIDTH", help="Size of the scene for parity.  [4096x4096]"
)
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Other tree to time.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of the scene.")
@click.option("--precision", default="bf16", show_default=True, help="Precision of the scene.")
@click.option("--batch-size", "batch", type=click.IntRange(1), help="Windows per run.  [that of a run]")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Run only this part; may be repeated.  [all]")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep scenes in this folder and reuse them.")
@json_option
def main(folder: Path | None, out: Path | None, **given: Any) -> None:
    """Check a GPU: card, tests, parity, TensorRT for RTX, and the time of a whole scene with its stages.

    Writes bench/results/CARD-gpu-check.json, unless --json names another file. With --device cpu, a dry run of every
    part on tensors of the CPU: a small scene, and no record without --json.
    """
    usual: dict[str, Any] = {"size": (512, 768), "parity_size": (512, 512)} if given["device"] == "cpu" else {}
    options = Options(**{**usual, **{name: value for name, value in given.items() if value}})
    if options.device == "cuda" and out is None:
        out = BENCH / "results" / f"{this_machine().slug}-gpu-check.json"
    with tempfile.TemporaryDirectory() as temporary:
        passed = Check(options, folder or Path(temporary), out).run()
    if not passed:
        raise click.exceptions.Exit(1)
