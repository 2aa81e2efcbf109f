"""Rows that `stream` makes alone are those of the whole, to the bit; the whole is the blend of its windows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sar2optical.engines.base import Engine
from sar2optical.mosaic.manifest import Manifest
from sar2optical.pipeline.job import Job
from sar2optical.pipeline.stream import stream
from sar2optical.scene.encoder import AS_IT_IS
from sar2optical.tiling.windows import window_grid
from tests.conftest import signature_of, speckle
from tests.tiling.test_blend import slow_blend

SHAPE = (1023, 330)  # without overlap, windows of 256 rows begin at 0, 255, 511 and 767: strides of two lengths


class Slope(Engine):
    """Adds a slope down and across the window, so that neighbours disagree where they overlap."""

    def __init__(self, *, window, batch=1, streams=1):
        signature = signature_of(windows=(512,))
        super().__init__(
            signature=signature, backend="test", device="cpu", precision="fp32", batch=batch, streams=streams
        )
        self.use_window(window)

    def _infer(self, sar):
        ramp = np.linspace(-0.2, 0.2, self.window, dtype=np.float32)
        return np.repeat(sar, 3, axis=1) + ramp * 0.5 + ramp[:, None]

    def close(self):
        pass


class Grey:
    """A scene in memory."""

    dtype = np.dtype(np.float32)
    block, readers = (512, 512), 1

    def __init__(self, grey):
        self.shape = grey.shape
        self._grey = grey

    def read_stored(self, start, stop):
        values = self._grey[None, start:stop].astype(np.float32)
        return values, values[0] > 0


class Rows:
    """Collects what is written."""

    def __init__(self):
        self.parts = []

    def write(self, rgb, valid):
        self.parts.append((rgb.copy(), valid.copy()))

    @property
    def all(self):
        rgb, valid = zip(*self.parts, strict=True)
        return np.concatenate(rgb, axis=1), np.concatenate(valid)


def job_of(grey, window, overlap, **changes):
    return Job(
        scene=Grey(grey), engine=Slope(window=window, **changes), file=Path(), encodings=[AS_IT_IS],
        grid=window_grid(grey.shape, window, overlap), manifest=Manifest({}), tags={}, ahead=2, cache=0,
    )  # fmt: skip


def holed():
    grey = speckle(SHAPE)
    grey[100:140, 30:200] = 0
    grey[520:790] = 0  # windows, and whole strips, without a valid pixel
    grey[:, 310:] = 0
    return grey


@pytest.mark.parametrize("overlap", [0, 64, 200])
@pytest.mark.parametrize("window", [256, 512])
def test_any_rows_are_those_of_the_whole_to_the_bit(window, overlap):
    job, whole = job_of(holed(), window, overlap), Rows()
    stream(job, whole)
    rgb, valid = whole.all
    assert valid.shape == SHAPE
    assert rgb[:, valid].std() > 50
    tops = job.grid.rows[:: max(1, len(job.grid.rows) // 4)]
    edges = {row for top in tops for row in (top, top + 1, top + window - 1, top + window) if row < SHAPE[0]}
    chance = random.Random(window + overlap)
    drawn = [sorted(chance.sample(sorted(edges | {SHAPE[0]}), 2)) for _ in range(4)]
    for first, last in [*drawn, *((top, SHAPE[0]) for top in tops[1:]), (511, 512)]:
        part = Rows()
        assert stream(job, part, rows=(first, last)).row == last
        for found, expected in zip(part.all, (rgb[:, first:last], valid[first:last]), strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=f"rows {first} to {last}")


@pytest.mark.parametrize("overlap", [0, 64, 200])
@pytest.mark.parametrize("window", [256, 512])
def test_the_whole_is_the_blend_of_its_windows(window, overlap):
    grey, found = speckle((SHAPE[0], 530), high=200), Rows()  # as wide as both windows
    job = job_of(grey, window, overlap)
    assert stream(job, found).windows_run == len(job.grid)
    sar = grey.astype(np.float32)[None] / 127.5 - 1
    images = [
        [job.engine.run(sar[None, :, top : top + window, left : left + window])[0] for left in job.grid.cols]
        for top in job.grid.rows
    ]
    expected = np.clip((slow_blend(job.grid, np.array(images)) + 1) * 127.5, 0, 255)
    assert np.abs(found.all[0] - expected).max() < 0.51  # half a level is rounding


@pytest.mark.parametrize(("batch", "streams"), [(3, 1), (1, 2), (8, 2)])
def test_batches_and_streams_change_no_pixel(batch, streams):
    one, other = Rows(), Rows()
    stream(job_of(holed(), 256, 100), one)
    stream(job_of(holed(), 256, 100, batch=batch, streams=streams), other)
    np.testing.assert_array_equal(one.all[0], other.all[0])


@pytest.mark.parametrize("rows", [(0, 0), (300, 300), (1023, 1023)])
def test_no_rows_write_nothing_and_run_nothing(rows):
    found = Rows()
    streamed = stream(job_of(holed(), 256, 64), found, rows=rows)
    assert (streamed.windows_run, streamed.row, found.parts) == (0, rows[1], [])


def test_a_stop_writes_the_rows_that_are_finished():
    found, asked = Rows(), iter([False, False, True])
    job = job_of(speckle(SHAPE), 256, 64)
    streamed = stream(job, found, stop=lambda: next(asked))
    assert job.grid.rows[:3] == (0, 191, 383)
    assert streamed.row == len(found.all[1]) == 383
