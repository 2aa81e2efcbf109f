"""Every call of TensorRT and TensorRT for RTX exists in the real bindings, with these arguments.

The bindings of TensorRT are loaded with stub libraries whose factories return null; those of TensorRT for RTX come
with their libraries.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import fake_tensorrt

ROOT = Path(__file__).parents[2]
SHARED = {
    "sar2optical/engines/tensorrt_runtime.py": 6,
    "sar2optical/engines/tensorrt_build.py": 20,
    "sar2optical/engines/plan_engine.py": 14,
}
"""Modules that use either library, and how often at least."""
LEAST_USES = {
    "tensorrt": {
        **SHARED,
        "sar2optical/engines/tensorrt.py": 1,
        "export/to_tensorrt.py": 6,
        "export/timing_cache.py": 6,
        "export/plan_layers.py": 6,
    },
    "tensorrt_rtx": {**SHARED, "sar2optical/engines/tensorrt_rtx.py": 10},
}
"""Modules by the library whose bindings have their calls."""

USES = [(library, ROOT / name) for library, names in LEAST_USES.items() for name in names]

BINDINGS = os.environ.get("SAR2OPTICAL_TENSORRT_BINDINGS")
"""A folder with another version of the package `tensorrt_bindings` (pip install --no-deps --target)."""


FACTORIES = (
    "createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    "getInferLibVersion", "getPluginRegistry", "getBuilderPluginRegistry", "getBuilderSafePluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip
"""Functions that the bindings link to."""

DESCRIBE = r'''
import inspect, json, re, sys
from importlib import import_module
tensorrt = import_module(sys.argv[1])

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
def apis(tmp_path_factory):
    """Every class of the real bindings: methods with their arguments, properties, values of enums."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the bindings are compared on Linux only")
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("no C compiler (cc) for the stub libraries")
    if (BINDINGS is None and find_spec("tensorrt_bindings") is None) or fake_tensorrt.real is None:
        pytest.skip("tensorrt-cu13-bindings or tensorrt-rtx-cu13 is not installed")
    folder = tmp_path_factory.mktemp("tensorrt")
    source, library = folder / "nothing.c", folder / "nothing.so"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FACTORIES))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        for major in (10, 11):
            (folder / f"lib{name}.so.{major}").symlink_to(library)
    stubs = {"LD_LIBRARY_PATH": str(folder), **({"PYTHONPATH": BINDINGS} if BINDINGS else {})}
    return {
        "tensorrt": described("tensorrt_bindings", stubs),
        "tensorrt_rtx": described("tensorrt_rtx", {}),
    }


def described(module, environment):
    found = subprocess.run(
        [sys.executable, "-c", DESCRIBE, module], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    read = json.loads(found.stdout.splitlines()[-1])
    print(module, read["version"])
    return read["classes"]


VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "running": "IRuntimeConfig",
    "cache": "IRuntimeCache",
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

MODULES = ("tensorrt", "tensorrt_rtx", "trt", "library.trt")
"""Names of the library's module in ours."""


def dotted(node):
    """`a.b.c` of a chain of attributes, or None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def used(source):
    """Yield (class, member, node) for each use of a library in a module."""
    for node in ast.walk(ast.parse(source)):
        chain = dotted(node) if isinstance(node, ast.Attribute) else None
        holder, _, member = (chain or "").removeprefix("self.").rpartition(".")
        module = next((name for name in MODULES if f"{holder}.".startswith(f"{name}.")), None)
        if module is not None:
            yield holder[len(module) + 1 :], member, node
        elif holder.lstrip("_") in VARIABLES:
            yield VARIABLES[holder.lstrip("_")], member, node


def problems(source, api):
    """Yield the uses of TensorRT in a module that its API does not have."""
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
        real = api.get(base.removeprefix("trt."), {})
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


@pytest.mark.parametrize(("library", "source"), USES, ids=[f"{name}-{path.name}" for name, path in USES])
def test_the_real_api_has_all_uses_of_a_library(apis, library, source):
    text = source.read_text(encoding="utf-8")
    assert not list(problems(text, apis[library]))
    assert len(list(used(text))) >= LEAST_USES[library][source.relative_to(ROOT).as_posix()]


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
        ("class A(trt.IProgressMonitor):\n def step_complete(self, name): ...", "A.step_complete(name)"),
    ],
)
def test_uses_that_the_real_api_lacks_are_found(apis, line, problem):
    assert problem in list(problems(line, apis["tensorrt"]))


def test_flags_that_tensorrt_11_removed_are_not_used():
    for _, source in USES:
        named = {f"{holder}.{member}" for holder, member, _ in used(source.read_text(encoding="utf-8"))}
        assert not named & {f"BuilderFlag.{name}" for name in ("FP16", "BF16", "INT8", "FP8")}


def test_the_stand_in_has_only_members_of_the_real_apis(apis):
    compared = 0
    for name, cls in fake_tensorrt.CLASSES.items():
        owners = [api[name] for api in apis.values() if name in api]
        compared += compare_with_real(
            name, cls, {key: value for api in reversed(owners) for key, value in api.items()}
        )
    assert compared > 30


def compare_with_real(name, cls, real):
    public = {key: value for key, value in vars(cls).items() if not key.startswith("_")}
    for key, value in public.items():
        if isinstance(value, property):
            assert real[key]["kind"] == "property", f"{name}.{key}"
        else:
            names = list(inspect.signature(value).parameters)[1:]
            assert names in [[argument for argument, _ in call] for call in real[key]["calls"]], f"{name}.{key}"
    if name in ("Builder", "Runtime"):
        names = list(inspect.signature(cls).parameters)
        assert names in [[argument for argument, _ in call] for call in real["__init__"]["calls"]], name
    return len(public)
