"""What all engines share: batches beyond memory, numbers that are none, precisions that a file has not."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.base import Engine
from sar2optical.errors import DeviceOutOfMemory, DeviceUnavailable, InferenceFailed, NotFinite
from tests.conftest import signature_of

SAR = np.random.default_rng(0).uniform(-1, 1, (8, 1, 4, 4)).astype(np.float32)


class Small(Engine):
    """Gives its input in three colours, and holds so many windows at once."""

    def __init__(self, holds, *, batch=8, value=1.0):
        signature = signature_of(window=4)
        super().__init__(
            signature=signature, backend="small", device="shelf", precision="fp32", batch=batch, streams=1
        )
        self.holds = holds
        self.value = np.float32(value)
        self.sizes = []

    def _infer(self, sar):
        self.sizes.append(len(sar))
        if len(sar) > self.holds:
            raise DeviceOutOfMemory(f"memory does not hold {len(sar)} windows at once")
        return np.repeat(sar * self.value, 3, axis=1)

    def close(self):
        self.sizes = []


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does(caplog):
    with Small(holds=2) as engine:
        image = engine.run(SAR)
        np.testing.assert_array_equal(image, np.repeat(SAR, 3, axis=1))
        assert engine.sizes == [8, 4, 2, 2, 2, 2]
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert said == [
            "small fp32 on shelf: out of memory with 8 windows at once; continuing with 4",
            "small fp32 on shelf: out of memory with 4 windows at once; continuing with 2",
        ]
        engine.sizes = []
        np.testing.assert_array_equal(engine.run(SAR[:3]), image[:3])  # a short batch is padded to the full one
        assert engine.sizes == [2, 2, 2, 2]  # and is not tried whole again
        assert len(caplog.records) == 2


def test_a_batch_that_fits_is_run_whole(caplog):
    with Small(holds=8) as engine:
        np.testing.assert_array_equal(engine.run(SAR), np.repeat(SAR, 3, axis=1))
        assert engine.sizes == [8]
    assert not caplog.records


def test_an_odd_batch_is_halved_with_a_rest():
    with Small(holds=3, batch=7) as engine:
        np.testing.assert_array_equal(engine.run(SAR[:7]), np.repeat(SAR[:7], 3, axis=1))
        assert engine.sizes == [7, 3, 3, 1]


def test_memory_that_does_not_hold_one_window_is_an_error():
    with Small(holds=0) as engine, pytest.raises(DeviceOutOfMemory, match="hold 1 windows"):
        engine.run(SAR)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_a_number_is_an_error_that_says_what_to_do(value):
    with (
        Small(holds=8, value=float(value)) as engine,
        pytest.raises(NotFinite, match=r"^small fp32 on shelf returned NaN or infinity: give --precision fp32"),
    ):
        engine.run(SAR)


def test_other_failures_are_not_halved():
    class Broken(Small):
        def _infer(self, sar):
            self.sizes.append(len(sar))
            raise InferenceFailed("stopped")

    with Broken(holds=8) as engine:
        with pytest.raises(InferenceFailed, match="stopped"):
            engine.run(SAR)
        assert engine.sizes == [8]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_int8_file_is_int8_and_nothing_else(quantized, backend):
    for asked in ("auto", "int8"):
        options = EngineOptions(device="cpu", precision=asked)
        with open_engine(quantized, backend=backend, options=options) as engine:
            assert engine.precision == "int8"
            assert f"{backend} int8 on cpu" in str(engine)
    for asked in ("fp32", "bf16", "fp16", "fp8"):
        with pytest.raises(DeviceUnavailable, match=rf"precision {asked} is not available with {backend}.*give int8"):
            open_engine(quantized, backend=backend, options=EngineOptions(device="cpu", precision=asked))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("asked", ["int8", "fp8", "fp16"])
def test_an_fp32_file_is_not_run_in_fewer_bits_than_it_has(exported, backend, asked):
    with pytest.raises(DeviceUnavailable, match=rf"precision {asked} is not available with {backend}.*: give fp32"):
        open_engine(exported, backend=backend, options=EngineOptions(device="cpu", precision=asked))
