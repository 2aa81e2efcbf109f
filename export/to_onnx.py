"""Trace a generator into an ONNX graph: in eval mode, with batch norm and copied input channels folded."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from dataclasses import replace

import onnx
import torch
from onnx import helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from export.precision import DEFAULT_OPSET, OPSETS
from sar2optical.errors import ExportUnsupported
from sar2optical.models.generator import READS_SAR, Generator
from sar2optical.signature import BATCH_AXIS, INPUT, METADATA_KEY, OUTPUT, ModelSignature

__all__ = ["fold", "to_onnx"]


def fold(generator: Generator, signature: ModelSignature) -> tuple[Generator, ModelSignature]:
    """Fold a generator for the export: same output, fewer operations.

    Batch norm is folded into the convolution before it, W' = W * gamma / sqrt(var + eps) (Ioffe and Szegedy 2015,
    section 3.1 at inference). If the input channels are copies of one band, the weights of each convolution that
    reads the SAR image are summed over them, so that one channel is enough: sum_k (W_k * x) = (sum_k W_k) * x.

    Parameters
    ----------
    generator
        Generator; not modified.
    signature
        Signature of the generator.

    Returns
    -------
    generator, signature
        Copy in eval mode, without batch norm and dropout, and its signature.
    """
    folded = copy.deepcopy(generator).eval()
    for module in folded.modules():
        block = getattr(module, "conv_block", None)
        if isinstance(block, nn.Sequential):
            _fold_block(block)
    if signature.replicated:
        for name in READS_SAR[folded.arguments.architecture]:
            conv = folded.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            _add_up_copies(conv, signature.channels)
        folded.arguments = replace(folded.arguments, in_channels=1)
        signature = replace(signature, channels=1)
    return folded, signature


def to_onnx(
    folded: Generator,
    signature: ModelSignature,
    *,
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """Trace a folded generator into ONNX with a dynamic batch.

    Parameters
    ----------
    folded, signature
        From `fold`.
    opset
        Opset of the standard operators, one of `OPSETS`.

    Returns
    -------
    onnx.ModelProto
        Input `sar` float32 (N, C, window, window), output `optical` float32 (N, 3, window, window).

    Raises
    ------
    ExportUnsupported
        If PyTorch cannot trace the generator, or cannot export this opset.
    """
    if opset not in OPSETS:
        raise ExportUnsupported(f"opset is {opset}: give {OPSETS[0]} to {OPSETS[-1]}")
    # The exporter treats a batch of one as a constant.
    example = torch.zeros(2, signature.channels, signature.window, signature.window)
    program = _quietly_export(folded, example, opset)
    model = onnx.load_from_string(_serialized(program))
    found = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if found != opset:
        raise ExportUnsupported(
            f"opset is {opset}, which PyTorch cannot export for this generator: give --opset {found}"
        )
    dropped = [node.name for node in model.graph.node if node.op_type in ("Dropout", "BatchNormalization")]
    if dropped:
        raise ExportUnsupported(
            f"the graph has {', '.join(dropped)}, which cannot be folded: this generator is not supported"
        )
    _strip_traces(model)
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_up_copies(conv: nn.Conv2d, copies: int) -> None:
    """Sum the weights over the first input channels, copies of one band, in place."""
    weight = conv.weight.detach()
    conv.weight = nn.Parameter(torch.cat((weight[:, :copies].sum(dim=1, keepdim=True), weight[:, copies:]), dim=1))
    conv.in_channels -= copies - 1


def _fold_block(block: nn.Sequential) -> None:
    """Fold conv -> norm into conv, in place, and remove dropout."""
    layers = [layer for layer in block if not isinstance(layer, nn.Dropout)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        conv = layers[0][1] if isinstance(layers[0], nn.Sequential) else layers[0]
        assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
            transpose=isinstance(conv, nn.ConvTranspose2d),
        )  # fmt: skip
        layers.remove(norm)
    for name in list(block._modules):
        del block._modules[name]
    for k, layer in enumerate(layers):
        block.add_module(str(k), layer)


def _quietly_export(folded: Generator, example: torch.Tensor, opset: int) -> torch.onnx.ONNXProgram:
    """Run PyTorch's exporter without its messages; the result is checked afterwards."""
    batch = torch.export.Dim(BATCH_AXIS, min=1)
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                folded,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except Exception as error:  # of many types; some wrap a KeyboardInterrupt
        if _was_interrupted(error):
            raise KeyboardInterrupt from error
        cause = " ".join(str(error).split())[:120]
        raise ExportUnsupported(
            f"PyTorch cannot trace this generator ({cause}): give another generator, or another --opset"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    return program


def _was_interrupted(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _serialized(program: torch.onnx.ONNXProgram) -> bytes:
    return bytes(program.model_proto.SerializeToString())


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces and shape notes, which name files of this machine."""
    model.doc_string = model.graph.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
