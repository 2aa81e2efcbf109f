"""Write `bench/README.md` and its plots from the committed records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path

import click

from bench.harness import Record, Row, load, median, number, ratio_cells, say
from bench.machines import machines_of, plots_of_machines, section
from bench.plots import Plot, plots_of, reliable_rows, svg
from bench.tables import caption, cell, layout, listed, markdown, safe
from sar2optical._utils.files import write_output

BENCH = Path(__file__).parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

INTRO = BENCH / "intro.md"
"""First section of the page; the limit of 10% in it is `harness.MAX_SPREAD`."""

BENCHES = ("engines", "scene", "peers", "training", "seams", "guard")
"""Order on the page; others follow."""

_SUMMARY = (
    "Windows of 256 x 256 per second, and megapixels per second of whole scenes, by machine. Each ratio is to the "
    "reference baseline (PyTorch, eager, one window after another) in the same run; a ratio that varies is given "
    "as median (lowest to highest of the rounds). A size in brackets is the largest scene that the baseline also "
    "translated; the ratio is for that scene."
)


@dataclass(frozen=True)
class Result:
    """A record and its file's name without the suffix."""

    stem: str
    record: Record

    @property
    def title(self) -> str:
        """Heading of the record's section: the bench, with the file's name if that is unusual."""
        usual = self.stem == f"{self.record.machine.slug}-{self.record.bench}"
        return self.record.bench if usual else f"{self.record.bench} ({self.stem})"

    @property
    def plots(self) -> dict[str, Plot]:
        """Plots by the names of their files."""
        return {f"{self.stem}-{plot.name}.svg": plot for plot in plots_of(self.record)}


@click.command("report")
@click.option(
    "--results",
    default=BENCH / "results",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the records.",
)
@click.option("--out", default=BENCH / "README.md", type=click.Path(dir_okay=False, path_type=Path), help="The page.")
@click.option(
    "--readme",
    default=BENCH.parent / "README.md",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File to write the summary into, between {BEGIN} and {END}; unchanged without them.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a page or a plot is out of date.")
def main(results: Path, out: Path, readme: Path, check: bool) -> None:
    """Write bench/README.md and its plots from bench/results."""
    found = results_in(results)
    drawn = {name: plot for result in found for name, plot in result.plots.items()}
    drawn |= plots_of_machines(machines_of(list(by_machine(found).values())))
    pages = {out: page(found, Path(relpath(results, out.parent)).as_posix())}
    if readme.exists():
        pages[readme] = with_summary(readme.read_text(), found)
    stale = [path for path, content in pages.items() if not path.exists() or path.read_text() != content]
    if check:
        stale += [results / name for name in drawn if not (results / name).exists()]
        if stale:
            raise click.ClickException(f"{stale[0]} is out of date: run python -m bench report")
        return
    for path in stale:
        write_output(path, pages[path].encode())
    for name, plot in drawn.items():
        write_output(results / name, svg(plot))
    for path in sorted(results.glob("*.svg")):
        if path.name not in drawn:
            say(f"{path}: belongs to no record: remove it")
    click.echo(f"{out}: {len(found)} records, {len(drawn)} plots")


def results_in(folder: Path) -> list[Result]:
    """Read a folder's records, sorted by machine and bench."""
    order = {bench: k for k, bench in enumerate(BENCHES)}
    return sorted(
        (Result(path.stem, load(path)) for path in folder.glob("*.json")),
        key=lambda x: (x.record.machine.slug, order.get(x.record.bench, len(order)), x.record.bench, x.stem),
    )


def page(results: list[Result], folder: str) -> str:
    """Write the page; `folder` is the path of the plots, relative to the page."""
    machines = machines_of(list(by_machine(results).values()))
    first, commands = INTRO.read_text().split("\n", 1)
    compared = section(machines, plots_of_machines(machines), folder) if len(machines) > 1 else ""
    sections = [first, "", *([compared] if compared else []), "## How it is measured", commands]
    for slug, mine in by_machine(results).items():
        sections += [f"## {slug}\n", _provenance(mine), *(_section(result, folder) for result in mine)]
    return "\n".join(sections)


def by_machine(results: list[Result]) -> dict[str, list[Result]]:
    """Group results by the kind of machine."""
    slugs = dict.fromkeys(result.record.machine.slug for result in results)
    return {slug: [result for result in results if result.record.machine.slug == slug] for slug in slugs}


def _provenance(results: list[Result]) -> str:
    """Describe machine, versions, commit and date; one line for all records that share them."""
    titles: dict[str, list[str]] = {}
    for result in results:
        record, machine = result.record, result.record.machine
        size = f"{machine.cores} cores", machine.instructions, f"{machine.memory_gb:g} GB"
        known = ", ".join(filter(None, (machine.cpu, *size, machine.gpu)))
        line = f"{safe(known)}; {listed(record.versions, ', ')}; commit {record.commit}, {record.taken}"
        titles.setdefault(line, []).append(result.title)
    return "".join(f"- {', '.join(names)}: {line}\n" for line, names in titles.items())


def _section(result: Result, folder: str) -> str:
    record = result.record
    notes = {
        "Settings": record.settings,
        "Ceilings": record.ceilings,
        "Time grows with the area to the power of": record.series.get("growth_exponent", {}),
    }
    blocks = [f"### {result.title}\n"]
    blocks += [f"{title}: {listed(values)}.\n" for title, values in notes.items() if values]
    blocks += [f"{caption(record)}\n", markdown(record)] if record.rows else []
    compared = record.series.get("verdicts", {}).items()
    blocks += ["".join(f"- {safe(name)}: {safe(cell(value))}\n" for name, value in compared)] if compared else []
    blocks += [f"{x.caption}\n\n![{x.caption}]({folder}/{name})\n" for name, x in result.plots.items()]
    return "\n".join(blocks)


def with_summary(readme: str, results: list[Result]) -> str:
    """Replace the text between the markers of a page by the summary; a page without markers stays unchanged."""
    before, begin, tail = readme.partition(BEGIN)
    _, end, after = tail.partition(END)
    return f"{before}{begin}\n{summary(results)}{end}{after}" if end else readme


def summary(results: list[Result]) -> str:
    """Tabulate the fastest engine and the largest scene of each machine, from rows with reliable rates.

    The first row of `engines` is the reference baseline. It does not run over the largest scenes: their ratio is that
    of the largest scene that it ran over.
    """
    lines = [["machine", "fastest engine", "windows/s", "ratio", "largest scene", "Mpx/s", "ratio"]]
    lines.append(["---", "---", "--:", "--:", "---", "--:", "--:"])
    for slug, mine in by_machine(results).items():
        figures = [*_fastest_engine(mine), *_largest_scene(mine)]
        if set(figures) != {"-"}:
            lines.append([slug, *figures])
    return f"{_SUMMARY}\n\n{layout(lines)}"


def _rows(results: list[Result], bench: str, label: str, *values: str | None) -> list[tuple[Record, Row]]:
    """Return the reliable rows of a bench that have one of these values of a label, with their records."""
    records = [result.record for result in results if result.record.bench == bench]
    return [(x, row) for x in records for row in reliable_rows(x) if row.labels.get(label) in values]


def _fastest_engine(results: list[Result]) -> list[str]:
    rows = _rows(results, "engines", "transfers", "on", None)
    if not rows:
        return ["-", "-", "-"]
    record, best = max(rows, key=lambda pair: median(pair[1].samples))
    return [safe(text) for text in (best.name, *ratio_cells(record, best))]


def _largest_scene(results: list[Result]) -> list[str]:
    rows = sorted(_rows(results, "scene", "way", "ours"), key=lambda pair: -_area(pair[1]))
    if not rows:
        return ["-", "-", "-"]
    best = rows[0][1]
    for record, row in rows:
        ratio = _ratio_to_reference(record, row)
        if ratio != "-":
            return [_size(best), number(median(best.samples)), ratio if row is best else f"{ratio} ({_size(row)})"]
    return [_size(best), number(median(best.samples)), "-"]


def _ratio_to_reference(record: Record, row: Row) -> str:
    for other in record.rows:
        if other.samples and other.labels.get("way") == "reference baseline" and _area(other) == _area(row):
            return ratio_cells(record, replace(row, labels={**row.labels, "base": other.name}))[1]
    return "-"


def _size(row: Row) -> str:
    return f"{row.labels['width']} x {row.labels['height']}"


def _area(row: Row) -> int:
    return int(str(row.labels.get("width", 0))) * int(str(row.labels.get("height", 0)))
