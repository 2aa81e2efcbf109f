"""Read one of our ONNX files back into a PyTorch module, for GPUs on which PyTorch is faster than ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from sar2optical.engines.base import Description
from sar2optical.engines.onnx_graph import attribute, convolutions, metadata_of
from sar2optical.engines.self_test import SelfTest, self_test_input
from sar2optical.errors import CheckpointMismatch, ModelUnreadable
from sar2optical.models.fold import fold
from sar2optical.models.generator import Generator, build_generator
from sar2optical.models.unet import GeneratorArguments, Upsampling
from sar2optical.signature import ModelSignature

__all__ = ["read_generator"]

_EQUAL = 45.0
"""Least PSNR in dB of the module's output against the file's self-test, in fp32. The self-test is stored in bytes,
which limits an exact output to 59 dB."""

_UPSAMPLING: dict[object, Upsampling] = {b"nearest": "nearest", b"linear": "bilinear", b"cubic": "bicubic"}
"""Modes of PyTorch's upsampling by those of ONNX's Resize."""

_REMEDY = "give --backend onnxruntime, or the checkpoint"


def read_generator(path: Path) -> tuple[Generator, ModelSignature, SelfTest]:
    """Load the generator of an fp32 ONNX file that `sar2opt-export` wrote from a checkpoint.

    The weights are found by their names, which are those of the module, and load strictly. The module's output is
    then compared with the file's self-test.

    Parameters
    ----------
    path
        ONNX file; its weights may be stored in fp16.

    Returns
    -------
    generator, signature, self_test
        Generator without batch norm, in eval mode with float32 weights on the CPU; signature and self-test of the
        file.

    Raises
    ------
    ModelUnreadable, SignatureError
        If the file is not an ONNX model, or has no signature.
    CheckpointMismatch
        If the file has another precision or form, its weights are not those of a generator, or the output differs.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and the system's have no common base class
        raise ModelUnreadable(
            f"{path}: corrupt, or not an ONNX model: export it again, or download it again"
        ) from error
    described = Description.read(metadata_of(model), path)
    signature, self_test = described.signature, described.self_test
    if described.precision != "fp32" or self_test is None:
        found = "without a self-test" if described.precision == "fp32" else described.precision
        raise CheckpointMismatch(f"{path}: is {found}; PyTorch reads fp32 files with a self-test: {_REMEDY}")
    modes = {attribute(node, "mode") for node in model.graph.node if node.op_type == "Resize"}
    try:
        weights = _weights(model)
        generator = _empty(weights, _UPSAMPLING[modes.pop()] if modes else None, signature)
        generator.load_state_dict(weights, strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointMismatch(f"{path}: its weights are not those of a generator ({reason}): {_REMEDY}") from error
    generator.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        agreement = self_test.agreement(generator(torch.from_numpy(self_test_input(signature))).numpy())
    if not agreement >= _EQUAL:
        raise CheckpointMismatch(
            f"{path}: PyTorch computes another image from its weights ({agreement:.1f} dB, at least {_EQUAL:.0f} "
            f"expected): {_REMEDY}"
        )
    return generator, signature, self_test


def _weights(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Return the weights of a model's convolutions by the names of the module's parameters.

    Biases are found by their convolutions: PyTorch's exporter stores equal ones under one name, and drops zeros.
    """
    nodes = model.graph.node
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored |= {node.output[0]: attribute(node, "value") for node in nodes if node.op_type == "Constant"}
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}  # of weights in fp16

    def array(name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(stored[casts.get(name, name)]).astype(np.float32)

    found = {}
    for node in convolutions(nodes):
        layer = node.input[1].removesuffix(".fp32").removesuffix(".weight")
        weight = array(node.input[1])
        channels = weight.shape[0 if node.op_type == "Conv" else 1]
        bias = array(node.input[2]) if len(node.input) > 2 else np.zeros(channels, np.float32)
        found[f"{layer}.weight"], found[f"{layer}.bias"] = torch.from_numpy(weight), torch.from_numpy(bias)
    return found


def _empty(weights: Mapping[str, torch.Tensor], mode: Upsampling | None, signature: ModelSignature) -> Generator:
    """Build the folded generator that has weights of these names and shapes, with random ones."""
    width, channels = weights["encoder.enc1.conv_block.0.weight"].shape[:2]
    detail = "head.to_colour.0.weight" in weights
    arguments = GeneratorArguments(
        in_channels=channels,
        out_channels=weights["head.to_colour.0.weight" if detail else "head.0.weight"].shape[0],
        base_channels=width,
        upsampling=None if detail else mode,
        architecture="detail" if detail else "pix2pix",
    )
    # Not on the meta device, whose first use imports PyTorch's compiler: 1 to 6 s.
    return fold(build_generator(arguments).eval(), signature)[0]
