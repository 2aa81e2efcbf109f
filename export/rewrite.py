"""A generator's graph in the precision and form that was asked for, compared with the generator."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import ends_in_tanh, opset_of, with_metadata
from export.half import emulated, halve, store_halved
from export.options import Exported, ExportOptions
from export.precision import QUANTIZED, Precision
from export.quantize import Searched, calibrate, prepare, search
from export.source import Source, open_source
from export.subpixel import can_be_rewritten, subpixel
from export.verify import Parity, Run, as_written, chips_from, compare, expect, refuse_unsigned, simulated_chips
from sar2optical import __version__
from sar2optical._utils.files import write_output
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.autotune import windows_per_second
from sar2optical.engines.self_test import PARITY_KEY, SelfTest, self_test_input
from sar2optical.errors import (
    DeviceUnavailable,
    EngineError,
    ExportUnsupported,
    ModelError,
    OptionError,
    ParityFailed,
)
from sar2optical.evaluation.metrics import psnr
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature

CALIBRATION_WINDOWS = 32
"""Taken from the folder or scene to calibrate on, at most."""

ROUNDS = 3
"""That speed is measured in; the best one counts, because others share the machine."""

_DARK, _DULL = -0.5, 0.05
"""Highest value (99th percentile) and standard deviation, on [-1, 1], of chips that are too dark or even. Real ones
have about 1 and 0.4, because a stretch ends near the 99th percentile."""

_log = logging.getLogger(f"sar2optical.{__name__}")


def open_generator(source: Path, options: ExportOptions, folder: Path) -> AbstractContextManager[Source]:
    """Open a source as the options say; see `open_source`.

    Raises
    ------
    OptionError
        Where the precision is calibrated, and nothing is given to do it on: before anything takes time.
    """
    refuse_uncalibrated(options)
    return open_source(
        source, folder, signature=options.signature, upsampling=options.upsampling, opset=options.opset
    )


def refuse_uncalibrated(options: ExportOptions) -> None:
    """Refuse a precision that is calibrated without what it is calibrated on."""
    if options.precision in QUANTIZED and options.calibration is None:
        raise OptionError(
            f"precision {options.precision} is calibrated on real data: give --calibration FOLDER_OR_SCENE"
        )


@dataclass(frozen=True)
class Chips:
    """What a file is verified on."""

    sar: NDArray[np.float32]
    """(n, C, window, window) in [-1, 1]."""
    images: NDArray[np.float32]
    """(n, 3, window, window): the source's."""
    origin: str
    answer: SelfTest


def chips_for(generator: Source, options: ExportOptions) -> Chips:
    """Give what a generator is verified on: what was asked for, or what is calibrated on, or simulated chips."""
    path = options.verify_with or options.calibration
    sar = chips_from(path, generator.signature) if path else simulated_chips(generator.signature)
    chips = chips_of(generator.reference, generator.signature, sar, path)
    if not ends_in_tanh(generator.model):
        refuse_unsigned(chips.images)
    return chips


def chips_of(reference: Run, signature: ModelSignature, sar: NDArray[np.float32], path: Path | None) -> Chips:
    """Run the reference on chips, and see that it is worth exporting; see `expect`."""
    images = expect(reference, sar)  # first: it refuses what has no answer
    answer = SelfTest.of(reference(self_test_input(signature)))
    return Chips(sar, images, path.name if path else "simulated", answer)


@dataclass(frozen=True, kw_only=True)
class _Rewritten:
    """A generator's graph in the precision and form asked for."""

    model: onnx.ModelProto
    emulation: onnx.ModelProto | None = None
    """A float32 graph that rounds as hardware would, where ONNX Runtime's CPU kernels do not."""
    searched: Searched | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    """For the metadata."""


def verified(
    generator: Source, options: ExportOptions, chips: Chips, folder: Path
) -> tuple[onnx.ModelProto, Exported]:
    """Rewrite the generator, and compare the outcome with it.

    Returns
    -------
    model, made
        The graph with its metadata, and what is known of it; path and size are for whoever writes it.

    Raises
    ------
    ExportUnsupported, ParityFailed
        Where it cannot be had so, or is not good enough.
    """
    precision = options.precision or "fp32"
    rewritten = _rewritten(generator, options, chips, folder)
    packed = can_be_rewritten(generator.model) and not can_be_rewritten(rewritten.model)
    entries = {
        **rewritten.notes,
        **chips.answer.write(),
        PRECISION_KEY: precision,
        "sar2optical.version": __version__,
        "sar2optical.storage": options.storage,
        "sar2optical.subpixel": "on" if packed else "off",
    }
    run = as_written(rewritten.emulation or rewritten.model)
    parity = compare(chips.images, run, chips.sar, source=chips.origin, floor=options.floor)
    if rewritten.emulation:
        entries["sar2optical.parity_of"] = "roundings emulated in float32"
    model = with_metadata(rewritten.model, {**entries, **_figures(parity)})
    _open_once(model, precision, folder / "candidate.onnx")
    made = Exported(
        out=folder,
        megabytes=0,
        signature=generator.signature,
        precision=precision,
        parity=parity,
        opset=opset_of(model),
        subpixel=packed,
        emulated=rewritten.emulation is not None,
        searched=rewritten.searched,
    )
    return model, made


def _open_once(model: onnx.ModelProto, precision: Precision, path: Path) -> None:
    """See that the file itself can be opened, and gives the known answer, in a backend that is here.

    Where another one that is here does not give it, that is said: the file is right, and not fit for it on this CPU.
    """
    backend = "onnxruntime" if precision != "bf16" else "openvino"
    write_output(path, model.SerializeToString())
    if not find_spec(backend):
        _log.warning("%s is not here to open the %s file with: only its emulation was run", backend, precision)
        return
    try:
        open_engine(path, backend=backend, options=EngineOptions(device="cpu")).close()
    except ModelError as error:
        raise ExportUnsupported(
            f"{backend} does not run this graph in {precision}: give the checkpoint, whose batch norm is folded, or "
            "another --precision"
        ) from error
    except DeviceUnavailable as error:
        reason = str(error).removeprefix(f"{path}: ").split(":")[0]
        raise ParityFailed(f"{reason}: no file was written, give another --precision") from error
    if precision in QUANTIZED and find_spec("openvino"):
        try:
            open_engine(path, backend="openvino", options=EngineOptions(device="cpu")).close()
        except (EngineError, ModelError) as error:
            _log.warning("not for OpenVINO on this CPU: %s", str(error).removeprefix(f"{path}: "))


def _rewritten(generator: Source, options: ExportOptions, chips: Chips, folder: Path) -> _Rewritten:
    precision = options.precision or "fp32"
    if options.subpixel == "on" and not can_be_rewritten(generator.model):
        raise ExportUnsupported("subpixel on: this generator has no transposed convolution: leave the option out")
    packed = options.subpixel == "on" or (options.subpixel == "auto" and precision in ("bf16", "fp8"))
    if precision in QUANTIZED:
        return _quantized(generator, options, chips, folder, packed=packed)
    model = subpixel(generator.model) if packed else generator.model
    if precision in ("fp16", "bf16"):
        return _Rewritten(model=halve(model, precision), emulation=emulated(model, precision))
    return _Rewritten(model=store_halved(model) if options.storage == "fp16" else model)


def _quantized(generator: Source, options: ExportOptions, chips: Chips, folder: Path, *, packed: bool) -> _Rewritten:
    assert options.calibration is not None
    sar = chips_from(options.calibration, generator.signature, most=CALIBRATION_WINDOWS, any_band=False)
    forms = [packed]
    if options.subpixel == "auto" and options.precision == "int8" and can_be_rewritten(generator.model):
        forms = [False, True]
    _refuse_narrow(sar, options.calibration)
    found: dict[bool, Searched] = {}
    for form in forms:
        try:
            found[form] = _search(generator.model, options, chips, sar, packed=form)
        except ParityFailed:
            if form == forms[-1] and not found:
                raise
    searched = found[_faster(found, generator.signature, chips.answer, folder) if len(found) > 1 else max(found)]
    calibration = {
        "source": options.calibration.name,
        "method": searched.method,
        "windows": [hashlib.sha256(chip.tobytes()).hexdigest()[:16] for chip in sar],
    }
    notes = {
        "sar2optical.calibration": json.dumps(calibration),
        "sar2optical.left_in_fp32": ",".join(searched.kept),
    }
    return _Rewritten(model=searched.model, searched=searched, notes=notes)


def _search(
    model: onnx.ModelProto, options: ExportOptions, chips: Chips, sar: NDArray[np.float32], *, packed: bool
) -> Searched:
    kind = options.precision
    assert kind in ("int8", "fp8")
    prepared = prepare(subpixel(model) if packed else model, kind)
    ranges = calibrate(prepared, sar)
    if options.method:
        ranges = {options.method: ranges[options.method]}

    def measure(candidate: onnx.ModelProto) -> float:
        run = as_written(candidate)
        pairs = zip(chips.sar, chips.images, strict=True)
        return min(psnr(image, run(chip[None])[0], data_range=2.0) for chip, image in pairs)

    return search(prepared, ranges, kind, measure, options.floor)


def _refuse_narrow(sar: NDArray[np.float32], path: Path) -> None:
    """Refuse chips that use little of the input's range: of another unit, or stretched by other hands."""
    low, high = np.percentile(sar, (1, 99))
    if high < _DARK or sar.std() < _DULL:
        raise ExportUnsupported(
            f"{path}: 98 % of its values become {low:.2f} to {high:.2f} of -1 to 1, too dark or even for ranges: "
            "give chips stretched as the model's were"
        )


def _faster(found: Mapping[bool, Searched], signature: ModelSignature, answer: SelfTest, folder: Path) -> bool:
    """Say whether the sub-pixel form is the faster one here, in the backend that runs int8 fastest."""
    if not find_spec("openvino"):
        _log.info("openvino is not here to measure with: transposed convolutions are kept")
        return False
    rates = dict.fromkeys(found, 0.0)
    with ExitStack() as stack:
        engines = {}
        for form, searched in found.items():
            path = folder / f"form-{form}.onnx"
            entries = {METADATA_KEY: signature.to_json(), PRECISION_KEY: "int8", PARITY_KEY: str(searched.psnr)}
            write_output(path, with_metadata(searched.model, {**entries, **answer.write()}).SerializeToString())
            try:
                opened = open_engine(path, backend="openvino", options=EngineOptions(device="cpu"))
            except DeviceUnavailable as error:  # computes it wrongly on this CPU
                _log.warning("%s form: %s", "sub-pixel" if form else "transposed", error)
            else:
                engines[form] = stack.enter_context(opened)
        for form, engine in [*engines.items()] * ROUNDS:
            rates[form] = max(rates[form], rate_of(engine))
    _log.info("int8 in openvino: %.0f windows/s, in sub-pixel form %.0f", rates[False], rates[True])
    return rates[True] > rates[False]


def _figures(parity: Parity) -> dict[str, str]:
    return {
        PARITY_KEY: f"{parity.psnr:.2f}",
        "sar2optical.parity_ssim": f"{parity.ssim:.6f}",
        "sar2optical.parity_max_error": f"{parity.max_error:.3e}",
        "sar2optical.parity_mean_error": f"{parity.mean_error:.3e}",
        "sar2optical.parity_chips": f"{parity.chips} {parity.source}",
    }


def rate_of(engine: Engine) -> float:
    """Give the windows per second of a short run."""
    return windows_per_second(engine, np.repeat(self_test_input(engine.signature), 4 * engine.streams, axis=0))
