"""Compute how long scenes would take on other machines, from the stages of a measured scene."""

from __future__ import annotations

from pathlib import Path

import click

from bench.harness import Record, Unusable, load, say
from bench.model import Costs, costs_of, table_of
from bench.simulation import compared
from bench.stages import Stage


def from_record(record: Record) -> tuple[Costs, dict[str, float]]:
    """Read costs and limits from a record of `gpu-check`.

    Seconds of the GPU include those in which it waits for the host to queue work: an upper bound.
    """
    run = record.series.get("run")
    if not run:
        raise Unusable("the record has no stages of a scene: give a record of python -m bench gpu-check")
    width, height = (int(side) for side in record.settings["size"].split(" x "))
    stages = [Stage(**fields) for fields in run["stages"]]
    seconds = run["gpu_busy"] or run["seconds_engine_alone"]
    return costs_of(stages, width * height, gpu_seconds=seconds, moved=tuple(run["moved"])), dict(record.ceilings)


@click.command("outlook")
@click.argument("record", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Compare predictions with runs on this machine: 20 s.")
def main(record: Path | None, check: bool) -> None:
    """Compute the time of a scene of 25,000 x 16,700, and scenes an hour, on other machines.

    RECORD is that of `python -m bench gpu-check`. Each node has its own disk; stages overlap perfectly.
    """
    if record is None and not check:
        raise click.UsageError("nothing to compute: give a record of python -m bench gpu-check, or --check")
    if record is not None:
        costs, limits = from_record(load(record))
        click.echo(table_of(costs, limits))
    if check:
        say("running scenes with slowed stages")
        click.echo(compared())
