"""From a generator to a verified file: made, compared with its source, and only then renamed into place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from export.options import Exported, ExportOptions
from export.plans import export_plan
from export.precision import PRECISIONS, Precision
from export.rewrite import ROUNDS, chips_for, open_generator, rate_of, refuse_uncalibrated, verified
from export.source import CHECKPOINTS
from sar2optical._utils.files import refuse_existing, write_output
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.errors import ExportUnsupported, OptionError, OutputUnwritable, Sar2OpticalError

__all__ = ["ExportOptions", "Exported", "Row", "export", "export_all"]

PLANS = (".plan", ".engine")


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
        `.pth`: a checkpoint of ours, or a bare state dict; `.onnx`: a float32 graph. For a plan, also an
        ONNX file of ours in a lower precision, but for bf16, which nothing here could compare it with.
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
            return export_plan(source, out, options, folder, progress)
        with open_generator(source, options, folder) as generator:
            return _write(*verified(generator, options, chips_for(generator, options), folder), out)


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

    Raises
    ------
    Sar2OpticalError
        Where the source cannot be exported at all, or the folder not be made.
    """
    fresh = not folder.exists()
    with (
        TemporaryDirectory() as name,
        open_generator(source, replace(options, precision=None), Path(name)) as generator,
    ):
        chips = chips_for(generator, options)  # once: a checkpoint is traced, and the reference run, for all of them
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(f"{folder}: cannot be made a folder ({error.strerror}): choose another") from error
        for precision in PRECISIONS:
            out = folder / f"{source.stem}.{precision}.onnx"
            try:
                asked = replace(options, precision=precision)
                refuse_uncalibrated(asked)
                refuse_existing(out, overwrite=options.overwrite)
                made = _write(*verified(generator, asked, chips, Path(name)), out)
            except Sar2OpticalError as error:
                yield Row(precision=precision, reason=str(error))
            else:
                yield _rated(made)
    if fresh and not any(folder.iterdir()):
        folder.rmdir()


def _write(model: onnx.ModelProto, made: Exported, out: Path) -> Exported:
    write_output(out, model.SerializeToString())
    return replace(made, out=out, megabytes=out.stat().st_size / 1e6)


def _rated(made: Exported) -> Row:
    try:
        engine, rate = _rate(made.out)
    except Sar2OpticalError as error:
        engine, rate = f"not run here: {error}", float("nan")
    return Row(precision=made.precision, made=made, engine=engine, windows_per_second=rate)


def _rate(path: Path) -> tuple[str, float]:
    """Run a file a few times with the backend that comes first on the CPU."""
    with open_engine(path, options=EngineOptions(device="cpu")) as engine:
        return str(engine), max(rate_of(engine) for _ in range(ROUNDS))
