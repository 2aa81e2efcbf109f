"""What is exported: a checkpoint, or a float32 ONNX file. From the latter, nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from export.graph import metadata_of, plain
from export.precision import DEFAULT_OPSET
from export.verify import Run, as_written, expect
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.known_answer import question
from sar2optical.errors import ExportUnsupported, ModelUnreadable, SignatureError
from sar2optical.files import write_output
from sar2optical.signature import INPUT, METADATA_KEY, OUTPUT, PRECISION_KEY, ModelSignature

CHECKPOINTS = (".pth", ".pt")


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
        Of a checkpoint's graph.

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
        model, described = _onnx(path, signature)
        named = folder / "source.onnx"
        write_output(named, model.SerializeToString())
        options = EngineOptions(device="cpu", precision="fp32")
        with open_engine(named, backend="onnxruntime", options=options) as engine:
            # ONNX Runtime's optimizer, which the engine has on, leaves out even a dropout in training mode.
            expect(as_written(model), question(described))
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


def _onnx(path: Path, signature: Path | None) -> tuple[onnx.ModelProto, ModelSignature]:
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
    return plain(_named(model, path, described)), described


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
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    inputs[0].name, graph.output[0].name = INPUT, OUTPUT
    kept = list(inputs)
    del graph.input[:]
    graph.input.extend(kept)
    del graph.value_info[:]
    helper.set_model_props(model, {**metadata_of(model), METADATA_KEY: signature.to_json()})
    return model
