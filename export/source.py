"""What is exported: a checkpoint, or a float32 ONNX file. From the latter, nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph import Graph, attribute, metadata_of, opset_of, plain
from export.precision import DEFAULT_OPSET
from export.verify import Run, as_written, expect
from sar2optical._utils.files import write_output
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import (
    ExportUnsupported,
    InferenceFailed,
    ModelUnreadable,
    OptionError,
    ParityFailed,
    SignatureError,
)
from sar2optical.signature import BATCH_AXIS, INPUT, METADATA_KEY, OUTPUT, PRECISION_KEY, ModelSignature

CHECKPOINTS = (".pth", ".pt")

_OTHER_FLOATS = (
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E5M2,
)
_SAME = 1e-4  # images of a window, alone and in a batch of two: kernels may differ, in the last bits


@dataclass(frozen=True, kw_only=True)
class Source:
    """A generator to export."""

    model: onnx.ModelProto
    """Its graph: float32, weights as initializers, a dynamic batch; the signature is in its metadata."""
    signature: ModelSignature
    """What the graph takes."""
    reference: Run
    """The source itself, in float32, on what the graph takes."""


@contextmanager
def open_source(
    path: Path,
    folder: Path,
    *,
    signature: Path | None = None,
    upsampling: str | None = None,
    opset: int | None = None,
) -> Iterator[Source]:
    """Load a generator to export.

    Parameters
    ----------
    path
        `.pth`, or `.onnx` with a precision of fp32.
    folder
        For files that last as long as the source is open.
    signature
        JSON file with the signature, for ONNX files that carry none.
    upsampling
        Mode of a bare state dict whose decoder upsamples.
    opset
        Of the graph; an ONNX file is converted upwards.

    Raises
    ------
    ExportUnsupported
        Where it is neither, or its graph is not a generator's.
    SignatureError
        Where nothing says what its input means.
    ParityFailed
        Where an ONNX file is no generator worth exporting, see `expect`.
    """
    suffix = path.suffix.lower()
    if suffix in CHECKPOINTS:
        yield _checkpoint(path, upsampling=upsampling, opset=opset)
    elif suffix == ".onnx":
        if upsampling is not None:
            raise OptionError(f"upsampling {upsampling}: {path} is a graph, whose upsampling is in it: leave it out")
        model, described = _onnx(path, signature, opset)
        named = folder / "source.onnx"
        write_output(named, model.SerializeToString())
        try:
            # ONNX Runtime's optimizer, which the engine has on, leaves out even a dropout in training mode.
            _refuse_crosstalk(_running(model, path), described)
            engine = open_engine(named, backend="onnxruntime", options=EngineOptions(device="cpu", precision="fp32"))
        except (ModelUnreadable, InferenceFailed) as error:
            raise ModelUnreadable(str(error).replace(str(named), str(path))) from error
        with engine:
            yield Source(model=model, signature=described, reference=engine.run)
    else:
        raise ExportUnsupported(f"{path}: exported are checkpoints (.pth) and fp32 ONNX files: give one")


def _checkpoint(path: Path, *, upsampling: str | None, opset: int | None) -> Source:
    import torch

    from export.to_onnx import fold, to_onnx
    from sar2optical.models.checkpoint import load_generator

    generator, signature = load_generator(path, upsampling=upsampling)  # type: ignore[arg-type]
    folded, signature = fold(generator, signature)
    channels = generator.arguments.in_channels

    @torch.inference_mode()
    def reference(sar):  # type: ignore[no-untyped-def]
        # One channel where the generator takes copies of it.
        return generator(torch.from_numpy(sar).expand(-1, channels, -1, -1)).numpy()

    return Source(
        model=to_onnx(folded, signature, opset=opset or DEFAULT_OPSET), signature=signature, reference=reference
    )


def _running(model: onnx.ModelProto, path: Path) -> Run:
    try:
        return as_written(model)
    except Exception as error:  # ONNX Runtime's exceptions have no public root
        raise ModelUnreadable(
            f"{path}: does not load in ONNX Runtime ({' '.join(str(error).split())[:160]})"
        ) from error


def _refuse_crosstalk(run: Run, signature: ModelSignature) -> None:
    """See that the source is a generator, and that a window's image does not depend on what else is in its batch."""
    asked = self_test_input(signature)
    both = np.concatenate((asked, -asked))
    alone = expect(run, both)
    try:
        together = run(both)
    except Exception as error:  # ONNX Runtime's exceptions have no public root
        raise ExportUnsupported(
            f"the source does not run on a batch of two ({' '.join(str(error).split())[:120]}): export it with a "
            "dynamic batch"
        ) from error
    if not np.abs(together - alone).max() < _SAME:
        raise ParityFailed(
            "the source's image of a window depends on the rest of the batch: batch norm was left in training mode, "
            "export it in eval mode"
        )


def _onnx(path: Path, signature: Path | None, opset: int | None) -> tuple[onnx.ModelProto, ModelSignature]:
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's, which share no root
        raise ModelUnreadable(f"{path}: corrupt, or no ONNX model: fetch it again") from error
    metadata = metadata_of(model)
    if (precision := metadata.get(PRECISION_KEY, "fp32")) != "fp32":
        raise ExportUnsupported(f"{path}: is {precision} already: give the fp32 file, or the checkpoint")
    described = _signature(path, metadata, signature)
    found = plain(_named(model, path, described))
    _refuse_lower(found, path)
    if opset is not None and opset < opset_of(found):
        raise OptionError(
            f"opset {opset}: {path} is written in {opset_of(found)}: leave it out, or give a higher one"
        )
    return (Graph(found, opset=opset).model() if opset else found), described


def _refuse_lower(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that is not float32 throughout, whatever its metadata say."""
    name = TensorProto.DataType.Name
    kinds = {name(tensor.data_type) for tensor in model.graph.initializer if tensor.data_type in _OTHER_FLOATS}
    for node in model.graph.node:
        to = attribute(node, "to") if node.op_type == "Cast" else None
        if to in _OTHER_FLOATS:
            kinds.add(name(to))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            kinds.add("Q/DQ pairs")
    if kinds:
        raise ExportUnsupported(f"{path}: its graph computes in {', '.join(sorted(kinds))}: give the fp32 file")


def _signature(path: Path, metadata: dict[str, str], given: Path | None) -> ModelSignature:
    if given is not None:
        try:
            return ModelSignature.from_json(given.read_text(), source=str(given))
        except (OSError, UnicodeDecodeError) as error:
            raise SignatureError(f"{given}: cannot be read ({error}): give a signature's JSON file") from error
    if METADATA_KEY not in metadata:
        raise SignatureError(
            f"{path}: carries no signature, so nothing says what its input means: give --signature FILE, like "
            f"{ModelSignature(name='mine').to_json()}"
        )
    return ModelSignature.from_json(metadata[METADATA_KEY], source=str(path))


def _named(model: onnx.ModelProto, path: Path, signature: ModelSignature) -> onnx.ModelProto:
    """Give a graph of one input and one output their names, and the signature."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]  # old files list their weights too
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ExportUnsupported(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs: a generator has one of each"
        )
    names = {inputs[0].name: INPUT, graph.output[0].name: OUTPUT}
    taken: set[str] = set()
    for k, node in enumerate(graph.node):
        if not node.name or node.name in taken:  # names are optional in ONNX, and need not differ
            node.name = f"{node.op_type}.{k}"
        taken.add(node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    inputs[0].name, graph.output[0].name = INPUT, OUTPUT
    side = signature.window
    for channels, value in ((signature.channels, inputs[0]), (3, graph.output[0])):
        _check_tensor(value, (channels, side, side), path)
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [BATCH_AXIS, channels, side, side])
        )
    kept = list(inputs)
    del graph.input[:]
    graph.input.extend(kept)
    del graph.value_info[:]
    helper.set_model_props(model, {**metadata_of(model), METADATA_KEY: signature.to_json()})
    return model


def _check_tensor(value: onnx.ValueInfoProto, expected: tuple[int, int, int], path: Path) -> None:
    """Refuse an input or output that is not float32, or fixed to another size than the signature's."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise ExportUnsupported(f"{path}: {value.name} is {kind}: a generator takes and gives float32")
    found = [dim.dim_value for dim in tensor.shape.dim][1:]
    if len(found) != len(expected) or any(f and f != e for f, e in zip(found, expected, strict=True)):
        shown = " x ".join(str(size or "any") for size in found)
        raise ExportUnsupported(
            f"{path}: {value.name} is {shown}, its signature says {' x '.join(map(str, expected))}: they must agree"
        )
