"""Open the source of an export: a checkpoint, or a float32 ONNX file (which needs no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.precision import DEFAULT_OPSET
from export.verify import Run, as_written, expect
from export.windows import choose_windows, has_dynamic_sides, with_windows
from sar2optical._utils.files import write_output
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.onnx_graph import Graph, attribute, metadata_of, opset_of, plain
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import (
    DeviceUnavailable,
    ExportUnsupported,
    InferenceFailed,
    ModelUnreadable,
    OptionError,
    ParityFailed,
    SignatureError,
)
from sar2optical.signature import BATCH_AXIS, INPUT, METADATA_KEY, OUTPUT, PRECISION_KEY, ModelSignature

__all__ = ["CHECKPOINTS", "Source", "in_each_window", "open_source"]

CHECKPOINTS = (".pth", ".pt")
"""Suffixes of checkpoints."""

_OTHER_FLOATS = (
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E5M2,
)
_SAME = 1e-4  # largest difference of one window's images, alone and in a batch of two, from other kernels


@dataclass(frozen=True, kw_only=True)
class Source:
    """A generator to export."""

    model: onnx.ModelProto
    """Graph: float32, weights as initializers, a dynamic batch, the signature in its metadata; dynamic height and
    width if it takes larger windows."""
    signature: ModelSignature
    """Signature of the graph."""
    reference: Run
    """Source itself, run in float32 on inputs of the graph, in each window that it takes."""


@contextmanager
def open_source(
    path: Path,
    folder: Path,
    *,
    signature: Path | None = None,
    upsampling: str | None = None,
    opset: int | None = None,
    windows: tuple[int, ...] | None = None,
    auto_window: int | None = None,
) -> Iterator[Source]:
    """Load a generator to export.

    Parameters
    ----------
    path
        Checkpoint (`.pth`), or fp32 `.onnx` file.
    folder
        Folder for temporary files; it must exist as long as the source is open.
    signature
        JSON file with the signature, for an ONNX file that has none.
    upsampling
        Upsampling mode of a bare state dict whose decoder upsamples.
    opset
        Opset of the graph; an ONNX file of a lower opset is converted.
    windows, auto_window
        Heights and widths that the graph shall take, and the one for `--window auto`, see `ExportOptions`.

    Raises
    ------
    ExportUnsupported, OptionError
        If the file is of another kind, its graph is not that of a generator, or does not take the windows.
    SignatureError
        If an ONNX file has no signature and none is given.
    ParityFailed
        If the images of an ONNX file show that it is not a trained generator; see `expect`.
    """
    suffix = path.suffix.lower()
    if suffix in CHECKPOINTS:
        yield _checkpoint(path, upsampling=upsampling, opset=opset, windows=windows, auto_window=auto_window)
    elif suffix == ".onnx":
        if upsampling is not None:
            raise OptionError(
                f"--upsampling {upsampling} applies only to checkpoints, not to {path}: remove the option"
            )
        model, described = _onnx(path, signature, opset, windows, auto_window)
        named = folder / "source.onnx"
        write_output(named, model.SerializeToString())
        try:
            # Checked without ONNX Runtime's optimizer, which removes even a dropout in training mode.
            _refuse_crosstalk(_running(model, path), described)
            engine = open_engine(named, backend="onnxruntime", options=EngineOptions(device="cpu", precision="fp32"))
        except (ModelUnreadable, InferenceFailed) as error:
            raise ModelUnreadable(str(error).replace(str(named), str(path))) from error
        except DeviceUnavailable as error:  # the self-test, or an operator; its remedy is for those who run a file
            reason = str(error).removeprefix(f"{named}: ").rpartition(": ")[0]
            raise DeviceUnavailable(f"{path}: {reason}: export it again from the checkpoint") from error
        with engine:
            yield Source(model=model, signature=described, reference=in_each_window(engine))
    else:
        raise ExportUnsupported(f"{path}: cannot be exported: give a checkpoint (.pth) or an fp32 .onnx file")


def in_each_window(engine: Engine) -> Run:
    """Return a function that runs an engine in the window of its input."""

    def run(sar: NDArray[np.float32]) -> NDArray[np.float32]:
        engine.use_window(sar.shape[-1])
        return engine.run(sar)

    return run


def _checkpoint(
    path: Path,
    *,
    upsampling: str | None,
    opset: int | None,
    windows: tuple[int, ...] | None,
    auto_window: int | None,
) -> Source:
    import torch

    from export.to_onnx import to_onnx
    from sar2optical.models.checkpoint import load_generator
    from sar2optical.models.fold import fold
    from sar2optical.models.wide import larger_windows, zero_unused_taps

    generator, signature = load_generator(path, upsampling=upsampling)  # type: ignore[arg-type]
    default = signature.windows or larger_windows(signature.window)
    signature = choose_windows(signature, windows, auto_window, default)
    if signature.windows:
        zero_unused_taps(generator, signature.window)
    folded, signature = fold(generator, signature)
    channels = generator.arguments.in_channels

    @torch.inference_mode()
    def reference(sar):  # type: ignore[no-untyped-def]
        # The graph has one channel where the generator has copies of it.
        return generator(torch.from_numpy(sar).expand(-1, channels, -1, -1)).numpy()

    # Traced in its own window, and opened afterwards: operator by operator the graph of a file with a fixed window.
    model = to_onnx(folded, signature, opset=opset or DEFAULT_OPSET)
    model = with_windows(model, signature, path, dynamic=bool(signature.windows))
    return Source(model=model, signature=signature, reference=reference)


def _running(model: onnx.ModelProto, path: Path) -> Run:
    try:
        return as_written(model)
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        reason = " ".join(str(error).split())[:160]
        raise ModelUnreadable(f"{path}: ONNX Runtime cannot load it ({reason}): export it again") from error


def _refuse_crosstalk(run: Run, signature: ModelSignature) -> None:
    """Check the source's images, and that the image of a window does not depend on the rest of its batch."""
    chip = self_test_input(signature)
    both = np.concatenate((chip, -chip))
    alone = expect(run, both)
    try:
        together = run(both)
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        raise ExportUnsupported(
            f"the source cannot run a batch of two ({' '.join(str(error).split())[:120]}): export it with a dynamic "
            "batch"
        ) from error
    if not np.abs(together - alone).max() < _SAME:
        raise ParityFailed(
            "the source's image of one window depends on the other windows of the batch, as with batch norm in "
            "training mode: export it in eval mode"
        )


def _onnx(
    path: Path, signature: Path | None, opset: int | None, windows: tuple[int, ...] | None, auto_window: int | None
) -> tuple[onnx.ModelProto, ModelSignature]:
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's have no common base class
        raise ModelUnreadable(
            f"{path}: corrupt, or not an ONNX model: export it again, or download it again"
        ) from error
    metadata = metadata_of(model)
    if (precision := metadata.get(PRECISION_KEY, "fp32")) != "fp32":
        raise ExportUnsupported(f"{path}: is already {precision}: give the fp32 file, or the checkpoint")
    described = _signature(path, metadata, signature)
    if not described.is_version_1:
        raise ExportUnsupported(
            f"{path}: has a signature of version 2, and is exported already: run it with sar2opt-scene --model "
            f"{path.name} --signature FILE"
        )
    described = choose_windows(described, windows, auto_window, described.windows)
    dynamic = bool(described.windows) or (windows is None and has_dynamic_sides(model))
    found = plain(_named(model, path, described))
    _refuse_lower(found, path)
    if opset is not None and opset < opset_of(found):
        raise OptionError(
            f"opset is {opset}, but {path} has opset {opset_of(found)}: remove --opset, or give a higher one"
        )
    found = Graph(found, opset=opset).model() if opset else found
    made = with_windows(found, described, path, dynamic=dynamic)
    if described.windows:
        _refuse_changes(found, made, path)
    return made, described


def _refuse_changes(found: onnx.ModelProto, made: onnx.ModelProto, path: Path) -> None:
    """Check that a graph made for larger windows gives the same image in its own window, bit by bit."""
    chip = self_test_input(ModelSignature.from_json(metadata_of(made)[METADATA_KEY]))
    before, after = (_running(model, path)(chip) for model in (found, made))
    if not np.array_equal(before, after, equal_nan=True):
        raise ParityFailed(
            f"{path}: the graph for larger windows changes the output in the training window: remove --windows"
        )


def _refuse_lower(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that is not entirely float32, even if its metadata do not name a lower precision."""
    name = TensorProto.DataType.Name
    kinds = {name(tensor.data_type) for tensor in model.graph.initializer if tensor.data_type in _OTHER_FLOATS}
    for node in model.graph.node:
        to = attribute(node, "to") if node.op_type == "Cast" else None
        if to in _OTHER_FLOATS:
            kinds.add(name(to))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            kinds.add("Q/DQ pairs")
    if kinds:
        raise ExportUnsupported(
            f"{path}: its graph is not fp32, it has {', '.join(sorted(kinds))}: give the fp32 file"
        )


def _signature(path: Path, metadata: dict[str, str], given: Path | None) -> ModelSignature:
    if given is not None:
        return ModelSignature.read(given)
    if METADATA_KEY not in metadata:
        raise SignatureError(
            f"{path}: has no signature, so bands, unit and stretch of its input are unknown: give --signature FILE, "
            f"like {ModelSignature(name='mine').to_json()}"
        )
    return ModelSignature.from_json(metadata[METADATA_KEY], source=str(path))


def _named(model: onnx.ModelProto, path: Path, signature: ModelSignature) -> onnx.ModelProto:
    """Rename a graph's input and output, make its batch dynamic, and add the signature to its metadata."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [
        value for value in graph.input if value.name not in constants
    ]  # old files list weights among the inputs
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ExportUnsupported(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs: give a generator with one of each"
        )
    names = {inputs[0].name: INPUT, graph.output[0].name: OUTPUT}
    taken: set[str] = set()
    for k, node in enumerate(graph.node):
        if not node.name or node.name in taken:  # names are optional and not unique in ONNX
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
    """Refuse an input or output that is not float32, or that has another size than the signature."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise ExportUnsupported(f"{path}: {value.name} is {kind}: give a generator with float32 input and output")
    found = [dim.dim_value for dim in tensor.shape.dim][1:]
    if len(found) != len(expected) or any(f and f != e for f, e in zip(found, expected, strict=True)):
        shown = " x ".join(str(size or "any") for size in found)
        raise ExportUnsupported(
            f"{path}: {value.name} is {shown}, but {' x '.join(map(str, expected))} in the signature: give the "
            "signature of this file"
        )
