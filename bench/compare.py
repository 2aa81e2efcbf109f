"""Compare the ratios of two records: `bench compare` takes two files, `bench guard` measures and takes the committed.

Times differ from day to day; ratios within a round differ less.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.harness import Record, Row, Unusable, load, median, rounds_option, save, say, table, threads_option
from bench.machine import this_machine
from bench.methods import COPY, ENGINE, IDENTITY, OURS

_MEASURED_SETTINGS = {"ceiling_windows_per_s"}
_RESULTS = Path(__file__).parent / "results"
_GUARDED_ENGINES = ("onnxruntime fp32", "openvino", "pytorch fp32")
_GUARDED_SIZE = (4096, 4096)
_GUARDED_METHODS = (ENGINE, OURS, IDENTITY, COPY)
_GUARDED_SECONDS = 1.0  # of each engine in each round
_GUARDED_CHANNELS = 16  # width of the trained networks: close to the ratios of 64 in a fraction of the time


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row in two records."""

    name: str
    a: float = 1.0
    """Ratio to the base row in the first record."""
    b: float = 1.0
    """Ratio to the base row in the second record."""
    reason: str | None = None
    """Why the row is not compared; None where it is."""

    @property
    def relative(self) -> float:
        """Return b / a - 1; 0 for a row that is not compared."""
        return self.b / self.a - 1


def differences(a: Record, b: Record) -> list[Difference]:
    """Compare the ratios of rows that both records have samples of.

    Rows that are their own base in both records are left out: their ratio is 1.

    Parameters
    ----------
    a, b
        Records of the same bench.

    Returns
    -------
    list of Difference
        In the order of `a`.
    """
    others = {row.name: row for row in b.rows if row.samples}
    found = []
    for x in a.rows:
        y = others.get(x.name)
        if not x.samples or y is None or a.base(x) == b.base(y) == x.name:
            continue
        problems = {"A": a.unreliable_ratio(x), "B": b.unreliable_ratio(y)}
        reasons = [f"{side}: {problem}" for side, problem in problems.items() if problem]
        if a.base(x) != b.base(y):
            reasons.append(f"compared with {a.base(x)} in A, with {b.base(y)} in B")
        if reasons:
            found.append(Difference(name=x.name, reason="; ".join(reasons)))
        else:
            found.append(Difference(name=x.name, a=median(a.ratios(x)), b=median(b.ratios(y))))
    return found


def print_context(a: Record, b: Record) -> None:
    """Print what else differs between two records: machine, settings, measured rows."""
    if a.machine.slug != b.machine.slug:
        say(f"different machines: A {a.machine.slug}, B {b.machine.slug}")
    for key in sorted((a.settings.keys() | b.settings.keys()) - _MEASURED_SETTINGS):
        if a.settings.get(key) != b.settings.get(key):
            say(f"different settings: {key} is {a.settings.get(key)} in A, {b.settings.get(key)} in B")
    one_sided = sorted({row.name for row in a.rows if row.samples} ^ {row.name for row in b.rows if row.samples})
    if one_sided:
        say(f"measured in one record only: {', '.join(one_sided)}")


def check(a: Record, b: Record, within: float, *, losses_only: bool = False) -> None:
    """Print the ratios of two records of one bench, and exit 1 if one differs too much.

    Parameters
    ----------
    a, b
        Records of the same bench.
    within
        Largest allowed difference of a ratio, relative to `a`.
    losses_only
        Allow ratios to be higher in `b`.
    """
    unusable = click.ClickException if losses_only else Unusable
    print_context(a, b)
    found = differences(a, b)
    if not found:
        raise unusable("Cannot compare the records: no row except the base row was measured in both")
    cells = [
        [row.name, "-", "-", f"not compared: {row.reason}"]
        if row.reason
        else [row.name, f"{row.a:.3f}", f"{row.b:.3f}", f"{row.relative:+.1%}"]
        for row in found
    ]
    click.echo(table([["row", "A", "B", "difference"], *cells]))
    compared = [row for row in found if row.reason is None]
    if not compared:
        raise unusable("Cannot compare the records, because no row is reliable in both: run them with more --rounds")
    change = {row.name: -row.relative if losses_only else abs(row.relative) for row in compared}
    worst = max(compared, key=lambda row: change[row.name])
    beyond = change[worst.name] > within
    what, limit = "loss" if losses_only else "difference", "more than" if beyond else "within"
    click.echo(f"largest {what}: {worst.relative:+.1%} ({worst.name}), {limit} {within:.0%}")
    if beyond:
        raise SystemExit(1)


@click.command("compare")
@click.argument("first", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("second", metavar="B.json", type=click.Path(path_type=Path))
@click.option("--within", default=0.10, show_default=True, help="Largest allowed difference, relative to A's ratio.")
def main(first: Path, second: Path, within: float) -> None:
    """Compare the ratios of two runs of one bench; exit 1 if one differs by more than --within.

    Rows that vary too much in one of the records are listed, but not compared.
    """
    a, b = load(first), load(second)
    if a.bench != b.bench:
        raise Unusable(
            f"Cannot compare {first} ({a.bench}) with {second} ({b.bench}): give two runs of the same bench"
        )
    check(a, b, within)


@click.command("guard")
@click.option(
    "--against", type=click.Path(path_type=Path), help="Record to compare with.  [committed for this kind of machine]"
)
@click.option("--update", is_flag=True, help="Write the new record in its place and compare nothing.")
@click.option("--within", default=0.15, show_default=True, help="Largest allowed loss of a ratio.")
@rounds_option
@threads_option
def guard(against: Path | None, update: bool, within: float, rounds: int, threads: int | None) -> None:
    """Compare a few ratios with the committed ones; exit 1 if one is lower by more than --within."""
    path = against or _RESULTS / f"{this_machine().slug}-guard.json"
    committed = None if update else _committed(path)  # before minutes of measuring
    now = guard_record(rounds=rounds, threads=threads)
    if committed is None:
        save(now, path)
        click.echo(f"{path}: written, {len(now.rows)} rows")
        return
    measured = {row.name for row in now.rows if row.samples}
    gone = [row.name for row in committed.rows if row.samples and row.name not in measured]
    if gone:
        raise click.ClickException(f"{path}: {', '.join(gone)} no longer run: give --update to replace the record")
    check(committed, now, within, losses_only=True)


def _committed(path: Path) -> Record:
    if not path.exists():
        raise click.ClickException(f"{path} does not exist for this kind of machine: give --update to make it")
    record = load(path)
    if record.bench != "guard":
        raise click.ClickException(f"{path} is not a record of guard: give --update to write one")
    here, there = this_machine(), record.machine
    if (there.slug, there.cores) != (here.slug, here.cores):
        raise click.ClickException(
            f"{path} was measured on {there.slug} with {there.cores} cores, but this machine is {here.slug} with "
            f"{here.cores}: remove --against, or give --update to replace the record"
        )
    return record


def guard_record(*, rounds: int, threads: int | None) -> Record:
    """Measure short excerpts of the benches engines, scene and training."""
    from bench import engines, scene, training
    from sar2optical.engines import EngineOptions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = engines.Options(
            batches=(1,), threads=threads, rounds=rounds, seconds=_GUARDED_SECONDS, only=_GUARDED_ENGINES
        )
        whole = scene.Options(
            sizes=(_GUARDED_SIZE,), methods=_GUARDED_METHODS, engine=EngineOptions(threads=threads), rounds=rounds
        )
        step = training.Options(base_channels=_GUARDED_CHANNELS, bf16=False, threads=threads, rounds=rounds)
        records = engines.measured(folder, engine), scene.measured(folder, whole), training.measured(step)
    settings = {r.bench: {k: v for k, v in r.settings.items() if "ceiling" not in k} for r in records}
    return Record(
        bench="guard",
        rows=tuple(_renamed(record, row) for record in records for row in record.rows),
        settings={"rounds": rounds, **settings},
        ceilings=records[0].ceilings,
    )


def _renamed(record: Record, row: Row) -> Row:
    """Prefix a row's name and base with its bench; drop figures."""
    base = record.base(row)
    if row.labels.get("way") in (IDENTITY, COPY):
        base = base.replace(ENGINE, COPY)  # their rates do not depend on the engine's
    return replace(row, name=f"{record.bench}: {row.name}", labels={"base": f"{record.bench}: {base}"}, figures={})
