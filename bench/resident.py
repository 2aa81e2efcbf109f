"""Run a generator in PyTorch on windows that stay on the GPU: the rate without transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def opened(
    checkpoint: Path, kind: str, precision: str, batch: int
) -> Iterator[Callable[[NDArray[np.float32]], object]]:
    """Yield a function that runs a batch and waits for it; cuDNN may choose its algorithms by timing them.

    Parameters
    ----------
    checkpoint
        Checkpoint of the generator.
    kind
        eager, compiled (`torch.compile`) or graph (a CUDA graph of the eager kernels).
    precision
        fp32 (not TF32), fp16 or bf16, of weights and images.
    batch
        Windows per run.
    """
    import torch

    from sar2optical.engines.pytorch import DTYPES
    from sar2optical.models.checkpoint import load_generator

    generator, signature = load_generator(checkpoint)
    module = generator.to("cuda", DTYPES[precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kind == "compiled":
        module = _compiled(checkpoint, precision, module)
    shape = (batch, signature.channels, signature.window, signature.window)
    resident = torch.empty(shape, device="cuda", dtype=DTYPES[precision]).contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        step = _step(module, kind, resident)
        filled = False

        @torch.inference_mode()  # the mode is per thread
        def run(sar: NDArray[np.float32]) -> None:
            nonlocal filled
            if not filled:  # only the first run copies
                resident.copy_(torch.from_numpy(sar).expand(shape))
                filled = True
            step()
            torch.cuda.synchronize()

        yield run


_COMPILED: dict[tuple[Path, str], nn.Module] = {}


def _compiled(checkpoint: Path, precision: str, module: nn.Module) -> nn.Module:
    """Compile once, not in each round: compiling takes half a minute."""
    import torch

    if (checkpoint, precision) not in _COMPILED:
        _COMPILED[checkpoint, precision] = torch.compile(module, dynamic=False)  # type: ignore[assignment]
    return _COMPILED[checkpoint, precision]


def _step(module: nn.Module, kind: str, resident: Tensor) -> Callable[[], object]:
    import torch

    if kind != "graph":
        return lambda: module(resident)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):  # warm up: libraries choose their algorithms
            module(resident)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        module(resident)
    return graph.replay
