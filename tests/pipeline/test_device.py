"""The device path makes the pixels of the numpy path, on a CPU here; a GPU differs in rounding only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sar2optical.engines.tensors import TensorEngine
from sar2optical.errors import DeviceOutOfMemory, NotFinite
from sar2optical.pipeline.device.encode import decode as decode_tensor
from sar2optical.pipeline.device.encode import encode
from sar2optical.pipeline.device.fill import mirror_invalid as mirror_tensors
from sar2optical.pipeline.device.stream import DeviceStream
from sar2optical.pipeline.flow import Clock
from sar2optical.pipeline.stream import stream
from sar2optical.scene.decoding import decode
from sar2optical.scene.encoder import AS_IT_IS, Encoding, convert
from sar2optical.tiling.fill import mirror_invalid
from tests.conftest import speckle
from tests.pipeline.test_stream import SHAPE, Rows, Slope, holed, job_of


class TensorSlope(TensorEngine, Slope):
    """`Slope` that also takes tensors; `most` windows fit its memory."""

    tensor_device = torch.device("cpu")
    most = 1000
    wrong_at = None

    def _infer_tensors(self, sar, size):
        if size > self.most:
            raise DeviceOutOfMemory("full")
        made = torch.from_numpy(self._infer(sar.numpy()))
        if self.wrong_at is not None:
            made[0, 0, 0, 0] = self.wrong_at
        return made


def device_job(grey, window=256, overlap=64, *, encodings=None, dtype=np.float32, tall=512, **changes):
    job = job_of(grey, window, overlap)
    job.scene.dtype = np.dtype(dtype)
    job.scene.block, job.scene.readers = (tall, 512), 2
    return replace(job, engine=TensorSlope(window=window, **changes), encodings=encodings or job.encodings)


def on_device(job, **options):
    found, clock = Rows(), Clock()
    given = {"rows": (0, job.grid.shape[0]), "stop": lambda: False, "on_progress": None, **options}
    streamed = DeviceStream(job, found, clock=clock, **given).run()
    return found, streamed, clock


def scattered():
    grey = speckle(SHAPE)
    grey[np.random.default_rng(3).random(SHAPE) < 0.3] = 0
    return grey


def slanted():
    """A swath: each row of windows has other columns with valid pixels, and one of them a gap between two parts."""
    rows, cols = np.indices((1023, 1400))
    grey = speckle((1023, 1400))
    grey[(cols < rows * 0.4) | (cols > rows * 0.5 + 700)] = 0
    grey[400:900, 450:900] = 0
    return grey


SCENES = {
    "slanted borders": slanted,
    "all valid": lambda: speckle(SHAPE),
    "holes, empty windows and empty strips": holed,
    "single pixels missing": scattered,
    "one valid pixel": lambda: np.pad(np.full((1, 1), 77.0), ((300, 722), (100, 229))),
    "nothing valid": lambda: np.zeros(SHAPE),
    "smaller than a window": lambda: speckle((100, 90)),
    "narrower than a window": lambda: speckle((700, 40)),
    "one row": lambda: speckle((1, 900)),
}


@pytest.mark.parametrize("overlap", [0, 64, 200])
@pytest.mark.parametrize("window", [256, 512])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_pixels_are_those_of_the_numpy_path(scene, window, overlap):
    job, expected = device_job(scene(), window, overlap), Rows()
    windows = stream(job, expected).windows_run
    found, streamed, _ = on_device(job)
    assert (streamed.windows_run, streamed.row) == (windows, job.grid.shape[0])
    np.testing.assert_array_equal(found.all[1], expected.all[1])
    off = np.abs(found.all[0].astype(int) - expected.all[0])[:, found.all[1]]
    assert off.max(initial=0) <= 1
    assert np.count_nonzero(off) <= 0.01 * off.size


def test_the_whole_is_the_known_picture():
    """One window: the engine adds -0.3 to 0.3 to the input, and 0.5 is left after rounding."""
    grey = np.full((256, 256), 127.5)
    found, _, _ = on_device(device_job(grey, 256, 64))
    ramp = np.linspace(-0.2, 0.2, 256)
    expected = 127.5 * (1 + ramp * 0.5 + ramp[:, None])
    assert np.abs(found.all[0][0] - expected).max() < 0.51


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("tall", [16, 256, 512])
def test_batches_and_pieces_change_no_pixel(batch, tall):
    one, _, _ = on_device(device_job(holed(), 256, 100))
    other, _, _ = on_device(device_job(holed(), 256, 100, batch=batch, tall=tall))
    np.testing.assert_array_equal(one.all[0], other.all[0])


@pytest.mark.parametrize(("first", "last"), [(0, 1), (255, 256), (300, 801), (512, 1023), (1022, 1023), (5, 5)])
def test_any_rows_are_those_of_the_whole_to_the_bit(first, last):
    job = device_job(holed(), 256, 100)
    whole, _, _ = on_device(job)
    part, streamed, _ = on_device(job, rows=(first, last))
    assert streamed.row == last
    if first == last:
        assert part.parts == []
        return
    for found, expected in zip(part.all, (whole.all[0][:, first:last], whole.all[1][first:last]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_integers_cross_the_bus_as_they_are_stored():
    grey = speckle((2000, 3000)).astype(np.uint16)
    grey[:, :200] = 0
    clock = on_device(device_job(grey, dtype=np.uint16))[2]
    up, down = (moved / grey.size for moved in clock.moved)
    assert 2 <= up <= 2.13  # 2 bytes a pixel, and one bit that says whether it is valid
    assert 3 <= down <= 3.01
    assert on_device(device_job(grey + 1, dtype=np.uint16))[2].moved[0] == 2 * grey.size


def test_a_batch_that_does_not_fit_is_halved(caplog):
    job = device_job(holed(), 256, 100, batch=8)
    job.engine.most = 3
    found, _, _ = on_device(job)
    expected, _, _ = on_device(device_job(holed(), 256, 100))
    np.testing.assert_array_equal(found.all[0], expected.all[0])
    assert "continuing with 2" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_an_error(value):
    job = device_job(speckle(SHAPE))
    job.engine.wrong_at = value
    with pytest.raises(NotFinite, match="--precision"):
        on_device(job)


def test_a_stop_writes_the_rows_that_are_finished():
    asked = iter([False, False, True])
    job = device_job(speckle(SHAPE))
    found, streamed, _ = on_device(job, stop=lambda: next(asked))
    assert streamed.row == len(found.all[1]) == 383


class Broken(Exception):
    pass


@pytest.mark.parametrize("where", ["read", "write", "engine"])
def test_the_first_error_of_any_stage_ends_the_run(where):
    job, written = device_job(speckle(SHAPE)), Rows()

    def fail(*_):
        raise Broken

    target, name = {
        "read": (job.scene, "read_stored"), "write": (written, "write"), "engine": (job.engine, "_infer_tensors"),
    }[where]  # fmt: skip
    setattr(target, name, fail)
    with pytest.raises(Broken):
        DeviceStream(job, written, rows=(0, SHAPE[0]), stop=lambda: False, on_progress=None, clock=Clock()).run()


UNITS = [
    Encoding("dn", "db", 10, 60), Encoding("power", "db", -25, 5), Encoding("db", "power", 0, 1),
    Encoding("db", "amplitude", 0, 1.5), Encoding("power", "amplitude", 0.1, 2), Encoding("amplitude", "power", 0, 9),
    Encoding("dn", "amplitude", 3, 700), AS_IT_IS,
]  # fmt: skip


@pytest.mark.parametrize("encoding", UNITS, ids=str)
def test_every_conversion_of_units_is_that_of_numpy(encoding):
    span = encoding.high - encoding.low
    inside = np.linspace(
        max(encoding.low - span / 9, 0) if encoding.target != "db" else -30, encoding.high + span / 9, 2000
    )
    values = convert(inside.astype(np.float32).reshape(40, 50), encoding.target, encoding.source).copy()
    values[0, :5] = 0, -0.0, 1e18, -1e18, 38.5
    valid = np.ones(values.shape, np.bool_)
    valid[5:9, 7:30] = False
    expected = encoding.encode(values, valid)
    found = encode([encoding], torch.from_numpy(values[None].copy()), torch.from_numpy(valid)).numpy()[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) > 1000


def test_model_output_is_decoded_as_by_numpy():
    image = np.concatenate([np.linspace(-1.2, 1.2, 2001), (np.arange(256) / 127.5 - 1)]).astype(np.float32)
    np.testing.assert_array_equal(decode_tensor(torch.from_numpy(image.copy())).numpy(), decode(image))


@pytest.mark.parametrize("share", [0, 0.001, 0.02, 0.5, 0.98, 0.9999, 1])
def test_many_windows_are_filled_as_one_by_one(share):
    chance = np.random.default_rng(int(share * 1e4))
    windows = chance.random((5, 2, 30, 41), np.float32)
    valid = chance.random((5, 30, 41)) < share
    valid[0, 3:20, 5:] = False
    valid[1, :, :7] = False
    found = mirror_tensors(torch.from_numpy(windows), torch.from_numpy(valid)).numpy()
    for image, holes, expected in zip(windows, valid, found, strict=True):
        np.testing.assert_array_equal(mirror_invalid(image, holes), expected)
