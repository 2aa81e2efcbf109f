"""Export a generator to a TensorRT plan, through an ONNX file."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import onnx

from export.graph import metadata_of, opset_of
from export.options import Exported, ExportOptions, OnProgress
from export.rewrite import Chips, chips_for, chips_of, open_generator, verified
from export.verify import Parity, chips_from, compare, simulated_chips
from sar2optical._utils.files import write_output
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.base import Description
from sar2optical.errors import BackendNotInstalled, ExportUnsupported
from sar2optical.signature import PRECISION_KEY

__all__ = ["export_plan"]


def export_plan(
    source: Path, out: Path, options: ExportOptions, folder: Path, on_progress: OnProgress | None = None
) -> Exported:
    """Build a plan and verify it against its source.

    An exported ONNX file in a lower precision is built unchanged. Other sources are first exported to ONNX.

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
        If TensorRT or PyTorch is not installed.
    Sar2OpticalError
        See `build_plan`; nothing is written to `out`.
    """
    try:
        from export.tensorrt_builder import PlanOptions
        from export.to_tensorrt import build_plan
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"{out.name} needs {error.name}: pip install 'sar2optical[tensorrt]'") from error

    options = replace(options, windows=())  # the profile of a plan has one window
    settings = PlanOptions(**(options.plan or {}), overwrite=options.overwrite)
    graph = folder / f"{out.stem}.onnx"
    if (precision := _precision_of(source)) == "fp32":
        with open_generator(source, options, folder) as generator:
            chips = chips_for(generator, options)
            model, made = verified(generator, options, chips, folder)
    else:
        model, made, chips = _read_exported(source, precision, options)
    write_output(graph, model.SerializeToString())
    floor = options.floor_of(made.precision)
    parity: list[Parity] = []

    def verify(candidate: Path) -> dict[str, float | str]:
        running = EngineOptions(device="cuda", batch=settings.batch[0])
        with open_engine(candidate, backend="tensorrt", options=running) as engine:
            found = compare(chips.images, engine.run, chips.sar, source=chips.origin, floor=floor)
        parity.append(found)
        return dict(asdict(found))

    build_plan(graph, out, settings, verify=verify, rebuild=_command(source, out, options), on_progress=on_progress)
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6, parity=parity[0], emulated=False)


def _precision_of(source: Path) -> str:
    """Read the precision of a source; a file that cannot be read counts as fp32 and fails when it is opened."""
    if source.suffix.lower() != ".onnx":
        return "fp32"
    try:
        return metadata_of(onnx.load(source)).get(PRECISION_KEY, "fp32")
    except Exception:  # protobuf's and the system's have no common base class
        return "fp32"


def _read_exported(source: Path, precision: str, options: ExportOptions) -> tuple[onnx.ModelProto, Exported, Chips]:
    """Read an exported file in a lower precision; ONNX Runtime runs it as the reference for the plan."""
    if options.precision not in (None, precision):
        raise ExportUnsupported(f"{source}: is already {precision}, not {options.precision}: give the fp32 file")
    if precision == "bf16":
        raise ExportUnsupported(
            f"{source}: is bf16, which ONNX Runtime cannot run to verify the plan: give the fp32 file, and "
            "--precision bf16"
        )
    model = onnx.load(source)
    described = Description.read(metadata_of(model), source)
    described = replace(described, signature=replace(described.signature, windows=()))
    path = options.verify_with
    sar = chips_from(path, described.signature) if path else simulated_chips(described.signature)
    with open_engine(source, backend="onnxruntime", options=EngineOptions(device="cpu")) as engine:
        chips = chips_of(engine.run, described.signature, sar, path)
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
