"""Rewrite a generator's graph to the requested precision and form, and verify it against the generator."""

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

from export.options import Exported, ExportOptions
from export.precision import QUANTIZED, Precision
from export.quantize import Searched, calibrate, prepare, search
from export.source import Source, open_source
from export.subpixel import can_be_rewritten, subpixel
from export.verify import Parity, Run, as_written, chips_from, compare, expect, refuse_unsigned, simulated_chips
from export.verify_wide import compare_wide, expect_wide, wide_chip
from sar2optical import __version__
from sar2optical._utils.files import write_output
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.autotune import windows_per_second
from sar2optical.engines.onnx_graph import ends_in_tanh, opset_of, with_metadata
from sar2optical.engines.onnx_half import emulate, halve, store_halved
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

__all__ = [
    "CALIBRATION_WINDOWS",
    "ROUNDS",
    "WIDE_KEY",
    "Chips",
    "chips_for",
    "chips_of",
    "measure_rate",
    "open_generator",
    "refuse_uncalibrated",
    "verified",
    "wide_entries",
]

CALIBRATION_WINDOWS = 32
"""Largest number of windows to calibrate on."""

WIDE_KEY = "sar2optical.parity_windows"
"""Key of the PSNR in each larger window in ONNX `metadata_props`."""

ROUNDS = 3
"""Number of measurements of speed; the best one counts, because other processes share the machine."""

_DARK, _DULL = -0.5, 0.05
"""Highest 99th percentile and standard deviation, on [-1, 1], of chips that are too dark or uniform to calibrate on.
Real chips have about 1 and 0.4, because a stretch ends near the 99th percentile."""

_log = logging.getLogger(f"sar2optical.{__name__}")


def open_generator(source: Path, options: ExportOptions, folder: Path) -> AbstractContextManager[Source]:
    """Open a source with the options of an export; see `open_source`.

    Raises
    ------
    OptionError
        If the precision needs calibration data and none is given; checked first.
    """
    refuse_uncalibrated(options)
    return open_source(
        source,
        folder,
        signature=options.signature,
        upsampling=options.upsampling,
        opset=options.opset,
        windows=options.windows,
        auto_window=options.auto_window,
    )


def refuse_uncalibrated(options: ExportOptions) -> None:
    """Refuse int8 and fp8 without calibration data.

    Raises
    ------
    OptionError
        If the precision needs calibration data and none is given.
    """
    if options.precision in QUANTIZED and options.calibration is None:
        raise OptionError(
            f"precision {options.precision} needs calibration on real data: give --calibration FOLDER_OR_SCENE"
        )


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Input (1, C, side, side) and output (1, 3, side, side) of the source, in [-1, 1]."""


@dataclass(frozen=True)
class Chips:
    """Chips that a file is verified on."""

    sar: NDArray[np.float32]
    """Inputs, (n, C, window, window) in [-1, 1]."""
    images: NDArray[np.float32]
    """Outputs of the source, (n, 3, window, window) in [-1, 1]."""
    origin: str
    """Origin of the chips, for reports."""
    self_test: SelfTest
    """Self-test of the source."""
    wide: Mapping[int, Pair] = field(default_factory=dict)
    """Input and output of the source in each larger window, by its size."""

    def compare_wide(self, found: Run, floor: float) -> dict[int, float]:
        """Compare an exported model in each larger window; return the PSNR in dB, see `verify_wide.compare_wide`."""
        return {side: compare_wide(image, found, sar, floor=floor) for side, (sar, image) in self.wide.items()}


def chips_for(generator: Source, options: ExportOptions) -> Chips:
    """Read the chips to verify on: those of the options, else the calibration data, else simulated chips."""
    path = options.verify_with or options.calibration
    sar = chips_from(path, generator.signature) if path else simulated_chips(generator.signature)
    chips = chips_of(generator.reference, generator.signature, sar, path)
    if not ends_in_tanh(generator.model):
        refuse_unsigned(chips.images)
    return chips


def chips_of(reference: Run, signature: ModelSignature, sar: NDArray[np.float32], path: Path | None) -> Chips:
    """Run the reference on chips and on the self-test's input, and check its images; see `expect`.

    In each larger window of the signature, it runs on one input: the chips side by side, or a simulated one.
    """
    images = expect(reference, sar)  # first, because it refuses NaN
    self_test = SelfTest.of(reference(self_test_input(signature)))
    wide = {}
    for side in signature.windows:
        given = wide_chip(sar, side) if path else simulated_chips(signature.in_window(side), count=1)
        wide[side] = (given, expect_wide(reference, given))
    return Chips(sar, images, path.name if path else "simulated", self_test, wide)


@dataclass(frozen=True, kw_only=True)
class _Rewritten:
    """A generator's graph in the requested precision and form."""

    model: onnx.ModelProto
    """Rewritten graph."""
    emulation: onnx.ModelProto | None = None
    """float32 graph that rounds as 16-bit hardware does; ONNX Runtime's CPU kernels do not."""
    searched: Searched | None = None
    """Result of the quantization search."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Entries for the metadata."""


def verified(
    generator: Source, options: ExportOptions, chips: Chips, folder: Path
) -> tuple[onnx.ModelProto, Exported]:
    """Rewrite the generator, and verify the result against it.

    Returns
    -------
    model, made
        Graph with its metadata, and its description. Path and size are set when it is written.

    Raises
    ------
    ExportUnsupported, ParityFailed
        If the graph cannot be rewritten as requested, or its parity is too low.
    """
    precision = options.precision or "fp32"
    rewritten = _rewritten(generator, options, chips, folder)
    packed = can_be_rewritten(generator.model) and not can_be_rewritten(rewritten.model)
    entries = {
        **rewritten.notes,
        **chips.self_test.write(),
        PRECISION_KEY: precision,
        "sar2optical.version": __version__,
        "sar2optical.storage": options.storage,
        "sar2optical.subpixel": "on" if packed else "off",
    }
    run = as_written(rewritten.emulation or rewritten.model)
    parity = compare(chips.images, run, chips.sar, source=chips.origin, floor=options.floor)
    wide_psnr = chips.compare_wide(run, options.floor)
    if rewritten.emulation:
        entries["sar2optical.parity_of"] = "roundings emulated in float32"
    model = with_metadata(rewritten.model, {**entries, **_parity_entries(parity), **wide_entries(wide_psnr)})
    _check_opens(model, precision, folder / "candidate.onnx")
    made = Exported(
        out=folder,
        megabytes=0,
        signature=generator.signature,
        precision=precision,
        parity=parity,
        wide_psnr=wide_psnr,
        opset=opset_of(model),
        subpixel=packed,
        emulated=rewritten.emulation is not None,
        searched=rewritten.searched,
    )
    return model, made


def _check_opens(model: onnx.ModelProto, precision: Precision, path: Path) -> None:
    """Check that an installed backend opens the file and passes its self-test.

    If OpenVINO fails the self-test of a quantized file, that is only a warning: the fault is OpenVINO's on this CPU.
    """
    backend = "onnxruntime" if precision != "bf16" else "openvino"
    write_output(path, model.SerializeToString())
    if not find_spec(backend):
        _log.warning(
            "%s is not installed, so the %s file was verified by emulation only: install %s and export again",
            backend, precision, backend,
        )  # fmt: skip
        return
    try:
        open_engine(path, backend=backend, options=EngineOptions(device="cpu")).close()
    except ModelError as error:
        raise ExportUnsupported(
            f"{backend} cannot run this graph in {precision}: give the checkpoint (export folds its batch "
            "norm), or another --precision"
        ) from error
    except DeviceUnavailable as error:
        reason = str(error).removeprefix(f"{path}: ").split(":")[0]
        raise ParityFailed(f"{reason}; no file was written: give another --precision") from error
    if precision in QUANTIZED and find_spec("openvino"):
        try:
            open_engine(path, backend="openvino", options=EngineOptions(device="cpu")).close()
        except (EngineError, ModelError) as error:
            _log.warning("OpenVINO cannot run the file on this CPU: %s", str(error).removeprefix(f"{path}: "))


def _rewritten(generator: Source, options: ExportOptions, chips: Chips, folder: Path) -> _Rewritten:
    precision = options.precision or "fp32"
    if options.subpixel == "on" and not can_be_rewritten(generator.model):
        raise ExportUnsupported(
            "--subpixel on has no effect, because this generator has no transposed convolution: remove the option"
        )
    packed = options.subpixel == "on" or (options.subpixel == "auto" and precision in ("bf16", "fp8"))
    if precision in QUANTIZED:
        return _quantized(generator, options, chips, folder, packed=packed)
    model = subpixel(generator.model) if packed else generator.model
    if precision in ("fp16", "bf16"):
        return _Rewritten(model=halve(model, precision), emulation=emulate(model, precision))
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
    searched = found[
        _subpixel_is_faster(found, generator.signature, chips.self_test, folder) if len(found) > 1 else max(found)
    ]
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
    """Refuse chips that use little of the input's range, because they have another unit or stretch."""
    low, high = np.percentile(sar, (1, 99))
    if high < _DARK or sar.std() < _DULL:
        raise ExportUnsupported(
            f"{path}: too dark or too uniform to calibrate on (98 % of the stretched values are between {low:.2f} "
            f"and {high:.2f}, the full range is -1 to 1): give chips in the unit and stretch of the model"
        )


def _subpixel_is_faster(
    found: Mapping[bool, Searched], signature: ModelSignature, self_test: SelfTest, folder: Path
) -> bool:
    """Measure whether the sub-pixel form is faster on this machine, in the backend that runs int8 fastest."""
    if not find_spec("openvino"):
        _log.info(
            "openvino is not installed, so the sub-pixel form was not measured: keeping transposed convolutions"
        )
        return False
    rates = dict.fromkeys(found, 0.0)
    with ExitStack() as stack:
        engines = {}
        for form, searched in found.items():
            path = folder / f"form-{form}.onnx"
            entries = {METADATA_KEY: signature.to_json(), PRECISION_KEY: "int8", PARITY_KEY: str(searched.psnr)}
            write_output(path, with_metadata(searched.model, {**entries, **self_test.write()}).SerializeToString())
            try:
                opened = open_engine(path, backend="openvino", options=EngineOptions(device="cpu"))
            except DeviceUnavailable as error:  # fails the self-test on this CPU
                _log.warning("%s form is not measured: %s", "sub-pixel" if form else "transposed", error)
            else:
                engines[form] = stack.enter_context(opened)
        for form, engine in [*engines.items()] * ROUNDS:
            rates[form] = max(rates[form], measure_rate(engine))
    _log.info("int8 in openvino: %.0f windows/s; in sub-pixel form: %.0f windows/s", rates[False], rates[True])
    return rates[True] > rates[False]


def _parity_entries(parity: Parity) -> dict[str, str]:
    return {
        PARITY_KEY: f"{parity.psnr:.2f}",
        "sar2optical.parity_ssim": f"{parity.ssim:.6f}",
        "sar2optical.parity_max_error": f"{parity.max_error:.3e}",
        "sar2optical.parity_mean_error": f"{parity.mean_error:.3e}",
        "sar2optical.parity_chips": f"{parity.chips} {parity.source}",
    }


def wide_entries(wide_psnr: Mapping[int, float]) -> dict[str, str]:
    """Return the metadata entry with the PSNR in each larger window; none if there is none."""
    figures = ", ".join(f"{side} {found:.2f}" for side, found in wide_psnr.items())
    return {WIDE_KEY: figures} if figures else {}


def measure_rate(engine: Engine) -> float:
    """Measure the windows per second of a short run."""
    return windows_per_second(engine, np.repeat(self_test_input(engine.signature), 4 * engine.streams, axis=0))
