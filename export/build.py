"""Export a generator to a file: rewrite it, verify it against its source, then write it atomically."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from export.options import Exported, ExportOptions
from export.plans import export_plan
from export.precision import PRECISIONS, Precision
from export.rewindow import changes_windows_only, with_other_windows
from export.rewrite import ROUNDS, chips_for, measure_rate, open_generator, refuse_uncalibrated, verified
from export.source import CHECKPOINTS
from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.tensorrt_plan import OnProgress
from sar2optical.errors import ExportUnsupported, OptionError, OutputUnwritable, Sar2OpticalError

__all__ = ["PLANS", "ExportOptions", "Exported", "Row", "export", "export_all"]

PLANS = (".plan", ".engine")
"""Suffixes of TensorRT plans."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Result of one precision in `export_all`."""

    precision: Precision
    """Precision."""
    made: Exported | None = None
    """Exported file; None if the export failed."""
    engine: str = ""
    """Engine that ran the file, or the reason why none did."""
    windows_per_second: float = float("nan")
    """Speed on this machine's CPU."""
    reason: str = ""
    """Reason why the export failed."""


def export(
    source: Path, out: Path, options: ExportOptions | None = None, *, on_progress: OnProgress | None = None
) -> Exported:
    """Export a generator to a verified file.

    Parameters
    ----------
    source
        Checkpoint (`.pth`) of this package, or a bare state dict; or an fp32 ONNX file. A plan can also be built from
        an exported ONNX file in another precision.
    out
        Output, `.onnx` or `.plan`; written atomically after the verification.
    options
        See `ExportOptions`.
    on_progress
        Called during the build of a plan with a phase, its completed steps and all its steps.

    Returns
    -------
    Exported

    Raises
    ------
    Sar2OpticalError
        If the source cannot be exported or its parity is too low; nothing is written to `out`.
    """
    options = options or ExportOptions()
    if out.suffix.lower() not in (".onnx", *PLANS):
        raise ExportUnsupported(f"{out}: unknown kind of output: give a name that ends in .onnx or .plan")
    if source.suffix.lower() not in (".onnx", *CHECKPOINTS):
        raise ExportUnsupported(f"{source}: cannot be exported: give a checkpoint (.pth) or an fp32 .onnx file")
    _refuse_options(out, options)
    refuse_existing(out, overwrite=options.overwrite)
    if out.exists() and out.samefile(source):
        raise OptionError(f"{out}: the output is the source file: give another output")
    with TemporaryDirectory() as name:
        folder = Path(name)
        if out.suffix.lower() in PLANS:
            return export_plan(source, out, options, folder, on_progress)
        if changes_windows_only(source, options):
            return _write(*with_other_windows(source, options, folder), out)
        with open_generator(source, options, folder) as generator:
            return _write(*verified(generator, options, chips_for(generator, options), folder), out)


def _refuse_options(out: Path, options: ExportOptions) -> None:
    """Refuse options that have no effect on an output."""
    given = sorted(options.plan or {})
    if out.suffix.lower() == ".onnx":
        unused, where = [*given, *(["runtime"] if options.runtime else [])], ".plan outputs"
    elif options.runtime == "rtx":
        unused, where = [name for name in given if name not in ("batch", "target")], "plans of TensorRT"
    else:
        unused, where = [name for name in given if name == "target"], "--runtime rtx"
        if sized := [name for name in ("windows", "auto_window") if getattr(options, name) is not None]:
            unused, where = sized, ".onnx outputs and --runtime rtx"
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise OptionError(f"{names} applies only to {where}, not to {out.name}: remove the option")


def export_all(source: Path, folder: Path, options: ExportOptions) -> Iterator[Row]:
    """Export every precision that passes the verification into one folder, as `<name>.<precision>.onnx`.

    Parameters
    ----------
    source
        See `export`.
    folder
        Output folder; created if missing.
    options
        See `ExportOptions`; its precision is ignored.

    Yields
    ------
    Row
        In the order of `PRECISIONS`. A precision that fails is a row with the reason, not an error.

    Raises
    ------
    Sar2OpticalError
        If the source cannot be exported at all, or the folder cannot be created.
    """
    fresh = not folder.exists()
    with (
        TemporaryDirectory() as name,
        open_generator(source, replace(options, precision=None), Path(name)) as generator,
    ):
        chips = chips_for(generator, options)  # tracing and the reference run serve all precisions
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(
                f"{folder}: cannot create the folder ({error.strerror}): choose another folder"
            ) from error
        for precision in PRECISIONS:
            out = folder / f"{source.stem}.{precision}.onnx"
            try:
                requested = replace(options, precision=precision)
                refuse_uncalibrated(requested)
                refuse_existing(out, overwrite=options.overwrite)
                made = _write(*verified(generator, requested, chips, Path(name)), out)
            except Sar2OpticalError as error:
                yield Row(precision=precision, reason=str(error))
            else:
                yield _measured(made)
    if fresh and not any(folder.iterdir()):
        folder.rmdir()


def _write(model: onnx.ModelProto, made: Exported, out: Path) -> Exported:
    write_output(out, model.SerializeToString())
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6)


def _measured(made: Exported) -> Row:
    try:
        engine, rate = _measure(made.out)
    except Sar2OpticalError as error:
        engine, rate = f"not run: {error}", float("nan")
    return Row(precision=made.precision, made=made, engine=engine, windows_per_second=rate)


def _measure(path: Path) -> tuple[str, float]:
    """Measure the speed of a file with the first backend for the CPU."""
    with open_engine(path, options=EngineOptions(device="cpu")) as engine:
        return str(engine), max(measure_rate(engine) for _ in range(ROUNDS))
