"""Old module paths, which work for one release with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "install"]

MOVED: dict[str, tuple[str, ...]] = {
    "addresses": ("_utils.addresses",),
    "blend": ("tiling.blend",),
    "cluster": ("batch.cluster", "batch.schedule", "batch.work", "batch.worker"),
    "cores": ("_utils.cores",),
    "engines.auto": ("engines.autotune",),
    "engines.known_answer": ("engines.self_test",),
    "engines.plan": ("engines.tensorrt_plan",),
    "files": ("_utils.files",),
    "evaluation.figures": ("evaluation.scores",),
    "fill": ("tiling.fill",),
    "footprint": ("batch.footprint",),
    "geocode": ("scene.geocode",),
    "manifest": ("mosaic.manifest",),
    "memory": ("_utils.memory",),
    "metrics": ("evaluation.metrics", "tiling.seams"),
    "models.zoo": ("engines.registry",),
    "nodata": ("scene.nodata",),
    "parts": ("mosaic.run_folder",),
    "preflight": ("pipeline.estimate",),
    "provenance": ("pipeline.provenance", "mosaic.tags"),
    "pyramid": ("mosaic.overviews",),
    "radiometry": ("scene.encoder", "scene.decoding", "scene.units"),
    "raster": ("scene.raster", "scene.bands", "scene.band_names", "scene.containers"),
    "remote": ("scene.remote", "_utils.addresses"),
    "retries": ("_utils.retries",),
    "safe": ("scene.safe",),
    "stac": ("batch.stac",),
    "stream": ("pipeline.stream",),
    "strips": ("mosaic.strips",),
    "training.evaluate": ("evaluation.evaluate", "evaluation.predictors"),
    "training.fid": ("evaluation.fid",),
    "training.report": ("evaluation.report",),
    "training.shifts": ("evaluation.shift_runs",),
    "translate": ("pipeline.options", "pipeline.prepare", "pipeline.job", "pipeline.estimate", "pipeline.run"),
    "vrt": ("mosaic.vrt",),
    "windows": ("tiling.windows",),
}
"""Modules that hold the names of an old module, both below `sar2optical`."""

_RENAMED = {
    "Decided": "ResolvedOptions",
    "Forecast": "Estimate",
    "KnownAnswer": "SelfTest",
    "PartsFolder": "RunFolder",
    "Progress": "OnProgress",
    "WindowPlan": "WindowGrid",
    "ZOO": "MODELS",
    "ZooEntry": "PublishedModel",
    "adopt": "resume",
    "carry_out": "execute",
    "forecast": "estimate",
    "parts_of": "run_folder_of",
    "plan_windows": "window_grid",
    "question": "self_test_input",
    "shown": "redacted",
    "tell_holdings": "log_contents",
    "tidy": "cleanup",
}
"""New names of old ones."""


class _OldModule(ModuleType):
    """An old module: finds its names in the new ones."""

    _new: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in map(import_module, self._new):
            for known in (name, _RENAMED.get(name, name)):
                if known in vars(module):
                    return vars(module)[known]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}: see {', '.join(self._new)}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function `sar2optical.translate`, which the old module of that name hides once it is imported."""
        return import_module("sar2optical.api").translate(*args, **kwargs)


class _Finder(MetaPathFinder, Loader):
    """Finds old modules, after all others."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Return a spec for an old module; None for any other."""
        if fullname.removeprefix("sar2optical.") in MOVED and fullname.startswith("sar2optical."):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module, and warn."""
        module = _OldModule(spec.name)
        module._new = tuple(f"sar2optical.{name}" for name in MOVED[spec.name.removeprefix("sar2optical.")])
        warnings.warn(
            f"{spec.name} has moved to {', '.join(module._new)}; the old path will be removed in the next release",
            DeprecationWarning,
            stacklevel=2,  # Python leaves out the frames of the import system
        )
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are used."""


def install() -> None:
    """Add the finder to `sys.meta_path`, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
