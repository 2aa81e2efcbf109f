"""Windows of exported files: verified at each size, the own window unchanged, graphs of a fixed size refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.build import ExportOptions, export
from export.subpixel import subpixel
from export.verify import as_written, simulated_chips
from export.verify_wide import compare_wide, expect_wide, wide_chip
from export.windows import with_windows
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import Graph, metadata_of
from sar2optical.engines.registry import bundled, variants
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import ExportUnsupported, OptionError, OutputExists, ParityFailed
from sar2optical.evaluation.metrics import psnr
from sar2optical.models.checkpoint import load_generator, save_generator
from sar2optical.models.generator import build_generator
from sar2optical.models.unet import GeneratorArguments
from sar2optical.models.wide import zero_unused_taps
from tests.conftest import BYTES, save_onnx
from tests.graphs import SMALL, initializers, kinds, save_small_net

CPU = EngineOptions(device="cpu", precision="fp32", threads=1)
INNER = np.zeros((4, 4), bool)
INNER[1:3, 1:3] = True


def noise(side, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (1, 1, side, side)).astype(np.float32)


def sides_of(path):
    """Height and width that a file declares for its input and its output."""
    graph = onnx.load(path).graph
    shapes = [value.type.tensor_type.shape.dim for value in (graph.input[0], graph.output[0])]
    return [[dim.dim_param or dim.dim_value for dim in dims] for dims in shapes]


def taps_of(model, kind):
    """Which taps of the last or first convolution of pix2pix's bottleneck are anything but zero."""
    node = [node for node in model.graph.node if node.op_type == kind][7 if kind == "Conv" else 0]
    name = node.input[1]
    for other in model.graph.node:
        if name in other.output:  # DequantizeLinear or Cast
            name = other.input[0]
    return (numpy_helper.to_array(initializers(model)[name]) != 0).any(axis=(0, 1))


def images(path, *sides, backend="onnxruntime", options=CPU):
    found = []
    with open_engine(path, backend=backend, options=options) as engine:
        for side in sides:
            engine.use_window(side)
            found.append(engine.run(noise(side)))
    return found


# From a checkpoint


@pytest.mark.parametrize("architecture", ["pix2pix", "detail"])
def test_a_checkpoint_is_exported_for_windows_up_to_2048(tmp_path, architecture):
    torch.manual_seed(1)
    generator = build_generator(GeneratorArguments(in_channels=1, base_channels=1, architecture=architecture)).eval()
    source = tmp_path / "generator.pth"
    save_generator(source, generator, BYTES)
    made = export(source, tmp_path / "out.onnx")
    assert made.signature.sides == (256, 512, 1024, 2048)
    assert list(made.wide_psnr) == [512, 1024, 2048]
    assert min(made.wide_psnr.values()) > 100
    assert sides_of(made.out) == [["N", 1, "H", "W"], ["N", 3, "H", "W"]]
    zero_unused_taps(generator, 256)
    for side, image in zip((256, 512), images(made.out, 256, 512), strict=True):
        with torch.inference_mode():
            expected = generator(torch.from_numpy(noise(side))).numpy()
        assert np.abs(image - expected).max() < 1e-4
        assert expected.std() > 0.001


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_larger_windows_change_no_bit_of_the_own_one(exported, wide, backend):
    before, after = images(exported, 256, backend=backend), images(wide, 256, 512, backend=backend)
    assert before[0].tobytes() == after[0].tobytes()
    assert before[0].std() > 0.01
    assert after[1].shape == (1, 3, 512, 512)
    assert kinds(onnx.load(exported)) == kinds(onnx.load(wide))


def test_a_file_for_larger_windows_has_no_taps_that_training_never_reached(exported, wide):
    for kind in ("Conv", "ConvTranspose"):
        assert taps_of(onnx.load(exported), kind).all()
        assert (taps_of(onnx.load(wide), kind) == INNER).all()


def test_the_metadata_have_the_parity_of_each_window(wide):
    sizes = metadata_of(onnx.load(wide))["sar2optical.parity_windows"].split(", ")
    assert [entry.split()[0] for entry in sizes] == ["512"]
    assert all(float(entry.split()[1]) > 100 for entry in sizes)


def test_own_gives_a_graph_of_one_size(exported):
    assert sides_of(exported) == [["N", 1, 256, 256], ["N", 3, 256, 256]]
    assert "sar2optical.parity_windows" not in metadata_of(onnx.load(exported))


def test_windows_are_multiples_of_the_own_in_any_order(tmp_path, checkpoint, exported):
    for source in (checkpoint, exported):
        with pytest.raises(
            OptionError, match=r"window 300 is not a multiple of 256, .*give --windows 256,512,1024, or"
        ):
            export(source, tmp_path / "out.onnx", ExportOptions(windows=(256, 300)))
    with pytest.raises(OptionError, match="window 128"):
        export(checkpoint, tmp_path / "out.onnx", ExportOptions(windows=(128,)))
    assert list(tmp_path.iterdir()) == []
    assert export(checkpoint, tmp_path / "out.onnx", ExportOptions(windows=(768, 512, 768))).signature.windows == (
        512,
        768,
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_lower_precisions_are_verified_in_each_window(tmp_path, wide, calibration, precision):
    options = ExportOptions(precision=precision, calibration=calibration, method="minmax", min_psnr=20)
    made = export(wide, tmp_path / "low.onnx", options)  # from an ONNX file with its windows
    assert made.signature.windows == (512,)
    assert made.wide_psnr[512] > 20
    assert sides_of(made.out)[0] == ["N", 1, "H", "W"]
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    own, larger = images(made.out, 256, 512, backend=backend, options=EngineOptions(device="cpu"))
    reference = images(wide, 256, 512)
    assert np.abs(own - reference[0]).mean() < 0.05
    assert np.abs(larger - reference[1]).mean() < 0.05


def test_a_rewrite_that_is_wrong_in_one_window_only_is_not_written(tmp_path, wide, monkeypatch):
    """Darken the image where the window is larger than 256: its own window agrees."""
    from export import rewrite

    def spoilt(model):
        graph = Graph(model)
        graph.nodes[-1].output[0] = "bright"
        for name, value in (("limit", np.array([256])), ("one", np.float32(1)), ("half", np.float32(0.5))):
            graph.add_constant(name, value)
        graph.nodes += [
            helper.make_node("Shape", ["bright"], ["height"], "height", start=2, end=3),
            helper.make_node("Greater", ["height", "limit"], ["larger"], "larger"),
            helper.make_node("Where", ["larger", "half", "one"], ["gain"], "gain"),
            helper.make_node("Mul", ["bright", "gain"], ["optical"], "darken"),
        ]
        return graph.model()

    monkeypatch.setattr(rewrite, "store_halved", spoilt)
    with pytest.raises(ParityFailed, match=r"window 512: parity is .*at least 50 dB.*leave 512 out of --windows"):
        export(wide, tmp_path / "out.onnx", ExportOptions(storage="fp16"))
    assert list(tmp_path.iterdir()) == []
    assert export(wide, tmp_path / "out.onnx", ExportOptions(storage="fp16", windows=())).parity.psnr > 50


def test_plans_take_no_windows(tmp_path, wide):
    with pytest.raises(
        OptionError, match=r"--windows applies only to .onnx outputs and --runtime rtx, not to out.plan"
    ):
        export(wide, tmp_path / "out.plan", ExportOptions(windows=(256, 512)))


# From an ONNX file


def test_an_exported_file_gets_other_windows_and_keeps_the_rest(tmp_path, exported, wide):
    made = export(exported, tmp_path / "wide.onnx", ExportOptions(windows=(256, 512)))
    assert (made.parity.max_error, made.wide_psnr) == (0, {512: float("inf")})
    before, after, direct = (onnx.load(path) for path in (exported, made.out, wide))
    assert kinds(before) == kinds(after)
    for name, tensor in initializers(before).items():
        values, kept = numpy_helper.to_array(tensor), numpy_helper.to_array(initializers(after)[name])
        changed = values != kept
        assert (kept[changed] == 0).all()
        assert changed.any() == (values.ndim == 4 and values.shape[2:] == (4, 4) and not kept[..., ~INNER].any())
    assert taps_of(after, "Conv").sum() == taps_of(after, "ConvTranspose").sum() == 4
    kept, given = metadata_of(after), metadata_of(before)
    assert kept["sar2optical.parity_psnr_db"] == given["sar2optical.parity_psnr_db"]
    for side, found, expected in zip((256, 512), images(made.out, 256, 512), images(wide, 256, 512), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(side))
    assert initializers(direct).keys() == initializers(after).keys()
    back = export(made.out, tmp_path / "own.onnx", ExportOptions(windows=()))
    assert sides_of(back.out)[0] == ["N", 1, 256, 256]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("form", ["on", "off"])
def test_a_file_of_lower_precision_gets_other_windows(tmp_path, exported, calibration, precision, form):
    options = ExportOptions(precision=precision, calibration=calibration, method="minmax", min_psnr=20, subpixel=form)
    low = export(exported, tmp_path / "low.onnx", options).out
    made = export(low, tmp_path / "wide.onnx", ExportOptions(windows=(512,)))
    assert (made.precision, made.subpixel, made.parity.max_error) == (precision, form == "on", 0)
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    auto = EngineOptions(device="cpu", threads=1)
    before = images(low, 256, backend=backend, options=auto)
    after = images(made.out, 256, 512, backend=backend, options=auto)
    assert before[0].tobytes() == after[0].tobytes()
    model = onnx.load(made.out)
    assert (taps_of(model, "Conv") == INNER).all()
    if form == "off":
        assert (taps_of(model, "ConvTranspose") == INNER).all()


def test_unused_taps_are_found_in_sub_pixel_form(exported):
    """Zeroed before or after the rewrite, the weights are the same."""
    model = onnx.load(exported)
    larger = replace(BYTES, windows=(512,))
    before = initializers(subpixel(with_windows(model, larger, exported, dynamic=True)))
    after = initializers(with_windows(subpixel(model), larger, exported, dynamic=True))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(numpy_helper.to_array(before[name]), numpy_helper.to_array(after[name]), name)


def test_a_foreign_file_of_a_fixed_window_stays_as_it_is(tmp_path):
    small = save_small_net(tmp_path / "small.onnx")
    made = export(small, tmp_path / "out.onnx")
    assert made.signature.sides == (64,)
    assert sides_of(made.out)[0] == ["N", 1, 64, 64]
    made = export(small, tmp_path / "wide.onnx", ExportOptions(windows=(64, 128)))
    assert made.signature.sides == (64, 128)
    assert images(made.out, 128)[0].shape == (1, 3, 128, 128)


@pytest.mark.parametrize("windows", [(), (128, 192)])
def test_a_file_with_dynamic_sides_keeps_them(tmp_path, windows):
    model = onnx.load(save_small_net(tmp_path / "small.onnx", signature=replace(SMALL, windows=windows)))
    for value, channels in ((model.graph.input[0], 1), (model.graph.output[0], 3)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["b", channels, "h", "w"]))
    source = tmp_path / "dynamic.onnx"
    onnx.save(model, source)
    made = export(source, tmp_path / "out.onnx")
    assert made.signature.windows == windows
    assert list(made.wide_psnr) == list(windows)
    assert sides_of(made.out) == [["N", 1, "H", "W"], ["N", 3, "H", "W"]]
    fixed = export(source, tmp_path / "fixed.onnx", ExportOptions(windows=()))
    assert sides_of(fixed.out)[0] == ["N", 1, 64, 64]


FIXED = {
    "a Reshape to constants": (
        [("Reshape", ["flat"], {}), ("Reshape", ["square"], {})],
        {"flat": np.array([-1, 8, 64 * 64]), "square": np.array([-1, 8, 64, 64])},
        "low.Reshape",
    ),
    "a Resize to a size": (
        [
            ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Resize", ["", "", "sizes"], {"axes": [2, 3]}),
        ],
        {"sizes": np.array([64, 64])},
        r"low\+.Resize",
    ),
    "a Slice to a constant": (
        [("Slice", ["from", "to", "axes"], {})],
        {"from": np.array([0, 0]), "to": np.array([64, 64]), "axes": np.array([2, 3])},
        "low.Slice",
    ),
    "weights of each pixel": ([("Mul", ["ramp"], {})], {"ramp": np.linspace(0, 1, 64, dtype=np.float32)}, "low.Mul"),
}


@pytest.mark.parametrize("kind", FIXED)
def test_a_node_that_fixes_the_size_is_named(tmp_path, kind):
    between, constants, node = FIXED[kind]
    source = save_small_net(tmp_path / "fixed.onnx", between=between, constants=constants)
    assert export(source, tmp_path / "own.onnx").signature.sides == (64,)
    message = rf"fixed.onnx: ({node}) \(\w+\) fixes the size.*windows of 128: export it from the checkpoint, or leave"
    with pytest.raises(ExportUnsupported, match=message) as caught:
        export(source, tmp_path / "out.onnx", ExportOptions(windows=(128,)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_a_size_that_shape_inference_does_not_know_fails_in_the_run(tmp_path):
    between, constants = [("Reshape", ["sizes"], {})], {"negative": np.array([1, -8, -64, -64])}
    source = save_small_net(tmp_path / "hidden.onnx", between=between, constants=constants)
    model = onnx.load(source)
    model.graph.node.insert(0, helper.make_node("Neg", ["negative"], ["sizes"], "negate"))
    onnx.save(model, source)
    assert export(source, tmp_path / "own.onnx").signature.sides == (64,)
    message = "window 128: the source (returns an image of|does not run at this size) .*leave 128 out of --windows"
    with pytest.raises(ExportUnsupported, match=message):
        export(source, tmp_path / "out.onnx", ExportOptions(windows=(128,)))


def test_a_summary_of_the_whole_window_does_not_fix_its_size(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["sar"], ["mean"], "mean"),
        helper.make_node("Sub", ["sar", "mean"], ["centred"], "centre"),
        helper.make_node("Tanh", ["centred"], ["bounded"], "tanh"),
        helper.make_node("Concat", ["bounded"] * 3, ["optical"], "colours", axis=1),
    ]
    source = save_onnx(tmp_path / "centred.onnx", nodes, {}, SMALL)
    assert export(source, tmp_path / "out.onnx", ExportOptions(windows=(128,))).signature.windows == (128,)


def test_zeroing_one_tap_too_many_is_noticed(tmp_path, exported, monkeypatch):
    """The fault that must not happen: a tap that meets pixels in the own window."""
    from export import windows

    monkeypatch.setattr(windows, "used_taps", lambda rows, cols: np.eye(rows.kernel, cols.kernel, dtype=bool))
    options = {"windows": (512,)}
    with pytest.raises(
        ParityFailed, match="changes the output in the training window so that its self-test fails: remove"
    ):
        export(exported, tmp_path / "out.onnx", ExportOptions(**options))
    with pytest.raises(
        ParityFailed, match="larger windows changes the output in the training window: remove --windows"
    ):
        export(exported, tmp_path / "out.onnx", ExportOptions(**options, precision="fp32", storage="fp16"))
    assert list(tmp_path.iterdir()) == []


def test_the_output_of_an_existing_name_is_kept(tmp_path, exported):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    with pytest.raises(OutputExists):
        export(exported, out, ExportOptions(windows=(512,)))
    assert out.read_bytes() == b"precious"


# The verification of one size


def test_a_wide_chip_is_the_chips_side_by_side_mirrored_in_turn():
    chips = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    np.testing.assert_array_equal(
        wide_chip(chips, 4)[0, 0],
        [
            [0, 1, 5, 4],  # chip 0, chip 1 mirrored
            [2, 3, 7, 6],
            [2, 3, 7, 6],  # both upside down
            [0, 1, 5, 4],
        ],
    )


def test_one_bad_size_is_named():
    chip = simulated_chips(replace(SMALL, window=128), count=1)
    image = np.repeat(np.tanh(chip), 3, axis=1) * np.float32([[[[1]], [[0.5]], [[0.2]]]])
    assert compare_wide(image, lambda _: image + np.float32(0.002), chip, floor=59) == pytest.approx(60, abs=0.01)

    def stops(_):
        raise RuntimeError("Incompatible\ndimensions")

    for fault, kind, message in [
        (lambda _: image + np.float32(0.1), ParityFailed, r"window 128: parity is 26\.0 dB .*or lower --min-psnr"),
        (lambda _: image * np.float32("nan"), ParityFailed, "window 128: the exported model returns NaN"),
        (lambda _: image[:, ::-1], ParityFailed, "window 128: the exported model returns BGR"),
        (lambda _: image[..., :64, :64], ExportUnsupported, r"window 128: the exported model returns .*\(64, 64\)"),
        (
            stops,
            ExportUnsupported,
            "window 128: the exported model does not run at this size .Incompatible dimensions",
        ),
    ]:
        with pytest.raises(kind, match=message) as caught:
            compare_wide(image, fault, chip, floor=59)
        assert "\n" not in str(caught.value)
    with pytest.raises(ParityFailed, match="window 128: the source returns NaN"):
        expect_wide(lambda _: image * np.float32("nan"), chip)


def test_the_reference_of_a_checkpoint_runs_in_each_window(checkpoint, wide):
    generator, _ = load_generator(checkpoint)
    run = as_written(onnx.load(wide))
    with torch.inference_mode():
        expected = generator(torch.from_numpy(noise(256))).numpy()
        untouched = generator(torch.from_numpy(noise(512))).numpy()
    assert np.abs(run(noise(256)) - expected).max() < 1e-4
    assert np.abs(run(noise(512)) - untouched).max() > 0.01  # the taps that training never reached


def test_the_bundled_files_take_windows_up_to_2048():
    chip = wide_chip(self_test_input(BYTES), 512)
    images = {}
    for precision, path in variants(bundled()).items():
        options = EngineOptions(device="cpu", precision="fp32" if precision == "fp32" else "auto")
        with open_engine(path, options=options) as engine:
            assert engine.windows == (256, 512, 1024, 2048)
            engine.use_window(512)
            images[precision] = engine.run(chip)
    assert images["fp32"].std() > 0.05
    assert psnr(images["fp32"], images["int8"], data_range=2.0) > 35
