"""Data of `sar2opt-train`: which pairs are trained and evaluated on, and their chips."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sar2optical.cli.common import reading

if TYPE_CHECKING:
    from sar2optical.data.pairs import Pair, Reading
    from sar2optical.signature import ModelSignature
    from sar2optical.training.seed_config import FileSettings

__all__ = ["find_chips", "open_chips"]

_log = logging.getLogger(__name__)


def find_chips(
    data: Path, choices: dict[str, Any], file: FileSettings
) -> tuple[tuple[list[Pair], list[Pair]], dict[str, bytes]]:
    """Find the training and validation pairs; return them, and files for the run folder."""
    from sar2optical.data.pairs import find_pairs
    from sar2optical.data.splits import held_out, load_pairs, pairs_of, random_split, read_split, split_record
    from sar2optical.training.config import SPLIT

    aligned = choices["aligned"]
    split = choices["split"] or (file.split_file if file.split_mode == "split" else None)
    validates = bool(choices["split"]) or file.validate
    val: list[Pair] = []
    records: dict[str, bytes] = {}
    if split:
        train = load_pairs(data, split, "train", aligned=aligned)
        if validates and not choices["val_data"] and read_split(split).val:
            val = load_pairs(data, split, "val", aligned=aligned)
    elif file.split_mode == "random":
        pairs = find_pairs(data, aligned=aligned)
        splits = random_split(pairs, data, file.split_ratio, file.split_seed)
        train, val = (pairs_of(splits, name, pairs, data) for name in ("train", "val"))
        val = val if validates else []
    else:
        train = find_pairs(data, aligned=aligned)
        if choices["val_fraction"] and _validates_by_default(choices, file):
            splits = held_out(train, data, choices["val_fraction"])
            if splits.val:
                records[SPLIT] = split_record(splits)
                train, val = (pairs_of(splits, name, train, data) for name in ("train", "val"))
            _log_held_out(train, val)
    if choices["val_data"]:
        val = find_pairs(choices["val_data"], aligned=aligned)
    return (train, val), records


def _validates_by_default(choices: dict[str, Any], file: FileSettings) -> bool:
    """Return whether pairs are held out although nothing says so: neither a split nor pix2pix's own configuration."""
    return not choices["val_data"] and file.channels is None


def _log_held_out(train: list[Pair], val: list[Pair]) -> None:
    from sar2optical.training.config import SPLIT

    if val:
        _log.info(
            "%d of %d pairs are held out for validation, scene by scene (%s in the run folder): give --split, "
            "--val-data or --val-fraction to choose others", len(val), len(train) + len(val), SPLIT
        )  # fmt: skip
    else:
        _log.warning("all pairs are of one scene: none is held out for validation: give --val-data to evaluate")


def open_chips(
    pairs: tuple[list[Pair], list[Pair]],
    choices: dict[str, Any],
    signature: ModelSignature,
    bands: tuple[str, ...],
    *,
    hidden: bool,
) -> tuple[Any, Any]:
    """Read the training and validation pairs."""
    from sar2optical.data.exposure import refuse_misfit

    given = {name: choices[name] for name in ("units", "optical_max", "rgb")}
    how = reading(signature, signature.window, bands=bands, **given)
    refuse_misfit(pairs[0], how)
    return tuple(_store(some, how, choices, hidden=hidden) if some else () for some in pairs)  # type: ignore[return-value]


def _store(pairs: Any, how: Reading, choices: dict[str, Any], *, hidden: bool) -> Any:
    from tqdm import tqdm

    from sar2optical.data.store import ChipStore

    cache = None if choices["cache"] is None else int(min(choices["cache"], 1e9) * 1e9)
    with tqdm(total=len(pairs), desc="reading", unit="pair", leave=False, disable=hidden or None) as bar:
        return ChipStore.open(
            pairs,
            how,
            cache_bytes=cache,
            skip_unreadable=choices["skip_unreadable"],
            on_progress=lambda done, _: bar.update(done - bar.n),
        )
