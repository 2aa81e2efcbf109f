"""int8 and fp8: calibrated ranges, stored weights, and layers left in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import quantize as q
from export.build import ExportOptions, export
from export.precision import Method
from export.subpixel import subpixel
from export.verify import chips_from, simulated_chips
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import metadata_of, opset_of
from sar2optical.errors import ExportUnsupported, ParityFailed
from sar2optical.evaluation.metrics import psnr
from tests.conftest import BYTES, save_onnx, write_chips
from tests.graphs import SMALL, conv, initializers, kinds, model_of, run, save_small_net, skipping_net

CPU = EngineOptions(device="cpu")
CHIPS = np.random.default_rng(0).uniform(-1, 1, (8, 1, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared():
    return q.prepare(skipping_net(), "int8")


@pytest.fixture(scope="module")
def ranges(prepared):
    return q.calibrate(prepared, CHIPS)


def measured(model):
    """Compute the PSNR against the float32 net, lowest of all chips."""
    net = skipping_net()

    def measure(candidate):
        return min(psnr(run(net, chip[None])[0], run(candidate, chip[None])[0], data_range=2.0) for chip in CHIPS)

    return measure(model)


# Quantized graphs


def test_a_convolution_over_a_concat_becomes_a_sum(prepared):
    assert "Concat" not in kinds(prepared)
    assert kinds(prepared).count("Conv") == 4
    assert kinds(prepared).count("Add") == 1
    expected = run(skipping_net(), CHIPS)
    assert expected.std() > 0.1
    assert np.abs(run(prepared, CHIPS) - expected).max() < 1e-5


def test_a_concat_with_another_reader_stays():
    model = skipping_net()
    model.graph.node.append(helper.make_node("Relu", ["both"], ["seen"], "see"))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", 8, 16, 16]))
    assert kinds(q.prepare(model, "int8")).count("Concat") == 1


def test_pairs_are_inserted_before_convolutions_only(prepared, ranges):
    model = q.quantize(prepared, ranges["minmax"], "int8")
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {made[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
        elif node.op_type == "DequantizeLinear":
            readers = {n.op_type for n in model.graph.node if node.output[0] in n.input}
            assert readers == {"Conv"}
        elif node.op_type in ("Relu", "Add", "Tanh"):
            assert not {made[name].op_type for name in node.input} & {"DequantizeLinear", "QuantizeLinear"}
    assert kinds(model).count("QuantizeLinear") == 3  # input, skip (read by two convolutions), deep
    assert measured(model) > 35


def test_the_shuffle_moves_bytes_and_not_floats():
    weights = np.random.default_rng(1).normal(0, 0.3, (4, 4, 4, 4)).astype(np.float32)
    nodes = [
        conv("first", "sar", "w0", "low"),
        conv("up", "low", "w1", "wide", kind="ConvTranspose", side=4, strides=[2, 2], pads=[1] * 4),
        conv("last", "wide", "w2", "optical"),
    ]
    constants = {"w0": np.ones((4, 1, 3, 3), np.float32), "w1": weights, "w2": np.ones((4, 4, 3, 3), np.float32)}
    prepared = q.prepare(subpixel(model_of(nodes, constants, side=16, colours=4)), "int8")
    model = q.quantize(prepared, q.calibrate(prepared, CHIPS)["minmax"], "int8")
    made = {name: node for node in model.graph.node for name in node.output}
    (shuffle,) = (node for node in model.graph.node if node.op_type == "DepthToSpace")
    assert made[shuffle.input[0]].op_type == "DequantizeLinear"
    assert kinds(model).count("QuantizeLinear") == 3


def test_int8_weights_are_stored_within_63_with_a_scale_for_each_channel(prepared, ranges):
    model = q.quantize(prepared, ranges["minmax"], "int8")
    kept = initializers(model)
    true = numpy_helper.to_array(initializers(prepared)["middle.w"])
    low, scale = (numpy_helper.to_array(kept[f"middle.w.{what}"]) for what in ("int8", "scale"))
    assert low.dtype == np.int8
    assert low.shape == true.shape
    assert scale.shape == (4,)
    assert np.abs(low).max(axis=(1, 2, 3)).tolist() == [63] * 4  # each channel's largest weight
    assert len(set(scale.tolist())) == 4
    np.testing.assert_allclose(scale, np.abs(true).max(axis=(1, 2, 3)) / 63, rtol=1e-6)
    assert np.abs(low * scale[:, None, None, None] - true).max() <= scale.max() / 2 * 1.001
    assert "middle.w" not in kept


def test_transposed_convolutions_have_their_output_channels_second():
    weights = np.random.default_rng(1).normal(0, 1, (1, 3, 4, 4)).astype(np.float32) * [[[[1]], [[10]], [[100]]]]
    node = conv("up", "sar", "w", "optical", kind="ConvTranspose", side=4, strides=[2, 2], pads=[1] * 4)
    model = model_of([node], {"w": weights.astype(np.float32)}, side=16)
    quantized = q.quantize(model, q.calibrate(model, CHIPS)["minmax"], "int8")
    scale = numpy_helper.to_array(initializers(quantized)["w.scale"])
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=(0, 2, 3)) / 63, rtol=1e-6)
    (read,) = (n for n in quantized.graph.node if n.op_type == "DequantizeLinear" and n.output[0] == "w.read")
    assert {a.name: a.i for a in read.attribute} == {"axis": 1}
    assert psnr(run(model, CHIPS), run(quantized, CHIPS), data_range=200.0) > 35


def test_a_pair_rounds_to_127_steps_and_clips():
    model = model_of(
        [conv("only", "sar", "w", "optical", side=1)], {"w": np.ones((1, 1, 1, 1), np.float32)}, colours=1
    )
    quantized = q.quantize(model, q.Ranges({"sar": 0.5}, "minmax"), "int8")
    sar = np.zeros((1, 1, 8, 8), np.float32)
    sar[0, 0, 0, :4] = [0.25, 0.9, -0.5, -0.9]
    step = 0.5 / 127
    found = run(quantized, sar)[0, 0, 0]
    assert found[:4] == pytest.approx([64 * step, 0.5, -0.5, -128 * step], abs=1e-6)  # 63.5 to even
    assert found[4] == 0


def test_kept_layers_stay_in_float32(prepared, ranges):
    names = frozenset(node.name for node in prepared.graph.node if node.op_type == "Conv")
    model = q.quantize(prepared, ranges["minmax"], "int8", keep=names)
    assert kinds(model) == kinds(prepared)
    np.testing.assert_array_equal(run(model, CHIPS), run(prepared, CHIPS))


def test_fp8_weights_are_e4m3():
    prepared = q.prepare(skipping_net(), "fp8")
    model = q.quantize(prepared, q.calibrate(prepared, CHIPS)["minmax"], "fp8")
    assert opset_of(model) >= 19
    low = initializers(model)["middle.w.fp8"]
    assert low.data_type == TensorProto.FLOAT8E4M3FN
    true = numpy_helper.to_array(initializers(prepared)["middle.w"])
    scale = numpy_helper.to_array(initializers(model)["middle.w.scale"])
    assert scale == pytest.approx(np.abs(true).max() / 448)
    found = numpy_helper.to_array(low).astype(np.float32) * scale
    np.testing.assert_allclose(found, true, rtol=2**-4, atol=2**-10 * 448 * scale)  # three bits after the first
    assert measured(model) > 25


# Ranges


def ranges_of(chips):
    model = model_of([conv("only", "sar", "w", "optical")], {"w": np.ones((3, 1, 3, 3), np.float32)}, side=64)
    return {method: found.thresholds["sar"] for method, found in q.calibrate(model, chips).items()}


def test_an_outlier_is_kept_by_minmax_and_clipped_by_the_others():
    chips = np.random.default_rng(5).uniform(-0.1, 0.1, (8, 1, 64, 64)).astype(np.float32)
    chips[3, 0, 5, 5] = -1  # one of 32768: 99.99 % lie below
    found = ranges_of(chips)
    assert found["minmax"] == 1
    assert 0.0995 < found["percentile"] <= 0.1005
    assert 0.05 < found["entropy"] <= 0.15


def test_uniform_values_keep_their_whole_range():
    chips = np.random.default_rng(5).uniform(-0.5, 0.5, (8, 1, 64, 64)).astype(np.float32)
    chips[0, 0, 0, 0] = 0.5
    found = ranges_of(chips)
    assert found["minmax"] == 0.5
    assert 0.499 < found["percentile"] <= 0.5
    assert 0.49 < found["entropy"] <= 0.5


def test_long_tails_are_cut_by_entropy_and_not_by_minmax():
    chips = np.random.default_rng(5).laplace(0, 0.05, (8, 1, 64, 64)).astype(np.float32)
    found = ranges_of(chips)
    assert found["minmax"] == np.abs(chips).max()
    assert found["entropy"] < 0.95 * found["minmax"]
    # 99.99 % of |x| lie below -ln(1e-4) scales.
    assert found["percentile"] == pytest.approx(0.05 * -np.log(1e-4), rel=0.2)


def test_a_tensor_that_is_always_zero_is_quantized():
    found = ranges_of(np.zeros((8, 1, 64, 64), np.float32))
    assert found["minmax"] == 0
    model = model_of([conv("only", "sar", "w", "optical")], {"w": np.zeros((3, 1, 3, 3), np.float32)}, side=16)
    quantized = q.quantize(model, q.Ranges({"sar": 0.0}, "minmax"), "int8")
    assert not run(quantized, CHIPS).any()


def test_fewer_than_eight_windows_are_refused(prepared):
    with pytest.raises(ExportUnsupported, match="calibration has 7 windows, at least 8 are needed: give more chips"):
        q.calibrate(prepared, CHIPS[:7])


# The search


def test_the_best_method_quantizes_all_layers_above_the_floor(prepared, ranges):
    found = q.search(prepared, ranges, "int8", measured, 20)
    assert found.kept == ()
    assert dict(found.tried).keys() == {f"{name}, all layers" for name in get_args(Method)}
    assert found.psnr == max(found.tried, key=lambda entry: entry[1])[1]
    assert found.method == max(found.tried, key=lambda entry: entry[1])[0].split(",")[0]
    assert measured(found.model) == found.psnr


def test_layers_return_to_float32_until_the_floor_is_reached(prepared, ranges):
    one = {"minmax": ranges["minmax"]}
    whole = q.search(prepared, one, "int8", measured, 0).psnr
    found = q.search(prepared, one, "int8", measured, whole + 0.1)
    assert found.kept
    assert found.psnr >= whole + 0.1
    assert len(found.kept) <= 2  # half of four
    alone = {name.split("only ")[1]: value for name, value in found.tried if "only" in name}
    assert found.kept[0] == min(alone, key=alone.get)  # the one that costs most
    weights = initializers(found.model)
    for node in prepared.graph.node:
        if node.op_type == "Conv":
            assert (node.input[1] in weights) == (node.name in found.kept)
    assert measured(found.model) == found.psnr


def test_a_floor_not_reached_with_half_of_the_layers_is_an_error(prepared, ranges):
    with pytest.raises(
        ParityFailed, match=r"int8 reaches \d+\.\d dB with half of its layers in fp32, at least 90 dB is required"
    ):
        q.search(prepared, {"minmax": ranges["minmax"]}, "int8", measured, 90)


# Files


def test_an_int8_file_is_a_quarter_and_describes_its_calibration(quantized, exported, calibration):
    assert 0.2 < quantized.stat().st_size / exported.stat().st_size < 0.35
    model = onnx.load(quantized)
    stored = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and t.name.endswith(".int8")]
    assert sum(np.prod(t.dims) for t in stored) > 0.8 * exported.stat().st_size / 4
    assert max(np.abs(numpy_helper.to_array(t)).max() for t in stored) == 63
    metadata = metadata_of(model)
    assert metadata["sar2optical.precision"] == "int8"
    assert float(metadata["sar2optical.parity_psnr_db"]) >= 40
    assert metadata["sar2optical.parity_chips"] == f"8 {calibration.name}"
    assert metadata["sar2optical.left_in_fp32"] == ""
    manifest = json.loads(metadata["sar2optical.calibration"])
    assert (manifest["source"], manifest["method"]) == (calibration.name, "percentile")
    assert len(set(manifest["windows"])) == 8


def test_the_metadata_have_a_hash_of_each_window(tmp_path, exported, quantized, calibration):
    other = write_chips(tmp_path / "other", 8)
    write_chips(tmp_path / "spare", 1, seed=50)
    (tmp_path / "spare" / "0.png").replace(other / "5.png")
    options = ExportOptions(precision="int8", calibration=other, method="percentile", subpixel="off")
    made = export(exported, tmp_path / "out.onnx", options)
    first, second = (
        json.loads(metadata_of(onnx.load(path))["sar2optical.calibration"])["windows"]
        for path in (quantized, made.out)
    )
    assert [k for k in range(8) if first[k] != second[k]] == [5]


def test_openvino_and_onnxruntime_agree_on_an_int8_file(quantized, exported):
    """On CPUs without VNNI, int8 was seen to saturate, and to lose its zero point after a Concat."""
    sar = simulated_chips(BYTES, count=4, seed=9)
    with open_engine(exported, backend="onnxruntime", options=EngineOptions(device="cpu", batch=4)) as engine:
        expected = engine.run(sar)
    quality = {}
    for backend in ("onnxruntime", "openvino"):
        with open_engine(quantized, backend=backend, options=EngineOptions(device="cpu", batch=4)) as engine:
            assert engine.precision == "int8"
            quality[backend] = psnr(expected, engine.run(sar), data_range=2.0)
    assert min(quality.values()) > 40
    assert abs(quality["openvino"] - quality["onnxruntime"]) < 4


def test_auto_measures_the_faster_form_and_logs_it(tmp_path, calibration, caplog):
    source = save_up_net(tmp_path / "up.onnx")
    with caplog.at_level("INFO", "sar2optical"):
        made = export(
            source,
            tmp_path / "out.onnx",
            ExportOptions(precision="int8", calibration=calibration, method="minmax", min_psnr=30),
        )
    assert sum("in sub-pixel form" in record.message for record in caplog.records) == 1
    assert metadata_of(onnx.load(made.out))["sar2optical.subpixel"] == ("on" if made.subpixel else "off")
    assert ("DepthToSpace" in kinds(onnx.load(made.out))) == made.subpixel


def save_up_net(path):
    """Write a net of one strided and one transposed convolution."""
    rng = np.random.default_rng(8)
    weights = {"d": rng.normal(0, 0.3, (6, 1, 4, 4)), "u": rng.normal(0, 0.2, (6, 3, 4, 4))}
    nodes = [
        conv("down", "sar", "d", "low", side=4, strides=[2, 2], pads=[1] * 4),
        conv("up", "low", "u", "colours", kind="ConvTranspose", side=4, strides=[2, 2], pads=[1] * 4),
        helper.make_node("Tanh", ["colours"], ["optical"], "tanh"),
    ]
    return save_onnx(path, nodes, {k: v.astype(np.float32) for k, v in weights.items()}, SMALL)


def test_an_fp8_file_is_written_and_runs(tmp_path, exported, calibration):
    options = ExportOptions(precision="fp8", calibration=calibration, method="minmax", min_psnr=30)
    made = export(exported, tmp_path / "fp8.onnx", options)
    assert made.subpixel
    assert made.out.stat().st_size < 0.35 * exported.stat().st_size
    sar = chips_from(calibration, BYTES, most=1)
    with open_engine(exported, backend="onnxruntime", options=CPU) as engine:
        expected = engine.run(sar)
    with open_engine(made.out, backend="onnxruntime", options=CPU) as engine:
        assert engine.precision == "fp8"
        assert psnr(expected, engine.run(sar), data_range=2.0) > 30


def test_layers_left_in_float32_are_in_the_metadata(tmp_path, calibration):
    source = save_small_net(tmp_path / "source.onnx")
    asked = {"precision": "int8", "calibration": calibration, "method": "minmax"}
    whole = export(source, tmp_path / "whole.onnx", ExportOptions(**asked, min_psnr=20))
    made = export(source, tmp_path / "part.onnx", ExportOptions(**asked, min_psnr=whole.parity.psnr + 1))
    (left,) = made.searched.kept
    assert metadata_of(onnx.load(made.out))["sar2optical.left_in_fp32"] == left
    assert f"{left}.w" in initializers(onnx.load(made.out))
    with pytest.raises(ParityFailed, match="with half of its layers in fp32"):
        export(source, tmp_path / "none.onnx", ExportOptions(**asked, min_psnr=90))
    assert not (tmp_path / "none.onnx").exists()


def test_quantizing_needs_no_torch(tmp_path, calibration):
    source = save_small_net(tmp_path / "source.onnx")
    halved = export(source, tmp_path / "halved.onnx", ExportOptions(storage="fp16")).out
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from export.cli import main\n"
        "for source in sys.argv[1:3]:\n"
        "    main([source, source + '.int8.onnx', '--precision', 'int8', '--calibration', sys.argv[3],\n"
        "          '--min-psnr', '30', '--calibration-method', 'minmax', '-q'], standalone_mode=False)\n"
    )
    subprocess.run([sys.executable, "-c", code, source, halved, calibration], check=True, timeout=100)
    for made in (source, halved):
        model = onnx.load(f"{made}.int8.onnx")
        assert metadata_of(model)["sar2optical.precision"] == "int8"
        assert sum(tensor.data_type == TensorProto.INT8 for tensor in model.graph.initializer) >= 4
        assert "Cast" not in kinds(model)


def test_weights_that_two_convolutions_share_are_stored_once():
    weights = np.random.default_rng(5).normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32)
    first = np.random.default_rng(6).normal(0, 0.3, (3, 1, 3, 3)).astype(np.float32)
    nodes = [
        conv("first", "sar", "w0", "low"),
        conv("second", "low", "w", "middle"),
        conv("third", "middle", "w", "colours"),
        helper.make_node("Tanh", ["colours"], ["optical"], "tanh"),
    ]
    model = q.prepare(model_of(nodes, {"w0": first, "w": weights}, side=16), "int8")
    sar = np.random.default_rng(0).uniform(-1, 1, (8, 1, 16, 16)).astype(np.float32)
    found = q.quantize(model, q.calibrate(model, sar)["minmax"], "int8")
    assert kinds(found).count("QuantizeLinear") == 3
    assert (
        sum(
            tensor.data_type == onnx.TensorProto.INT8 and tensor.dims[:] == [3, 3, 3, 3]
            for tensor in found.graph.initializer
        )
        == 1
    )
    assert psnr(run(model, sar[:1]), run(found, sar[:1]), data_range=2) > 35
