"""Fair comparisons on shared machines: candidates take turns, and what counts is the ratio within a round."""

from __future__ import annotations

import json
import multiprocessing
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.machine import Machine, this_commit, this_machine, today, versions

LEAST_ROUNDS = 3
"""From fewer nothing follows."""

MOST_SPREAD = 0.10
"""Of a rate or a ratio over the rounds: beyond it, a row says so instead of giving the figure."""

_COMMIT = this_commit()

Figure = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate of a bench."""

    name: str
    """What tells it apart, for people; there is one of each name in a record."""
    unit: str
    """Of the samples: something per second, so that more is better. Empty: the row has figures alone."""
    samples: tuple[float, ...] = ()
    """One for each round, as measured."""
    labels: Mapping[str, Figure] = field(default_factory=dict)
    """What the candidate is: backend, precision, batch."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What else was measured of it."""
    trouble: str | None = None
    """Why there is no figure, or why none may be relied on."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How a row compares with the first."""

    value: float
    """Median over the rounds of this row's sample over the first row's of the same round."""
    spread: float
    """Of these ratios, see `spread_of`."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run of a bench has found, and on what."""

    bench: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    """The options that decide what is measured."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """What the machine can do at best, by name, units in the names."""
    series: Mapping[str, Any] = field(default_factory=dict)
    """What is drawn over time, by the name of a row."""
    machine: Machine = field(default_factory=this_machine)
    versions: Mapping[str, str] = field(default_factory=versions)
    commit: str = field(default_factory=lambda: _COMMIT)
    """Of the checkout when this process began: what is edited meanwhile does not count."""
    taken: str = field(default_factory=today)

    def row(self, name: str) -> Row:
        """Give a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def base(self, row: Row) -> str:
        """Name the row that one is compared with: the one in its label `base`, the first where it has none."""
        return str(row.labels.get("base", self.rows[0].name))

    def ratio(self, row: Row) -> Ratio | None:
        """Compare a row with its base; None where either has no samples, or there is no such base."""
        base = self.base_row(row)
        ratios = ratios_of(row.samples, base.samples) if base else ()
        return Ratio(value=statistics.median(ratios), spread=spread_of(ratios)) if ratios else None

    def base_row(self, row: Row) -> Row | None:
        """Give the row that one is compared with; None where it is not here."""
        return next((other for other in self.rows if other.name == self.base(row)), None)

    def doubt(self, row: Row) -> str | None:
        """Say why a row's own rate may not be relied on; None where it may."""
        if row.trouble or not row.unit:
            return row.trouble  # without a unit, it is no rate
        return unreliable(row.samples)

    def verdict(self, row: Row) -> str | None:
        """Say why a row's ratio may not be relied on; None where it may. Ratios may hold where rates do not."""
        if row.trouble or not row.unit:
            return row.trouble
        base = self.base_row(row)
        return unreliable(ratios_of(row.samples, base.samples) if base else ())


def unreliable(samples: Sequence[float]) -> str | None:
    """Say why nothing follows from samples; None where it does."""
    if not samples:
        return "not measured"
    if len(samples) < LEAST_ROUNDS:
        return f"{len(samples)} of at least {LEAST_ROUNDS} rounds"
    spread = spread_of(samples)
    return f"spread of {spread:.0%}" if spread > MOST_SPREAD else None


def ratios_of(samples: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    """Compare samples with those of the same rounds; nothing where rounds are missing."""
    return tuple(mine / other for mine, other in zip(samples, base, strict=True)) if len(samples) == len(base) else ()


def spread_of(samples: Sequence[float]) -> float:
    """Give the distance between the quartiles, or the ends of three samples or fewer, over the median."""
    low, high = min(samples), max(samples)
    if len(samples) > LEAST_ROUNDS:  # quartiles of fewer are no more than their ends
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / statistics.median(samples)


def interleaved(
    candidates: Mapping[str, Callable[[], float]], rounds: int, *, told: Callable[[str], None] | None = None
) -> dict[str, tuple[float, ...]]:
    """Let each candidate measure itself once per round, in turn.

    What slows the machine for a while slows all of them, so ratios hold where single figures do not.

    Parameters
    ----------
    candidates
        By name; each gives one sample.
    rounds
        How often.
    told
        Called with a line on each sample.

    Returns
    -------
    dict
        Each candidate's samples, in rounds' order.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, measure in candidates.items():
            samples[name].append(measure())
            if told:
                told(f"round {number + 1}/{rounds}: {name}: {samples[name][-1]:.4g}")
    return {name: tuple(taken) for name, taken in samples.items()}


def here(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, as `in_a_process` does, in this one."""
    return function(*args, **kwargs)


def in_a_process(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of a module in a process of its own: its memory, settings and threads are nobody else's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        return worker.submit(function, *args, **kwargs).result()


def table(rows: list[list[str]]) -> str:
    """Lay out rows in columns; the first row is the header, all columns but the first to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def ratio_cells(record: Record, row: Row) -> list[str]:
    """Give a row's median and its ratio to its base, or why there is none."""
    rate = record.doubt(row) or f"{statistics.median(row.samples):.4g}"
    ratio = record.ratio(row)
    return [rate, record.verdict(row) or (f"{ratio.value:.2f}" if ratio else "-")]


def save(record: Record, path: Path | None) -> None:
    """Write all of a record as JSON, where a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record), indent=1, default=float) + "\n")


def load(path: Path) -> Record:
    """Read a record that `save` wrote."""
    content = json.loads(path.read_text())
    rows = tuple(Row(**{**row, "samples": tuple(row["samples"])}) for row in content.pop("rows"))
    return Record(**{**content, "rows": rows, "machine": Machine(**content["machine"])})


def in_words(error: BaseException) -> str:
    """Give an error's words on one line, without folders: those of one machine mean nothing on another."""
    return re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+", "", " ".join(str(error).split()))[:160]


def median(samples: tuple[float, ...] | list[float]) -> float:
    """Give the middle sample."""
    return statistics.median(samples)


def say(line: str) -> None:
    """Tell whoever waits how far it is; what is found goes to the other stream."""
    click.echo(line, err=True)


_AT_LEAST_1 = click.IntRange(min=1)

rounds_option = click.option(
    "--rounds", type=_AT_LEAST_1, default=5, show_default=True, help="In which all candidates take turns."
)
threads_option = click.option("--threads", type=_AT_LEAST_1, help="CPU threads; all where not given.")
device_option = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
quick_option = click.option("--quick", is_flag=True, help="Small and short: to see that it runs, not to be believed.")
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Also write the record, raw samples and all."
)
