"""Records of benches, candidates that take turns, and the options that benches share."""

from __future__ import annotations

import multiprocessing
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from tabulate import tabulate

from bench.machine import Machine, this_commit, this_machine, today, versions
from sar2optical.errors import Sar2OpticalError

MIN_ROUNDS = 3
"""Fewer rounds give no figure."""

MAX_SPREAD = 0.10
"""Largest `spread_of` with which a rate or a ratio is printed without its range."""

FAILURES = (Sar2OpticalError, RuntimeError, MemoryError, ImportError, OSError)
"""Errors that exclude one candidate and leave the bench running."""

_COMMIT = this_commit()

_RENAMED = {
    "the seed's way": "reference baseline",
    "the seed's step": "reference step",
    "the seed's": "reference",
    "a generator that does nothing": "identity generator",
    '"weigh"': '"weight"',
}
"""Names in older records, and their replacements."""

Figure = float | int | str | bool | None
T = TypeVar("T")


class Unusable(click.ClickException):
    """A record cannot be read, or two records have nothing to compare."""

    exit_code = 2


# Dataclasses, not msgspec Structs: msgspec reads and writes both, and `dataclasses.replace` works on these.
@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one candidate."""

    name: str
    """Name, unique in its record."""
    unit: str
    """Unit of the samples, a rate (more is better). Empty where the row has figures only."""
    samples: tuple[float, ...] = ()
    """Measured rates, one for each round."""
    labels: Mapping[str, Figure] = field(default_factory=dict)
    """Properties of the candidate: backend, precision, batch."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Other measured values."""
    trouble: str | None = None
    """Reason why the row has no valid rate. The JSON field has this name."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Results of one run of a bench, with the machine and the versions that gave them."""

    bench: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    """Options of the run."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Limits of the machine; the names have the units."""
    series: Mapping[str, Any] = field(default_factory=dict)
    """Values over time, by the name of a row, and results over several rows."""
    machine: Machine = field(default_factory=this_machine)
    versions: Mapping[str, str] = field(default_factory=versions)
    commit: str = field(default_factory=lambda: _COMMIT)
    """Commit of the checkout when the process began."""
    taken: str = field(default_factory=today)

    def base(self, row: Row) -> str:
        """Return the name of the row to compare with: the row's label `base`, else the first row's name."""
        return str(row.labels.get("base", self.rows[0].name))

    def ratios(self, row: Row) -> tuple[float, ...]:
        """Divide a row's samples by its base row's, round by round; empty where rounds or the base are missing."""
        base = next((other for other in self.rows if other.name == self.base(row)), None)
        return ratios_of(row.samples, base.samples) if base else ()

    def unreliable_rate(self, row: Row) -> str | None:
        """Return the text to print in place of a row's rate; None where the rate is reliable."""
        return row.trouble or (unreliable(row.samples) if row.unit else None)

    def unreliable_ratio(self, row: Row) -> str | None:
        """Return the text to print in place of a row's ratio; None where the ratio is reliable."""
        return row.trouble or (unreliable(self.ratios(row)) if row.unit else None)


def unreliable(samples: Sequence[float]) -> str | None:
    """Return the text to print in place of a median that varies too much: median (lowest to highest), or a reason.

    None where the median can stand alone.
    """
    if not samples:
        return "not measured"
    if len(samples) < MIN_ROUNDS:
        return f"{len(samples)} of at least {MIN_ROUNDS} rounds"
    if spread_of(samples) <= MAX_SPREAD:
        return None
    middle = median(samples)
    form = ".0f" if middle >= 100 else ".1f" if middle >= 2 else ".2f" if middle >= 0.1 else ".2g"
    return f"{middle:{form}} ({min(samples):{form}} to {max(samples):{form}})"


def ratios_of(samples: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    """Divide samples by those of the same rounds; empty where rounds are missing."""
    return tuple(mine / other for mine, other in zip(samples, base, strict=True)) if len(samples) == len(base) else ()


def spread_of(samples: Sequence[float]) -> float:
    """Return the distance between the quartiles (up to three samples: the extremes), divided by the median."""
    low, high = min(samples), max(samples)
    if len(samples) > MIN_ROUNDS:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / median(samples)


def median(samples: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def take_turns(
    candidates: Mapping[str, Callable[[int], T]],
    rounds: int,
    *,
    on_progress: Callable[[str], None],
    each_round: Callable[[], object] = lambda: None,
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Measure each candidate once per round, in turn.

    A slow phase of the machine slows all candidates of a round, so ratios hold where single figures do not.

    Parameters
    ----------
    candidates
        Functions by name. Each takes the number of the round, from 0, and returns one sample; `str` of a sample is
        printed.
    rounds
        Number of rounds.
    on_progress
        Called with one line for each sample and each failure.
    each_round
        Called at the beginning of each round.

    Returns
    -------
    samples, failures
        By name: samples in the order of rounds; error messages of candidates that failed. A candidate that failed
        has no further turn.
    """
    samples: dict[str, list[T]] = {}
    failures: dict[str, str] = {}
    for number in range(rounds):
        each_round()
        for name, measure in candidates.items():
            if name in failures:
                continue
            try:
                sample = measure(number)
            except FAILURES as error:
                failures[name] = one_line(error)
                on_progress(f"left out: {name} ({failures[name]})")
            else:
                samples.setdefault(name, []).append(sample)
                on_progress(f"round {number + 1}/{rounds}: {name}: {sample}")
    return samples, failures


def execute(separate: bool, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a module's function: in a process of its own, with its own memory and threads, or in this one."""
    if not separate:
        return function(*args, **kwargs)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        return worker.submit(function, *args, **kwargs).result()


def table(rows: list[list[str]]) -> str:
    """Lay out a text table: the first row is the header, all columns but the first are aligned right."""
    align = ["left", *["right"] * (len(rows[0]) - 1)]
    text: str = tabulate(rows[1:], headers=rows[0], tablefmt="plain", disable_numparse=True, colalign=align)
    return text


def ratio_cells(record: Record, row: Row) -> list[str]:
    """Return the cells of a row's rate and of its ratio to its base."""
    if row.trouble or not row.samples:
        return [row.trouble or "not measured", "-"]
    ratios = record.ratios(row)
    rate = unreliable(row.samples) or number(median(row.samples))
    return [rate, unreliable(ratios) or f"{median(ratios):{'.2f' if median(ratios) >= 0.1 else '.2g'}}"]


def number(value: float) -> str:
    """Format a number with four digits; from 100 on as an integer."""
    return f"{value:.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.4g}"


def save(record: Record, path: Path | None) -> None:
    """Write a record as JSON, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record, enc_hook=float), indent=1) + b"\n")


def load(path: Path) -> Record:
    """Read a record that `save` wrote.

    Raises
    ------
    Unusable
        If the file is missing or is not a record.
    """
    try:
        text = path.read_text(encoding="utf-8")
        for old, new in _RENAMED.items():
            text = text.replace(old, new)
        return msgspec.json.decode(text, type=Record)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise Unusable(f"{path} is not a record of a bench ({error}): run the bench again with --json") from error


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without folders, which differ between machines."""
    return re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+", "", " ".join(str(error).split()))[:160]


def say(line: str) -> None:
    """Print progress to stderr; results go to stdout."""
    click.echo(line, err=True)


_AT_LEAST_1 = click.IntRange(min=1)

rounds_option = click.option(
    "--rounds", type=_AT_LEAST_1, default=5, show_default=True, help="Rounds in which all candidates take turns."
)
threads_option = click.option("--threads", type=_AT_LEAST_1, help="CPU threads.  [all cores]")
device_option = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
quick_option = click.option("--quick", is_flag=True, help="Run a short smoke test; its figures mean nothing.")
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Also write the record, with raw samples, to this file."
)
