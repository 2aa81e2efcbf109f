"""Generators for benches: the bundled generator as a checkpoint, and untrained generators of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.engines import EngineOptions
from sar2optical.engines.autotune import open_model
from sar2optical.engines.registry import bundled, variants
from sar2optical.signature import METADATA_KEY, ModelSignature

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from sar2optical.models.generator import Generator


def default_engine(options: EngineOptions) -> str:
    """Return the name of the engine that `sar2opt-scene` chooses on this machine."""
    engine, file = open_model(variants(bundled()), options=options)
    with engine:
        return f"{engine}, batch {engine.batch}, {file.name}"


_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of a generator for one window, counted from its layers."""

    flop: float
    """Operations of the convolutions; a multiplication and an addition are two."""
    activations: int
    """Number of values that the convolutions read and write."""
    weights: int
    """Number of the convolutions' weights."""

    def least_bytes(self, precision: str, batch: int) -> float:
        """Return the bytes per window if each layer reads and writes once, and reads its weights once per run."""
        return _BYTES[precision] * (self.activations + self.weights / batch)


def work_of(checkpoint: Path) -> Work:
    """Count the work of a checkpoint's generator."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sar2optical.models.checkpoint import load_generator

    generator, signature = load_generator(checkpoint)
    moved = []

    def count(_: torch.nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        moved.append(given[0].numel() + made.numel())

    layers = [m for m in generator.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    for layer in layers:
        layer.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        generator(torch.zeros(1, signature.channels, signature.window, signature.window))
    return Work(
        flop=float(counter.get_total_flops()),
        activations=sum(moved),
        weights=sum(layer.weight.numel() for layer in layers),
    )


def bundled_checkpoint(path: Path, *, channels: int = 1) -> Path:
    """Write the bundled generator as a checkpoint for PyTorch.

    Its batch norms are folded into the convolutions before them, so those of the checkpoint only add the bias.

    Parameters
    ----------
    path
        Path of the checkpoint.
    channels
        Number of input channels. With 3, as in the reference baseline, each has the same band and a third of the
        weights.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    from sar2optical.models.checkpoint import save_generator
    from sar2optical.models.generator import READS_SAR, build_generator
    from sar2optical.models.unet import GeneratorArguments

    model = onnx.load(str(bundled()))
    stored = {
        tensor.name.removesuffix(".fp16"): torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
        for tensor in model.graph.initializer
        if tensor.name.removesuffix(".fp16").endswith((".weight", ".bias"))
    }
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    arguments = GeneratorArguments(
        in_channels=channels,
        base_channels=stored["encoder.enc1.conv_block.0.weight"].shape[0],
        architecture="detail" if "head.conv_block.0.weight" in stored else "pix2pix",
    )
    for name in READS_SAR[arguments.architecture]:
        weight = stored[f"{name}.weight"]
        copies = weight[:, :1].repeat(1, channels, 1, 1) / channels
        stored[f"{name}.weight"] = torch.cat((copies, weight[:, 1:]), dim=1)
    generator = build_generator(arguments).eval()
    generator.load_state_dict({**_identity_norms(generator), **_renamed(stored, generator)}, strict=True)
    signature = ModelSignature.from_json(metadata[METADATA_KEY], source=str(bundled()))
    save_generator(path, generator, signature)
    return path


def fresh_checkpoint(path: Path, base_channels: int, sar: NDArray[np.float32]) -> Path:
    """Write an untrained generator with batch norms that have seen windows: without, the signal vanishes.

    Parameters
    ----------
    path
        Path of the checkpoint, a state dict with three equal input channels, as in the reference.
    base_channels
        Width; the reference has 64.
    sar
        float32 (N, 1, 256, 256) in [-1, 1].
    """
    import torch

    from sar2optical.models.unet import GeneratorArguments, UNetGenerator

    torch.manual_seed(1)
    generator = UNetGenerator(GeneratorArguments(base_channels=base_channels))
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # average over all windows
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        generator(torch.from_numpy(sar).expand(-1, 3, -1, -1))
    torch.save(generator.state_dict(), path)
    return path


def one_node_model(
    operator: str, names: tuple[str, str], kinds: tuple[int, int], shapes: Sequence[Any], weights: NDArray[Any]
) -> ModelProto:
    """Build an ONNX model of one operator with one input, one output (in that order of pairs) and fixed weights."""
    import onnx
    from onnx import helper, numpy_helper

    tensors = [helper.make_tensor_value_info(*of) for of in zip(names, kinds, shapes, strict=True)]
    node = helper.make_node(operator, [names[0], "weights"], [names[1]])
    weight = numpy_helper.from_array(weights, "weights")
    graph = helper.make_graph([node], operator, tensors[:1], tensors[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _identity_norms(generator: Generator) -> dict[str, Tensor]:
    """Return a state with batch norms that are the identity: y = (x - 0) / sqrt(var + eps), with var + eps = 1."""
    import torch

    state = generator.state_dict()
    for name, module in generator.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            state[f"{name}.running_var"] = torch.full_like(state[f"{name}.running_var"], 1 - module.eps)
    return state


def _renamed(stored: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """Move the bias of a folded convolution to its batch norm: `conv_block.0.bias` to `conv_block.1.bias`."""
    expected = generator.state_dict()
    return {
        name if name in expected else name.replace("conv_block.0.bias", "conv_block.1.bias"): tensor
        for name, tensor in stored.items()
    }
