"""Has anything become slower? Ratios now against the committed ones: times differ from day to day, ratios less."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bench import engines, scene, training
from bench.compare import differences, read, tell_what_differs
from bench.harness import Record, Row, rounds_option, save, say, table, threads_option
from bench.machine import this_machine
from sar2optical.engines import EngineOptions

WITHIN = 0.15
_RESULTS = Path(__file__).parent / "results"
_ENGINES = {
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("pytorch", "fp32"),
}
_SCENES = ((4096, 4096),)
_WAYS = (scene.ENGINE, scene.OURS, scene.NO_ENGINE, scene.COPY)
_SECONDS = 1.0
"""Of each engine in each round."""
_NARROW = 16
"""Width of the networks that are trained: ratios of the seed's, in a fraction of the time."""


@click.command("guard")
@click.option("--against", type=click.Path(path_type=Path), help="Record to compare with.  [this kind of machine's]")
@click.option("--update", is_flag=True, help="Write what is measured now in its place, and judge nothing.")
@click.option("--within", default=WITHIN, show_default=True, help="How much slower a ratio may be.")
@rounds_option
@threads_option
def main(against: Path | None, update: bool, within: float, rounds: int, threads: int | None) -> None:
    """Compare a few ratios with the committed ones; exit 1 where one is lower by more than --within."""
    path = against or _RESULTS / f"{this_machine().slug}-guard.json"
    committed = None if update else _committed(path)
    now = measured(rounds=rounds, threads=threads)
    if committed is None:
        save(now, path)
        click.echo(f"{path}: written, {len(now.rows)} rows")
        return
    tell_what_differs(committed, now)
    click.echo(judged(committed, now, within))


def _committed(path: Path) -> Record:
    """Read the record before anything is measured, which takes minutes."""
    if not path.exists():
        raise click.ClickException(f"{path} is not there: no such machine was measured yet; give --update to do it")
    record = read(path)
    if record is None or record.bench != "guard":
        raise click.ClickException(f"{path} is no record of this bench: give --update to make one")
    here = this_machine()
    if (record.machine.slug, record.machine.cores) != (here.slug, here.cores):
        raise click.ClickException(
            f"{path} is of {record.machine.slug} with {record.machine.cores} cores, this is {here.slug} with "
            f"{here.cores}: ratios differ from machine to machine; name none, or --update one of this machine"
        )
    return record


def judged(committed: Record, now: Record, within: float) -> str:
    """Lay out how ratios have changed.

    Raises
    ------
    SystemExit
        With 1, after saying so, where one has fallen by more than `within`.
    """
    known = {row.name: row for row in now.rows}
    gone = [row.name for row in committed.rows if row.samples and not (row.name in known and known[row.name].samples)]
    if gone:
        raise click.ClickException(f"does not run any more: {', '.join(gone)}")
    found = differences(committed, now)
    lines = [["row", "committed", "now", "change"]]
    for row in found:
        if row.doubt:
            lines.append([row.name, "-", "-", f"not judged: {row.doubt}"])
        else:
            lines.append([row.name, f"{row.a:.3f}", f"{row.b:.3f}", f"{row.relative:+.0%}"])
    told = table(lines)
    slower = [row.name for row in found if row.relative < -within]
    if slower:
        click.echo(told)
        raise click.ClickException(f"slower by more than {within:.0%}: {', '.join(slower)}")
    if all(row.doubt for row in found):
        click.echo(told)
        raise click.ClickException("no ratio could be relied on: give more --rounds, on a quieter machine")
    return f"{told}\nnothing is slower by more than {within:.0%}"


def measured(*, rounds: int, threads: int | None) -> Record:
    """Take parts of the benches, short."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "engines": engines.measured(
                folder, None, None, (1,), compiled=False, device="cpu", threads=threads, rounds=rounds,
                seconds=_SECONDS, apart=True, only=lambda way: (way.backend, way.precision) in _ENGINES,
            ),
            "scene": scene.measured(folder, _SCENES, _WAYS, None, EngineOptions(threads=threads), rounds=rounds),
            "training": training.measured(
                _NARROW, (8,), compiled=False, bf16=False, device="cpu", threads=threads, rounds=rounds
            ),
        }  # fmt: skip
    say("")
    return Record(
        bench="guard",
        rows=tuple(_renamed(part, row) for part in parts.values() for row in part.rows),
        settings={
            "rounds": rounds,
            **{name: {k: v for k, v in part.settings.items() if "ceiling" not in k} for name, part in parts.items()},
        },
        ceilings=parts["engines"].ceilings,
    )


def _renamed(record: Record, row: Row) -> Row:
    """Put a row among those of other benches, still compared with its own."""
    base = record.base(row)
    if row.labels.get("way") in (scene.NO_ENGINE, scene.COPY):
        base = base.replace(scene.ENGINE, scene.COPY)  # a faster engine makes them no slower
    labels = {"base": f"{record.bench}: {base}"}
    return Row(
        name=f"{record.bench}: {row.name}", unit=row.unit, samples=row.samples, labels=labels, trouble=row.trouble
    )  # fmt: skip
