"""What a foreign model's signature, or the choice of output, gets wrong is an error before any pixel is written."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.build import ExportOptions, export
from export.deepness import for_deepness
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.errors import (
    DataError,
    DeviceUnavailable,
    ExportUnsupported,
    InferenceFailed,
    ModelError,
    ModelUnreadable,
    NotFinite,
    OptionError,
    SignatureError,
    UnitsMismatch,
)
from sar2optical.evaluation.predictors import engine_prediction
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import METADATA_KEY, ModelSignature, Stretch
from tests.foreign.models import FOREIGN, graph, value
from tests.foreign.test_runs import sar


def changed(record, **changes):
    """Return a copy of a record; `output__range=...` changes a field of a part, None removes it."""
    made = copy.deepcopy(record)
    for name, new in changes.items():
        *parts, last = name.split("__")
        place = made
        for part in parts:
            place = place[part]
        if new is None:
            del place[last]
        else:
            place[last] = new
    return made


def opened(tmp_path, name, *, backend="onnxruntime", model=None, **changes):
    foreign = FOREIGN[name]
    path = tmp_path / "m.onnx"
    onnx.save(model or foreign.model, path)
    signature = ModelSignature.from_json(json.dumps(changed(foreign.record, **changes)), source="sig.json")
    return open_engine(path, backend=backend, options=EngineOptions(device="cpu", threads=1, signature=signature))


def test_the_records_as_they_are_open(tmp_path):
    for name in FOREIGN:
        with opened(tmp_path, name) as engine:
            assert engine.signature.name == name


WRONG = {
    "bytes called a unit interval": ("nhwc", {"output__range": [0, 1]}, "outside the range .*, 0 to 1:"),
    "a unit interval called bytes": ("sigmoid", {"output__range": [0, 255]}, "less than 1% of .*, 0 to 255:"),
    "tanh called a sigmoid": ("noise", {"output__range": [0, 1]}, "correct range"),
    "reflectance without its scale": (
        "reflectance", {"output__reflectance": {"scale": 1, "offset": 0}}, "range of the signature, -0.2 to 2:",
    ),
    "a band too many": ("sigmoid", {"output__bands": ["red", "green", "blue", "nir"]}, "correct the signature"),
    "channels first that are last": ("nhwc", {"input__layout": "NCHW"}, "correct the signature"),
    "output channels first that are last": ("nhwc", {"output__layout": "NCHW"}, "correct the signature"),
    "a window that the graph does not take": ("sigmoid", {"window": 48}, "correct the signature"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_model_that_is_not_as_its_signature_says_is_refused(tmp_path, name, changes, said):
    with pytest.raises(ModelError, match=said):
        opened(tmp_path, name, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_names_that_the_graph_does_not_have_are_refused_with_those_that_it_has(tmp_path, backend):
    with pytest.raises(SignatureError, match=r"no input 'image', only input\.1"):
        opened(tmp_path, "sigmoid", backend=backend, input__name="image")
    with pytest.raises(SignatureError, match="no output 'rgb', only 42"):
        opened(tmp_path, "sigmoid", backend=backend, output__name="rgb")
    with pytest.raises(SignatureError, match=r"further input 'z'.*under .noise."):
        opened(tmp_path, "noise", backend=backend, noise=None)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("name", "kind", "changes", "said"),
    [
        ("sigmoid", TensorProto.FLOAT, {"input__type": "fp16"}, "fp32, the signature says fp16"),
        ("sigmoid", TensorProto.UINT8, {}, "8.*, the signature says fp32"),
        ("sigmoid", TensorProto.INT32, {"input__name": "", "output__name": ""}, "32.*, the signature says fp32"),
        ("noise", TensorProto.FLOAT, {"noise__type": "fp32"}, "fp16, the signature says fp32"),
    ],
)
def test_an_input_of_another_type_is_refused(tmp_path, backend, name, kind, changes, said):
    # OpenVINO casts the input itself: without this, all values between -1 and 1 become 0.
    model = copy.deepcopy(FOREIGN[name].model)
    if kind != TensorProto.FLOAT:
        model.graph.input[0].type.tensor_type.elem_type = kind
        model.graph.node.insert(0, helper.make_node("Cast", ["input.1"], ["cast"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "cast"
        onnx.checker.check_model(model, full_check=True)
    with pytest.raises(SignatureError, match=f"input '.*' is .*{said}"):
        opened(tmp_path, name, backend=backend, model=model, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_one_of_several_outputs_must_be_named(tmp_path, backend):
    model = copy.deepcopy(FOREIGN["sigmoid"].model)
    model.graph.output.insert(0, value("raw", TensorProto.FLOAT, "batch", 3, 32, 32))
    opened(tmp_path, "sigmoid", backend=backend, model=model).close()
    with pytest.raises(SignatureError, match=r"several outputs \(raw, 42\): give the name"):
        opened(tmp_path, "sigmoid", backend=backend, model=model, output__name="")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_model_whose_windows_change_one_another_is_refused(tmp_path, backend):
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Add", ["input.1", "mean"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["unit"]),
        helper.make_node("Concat", ["unit"] * 3, ["42"], axis=1),
    ]
    for batch, refused in ((1, False), (2, True)):
        model = graph(
            nodes, (), [value("input.1", TensorProto.FLOAT, batch, 1, 32, 32)],
            [value("42", TensorProto.FLOAT, batch, 3, 32, 32)], opset=17,
        )  # fmt: skip
        if refused:
            with pytest.raises(ModelUnreadable, match="export it in evaluation mode"):
                opened(tmp_path, "sigmoid", backend=backend, model=model, batch=batch)
        else:
            opened(tmp_path, "sigmoid", backend=backend, model=model, batch=batch).close()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_size_that_the_graph_does_not_keep_is_an_error(tmp_path, backend):
    cut = {"axes": np.array([2, 3]), "from": np.array([0, 0]), "to": np.array([32, 32])}
    nodes = [
        helper.make_node("Slice", ["input.1", "from", "to", "axes"], ["cut"]),
        helper.make_node("Concat", ["cut"] * 3, ["42"], axis=1),
    ]
    model = graph(
        nodes, (), [value("input.1", TensorProto.FLOAT, "batch", 1, "h", "w")],
        [value("42", TensorProto.FLOAT, "batch", 3, "p", "q")], opset=17, extra=cut,
    )  # fmt: skip
    with opened(tmp_path, "sigmoid", backend=backend, model=model, windows=[64]) as engine:
        assert engine.run(np.full((1, 1, 32, 32), 0.5, np.float32)).shape == (1, 3, 32, 32)
        engine.use_window(64)
        with pytest.raises(InferenceFailed, match="give --window 32"):
            engine.run(np.full((1, 1, 64, 64), 0.5, np.float32))


def one_operator(operator, **attributes):
    """Make a model of three bands that one operator computes of the input."""
    nodes = [
        helper.make_node(operator, ["input.1"], ["one"], **attributes),
        helper.make_node("Concat", ["one"] * 3, ["42"], axis=1),
    ]
    shape = (1, 32, 32)
    return graph(
        nodes, (), [value("input.1", TensorProto.FLOAT, "batch", *shape)],
        [value("42", TensorProto.FLOAT, "batch", 3, 32, 32)], opset=17,
    )  # fmt: skip


def test_a_model_that_draws_numbers_itself_is_refused(tmp_path):
    model = one_operator("RandomUniformLike", high=1.0, low=0.0)
    with pytest.raises(ModelUnreadable, match="two runs of one input differ"):
        opened(tmp_path, "sigmoid", model=model)


def test_a_model_that_gives_nan_is_refused(tmp_path):
    with pytest.raises(NotFinite):
        opened(tmp_path, "sigmoid", model=one_operator("Sqrt"), scaling=[{"stretch": ["-25", "0"], "to": [-1, 1]}])


def test_a_range_that_is_never_below_zero_is_warned_about(tmp_path, caplog):
    opened(tmp_path, "sigmoid", output__range=[-1, 1]).close()
    assert "never below 0" in caplog.text


def test_backends_and_files_that_cannot_take_it_are_refused(tmp_path, checkpoint):
    with pytest.raises(DeviceUnavailable, match="pytorch runs only models with a signature of version 1"):
        opened(tmp_path, "sigmoid", backend="pytorch")
    signature = ModelSignature.from_json(json.dumps(FOREIGN["sigmoid"].record))
    with pytest.raises(OptionError, match=r"only \.onnx files take another"):
        open_engine(checkpoint, options=EngineOptions(signature=signature))
    model, record = FOREIGN["sigmoid"].save(tmp_path)
    with pytest.raises(ExportUnsupported, match="sar2opt-scene --model"):
        export(model, tmp_path / "out.onnx", ExportOptions(signature=record))


@pytest.fixture
def reflectance(tmp_path, make_raster):
    """Return a function that translates a scene with the reflectance model."""
    foreign = FOREIGN["reflectance"]
    model, record = foreign.save(tmp_path)
    values = sar(foreign)

    def run(out="out.tif", *, unit="db", scene=values, **changes):
        path = make_raster(scene, descriptions=("VV", "VH"))
        options = TranslateOptions(
            backend="onnxruntime", engine=EngineOptions(device="cpu", signature=ModelSignature.read(record)),
            scene=SceneOptions(unit=unit), blocksize=64, **changes,
        )  # fmt: skip
        translate(path, tmp_path / out, model=model, options=options)

    yield run
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


NO_SENSE = {
    "JPEG of twelve bands": ({"output_bands": ("all",), "compress": "jpeg"}, "jpeg takes 1 or 3 bands of uint8"),
    "JPEG of floats": ({"dtype": "float32", "compress": "jpeg"}, "jpeg takes 1 or 3 bands of uint8"),
    "a PNG of twelve bands": ({"out": "out.png", "output_bands": ("all",)}, "a PNG has 1 or 3 bands of uint8"),
    "a JPEG file of floats": ({"out": "out.jpg", "dtype": "float32"}, "a JPEG has 1 or 3 bands of uint8"),
    "an unknown band": ({"output_bands": ("B4", "B99")}, "output band B99 is not one of the model's"),
    "a band twice": ({"output_bands": ("B4", "B4")}, "named twice"),
    "an unknown type": ({"dtype": "int8"}, "dtype is 'int8'"),
}


@pytest.mark.parametrize(("changes", "said"), NO_SENSE.values(), ids=NO_SENSE.keys())
def test_outputs_that_make_no_sense_are_refused(reflectance, changes, said):
    with pytest.raises(OptionError, match=said):
        reflectance(**changes)


def test_a_preview_of_twelve_bands_is_refused(reflectance, tmp_path):
    with pytest.raises(OptionError, match="needs a mosaic of three bands of uint8"):
        reflectance(output_bands=("all",), preview=tmp_path / "small.png")


def test_a_stretch_does_not_replace_mean_and_standard_deviation(reflectance):
    with pytest.raises(UnitsMismatch, match="which stretch p1 to p99 cannot replace"):
        reflectance(stretch=Stretch.parse("p1", "p99"))
    with pytest.raises(UnitsMismatch, match="mean"):
        reflectance(unit="byte", scene=np.full((2, 300, 300), 9, np.uint8))
    with pytest.raises(UnitsMismatch, match="uncalibrated"):
        reflectance(unit="dn", scene=np.full((2, 300, 300), 9, np.uint16))


def test_a_signature_needs_a_model_of_the_users(make_raster, tmp_path):
    signature = ModelSignature.from_json(json.dumps(FOREIGN["sigmoid"].record))
    scene = make_raster(np.full((40, 40), 9, np.uint8))
    options = replace(TranslateOptions(), engine=EngineOptions(signature=signature))
    with pytest.raises(OptionError, match="--signature applies to a model of your own"):
        translate(scene, tmp_path / "out.tif", options=options)


def test_a_file_for_deepness_is_written_of_version_1_only(tmp_path):
    foreign = FOREIGN["sigmoid"]
    model, signature = foreign.model.__class__(), ModelSignature.from_json(json.dumps(foreign.record))
    model.CopyFrom(foreign.model)
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportUnsupported, match="signature of version 2"):
        for_deepness(tmp_path / "m.onnx", tmp_path / "out.onnx")


def test_evaluation_takes_models_of_version_1_only(tmp_path):
    with opened(tmp_path, "sigmoid") as engine, pytest.raises(DataError, match="signature of version 2"):
        engine_prediction(engine)
