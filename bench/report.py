"""What the committed results say: `bench/README.md` and its plots, made from the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from typing import Any

import click

from bench.compare import read
from bench.harness import MOST_SPREAD, Record, Row, median, say
from bench.plots import Plot, plots_of, svg, vouched
from bench.tables import cell, layout, listed, markdown, number, rate_and_ratio, safe
from sar2optical._utils.files import write_output

BENCH = Path(__file__).parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

INTRO = f"""# Benches

Made by `python -m bench report` from `results/*.json`; do not edit. One command each, run from the checkout:

| command | what it compares |
|---|---|
| `python -m bench engines` | libraries, precisions and batch sizes, and the seed's way, on windows |
| `python -m bench scene` | whole scenes, from file to mosaic, with a plain copy, the engine alone, the seed's way |
| `python -m bench peers` | the same scene through other tools, each in an environment of its own (`--install`: 6GB) |
| `python -m bench training` | the seed's step and ours |
| `python -m bench seams SCENE` | what overlaps cost and do |
| `python -m bench guard` | ratios now with the committed ones: fails where something became slower |
| `python -m bench compare A.json B.json` | ratios of two runs of one bench |
| `python -m bench report` | nothing: makes this page and its plots; `--check` tells whether it is up to date |

`--json bench/results/MACHINE-BENCH.json` keeps a run, raw samples and all. `--quick` is to see that it runs, not to
be believed.

Machines are shared and noisy. So candidates take turns, and what holds is the *ratio*: the median over the rounds of
a row's sample over that of the row it is compared with, in the same round. A rate or a ratio that spreads by more
than {MOST_SPREAD:.0%} over the rounds (between the quartiles; of three rounds between the ends) says so instead
of giving a figure, and so does a row that something is wrong with. A share is of the ceiling: the machine's own
matrix product in the same precision, and its copy. PSNR of 999 dB: equal, bit by bit.
"""

BENCHES = ("engines", "scene", "peers", "training", "seams", "guard")
"""In the order of the page; others follow."""


@dataclass(frozen=True)
class Result:
    """A record and its file's name, without the ending."""

    stem: str
    record: Record

    @property
    def title(self) -> str:
        """Head the record's part of its machine's section."""
        usual = self.stem == f"{self.record.machine.slug}-{self.record.bench}"
        return self.record.bench if usual else f"{self.record.bench} ({self.stem})"

    def picture(self, plot: Plot) -> str:
        """Name the file of a plot."""
        return f"{self.stem}-{plot.name}.svg"


@click.command("report")
@click.option("--results", default=BENCH / "results", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", default=BENCH / "README.md", type=click.Path(dir_okay=False, path_type=Path), help="The page.")
@click.option(
    "--readme",
    default=BENCH.parent / "README.md",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where the summary goes, between {BEGIN} and {END}; not touched without them.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where the pages are not what the results give.")
def main(results: Path, out: Path, readme: Path, check: bool) -> None:
    """Make bench/README.md and its plots from bench/results."""
    found = results_in(results)
    drawn = {result.picture(plot): plot for result in found for plot in plots_of(result.record)}
    pages = {out: page(found, Path(relpath(results, out.parent)).as_posix())}
    if readme.exists():
        pages[readme] = with_summary(readme.read_text(), found)
    stale = [path for path, content in pages.items() if not path.exists() or path.read_text() != content]
    if check:
        stale += [results / name for name in drawn if not (results / name).exists()]
        if stale:
            raise click.ClickException(f"{stale[0]} is not what the results give: run python -m bench report")
        return
    for path in stale:
        write_output(path, pages[path].encode())
    for name, plot in drawn.items():
        write_output(results / name, svg(plot))
    for path in sorted(results.glob("*.svg")):
        if path.name not in drawn:
            say(f"{path}: belongs to no record, remove it")
    click.echo(f"{out}: {len(found)} records, {len(drawn)} plots")


def results_in(folder: Path) -> list[Result]:
    """Read a folder's records, by machine and bench; files of an older format are left out, with a line each."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        if record is None:
            say(f"left out: {path} (of an older format: run the bench again)")
        else:
            found.append(Result(path.stem, record))
    return sorted(found, key=lambda result: (result.record.machine.slug, _place(result.record.bench), result.stem))


def _place(bench: str) -> tuple[int, str]:
    return (BENCHES.index(bench) if bench in BENCHES else len(BENCHES), bench)


def page(results: list[Result], folder: str) -> str:
    """Write the page.

    Parameters
    ----------
    results
        As of `results_in`.
    folder
        Of the plots, as the page links to it.
    """
    parts = [INTRO]
    for slug, mine in by_machine(results).items():
        parts += [f"## {slug}\n", _provenance(mine)]
        parts += [_section(result, folder) for result in mine]
    return "\n".join(parts)


def by_machine(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group results by their machine's kind."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.record.machine.slug, []).append(result)
    return groups


def _provenance(results: list[Result]) -> str:
    """Say on what and with what the records were taken; once for those of which it is the same."""
    said: dict[str, list[str]] = {}
    for result in results:
        record, machine = result.record, result.record.machine
        size = f"{machine.cores} cores", machine.instructions, f"{machine.memory_gb:g} GB"
        known = ", ".join(filter(None, (machine.cpu, *size, machine.gpu)))
        words = f"{safe(known)}; {listed(record.versions, ', ')}; commit {record.commit}, {record.taken}"
        said.setdefault(words, []).append(result.title)
    return "".join(f"- {', '.join(titles)}: {words}\n" for words, titles in said.items())


def _section(result: Result, folder: str) -> str:
    record = result.record
    parts = [f"### {result.title}\n"]
    parts += [f"{title}: {listed(facts)}.\n" for title, facts in _told(record).items() if facts]
    parts += [markdown(record)] if record.rows else []
    verdicts = record.series.get("verdicts", {}).items()
    parts += ["".join(f"- {safe(name)}: {cell(value)}\n" for name, value in verdicts)] if verdicts else []
    parts += [f"{plot.caption}\n\n![{plot.caption}]({folder}/{result.picture(plot)})\n" for plot in plots_of(record)]
    return "\n".join(parts)


def _told(record: Record) -> dict[str, Mapping[str, Any]]:
    exponents = record.series.get("growth_exponent", {})
    return {
        "Settings": record.settings,
        "Ceilings": record.ceilings,
        "Time grows with the area to the power of": exponents,
    }


def with_summary(readme: str, results: list[Result]) -> str:
    """Put one line for each machine between the markers of a page; the page as it is where it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{summary(results)}{end}{after}" if end else readme


def summary(results: list[Result]) -> str:
    """Tabulate the fastest engine and the largest scene of each machine, of rows that are vouched for.

    The first row of `engines` is the seed's way. It is not run over the largest scenes: what counts is the largest
    that it was run over.
    """
    seed = "against the seed's way"
    lines = [["machine", "fastest engine", "windows/s", seed, "largest scene", "Mpx/s", seed]]
    lines.append(["---", "---", "--:", "--:", "---", "--:", "--:"])
    for slug, mine in by_machine(results).items():
        lines.append([slug, *_fastest_engine(mine), *_largest_scene(mine)])
    return layout(lines)


def _rows(results: list[Result], bench: str) -> list[tuple[Record, Row]]:
    return [(r.record, row) for r in results if r.record.bench == bench for row in vouched(r.record)]


def _fastest_engine(results: list[Result]) -> list[str]:
    rows = [pair for pair in _rows(results, "engines") if pair[1].labels.get("transfers") != "off"]
    if not rows:
        return ["-", "-", "-"]
    record, best = max(rows, key=lambda pair: median(pair[1].samples))
    return [safe(best.name), *rate_and_ratio(record, best)]


def _largest_scene(results: list[Result]) -> list[str]:
    rows = [pair for pair in _rows(results, "scene") if pair[1].labels.get("way") == "ours"]
    if not rows:
        return ["-", "-", "-"]
    _, best = max(rows, key=lambda pair: _area(pair[1]))
    size = f"{best.labels['width']} x {best.labels['height']}"
    ratios = {
        f"{row.labels['width']} x {row.labels['height']}": _ratio_to_the_seed(record, row)
        for record, row in sorted(rows, key=lambda pair: -_area(pair[1]))
    }
    other, ratio = next(((size, ratio) for size, ratio in ratios.items() if ratio != "-"), (size, "-"))
    return [size, number(median(best.samples)), ratio if other == size else f"{ratio} ({other})"]


def _ratio_to_the_seed(record: Record, row: Row) -> str:
    seeds = [
        other
        for other in record.rows
        if other.samples and other.labels.get("way") == "the seed's way" and _area(other) == _area(row)
    ]
    if not seeds:
        return "-"
    rate, ratio = rate_and_ratio(record, replace(row, labels={**row.labels, "base": seeds[0].name}))
    return rate if ratio == "-" else ratio  # words on why there is none stand in the rate's place


def _area(row: Row) -> int:
    return int(str(row.labels.get("width", 0))) * int(str(row.labels.get("height", 0)))
