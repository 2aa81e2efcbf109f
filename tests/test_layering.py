"""Layers of the package: imports point down, and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ORDER = (
    ("_utils.addresses",),
    ("errors",),
    ("_utils",),
    ("signature", "tiling"),
    ("scene", "models"),
    ("engines", "mosaic", "data", "testing"),
    ("evaluation", "pipeline", "viewer"),
    ("training", "batch", "api", "doctor"),
    ("cli",),
    ("_moved", "__main__"),
)
"""Packages and modules of `sar2optical` by level, the lowest first. A module imports from lower levels and from its
own package only."""

LEVELS = {entry: level for level, entries in enumerate(ORDER) for entry in entries}

TORCH = (
    "sar2optical.models",
    "sar2optical.data",
    "sar2optical.evaluation",
    "sar2optical.training",
    "export",
    "bench",
)
WHERE = {
    "torch": (
        *TORCH,
        "sar2optical.engines.early",
        "sar2optical.engines.onnx_module",
        "sar2optical.engines.plan_engine",
        "sar2optical.engines.pytorch",
        "sar2optical.engines.slots",
        "sar2optical.engines.tensorrt_build",
        "sar2optical.engines.tensorrt_rtx",
        "sar2optical.engines.tensorrt_runtime",
        "sar2optical.engines.tensors",
        "sar2optical.pipeline.device",
    ),
    "lightning": ("sar2optical.training",),
    "lightning_fabric": ("sar2optical.training", "bench"),
    "torchmetrics": ("sar2optical.evaluation", "bench"),
    "matplotlib": ("sar2optical.data", "sar2optical.evaluation", "sar2optical.training", "bench"),
    "tensorboard": ("sar2optical.training",),
    "comet_ml": ("sar2optical.training",),
    "yaml": ("sar2optical.training",),
    "huggingface_hub": ("sar2optical.engines.registry",),
    "kagglehub": ("sar2optical.data.download",),
    "onnx": (
        "sar2optical.engines.early",
        "sar2optical.engines.onnx_graph",
        "sar2optical.engines.onnx_half",
        "sar2optical.engines.onnx_module",
        "sar2optical.engines.tensorrt_rtx",
        "export",
        "bench",
    ),
    "onnxscript": ("export",),
    "onnxruntime": (
        "sar2optical.engines.onnxruntime",
        "sar2optical.engines.onnxruntime_plugin",
        "export",
        "bench",
    ),
    "openvino": ("sar2optical.engines.openvino", "export"),
    "tensorrt": ("sar2optical.engines.tensorrt",),
    "tensorrt_rtx": ("sar2optical.engines.tensorrt_rtx",),
    "dask": ("sar2optical.batch.cluster",),
    "distributed": ("sar2optical.batch.cluster", "sar2optical.batch.schedule"),
    "pystac": ("sar2optical.batch.stac", "export.stac_mlm"),
    "xarray": ("sar2optical.api",),
    "starlette": ("sar2optical.viewer.app",),
    "uvicorn": ("sar2optical.viewer.serve",),
    "xarray_sentinel": (),
}
"""Modules and packages that may import a heavy library."""

NO_TORCH = ("sar2optical.engines.registry",)


def modules(*packages):
    """Map the names of all modules in the checkout to their files."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


OURS = modules("sar2optical", "export", "bench")


def imports(source, module, *, is_package=False):
    """Names that a module imports, wherever in it: `from a.b import c` is a.b.c where that is a module, else a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full in OURS else base)
    return names


def imports_of(module):
    path = OURS[module]
    return imports(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")


def entry_of(module):
    """The longest entry of ORDER that holds a module; None for the package itself."""
    name = module.removeprefix("sar2optical").removeprefix(".")
    return max((entry for entry in LEVELS if within(name, entry)), key=len, default=name or None)


def within(module, package):
    return module == package or module.startswith(package + ".")


def test_imports_are_read_in_every_form():
    source = (
        "import os\n"
        "from sar2optical import signature, __version__\n"
        "from .errors import OptionError\n"
        "def later():\n"
        "    import torch.nn as nn\n"
        "    from . import tiling\n"
    )
    assert imports(source, "sar2optical.signature") == {
        "os", "sar2optical", "sar2optical.signature", "sar2optical.errors", "torch.nn", "sar2optical.tiling",
    }  # fmt: skip
    assert imports("from .base import Engine", "sar2optical.engines", is_package=True) == {"sar2optical.engines.base"}
    assert imports("from ..errors import X", "sar2optical.engines.base") == {"sar2optical.errors"}


def package_imports(module):
    """What a module imports of the package, without the package's version."""
    return {name for name in imports_of(module) if within(name, "sar2optical") and name != "sar2optical"}


def test_every_module_has_a_level():
    assert {entry_of(module) for module in OURS if within(module, "sar2optical")} - {None} <= set(LEVELS)


def test_the_package_has_few_levels_and_few_entries():
    graph = defaultdict(set)
    for module in OURS:
        if within(module, "sar2optical") and (own := entry_of(module)):
            graph[own] |= {entry_of(name) for name in package_imports(module)} - {own}
    level = {}
    for entry in TopologicalSorter(graph).static_order():
        level[entry] = 1 + max((level[below] for below in graph[entry]), default=0)
    assert max(level.values()) <= 9, level
    top = [path.name for path in (ROOT / "sar2optical").iterdir() if path.suffix == ".py" or list(path.glob("*.py"))]
    assert len(top) <= 21, top


def test_translate_ties_input_engine_and_output():
    found = imports_of("sar2optical.pipeline.run")
    assert {"sar2optical.tiling.seams", "sar2optical.pipeline.stream", "sar2optical.pipeline.prepare"} <= found


@pytest.mark.parametrize("module", [name for name in OURS if within(name, "sar2optical")])
def test_imports_point_down(module):
    own = entry_of(module)
    if own is None:  # `sar2optical` loads its public functions lazily; type checkers see these imports
        assert {entry_of(name) for name in package_imports(module)} <= {"api", "errors"}
        return
    found = {name: entry_of(name) for name in package_imports(module)}
    assert not {name for name, entry in found.items() if entry != own and LEVELS[entry] >= LEVELS[own]}


def test_no_module_imports_itself_over_others():
    graph = defaultdict(set)
    for module in OURS:
        if module != "sar2optical":  # its imports are lazy
            graph[module] |= {name for name in imports_of(module) if name in OURS and name != module}
    order = list(TopologicalSorter(graph).static_order())  # raises where there is a circle
    assert order.index("sar2optical.errors") < order.index("sar2optical.pipeline.run")


@pytest.mark.parametrize("module", [name for name in OURS if within(name, "sar2optical")])
def test_the_package_imports_neither_export_nor_bench(module):
    """Import statements; the command `sar2optical.cli.export` loads `export` by its path, at run time."""
    assert not {name for name in imports_of(module) if within(name, "export") or within(name, "bench")}


@pytest.mark.parametrize("module", OURS)
def test_heavy_libraries_stay_in_their_modules(module):
    used = {name.split(".")[0] for name in imports_of(module)} & WHERE.keys()
    strangers = {library for library in used if not any(within(module, place) for place in WHERE[library])}
    assert not strangers
    if module in NO_TORCH:
        assert "torch" not in used


def test_the_modules_of_heavy_libraries_use_them():
    for library, module in (
        ("torch", "sar2optical.models.unet"),
        ("onnxruntime", "sar2optical.engines.onnxruntime"),
        ("openvino", "sar2optical.engines.openvino"),
        ("tensorrt", "sar2optical.engines.tensorrt"),
        ("tensorrt_rtx", "sar2optical.engines.tensorrt_rtx"),
    ):
        assert library in {name.split(".")[0] for name in imports_of(module)}


HEAVY = ["torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "rasterio"]


def loaded_by(code):
    """Run code in a fresh interpreter; tell which heavy libraries it has loaded."""
    code += f"\nimport sys\nprint('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    word, *names = result.stdout.splitlines()[-1].split()
    assert word == "loaded"
    return result.stdout, names


def test_importing_the_package_loads_no_heavy_library():
    assert loaded_by("import sar2optical; assert sar2optical.__version__")[1] == []
    assert loaded_by("import sar2optical.evaluation")[1] == []


def test_help_loads_no_heavy_library():
    out, names = loaded_by(
        "from sar2optical.cli.scene import main\n"
        "try:\n    main(['--help'], prog_name='sar2opt-scene')\n"
        "except SystemExit as end:\n    assert end.code == 0"
    )
    assert "Usage: sar2opt-scene" in out
    assert names == []


def test_translating_loads_rasterio_and_no_library_that_runs_models():
    assert loaded_by("import sar2optical.pipeline.run")[1] == ["rasterio"]


def test_a_scene_is_translated_where_there_is_no_torch(make_raster, identity_model, tmp_path):
    from tests.conftest import UTM, speckle

    src = make_raster(speckle((30, 20)), descriptions=["VH"], **UTM)
    out = tmp_path / "out.tif"
    _, names = loaded_by(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from sar2optical.pipeline.options import TranslateOptions\nfrom sar2optical.pipeline.run import translate\n"
        "options = TranslateOptions(backend='onnxruntime')\n"
        f"translate({str(src)!r}, Path({str(out)!r}), model=Path({str(identity_model)!r}), options=options)\n"
        "del sys.modules['torch']"
    )
    assert out.is_file()
    assert "onnxruntime" in names
    assert not {"torch", "openvino", "onnx"} & set(names)
