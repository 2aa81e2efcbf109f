"""Chip stores: bad files are found at the start, and chips from memory and disk are equal."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sar2optical.data.pairs import Pair, Reading, find_pairs, read_pair
from sar2optical.data.store import ChipStore, available_memory, in_order
from sar2optical.errors import DataError, OptionError
from tests.conftest import speckle

SIDE = 32
READING = Reading(min_side=SIDE)
BYTES = 4 * SIDE * SIDE
"""Decoded size of a pair: a grey band and three colours."""


@pytest.fixture
def pairs(make_raster) -> list[Pair]:
    base = make_raster(speckle((2, 2)), "probe.png").parent / "set"
    for half in ("s1", "s2"):
        (base / half).mkdir(parents=True)
    for k in range(7):
        make_raster(speckle((SIDE, SIDE), seed=k), f"set/s1/{k}.png")
        make_raster(np.stack([speckle((SIDE, SIDE), seed=10 * k + c) for c in range(3)]), f"set/s2/{k}.png")
    return find_pairs(base)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("cache_bytes", [None, 0, 3 * BYTES + 1, 7 * BYTES])
@pytest.mark.parametrize("workers", [1, 4])
def test_chips_do_not_depend_on_the_cache(pairs, cache_bytes, workers):
    store = ChipStore.open(pairs, READING, cache_bytes=cache_bytes, workers=workers)
    assert len(store) == 7
    assert store.pairs == tuple(pairs)
    for k, (pair, chips) in enumerate(zip(pairs, store, strict=True)):
        np.testing.assert_array_equal(chips.sar, read_pair(pair, READING).sar)
        np.testing.assert_array_equal(chips.sar[0], speckle((SIDE, SIDE), seed=k))
        np.testing.assert_array_equal(chips.optical, read_pair(pair, READING).optical)


def test_no_more_is_kept_than_allowed(pairs):
    store = ChipStore.open(pairs, READING, cache_bytes=3 * BYTES + 1)
    same = [store[k] is store[k] for k in range(7)]
    assert same == [True] * 3 + [False] * 4


def test_cached_chips_need_no_file(pairs):
    store = ChipStore.open(pairs, READING, cache_bytes=3 * BYTES)
    for pair in pairs:
        pair.sar.unlink()
    assert store[2].sar.any()
    with pytest.raises(DataError, match=r"3\.png: not readable"):
        store[3]


def test_a_store_is_a_sequence(pairs):
    store = ChipStore.open(pairs, READING)
    np.testing.assert_array_equal(store[-1].sar, store[6].sar)
    assert [c.sar.tobytes() for c in store[1:6:2]] == [store[k].sar.tobytes() for k in (1, 3, 5)]
    with pytest.raises(IndexError, match="pair 7 does not exist"):
        store[7]
    with pytest.raises(IndexError, match="pair -8 does not exist"):
        store[-8]


def test_shapes_are_heights_and_widths(pairs, make_raster):
    make_raster(speckle((40, 50)), "set/s1/0.png")
    make_raster(np.stack([speckle((40, 50))] * 3), "set/s2/0.png")
    store = ChipStore.open(pairs, READING, cache_bytes=0)
    assert store.shapes == [(40, 50), *[(SIDE, SIDE)] * 6]


def test_all_bad_files_are_found_when_the_store_is_opened(pairs):
    tear(pairs[5].sar)
    tear(pairs[2].optical)
    with pytest.raises(
        DataError, match=r"s2/2\.png: not readable .*\(2 of 7 pairs cannot be used; give --skip-unreadable"
    ):
        ChipStore.open(pairs, READING, workers=4)


def test_bad_pairs_are_skipped_with_a_warning_each(pairs, caplog):
    tear(pairs[5].sar)
    tear(pairs[2].optical)
    with caplog.at_level(logging.WARNING, logger="sar2optical"):
        store = ChipStore.open(pairs, READING, skip_unreadable=True)
    assert store.pairs == tuple(pair for k, pair in enumerate(pairs) if k not in (2, 5))
    assert len(store) == len(store.shapes) == 5
    assert [pair for pair, _ in store.skipped] == [pairs[2], pairs[5]]
    assert [record.getMessage() for record in caplog.records] == [f"pair skipped: {why}" for _, why in store.skipped]
    np.testing.assert_array_equal(store[4].sar[0], speckle((SIDE, SIDE), seed=6))


def test_a_data_set_without_good_pairs_is_refused_even_when_skipping(pairs):
    for pair in pairs:
        tear(pair.sar)
    with pytest.raises(DataError, match=r"0\.png.*none of 7 pairs can be used"):
        ChipStore.open(pairs, READING, skip_unreadable=True)
    with pytest.raises(DataError, match="no pairs"):
        ChipStore.open([], READING)


def test_progress_is_reported_for_every_pair(pairs):
    calls: list[tuple[int, int]] = []
    ChipStore.open(pairs, READING, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 7) for k in range(1, 8)]


def test_threads_may_read_at_once(pairs):
    store = ChipStore.open(pairs, READING, cache_bytes=2 * BYTES)
    wanted = np.random.default_rng(0).integers(0, 7, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda k: store[k].sar[0], wanted))
    for k, sar in zip(wanted, given, strict=True):
        np.testing.assert_array_equal(sar, speckle((SIDE, SIDE), seed=k))


def test_results_come_in_order_and_few_at_a_time():
    begun: list[int] = []

    def work(k: int) -> int:
        begun.append(k)
        return k * k

    results = in_order(work, range(1000), 3)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert len(begun) <= 100
    assert list(results) == [(k, k * k) for k in range(3, 1000)]


def test_invalid_limits_are_refused(pairs):
    with pytest.raises(OptionError, match="workers is 0"):
        ChipStore.open(pairs, workers=0)
    with pytest.raises(OptionError, match="--cache is -1 bytes"):
        ChipStore.open(pairs, cache_bytes=-1)


def test_this_machine_has_memory():
    assert 10_000_000 < available_memory() < 10**14
