"""Split pairs into train, val and test: at random, by scene, or by a split file."""

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

__all__ = [
    "RATIO",
    "SPLITS",
    "Ratio",
    "SplitName",
    "Splits",
    "held_out",
    "load_pairs",
    "pairs_of",
    "random_split",
    "read_split",
    "scene_key",
    "scene_split",
    "scenes_shared",
    "split_record",
    "write_split",
]

SplitName = Literal["train", "val", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Ratio: TypeAlias = tuple[float, float, float]

RATIO: Ratio = (0.7, 0.15, 0.15)
"""Default shares of train, val and test, those of the re-implemented system's configuration."""

_SEN12 = re.compile(r"(?P<roi>ROIs\d+_[a-z]+)_s[12]_(?P<scene>\d+)_p\d+")

_TRIES = 100  # random orders of scenes to try; the one nearest to the ratio is used


@dataclass(frozen=True)
class Splits:
    """SAR chips of each split: paths relative to the data folder, with forward slashes."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __getitem__(self, name: SplitName) -> tuple[str, ...]:
        if name not in SPLITS:
            raise OptionError(f"no split {name!r}: give one of {', '.join(SPLITS)}")
        return tuple(getattr(self, name))


def scene_key(chip: str) -> str:
    """Get the scene that a chip was cut from: region, season and scene number of a SEN1-2 name.

    Parameters
    ----------
    chip
        Relative path, as in `Splits`. Class folders are ignored, because a scene may be in several.

    Returns
    -------
    str
        `ROIs1970_fall_13` for `agri/s1/ROIs1970_fall_s1_13_p265.png`; the path itself for names of another form, so
        that each such chip counts as one scene.
    """
    match = _SEN12.fullmatch(PurePosixPath(chip).stem)
    return f"{match['roi']}_{match['scene']}" if match else chip


def random_split(pairs: Iterable[Pair], root: Path, ratio: Ratio = RATIO, seed: int = 42) -> Splits:
    """Split chip by chip. Neighbours of test chips are then in training, so scores are too good; see `scene_split`.

    Parameters
    ----------
    pairs
        Pairs under `root`.
    root
        Data folder; paths in the split are relative to it.
    ratio
        Shares of train, val and test, of any sum.
    seed
        Seed; the same chips and seed give the same split on every machine.

    Raises
    ------
    OptionError
        If a share is negative, or that of train is 0.
    """
    chips = [_relative(pair, root) for pair in pairs]
    return _partition({chip: [chip] for chip in chips}, ratio, seed)


def scene_split(pairs: Iterable[Pair], root: Path, ratio: Ratio = RATIO, seed: int = 42) -> Splits:
    """Split scene by scene, so that no scene is in two splits.

    The best of several random orders is used, with sizes nearest to the ratio. No split with a share stays empty
    if there are enough scenes. Parameters and errors are those of `random_split`.
    """
    scenes: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        chip = _relative(pair, root)
        scenes[scene_key(chip)].append(chip)
    return _partition(scenes, ratio, seed)


def held_out(pairs: Sequence[Pair], root: Path, share: float, seed: int = 42) -> Splits:
    """Hold out whole scenes for validation, about this share of the chips; val is empty if there is one scene only.

    Parameters
    ----------
    pairs, root, seed
        See `random_split`.
    share
        Share of val, from 0 to 1, exclusive.
    """
    if len({scene_key(_relative(pair, root)) for pair in pairs}) < 2:
        return Splits(tuple(sorted(_relative(pair, root) for pair in pairs)), (), ())
    return scene_split(pairs, root, (1 - share, share, 0), seed)


def split_record(splits: Splits) -> bytes:
    """Return the content of a split file."""
    record = {"data": {field.name: getattr(splits, field.name) for field in fields(splits)}}
    return json.dumps(record, indent=1).encode()


def _partition(groups: dict[str, list[str]], ratio: Ratio, seed: int) -> Splits:
    """Distribute whole groups over the splits; of several random orders, keep the one nearest to the ratio."""
    if len(ratio) != len(SPLITS) or not all(0 <= share < float("inf") for share in ratio) or not ratio[0] > 0:
        shown = " ".join(f"{share:g}" for share in ratio)
        raise OptionError(
            f"--ratio is {shown}: give shares of train, val and test, none negative, such as 0.7 0.15 0.15"
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
    # Sorted by hash, which is the same on every machine and version, unlike shuffles of libraries.
    return sorted(keys, key=lambda key: (blake2b(f"{salt}/{key}".encode(), digest_size=8).digest(), key))


def _deal(order: Sequence[str], groups: dict[str, list[str]], wanted: Sequence[float]) -> list[list[str]]:
    """Assign each group to the split that lacks most; the last groups go to empty splits."""
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
    """Find the scenes that are in more than one split, see `scene_key`."""
    train, val, test = ({scene_key(chip) for chip in splits[name]} for name in SPLITS)
    return (train & val) | (train & test) | (val & test)


def read_split(path: Path) -> Splits:
    """Read a split file: `{"data": {"train": ["agri/s1/..._s1_..._p1.png", ...], "val": ..., "test": ...}}`.

    Raises
    ------
    DataError
        If the file is missing, has another form, or lists a chip twice.
    """
    try:
        record = json.loads(path.read_bytes())
        lists = [record["data"][name] for name in SPLITS]
    except OSError as error:
        raise DataError(
            f"{path}: not readable ({error.strerror}): create a split file with sar2opt-data split"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f'{path}: not a split file: its content must be {{"data": {{"train": [...], "val": ..., "test": ...}}}}'
        ) from error
    seen: dict[str, str] = {}
    for name, chips in zip(SPLITS, lists, strict=True):
        if not isinstance(chips, list) or not all(isinstance(chip, str) for chip in chips):
            raise DataError(
                f"{path}: {name} is not a list of paths: give paths of s1 chips relative to the data folder"
            )
        for chip in chips:
            if chip in seen:
                raise DataError(f"{path}: {chip} is in {seen[chip]} and in {name}: list each chip once, in one split")
            seen[chip] = name
    return Splits(*map(tuple, lists))


def write_split(path: Path, splits: Splits, *, overwrite: bool = False) -> None:
    """Write a split file for `read_split`, atomically.

    Raises
    ------
    OutputExists
        If the file exists and `overwrite` is False.
    OutputUnwritable
        If the folder is missing or not writable.
    """
    refuse_existing(path, overwrite=overwrite)
    write_output(path, split_record(splits))


def pairs_of(splits: Splits, name: SplitName, pairs: Iterable[Pair], root: Path) -> list[Pair]:
    """Select the pairs of one split, in its order.

    Raises
    ------
    DataError
        If the split lists chips that are not among `pairs`, or none at all.
    OptionError
        If there is no split of this name.
    """
    by_path = {_relative(pair, root): pair for pair in pairs}
    chips = splits[name]
    missing = [chip for chip in chips if chip not in by_path]
    if missing:
        more = f"{len(missing)} of {len(chips)} chips of {name} are missing"
        raise DataError(
            f"{root / missing[0]}: listed in the split file, but there is no such pair ({more}): add the chips, or "
            "make a new split file"
        )
    if not chips:
        raise DataError(f"split {name} has no chips: choose another split, or make a new split file")
    return [by_path[chip] for chip in chips]


def load_pairs(
    root: Path,
    split: Path | None = None,
    name: SplitName = "train",
    *,
    aligned: bool = False,
    incomplete: Literal["raise", "skip"] = "raise",
) -> list[Pair]:
    """Find all pairs of a folder, or those of one split.

    Parameters
    ----------
    root
        Data folder, see `find_pairs`.
    split
        Path of the split file; None takes all pairs.
    name
        Name of the split.
    aligned, incomplete
        See `find_pairs`.

    Raises
    ------
    DataError
        See `find_pairs`, `read_split` and `pairs_of`.
    """
    pairs = find_pairs(root, aligned=aligned, incomplete=incomplete)
    return pairs if split is None else pairs_of(read_split(split), name, pairs, root)


def _relative(pair: Pair, root: Path) -> str:
    return pair.sar.relative_to(root).as_posix()
