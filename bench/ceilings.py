"""Limits of a machine: rates of a large matrix product in each precision, and of a large copy.

The fp32 limit is the fastest of three libraries, whose rates differ by more than a factor of two, differently on each
CPU. An engine can still exceed a limit if its own library has a faster product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.generators import one_node_model
from sar2optical.engines.base import default_threads

if TYPE_CHECKING:
    import torch

_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes: larger than any cache
_REPEATS = 5
_FP8_MAJOR = 9  # least compute capability with fp8 products

Product = Callable[[], object]


def ceilings(device: str, *, threads: int | None = None, quick: bool = False) -> dict[str, float]:
    """Measure all limits, each the best of several repeats.

    Parameters
    ----------
    device
        cpu or cuda.
    threads
        CPU threads; all cores where None.
    quick
        Use small matrices and a small copy, for a smoke test.

    Returns
    -------
    dict
        `PRECISION product, TOP/s` for each supported precision (a multiplication and an addition are two operations);
        `copy, GB/s`, the sum of bytes read and written; on a GPU also `to the GPU, GB/s` and `from the GPU, GB/s`,
        from pinned memory.
    """
    found = {}
    side = _SIDE[device] // (8 if quick else 1)
    for precision, products in _products(device, side, threads).items():
        rates = [2 * side**3 / seconds / 1e12 for product in products if (seconds := _best(product, device))]
        if rates:
            found[product_name(precision)] = max(rates)
    size = _COPIED[device] // (64 if quick else 1)
    return {**found, **copies(device, threads or default_threads(), size)}


def product_name(precision: str) -> str:
    """Return the name of a precision's limit."""
    return f"{precision} product, TOP/s"


COPY, TO_GPU, FROM_GPU = "copy, GB/s", "to the GPU, GB/s", "from the GPU, GB/s"
"""Names of the limits of copies."""


def _products(device: str, side: int, threads: int | None) -> dict[str, list[Product]]:
    if device == "cuda":
        return _on_gpu(side)
    import torch

    from sar2optical.training.networks import choose_precision

    torch.set_num_threads(threads or default_threads())
    a, b = torch.randn(side, side), torch.randn(side, side)
    found: dict[str, list[Product]] = {
        "fp32": [lambda: a @ b, _in_onnxruntime(side, threads, integer=False)],
        "int8": [_in_onnxruntime(side, threads, integer=True)],
    }
    if threads is None:  # NumPy's product uses all cores regardless
        found["fp32"].append(lambda: a.numpy() @ b.numpy())
    if choose_precision("auto", "cpu") == "bf16":
        found["bf16"] = [_product(a.bfloat16(), b.bfloat16())]
    return found


def _product(a: torch.Tensor, b: torch.Tensor) -> Product:
    return lambda: a @ b


def _on_gpu(side: int) -> dict[str, list[Product]]:
    import torch

    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    whole = [torch.randint(-127, 128, (side, side), dtype=torch.int8, device="cuda") for _ in range(2)]
    found: dict[str, list[Product]] = {
        "fp32": [_product(a, b)],
        "fp16": [_product(a.half(), b.half())],
        "bf16": [_product(a.bfloat16(), b.bfloat16())],
        "int8": [lambda: torch._int_mm(whole[0], whole[1].t())],
    }
    if torch.cuda.get_device_capability()[0] >= _FP8_MAJOR:
        one = torch.ones((), device="cuda")
        small = [x.to(torch.float8_e4m3fn) for x in (a, b)]
        found["fp8"] = [
            lambda: torch._scaled_mm(small[0], small[1].t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        ]
    return found


def _in_onnxruntime(side: int, threads: int | None, *, integer: bool) -> Product:
    """Return a product in ONNX Runtime; its integer product uses VNNI where the CPU has it."""
    import onnx
    import onnxruntime

    rng = np.random.default_rng(1)
    weights: Any = rng.integers(-64, 64, (side, side), np.int8) if integer else rng.random((side, side), np.float32)
    given: Any = rng.integers(0, 256, (side, side), np.uint8) if integer else rng.random((side, side), np.float32)
    kinds = (onnx.TensorProto.UINT8, onnx.TensorProto.INT32) if integer else (onnx.TensorProto.FLOAT,) * 2
    model = one_node_model("MatMulInteger" if integer else "MatMul", ("a", "c"), kinds, ([side, side],) * 2, weights)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": given})


def copies(device: str, threads: int, size: int) -> dict[str, float]:
    """Measure copies of `size` bytes in the memory of a device, with these CPU threads, and over the bus of a GPU."""
    if device == "cpu":
        source = np.ones(size, np.uint8)
        target = np.empty_like(source)
        parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
        with ThreadPoolExecutor(threads) as pool:
            seconds = _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)), device)
        return {COPY: 2 * size / (seconds or np.inf) / 1e9}
    import torch

    there = [torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2)]
    here = torch.ones(size // 8, dtype=torch.uint8, pin_memory=True)
    part = there[0][: size // 8]
    copies: dict[str, tuple[int, Product]] = {
        COPY: (2 * size, lambda: there[0].copy_(there[1])),
        TO_GPU: (size // 8, lambda: part.copy_(here, non_blocking=True)),
        FROM_GPU: (size // 8, lambda: here.copy_(part, non_blocking=True)),
    }
    return {name: count / (_best(copy, device) or np.inf) / 1e9 for name, (count, copy) in copies.items()}


def _best(work: Product, device: str) -> float | None:
    """Return the least duration of several repeats in seconds; None where the library does not support the work."""
    wait = _waiting(device)
    taken = []
    try:
        for _ in range(_REPEATS + 1):  # the first sets the libraries up
            began = time.perf_counter()
            work()
            wait()
            taken.append(time.perf_counter() - began)
    except (RuntimeError, NotImplementedError):
        return None
    return min(taken[1:])


def _waiting(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize
