"""The window that `--window auto` takes: stored by an export, and kept by the exports of its file."""

from __future__ import annotations

import onnx
import pytest

from export.build import ExportOptions, export
from export.rewindow import described_by
from sar2optical.engines.onnx_graph import metadata_of
from sar2optical.errors import DeviceUnavailable, OptionError
from sar2optical.models.checkpoint import load_generator, save_generator
from sar2optical.signature import METADATA_KEY, ModelSignature
from tests.graphs import SMALL, save_small_net


def signature_in(path):
    return ModelSignature.from_json(metadata_of(onnx.load(path))[METADATA_KEY])


@pytest.fixture
def chosen(tmp_path):
    """A small file for windows of 64, 128 and 192, whose exporter chose 128."""
    source = save_small_net(tmp_path / "small.onnx")
    return export(source, tmp_path / "chosen.onnx", ExportOptions(windows=(128, 192), auto_window=128)).out


def test_a_checkpoint_is_exported_with_it_and_keeps_its_own(tmp_path, checkpoint):
    options = ExportOptions(windows=(512,), auto_window=512)
    assert signature_in(export(checkpoint, tmp_path / "given.onnx", options).out).auto_window == 512
    generator, signature = load_generator(checkpoint)
    source = tmp_path / "generator.pth"
    wide = ModelSignature(**{**vars(signature), "windows": (512,), "auto_window": 512})
    save_generator(source, generator, wide)
    assert signature_in(export(source, tmp_path / "kept.onnx").out) == wide
    assert load_generator(source)[1] == wide


@pytest.mark.parametrize("precision", [None, "fp16", "int8"])
def test_another_precision_keeps_it(tmp_path, chosen, calibration, precision):
    options = ExportOptions(
        precision=precision, calibration=calibration if precision == "int8" else None, min_psnr=20
    )
    made = export(chosen, tmp_path / "out.onnx", options)
    assert signature_in(made.out) == made.signature == signature_in(chosen)


@pytest.mark.parametrize(
    ("options", "sides", "auto"),
    [
        ({"auto_window": 192}, (64, 128, 192), 192),
        ({"auto_window": 64}, (64, 128, 192), None),
        ({"windows": (128,)}, (64, 128), 128),
        ({"windows": (192,)}, (64, 192), None),
        ({"windows": ()}, (64,), None),
        ({"windows": (256,), "auto_window": 256}, (64, 256), 256),
    ],
)
def test_it_is_changed_alone_and_goes_with_its_window(tmp_path, chosen, options, sides, auto):
    made = export(chosen, tmp_path / "out.onnx", ExportOptions(**options))
    found = signature_in(made.out)
    assert (found.sides, found.auto_window) == (sides, auto)
    assert found == made.signature


def test_a_new_auto_window_changes_nothing_else_of_a_file(tmp_path, chosen):
    source = export(chosen, tmp_path / "half.onnx", ExportOptions(precision="fp16")).out
    made = export(source, tmp_path / "out.onnx", ExportOptions(auto_window=192))
    before, after = onnx.load(source), onnx.load(made.out)
    assert before.graph == after.graph
    differing = {key for key, value in metadata_of(before).items() if metadata_of(after)[key] != value}
    assert differing == {METADATA_KEY}
    assert list(made.wide_psnr) == [128, 192]
    assert made.parity == described_by(before, source).parity
    assert made.parity.psnr > 50


def test_a_new_auto_window_with_chips_is_verified_on_them(tmp_path, chosen, calibration):
    made = export(chosen, tmp_path / "out.onnx", ExportOptions(auto_window=192, verify_with=calibration))
    assert made.signature.auto_window == 192
    assert (made.parity.source, made.parity.max_error) == (calibration.name, 0)


@pytest.mark.parametrize("windows", [None, (), (128, 192)])
def test_a_window_that_the_file_does_not_take_is_refused(tmp_path, chosen, windows):
    takes = "64" if windows == () else "64, 128, 192"
    with pytest.raises(OptionError, match=f"auto window 256 is not a window of the file, which takes {takes}: give"):
        export(chosen, tmp_path / "out.onnx", ExportOptions(windows=windows, auto_window=256))
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_that_fails_its_self_test_gets_no_auto_window(tmp_path, chosen):
    model = onnx.load(chosen)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weights.raw_data = b"\0" * len(weights.raw_data)
    broken = tmp_path / "broken.onnx"
    onnx.save(model, broken)
    with pytest.raises(DeviceUnavailable, match=r"broken\.onnx.*self-test"):
        export(broken, tmp_path / "out.onnx", ExportOptions(auto_window=192))
    assert not (tmp_path / "out.onnx").exists()


def test_files_without_it_are_read_and_written_as_before(tmp_path):
    made = export(save_small_net(tmp_path / "small.onnx"), tmp_path / "out.onnx", ExportOptions(windows=(128,)))
    assert "auto_window" not in metadata_of(onnx.load(made.out))[METADATA_KEY]
    assert made.signature.default_window == SMALL.window == 64
