"""`sar2opt-data`: training pairs checked, split and fetched."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import (
    INTERRUPTED,
    aligned_option,
    context_settings,
    optical_options,
    reading,
    refuse_bands_of_pictures,
    reports_errors,
    set_up_logging,
)
from sar2optical.errors import DataError
from sar2optical.signature import UNITS

if TYPE_CHECKING:
    from sar2optical.data.check import Report
    from sar2optical.data.pairs import Pair, Reading
    from sar2optical.data.splits import Splits

_SHOWN = 5
"""Problems of a kind that are listed; the JSON file has all."""


@click.group(context_settings=context_settings("data"))
@click.version_option(package_name="sar2optical")
def main() -> None:
    """Check, split and fetch pairs of SAR and optical chips.

    Pairs lie in folders s1 and s2 with chips of equal names, or in folders of terrain classes that hold these; in
    folders s1_1 and s2_1 as SEN1-2 and SEN12MS are published; or, with --aligned, side by side in one picture.
    """
    set_up_logging(0)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw histograms of the values (.png).")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Also write all that was found as JSON.")
@click.option("--window", type=click.IntRange(1), default=256, show_default=True, help="Side that a chip must have.")
@click.option(
    "--band", "bands", multiple=True, help="Polarisation, index from 1 or both (2=VH), of chips that are no bytes."
)
@click.option(
    "--units", type=click.Choice(["auto", *UNITS]), default="auto", show_default=True, help="Of the SAR chips."
)
@optical_options
@aligned_option
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there.")
@reports_errors
def check(
    folder: Path, plot: Path | None, record: Path | None, overwrite: bool, aligned: bool, **choices: Any
) -> None:
    """Look at every chip of DIR. Exit 1 where anything is wrong.

    Found are chips without a partner, damaged, empty, white, of differing or small size, and duplicates; and 16-bit
    optical chips that --optical-max does not fit.
    """
    from sar2optical._utils.files import refuse_existing, write_output
    from sar2optical.data import check as checking

    for out in (plot, record):
        if out:
            refuse_existing(out, overwrite=overwrite)
    with _bar("looking at") as progress:
        how = _reading(aligned=aligned, **choices)
        report = checking.check(folder, how, aligned=aligned, progress=progress)
    click.echo(_overview(report))
    if record:
        write_output(record, report.to_json().encode())
    if plot:
        checking.plot(report, plot)
    if report.problems:
        counts = Counter(problem.kind for problem in report.problems)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        scale = next((problem.detail for problem in report.problems if problem.kind == "wrong scale"), None)
        remedy = "" if scale and len(report.problems) == 1 else ": mend or remove those chips"
        raise DataError(f"{folder}: {listed}{remedy}" + (f"; {scale}" if scale else ""))


def _reading(window: int, bands: tuple[str, ...], aligned: bool, **choices: Any) -> Reading:
    from sar2optical.data.sar_bands import parse_band, polarisation_of
    from sar2optical.signature import Bound, ModelSignature, Stretch

    # Percentiles in dB: every unit but bytes can be brought to it, calibrated or not.
    stretch = (Stretch(Bound(1, True), Bound(99, True)),) * len(bands)
    names = tuple(map(polarisation_of, bands))
    signature = ModelSignature(name="check", bands=names, stretch=stretch, channels=len(bands)) if bands else None
    # By name, a lone band that has none of its own passes; by index, any band does.
    asked = bands if any(parse_band(band)[0].isdecimal() for band in bands) else ()
    refuse_bands_of_pictures(asked, aligned=aligned)
    return reading(signature, window, bands=asked, **choices)


def _overview(report: Report) -> str:
    rows = [("class", "pairs"), *((name or "-", str(count)) for name, count in report.classes.items())]
    lines = [_table([*rows, ("all", str(report.pairs))])]
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        some = [problem for problem in report.problems if problem.kind == kind]
        lines.append(f"\n{kind}: {len(some)}")
        lines += [f"  {_shown(problem.chip, report.root)}: {problem.detail}" for problem in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"  and {len(some) - _SHOWN} more (--json lists all)")
    return "\n".join(lines)


def _shown(chip: Path, root: Path) -> str:
    return "all chips" if chip == root else str(chip.relative_to(root))


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.json", type=click.Path(path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["scene", "random"]),
    default="scene",
    show_default=True,
    help="Whole scenes, told by SEN1-2 names; or chip by chip, so that neighbours of test chips are in training.",
)
@click.option(
    "--ratio", nargs=3, type=float, default=(0.7, 0.15, 0.15), show_default=True, help="Of train, val and test."
)
@click.option("--seed", type=int, default=42, show_default=True)
@aligned_option
@click.option("--overwrite", is_flag=True, help="Replace OUT.json where it is there.")
@reports_errors
def split(
    folder: Path,
    out: Path,
    by: str,
    ratio: tuple[float, float, float],
    seed: int,
    aligned: bool,
    overwrite: bool,
) -> None:
    """Say which pairs of DIR train, validate and test, in OUT.json."""
    from sar2optical._utils.files import refuse_existing
    from sar2optical.data.pairs import find_pairs
    from sar2optical.data.splits import random_split, scene_split, write_split

    refuse_existing(out, overwrite=overwrite)
    pairs = find_pairs(folder, aligned=aligned)
    splits = (scene_split if by == "scene" else random_split)(pairs, folder, ratio, seed)
    write_split(out, splits, overwrite=overwrite)
    click.echo(_shares(splits, pairs, folder))
    for text in _doubts(splits, by):
        click.echo(f"warning: {text}", err=True)


def _shares(splits: Splits, pairs: Sequence[Pair], folder: Path) -> str:
    """Tabulate pairs per split and class, and scenes."""
    from sar2optical.data.splits import SPLITS, scene_key

    terrain = {pair.sar.relative_to(folder).as_posix(): pair.terrain for pair in pairs}
    classes = sorted(set(terrain.values()))
    rows = [("split", *(name or "-" for name in classes), "all", "scenes")]
    for name in SPLITS:
        counts = Counter(terrain[chip] for chip in splits[name])
        numbers = (*(counts[c] for c in classes), len(splits[name]), len({scene_key(c) for c in splits[name]}))
        rows.append((name, *map(str, numbers)))
    return _table(rows)


def _doubts(splits: Splits, by: str) -> Iterator[str]:
    from sar2optical.data.splits import SPLITS, scene_key, scenes_shared

    shared = scenes_shared(splits)
    if shared:
        yield (
            f"scenes in more than one split: {len(shared)}; neighbours of a test chip are in training, and figures "
            "flatter: --by scene keeps them apart"
        )
    empty = [name for name in SPLITS if not splits[name]]
    if empty:
        yield f"nothing is left for {' and '.join(empty)}: give more scenes, or another ratio"
    if by == "scene" and all(scene_key(chip) == chip for name in SPLITS for chip in splits[name]):
        yield "no name tells its scene (ROIs1970_fall_s1_13_p265), so each chip counts as one: a split at random"


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--units",
    type=click.Choice(["auto", *UNITS]),
    default="auto",
    show_default=True,
    help="Of the SAR chips; of 8-bit chips: what they were stretched from (db, amplitude).",
)
@click.option(
    "--band",
    default="VV",
    show_default=True,
    help="Polarisation or index from 1, where SAR chips have several bands.",
)
@optical_options
@aligned_option
@click.option("--only", default="*", show_default=True, metavar="PATTERN", help="SAR chips with such names.")
@reports_errors
def harmonise(
    folder: Path,
    out: Path,
    units: str,
    band: str,
    optical_max: float | None,
    rgb: tuple[int, int, int] | None,
    aligned: bool,
    only: str,
) -> None:
    """Write the pairs of DIR to the new folder OUT, as 8-bit PNG files of one radiometry.

    SAR becomes dB between its 1st and 99th percentile, chip by chip. Give each region a folder of its own, side by
    side: they are then terrain classes of one data set.
    """
    from sar2optical.data.harmonise import harmonise as write
    from sar2optical.data.pairs import find_pairs
    from sar2optical.errors import OutputExists

    if out.exists():
        raise OutputExists(f"{out}: exists: give a new folder")
    refuse_bands_of_pictures((band,), aligned=aligned)
    pairs = [pair for pair in find_pairs(folder, aligned=aligned) if pair.sar.match(only)]
    if not pairs:
        raise DataError(f"{folder}: no SAR chip is named {only}: give another pattern")
    names = Counter(pair.sar.stem for pair in pairs)
    if (name := max(names, key=names.__getitem__)) and names[name] > 1:
        raise DataError(f"{folder}: {names[name]} chips are named {name}: give one folder of them at a time")
    chosen: Any = {"unit": None if units == "auto" else units, "rgb": rgb}
    if optical_max is not None:
        chosen["optical_max"] = optical_max
    with _bar("writing") as progress:
        done = iter(range(1, len(pairs) + 1))
        write(pairs, out, band=band, on_pair=lambda: progress(next(done), len(pairs)), **chosen)
    click.echo(f"{out}: {len(pairs)} pairs")


@main.group()
def download() -> None:
    """Fetch training data. Not tried against the real sources: only against servers on one machine."""


@download.command()
@reports_errors
def kaggle() -> None:
    """Fetch 16,000 pairs of SEN1-2 with kagglehub, into its cache; prints the folder.

    The set is requiemonk/sentinel12-image-pairs-segregated-by-terrain. Not tried against the real Kaggle.
    """
    from sar2optical.data.download import fetch_kaggle

    click.echo(fetch_kaggle())


@download.command()
@click.argument("url")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sha256", help="Checksum that the file must have.")
@reports_errors
def tum(url: str, out: Path, sha256: str | None) -> None:
    """Fetch one archive of SEN1-2 from URL into OUT; run again, it goes on where it broke off.

    The page https://mediatum.ub.tum.de/1436631 links to the archives. Not tried against the real server.
    """
    from sar2optical.data.download import fetch

    try:
        with _bar("fetching", unit="B", unit_scale=True) as progress:
            fetch(url, out, sha256=sha256, progress=progress)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {out}.part is kept; run the same command again to go on", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"{out}: {out.stat().st_size} bytes" + (", checksum as given" if sha256 else ""))


@contextmanager
def _bar(action: str, **form: Any) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is, on a terminal."""
    from tqdm import tqdm

    with tqdm(total=0, desc=action, leave=False, disable=None, **{"unit": " pairs", **form}) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield show


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    main()


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--size",
    nargs=2,
    type=click.IntRange(1),
    default=(2000, 2000),
    show_default=True,
    metavar="HEIGHT WIDTH",
    help="Pixels.",
)
@click.option("--seed", type=click.IntRange(0), default=11, show_default=True, help="Of landscape and speckle.")
@click.option("--no-border", is_flag=True, help="Fill the whole raster; by default the swath ends inside it.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@reports_errors
def simulate(out: Path, size: tuple[int, int], seed: int, no_border: bool, overwrite: bool) -> None:
    """Write a simulated Sentinel-1 scene to OUT, a GeoTIFF of VH amplitude DN.

    The same size and seed give the same pixels on every machine. Nothing in it is measured.
    """
    from sar2optical._utils.files import cause, refuse_existing
    from sar2optical.errors import OutputUnwritable
    from sar2optical.testing import SimulatedScene, write_scene

    refuse_existing(out, overwrite=overwrite)
    try:
        write_scene(out, SimulatedScene(height=size[0], width=size[1], seed=seed, border=not no_border))
    except OSError as error:  # rasterio's too
        raise OutputUnwritable(f"cannot write {out}: {cause(error)}; choose a folder that takes the file") from error
    click.echo(f"{out}: {size[0]} x {size[1]} pixels, seed {seed}")
