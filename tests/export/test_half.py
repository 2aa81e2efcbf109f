"""fp16 and bf16: types in the file, computed values, and metadata."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.build import ExportOptions, export
from export.verify import simulated_chips
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.onnx_graph import metadata_of, opset_of, plain
from sar2optical.engines.onnx_half import emulate, halve, store_halved
from sar2optical.errors import DeviceUnavailable, ParityFailed
from sar2optical.evaluation.metrics import psnr
from tests.conftest import BYTES
from tests.graphs import conv, initializers, kinds, model_of, run, save_small_net

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
CPU = EngineOptions(device="cpu")


@pytest.fixture(scope="module")
def halves(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    return {p: export(exported, folder / f"{p}.onnx", ExportOptions(precision=p)) for p in KINDS}


@pytest.mark.parametrize("precision", KINDS)
def test_weights_are_16_bit_and_input_and_output_float32(halves, exported, precision):
    out = halves[precision].out
    model = onnx.load(out)
    elements = {t.data_type for t in model.graph.initializer} - {TensorProto.INT64}
    assert elements == {KINDS[precision]}
    (sar,), (optical,) = model.graph.input, model.graph.output
    assert sar.type.tensor_type.elem_type == optical.type.tensor_type.elem_type == TensorProto.FLOAT
    assert kinds(model)[0] == kinds(model)[-1] == "Cast"
    assert kinds(model).count("Cast") == 2
    assert 0.45 < out.stat().st_size / exported.stat().st_size < 0.6


@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 65, 100), ("bf16", 50, 75)])
def test_the_file_has_precision_and_parity_in_its_metadata(halves, precision, least, most):
    made = halves[precision]
    metadata = metadata_of(onnx.load(made.out))
    assert metadata["sar2optical.precision"] == made.precision == precision
    assert least < made.parity.psnr < most  # rounded, but not by much
    assert float(metadata["sar2optical.parity_psnr_db"]) == pytest.approx(made.parity.psnr, abs=0.01)
    assert 0 < float(metadata["sar2optical.parity_mean_error"]) < float(metadata["sar2optical.parity_max_error"])
    assert metadata["sar2optical.parity_chips"] == "8 simulated"


def test_bf16_is_written_in_an_opset_whose_convolution_accepts_it(halves):
    assert opset_of(onnx.load(halves["bf16"].out)) >= 22
    assert halves["bf16"].opset >= 22
    assert halves["fp16"].opset == 18


def test_bf16_is_in_sub_pixel_form_and_fp16_is_not(halves):
    assert halves["bf16"].subpixel
    assert not halves["fp16"].subpixel
    assert "ConvTranspose" not in kinds(onnx.load(halves["bf16"].out))


@pytest.mark.parametrize(
    ("precision", "backend"), [("fp16", "onnxruntime"), ("fp16", "openvino"), ("bf16", "openvino")]
)
def test_the_file_gives_the_image_in_each_backend(halves, exported, precision, backend):
    sar = simulated_chips(BYTES, count=1)
    with open_engine(exported, backend="onnxruntime", options=CPU) as engine:
        expected = engine.run(sar)
    with open_engine(halves[precision].out, backend=backend, options=CPU) as engine:
        assert psnr(expected, engine.run(sar), data_range=2.0) > 45


def test_bf16_in_onnxruntime_is_refused_and_openvino_named(halves):
    with pytest.raises(DeviceUnavailable, match="openvino runs bf16 files"):
        open_engine(halves["bf16"].out, backend="onnxruntime", options=CPU)


def pointwise(weight, *, bias=0.0, more=(), constants=None):
    made = "optical" if not more else "low"
    nodes = [conv("only", "sar", ["w", "b"], made, side=1), *more]
    values = {"w": np.full((1, 1, 1, 1), weight, np.float32), "b": np.array([bias], np.float32), **(constants or {})}
    return model_of(nodes, values, side=1, colours=1)


@pytest.mark.parametrize(
    ("precision", "sar", "weight", "expected"),
    [
        ("fp16", 1 / 3, 1, 0.333251953125),
        ("bf16", 1 / 3, 1, 0.333984375),
        ("fp16", 1, 1 + 2**-11, 1),  # half a step above 1: rounds to even
        ("fp16", 1, 1 + 3 * 2**-11, 1 + 2**-9),  # likewise, rounds up
        ("bf16", 1, 1 + 2**-8, 1),
        ("fp16", 0.333251953125, 3, 1),  # the product needs 12 bits: the output is rounded
        ("fp16", 300, 300, np.inf),
        ("bf16", 300, 300, 90112),
    ],
)
def test_roundings_computed_by_hand(precision, sar, weight, expected):
    found = run(emulate(pointwise(weight), precision), np.full((1, 1, 1, 1), sar))
    assert found.item() == expected


def test_tensors_between_operators_are_rounded():
    add = helper.make_node("Add", ["low", "minus"], ["optical"], "shift")
    model = pointwise(3.0, more=[add], constants={"minus": np.float32(-1)})
    third = np.full((1, 1, 1, 1), 0.333251953125)
    assert run(model, third).item() == -(2**-12)
    assert run(emulate(model, "fp16"), third).item() == 0  # ONNX Runtime's CPU kernels do not round here


def test_a_shared_constant_is_rounded_once():
    third = np.float32(1 / 3)
    nodes = [
        helper.make_node("Mul", ["low", "third"], ["part"], "scale"),
        helper.make_node("Add", ["part", "third"], ["optical"], "shift"),
    ]
    model = pointwise(1.0, more=nodes, constants={"third": third})
    zero = np.zeros((1, 1, 1, 1))
    assert run(model, zero).item() == third
    assert run(emulate(model, "fp16"), zero).item() == run(halve(model, "fp16"), zero).item() == 0.333251953125


def test_the_emulation_agrees_with_the_file():
    model = pointwise(0.7, bias=0.3, more=[helper.make_node("Tanh", ["low"], ["optical"], "activation")])
    values = np.linspace(-1, 1, 101, dtype=np.float32).reshape(-1, 1, 1, 1)
    found, expected = run(emulate(model, "fp16"), values), run(halve(model, "fp16"), values)
    assert found.std() > 0.3
    assert np.abs(found - run(model, values)).max() > 1e-5  # it does round
    assert np.abs(found - expected).max() <= 2**-11  # kernels may round a sum once more


@pytest.mark.parametrize("precision", KINDS)
def test_constants_of_other_operators_are_16_bit_too(precision):
    add = helper.make_node("Add", ["low", "half"], ["optical"], "shift")
    model = pointwise(1.0, more=[add], constants={"half": np.float32(0.5)})
    halved = halve(model, precision)
    assert {t.data_type for t in halved.graph.initializer} == {KINDS[precision]}
    if precision == "fp16":  # ONNX Runtime has no bf16
        assert run(halved, np.full((1, 1, 1, 1), 0.25)).item() == 0.75


@pytest.mark.parametrize("precision", KINDS)
def test_factors_of_a_resize_stay_float32(precision):
    resize = helper.make_node("Resize", ["low", "", "factors"], ["optical"], "double", mode="nearest")
    model = pointwise(1.0, more=[resize], constants={"factors": np.array([1, 1, 2, 2], np.float32)})
    halved = halve(model, precision)
    (factors,) = (t for t in halved.graph.initializer if t.data_type == TensorProto.FLOAT)
    np.testing.assert_array_equal(numpy_helper.to_array(factors), [1, 1, 2, 2])
    if precision == "fp16":
        assert run(halved, np.full((1, 1, 1, 1), 0.25)).tolist() == [[[[0.25] * 2] * 2]]


def test_half_storage_computes_in_float32():
    model = store_halved(pointwise(1 / 3))
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    third = np.float32(0.333251953125)
    assert (
        run(model, np.full((1, 1, 1, 1), 1 / 3)).item() == np.float32(1 / 3) * third
    )  # only the weights are rounded
    assert numpy_helper.to_array(initializers(plain(model))["w.fp32"]).item() == third


def test_values_beyond_fp16_fail_and_fit_bf16(tmp_path):
    source, out = save_small_net(tmp_path / "source.onnx", gain=1e6), tmp_path / "out.onnx"
    with pytest.raises(ParityFailed, match="returns NaN or infinity"):
        export(source, out, ExportOptions(precision="fp16"))
    assert list(tmp_path.iterdir()) == [source]
    assert export(source, out, ExportOptions(precision="bf16", min_psnr=40)).parity.psnr > 40
