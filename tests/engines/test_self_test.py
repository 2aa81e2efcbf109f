"""The self-test of a file: an engine that returns another image is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import metadata_of, with_metadata
from sar2optical.engines.self_test import KEY, PARITY_KEY, SelfTest, _uniform, self_test_input
from sar2optical.errors import DeviceUnavailable
from tests.conftest import BYTES, signature_of

IMAGE = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3, 256, 256)).astype(np.float32)


def sha256(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def test_the_input_never_changes():
    """Exported files store the output for it."""
    band, row, col = np.indices((1, 256, 256), dtype=np.uint32)
    assert sha256(_uniform(band, row, col, 1)) == "da3059752be04bc7"
    chip = self_test_input(BYTES)
    assert chip[0, 0, 0, :4].tolist() == pytest.approx([-0.8098286, -0.7416807, -0.8767682, -0.8318660], abs=1e-6)
    # Logarithms of two libraries may differ in the last bit; thousandths do not.
    assert sha256(np.round(chip * 1000).astype(np.int16)) == "819c801c768bee60"


def test_the_input_looks_like_a_chip():
    chip = self_test_input(BYTES)
    assert chip.shape == (1, 1, 256, 256)
    assert chip.dtype == np.float32
    assert -1 <= chip.min() < -0.9
    assert 0.9 < chip.max() <= 1
    cells = chip[0, 0].reshape(8, 32, 8, 32).mean(axis=(1, 3))
    assert cells.std() > 0.2  # patches of land


def test_bands_differ_and_copies_of_one_do_not():
    two = self_test_input(signature_of(bands=("VV", "VH"), stretch=BYTES.stretch * 2, channels=2))
    assert np.abs(two[0, 0] - two[0, 1]).mean() > 0.1
    copies = self_test_input(signature_of(channels=3))
    assert copies.shape == (1, 3, 256, 256)
    np.testing.assert_array_equal(copies[0, 0], copies[0, 2])
    np.testing.assert_array_equal(copies[:, :1], self_test_input(BYTES))


def test_an_output_is_stored_in_bytes_and_read_back():
    self_test = SelfTest.of(IMAGE)
    assert len(self_test.pixels) == 3 * 16 * 16
    assert self_test.pixels[0] == int(np.int8(np.rint(IMAGE[0, 0, 8, 8] * 127))) % 256
    assert SelfTest.read(self_test.write() | {PARITY_KEY: "144.00"}) == self_test
    assert self_test.agreement(IMAGE) > 50
    assert self_test.agreement(IMAGE + np.float32(0.2)) == pytest.approx(20, abs=0.5)
    assert self_test.agreement(np.roll(IMAGE, 1, axis=1)) < 15


@pytest.mark.parametrize(("parity", "floor"), [("144.00", 30), ("41.50", 30), ("35.00", 25), ("22.00", 25)])
def test_the_floor_follows_the_parity_of_the_file(parity, floor):
    assert SelfTest.read(SelfTest.of(IMAGE).write() | {PARITY_KEY: parity}).floor == floor


def test_outputs_with_nan_or_of_another_size_do_not_agree():
    self_test = SelfTest.of(IMAGE)
    spoilt = IMAGE.copy()
    spoilt[0, 0, 3, 3] = np.nan  # between the stored pixels
    assert np.isnan(self_test.agreement(spoilt))
    assert np.isnan(self_test.agreement(IMAGE[..., :128, :128]))


@pytest.mark.parametrize("entries", [{}, {KEY: "AAAA"}, {KEY: "?", PARITY_KEY: "50"}, {KEY: "AAAA", PARITY_KEY: "x"}])
def test_files_without_a_valid_self_test_have_none(entries):
    assert SelfTest.read(entries) is None


def other_weights(path, out):
    """Write the file with the channels of one layer reversed."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[0] >= 8)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["exported", "quantized"])
def test_an_engine_that_returns_another_image_is_refused_when_opened(tmp_path, request, backend, name):
    path = request.getfixturevalue(name)
    options = EngineOptions(device="cpu", batch=2)
    with open_engine(path, backend=backend, options=options) as engine:
        assert engine.self_test is not None
    tampered = other_weights(path, tmp_path / "tampered.onnx")
    with pytest.raises(DeviceUnavailable, match=r"fails the file's self-test \(\d+\.\d dB, at least 30"):
        open_engine(tampered, backend=backend, options=options)
    without = onnx.load(tampered)
    del without.metadata_props[[e.key for e in without.metadata_props].index(KEY)]
    onnx.save(without, tampered)
    open_engine(tampered, backend=backend, options=options).close()  # nothing to compare with: it opens


def test_the_output_in_a_file_is_that_of_its_source(exported, quantized):
    first, second = (metadata_of(onnx.load(path)) for path in (exported, quantized))
    assert first[KEY] == second[KEY]  # of the fp32 source, not of the int8 graph
    with open_engine(exported, backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        assert SelfTest.read(first) == SelfTest.of(engine.run(self_test_input(BYTES)))


def test_a_self_test_of_another_size_is_refused(tmp_path, exported):
    short = {KEY: SelfTest(b"\0" * 12).write()[KEY]}
    path = tmp_path / "short.onnx"
    onnx.save(with_metadata(onnx.load(exported), short), path)
    with pytest.raises(DeviceUnavailable, match="nan dB"):
        open_engine(path, backend="onnxruntime")
