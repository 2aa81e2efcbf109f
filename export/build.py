"""From checkpoint to verified file: fold, trace, compare, and only then rename into place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from export.precision import DEFAULT_OPSET, FLOORS, Precision, Storage
from export.to_onnx import fold, round_weights, to_onnx
from export.verify import Parity, chips_from, compare, simulated_chips
from sar2optical import __version__
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.errors import ExportUnsupported
from sar2optical.files import refuse_existing, write_output
from sar2optical.models.checkpoint import load_generator
from sar2optical.models.unet import UNetGenerator, Upsampling
from sar2optical.signature import ModelSignature


@dataclass(frozen=True)
class Exported:
    """What an export made."""

    out: Path
    megabytes: float
    signature: ModelSignature
    parity: Parity
    opset: int


def export(
    source: Path,
    out: Path,
    *,
    precision: Precision = "fp32",
    opset: int = DEFAULT_OPSET,
    storage: Storage = "fp32",
    verify_with: Path | None = None,
    upsampling: Upsampling | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a checkpoint to a verified ONNX file.

    Parameters
    ----------
    source
        `.pth`: a checkpoint of ours, or a bare state dict.
    out
        `.onnx`; absent or whole and verified.
    precision
        Of the graph.
    opset
        Of the standard operators.
    storage
        How weights are kept. fp16 halves the file; they are rounded once, and run in fp32.
    verify_with
        Folder of real chips, or a scene; simulated chips where not given.
    upsampling
        Mode of a bare state dict whose decoder upsamples.
    overwrite
        Replace the output.

    Returns
    -------
    Exported

    Raises
    ------
    Sar2OpticalError
        One of its kinds; no file is left at `out`.
    """
    _check(source, out, overwrite=overwrite)
    generator, signature = load_generator(source, upsampling=upsampling)
    folded, signature = fold(generator, signature)
    if storage == "fp16":
        round_weights(folded)
    model = to_onnx(folded, signature, opset=opset, storage=storage)
    with TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.onnx"
        write_output(candidate, model.SerializeToString())
        parity = _verified(generator, candidate, signature, floor=FLOORS[storage], chips=verify_with)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**entries, **_metadata(parity, precision, storage)})
    write_output(out, model.SerializeToString())
    return Exported(out, out.stat().st_size / 1e6, signature, parity, opset)


def _check(source: Path, out: Path, *, overwrite: bool) -> None:
    if source.suffix.lower() not in (".pth", ".pt"):
        raise ExportUnsupported(f"{source}: exported are checkpoints (.pth): give one")
    if out.suffix.lower() != ".onnx":
        raise ExportUnsupported(f"{out}: written are .onnx files: give a name that ends so")
    refuse_existing(out, overwrite=overwrite)


def _verified(
    generator: UNetGenerator, path: Path, signature: ModelSignature, *, floor: float, chips: Path | None
) -> Parity:
    given = chips_from(chips, signature) if chips else simulated_chips(signature)
    options = EngineOptions(device="cpu", precision="fp32")
    with open_engine(path, backend="onnxruntime", options=options) as engine:
        return compare(generator, engine, given, source=chips.name if chips else "simulated", floor=floor)


def _metadata(parity: Parity, precision: str, storage: str) -> dict[str, str]:
    return {
        "sar2optical.version": __version__,
        "sar2optical.precision": precision,
        "sar2optical.storage": storage,
        "sar2optical.parity_psnr_db": f"{parity.psnr:.2f}",
        "sar2optical.parity_ssim": f"{parity.ssim:.6f}",
        "sar2optical.parity_max_error": f"{parity.max_error:.3e}",
        "sar2optical.parity_mean_error": f"{parity.mean_error:.3e}",
        "sar2optical.parity_chips": f"{parity.chips} {parity.source}",
    }
