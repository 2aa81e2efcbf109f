"""Fold a generator for inference: batch norm and copied input channels become weights of the convolutions."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sar2optical.models.generator import READS_SAR, Generator
from sar2optical.signature import ModelSignature

__all__ = ["fold"]


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
