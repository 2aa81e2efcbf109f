"""Check each backend on a model of two layers whose output is known, and the bundled generator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.doctor.finding import Finding, State, squeezed
from sar2optical.doctor.gpu import driver
from sar2optical.doctor.installed import tensorrt_major
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.cards import first_card
from sar2optical.engines.registry import bundled, two_layers, variants
from sar2optical.engines.rtx_cards import runs_on
from sar2optical.errors import BackendNotInstalled, Sar2OpticalError
from sar2optical.signature import Bound, ModelSignature, Stretch

__all__ = [
    "SIGNATURE",
    "TWO_LAYERS",
    "bundled_generator",
    "expected_output",
    "kernels",
    "onnxruntime",
    "openvino",
    "pytorch",
    "self_test_input",
    "tensorrt",
    "tensorrt_rtx",
]

SIGNATURE = ModelSignature(
    name="two-layers", bands=("VV",), unit="byte", stretch=(Stretch(Bound(0), Bound(255)),), window=16
)
"""Signature of the model of two layers."""

TWO_LAYERS = two_layers()
"""File of the model of two layers; creating it needs the onnx package, which running it does not."""

_REINSTALL = "pip install --force-reinstall --no-deps sar2optical"
_TOLERANCE = 1e-4  # all numbers are exact in fp32 and TF32: see `kernels`


def kernels() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weights of both layers.

    Returns
    -------
    tuple of ndarray
        float32 (2, 1, 3, 3) and (3, 2, 3, 3): small multiples of a power of two, so that no sum is rounded.
    """
    first = (np.arange(2 * 9) ** 2 * 5 % 7 - 3).reshape(2, 1, 3, 3) / 8
    second = (np.arange(3 * 2 * 9) ** 2 * 3 % 5 - 2).reshape(3, 2, 3, 3) / 4
    return first.astype(np.float32), second.astype(np.float32)


def self_test_input() -> NDArray[np.float32]:
    """Return the input, float32 (1, 1, 16, 16): multiples of 1/8 in [-1, 1]."""
    side = SIGNATURE.window
    return ((np.arange(side * side) ** 2 * 7 % 17 - 8) / 8).reshape(1, 1, side, side).astype(np.float32)


def expected_output() -> NDArray[np.float32]:
    """Compute the output, float32 (1, 3, 16, 16), with numpy: convolution, ReLU, convolution."""
    first, second = kernels()
    return _convolved(np.maximum(_convolved(self_test_input(), first), 0), second)


def _convolved(image: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    out: NDArray[np.float32] = np.einsum("nchwij,ocij->nohw", patches, weights)
    return out


def openvino() -> Iterator[Finding]:
    """Check OpenVINO, and whether it supports bf16 on this CPU."""
    library = import_module("openvino")
    finding = _engine("openvino", library.__version__.split("-")[0], "cpu")
    bf16 = "BF16" in library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    yield replace(finding, detail=f"{finding.detail}; bf16 is {'' if bf16 else 'not '}available")


def onnxruntime() -> Iterator[Finding]:
    """Check ONNX Runtime on the CPU, and on CUDA if its wheel has CUDA."""
    library = import_module("onnxruntime")
    yield _engine("onnxruntime", library.__version__, "cpu")
    providers = library.get_available_providers()
    if "TensorrtExecutionProvider" in providers and (tensorrt_major() or 0) > 10:
        detail = f"needs TensorRT 10, {tensorrt_major()} is installed; sar2optical does not use it"
        yield Finding("backends", "onnxruntime's TensorRT", "absent", detail)
    yield from _plugin()
    if "CUDAExecutionProvider" not in providers:
        remedy = "with an NVIDIA GPU: pip uninstall -y onnxruntime, then pip install 'sar2optical[gpu]'"
        yield Finding("backends", "onnxruntime cuda", "absent", "the installed wheel was built without CUDA", remedy)
        return
    from sar2optical.engines.onnxruntime import cuda_problem

    problem = cuda_problem()
    upgrade = "pip install --upgrade 'sar2optical[gpu]', which installs CUDA and cuDNN"
    if problem is not None:
        detail = f"does not work on CUDA: {problem}"
        yield Finding("backends", "onnxruntime cuda", "warning", detail, driver().remedy or upgrade)
        return
    try:
        yield _engine("onnxruntime", library.__version__, "cuda")
    except Sar2OpticalError as error:
        yield Finding("backends", "onnxruntime cuda", "broken", squeezed(error), upgrade)


def _plugin() -> Iterator[Finding]:
    """Check ONNX Runtime's plugin of TensorRT for RTX, if it is installed."""
    from sar2optical.engines.onnxruntime_plugin import PLUGIN, plugin_problem

    if find_spec(PLUGIN) is None:
        return
    name, problem = "onnxruntime's plugin for RTX", plugin_problem()
    if problem is None:
        yield Finding("backends", name, "ok", "finds a GPU; --backend onnxruntime uses it")
        return
    detail, _, remedy = problem.partition(": ")
    yield Finding("backends", name, "warning", detail, remedy or "--backend pytorch: pip install 'sar2optical[gpu]'")


def pytorch() -> Iterator[Finding]:
    """Check PyTorch on the CPU, and on CUDA if there is a device."""
    torch = import_module("torch")
    yield _compared("pytorch", _run_torch(torch, "cpu"), torch.__version__, "cpu")
    if not torch.cuda.is_available():
        yield _without_cuda(torch)
        return
    try:
        where = f"cuda ({torch.cuda.get_device_name()}, built for CUDA {torch.version.cuda})"
        yield _compared("pytorch cuda", _run_torch(torch, "cuda"), torch.__version__, where)
    except RuntimeError as error:
        remedy = "update the driver, or install a build of PyTorch for this GPU"
        yield Finding("backends", "pytorch cuda", "broken", squeezed(error), remedy)


def _run_torch(torch: Any, device: str) -> NDArray[np.float32]:
    first, second = (torch.from_numpy(weights).to(device) for weights in kernels())
    with torch.inference_mode():
        hidden = torch.nn.functional.conv2d(torch.from_numpy(self_test_input()).to(device), first, padding=1).relu()
        image: NDArray[np.float32] = torch.nn.functional.conv2d(hidden, second, padding=1).cpu().numpy()
    return image


def _without_cuda(torch: Any) -> Finding:
    """Report why PyTorch has no device: built without CUDA, no GPU, or a driver problem."""
    if torch.version.cuda is None:
        remedy = "with an NVIDIA GPU: install a build for CUDA, see pytorch.org/get-started"
        return Finding("backends", "pytorch cuda", "absent", "the installed wheel was built without CUDA", remedy)
    try:
        torch.cuda.init()
        reason = "no device"
    except Exception as error:  # of several types
        reason = squeezed(error)
    found = driver()
    state: State = "absent" if found.state == "absent" else "warning"
    remedy = found.remedy or f"update the driver, or install a build for a CUDA older than {torch.version.cuda}"
    return Finding("backends", "pytorch cuda", state, f"built for CUDA {torch.version.cuda}: {reason}", remedy)


def tensorrt() -> Iterator[Finding]:
    """Check TensorRT: build a plan, and run it if PyTorch is installed for its buffers."""
    trt = import_module("tensorrt")
    found = driver()
    if found.state != "ok":
        detail = f"{trt.__version__} cannot run without a GPU: {found.detail}"
        yield Finding("backends", "tensorrt", "warning", detail, found.remedy)
        return
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(_build_plan(trt, logger))
    if engine is None:
        raise RuntimeError("TensorRT cannot load the plan of the small test model that it built")
    if find_spec("torch") is None:
        detail = f"{trt.__version__} builds a plan; running it needs torch"
        yield Finding("backends", "tensorrt", "warning", detail, "pip install 'sar2optical[tensorrt]'")
        return
    yield _compared("tensorrt", _run_plan(engine), trt.__version__, "cuda, as a plan")


def tensorrt_rtx() -> Iterator[Finding]:
    """Check TensorRT for RTX: build a plan, which needs no GPU, and run it on a card that the library names."""
    name, version = "tensorrt_rtx", import_module("tensorrt_rtx").__version__
    missing = [library for library in ("torch", "onnx") if find_spec(library) is None]
    if missing:
        detail = f"{version} needs {' and '.join(missing)}"
        yield Finding("backends", name, "warning", detail, "pip install 'sar2optical[rtx]'")
        return
    from sar2optical.engines.tensorrt_rtx import build_for

    build_for(TWO_LAYERS, EngineOptions(precision="fp32"), "sm86")
    found, card = driver(), first_card()
    if found.state != "ok" or card is None:
        detail = f"{version} builds plans; running them needs a GPU: {found.detail}"
        yield Finding("backends", name, "warning", detail, found.remedy)
    elif not runs_on(card.compute_capability):
        major, minor = card.compute_capability
        detail = f"{version} builds plans; it does not run on {card.name} (compute capability {major}.{minor})"
        yield Finding("backends", name, "warning", detail, "--backend pytorch: pip install 'sar2optical[gpu]'")
    else:
        yield _engine(name, version, "cuda")


def _build_plan(trt: Any, logger: Any) -> Any:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(TWO_LAYERS)):
        raise RuntimeError("; ".join(str(parser.get_error(k)) for k in range(parser.num_errors)))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = self_test_input().shape
    profile.set_shape("sar", shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT cannot build a plan of the small test model")
    return plan


def _run_plan(engine: Any) -> NDArray[np.float32]:
    torch = import_module("torch")
    sar = torch.from_numpy(self_test_input()).cuda()
    optical = torch.empty((1, 3, *sar.shape[2:]), device="cuda")
    context = engine.create_execution_context()
    context.set_input_shape("sar", tuple(sar.shape))
    context.set_tensor_address("sar", sar.data_ptr())
    context.set_tensor_address("optical", optical.data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    if not context.execute_async_v3(stream.cuda_stream):
        raise RuntimeError("TensorRT cannot run the plan of the small test model")
    stream.synchronize()
    image: NDArray[np.float32] = optical.cpu().numpy()
    return image


def bundled_generator() -> Iterator[Finding]:
    """Check that the bundled generator's files open, as in a command without --model."""
    for precision, path in variants(bundled()).items():
        yield _bundled_file(f"bundled {precision}" if precision != "fp32" else "bundled generator", path)


def _bundled_file(name: str, path: Path) -> Finding:
    if not path.is_file():
        return Finding("model", name, "broken", f"{path}: no such file", _REINSTALL)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    try:
        with open_engine(path, options=EngineOptions(device="cpu")) as engine:
            return Finding("model", name, "ok", f"{engine.signature.name}, {size}, opens with {engine}")
    except BackendNotInstalled as error:
        return Finding(
            "model", name, "warning", f"{size}, not checked: {squeezed(error)}", "pip install 'sar2optical[cpu]'"
        )
    except Sar2OpticalError as error:
        return Finding("model", name, "broken", squeezed(error), _REINSTALL)


def _engine(backend: str, version: str, device: str) -> Finding:
    """Check a backend with `open_engine`, as all models are opened."""
    name = f"{backend} cuda" if device == "cuda" else backend
    if not TWO_LAYERS.is_file():
        return Finding(
            "backends", name, "broken", f"{version}, not checked: the test model {TWO_LAYERS} is missing", _REINSTALL
        )
    options = EngineOptions(device=device, precision="fp32", threads=1)
    with open_engine(TWO_LAYERS, backend=backend, options=options) as engine:
        return _compared(name, engine.run(self_test_input()), version, engine.device)


def _compared(name: str, found: NDArray[np.float32], version: str, where: str) -> Finding:
    """Compare an output with the expected one."""
    error = float(np.abs(found - expected_output()).max())
    if error <= _TOLERANCE:  # false for NaN
        return Finding("backends", name, "ok", f"{version}, correct output on {where}")
    detail = f"{version}, wrong output on {where}: error {error:.2g}"
    return Finding("backends", name, "broken", detail, "install another version")
