"""Open an engine file with the backend that runs it, and run its self-test."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sar2optical.engines.acceptance import acceptance_input, refuse_implausible
from sar2optical.engines.base import Engine, EngineOptions, any_of
from sar2optical.engines.cards import first_card
from sar2optical.engines.registry import BACKENDS, ON_CPU, ON_CUDA, Backend, backend_named, backends_of
from sar2optical.engines.rtx_cards import runs_on
from sar2optical.engines.self_test import self_test_input
from sar2optical.engines.tensorrt_plan import TITLES, read_header
from sar2optical.errors import (
    BackendNotInstalled,
    DeviceOutOfMemory,
    DeviceUnavailable,
    EngineError,
    ExportError,
    InferenceFailed,
    ModelError,
    ModelUnreadable,
    NotFinite,
    OptionError,
)
from sar2optical.signature import ModelSignature

__all__ = ["cuda_opens", "gpu_backends", "open_engine"]

_log = logging.getLogger(__name__)


def open_engine(path: Path, *, backend: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open an engine file with the backend that runs it.

    Parameters
    ----------
    path
        `.onnx` with a signature in its metadata or in `options`, a `.pth` checkpoint, or a `.plan` with its
        `.plan.json`.
    backend
        auto, or a name of `sar2optical.engines.registry.BACKENDS`. auto takes the first that opens the file of
        `gpu_backends`, else the first one for a CPU that is installed.
    options
        Device, precision, threads, batch; signature of an ONNX file.

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
    candidates = _candidates(path)
    if options.signature is not None and path.suffix.lower() != ".onnx":
        raise OptionError(f"{path}: has its own signature (only .onnx files take another one): leave out --signature")
    names = [candidate.name for candidate in candidates]
    if backend not in ("auto", *names):
        kind = f"{TITLES[names[0]]} plans" if names[0] in TITLES else f"{path.suffix} files"
        raise OptionError(f"backend {backend} does not run {kind}: give {any_of(names)}")
    if backend != "auto":
        return _opened(backend_named(backend), path, options)
    failed: EngineError | ModelError | ExportError | None = None
    for name in gpu_backends(path, options):
        try:
            return _opened(backend_named(name), path, options)
        except (EngineError, ModelError, ExportError) as error:  # ExportError: of a plan that is built on the spot
            _log.info("%s is not used on the GPU: %s", name, error)
            failed = error
    if failed is not None:
        if options.device == "cuda":
            raise failed
        _log.warning("no backend runs %s on the GPU (%s): running on the CPU", path.name, failed)
        options = replace(options, device="cpu")
    return _opened(_first_installed(candidates, options, path), path, options)


def gpu_backends(path: Path, options: EngineOptions) -> tuple[str, ...]:
    """Return the backends to try for an ONNX file on this machine's GPU, the fastest first.

    Empty for other files, for --device cpu, and where no backend can work on the GPU: then a CPU runs the file. What
    is installed and the card decide; no library that runs models is loaded but ONNX Runtime.

    Parameters
    ----------
    path
        Model.
    options
        Device.
    """
    if path.suffix.lower() != ".onnx" or options.device not in ("auto", "cuda"):
        return ()
    card = first_card()
    torch = card is not None and _has_cuda_build("torch") and find_spec("onnx") is not None
    rtx = card is not None and runs_on(card.compute_capability) and find_spec("tensorrt_rtx") is not None
    works = {"tensorrt_rtx": torch and rtx, "pytorch": torch, "onnxruntime": cuda_opens()}
    return tuple(name for name in ON_CUDA if works[name])


def _has_cuda_build(distribution: str) -> bool:
    try:
        return not version(distribution).endswith("+cpu")
    except PackageNotFoundError:
        return False


def _candidates(path: Path) -> tuple[Backend, ...]:
    """Return the backends that run a file: by its suffix, and of plans by their first bytes.

    Raises
    ------
    ModelUnreadable
        If the file is missing, or of an unknown kind.
    """
    candidates = backends_of(path)
    if not candidates:
        known = any_of(dict.fromkeys(suffix for candidate in BACKENDS for suffix in candidate.suffixes))
        raise ModelUnreadable(f"{path}: unknown kind of model {path.suffix!r}: give {known}")
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    if path.suffix.lower() in backend_named("tensorrt").suffixes:
        library, _ = read_header(path)
        return (backend_named(library),)
    return candidates


def _opened(chosen: Backend, path: Path, options: EngineOptions) -> Engine:
    if options.signature is not None:
        _refuse_signature(options.signature, chosen, path)
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
    try:
        _refuse_signature(engine.signature, chosen, path)
        _run_self_test(engine, path)
    except BaseException:
        engine.close()
        raise
    return engine


def _refuse_signature(signature: ModelSignature, chosen: Backend, path: Path) -> None:
    """Refuse a backend that cannot feed tensors of other exporters.

    Raises
    ------
    DeviceUnavailable
        The signature needs version 2, and the backend is not one of `ON_CPU`.
    """
    if not signature.is_version_1 and chosen.name not in ON_CPU:
        raise DeviceUnavailable(
            f"{path}: {chosen.name} runs only models with a signature of version 1: give --backend {any_of(ON_CPU)}"
        )


def _run_self_test(engine: Engine, path: Path) -> None:
    """Run one batch: refuse a model that does not fit its signature, and a library that computes another image.

    This also completes the libraries' initialisation on one thread: two first runs at once were seen to block each
    other for ever in OpenVINO's Python layer.
    """
    signature = engine.signature
    batch = engine.batch
    ours = signature.is_version_1
    sar = np.repeat(self_test_input(signature) if ours else acceptance_input(signature), batch, axis=0)
    places = [(0, 0)] * batch
    beside = sar.copy()
    beside[1:] = beside[1:, :, ::-1]  # windows of one run must not change one another
    try:
        images = [engine.run(given, places) for given in ((sar,) if ours else (sar, beside))]
    except (DeviceOutOfMemory, NotFinite):  # their messages have a remedy of their own
        raise
    except InferenceFailed as error:
        remedy = "export it again" if ours else "correct the signature"
        raise ModelUnreadable(
            f"{path}: does not run on the input that its signature describes, {sar.shape} ({error}): {remedy}"
        ) from error
    image = images[0]
    if not ours:
        refuse_implausible(engine, path, *(image[:1] for image in images))
    expected = engine.self_test
    if expected and not (found := expected.agreement(image[:1])) >= expected.floor:
        raise DeviceUnavailable(
            f"{path}: {engine} fails the file's self-test ({found:.1f} dB, at least {expected.floor:.0f} expected): "
            "give another --backend or --precision"
        )


def cuda_opens() -> bool:
    """Return True if ONNX Runtime runs on an NVIDIA GPU; tried only if its GPU wheel or the plugin is installed."""
    if find_spec("onnxruntime_ep_nv_tensorrt_rtx") and find_spec("onnxruntime"):
        plugin = import_module("sar2optical.engines.onnxruntime_plugin")
        if plugin.plugin_problem() is None:
            return True
    try:
        version("onnxruntime-gpu")
        engine = import_module("sar2optical.engines.onnxruntime")
    except (PackageNotFoundError, ImportError):
        return False
    return engine.cuda_problem() is None


def _first_installed(candidates: tuple[Backend, ...], options: EngineOptions, path: Path) -> Backend:
    on_cuda = options.device == "cuda"
    fit = list(candidates)
    if options.device not in ("auto", "cpu", "cuda"):
        fit = [backend for backend in candidates if options.device in backend.devices]
        if not fit:
            devices = dict.fromkeys(device for backend in candidates for device in backend.devices)
            raise DeviceUnavailable(
                f"device {options.device} does not run {path.suffix} files: give {any_of(devices)}"
            )
    elif len(candidates) > 1:
        fit = [backend for backend in candidates if backend.name in (ON_CUDA if on_cuda else ON_CPU)]
    for candidate in fit:
        if find_spec(candidate.library):
            return candidate
    extra = "gpu" if on_cuda and len(candidates) > 1 else fit[0].extra
    raise BackendNotInstalled(
        f"{path.name} on {options.device} needs {any_of(candidate.library for candidate in fit)}: "
        f"pip install 'sar2optical[{extra}]'"
    )
