"""Two records of one bench: their ratios side by side. Ratios hold where times do not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from bench.harness import Record, Row, load, say, table

_MEASURED = {"ceiling_windows_per_s"}
"""Settings that are none."""


class Unusable(click.ClickException):
    """A record that cannot be read, or two that have nothing to compare."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row in two records."""

    name: str
    a: float | None
    """Ratio to the base, in the first record; None where there is no such ratio."""
    b: float | None
    """The same in the second."""
    doubt: str | None = None
    """Why the row is not judged; None where both records vouch for it."""

    @property
    def relative(self) -> float:
        """Give `b` over `a`, less 1; 0 for a row that is not judged."""
        return 0.0 if self.doubt or self.a is None or self.b is None else self.b / self.a - 1


def read(path: Path) -> Record | None:
    """Read a record; None for a file of before, which has no rows.

    Raises
    ------
    Unusable
        Where the file is not there, or no record.
    """
    try:
        return load(path) if "rows" in json.loads(path.read_text()) else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path} is not a record of a bench ({error!r}): run the bench again with --json") from error


def differences(a: Record, b: Record) -> list[Difference]:
    """Compare the ratios of rows that both records have samples of.

    Rows that others are compared with are left out where they are their own base in both: their ratio is 1.

    Parameters
    ----------
    a, b
        Of the same bench.

    Returns
    -------
    list of Difference
        In the order of `a`.
    """
    others = {row.name: row for row in b.rows if row.samples}
    pairs = [(row, others[row.name]) for row in a.rows if row.samples and row.name in others]
    return [_difference((a, mine), (b, other)) for mine, other in pairs if not _only_bases((a, mine), (b, other))]


def _only_bases(*sides: tuple[Record, Row]) -> bool:
    return all(record.base(row) == row.name for record, row in sides)


def _difference(*sides: tuple[Record, Row]) -> Difference:
    ratios = [record.ratio(row) for record, row in sides]
    bases = [record.base(row) for record, row in sides]
    doubts = [
        f"{side}: {doubt}" for side, (record, row) in zip("AB", sides, strict=True) if (doubt := record.verdict(row))
    ]
    if bases[0] != bases[1]:
        doubts.append(f"compared with {bases[0]} in A, with {bases[1]} in B")
    a, b = (ratio.value if ratio else None for ratio in ratios)
    return Difference(name=sides[0][1].name, a=a, b=b, doubt="; ".join(doubts) or None)


@click.command("compare")
@click.argument("first", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("second", metavar="B.json", type=click.Path(path_type=Path))
@click.option("--within", default=0.10, show_default=True, help="How much a ratio may differ, relative to A's.")
def main(first: Path, second: Path, within: float) -> None:
    """Compare the ratios of two runs of one bench; exit 1 where one differs by more than --within.

    Rows that one of the records does not vouch for are listed, and not judged.
    """
    a, b = _opened(first), _opened(second)
    if a.bench != b.bench:
        raise Unusable(f"{first} is of {a.bench}, {second} of {b.bench}: compare two runs of the same bench")
    tell_what_differs(a, b)
    found = differences(a, b)
    if not found:
        raise Unusable(f"{first} and {second} have no row in common that was measured in both, but for the base")
    click.echo(table([["row", "A", "B", "difference"], *(_cells(row) for row in found)]))
    judged = [row for row in found if row.doubt is None]
    if not judged:
        raise Unusable("none of these rows can be relied on in both: nothing was judged; take more rounds")
    worst = max(judged, key=lambda row: abs(row.relative))
    beyond = abs(worst.relative) > within
    said = "more than" if beyond else "within"
    click.echo(f"largest difference: {worst.relative:+.1%}, of {worst.name}: {said} {within:.0%}")
    if beyond:
        raise SystemExit(1)


def _opened(path: Path) -> Record:
    record = read(path)
    if record is None:
        raise Unusable(f"{path} has no rows, it is of an older format: run the bench again with --json {path}")
    return record


def tell_what_differs(a: Record, b: Record) -> None:
    """Say what makes ratios differ that is no noise."""
    if a.machine.slug != b.machine.slug:
        say(f"of two machines: A {a.machine.slug}, B {b.machine.slug}")
    for key in sorted((a.settings.keys() | b.settings.keys()) - _MEASURED):
        if a.settings.get(key) != b.settings.get(key):
            say(f"of two settings: {key} is {a.settings.get(key)} in A, {b.settings.get(key)} in B")
    one_sided = sorted({row.name for row in a.rows if row.samples} ^ {row.name for row in b.rows if row.samples})
    if one_sided:
        say(f"measured in one of them only: {', '.join(one_sided)}")


def _cells(row: Difference) -> list[str]:
    if row.doubt:
        return [row.name, "-", "-", f"not judged: {row.doubt}"]
    return [row.name, f"{row.a:.3f}", f"{row.b:.3f}", f"{row.relative:+.1%}"]
