"""`sar2opt-data`: check, split, convert, download and simulate training data."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import (
    CONTEXT,
    INTERRUPTED,
    aligned_option,
    name_variables,
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
"""Number of problems of a kind to print; the JSON file has all of them."""


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="sar2optical")
def main() -> None:
    """Check, split, convert and download pairs of SAR and optical chips.

    Pairs are in folders s1 and s2 with chips of equal names, or in terrain class folders that hold both; in folders
    s1_1 and s2_1, as SEN1-2 and SEN12MS are published; or, with --aligned, side by side in one image.
    """
    set_up_logging(0)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Also draw histograms of the values to this file (.png)."
)
@click.option(
    "--json", "record", type=click.Path(path_type=Path), help="Also write all results to this file (.json)."
)
@click.option(
    "--window", type=click.IntRange(1), default=256, show_default=True, help="Smallest side of a chip in pixels."
)
@click.option(
    "--band",
    "bands",
    multiple=True,
    help="Band of SAR chips that are not 8-bit: polarisation, index from 1, or both (2=VH).",
)
@click.option(
    "--units", type=click.Choice(["auto", *UNITS]), default="auto", show_default=True, help="Unit of the SAR chips."
)
@optical_options
@aligned_option
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@reports_errors
def check(
    folder: Path, plot: Path | None, record: Path | None, overwrite: bool, aligned: bool, **choices: Any
) -> None:
    """Check every chip of DIR. Exit with 1 if there is a problem.

    Reports chips that have no partner, are damaged, empty, white, too small, duplicates, or differ in size from their
    partner, and 16-bit optical chips that do not fit --optical-max.
    """
    from sar2optical._utils.files import refuse_existing, write_output
    from sar2optical.data import check as checking

    for out in (plot, record):
        if out:
            refuse_existing(out, overwrite=overwrite)
    with _bar("checking") as on_progress:
        how = _reading(aligned=aligned, **choices)
        report = checking.check(folder, how, aligned=aligned, on_progress=on_progress)
    click.echo(_overview(report))
    if record:
        write_output(record, report.to_json().encode())
    if plot:
        checking.plot(report, plot)
    if report.problems:
        counts = Counter(problem.kind for problem in report.problems)
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        scale = next((problem.detail for problem in report.problems if problem.kind == "wrong scale"), None)
        remedy = "" if scale and len(report.problems) == 1 else ": repair or remove these chips"
        raise DataError(f"{folder}: {listed}{remedy}" + (f"; {scale}" if scale else ""))


def _reading(window: int, bands: tuple[str, ...], aligned: bool, **choices: Any) -> Reading:
    from sar2optical.data.sar_bands import parse_band, polarisation_of
    from sar2optical.signature import Bound, ModelSignature, Stretch

    # Percentiles in dB fit every unit but bytes, calibrated or not.
    stretch = (Stretch(Bound(1, True), Bound(99, True)),) * len(bands)
    names = tuple(map(polarisation_of, bands))
    signature = ModelSignature(name="check", bands=names, stretch=stretch, channels=len(bands)) if bands else None
    # Selecting by name accepts a single unnamed band; selecting by index accepts any band.
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
    help="Split by whole scenes, from SEN1-2 names; or by chips, which puts neighbours of test chips into training.",
)
@click.option(
    "--ratio",
    nargs=3,
    type=float,
    default=(0.7, 0.15, 0.15),
    show_default=True,
    help="Shares of train, val and test.",
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of the random order.")
@aligned_option
@click.option("--overwrite", is_flag=True, help="Replace OUT.json if it exists.")
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
    """Split the pairs of DIR into train, val and test, and write the split file OUT.json."""
    from sar2optical._utils.files import refuse_existing
    from sar2optical.data.pairs import find_pairs
    from sar2optical.data.splits import random_split, scene_split, write_split

    refuse_existing(out, overwrite=overwrite)
    pairs = find_pairs(folder, aligned=aligned)
    splits = (scene_split if by == "scene" else random_split)(pairs, folder, ratio, seed)
    write_split(out, splits, overwrite=overwrite)
    click.echo(_shares(splits, pairs, folder))
    for text in _warnings(splits, by):
        click.echo(f"warning: {text}", err=True)


def _shares(splits: Splits, pairs: Sequence[Pair], folder: Path) -> str:
    """Table the number of pairs per split and class, and of scenes."""
    from sar2optical.data.splits import SPLITS, scene_key

    terrain = {pair.sar.relative_to(folder).as_posix(): pair.terrain for pair in pairs}
    classes = sorted(set(terrain.values()))
    rows = [("split", *(name or "-" for name in classes), "all", "scenes")]
    for name in SPLITS:
        counts = Counter(terrain[chip] for chip in splits[name])
        numbers = (*(counts[c] for c in classes), len(splits[name]), len({scene_key(c) for c in splits[name]}))
        rows.append((name, *map(str, numbers)))
    return _table(rows)


def _warnings(splits: Splits, by: str) -> Iterator[str]:
    from sar2optical.data.splits import SPLITS, scene_key, scenes_shared

    shared = scenes_shared(splits)
    if shared:
        yield (
            f"{len(shared)} scenes are in more than one split, so neighbours of test chips are in training and "
            "scores are too good: give --by scene"
        )
    empty = [name for name in SPLITS if not splits[name]]
    if empty:
        yield f"no chips are left for {' and '.join(empty)}: give more scenes, or another --ratio"
    if by == "scene" and all(scene_key(chip) == chip for name in SPLITS for chip in splits[name]):
        yield (
            "no chip name contains its scene (as ROIs1970_fall_s1_13_p265 does), so the split is random, chip by chip"
        )


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--units",
    type=click.Choice(["auto", *UNITS]),
    default="auto",
    show_default=True,
    help="Unit of the SAR chips; for 8-bit chips, the unit that they were stretched from (db, amplitude).",
)
@click.option(
    "--band",
    default="VV",
    show_default=True,
    help="Band of SAR chips with several bands: polarisation or index from 1.",
)
@optical_options
@aligned_option
@click.option(
    "--only", default="*", show_default=True, metavar="PATTERN", help="Convert only SAR chips whose names match."
)
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
    """Convert the pairs of DIR to 8-bit PNG files of one radiometry, in the new folder OUT.

    SAR is stretched in dB between its 1st and 99th percentile, chip by chip. Write regions to sibling folders to make
    them terrain classes of one data set.
    """
    from sar2optical.data.harmonise import harmonise as write
    from sar2optical.data.pairs import find_pairs
    from sar2optical.errors import OutputExists

    if out.exists():
        raise OutputExists(f"{out}: already exists: give a new folder")
    refuse_bands_of_pictures((band,), aligned=aligned)
    pairs = [pair for pair in find_pairs(folder, aligned=aligned) if pair.sar.match(only)]
    if not pairs:
        raise DataError(f"{folder}: no SAR chip matches {only}: give --only another pattern")
    names = Counter(pair.sar.stem for pair in pairs)
    if (name := max(names, key=names.__getitem__)) and names[name] > 1:
        raise DataError(f"{folder}: {names[name]} chips are named {name}: convert one folder at a time")
    chosen: Any = {"unit": None if units == "auto" else units, "rgb": rgb}
    if optical_max is not None:
        chosen["optical_max"] = optical_max
    with _bar("writing") as on_progress:
        done = iter(range(1, len(pairs) + 1))
        write(pairs, out, band=band, on_progress=lambda: on_progress(next(done), len(pairs)), **chosen)
    click.echo(f"{out}: {len(pairs)} pairs")


@main.group()
def download() -> None:
    """Download training data. Tested against local servers only, not against the real sources."""


@download.command()
@reports_errors
def kaggle() -> None:
    """Download 16,000 pairs of SEN1-2 with kagglehub into its cache, and print the folder.

    The data set is requiemonk/sentinel12-image-pairs-segregated-by-terrain. Not tested against Kaggle itself.
    """
    from sar2optical.data.download import fetch_kaggle

    click.echo(fetch_kaggle())


@download.command()
@click.argument("url")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sha256", help="Expected checksum of the file.")
@reports_errors
def tum(url: str, out: Path, sha256: str | None) -> None:
    """Download one archive of SEN1-2 from URL to OUT; the same command resumes an interrupted download.

    The page https://mediatum.ub.tum.de/1436631 links to the archives. Not tested against the real server.
    """
    from sar2optical.data.download import fetch

    try:
        with _bar("downloading", unit="B", unit_scale=True) as on_progress:
            fetch(url, out, sha256=sha256, on_progress=on_progress)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {out}.part is kept; run the same command again to resume", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"{out}: {out.stat().st_size} bytes" + (", checksum matches" if sha256 else ""))


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--size",
    nargs=2,
    type=click.IntRange(1),
    default=(2000, 2000),
    show_default=True,
    metavar="HEIGHT WIDTH",
    help="Size in pixels.",
)
@click.option("--seed", type=click.IntRange(0), default=11, show_default=True, help="Seed of landscape and speckle.")
@click.option(
    "--no-border", is_flag=True, help="Fill the whole raster; without this option the swath ends inside it."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@reports_errors
def simulate(out: Path, size: tuple[int, int], seed: int, no_border: bool, overwrite: bool) -> None:
    """Write a simulated Sentinel-1 scene to OUT, a GeoTIFF of VH amplitude DN.

    The same size and seed give the same pixels on every machine. The landscape is invented.
    """
    from sar2optical._utils.files import cause, refuse_existing
    from sar2optical.errors import OutputUnwritable
    from sar2optical.testing import SimulatedScene, write_scene

    refuse_existing(out, overwrite=overwrite)
    try:
        write_scene(out, SimulatedScene(height=size[0], width=size[1], seed=seed, border=not no_border))
    except OSError as error:  # rasterio's too
        raise OutputUnwritable(f"{out}: cannot be written ({cause(error)}): choose another folder") from error
    click.echo(f"{out}: {size[0]} x {size[1]} pixels, seed {seed}")


@contextmanager
def _bar(action: str, **form: Any) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal."""
    from tqdm import tqdm

    with tqdm(total=0, desc=action, leave=False, disable=None, **{"unit": " pairs", **form}) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield show


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Format a table: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


name_variables(main, "SAR2OPT_DATA")


if __name__ == "__main__":
    main()
