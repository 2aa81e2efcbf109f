"""Sources of an export: ONNX files of this package and of other exporters, and refused files."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.build import ExportOptions, export
from export.source import open_source
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import metadata_of
from sar2optical.errors import (
    BandNotFound,
    DeviceUnavailable,
    ExportUnsupported,
    ModelUnreadable,
    OptionError,
    ParityFailed,
    SignatureError,
    UnitsMismatch,
    UnitsUnknown,
)
from sar2optical.signature import METADATA_KEY, ModelSignature
from tests.conftest import save_onnx, signature_of, speckle, write_chips
from tests.engines.test_engines import odd_model
from tests.graphs import SMALL, conv, initializers, kinds, save_small_net

SAR = np.random.default_rng(3).uniform(-1, 1, (1, 1, 64, 64)).astype(np.float32)


@pytest.fixture
def small(tmp_path):
    return save_small_net(tmp_path / "small.onnx")


@pytest.fixture
def foreign(tmp_path):
    """Write a file like other exporters: no signature, other names, weights in a node and among the inputs."""
    model = onnx.load(save_small_net(tmp_path / "foreign.onnx"))
    graph = model.graph
    del model.metadata_props[:]
    for node in graph.node:
        node.input[:] = ["input.1" if name == "sar" else name for name in node.input]
        node.output[:] = ["37" if name == "optical" else name for name in node.output]
    graph.input[0].name, graph.output[0].name = "input.1", "37"
    kept = {tensor.name: tensor for tensor in graph.initializer}
    graph.node.insert(0, helper.make_node("Constant", [], ["last.w"], "constant", value=kept.pop("last.w")))
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(kept[name].dims)) for name in kept)
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


@pytest.fixture
def described(tmp_path):
    """Write the signature of the foreign file."""
    path = tmp_path / "signature.json"
    path.write_text(SMALL.to_json())
    return path


def assert_refused(kind, message, source, out, **options):
    """Check that an export is refused in one line and writes no file."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(kind, match=message) as caught:
        export(source, out, ExportOptions(**options))
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.rglob("*")) == before


def test_an_exported_file_is_a_source_with_its_signature(small, tmp_path):
    with open_source(small, tmp_path) as source:
        assert source.signature == SMALL
        assert list(initializers(source.model)) == ["first.w", "first.b", "last.w"]
        expected = source.reference(SAR)
    with open_engine(small, backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        np.testing.assert_array_equal(engine.run(SAR), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_file_of_another_exporter_with_a_signature_is_exported(
    tmp_path, foreign, described, small, precision, calibration
):
    options = ExportOptions(
        precision=precision,
        signature=described,
        calibration=calibration if precision == "int8" else None,
        method="minmax",
        min_psnr=40,
    )
    made = export(foreign, tmp_path / "out.onnx", options)
    model = onnx.load(made.out)
    assert ([v.name for v in model.graph.input], [v.name for v in model.graph.output]) == (["sar"], ["optical"])
    assert ModelSignature.from_json(metadata_of(model)[METADATA_KEY]) == SMALL
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    options = EngineOptions(device="cpu")
    with open_engine(made.out, backend=backend, options=options) as engine:
        found = engine.run(SAR)
    with open_engine(small, backend="onnxruntime", options=options) as engine:  # the same weights
        assert np.abs(engine.run(SAR) - found).max() < 0.15


def test_a_file_without_a_signature_is_refused_with_an_example(tmp_path, foreign):
    with pytest.raises(SignatureError, match=r"has no signature.*give --signature FILE, like \{") as caught:
        export(foreign, tmp_path / "out.onnx")
    shown = str(caught.value).split("like ")[1]
    assert json.loads(shown)["bands"] == ["VV"]
    (tmp_path / "as_shown.json").write_text(shown)
    with pytest.raises(
        ExportUnsupported, match="but 1 x 256 x 256 in the signature"
    ):  # accepted, but of another window
        export(foreign, tmp_path / "out.onnx", ExportOptions(signature=tmp_path / "as_shown.json"))
    assert not (tmp_path / "out.onnx").exists()


def test_a_signature_that_cannot_be_read_is_named(tmp_path, foreign, described):
    out = tmp_path / "out.onnx"
    assert_refused(SignatureError, "none.json: cannot be read", foreign, out, signature=tmp_path / "none.json")
    described.write_text("{}")
    assert_refused(SignatureError, "signature.json: its signature is not readable", foreign, out, signature=described)
    described.write_bytes(b"\xff\xfe\x00")
    assert_refused(SignatureError, "signature.json: cannot be read", foreign, out, signature=described)


def test_files_that_are_not_models_are_refused(tmp_path, small):
    for name, content, message in [
        ("cut", small.read_bytes()[:-200], "corrupt, or not an ONNX model"),
        ("text", b"hello", "corrupt, or not an ONNX model"),
        ("empty", b"", "corrupt, or not an ONNX model"),
    ]:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert_refused(ModelUnreadable, message, path, tmp_path / "out.onnx")
    assert_refused(ModelUnreadable, "no such file", tmp_path / "none.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("two inputs", ExportUnsupported, "has 2 inputs and 1 outputs: give a generator with one of each"),
        ("grey", ExportUnsupported, "optical is 1 x 256 x 256, but 3 x 256 x 256 in the signature"),
        ("window", ExportUnsupported, "sar is 1 x 128 x 128, but 1 x 256 x 256 in the signature"),
        ("half", ExportUnsupported, "sar is FLOAT16"),
    ],
)
def test_graphs_that_are_not_generators_are_refused(tmp_path, kind, error, message):
    source = odd_model(tmp_path / "odd.onnx", kind)
    assert_refused(error, message, source, tmp_path / "out.onnx")


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_a_file_in_8_bits_is_not_exported_again(tmp_path, quantized, calibration, precision):
    out = tmp_path / "out.onnx"
    assert_refused(
        ExportUnsupported,
        "is already int8: give the fp32 file, or the checkpoint",
        quantized,
        out,
        precision=precision,
        calibration=calibration,
    )


def test_dropout_in_training_mode_is_refused(tmp_path):
    source = save_small_net(
        tmp_path / "source.onnx",
        between=[("Dropout", ["ratio", "training"], {})],
        constants={"ratio": np.float32(0.5), "training": np.array(True)},
    )
    assert_refused(ParityFailed, "different images for the same chip, as with dropout", source, tmp_path / "out.onnx")


def test_dropout_in_eval_mode_is_exported(tmp_path):
    source = save_small_net(
        tmp_path / "source.onnx",
        between=[("Dropout", ["ratio", "training"], {})],
        constants={"ratio": np.float32(0.5), "training": np.array(False)},
    )
    assert export(source, tmp_path / "out.onnx").parity.psnr > 100


def test_a_source_that_fails_its_self_test_is_refused(tmp_path, exported):
    model = onnx.load(exported)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
    source = tmp_path / "tampered.onnx"
    onnx.save(model, source)
    assert_refused(
        DeviceUnavailable,
        r"tampered.onnx: onnxruntime .* fails the file's self-test \(.*: export it again from the checkpoint",
        source,
        tmp_path / "out.onnx",
    )


def test_computed_weights_are_refused_if_they_would_be_rounded(tmp_path):
    source = save_small_net(tmp_path / "source.onnx")
    model = onnx.load(source)
    model.graph.node.insert(0, helper.make_node("Abs", ["last.w"], ["absolute"], "made"))
    model.graph.node[2].input[1] = "absolute"
    onnx.save(model, source)
    assert_refused(ExportUnsupported, "computed in the graph", source, tmp_path / "out.onnx", storage="fp16")


# Calibration data


def test_too_few_windows_are_refused(tmp_path, exported):
    chips = write_chips(tmp_path / "chips", 7)
    assert_refused(
        ExportUnsupported,
        "calibration has 7 windows, at least 8 are needed",
        exported,
        tmp_path / "out.onnx",
        precision="int8",
        calibration=chips,
    )


def test_an_empty_or_missing_folder_is_refused(tmp_path, small):
    (tmp_path / "empty").mkdir()
    asked = {"precision": "int8", "source": small, "out": tmp_path / "out.onnx"}
    assert_refused(ExportUnsupported, "no chip of at least 64 x 64 valid", calibration=tmp_path / "empty", **asked)
    assert_refused(ExportUnsupported, "no such file or folder", calibration=tmp_path / "none", **asked)


def test_the_windows_and_the_name_of_a_scene_are_in_the_metadata(tmp_path, small, make_raster):
    scene = make_raster(speckle((300, 300)), "scene_VH.tif")
    options = ExportOptions(precision="int8", calibration=scene, method="minmax", min_psnr=20)
    message = metadata_of(onnx.load(export(small, tmp_path / "out.onnx", options).out))
    manifest = json.loads(message["sar2optical.calibration"])
    assert manifest["source"] == "scene_VH.tif"
    assert len(manifest["windows"]) == 16


def test_a_scene_in_an_unknown_unit_is_refused(tmp_path, small, make_raster):
    scene = make_raster(speckle((300, 300)) * np.float32(0.001), "scene.tif")
    assert_refused(UnitsUnknown, "scene.tif", small, tmp_path / "out.onnx", precision="int8", calibration=scene)


def test_a_scene_in_another_unit_is_refused(tmp_path, make_raster):
    byte = signature_of(name="small", window=64, unit="byte")
    source = save_small_net(tmp_path / "small.onnx", signature=byte)
    scene = make_raster(speckle((300, 300)).astype(np.uint16) * 100, "scene.tif")
    assert_refused(
        UnitsMismatch,
        "the model expects values already scaled to 8 bits",
        source,
        tmp_path / "out.onnx",
        precision="int8",
        calibration=scene,
    )


def test_chips_of_another_polarisation_serve_verification_but_not_calibration(tmp_path, small):
    chips = write_chips(tmp_path / "chips", 8, name="{}_VV.png")
    assert_refused(BandNotFound, "VV", small, tmp_path / "out.onnx", precision="int8", calibration=chips)
    assert export(small, tmp_path / "out.onnx", ExportOptions(verify_with=chips)).parity.source == "chips"


def test_old_files_that_list_their_weights_as_inputs_have_one_input(tmp_path, foreign, described):
    with open_source(foreign, tmp_path, signature=described) as source:
        assert [value.name for value in source.model.graph.input] == ["sar"]
        assert "Constant" not in kinds(source.model)
        assert source.reference(SAR).shape == (1, 3, 64, 64)


def test_a_source_with_one_convolution_is_quantized(tmp_path, calibration):
    weights = np.random.default_rng(3).normal(0, 0.05, (3, 1, 3, 3)).astype(np.float32)
    source = save_onnx(tmp_path / "one.onnx", [conv("only", "sar", "w", "optical")], {"w": weights}, SMALL)
    options = ExportOptions(precision="int8", calibration=calibration, method="minmax")
    assert export(source, tmp_path / "out.onnx", options).parity.psnr > 40


@pytest.mark.parametrize("names", ["", "the same"])
def test_nodes_need_no_unique_names(tmp_path, small, calibration, names):
    model = onnx.load(small)
    for node in model.graph.node:
        node.name = names
    onnx.save(model, tmp_path / "unnamed.onnx")
    options = ExportOptions(precision="int8", calibration=calibration, method="minmax", min_psnr=20, subpixel="off")
    made = export(tmp_path / "unnamed.onnx", tmp_path / "int8.onnx", options)
    assert kinds(onnx.load(made.out)).count("QuantizeLinear") == 2
    assert made.searched.kept == ()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("lower", "message"), [("fp16", "FLOAT16"), ("int8", "Q/DQ pairs")])
def test_a_graph_of_lower_precision_is_not_accepted_as_fp32(tmp_path, small, calibration, lower, message, precision):
    options = ExportOptions(precision=lower, calibration=calibration, min_psnr=20, subpixel="off")
    low = export(small, tmp_path / "low.onnx", options).out
    model = onnx.load(low)
    kept = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)  # like another exporter's, without a precision
    onnx.save(model, low)
    (tmp_path / "out").mkdir()
    asked = {"precision": precision, "calibration": calibration}
    assert_refused(ExportUnsupported, f"is not fp32, it has {message}", low, tmp_path / "out" / "out.onnx", **asked)


def test_batch_norm_in_training_mode_is_refused(tmp_path):
    norm = {"scale": np.ones(8), "shift": np.zeros(8), "mean": np.zeros(8), "variance": np.ones(8)}
    constants = {name: values.astype(np.float32) for name, values in norm.items()}
    source = save_small_net(
        tmp_path / "norm.onnx",
        between=[("BatchNormalization", list(constants), {})],
        constants=constants,
    )
    assert export(source, tmp_path / "evaluating.onnx").parity.psnr > 80
    model = onnx.load(source)
    (node,) = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["running mean", "running variance"])
    onnx.save(model, source)
    (tmp_path / "out").mkdir()
    assert_refused(ParityFailed, "depends on the other windows", source, tmp_path / "out" / "training.onnx")


def test_a_fixed_batch_becomes_dynamic(tmp_path, small):
    model = onnx.load(small)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    out = export(tmp_path / "one.onnx", tmp_path / "many.onnx").out
    with open_engine(out, backend="onnxruntime", options=EngineOptions(device="cpu", batch=3)) as engine:
        assert engine.run(np.repeat(SAR, 3, axis=0)).shape == (3, 3, 64, 64)


def test_an_opset_is_converted_upwards_and_not_down(tmp_path, small):
    assert export(small, tmp_path / "newer.onnx", ExportOptions(opset=20)).opset == 20
    assert_refused(OptionError, "opset is 17, but .* has opset 18", small, tmp_path / "older.onnx", opset=17)


def test_images_outside_the_range_are_refused(tmp_path):
    source = save_small_net(tmp_path / "loud.onnx")
    model = onnx.load(source)
    model.graph.node[-1].output[0] = "quiet"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "gain"))
    model.graph.node.append(helper.make_node("Mul", ["quiet", "gain"], ["optical"], "louder"))
    onnx.save(model, source)
    assert_refused(ParityFailed, r"outside \[-1, 1\]", source, tmp_path / "out.onnx")


@pytest.mark.parametrize("head", ["sigmoid", "clipped", "tanh moved to 0..1"])
def test_images_on_0_to_1_are_refused(tmp_path, head):
    """Images in [0, 1] would look washed out; bright images of a tanh are not refused."""
    source = save_small_net(tmp_path / "unsigned.onnx")
    model = onnx.load(source)
    last = model.graph.node[-1]
    for name, value in (("half", 0.5), ("zero", 0.0), ("one", 1.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    if head == "sigmoid":
        last.op_type = "Sigmoid"
    elif head == "clipped":
        model.graph.node.remove(last)
        model.graph.node.append(helper.make_node("Clip", ["colours", "zero", "one"], ["optical"], "clip"))
    else:
        last.output[0] = "signed"
        model.graph.node.append(helper.make_node("Mul", ["signed", "half"], ["halved"], "halve"))
        model.graph.node.append(helper.make_node("Add", ["halved", "half"], ["optical"], "move"))
    onnx.save(model, source)
    (tmp_path / "out").mkdir()
    assert_refused(ParityFailed, r"never below 0 .*y \* 2 - 1", source, tmp_path / "out" / "out.onnx")


def test_a_bright_tanh_and_a_repaired_sigmoid_are_exported(tmp_path):
    source = save_small_net(tmp_path / "bright.onnx")
    model = onnx.load(source)
    for name, value in (("two", 2.0), ("one", 1.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    last = model.graph.node[-1]
    last.input[0] = "bright"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Exp", ["colours"], ["bright"], "raise"))
    onnx.save(model, source)
    assert export(source, tmp_path / "bright_out.onnx").parity.psnr > 60
    last = model.graph.node[-1]
    last.op_type, last.input[0], last.output[0] = "Sigmoid", "colours", "unsigned"
    model.graph.node.append(helper.make_node("Mul", ["unsigned", "two"], ["doubled"], "double"))
    model.graph.node.append(helper.make_node("Sub", ["doubled", "one"], ["optical"], "move"))
    model.graph.node.remove(next(node for node in model.graph.node if node.name == "raise"))
    onnx.save(model, source)
    assert export(source, tmp_path / "signed_out.onnx").parity.psnr > 60


def test_nearly_black_chips_are_refused_for_calibration(tmp_path, small, make_raster):
    for k in range(8):
        make_raster(1 + speckle((64, 64), high=2, seed=k), f"{k}.png")
    dark = tmp_path / "dark"
    dark.mkdir()
    for k in range(8):
        (tmp_path / f"{k}.png").rename(dark / f"{k}.png")
    assert_refused(
        ExportUnsupported, "too dark or too uniform", small, tmp_path / "o.onnx", precision="int8", calibration=dark
    )


def test_the_output_must_not_be_the_source(small):
    before = small.read_bytes()
    with pytest.raises(OptionError, match="the output is the source file"):
        export(small, small, ExportOptions(storage="fp16", overwrite=True))
    assert small.read_bytes() == before


def test_options_without_effect_are_refused(tmp_path, small):
    out = tmp_path / "out.onnx"
    assert_refused(OptionError, "--batch applies only to .plan outputs", small, out, plan={"batch": (1, 2, 4)})
    assert_refused(OptionError, "upsampling nearest", small, out, upsampling="nearest")
    for options, message in [
        ({"precision": "bf16", "opset": 18}, "bf16 needs 22 or higher"),
        ({"precision": "fp8", "opset": 17, "calibration": tmp_path}, "fp8 needs 19 or higher"),
        ({"min_psnr": float("nan")}, "min-psnr is nan"),
        ({"min_psnr": float("inf")}, "min-psnr is inf"),
    ]:
        with pytest.raises(OptionError, match=message):
            ExportOptions(**options)


def test_emulated_parity_is_in_the_metadata(tmp_path, small):
    for precision, message in (("fp32", None), ("fp16", "roundings emulated in float32")):
        made = export(small, tmp_path / f"{precision}.onnx", ExportOptions(precision=precision))
        assert metadata_of(onnx.load(made.out)).get("sar2optical.parity_of") == message
