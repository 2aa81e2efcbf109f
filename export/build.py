"""From a generator to a verified file: rewritten, compared with its source, and only then renamed into place."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import metadata_of, opset_of, with_metadata
from export.half import BF16_OPSET, emulated, halve, store_halved
from export.precision import FLOORS, HALF_STORAGE_FLOOR, OPSETS, PRECISIONS, QUANTIZED, Precision, Storage, Subpixel
from export.quantize import FP8_OPSET, Method, Searched, calibrate, prepare, search
from export.source import CHECKPOINTS, Source, open_source
from export.subpixel import can_be_rewritten, subpixel
from export.verify import Parity, Run, as_written, chips_from, compare, expect, simulated_chips
from sar2optical import __version__
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.auto import windows_per_second
from sar2optical.engines.base import Description
from sar2optical.engines.known_answer import PARITY_KEY, KnownAnswer, question
from sar2optical.errors import (
    BackendNotInstalled,
    DeviceUnavailable,
    ExportUnsupported,
    ModelError,
    OptionError,
    OutputUnwritable,
    ParityFailed,
    Sar2OpticalError,
)
from sar2optical.files import refuse_existing, write_output
from sar2optical.metrics import psnr
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature

CALIBRATION_WINDOWS = 32
"""Taken from the folder or scene to calibrate on, at most."""

_DARK, _DULL = -0.5, 0.05
"""Highest value (99th percentile) and standard deviation, on [-1, 1], of chips that are too dark or even. Real ones
have about 1 and 0.4, because a stretch ends near the 99th percentile."""

_ROUNDS = 3
"""That speed is measured in; the best one counts, because others share the machine."""

LEAST_OPSETS: dict[Precision, int] = {"bf16": BF16_OPSET, "fp8": FP8_OPSET}

PLANS = (".plan", ".engine")

_log = logging.getLogger(f"sar2optical.{__name__}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that changes an exported file, beside its source."""

    precision: Precision | None = None
    """Of the graph; where None, that of an ONNX source, and fp32 of a checkpoint."""
    opset: int | None = None
    """Of the standard operators; what the precision needs, at least."""
    storage: Storage = "fp32"
    """How a float32 graph keeps its weights. fp16 halves the file; they are rounded once, and run in fp32."""
    subpixel: Subpixel = "auto"
    """auto: in bf16 and fp8, because TensorRT and its tools ask for it; in int8 where it is faster here."""
    calibration: Path | None = None
    """Folder of real chips, or a scene; int8 and fp8 need it."""
    method: Method | None = None
    """Of calibration; the best of all where None."""
    verify_with: Path | None = None
    """Folder of real chips, or a scene; what was calibrated on, or else simulated chips, where None."""
    min_psnr: float | None = None
    """Least PSNR in dB of the worst chip; `FLOORS` where None."""
    signature: Path | None = None
    """JSON file, for an ONNX source that carries no signature."""
    upsampling: str | None = None
    """Mode of a bare state dict whose decoder upsamples."""
    plan: Mapping[str, Any] | None = None
    """How a TensorRT plan is built: fields of `PlanOptions`."""
    overwrite: bool = False
    """Replace the output."""

    @property
    def floor(self) -> float:
        """Least PSNR in dB that passes."""
        if self.min_psnr is not None:
            return self.min_psnr
        halved = self.storage == "fp16" and self.precision in (None, "fp32")
        return HALF_STORAGE_FLOOR if halved else FLOORS[self.precision or "fp32"]

    def __post_init__(self) -> None:
        if self.opset is not None and self.opset not in OPSETS:
            raise OptionError(f"opset is {self.opset}: give {OPSETS[0]} to {OPSETS[-1]}")
        needed = LEAST_OPSETS.get(self.precision or "fp32", 0)
        if self.opset is not None and self.opset < needed:
            raise OptionError(f"opset is {self.opset}: {self.precision} needs {needed}: leave it out")
        if self.min_psnr is not None and not 0 <= self.min_psnr < float("inf"):
            raise OptionError(f"min-psnr is {self.min_psnr}: give a number of dB")
        if self.storage == "fp16" and self.precision not in (None, "fp32"):
            raise OptionError(
                f"storage fp16 with precision {self.precision}: only fp32 graphs store their weights so"
            )
        if self.precision in QUANTIZED and self.calibration is None:
            raise OptionError(
                f"precision {self.precision} is calibrated on real data: give --calibration FOLDER_OR_SCENE"
            )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made."""

    out: Path
    megabytes: float
    signature: ModelSignature
    precision: Precision
    parity: Parity
    opset: int
    subpixel: bool
    """Whether transposed convolutions are in sub-pixel form."""
    emulated: bool = False
    """Whether parity is of the roundings, emulated in float32: no CPU library here does them."""
    searched: Searched | None = None
    """How an 8-bit file came to be."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One precision of `export_all`: what was made and how fast it runs here, or why not."""

    precision: Precision
    made: Exported | None = None
    engine: str = ""
    windows_per_second: float = float("nan")
    reason: str = ""


def export(source: Path, out: Path, options: ExportOptions | None = None, *, progress: Any = None) -> Exported:
    """Export a generator to a verified file.

    Parameters
    ----------
    source
        `.pth`: a checkpoint of ours, or a bare state dict; `.onnx`: a float32 graph. For a plan, an ONNX file of any
        precision that this function wrote.
    out
        `.onnx` or `.plan`; absent or whole and verified.
    options
        See `ExportOptions`.
    progress
        Told of the phases of a TensorRT build.

    Returns
    -------
    Exported

    Raises
    ------
    Sar2OpticalError
        One of its kinds; no file is left at `out`.
    """
    options = options or ExportOptions()
    if out.suffix.lower() not in (".onnx", *PLANS):
        raise ExportUnsupported(f"{out}: written are .onnx and .plan files: give a name that ends so")
    if source.suffix.lower() not in (".onnx", *CHECKPOINTS):
        raise ExportUnsupported(f"{source}: exported are checkpoints (.pth) and fp32 ONNX files: give one")
    if out.suffix.lower() == ".onnx" and options.plan:
        raise OptionError(f"{', '.join(sorted(options.plan))}: of TensorRT plans, {out.name} is none: leave it out")
    refuse_existing(out, overwrite=options.overwrite)
    if out.exists() and out.samefile(source):
        raise OptionError(f"{out}: is the source itself: give another output")
    with TemporaryDirectory() as name:
        folder = Path(name)
        if out.suffix.lower() in PLANS:
            return _plan(source, out, options, folder, progress)
        with _generator(source, options, folder) as generator:
            model, made = _verified(generator, options, folder)
            write_output(out, model.SerializeToString())
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6)


def export_all(source: Path, folder: Path, options: ExportOptions) -> Iterator[Row]:
    """Export every precision that verifies into one folder, as `<name>.<precision>.onnx`.

    Parameters
    ----------
    source
        As in `export`.
    folder
        Made where it is missing.
    options
        Their precision is not looked at.

    Yields
    ------
    Row
        In the order of `PRECISIONS`; one that cannot be made is no error.
    """
    fresh = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(
            f"{folder}: cannot be made a folder ({error.strerror}): choose another name"
        ) from error
    for precision in PRECISIONS:
        out = folder / f"{source.stem}.{precision}.onnx"
        try:
            made = export(source, out, replace(options, precision=precision))
        except Sar2OpticalError as error:
            yield Row(precision=precision, reason=str(error))
            continue
        try:
            engine, rate = _rate(out)
        except Sar2OpticalError as error:
            engine, rate = f"not run here: {error}", float("nan")
        yield Row(precision=precision, made=made, engine=engine, windows_per_second=rate)
    if fresh and not any(folder.iterdir()):
        folder.rmdir()


def _rate(path: Path) -> tuple[str, float]:
    """Run a file a few times with the backend that comes first on the CPU."""
    with open_engine(path, options=EngineOptions(device="cpu")) as engine:
        return str(engine), max(_rate_of(engine) for _ in range(_ROUNDS))


def _rate_of(engine: Engine) -> float:
    return windows_per_second(engine, np.repeat(question(engine.signature), 4 * engine.streams, axis=0))


def _generator(source: Path, options: ExportOptions, folder: Path) -> AbstractContextManager[Source]:
    return open_source(
        source, folder, signature=options.signature, upsampling=options.upsampling, opset=options.opset
    )


@dataclass(frozen=True)
class _Chips:
    """What a file is verified on."""

    sar: NDArray[np.float32]
    """(n, C, window, window) in [-1, 1]."""
    images: NDArray[np.float32]
    """(n, 3, window, window): the source's."""
    origin: str
    answer: KnownAnswer


def _chips(generator: Source, options: ExportOptions) -> _Chips:
    path = options.verify_with or options.calibration
    sar = chips_from(path, generator.signature) if path else simulated_chips(generator.signature)
    return _chips_of(generator.reference, generator.signature, sar, path)


def _chips_of(reference: Run, signature: ModelSignature, sar: NDArray[np.float32], path: Path | None) -> _Chips:
    images = expect(reference, sar)  # first: it refuses what has no answer
    answer = KnownAnswer.of(reference(question(signature)))
    return _Chips(sar, images, path.name if path else "simulated", answer)


@dataclass(frozen=True, kw_only=True)
class _Rewritten:
    """A generator's graph in the precision and form asked for."""

    model: onnx.ModelProto
    emulation: onnx.ModelProto | None = None
    """A float32 graph that rounds as hardware would, where ONNX Runtime's CPU kernels do not."""
    searched: Searched | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    """For the metadata."""


def _verified(generator: Source, options: ExportOptions, folder: Path) -> tuple[onnx.ModelProto, Exported]:
    """Rewrite the generator, and compare the outcome with it."""
    precision = options.precision or "fp32"
    chips = _chips(generator, options)
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
    """See that the file itself can be opened, and gives the known answer, in a backend that is here."""
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


def _rewritten(generator: Source, options: ExportOptions, chips: _Chips, folder: Path) -> _Rewritten:
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


def _quantized(generator: Source, options: ExportOptions, chips: _Chips, folder: Path, *, packed: bool) -> _Rewritten:
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
    model: onnx.ModelProto, options: ExportOptions, chips: _Chips, sar: NDArray[np.float32], *, packed: bool
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


def _faster(found: Mapping[bool, Searched], signature: ModelSignature, answer: KnownAnswer, folder: Path) -> bool:
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
        for form, engine in [*engines.items()] * _ROUNDS:
            rates[form] = max(rates[form], _rate_of(engine))
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


def _plan(source: Path, out: Path, options: ExportOptions, folder: Path, progress: Any) -> Exported:
    """Build a plan: from an ONNX file in lower precision as it is, or else from one that is made for it."""
    try:
        from export.to_tensorrt import PlanOptions, build_plan
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"{out.name} needs {error.name}: pip install 'sar2optical[tensorrt]'") from error

    settings = PlanOptions(**(options.plan or {}), overwrite=options.overwrite)
    graph = folder / f"{out.stem}.onnx"
    if (precision := _precision_of(source)) == "fp32":
        with _generator(source, options, folder) as generator:
            chips = _chips(generator, options)
            model, made = _verified(generator, options, folder)
    else:
        model, made, chips = _as_it_is(source, precision, options)
    write_output(graph, model.SerializeToString())
    parity: list[Parity] = []

    def verify(candidate: Path) -> dict[str, float | str]:
        running = EngineOptions(device="cuda", batch=settings.batch[0])
        with open_engine(candidate, backend="tensorrt", options=running) as engine:
            found = compare(chips.images, engine.run, chips.sar, source=chips.origin, floor=options.floor)
        parity.append(found)
        return dict(asdict(found))

    build_plan(graph, out, settings, verify=verify, rebuild=_command(source, out, options), progress=progress)
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6, parity=parity[0], emulated=False)


def _precision_of(source: Path) -> str:
    """Tell the precision of a source; a file that cannot be read is refused where it is opened."""
    if source.suffix.lower() != ".onnx":
        return "fp32"
    try:
        return metadata_of(onnx.load(source)).get(PRECISION_KEY, "fp32")
    except Exception:  # protobuf's and the system's, which share no root
        return "fp32"


def _as_it_is(source: Path, precision: str, options: ExportOptions) -> tuple[onnx.ModelProto, Exported, _Chips]:
    """Take a file of ours in lower precision; ONNX Runtime says what it does."""
    if options.precision not in (None, precision):
        raise ExportUnsupported(f"{source}: is {precision} already, not {options.precision}: give the fp32 file")
    if precision == "bf16":
        raise ExportUnsupported(
            f"{source}: is bf16, which no plan can be compared with here: give the fp32 file, and --precision bf16"
        )
    model = onnx.load(source)
    described = Description.read(metadata_of(model), source)
    path = options.verify_with
    sar = chips_from(path, described.signature) if path else simulated_chips(described.signature)
    with open_engine(source, backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        chips = _chips_of(engine.run, described.signature, sar, path)
        parity = compare(chips.images, engine.run, sar, source=chips.origin, floor=0)
    made = Exported(
        out=source,
        megabytes=0,
        signature=described.signature,
        precision=precision,  # type: ignore[arg-type]
        parity=parity,
        opset=opset_of(model),
        subpixel=metadata_of(model).get("sar2optical.subpixel") == "on",
    )
    return model, made, chips


def _command(source: Path, out: Path, options: ExportOptions) -> str:
    """Give the command that does the same again."""
    plan = dict(options.plan or {})
    given = {
        "precision": options.precision,
        "opset": options.opset,
        "calibration": options.calibration,
        "calibration-method": options.method,
        "verify-with": options.verify_with,
        "min-psnr": options.min_psnr,
        "signature": options.signature,
        "upsampling": options.upsampling,
        "subpixel": options.subpixel,
        "workspace": plan["workspace"] / 2**30 if "workspace" in plan else None,
        "timing-cache": plan.get("timing_cache"),
        "hardware-compatibility": plan.get("hardware_compatibility"),
    }
    words = ["sar2opt-export", str(source), str(out), "--overwrite"]
    for name, value in given.items():
        words += [] if value is None else [f"--{name}", str(value)]
    if "batch" in plan:
        words += ["--batch", *map(str, plan["batch"])]
    return shlex.join(words)
