"""TensorRT plans, built, inspected and run on a fake of TensorRT, whose API is compared with the real one.

The test machines have no GPU. So the calls are compared with NVIDIA's own Python bindings, loaded with stub libraries
whose factories return null; and the effects of the calls are tested on `fake_tensorrt`, which is compared with the
same bindings.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import sar2optical.engines
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.tensorrt_plan import PlanRecord, cache_name, load_record, read_header, record_path
from sar2optical.errors import (
    DeviceOutOfMemory,
    DeviceUnavailable,
    ExportUnsupported,
    InferenceFailed,
    ModelUnreadable,
    OptionError,
    OutputExists,
    OutputUnwritable,
    ParityFailed,
    SignatureError,
)
from sar2optical.signature import METADATA_KEY
from tests import fake_tensorrt
from tests.conftest import make_identity, save_onnx, signature_of

ROOT = Path(__file__).parents[2]
LEAST_USES = {
    "sar2optical/engines/tensorrt.py": 20,
    "sar2optical/engines/tensorrt_runtime.py": 8,
    "export/tensorrt_builder.py": 20,
    "export/to_tensorrt.py": 1,
}
"""Modules that use TensorRT, and how often at least."""

SOURCES = [ROOT / name for name in LEAST_USES]

BINDINGS = os.environ.get("SAR2OPTICAL_TENSORRT_BINDINGS")
"""A folder with another version of the package `tensorrt_bindings` (pip install --no-deps --target)."""

SMALL = signature_of(window=16)


# ------------------------------------------------------------------------------------------ against the real bindings


FACTORIES = (
    "createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    "getInferLibVersion", "getPluginRegistry", "getBuilderPluginRegistry", "getBuilderSafePluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip
"""Functions that the bindings link to."""

DESCRIBE = r'''
import inspect, json, re, sys
import tensorrt_bindings as tensorrt

def arguments(text):
    """[name, whether it has a default] of each argument but self, from one signature of a docstring."""
    depth, pieces, piece = 0, [], ""
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            pieces.append(piece)
            piece = ""
        else:
            piece += character
    pieces.append(piece)
    named = [(p.split(":")[0].strip(), "=" in p) for p in pieces if p.strip()]
    return [pair for pair in named if pair[0] != "self"]

def calls(name, doc):
    return [arguments(found) for found in re.findall(rf"(?:^|\d\. ){re.escape(name)}\((self: .*)\) ->", doc, re.M)]

def describe(cls):
    members = getattr(cls, "__members__", None)
    if members is not None:
        return {name: {"kind": "value", "value": int(value)} for name, value in members.items()}
    found = {}
    for name in dir(cls):
        item = inspect.getattr_static(cls, name)
        if isinstance(item, property):
            found[name] = {"kind": "property", "writable": item.fset is not None}
        elif name == "__init__" or not name.startswith("_"):
            doc = getattr(getattr(cls, name), "__doc__", None) or ""
            found[name] = {"kind": "method", "calls": calls(name, doc)}
    return found

api = {}
for name, value in vars(tensorrt).items():
    if inspect.isclass(value):
        api[name] = describe(value)
        for inner, nested in vars(value).items():
            if inspect.isclass(nested):
                api[f"{name}.{inner}"] = describe(nested)
print(json.dumps({"version": tensorrt.__version__, "classes": api}))
'''


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    """Every class of the real bindings: methods with their arguments, properties, values of enums."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the bindings are compared on Linux only")
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("no C compiler (cc) for the stub libraries")
    if BINDINGS is None and find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    folder = tmp_path_factory.mktemp("tensorrt")
    source, library = folder / "nothing.c", folder / "nothing.so"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FACTORIES))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        for major in (10, 11):
            (folder / f"lib{name}.so.{major}").symlink_to(library)
    found = subprocess.run(
        [sys.executable, "-c", DESCRIBE],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), **({"PYTHONPATH": BINDINGS} if BINDINGS else {})},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    described = json.loads(found.stdout.splitlines()[-1])
    print("TensorRT", described["version"])
    return described["classes"]


VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "measured": "ITimingCache",
    "theirs": "ITimingCache",
    "inspector": "EngineInspector",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "tensor": "ITensor",
    "levels": "ILogger.Severity",
    "modes": "TensorIOMode",
}
"""Classes of variables with these names in our modules, with or without an underscore."""


def dotted(node):
    """`a.b.c` of a chain of attributes, or None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def used(source):
    """Yield (class, member, node) for each use of TensorRT in a module."""
    for node in ast.walk(ast.parse(source)):
        chain = dotted(node) if isinstance(node, ast.Attribute) else None
        holder, _, member = (chain or "").removeprefix("self.").rpartition(".")
        if holder == "tensorrt" or holder.startswith("tensorrt."):
            yield holder[len("tensorrt.") :], member, node
        elif holder.lstrip("_") in VARIABLES:
            yield VARIABLES[holder.lstrip("_")], member, node


def problems(source, api):
    """Yield the uses of TensorRT in a module that the real API does not have."""
    tree = ast.parse(source)
    calls = {position(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from problems_of_class(node, api)
    for holder, member, node in used(source):
        name = f"{holder}.{member}" if holder else member
        known = api.get(holder, {}).get(member)
        if known is None:
            if name not in api and name != "__version__":
                yield f"{name} does not exist"
        elif isinstance(node.ctx, ast.Store) and not known.get("writable"):
            yield f"{name} cannot be set"
        elif (call := calls.get(position(node))) and not any(takes(given, call) for given in known.get("calls", [])):
            yield f"{name} does not take these arguments"


def problems_of_class(node, api):
    """Yield the methods whose arguments differ from those that TensorRT passes."""
    for base in filter(None, map(dotted, node.bases)):
        real = api.get(base.removeprefix("tensorrt."), {})
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name in real and method.name != "__init__":
                names = [argument.arg for argument in method.args.args][1:]
                if names not in [[name for name, _ in call] for call in real[method.name]["calls"]]:
                    yield f"{node.name}.{method.name}({', '.join(names)})"


def position(node):
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def takes(arguments, call):
    """Return True if a signature accepts a call's arguments."""
    names = [name for name, _ in arguments]
    given = {*names[: len(call.args)], *(keyword.arg for keyword in call.keywords)}
    needed = {name for name, default in arguments if not default}
    return len(call.args) <= len(names) and needed <= given <= set(names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_real_api_has_all_uses_of_tensorrt(api, source):
    text = source.read_text(encoding="utf-8")
    assert not list(problems(text, api))
    assert len(list(used(text))) >= LEAST_USES[source.relative_to(ROOT).as_posix()]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("config.set_flag(tensorrt.BuilderFlag.FP17)", "BuilderFlag.FP17 does not exist"),
        ("tensorrt.NoSuchClass", "NoSuchClass does not exist"),
        ("config.int8_calibrator_of = 1", "IBuilderConfig.int8_calibrator_of does not exist"),
        ("network.num_inputs = 1", "INetworkDefinition.num_inputs cannot be set"),
        ("profile.set_shape('sar', a, b)", "IOptimizationProfile.set_shape does not take these arguments"),
        (
            "profile.set_shape('sar', least=a, opt=b, max=c)",
            "IOptimizationProfile.set_shape does not take these arguments",
        ),
        ("self._context.execute_async_v4(s)", "IExecutionContext.execute_async_v4 does not exist"),
        ("class A(tensorrt.IProgressMonitor):\n def step_complete(self, name): ...", "A.step_complete(name)"),
    ],
)
def test_uses_that_the_real_api_lacks_are_found(api, line, problem):
    assert problem in list(problems(line, api))


def test_flags_that_tensorrt_11_removed_are_not_used():
    for source in SOURCES:
        named = {f"{holder}.{member}" for holder, member, _ in used(source.read_text(encoding="utf-8"))}
        assert not named & {f"BuilderFlag.{name}" for name in ("FP16", "BF16", "INT8", "FP8")}


def test_the_fake_has_only_members_of_the_real_api(api):
    tree = ast.parse(Path(fake_tensorrt.__file__).read_text(encoding="utf-8"))
    fields = {
        node.name: {
            at.attr
            for at in ast.walk(node)
            if isinstance(at, ast.Attribute) and isinstance(at.ctx, ast.Store) and dotted(at.value) == "self"
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    compared = 0
    for name, cls in fake_tensorrt.CLASSES.items():
        compared += compare_with_real(name, cls, fields[name], api)
    assert compared > 50


def compare_with_real(name, cls, fields, api):
    real = api[name]
    if hasattr(cls, "__members__"):
        assert set(cls.__members__) <= set(real), name  # the numbers differ from version to version
        return len(cls.__members__)
    public = {key: value for key, value in vars(cls).items() if not key.startswith("_")}
    for key, value in public.items():
        if inspect.isclass(value):
            compare_with_real(f"{name}.{key}", value, set(), api)
        elif isinstance(value, property):
            assert real[key]["kind"] == "property", f"{name}.{key}"
        else:
            names = list(inspect.signature(value).parameters)[1:]
            assert names in [[argument for argument, _ in call] for call in real[key]["calls"]], f"{name}.{key}"
    for field in fields:
        assert field.startswith("_") or real[field]["kind"] == "property", f"{name}.{field}"
    if name in ("Builder", "Runtime", "OnnxParser"):
        names = list(inspect.signature(cls).parameters)
        assert names in [[argument for argument, _ in call] for call in real["__init__"]["calls"]], name
    return len(public)


def test_the_fake_of_pytorch_has_only_members_of_pytorch():
    import torch

    fake = fake_tensorrt.fake_torch(fake_tensorrt.World())
    for name in vars(fake):
        assert hasattr(torch, name)
    for name, value in vars(fake.cuda).items():
        real = getattr(torch.cuda, name)
        if name in ("graph", "Event", "CUDAGraph"):
            ours = list(inspect.signature(value).parameters)
            theirs = real.__init__ if name == "graph" else real.__new__
            assert ours == list(inspect.signature(theirs).parameters)[1 : len(ours) + 1], name
        for method in vars(value) if inspect.isclass(value) else ():
            assert method.startswith("_") or hasattr(real, method) or method in ("put", "queue"), f"{name}.{method}"


# -------------------------------------------------------------------------------------------- on the fake library


@pytest.fixture
def world():
    return fake_tensorrt.World()


@pytest.fixture
def ours(world, monkeypatch):
    """Our modules with the fakes, for one test."""
    names = (
        "sar2optical.engines.tensorrt_runtime",
        "sar2optical.engines.tensorrt",
        "export.tensorrt_builder",
        "export.to_tensorrt",
    )
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.fake_tensorrt(world))
    for name in names:
        package, _, attribute = name.rpartition(".")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(import_module(package), attribute, raising=False)  # the real one, if installed
    modules = runtime, engine, builder, build = tuple(map(import_module, names))
    torch = fake_tensorrt.fake_torch(world)
    for module in modules:
        monkeypatch.setattr(module, "torch", torch)
    yield SimpleNamespace(runtime=runtime, engine=engine, builder=builder, build=build, torch=torch)
    for name in names:
        del sys.modules[name]
        package, _, attribute = name.rpartition(".")
        delattr(sys.modules[package], attribute)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return make_identity(folder / "identity.onnx", SMALL)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()
    return folder


def in_precision(path, precision):
    """Write a precision into a model's metadata."""
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sar2optical.precision", precision
    onnx.save(model, path)
    return path


@pytest.fixture
def make(ours, model, folder):
    """Build a plan with some options."""

    def build(verify=None, on_progress=None, onnx_path=model, **options):
        return ours.build.build_plan(
            onnx_path,
            folder / "model.plan",
            ours.builder.PlanOptions(**{"batch": (1, 4, 8), **options}),
            verify=verify,
            rebuild="sar2opt-export identity.onnx model.plan",
            on_progress=on_progress,
        )

    return build


@pytest.fixture
def run_plan(ours, make, folder):
    """Build a plan and open it."""
    engines = []

    def opened(**options):
        make()
        engines.append(ours.engine.open(folder / "model.plan", EngineOptions(**options)))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


def chips(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 16, 16)).astype(np.float32)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_no_fake_is_left_behind():
    assert not isinstance(sys.modules.get("tensorrt"), fake_tensorrt.FakeModule)
    ours = sys.modules.get("sar2optical.engines.tensorrt")
    assert ours is getattr(sar2optical.engines, "tensorrt", None)
    assert ours is None or not isinstance(ours.tensorrt, fake_tensorrt.FakeModule)


def test_a_plan_and_its_record_are_written(make, folder, world, model):
    seen, steps = {}, []

    def verify(candidate):
        seen["record"] = load_record(candidate)
        seen["out"] = left_in(folder)
        return {"psnr_db": 51.5, "chips": "8 simulated"}

    world.types = ["Float", "Float"]
    record = make(verify, lambda *step: steps.append(step), workspace=1 << 30, hardware_compatibility="ampere_plus")
    assert left_in(folder) == ["model.plan", "model.plan.json"]
    assert load_record(folder / "model.plan") == record
    assert read_header(folder / "model.plan") == (11, 4, 0, 106)
    assert record.parity == {"psnr_db": 51.5, "chips": "8 simulated"}
    assert seen["record"].parity == {}
    assert "model.plan" not in seen["out"], "the output exists before it is verified"
    assert (record.precision, record.layers, record.batch) == ("fp32", {"fp32": 2}, (1, 4, 8))
    assert (record.gpu, record.compute_capability, record.tensorrt) == (world.gpu, (9, 0), "11.4.0.106")
    assert (record.signature, record.cuda) == (SMALL, "13.0")
    assert record.rebuild == "sar2opt-export identity.onnx model.plan"
    assert record.onnx_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert world.seen == {
        "network": 1 << 0,  # strongly typed
        "flags": set(),  # no TF32
        "level": fake_tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "WORKSPACE": 1 << 30,
    }
    assert steps == [("Building engine", done, 3) for done in (0, 1, 2, 3, 3)]


def test_a_plan_of_a_file_for_several_windows_takes_its_own_window(ours, make, model, folder, world):
    """The profile has one size; larger windows in plans are not supported yet."""
    several = onnx.load(model)
    for value in (several.graph.input[0], several.graph.output[0]):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], "HW", strict=True):
            dim.dim_param = name
    claimed = signature_of(window=16, windows=(32, 64))
    onnx.helper.set_model_props(several, {METADATA_KEY: claimed.to_json()})
    onnx.save(several, model)
    record = make()
    assert record.signature.sides == (16,)
    with ours.engine.open(folder / "model.plan", EngineOptions()) as engine:
        assert engine.windows == (16,)
        np.testing.assert_array_equal(engine.run(chips(1)), np.repeat(chips(1), 3, axis=1))
        with pytest.raises(OptionError, match="window is 32, but tiny in tensorrt takes 16"):
            engine.use_window(32)
    for precision, types in (("fp32", ["Float"]), ("int8", ["Int8"])):
        world.types = types
        result = export_plan(in_precision(model, precision), folder / f"{precision}.plan")
        assert result.exit_code == 0, result.output
        assert load_record(folder / f"{precision}.plan").signature.sides == (16,)


def test_external_weights_count_for_the_hash(make, tmp_path):
    constant = np.zeros((1, 1, 16, 16), np.float32)
    nodes = [
        onnx.helper.make_node("Add", ["sar", "bias"], ["sum"]),
        onnx.helper.make_node("Concat", ["sum"] * 3, ["optical"], axis=1),
    ]
    hashes = []
    for value in (0, 1):
        path = save_onnx(tmp_path / "outside.onnx", nodes, {"bias": constant + value}, SMALL)
        model = onnx.load(path)
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        hashes.append((make(onnx_path=path, overwrite=True).onnx_sha256, path.read_bytes()))
    assert hashes[0][1] == hashes[1][1]
    assert hashes[0][0] != hashes[1][0]


def test_metadata_of_the_file_are_kept_in_the_record(make, model):
    changed = onnx.load(model)
    for key, value in (("sar2optical.known_answer", "AAAA"), ("other", "x")):
        entry = changed.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(changed, model)
    assert make().metadata == {"sar2optical.known_answer": "AAAA"}


@pytest.mark.parametrize(
    ("precision", "types", "message"),
    [
        ("int8", ["Float"], r"the plan has no int8 layers \(found: 1 fp32\)"),
        ("fp16", ["Float", "BFloat16"], "the plan has no fp16 layers"),
        ("fp32", ["Float", "Half"], r"the plan has layers below fp32 \(found: 1 fp32, 1 fp16\)"),
    ],
)
def test_a_plan_in_another_precision_is_not_written(make, model, folder, world, precision, types, message):
    world.types = types
    with pytest.raises(ParityFailed, match=message):
        make(onnx_path=in_precision(model, precision))
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("precision", "types"), [("int8", ["Float", "Int8"]), ("fp16", ["Half"]), ("bf16", ["BFloat16"])]
)
def test_a_plan_in_the_requested_precision_is_written(make, model, world, precision, types):
    world.types = types
    record = make(onnx_path=in_precision(model, precision))
    assert record.precision == precision
    assert record.layers[precision] == 1


def test_nodes_that_the_parser_cannot_read_are_named(make, tmp_path, folder):
    nodes = [onnx.helper.make_node("NoSuchOp", ["sar"], ["optical"], name="decoder.3")]
    path = save_onnx(tmp_path / "odd.onnx", nodes, {}, SMALL)
    with pytest.raises(
        ExportUnsupported, match=r"decoder.3 \[NoSuchOp\]: Plugin not found, are the plugin"
    ) as caught:
        make(onnx_path=path)
    assert "\n" not in str(caught.value)
    assert left_in(folder) == []


def test_a_failed_build_is_an_error_with_tensorrts_reason(make, world, folder):
    world.builds = False
    with pytest.raises(ExportUnsupported, match=r"cannot build the plan .*no kernel for node deconv") as caught:
        make()
    assert "\n" not in str(caught.value)
    assert left_in(folder) == []


@pytest.mark.parametrize("what", ["no signature", "not ONNX", "missing", "halves"])
def test_files_that_were_not_exported_are_refused(make, model, tmp_path, what):
    path = tmp_path / "other.onnx"
    if what == "no signature":
        with pytest.raises(SignatureError, match="no signature"):
            make(onnx_path=make_identity(path, None))
    elif what == "not ONNX":
        path.write_bytes(b"hello")
        with pytest.raises(ModelUnreadable, match="corrupt, or not an ONNX model"):
            make(onnx_path=path)
    elif what == "missing":
        with pytest.raises(ModelUnreadable, match="no such file"):
            make(onnx_path=path)
    else:
        changed = onnx.load(model)
        entry = changed.metadata_props.add()
        entry.key, entry.value = "sar2optical.storage", "fp16"
        onnx.save(changed, path)
        with pytest.raises(ExportUnsupported, match=r"stored in fp16.*--storage fp32"):
            make(onnx_path=path)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("batch", r"input shape is \(1, 1, 16, 16\)"),
        ("side", r"input shape is \(-1, 1, 32, 16\)"),
        ("height", r"input shape is \(-1, 1, -1, 16\)"),
        ("name", "input and output are sar, out,"),
        ("type", "must be float32"),
    ],
)
def test_a_network_that_the_engine_could_not_feed_is_refused(make, model, what, message):
    changed = onnx.load(model)
    given, made = changed.graph.input[0].type.tensor_type, changed.graph.output[0]
    if what == "batch":
        given.shape.dim[0].dim_value = 1
    elif what == "side":
        given.shape.dim[2].dim_value = 32
    elif what == "height":
        given.shape.dim[2].dim_param = "H"
    elif what == "name":
        made.name = "out"
    else:
        made.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(changed, model)
    with pytest.raises(ExportUnsupported, match=message):
        make()


def test_without_a_gpu_nothing_is_built(make, world):
    world.has_gpu = False
    with pytest.raises(DeviceUnavailable, match=r"device cuda is not available.*nvidia-smi"):
        make()


def test_a_tensorrt_that_does_not_start_is_an_error(make, world):
    world.works = False
    with pytest.raises(
        DeviceUnavailable, match=r"TensorRT 11.4.0.106 does not work on this machine .*nullptr.*driver"
    ):
        make()


def test_a_plan_that_fails_verification_is_not_written(make, folder):
    def verify(candidate):
        raise ParityFailed("parity is 12.0 dB")

    with pytest.raises(ParityFailed, match="parity is"):
        make(verify)
    assert left_in(folder) == []


def test_an_existing_plan_is_kept_until_the_new_one_is_verified(make, folder, world):
    make()
    before = {name: (folder / name).read_bytes() for name in left_in(folder)}
    with pytest.raises(OutputExists, match="--overwrite"):
        make()

    def verify(candidate):
        raise ParityFailed("no")

    with pytest.raises(ParityFailed):
        make(verify, overwrite=True, batch=(1, 1, 1))
    assert {name: (folder / name).read_bytes() for name in left_in(folder)} == before
    make(overwrite=True, batch=(1, 1, 1))
    assert load_record(folder / "model.plan").batch == (1, 1, 1)
    assert left_in(folder) == ["model.plan", "model.plan.json"]


@pytest.mark.parametrize("moves", range(4))
def test_plan_and_record_are_replaced_together_or_not_at_all(make, folder, monkeypatch, moves):
    make()
    before = {name: (folder / name).read_bytes() for name in left_in(folder)}
    replace, left = Path.replace, [moves]

    def failing(source, target):
        inside = folder in (source.parent, Path(target).parent) and "tmp" not in source.name
        if inside and left[0] == 0:
            left[0] = -1
            raise OSError(28, "No space left on device")
        left[0] -= inside
        moved = replace(source, target)
        if (folder / "model.plan").exists():
            load_record(folder / "model.plan")  # raises if the two do not match
        return moved

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputUnwritable, match="No space left"):
        make(overwrite=True, batch=(1, 1, 1))
    assert {name: (folder / name).read_bytes() for name in left_in(folder)} == before


def test_an_interrupt_in_the_callback_stops_the_build(make, folder, world):
    world.steps = 1000
    steps = []

    def on_progress(*step):
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(on_progress=on_progress)
    assert len(steps) == 3
    assert world.stepped < 4
    assert left_in(folder) == []


def test_ctrl_c_stops_a_long_build(make, folder, world):
    world.steps = 10_000
    steps = []

    def on_progress(*step):  # on the build's thread
        steps.append(step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.005)

    with pytest.raises(KeyboardInterrupt):
        make(on_progress=on_progress)
    assert world.stepped < 1000
    assert left_in(folder) == []


def test_an_error_in_the_build_thread_is_raised_by_the_call(make, monkeypatch, ours, folder):
    def fails(self, network, config):
        raise RuntimeError("a bug of the bindings")

    monkeypatch.setattr(sys.modules["tensorrt"].Builder, "build_serialized_network", fails)
    with pytest.raises(RuntimeError, match="a bug of the bindings"):
        make()
    assert left_in(folder) == []


def times_in(file):
    return json.loads(file.read_bytes())["times"]


def test_timings_are_kept_for_the_next_build(make, tmp_path, world):
    cache = tmp_path / "timings"
    make(timing_cache=cache)
    file = cache / cache_name(world.version, world.gpu, world.capability)
    assert times_in(file) == ["Float"]
    world.types = ["FP32"]
    make(timing_cache=cache, overwrite=True)
    assert times_in(file) == ["FP32", "Float"]


def test_timings_of_two_builds_at_once_are_both_kept(make, tmp_path, world):
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name(world.version, world.gpu, world.capability)

    def on_progress(*step):  # another build ends during this one
        file.write_text(json.dumps({"key": f"{world.version} {world.gpu}", "times": ["theirs"]}))

    make(timing_cache=cache, on_progress=on_progress)
    assert times_in(file) == ["Float", "theirs"]


@pytest.mark.parametrize("held", [b'{"key": "11.4.0.106 Tesla T4", "times": ["foreign"]}', b"rubbish"])
def test_timings_of_another_gpu_are_ignored_with_a_warning(make, tmp_path, world, caplog, held):
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name(world.version, world.gpu, world.capability)
    file.write_bytes(held)
    make(timing_cache=cache)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert times_in(file) == ["Float"]


def test_a_timing_cache_locked_by_another_build_is_only_a_warning(make, ours, tmp_path, world, monkeypatch, caplog):
    from sar2optical._utils.files import try_lock

    monkeypatch.setattr(ours.builder, "_LOCK_TIMEOUT", 0.0)
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name(world.version, world.gpu, world.capability)
    with file.with_name(file.name + ".lock").open("ab") as lock:
        assert try_lock(lock)
        make(timing_cache=cache)
    assert "locked by another build" in caplog.text
    assert not file.exists()


def test_a_failed_build_writes_no_timings(make, tmp_path, world):
    world.builds = False
    with pytest.raises(ExportUnsupported):
        make(timing_cache=tmp_path / "timings")
    assert not (tmp_path / "timings").exists()


def test_invalid_options_are_refused(ours, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for options, message in (
        ({"batch": (4, 2, 8)}, "batch sizes are"),
        ({"workspace": 0}, "workspace is 0"),
        ({"hardware_compatibility": "all"}, "hardware compatibility is 'all'"),
        ({"timing_cache": tmp_path / "file"}, "is not a folder"),
    ):
        with pytest.raises(OptionError, match=message):
            ours.builder.PlanOptions(**options)


def test_only_plans_are_written(ours, model, folder):
    with pytest.raises(ExportUnsupported, match=r"model.onnx: not a name of a plan: give .* in \.plan"):
        ours.build.build_plan(
            model, folder / "model.onnx", ours.builder.PlanOptions(), verify=None, rebuild="", on_progress=None
        )


# --------------------------------------------------------------------------------------------------------- the engine


def test_a_plan_runs_and_reports_its_device(run_plan, world):
    engine, sar = run_plan(batch=4, device="cuda"), chips(6)
    found = np.concatenate([engine.run(sar[:4]), engine.run(sar[4:])])
    np.testing.assert_array_equal(found, np.repeat(sar, 3, axis=1))
    assert (engine.backend, engine.precision, engine.batch, engine.streams) == ("tensorrt", "fp32", 4, 2)
    assert engine.device == "cuda (NVIDIA H100 80GB HBM3)"
    assert engine.signature == SMALL


def test_a_plan_opens_by_its_name(make, folder):
    make()
    with open_engine(folder / "model.plan", backend="tensorrt", options=EngineOptions(batch=2)) as engine:
        assert engine.backend == "tensorrt"


def test_batches_are_replayed_as_graphs_of_one_run(run_plan, world):
    engine = run_plan(batch=2)
    for seed in range(6):
        engine.run(chips(2, seed))
    assert world.captured == [1, 1]  # one kernel launch per graph, one graph per slot
    assert world.replayed == 6


def test_results_are_not_read_before_they_are_ready(run_plan, ours, monkeypatch):
    engine = run_plan(batch=2)
    engine.run(chips(2))
    sound = engine.run(chips(2))
    assert np.isfinite(sound).all()
    monkeypatch.setattr(ours.torch.cuda.Event, "synchronize", lambda self: None)
    early = engine.run(chips(2, seed=5))
    assert not np.array_equal(early, np.repeat(chips(2, seed=5), 3, axis=1)), "the fake would hide a missing wait"


def test_the_caller_owns_the_result(run_plan):
    engine = run_plan(batch=1)
    first = engine.run(chips(1, seed=1))
    kept = first.copy()
    for seed in (2, 3, 4):
        engine.run(chips(1, seed))
    np.testing.assert_array_equal(first, kept)


def test_two_batches_are_in_flight_each_in_its_own_slot(run_plan, ours, monkeypatch):
    engine, gate = run_plan(batch=1), threading.Barrier(2, timeout=5)
    engine.run(chips(1))
    engine.run(chips(1))
    wait = ours.torch.cuda.Event.synchronize

    def together(event):
        gate.wait()  # passes only if both are in flight
        wait(event)

    monkeypatch.setattr(ours.torch.cuda.Event, "synchronize", together)
    found = {}

    def go(seed):
        found[seed] = engine.run(chips(1, seed))

    world_threads = [threading.Thread(target=go, args=(seed,)) for seed in (1, 2)]
    for thread in world_threads:
        thread.start()
    for thread in world_threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(found[seed], np.repeat(chips(1, seed), 3, axis=1))


def test_without_graphs_batches_are_enqueued(run_plan, world, caplog):
    world.captures = False
    engine = run_plan(batch=2)
    for seed in range(3):
        np.testing.assert_array_equal(engine.run(chips(2, seed)), np.repeat(chips(2, seed), 3, axis=1))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "CUDA graphs are not available" in warnings[0]


def test_a_batch_that_does_not_fit_is_halved(run_plan, world):
    engine, sar = run_plan(batch=5), chips(5)
    world.memory = 3 * 3 * 16 * 16 * 4  # three windows of colours
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    world.given.clear()
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    assert [len(given) for given in world.given][-3:] == [2, 2, 2], (
        "the last piece is padded, not run in another size"
    )
    np.testing.assert_array_equal(world.given[-1], [sar[4], 0 * sar[4]])


def test_a_window_that_does_not_fit_alone_is_an_error(run_plan, world):
    engine = run_plan(batch=2)
    world.memory = 8
    with pytest.raises(DeviceOutOfMemory, match=r"1 windows at once do not fit.*--batch-size"):
        engine.run(chips(2))
    world.memory = float("inf")
    assert engine.run(chips(2)).shape == (2, 3, 16, 16)


def test_a_failed_execution_is_an_error_and_the_next_one_runs(run_plan, world):
    world.captures = False
    engine = run_plan(batch=1)
    engine.run(chips(1))
    engine.run(chips(1))
    world.executes = False
    with pytest.raises(InferenceFailed, match="TensorRT failed: Cask convolution execution failed"):
        engine.run(chips(1))
    assert not any(stream.queue for stream in world.streams.values()), "a copy is still in flight"
    world.executes = True
    for seed in (1, 2):
        np.testing.assert_array_equal(engine.run(chips(1, seed)), np.repeat(chips(1, seed), 3, axis=1))


def test_closing_twice_releases_everything(run_plan, world):
    engine = run_plan(batch=1)
    engine.run(chips(1))
    assert sorted(world.living) == ["engine", "runtime"]
    engine.close()
    engine.close()
    assert world.living == []
    with pytest.raises(InferenceFailed, match="is closed: open it again"):
        engine.run(chips(1))


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"version": "11.3.0.99"}, {}, ModelUnreadable, "built by TensorRT 11.4.0.106, but 11.3.0.99 is installed"),
        (
            {"gpu": "NVIDIA H200"},
            {},
            DeviceUnavailable,
            "built for NVIDIA H100 80GB HBM3, but this GPU is NVIDIA H200",
        ),
        ({"capability": (8, 0)}, {}, DeviceUnavailable, "compute capability 9.0"),
        ({"has_gpu": False}, {}, DeviceUnavailable, "device cuda is not available"),
        ({"works": False}, {}, DeviceUnavailable, "does not work on this machine"),
        ({"loads": "Error Code 1: Serialization"}, {}, ModelUnreadable, "cannot load the plan .Error Code 1"),
        ({"loads": "Error Code 2: OutOfMemory"}, {}, DeviceOutOfMemory, "does not fit the GPU's memory"),
        ({}, {"device": "cpu"}, DeviceUnavailable, "device cpu is not available with tensorrt: give cuda"),
        ({}, {"precision": "int8"}, DeviceUnavailable, "the plan is fp32, not int8"),
        ({}, {"batch": 9}, OptionError, "batch size is 9: the plan accepts 1 to 8"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_before_it_is_loaded(
    make, ours, folder, world, monkeypatch, change, options, error, message
):
    make()
    for name, value in change.items():
        setattr(world, name, value)
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", world.version)
    if "loads" not in change and "works" not in change:
        monkeypatch.setattr(ours.engine, "deserialize", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(error, match=message) as caught:
        ours.engine.open(folder / "model.plan", EngineOptions(**options))
    assert "\n" not in str(caught.value)
    if error is ModelUnreadable:
        assert "sar2opt-export identity.onnx model.plan" in str(caught.value)


@pytest.mark.parametrize("what", ["cut", "text", "no record", "record of another plan"])
def test_a_plan_with_a_damaged_file_is_refused(make, ours, folder, what):
    make()
    path = folder / "model.plan"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "text":
        path.write_bytes(b"not a plan, but long enough for a header")
    elif what == "no record":
        record_path(path).unlink()
    else:
        record = PlanRecord.from_json(record_path(path).read_text())
        text = record.to_json().replace(record.sha256, "0" * 64)
        record_path(path).write_text(text)
    with pytest.raises((ModelUnreadable, SignatureError)) as caught:
        ours.engine.open(path, EngineOptions())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["names", "order", "type"])
def test_a_plan_with_other_tensors_is_refused(make, ours, folder, monkeypatch, change):
    changes = {
        "names": {"tensors": ["sar", "out"]},
        "order": {"tensors": ["optical", "sar"]},
        "type": {"dtype": fake_tensorrt.DataType.HALF},
    }
    plan_of = fake_tensorrt.plan_of
    monkeypatch.setattr(fake_tensorrt, "plan_of", lambda *given: plan_of(*given, **changes[change]))
    make()
    with pytest.raises(ModelUnreadable, match="must be sar and optical in float32"):
        ours.engine.open(folder / "model.plan", EngineOptions())


# ------------------------------------------------------------------------------------------------------- the command


def export_plan(*arguments):
    from export.cli import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_builds_verifies_and_records(ours, world, model, folder):
    out = folder / "model.plan"
    result = export_plan(
        model, out, "--batch", 2, 4, 8, "--workspace", 0.5, "--timing-cache", folder.parent / "times"
    )
    assert result.exit_code == 0, result.output
    assert left_in(folder) == ["model.plan", "model.plan.json"]
    record = load_record(out)
    assert (record.batch, record.precision) == ((2, 4, 8), "fp32")
    assert float(record.parity["psnr"]) == float("inf")  # the fake of TensorRT is exact
    assert record.parity["source"] == "simulated"
    assert "--batch 2 4 8" in record.rebuild
    assert "--workspace 0.5" in record.rebuild
    with open_engine(out, backend="tensorrt", options=EngineOptions(device="cuda", batch=2)) as engine:
        sar = chips(2)
        np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))


def test_the_command_refuses_a_plan_that_returns_another_image(ours, model, folder, monkeypatch):
    wrong = ours.engine.TensorRTEngine._infer
    monkeypatch.setattr(ours.engine.TensorRTEngine, "_infer", lambda self, sar: -wrong(self, sar))
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "dB" in result.stderr
    assert "Traceback" not in result.stderr
    assert left_in(folder) == []


def test_a_file_in_a_lower_precision_is_built_unchanged(ours, world, model, folder):
    in_precision(model, "int8")
    world.types = ["Int8"]
    result = export_plan(model, folder / "model.plan", "--precision", "fp16")
    assert result.exit_code == 1
    assert "is already int8, not fp16" in result.stderr
    assert left_in(folder) == []
    result = export_plan(model, folder / "model.plan", "--precision", "int8")  # needs no calibration data
    assert result.exit_code == 0, result.output
    assert load_record(folder / "model.plan").precision == "int8"


@pytest.mark.parametrize(("noise", "code"), [(0.01, 0), (0.04, 1)])  # 46 and 34 dB
def test_a_file_in_a_lower_precision_has_the_floor_of_its_precision(
    ours, world, model, folder, monkeypatch, noise, code
):
    in_precision(model, "int8")
    world.types = ["Int8"]
    exact = ours.engine.TensorRTEngine._infer
    noisy = np.random.default_rng(0).normal(0, noise, (1, 3, 16, 16)).astype(np.float32)
    monkeypatch.setattr(ours.engine.TensorRTEngine, "_infer", lambda self, sar: exact(self, sar) + noisy)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == code, result.output
    assert left_in(folder) == (["model.plan", "model.plan.json"] if code == 0 else [])
    if code:
        assert "at least 40 dB is required" in result.stderr


def test_without_tensorrt_the_command_names_the_extra(model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for name in ("export.to_tensorrt", "export.tensorrt_builder"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("sar2optical.engines.tensorrt", "sar2optical.engines.tensorrt_runtime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "needs tensorrt: pip install 'sar2optical[tensorrt]'" in result.stderr
    assert left_in(folder) == []
