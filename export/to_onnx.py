"""Trace a folded generator into an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import torch
from onnx import helper

from export.precision import DEFAULT_OPSET, OPSETS
from sar2optical.errors import ExportUnsupported
from sar2optical.models.generator import Generator
from sar2optical.signature import BATCH_AXIS, INPUT, METADATA_KEY, OUTPUT, ModelSignature

__all__ = ["to_onnx"]


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
        From `sar2optical.models.fold.fold`.
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
        raise ExportUnsupported(f"the graph has {', '.join(dropped)}, which cannot be folded: give another generator")
    _strip_traces(model)
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


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
