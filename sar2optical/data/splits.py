"""Which pairs train, validate and test: at random, by scene, or as a file says."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.data.pairs import Pair, find_pairs
from sar2optical.errors import DataError, OptionError

SplitName = Literal["train", "val", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Ratio: TypeAlias = tuple[float, float, float]

RATIO: Ratio = (0.7, 0.15, 0.15)
"""Shares of train, val and test, as the seed's configuration has them."""

_SEN12 = re.compile(r"(?P<roi>ROIs\d+_[a-z]+)_s[12]_(?P<scene>\d+)_p\d+")

_TRIES = 100  # orders of scenes, of which the one that comes nearest to the ratio is taken


@dataclass(frozen=True)
class Splits:
    """Paths of SAR chips, relative to the folder of the data, with forward slashes."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __getitem__(self, name: SplitName) -> tuple[str, ...]:
        if name not in SPLITS:
            raise OptionError(f"no split {name!r}: one of {', '.join(SPLITS)}")
        return tuple(getattr(self, name))


def scene_key(chip: str) -> str:
    """Tell the scene that a chip was cut from: region, season and scene of a SEN1-2 name.

    Parameters
    ----------
    chip
        Relative path, as in `Splits`. Class folders do not matter: one scene lies in several.

    Returns
    -------
    str
        `ROIs1970_fall_13` of `agri/s1/ROIs1970_fall_s1_13_p265.png`; the path itself where the name is of another
        form, so that such a chip is a scene of its own.
    """
    match = _SEN12.fullmatch(PurePosixPath(chip).stem)
    return f"{match['roi']}_{match['scene']}" if match else chip


def random_split(pairs: Iterable[Pair], root: Path, ratio: Ratio = RATIO, seed: int = 42) -> Splits:
    """Split chip by chip. Neighbours of a test chip are then in training: figures flatter; see `scene_split`.

    Parameters
    ----------
    pairs
        Of `root`.
    root
        Folder that paths are relative to.
    ratio
        Shares of train, val and test; any scale.
    seed
        Decides; the same chips and seed give the same split on every machine.

    Raises
    ------
    OptionError
        Where a share is negative, or train has none.
    """
    chips = [_relative(pair, root) for pair in pairs]
    return _partition({chip: [chip] for chip in chips}, ratio, seed)


def scene_split(pairs: Iterable[Pair], root: Path, ratio: Ratio = RATIO, seed: int = 42) -> Splits:
    """Split scene by scene: none is in two splits.

    Sizes are as near the ratio as whole scenes allow, among orders drawn at random; no split with a share stays
    empty while there are scenes for it. Parameters and errors are those of `random_split`.
    """
    scenes: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        chip = _relative(pair, root)
        scenes[scene_key(chip)].append(chip)
    return _partition(scenes, ratio, seed)


def _partition(groups: dict[str, list[str]], ratio: Ratio, seed: int) -> Splits:
    """Deal whole groups to the splits; of several random orders, keep the outcome nearest to the ratio."""
    if len(ratio) != len(SPLITS) or not all(0 <= share < float("inf") for share in ratio) or not ratio[0] > 0:
        shown = " ".join(f"{share:g}" for share in ratio)
        raise OptionError(
            f"ratio is {shown}: give shares of train, val and test, none negative, such as 0.7 0.15 0.15"
        )
    total = sum(map(len, groups.values()))
    wanted = [total * share / sum(ratio) for share in ratio]
    best: tuple[float, list[list[str]]] | None = None
    for attempt in range(_TRIES):
        dealt = _deal(_order(groups, f"{seed}/{attempt}"), groups, wanted)
        off = max(abs(sum(len(groups[key]) for key in keys) - want) for keys, want in zip(dealt, wanted, strict=True))
        if best is None or off < best[0]:
            best = off, dealt
        if off < 1:
            break
    assert best is not None
    return Splits(*(tuple(sorted(chip for key in keys for chip in groups[key])) for keys in best[1]))


def _order(keys: Iterable[str], salt: str) -> list[str]:
    # By hash: the same on every machine and version, which shuffles of libraries do not promise.
    return sorted(keys, key=lambda key: (blake2b(f"{salt}/{key}".encode(), digest_size=8).digest(), key))


def _deal(order: Sequence[str], groups: dict[str, list[str]], wanted: Sequence[float]) -> list[list[str]]:
    """Give each group to the split that lacks most; the last ones to splits that have none."""
    dealt: list[list[str]] = [[] for _ in wanted]
    lacks = list(wanted)
    for k, key in enumerate(order):
        empty = [s for s, want in enumerate(wanted) if want > 0 and not dealt[s]]
        among = empty if len(order) - k <= len(empty) else range(len(wanted))
        chosen = max(among, key=lambda s: lacks[s])
        dealt[chosen].append(key)
        lacks[chosen] -= len(groups[key])
    return dealt


def scenes_shared(splits: Splits) -> set[str]:
    """Give the scenes that are in more than one split, see `scene_key`."""
    train, val, test = ({scene_key(chip) for chip in splits[name]} for name in SPLITS)
    return (train & val) | (train & test) | (val & test)


def read_split(path: Path) -> Splits:
    """Read a split file: `{"data": {"train": ["agri/s1/..._s1_..._p1.png", ...], "val": ..., "test": ...}}`.

    Raises
    ------
    DataError
        Where it is missing, of another form, or has a chip twice.
    """
    try:
        record = json.loads(path.read_bytes())
        lists = [record["data"][name] for name in SPLITS]
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}): make one with sar2opt-data split") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f'{path}: no split file: needs {{"data": {{"train": [...], "val": ..., "test": ...}}}}'
        ) from error
    seen: dict[str, str] = {}
    for name, chips in zip(SPLITS, lists, strict=True):
        if not isinstance(chips, list) or not all(isinstance(chip, str) for chip in chips):
            raise DataError(f"{path}: {name} is no list of paths: give paths of s1 chips relative to the data")
        for chip in chips:
            if chip in seen:
                raise DataError(f"{path}: {chip} is in {seen[chip]} and in {name}: a chip belongs to one split, once")
            seen[chip] = name
    return Splits(*map(tuple, lists))


def write_split(path: Path, splits: Splits, *, overwrite: bool = False) -> None:
    """Write a split file, whole or not at all; `read_split` reads it back to equal splits.

    Raises
    ------
    OutputExists
        Where it is there and `overwrite` is false.
    OutputUnwritable
        Where there is no such folder, or it takes no files.
    """
    refuse_existing(path, overwrite=overwrite)
    record = {"data": {field.name: getattr(splits, field.name) for field in fields(splits)}}
    write_output(path, json.dumps(record, indent=1).encode())


def pairs_of(splits: Splits, name: SplitName, pairs: Iterable[Pair], root: Path) -> list[Pair]:
    """Give the pairs of one split, in its order.

    Raises
    ------
    DataError
        Where the split names chips that are not among `pairs`, or none at all; the first, and how many.
    OptionError
        Where there is no split of that name.
    """
    by_path = {_relative(pair, root): pair for pair in pairs}
    chips = splits[name]
    missing = [chip for chip in chips if chip not in by_path]
    if missing:
        more = f"{len(missing)} of {len(chips)} chips of {name} are not there"
        raise DataError(f"{root / missing[0]}: named in the split, but no pair ({more}): fetch them, or split anew")
    if not chips:
        raise DataError(f"split {name} has no chips: give another split, or split anew")
    return [by_path[chip] for chip in chips]


def load_pairs(
    root: Path,
    split: Path | None = None,
    name: SplitName = "train",
    *,
    aligned: bool = False,
    incomplete: Literal["raise", "skip"] = "raise",
) -> list[Pair]:
    """Find the pairs of a folder: all of them, or those of one split.

    Parameters
    ----------
    root
        As for `find_pairs`.
    split
        A split file; None takes all pairs.
    name
        Which of its splits.
    aligned, incomplete
        As for `find_pairs`.

    Raises
    ------
    DataError
        As `find_pairs`, `read_split` and `pairs_of` do.
    """
    pairs = find_pairs(root, aligned=aligned, incomplete=incomplete)
    return pairs if split is None else pairs_of(read_split(split), name, pairs, root)


def _relative(pair: Pair, root: Path) -> str:
    return pair.sar.relative_to(root).as_posix()
