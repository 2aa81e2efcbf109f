"""Plans: built, looked into and run as the real API has it, on a small TensorRT that stands in for it.

No machine of ours has the library. So the calls are compared with NVIDIA's own Python bindings, over libraries of the
test's making whose factories give nothing; and what follows from the calls is seen on `fake_tensorrt`, which is
compared with the same bindings.
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
from tests import fake_tensorrt
from tests.conftest import make_identity, save_onnx, signature_of

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "sar2optical/engines/tensorrt.py", ROOT / "export/to_tensorrt.py"]

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
"""What the bindings link to."""

DESCRIBE = r'''
import inspect, json, re, sys
import tensorrt_bindings as tensorrt

def arguments(text):
    """[name, whether it has a default] of each argument but self, from one signature of a docstring."""
    depth, parts, part = 0, [], ""
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    parts.append(part)
    named = [(p.split(":")[0].strip(), "=" in p) for p in parts if p.strip()]
    return [pair for pair in named if pair[0] != "self"]

def calls(name, doc):
    return [arguments(found) for found in re.findall(rf"(?:^|\d\. ){re.escape(name)}\((self: .*)\) ->", doc, re.M)]

def describe(cls):
    members = getattr(cls, "__members__", None)
    if members is not None:
        return {name: {"kind": "value", "value": int(value)} for name, value in members.items()}
    told = {}
    for name in dir(cls):
        item = inspect.getattr_static(cls, name)
        if isinstance(item, property):
            told[name] = {"kind": "property", "writable": item.fset is not None}
        elif name == "__init__" or not name.startswith("_"):
            doc = getattr(getattr(cls, name), "__doc__", None) or ""
            told[name] = {"kind": "method", "calls": calls(name, doc)}
    return told

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
        pytest.skip("the bindings are looked at on Linux")
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("there is no C compiler (cc) for the libraries under the bindings")
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
    told = json.loads(found.stdout.splitlines()[-1])
    print("TensorRT", told["version"])
    return told["classes"]


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
"""What our variables of these names hold, in both modules; with or without an underscore."""


def dotted(node):
    """`a.b.c` of a chain of attributes, or None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def used(source):
    """(class, member, node) of all that a module uses of TensorRT."""
    for node in ast.walk(ast.parse(source)):
        chain = dotted(node) if isinstance(node, ast.Attribute) else None
        holder, _, member = (chain or "").removeprefix("self.").rpartition(".")
        if holder == "tensorrt" or holder.startswith("tensorrt."):
            yield holder[len("tensorrt.") :], member, node
        elif holder.lstrip("_") in VARIABLES:
            yield VARIABLES[holder.lstrip("_")], member, node


def complaints(source, api):
    """Say what in a module the real API does not have."""
    tree = ast.parse(source)
    calls = {place(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from complaints_about_class(node, api)
    for holder, member, node in used(source):
        name = f"{holder}.{member}" if holder else member
        known = api.get(holder, {}).get(member)
        if known is None:
            if name not in api and name != "__version__":
                yield f"{name} is not there"
        elif isinstance(node.ctx, ast.Store) and not known.get("writable"):
            yield f"{name} cannot be set"
        elif (call := calls.get(place(node))) and not any(takes(given, call) for given in known.get("calls", [])):
            yield f"{name} takes no such arguments"


def complaints_about_class(node, api):
    """Say which methods that TensorRT calls take other arguments than it gives."""
    for base in filter(None, map(dotted, node.bases)):
        real = api.get(base.removeprefix("tensorrt."), {})
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name in real and method.name != "__init__":
                names = [argument.arg for argument in method.args.args][1:]
                if names not in [[name for name, _ in call] for call in real[method.name]["calls"]]:
                    yield f"{node.name}.{method.name}({', '.join(names)})"


def place(node):
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def takes(arguments, call):
    """Whether a signature takes a call's arguments."""
    names = [name for name, _ in arguments]
    given = {*names[: len(call.args)], *(keyword.arg for keyword in call.keywords)}
    needed = {name for name, default in arguments if not default}
    return len(call.args) <= len(names) and needed <= given <= set(names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_all_that_we_use_of_tensorrt_is_in_the_real_api(api, source):
    text = source.read_text(encoding="utf-8")
    assert not list(complaints(text, api))
    assert len(list(used(text))) > 20


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("config.set_flag(tensorrt.BuilderFlag.FP17)", "BuilderFlag.FP17 is not there"),
        ("tensorrt.NoSuchClass", "NoSuchClass is not there"),
        ("config.int8_calibrator_of = 1", "IBuilderConfig.int8_calibrator_of is not there"),
        ("network.num_inputs = 1", "INetworkDefinition.num_inputs cannot be set"),
        ("profile.set_shape('sar', a, b)", "IOptimizationProfile.set_shape takes no such arguments"),
        ("profile.set_shape('sar', least=a, opt=b, max=c)", "IOptimizationProfile.set_shape takes no such arguments"),
        ("self._context.execute_async_v4(s)", "IExecutionContext.execute_async_v4 is not there"),
        ("class A(tensorrt.IProgressMonitor):\n def step_complete(self, name): ...", "A.step_complete(name)"),
    ],
)
def test_what_the_real_api_lacks_is_found(api, line, complaint):
    assert complaint in list(complaints(line, api))


def test_flags_that_tensorrt_11_removed_are_not_used():
    for source in SOURCES:
        named = {f"{holder}.{member}" for holder, member, _ in used(source.read_text(encoding="utf-8"))}
        assert not named & {f"BuilderFlag.{name}" for name in ("FP16", "BF16", "INT8", "FP8")}


def test_the_fake_says_nothing_that_the_real_api_does_not(api):
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


def test_the_fake_of_pytorch_has_only_what_pytorch_has():
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


# --------------------------------------------------------------------------------------------------- on the small one


@pytest.fixture
def world():
    return fake_tensorrt.World()


@pytest.fixture
def ours(world, monkeypatch):
    """Our two modules over the fakes, for one test."""
    names = ("sar2optical.engines.tensorrt", "export.to_tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.fake_tensorrt(world))
    for name in names:
        package, _, attribute = name.rpartition(".")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(import_module(package), attribute, raising=False)  # the real one, where there is one
    engine, build = map(import_module, names)
    torch = fake_tensorrt.fake_torch(world)
    for module in (engine, build):
        monkeypatch.setattr(module, "torch", torch)
    yield SimpleNamespace(engine=engine, build=build, torch=torch)
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


def asking(path, precision):
    """Say in a model's metadata which precision it is in."""
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sar2optical.precision", precision
    onnx.save(model, path)
    return path


@pytest.fixture
def make(ours, model, folder):
    """Build a plan with some options."""

    def build(verify=None, progress=None, onnx_path=model, **options):
        return ours.build.build_plan(
            onnx_path,
            folder / "model.plan",
            ours.build.PlanOptions(**{"batch": (1, 4, 8), **options}),
            verify=verify,
            rebuild="sar2opt-export identity.onnx model.plan",
            progress=progress,
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
    seen, told = {}, []

    def verify(candidate):
        seen["record"] = load_record(candidate)
        seen["out"] = left_in(folder)
        return {"psnr_db": 51.5, "chips": "8 simulated"}

    world.types = ["Float", "Float"]
    record = make(verify, lambda *step: told.append(step), workspace=1 << 30, hardware_compatibility="ampere_plus")
    assert left_in(folder) == ["model.plan", "model.plan.json"]
    assert load_record(folder / "model.plan") == record
    assert read_header(folder / "model.plan") == (11, 4, 0, 106)
    assert record.parity == {"psnr_db": 51.5, "chips": "8 simulated"}
    assert seen["record"].parity == {}
    assert "model.plan" not in seen["out"], "it must not be there before it is verified"
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
    steps = [("Building engine", done, 3) for done in (0, 1, 2, 3, 3)]
    assert told == steps


def test_weights_that_lie_outside_count_for_the_hash(make, tmp_path):
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


def test_what_the_file_says_of_itself_is_kept(make, model):
    changed = onnx.load(model)
    for key, value in (("sar2optical.known_answer", "AAAA"), ("other", "x")):
        entry = changed.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(changed, model)
    assert make().metadata == {"sar2optical.known_answer": "AAAA"}


@pytest.mark.parametrize(
    ("asked", "types", "message"),
    [
        ("int8", ["Float"], "asked int8, the plan has no such layer, but 1 of fp32"),
        ("fp16", ["Float", "BFloat16"], "asked fp16, the plan has no such layer"),
        ("fp32", ["Float", "Half"], "asked fp32, the plan has layers: 1 of fp32, 1 of fp16"),
    ],
)
def test_a_plan_in_another_precision_is_not_written(make, model, folder, world, asked, types, message):
    world.types = types
    with pytest.raises(ParityFailed, match=message):
        make(onnx_path=asking(model, asked))
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("asked", "types"), [("int8", ["Float", "Int8"]), ("fp16", ["Half"]), ("bf16", ["BFloat16"])]
)
def test_a_plan_in_the_precision_that_was_asked_is_written(make, model, world, asked, types):
    world.types = types
    record = make(onnx_path=asking(model, asked))
    assert record.precision == asked
    assert record.layers[asked] == 1


def test_what_the_parser_stops_at_is_named(make, tmp_path, folder):
    nodes = [onnx.helper.make_node("NoSuchOp", ["sar"], ["optical"], name="decoder.3")]
    path = save_onnx(tmp_path / "odd.onnx", nodes, {}, SMALL)
    with pytest.raises(
        ExportUnsupported, match=r"decoder.3 \[NoSuchOp\]: Plugin not found, are the plugin"
    ) as caught:
        make(onnx_path=path)
    assert "\n" not in str(caught.value)
    assert left_in(folder) == []


def test_a_network_that_is_not_built_is_an_error_with_tensorrts_words(make, world, folder):
    world.builds = False
    with pytest.raises(ExportUnsupported, match=r"does not build it .*no kernel for node deconv") as caught:
        make()
    assert "\n" not in str(caught.value)
    assert left_in(folder) == []


@pytest.mark.parametrize("what", ["no signature", "no ONNX", "missing", "halves"])
def test_files_that_are_not_ours_are_refused(make, model, tmp_path, what):
    path = tmp_path / "other.onnx"
    if what == "no signature":
        with pytest.raises(SignatureError, match="no signature"):
            make(onnx_path=make_identity(path, None))
    elif what == "no ONNX":
        path.write_bytes(b"hello")
        with pytest.raises(ModelUnreadable, match="corrupt, or no ONNX model"):
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
        ("batch", r"input is \(1, 1, 16, 16\)"),
        ("side", r"input is \(-1, 1, 32, 16\)"),
        ("name", "tensors are sar, out,"),
        ("type", "no float32"),
    ],
)
def test_a_network_that_the_engine_could_not_feed_is_refused(make, model, what, message):
    changed = onnx.load(model)
    given, made = changed.graph.input[0].type.tensor_type, changed.graph.output[0]
    if what == "batch":
        given.shape.dim[0].dim_value = 1
    elif what == "side":
        given.shape.dim[2].dim_value = 32
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


def test_a_tensorrt_that_does_not_start_is_named(make, world):
    world.works = False
    with pytest.raises(DeviceUnavailable, match=r"TensorRT 11.4.0.106 does not work here .*nullptr.*driver"):
        make()


def test_a_plan_that_fails_its_check_leaves_nothing(make, folder):
    def verify(candidate):
        raise ParityFailed("parity is 12.0 dB")

    with pytest.raises(ParityFailed, match="parity is"):
        make(verify)
    assert left_in(folder) == []


def test_what_was_there_is_kept_until_the_new_one_is_good(make, folder, world):
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
def test_a_pair_is_replaced_whole_or_not_at_all(make, folder, monkeypatch, moves):
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
            load_record(folder / "model.plan")  # raises where the pair does not match
        return moved

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputUnwritable, match="No space left"):
        make(overwrite=True, batch=(1, 1, 1))
    assert {name: (folder / name).read_bytes() for name in left_in(folder)} == before


def test_an_interrupt_in_the_progress_ends_the_build(make, folder, world):
    world.steps = 1000
    told = []

    def progress(*step):
        told.append(step)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(progress=progress)
    assert len(told) == 3
    assert world.stepped < 4
    assert left_in(folder) == []


def test_ctrl_c_ends_a_build_that_takes_long(make, folder, world):
    world.steps = 10_000
    told = []

    def progress(*step):  # on the build's thread
        told.append(step)
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.005)

    with pytest.raises(KeyboardInterrupt):
        make(progress=progress)
    assert world.stepped < 1000
    assert left_in(folder) == []


def test_an_error_in_the_build_is_raised_where_it_was_called(make, monkeypatch, ours, folder):
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

    def progress(*step):  # another build ends while this one goes on
        file.write_text(json.dumps({"key": f"{world.version} {world.gpu}", "times": ["theirs"]}))

    make(timing_cache=cache, progress=progress)
    assert times_in(file) == ["Float", "theirs"]


@pytest.mark.parametrize("held", [b'{"key": "11.4.0.106 Tesla T4", "times": ["foreign"]}', b"rubbish"])
def test_timings_of_another_gpu_are_left_out_with_a_word(make, tmp_path, world, caplog, held):
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name(world.version, world.gpu, world.capability)
    file.write_bytes(held)
    make(timing_cache=cache)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert str(file) in said[0]
    assert times_in(file) == ["Float"]


def test_a_cache_that_another_build_holds_costs_no_plan(make, ours, tmp_path, world, monkeypatch, caplog):
    from sar2optical._utils.files import try_lock

    monkeypatch.setattr(ours.build, "_PATIENCE", 0.0)
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name(world.version, world.gpu, world.capability)
    with file.with_name(file.name + ".lock").open("ab") as lock:
        assert try_lock(lock)
        make(timing_cache=cache)
    assert "another build holds" in caplog.text
    assert not file.exists()


def test_a_build_that_fails_leaves_no_timings(make, tmp_path, world):
    world.builds = False
    with pytest.raises(ExportUnsupported):
        make(timing_cache=tmp_path / "timings")
    assert not (tmp_path / "timings").exists()


def test_options_that_no_build_can_use_are_refused(ours, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for options, message in (
        ({"batch": (4, 2, 8)}, "batch sizes are"),
        ({"workspace": 0}, "workspace is 0"),
        ({"hardware_compatibility": "all"}, "hardware compatibility is 'all'"),
        ({"timing_cache": tmp_path / "file"}, "is no folder"),
    ):
        with pytest.raises(OptionError, match=message):
            ours.build.PlanOptions(**options)


def test_only_plans_are_written(ours, model, folder):
    with pytest.raises(ExportUnsupported, match=r"model.onnx: plans are .plan files"):
        ours.build.build_plan(
            model, folder / "model.onnx", ours.build.PlanOptions(), verify=None, rebuild="", progress=None
        )


# --------------------------------------------------------------------------------------------------------- the engine


def test_a_plan_runs_and_says_on_what(run_plan, world):
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
    assert world.captured == [1, 1]  # one kernel launch each, one graph for each slot
    assert world.replayed == 6


def test_results_are_not_read_before_they_are_there(run_plan, ours, monkeypatch):
    engine = run_plan(batch=2)
    engine.run(chips(2))
    sound = engine.run(chips(2))
    assert np.isfinite(sound).all()
    monkeypatch.setattr(ours.torch.cuda.Event, "synchronize", lambda self: None)
    early = engine.run(chips(2, seed=5))
    assert not np.array_equal(early, np.repeat(chips(2, seed=5), 3, axis=1)), "the fake would hide a missing wait"


def test_a_result_is_the_callers_own(run_plan):
    engine = run_plan(batch=1)
    first = engine.run(chips(1, seed=1))
    kept = first.copy()
    for seed in (2, 3, 4):
        engine.run(chips(1, seed))
    np.testing.assert_array_equal(first, kept)


def test_two_batches_go_at_once_each_in_a_slot_of_its_own(run_plan, ours, monkeypatch):
    engine, gate = run_plan(batch=1), threading.Barrier(2, timeout=5)
    engine.run(chips(1))
    engine.run(chips(1))
    wait = ours.torch.cuda.Event.synchronize

    def together(event):
        gate.wait()  # passes only when both are in flight
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


def test_where_graphs_do_not_work_batches_are_enqueued(run_plan, world, caplog):
    world.captures = False
    engine = run_plan(batch=2)
    for seed in range(3):
        np.testing.assert_array_equal(engine.run(chips(2, seed)), np.repeat(chips(2, seed), 3, axis=1))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "CUDA graphs do not work here" in said[0]


def test_a_batch_that_does_not_fit_is_halved(run_plan, world):
    engine, sar = run_plan(batch=5), chips(5)
    world.memory = 3 * 3 * 16 * 16 * 4  # three windows of colours
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    world.given.clear()
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    assert [len(given) for given in world.given][-3:] == [2, 2, 2], "what is left is padded, not another size"
    np.testing.assert_array_equal(world.given[-1], [sar[4], 0 * sar[4]])


def test_a_window_that_does_not_fit_alone_is_an_error(run_plan, world):
    engine = run_plan(batch=2)
    world.memory = 8
    with pytest.raises(DeviceOutOfMemory, match=r"does not hold 1 windows.*--batch-size"):
        engine.run(chips(2))
    world.memory = float("inf")
    assert engine.run(chips(2)).shape == (2, 3, 16, 16)


def test_an_execution_that_fails_is_named_and_the_next_one_runs(run_plan, world):
    world.captures = False
    engine = run_plan(batch=1)
    engine.run(chips(1))
    engine.run(chips(1))
    world.executes = False
    with pytest.raises(InferenceFailed, match="tensorrt stopped: Cask convolution execution failed"):
        engine.run(chips(1))
    assert not any(stream.queue for stream in world.streams.values()), "a copy is still in flight"
    world.executes = True
    for seed in (1, 2):
        np.testing.assert_array_equal(engine.run(chips(1, seed)), np.repeat(chips(1, seed), 3, axis=1))


def test_closing_releases_all_and_may_be_done_twice(run_plan, world):
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
        ({"version": "11.3.0.99"}, {}, ModelUnreadable, "built by TensorRT 11.4.0.106, 11.3.0.99 is installed"),
        ({"gpu": "NVIDIA H200"}, {}, DeviceUnavailable, "built for NVIDIA H100 80GB HBM3, this GPU is NVIDIA H200"),
        ({"capability": (8, 0)}, {}, DeviceUnavailable, "compute capability 9.0"),
        ({"has_gpu": False}, {}, DeviceUnavailable, "device cuda is not available"),
        ({"works": False}, {}, DeviceUnavailable, "does not work here"),
        ({"loads": "Error Code 1: Serialization"}, {}, ModelUnreadable, "does not load it .Error Code 1"),
        ({"loads": "Error Code 2: OutOfMemory"}, {}, DeviceOutOfMemory, "memory does not hold it"),
        ({}, {"device": "cpu"}, DeviceUnavailable, "device cpu is not available with tensorrt: give cuda"),
        ({}, {"precision": "int8"}, DeviceUnavailable, "precision int8 was asked, the plan is fp32"),
        ({}, {"batch": 9}, OptionError, "batch size is 9: the plan takes 1 to 8"),
    ],
)
def test_a_plan_that_cannot_run_as_asked_is_refused_before_it_does(
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


@pytest.mark.parametrize("what", ["cut", "text", "no record", "another's record"])
def test_a_plan_that_is_not_whole_is_refused(make, ours, folder, what):
    make()
    path = folder / "model.plan"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "text":
        path.write_bytes(b"no plan at all, but long enough for its header")
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
def test_a_plan_with_other_tensors_gets_no_buffers(make, ours, folder, monkeypatch, change):
    changes = {
        "names": {"tensors": ["sar", "out"]},
        "order": {"tensors": ["optical", "sar"]},
        "type": {"dtype": fake_tensorrt.DataType.HALF},
    }
    plan_of = fake_tensorrt.plan_of
    monkeypatch.setattr(fake_tensorrt, "plan_of", lambda *given: plan_of(*given, **changes[change]))
    make()
    with pytest.raises(ModelUnreadable, match="not sar and optical in float32"):
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
    assert float(record.parity["psnr"]) == float("inf")  # TensorRT's stand-in is exact
    assert record.parity["source"] == "simulated"
    assert "--batch 2 4 8" in record.rebuild
    assert "--workspace 0.5" in record.rebuild
    with open_engine(out, backend="tensorrt", options=EngineOptions(device="cuda", batch=2)) as engine:
        sar = chips(2)
        np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))


def test_the_command_refuses_a_plan_that_makes_another_image(ours, model, folder, monkeypatch):
    wrong = ours.engine.TensorRTEngine._infer
    monkeypatch.setattr(ours.engine.TensorRTEngine, "_infer", lambda self, sar: -wrong(self, sar))
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "dB" in result.stderr
    assert "Traceback" not in result.stderr
    assert left_in(folder) == []


def test_a_lower_file_is_built_as_it_is_and_no_other(ours, world, model, folder):
    asking(model, "int8")
    world.types = ["Int8"]
    result = export_plan(model, folder / "model.plan", "--precision", "fp16")
    assert result.exit_code == 1
    assert "is int8 already, not fp16" in result.stderr
    assert left_in(folder) == []
    result = export_plan(model, folder / "model.plan", "--precision", "int8")  # of real data it needs no more
    assert result.exit_code == 0, result.output
    assert load_record(folder / "model.plan").precision == "int8"


@pytest.mark.parametrize(("noise", "code"), [(0.01, 0), (0.04, 1)])  # 46 and 34 dB
def test_a_lower_file_is_held_to_the_floor_of_its_precision(ours, world, model, folder, monkeypatch, noise, code):
    asking(model, "int8")
    world.types = ["Int8"]
    exact = ours.engine.TensorRTEngine._infer
    noisy = np.random.default_rng(0).normal(0, noise, (1, 3, 16, 16)).astype(np.float32)
    monkeypatch.setattr(ours.engine.TensorRTEngine, "_infer", lambda self, sar: exact(self, sar) + noisy)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == code, result.output
    assert left_in(folder) == (["model.plan", "model.plan.json"] if code == 0 else [])
    if code:
        assert "at least 40 is asked" in result.stderr


def test_without_tensorrt_the_command_says_what_to_install(model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "export.to_tensorrt", raising=False)
    monkeypatch.delitem(sys.modules, "sar2optical.engines.tensorrt", raising=False)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "needs tensorrt: pip install 'sar2optical[tensorrt]'" in result.stderr
    assert left_in(folder) == []
