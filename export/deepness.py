"""Write an ONNX file that Deepness, a plugin of QGIS, runs as it is: it takes a raster's values and returns bytes.

Deepness reads tiles of a raster layer, divides the values by 255, subtracts `standardization_mean`, divides by
`standardization_std`, and runs the model. A model of type Regressor gives a layer for each of its outputs.
Source: PUTvision/qgis-plugin-deepness, `ModelBase.preprocessing`, `Regressor` and `MapProcessorRegression`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.verify import Run, simulated_chips
from sar2optical import __version__
from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.onnx_graph import opset_of
from sar2optical.errors import DeviceUnavailable, ExportUnsupported, OptionError, ParityFailed
from sar2optical.mosaic.tags import NOTE
from sar2optical.scene.decoding import decode
from sar2optical.scene.encoder import POWER_OF, Encoding, choose_stretch, encode_bands, to_input
from sar2optical.signature import INPUT, OUTPUT, ModelSignature, Stretch, Unit

__all__ = ["IMAGE", "LAYERS", "for_deepness"]

IMAGE = "image"
"""Name of the input: values of the layer, divided by 255."""

LAYERS = ("red", "green", "blue")
"""Names of the outputs, and of the layers in QGIS: float32, whole numbers from 0 to 255."""

_OVERLAP = 25
"""Overlap of tiles in percent of their side: that of windows of 256 with an overlap of 64."""

_BEYOND = np.float32(1.2)
"""Reach of the verified values beyond the stretch, which clips them."""

_LEAST_OPSET = 13  # Split with sizes as an input
_PREFIX = "sar2optical."


def for_deepness(
    source: Path, out: Path, *, units: Unit | None = None, stretch: Stretch | None = None, overwrite: bool = False
) -> float:
    """Write a file for Deepness from an exported ONNX file, verified against the mosaic's own arithmetic.

    Parameters
    ----------
    source
        ONNX file of a generator, with a signature.
    out
        Path of the file.
    units
        Unit of the layer's values; None: that of the model.
    stretch
        Stretch in the model's unit. It must be fixed, because a model in Deepness sees one tile only. None: that of
        the signature.
    overwrite
        Replace an existing file.

    Returns
    -------
    float
        Largest difference from the bytes of `sar2opt-scene`, in levels.

    Raises
    ------
    OptionError
        If the stretch has percentiles, or the units cannot be converted.
    ExportUnsupported
        If the model has a signature of version 2, or ONNX Runtime does not run it on a CPU, as is so of bf16.
    ParityFailed
        If the file's image differs by more than one level; no file is written.
    """
    refuse_existing(out, overwrite=overwrite)
    # The library of Deepness itself; it computes each file in the file's own precision.
    with _opened(source) as engine:
        signature = engine.signature
        if not signature.is_version_1:
            raise ExportUnsupported(
                f"{source}: --for deepness does not support a signature of version 2: give a model with a "
                "signature of version 1"
            )
        unit = units or signature.unit
        encodings = _encodings(source, signature, unit, stretch)
        model = _rewritten(onnx.load(source), signature, encodings)
        layers = _layers(signature, encodings)
        worst = max(_difference(engine.run, model, layer, signature, encodings) for layer in layers)
    if worst > 1:
        raise ParityFailed(
            f"{out}: its image differs by {worst:g} levels from that of {source}, at most 1 is allowed: nothing was "
            "written; report this file"
        )
    write_output(out, model.SerializeToString())
    return worst


def _opened(source: Path) -> Engine:
    try:
        return open_engine(source, backend="onnxruntime", options=EngineOptions(device="cpu"))
    except DeviceUnavailable as error:
        raise ExportUnsupported(
            f"{source}: ONNX Runtime, with which Deepness runs files, does not run it ({error}): give the fp32 file"
        ) from error


def _encodings(source: Path, signature: ModelSignature, unit: Unit, stretch: Stretch | None) -> list[Encoding]:
    target, chosen = choose_stretch(unit, signature, stretch)
    stretches = [one for one in chosen if isinstance(one, Stretch)]  # all, in version 1
    if any(bound.percentile for one in stretches for bound in (one.low, one.high)):
        raise OptionError(
            f"{source}: is stretched by percentiles of the scene ({stretches[0]}), which a tile in QGIS does not "
            f"have: give --stretch LOW HIGH in {target}"
        )
    return [Encoding(unit, target, one.low.at, one.high.at) for one in stretches]


def _rewritten(model: onnx.ModelProto, signature: ModelSignature, encodings: list[Encoding]) -> onnx.ModelProto:
    """Return the graph with encoding before it, decoding after it, and the metadata that Deepness reads."""
    if opset_of(model) < _LEAST_OPSET:
        raise ExportUnsupported(f"{signature.name}: has opset {opset_of(model)}: export it again with --opset 18")
    side, graph = signature.window, model.graph
    if {one.name for one in graph.input} != {INPUT} or {one.name for one in graph.output} != {OUTPUT}:
        raise ExportUnsupported(f"{signature.name}: its tensors are not {INPUT} and {OUTPUT}: export it again")
    constants, before = _encoding(signature, encodings)
    more, after = _decoding()
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*constants, *more])
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, len(encodings), side, side]))
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name in LAYERS)
    _replace_metadata(model, signature)
    onnx.checker.check_model(model)
    return model


def _encoding(signature: ModelSignature, encodings: list[Encoding]) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Return constants and nodes from the layer's values to the model's input, as `Encoding.encode` does it."""
    bands = len(encodings)
    scale = np.array([2 / (one.high - one.low) for one in encodings], np.float32).reshape(1, bands, 1, 1)
    low = np.array([one.low for one in encodings], np.float32).reshape(1, bands, 1, 1)
    arrays: dict[str, Any] = {"byte": 255, "nothing": 0, "one": 1, "least": -1, "low": low, "scale": scale}
    nodes = [helper.make_node("Mul", [IMAGE, _name("byte")], [_name("values")])]
    last = _converted(encodings[0], nodes, arrays)
    steps = (("Sub", "low"), ("Mul", "scale"), ("Sub", "one"))
    for k, (kind, constant) in enumerate(steps):
        nodes.append(helper.make_node(kind, [last, _name(constant)], [_name(f"step{k}")]))
        last = _name(f"step{k}")
    nodes += [
        helper.make_node("Clip", [last, _name("least"), _name("one")], [_name("clipped")]),
        helper.make_node("IsNaN", [IMAGE], [_name("hole")]),
        helper.make_node("Where", [_name("hole"), _name("nothing"), _name("clipped")], [_name("encoded")]),
        helper.make_node("Concat", [_name("encoded")] * (signature.channels // bands), [INPUT], axis=1),
    ]
    return _constants(arrays), nodes


def _converted(encoding: Encoding, nodes: list[onnx.NodeProto], arrays: dict[str, Any]) -> str:
    """Add the conversion of units, and return the name of the converted values."""
    source, target = encoding.source, encoding.target
    if source == target or {source, target} == {"dn", "amplitude"}:
        return _name("values")
    if target != "db" or source not in POWER_OF:
        raise OptionError(f"units {source}: cannot be converted to {target} for Deepness: give --units {target}")
    # 10 * log10(power), as in `sar2optical.scene.encoder.convert`.
    arrays["decibel"] = 10 * POWER_OF[source] / np.log(10)
    nodes += [
        helper.make_node("Max", [_name("values"), _name("nothing")], [_name("positive")]),
        helper.make_node("Log", [_name("positive")], [_name("log")]),
        helper.make_node("Mul", [_name("log"), _name("decibel")], [_name("decibels")]),
    ]
    return _name("decibels")


def _decoding() -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Return constants and nodes from the model's output to bytes, as `decode` does it: an output for each colour."""
    arrays = {"half": 127.5, "round": 128, "lowest": 0, "white": 255}
    nodes = [
        helper.make_node("Mul", [OUTPUT, _name("half")], [_name("scaled")]),
        helper.make_node("Add", [_name("scaled"), _name("round")], [_name("shifted")]),
        helper.make_node("Clip", [_name("shifted"), _name("lowest"), _name("white")], [_name("limited")]),
        helper.make_node("Floor", [_name("limited")], [_name("bytes")]),
        helper.make_node("Split", [_name("bytes"), _name("colours")], list(LAYERS), axis=1),
    ]
    colours = numpy_helper.from_array(np.array([1, 1, 1], np.int64), _name("colours"))
    return [*_constants(arrays), colours], nodes


def _constants(arrays: dict[str, Any]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(array, np.float32), _name(name)) for name, array in arrays.items()]


def _name(name: str) -> str:
    return f"deepness/{name}"


def _replace_metadata(model: onnx.ModelProto, signature: ModelSignature) -> None:
    """Store what Deepness reads; remove the keys by which this package knows its own files."""
    entries = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(_PREFIX)}
    bands = len(signature.bands)
    values = {
        "model_type": "Regressor",
        "class_names": [{"0": name} for name in LAYERS],
        "tile_size": signature.window,
        "tiles_overlap": _OVERLAP,
        "reg_output_scaling": 1.0,
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1.0] * bands,
        "note": f"{signature.name}, {NOTE}; sar2optical {__version__}",
        **({"resolution": 100 * signature.pixel_size} if signature.pixel_size else {}),  # centimetres
    }
    entries |= {key: json.dumps(value) for key, value in values.items()}
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _layers(signature: ModelSignature, encodings: list[Encoding]) -> list[NDArray[np.float32]]:
    """Return simulated windows in the unit of the layer: float32 (bands, window, window)."""
    found = []
    for chip in simulated_chips(signature)[:2]:
        converted = [
            (_BEYOND * band + 1) / 2 * (one.high - one.low) + one.low
            for band, one in zip(chip, encodings, strict=False)
        ]
        found.append(np.stack([_unconverted(band, one) for band, one in zip(converted, encodings, strict=True)]))
    return found


def _unconverted(values: NDArray[np.float32], encoding: Encoding) -> NDArray[np.float32]:
    if encoding.source == encoding.target or encoding.target != "db":
        return values.astype(np.float32)
    return np.asarray(10 ** (values / (10 * POWER_OF[encoding.source])), np.float32)


def _difference(
    run: Run, model: onnx.ModelProto, layer: NDArray[np.float32], signature: ModelSignature, encodings: list[Encoding]
) -> float:
    """Return the largest difference in levels between the file's image of a window and the mosaic's bytes."""
    side = signature.window
    valid = np.ones((side, side), np.bool_)
    sar, _ = to_input(encode_bands(encodings, layer, valid), valid, shape=(side, side), channels=signature.channels)
    wanted = decode(run(np.ascontiguousarray(sar)[None])[0])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(LAYERS), {IMAGE: layer[None] / np.float32(255)})
    return float(np.abs(np.concatenate(found, axis=1)[0] - wanted).max())
