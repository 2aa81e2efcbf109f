"""Export a generator to a plan of TensorRT or TensorRT for RTX, through an ONNX file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import onnx

from export.options import Exported, ExportOptions
from export.rewindow import described_by
from export.rewrite import Chips, chips_for, chips_of, open_generator, verified
from export.source import in_each_window
from export.verify import chips_from, compare, simulated_chips
from export.windows import choose_windows
from sar2optical._utils.files import write_output
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.base import Description
from sar2optical.engines.cards import first_card
from sar2optical.engines.onnx_graph import metadata_of, with_metadata
from sar2optical.engines.rtx_cards import CARDS
from sar2optical.engines.tensorrt_plan import OnProgress, PlanOptions, PlanRecord
from sar2optical.errors import BackendNotInstalled, ExportUnsupported
from sar2optical.signature import METADATA_KEY, PRECISION_KEY

__all__ = ["export_plan"]

_PACKAGES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Backends and libraries by the name of the runtime."""


def export_plan(
    source: Path, out: Path, options: ExportOptions, folder: Path, on_progress: OnProgress | None = None
) -> Exported:
    """Build a plan and verify it against its source.

    An exported ONNX file in a lower precision is built unchanged; others are first exported to ONNX. A plan of
    TensorRT for RTX that no GPU of this machine runs is written without having run.

    Parameters
    ----------
    source, out, options
        See `export`.
    folder
        Folder for temporary files.
    on_progress
        Called during the build.

    Raises
    ------
    BackendNotInstalled
        If the library or PyTorch is not installed.
    Sar2OpticalError
        See `build_plan`; nothing is written to `out`.
    """
    runtime = options.runtime or "tensorrt"
    backend = _PACKAGES[runtime]
    try:
        __import__(backend)
        from export.to_tensorrt import build_plan
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"{out.name} needs {error.name}: pip install 'sar2optical[{runtime}]'") from error
    if runtime == "tensorrt":
        options = replace(options, windows=())  # the profile of its plans has one window
    settings = PlanOptions(**(options.plan or {}), overwrite=options.overwrite)
    graph = folder / f"{out.stem}.onnx"
    if (precision := _precision_of(source)) == "fp32":
        with open_generator(source, options, folder) as generator:
            chips = chips_for(generator, options)
            model, made = verified(generator, options, chips, folder)
    else:
        model, made, chips = _read_exported(source, precision, options)
    write_output(graph, model.SerializeToString())
    floor, result = options.floor_of(made.precision), dict[str, object]()

    def verify(candidate: Path, record: PlanRecord) -> Mapping[str, float | str]:
        result["targets"] = record.targets
        if reason := _not_run(record):
            result["not_run"] = reason
            return {"not run": reason}
        running = EngineOptions(device="cuda", batch=settings.batch[0])
        with open_engine(candidate, backend=backend, options=running) as engine:
            run = in_each_window(engine)
            found = compare(chips.images, run, chips.sar, source=chips.origin, floor=floor)
            wide_psnr = chips.compare_wide(run, floor)
        result.update(parity=found, wide_psnr=wide_psnr, emulated=False)
        return {**asdict(found), **{f"psnr at {side}": value for side, value in wide_psnr.items()}}

    command = _command(source, out, options)
    build_plan(graph, out, settings, runtime=runtime, verify=verify, rebuild=command, on_progress=on_progress)
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6, **result)  # type: ignore[arg-type]


def _not_run(record: PlanRecord) -> str:
    """Return the reason why no GPU of this machine runs a plan of TensorRT for RTX; empty if one does."""
    if record.library == "tensorrt":
        return ""
    card = first_card()
    if card is None:
        return "no GPU"
    if CARDS.get(card.compute_capability) not in record.targets:
        return f"{card.name} is none of {', '.join(record.targets)}"
    return ""


def _precision_of(source: Path) -> str:
    """Read the precision of a source; a file that cannot be read counts as fp32 and fails when it is opened."""
    if source.suffix.lower() != ".onnx":
        return "fp32"
    try:
        return metadata_of(onnx.load(source)).get(PRECISION_KEY, "fp32")
    except Exception:  # protobuf's and the system's have no common base class
        return "fp32"


def _read_exported(source: Path, precision: str, options: ExportOptions) -> tuple[onnx.ModelProto, Exported, Chips]:
    """Read an exported file in a lower precision; its own run is the reference for the plan."""
    if options.precision not in (None, precision):
        raise ExportUnsupported(
            f"{source}: its precision is {precision}, but --precision is {options.precision}: give the fp32 file, or "
            "leave out --precision"
        )
    model = onnx.load(source)
    signature = Description.read(metadata_of(model), source).signature
    if (options.windows, options.auto_window) != (None, None):
        signature = choose_windows(signature, options.windows, options.auto_window, signature.windows)
        model = with_metadata(model, {METADATA_KEY: signature.to_json()})
    path = options.verify_with
    sar = chips_from(path, signature) if path else simulated_chips(signature)
    backend = "openvino" if precision == "bf16" else "onnxruntime"  # which has no bf16 on a CPU
    with open_engine(source, backend=backend, options=EngineOptions(device="cpu")) as engine:
        # Without a GPU the plan will not run, and needs no images of larger windows to compare with.
        compared = signature if first_card() else signature.in_window(signature.window)
        chips = chips_of(in_each_window(engine), compared, sar, path)
    return model, replace(described_by(model, source), wide_psnr={}), chips


def _command(source: Path, out: Path, options: ExportOptions) -> str:
    """Return the command that repeats the export."""
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
        "runtime": options.runtime,
        "windows": ",".join(map(str, options.windows)) or "own"
        if options.runtime == "rtx" and options.windows is not None
        else None,
        "auto-window": options.auto_window,
        "target": ",".join(plan["target"]) if "target" in plan else None,
        "workspace": plan["workspace"] / 2**30 if "workspace" in plan else None,
        "timing-cache": plan.get("timing_cache"),
        "hardware-compatibility": plan.get("hardware_compatibility"),
    }
    command = ["sar2opt-export", str(source), str(out), "--overwrite"]
    for name, value in given.items():
        command += [] if value is None else [f"--{name}", str(value)]
    if "batch" in plan:
        command += ["--batch", *map(str, plan["batch"])]
    return shlex.join(command)
