"""Open an engine file with the backend that runs it, and run its self-test."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sar2optical.engines.base import Engine, EngineOptions, any_of
from sar2optical.engines.registry import BACKENDS, Backend, backend_named, backends_of
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import (
    BackendNotInstalled,
    DeviceOutOfMemory,
    DeviceUnavailable,
    InferenceFailed,
    ModelUnreadable,
    NotFinite,
    OptionError,
)

__all__ = ["cuda_opens", "open_engine"]


def open_engine(path: Path, *, backend: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open an engine file with the backend that runs it.

    Parameters
    ----------
    path
        `.onnx` with a signature in its metadata, a `.pth` checkpoint, or a `.plan` with its `.plan.json`.
    backend
        auto, or a name of `sar2optical.engines.registry.BACKENDS`; auto takes the first one that is installed.
    options
        Device, precision, threads, batch.

    Returns
    -------
    Engine

    Raises
    ------
    ModelUnreadable, SignatureError, CheckpointMismatch
        If the file is missing, corrupt, of an unknown kind, or has no signature.
    BackendNotInstalled
        If no library that runs it is installed.
    DeviceUnavailable
        If the backend does not have the device or precision, or the self-test fails.
    """
    options = options or EngineOptions()
    candidates = backends_of(path)
    if not candidates:
        known = any_of(suffix for candidate in BACKENDS for suffix in candidate.suffixes)
        raise ModelUnreadable(f"{path}: unknown kind of model {path.suffix!r}: give {known}")
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    names = [candidate.name for candidate in candidates]
    if backend not in ("auto", *names):
        raise OptionError(f"backend {backend} does not run {path.suffix} files: give {any_of(names)}")
    chosen = backend_named(backend) if backend != "auto" else _first_installed(candidates, options, path)
    try:
        module = import_module(f"sar2optical.engines.{chosen.name}")
    except ModuleNotFoundError as error:  # the one guard for optional libraries
        raise BackendNotInstalled(
            f"{path.name} with {chosen.name} needs {error.name}: pip install 'sar2optical[{chosen.extra}]'"
        ) from error
    except (ImportError, OSError) as error:
        raise BackendNotInstalled(
            f"{chosen.name} is installed but cannot be loaded ({' '.join(str(error).split())[:100]}): "
            "run sar2opt-doctor"
        ) from error
    engine: Engine = module.open(path, options)
    _run_self_test(engine, path)
    return engine


def _run_self_test(engine: Engine, path: Path) -> None:
    """Run one batch: refuse a model that does not fit its signature, and a library that computes another image.

    This also completes the libraries' initialisation on one thread: two first runs at once were seen to block each
    other for ever in OpenVINO's Python layer.
    """
    signature = engine.signature
    side, batch = signature.window, engine.batch
    sar = np.repeat(self_test_input(signature), batch, axis=0)
    try:
        image = engine.run(sar)
    except (DeviceOutOfMemory, NotFinite):  # their messages have a remedy of their own
        engine.close()
        raise
    except InferenceFailed as error:
        engine.close()
        raise ModelUnreadable(
            f"{path}: does not run on an input of its own signature, {sar.shape} ({error}): export it again"
        ) from error
    if image.shape != (batch, 3, side, side) or image.dtype != np.float32:
        engine.close()
        raise ModelUnreadable(
            f"{path}: returns {image.dtype} {image.shape} for {sar.shape}, not float32 {(batch, 3, side, side)}: "
            "give an RGB generator"
        )
    expected = engine.self_test
    if expected and not (found := expected.agreement(image[:1])) >= expected.floor:
        engine.close()
        raise DeviceUnavailable(
            f"{path}: {engine} fails the file's self-test ({found:.1f} dB, at least {expected.floor:.0f} expected): "
            "give another --backend or --precision"
        )


def cuda_opens() -> bool:
    """Return True if ONNX Runtime runs on CUDA; tried only if its GPU wheel is installed, because it is slow."""
    try:
        version("onnxruntime-gpu")
        engine = import_module("sar2optical.engines.onnxruntime")
    except (PackageNotFoundError, ImportError):
        return False
    return engine.cuda_problem() is None


def _first_installed(candidates: tuple[Backend, ...], options: EngineOptions, path: Path) -> Backend:
    may_be_cuda = any(candidate.name == "onnxruntime" for candidate in candidates)
    on_cuda = options.device == "cuda" or (options.device == "auto" and may_be_cuda and cuda_opens())
    fit = [candidate for candidate in candidates if not on_cuda or "cuda" in candidate.devices]
    for candidate in fit:
        if find_spec(candidate.library):
            return candidate
    extra = "gpu" if options.device == "cuda" else candidates[0].extra
    raise BackendNotInstalled(
        f"{path.name} on {options.device} needs {any_of(candidate.library for candidate in fit)}: "
        f"pip install 'sar2optical[{extra}]'"
    )
