"""Check a folder of pairs for problems, and compute histograms of its values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.files import write_output
from sar2optical.data.exposure import counts_of, misfit, too_white
from sar2optical.data.optical import read_stored, to_bytes
from sar2optical.data.pairs import Pair, Reading, SarArray, look_for_pairs, nothing_found, read_halves, read_sar
from sar2optical.data.store import in_order
from sar2optical.errors import DataError

__all__ = ["KINDS", "Kind", "Problem", "Report", "check", "plot"]

Kind = Literal["no partner", "unreadable", "sizes differ", "small", "wrong scale", "empty", "saturated", "duplicate"]
"""Kinds of problems with a chip; "wrong scale" applies to all 16-bit optical chips together and names the folder.
Training refuses the first five. It accepts the others, but an empty or saturated (white) chip is useless, and a
duplicate may be in both training and test."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds, in the order of a report."""

_LEVELS = 256


@dataclass(frozen=True)
class Problem:
    """A problem with a chip."""

    kind: Kind
    chip: Path
    """Path of the chip."""
    detail: str
    """Explanation of the problem."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of `check`."""

    root: Path
    """Folder that was checked."""
    classes: dict[str, int]
    """Number of pairs per terrain class, usable or not; the key is empty without class folders."""
    problems: tuple[Problem, ...]
    """Problems, sorted by kind and then by chip."""
    sar: NDArray[np.int64] = field(compare=False)
    """Histogram of all readable SAR chips, (256,); encoded values count for the grey level that shows them."""
    optical: NDArray[np.int64] = field(compare=False)
    """Histograms of red, green and blue, (3, 256)."""

    @property
    def pairs(self) -> int:
        """Number of pairs, usable or not."""
        return sum(self.classes.values())

    def count(self, kind: Kind) -> int:
        """Count the problems of a kind."""
        return sum(problem.kind == kind for problem in self.problems)

    def to_json(self) -> str:
        """Format as JSON: paths relative to the folder, histograms as lists."""
        record = {
            "root": str(self.root),
            "classes": self.classes,
            "problems": [
                {"kind": p.kind, "chip": p.chip.relative_to(self.root).as_posix(), "detail": p.detail}
                for p in self.problems
            ],
            "histograms": {"sar": self.sar.tolist(), "optical": self.optical.tolist()},
        }
        return json.dumps(record, indent=1)


@dataclass(frozen=True)
class _Seen:
    """Findings of one pair, without its pixels."""

    problems: tuple[Problem, ...]
    digest: bytes = b""
    sar: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LEVELS, np.int64))
    optical: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, _LEVELS), np.int64))
    stored: NDArray[np.int64] | None = None
    """Counts of the stored optical values, see `counts_of`; None for bytes."""


def check(
    root: Path,
    reading: Reading | None = None,
    *,
    aligned: bool = False,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every chip of a folder.

    Parameters
    ----------
    root
        Folder of pairs, see `sar2optical.data.pairs.find_pairs`.
    reading
        How to read the chips; `min_side` is the window that they must hold.
    aligned
        Whether pairs are side by side in one image, see `find_pairs`.
    workers
        Number of reading threads.
    on_progress
        Called after each pair with the number of pairs done and the total.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        If the folder is missing, holds no chips, or two chips have the same name.
    """
    reading = reading or Reading()
    found = look_for_pairs(root, aligned=aligned)
    if not found.pairs and not found.lonely:
        raise nothing_found(root)
    problems = [Problem("no partner", chip, f"its partner {partner} is missing") for chip, partner in found.lonely]
    sar, optical = np.zeros(_LEVELS, np.int64), np.zeros((3, _LEVELS), np.int64)
    stored: NDArray[np.int64] | None = None
    first: dict[bytes, Path] = {}
    for done, (pair, seen) in enumerate(in_order(lambda p: _check_pair(p, reading), found.pairs, workers), 1):
        problems += seen.problems
        sar += seen.sar
        optical += seen.optical
        if seen.stored is not None:
            stored = seen.stored + (0 if stored is None else stored)
        if seen.digest:
            original = first.setdefault(seen.digest, pair.sar)
            if original is not pair.sar:
                problems.append(Problem("duplicate", pair.sar, f"same values as {original}"))
        if on_progress:
            on_progress(done, len(found.pairs))
    if stored is not None and (misfits := misfit(stored, reading.optical_max)):
        problems = [problem for problem in problems if problem.kind != "saturated"]  # the wrong scale explains them
        problems.append(Problem("wrong scale", root, misfits))
    problems.sort(key=lambda problem: KINDS.index(problem.kind))
    classes = dict(sorted(Counter(pair.terrain for pair in found.pairs).items()))
    return Report(root=root, classes=classes, problems=tuple(problems), sar=sar, optical=optical)


def _check_pair(pair: Pair, reading: Reading) -> _Seen:
    images, stored, problems = _read(pair, reading)
    if problems:
        return _Seen(tuple(problems))
    sar, optical = images
    (height, width), other = sar.shape[1:], optical.shape[1:]
    if (height, width) != other:
        problems.append(Problem("sizes differ", pair.sar, f"{width} x {height}, its partner {other[1]} x {other[0]}"))
    if min(height, width) < reading.min_side:
        problems.append(
            Problem("small", pair.sar, f"{width} x {height}, smaller than the window of {reading.min_side}")
        )
    flat = [path for path, image in ((pair.sar, sar), (pair.optical, optical)) if _is_flat(image)]
    problems += [Problem("empty", path, "one value everywhere, or no valid pixel") for path in flat]
    # Empty chips are equal to each other, and reported as empty already.
    digest = b"" if pair.sar in flat else blake2b(sar.tobytes(), digest_size=16).digest() + repr(sar.shape).encode()
    colours = np.stack([_histogram(band) for band in optical])
    if stored is not None:
        white = too_white(stored, reading.optical_max)
        problems += [Problem("saturated", pair.optical, white)] if white else []
    return _Seen(tuple(problems), digest, _histogram(sar), colours, stored)


def _read(pair: Pair, reading: Reading) -> tuple[list[NDArray[Any]], NDArray[np.int64] | None, list[Problem]]:
    """Read both halves, count the stored values of 16-bit optical chips, and report unreadable chips."""
    if pair.sar_side:
        try:
            return list(read_halves(pair, reading)), None, []
        except DataError as error:
            return [], None, [_unreadable(pair.sar, error)]
    problems: list[Problem] = []
    images: list[NDArray[Any]] = []
    counts: NDArray[np.int64] | None = None
    try:
        images.append(read_sar(pair.sar, reading))
    except DataError as error:
        problems.append(_unreadable(pair.sar, error))
    try:
        stored = read_stored(pair.optical, reading.rgb)
        counts = None if stored.dtype == np.uint8 else counts_of(stored)
        images.append(to_bytes(stored, reading.optical_max))
    except DataError as error:
        problems.append(_unreadable(pair.optical, error))
    return images, counts, problems


def _unreadable(path: Path, error: DataError) -> Problem:
    return Problem("unreadable", path, str(error).removeprefix(f"{path}: "))


def _is_flat(image: NDArray[Any]) -> bool:
    return bool((image == image[:, :1, :1]).all())


def _histogram(image: SarArray) -> NDArray[np.int64]:
    levels = image if image.dtype == np.uint8 else (image * np.float32(127.5) + np.float32(128)).astype(np.uint8)
    return np.bincount(levels.ravel(), minlength=_LEVELS)


def plot(report: Report, out: Path) -> None:
    """Draw the histograms of SAR and of red, green and blue.

    Parameters
    ----------
    report
        Result of `check`.
    out
        Path of the PNG file; replaced if it exists.

    Raises
    ------
    DataError
        If matplotlib is not installed, or no pair could be read.
    OutputUnwritable
        If the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DataError("--plot needs matplotlib: pip install 'sar2optical[train]'") from error
    if not report.sar.any():
        raise DataError(f"{report.root}: no readable pair to plot: correct the chips, or remove --plot")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw(left, f"SAR, {report.pairs} pairs", [("grey", report.sar)])
    _draw(right, "optical", zip(("red", "green", "blue"), report.optical, strict=True))
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_output(out, picture.getvalue())


def _draw(axes: Any, title: str, histograms: Iterable[tuple[str, NDArray[np.int64]]]) -> None:
    for colour, counts in histograms:
        axes.step(np.arange(_LEVELS), counts / counts.sum(), where="mid", color=colour)
    axes.set(title=title, xlabel="grey level", ylabel="share of pixels", xlim=(0, _LEVELS - 1))
    axes.set_ylim(bottom=0)
