"""The reference architecture, exported: plain ONNX Runtime returns the images of PyTorch and of the reference."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from export.build import ExportOptions, export
from export.to_onnx import to_onnx
from sar2optical.models.fold import fold
from tests.conftest import BYTES, signature_of, write_chips
from tests.models.test_unet import GOLDEN, TOLERANCE, VARIANTS, empty, filled_state, golden_input

TRANSPOSED = None
PARITY = 1e-5


@pytest.fixture(scope="module")
def seed():
    """Make the generator of the golden values."""
    generator = empty(TRANSPOSED)
    generator.load_state_dict(filled_state(VARIANTS[TRANSPOSED][0]), strict=True, assign=True)
    return generator


def run(model, sar):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["optical"], {"sar": sar})[0]


def test_three_different_bands_give_the_reference_image(seed):
    bands = signature_of(bands=("VV", "VH", "HH"), stretch=BYTES.stretch * 3, channels=3)
    sar = golden_input(3)
    image = run(to_onnx(*fold(seed, bands)).SerializeToString(), sar.numpy())[0]
    golden = GOLDEN[VARIANTS[TRANSPOSED][1]]
    for channel, row, column, value in golden["values"]:
        assert image[channel, row, column] == pytest.approx(value, abs=TOLERANCE)
    with torch.inference_mode():
        expected = seed(sar)[0].numpy()
    assert expected.std() > 0.01
    assert np.abs(image - expected).max() < PARITY


def test_the_file_of_a_published_checkpoint_agrees_with_pytorch(seed, tmp_path):
    checkpoint = tmp_path / "pix2pix_gen_1.pth"
    torch.save(seed.state_dict(), checkpoint)
    chips = write_chips(tmp_path / "chips", 1)  # eight of a generator of this width take seconds
    out = export(checkpoint, tmp_path / "model.onnx", ExportOptions(verify_with=chips, windows=())).out
    grey = golden_input(1)
    with torch.inference_mode():
        expected = seed(grey.expand(-1, 3, -1, -1)).numpy()
    assert expected.std() > 0.01
    assert np.abs(run(str(out), grey.numpy()) - expected).max() < PARITY
