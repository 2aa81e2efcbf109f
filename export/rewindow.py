"""Change the windows of an exported file, and nothing else: the same operators, weights and precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export.options import Exported, ExportOptions
from export.rewrite import WIDE_KEY, Chips, chips_of, wide_entries
from export.source import in_each_window
from export.verify import Parity, Run, chips_from, compare, simulated_chips
from export.windows import choose_windows, has_dynamic_sides, with_windows
from sar2optical._utils.files import write_output
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.engines.base import Description
from sar2optical.engines.onnx_graph import metadata_of, opset_of, with_metadata
from sar2optical.engines.self_test import KEY, PARITY_KEY
from sar2optical.errors import DeviceUnavailable, ParityFailed
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature

__all__ = ["changes_windows_only", "described_by", "with_other_windows"]


def changes_windows_only(source: Path, options: ExportOptions) -> bool:
    """Return True if an export is asked only for other windows, or another auto window, of an exported ONNX file.

    A file that cannot be read gives False, and fails when it is opened.
    """
    others = replace(
        options, windows=None, auto_window=None, verify_with=None, min_psnr=None, precision=None, plan=None,
        overwrite=False,
    )  # fmt: skip
    asked = (options.windows, options.auto_window) != (None, None)
    if source.suffix.lower() != ".onnx" or not asked or others != ExportOptions():
        return False
    try:
        found = metadata_of(onnx.load(source)).get(PRECISION_KEY)
    except Exception:  # protobuf's and the system's have no common base class
        return False
    return found is not None and options.precision in (None, found)


def with_other_windows(source: Path, options: ExportOptions, folder: Path) -> tuple[onnx.ModelProto, Exported]:
    """Make an exported file for other windows.

    In its own window, the new file must give the source's images, bit by bit. In each larger one, it is compared with
    the source's graph with that size fixed. The metadata keep the parity with the original generator. With the auto
    window as the only option, nothing runs but the self-test, because the graph stays as it is.

    Parameters
    ----------
    source
        ONNX file of `sar2opt-export`, of any precision.
    options
        Windows, auto window, chips and floor.
    folder
        Folder for temporary files.

    Returns
    -------
    model, made
        Graph with its metadata, and its description.

    Raises
    ------
    ExportUnsupported, OptionError
        If the graph or the model does not take the windows.
    ParityFailed
        If an image differs.
    """
    model = onnx.load(source)
    described = Description.read(metadata_of(model), source)
    signature = choose_windows(described.signature, options.windows, options.auto_window, described.signature.windows)
    if (options.windows, options.verify_with, options.min_psnr) == (None, None, None):
        return _relabelled(model, signature, source, folder)
    dynamic = bool(signature.windows) or (options.windows is None and has_dynamic_sides(model))
    made = with_windows(model, signature, source, dynamic=dynamic)
    floor = replace(options, precision=described.precision).floor  # type: ignore[arg-type]
    write_output(folder / "candidate.onnx", made.SerializeToString())
    with _opened(source) as before, _opened_unchanged(folder / "candidate.onnx", source) as after:

        def reference(sar: NDArray[np.float32]) -> NDArray[np.float32]:
            side = sar.shape[-1]
            return before.run(sar) if side == signature.window else _run_fixed(made, source, folder, sar)

        chips = _chips(reference, signature, options.verify_with)
        parity = compare(chips.images, in_each_window(after), chips.sar, source=chips.origin, floor=floor)
        wide_psnr = chips.compare_wide(in_each_window(after), floor)
    if parity.max_error:
        raise _changed(source, f"by {parity.max_error:.1e}")
    exported = replace(described_by(made, source), parity=parity, wide_psnr=wide_psnr)
    return with_metadata(made, wide_entries(wide_psnr)), exported


def _relabelled(
    model: onnx.ModelProto, signature: ModelSignature, source: Path, folder: Path
) -> tuple[onnx.ModelProto, Exported]:
    """Replace the signature of a graph; refuse a file that no longer passes its self-test on this machine."""
    made = with_metadata(model, {METADATA_KEY: signature.to_json()})
    write_output(folder / "candidate.onnx", made.SerializeToString())
    try:
        _opened(folder / "candidate.onnx").close()
    except DeviceUnavailable as error:
        raise DeviceUnavailable(str(error).replace(str(folder / "candidate.onnx"), str(source))) from error
    return made, described_by(made, source)


def described_by(model: onnx.ModelProto, path: Path) -> Exported:
    """Describe an exported file by its metadata, with the parity that was measured when it was exported."""
    metadata = metadata_of(model)
    described = Description.read(metadata, path)
    count, _, origin = metadata.get("sar2optical.parity_chips", "0 unknown").partition(" ")
    wide = (entry.split() for entry in metadata.get(WIDE_KEY, "").split(", ") if entry)
    return Exported(
        out=path,
        megabytes=0,
        signature=described.signature,
        precision=described.precision,  # type: ignore[arg-type]
        parity=Parity(
            max_error=float(metadata.get("sar2optical.parity_max_error", "nan")),
            mean_error=float(metadata.get("sar2optical.parity_mean_error", "nan")),
            psnr=float(metadata.get(PARITY_KEY, "nan")),
            ssim=float(metadata.get("sar2optical.parity_ssim", "nan")),
            chips=int(count),
            source=origin,
        ),
        wide_psnr={int(side): float(found) for side, found in wide},
        opset=opset_of(model),
        subpixel=metadata.get("sar2optical.subpixel") == "on",
    )


def _opened(path: Path) -> Engine:
    precision = metadata_of(onnx.load(path)).get(PRECISION_KEY)
    # ONNX Runtime has no bf16 kernels for the CPU.
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    return open_engine(path, backend=backend, options=EngineOptions(device="cpu"))


def _opened_unchanged(path: Path, source: Path) -> Engine:
    try:
        return _opened(path)
    except DeviceUnavailable as error:  # the self-test
        raise _changed(source, "so that its self-test fails") from error


def _changed(source: Path, how: str) -> ParityFailed:
    return ParityFailed(
        f"{source}: the graph for larger windows changes the output in the training window {how}: remove --windows"
    )


def _chips(reference: Run, signature: ModelSignature, path: Path | None) -> Chips:
    sar = chips_from(path, signature) if path else simulated_chips(signature)
    return chips_of(reference, signature, sar, path)


def _run_fixed(model: onnx.ModelProto, source: Path, folder: Path, sar: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a graph with the size of this input fixed; without the self-test, which is of its own window."""
    signature = Description.read(metadata_of(model), source).signature.in_window(sar.shape[-1])
    fixed = with_windows(model, signature, source, dynamic=False)
    helper.set_model_props(fixed, {key: value for key, value in metadata_of(fixed).items() if key != KEY})
    write_output(folder / "fixed.onnx", fixed.SerializeToString())
    with _opened(folder / "fixed.onnx") as engine:
        return engine.run(sar)
