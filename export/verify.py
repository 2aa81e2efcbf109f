"""Verify an exported file against its source, on real or simulated chips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sar2optical.data.pairs import is_sar_folder
from sar2optical.errors import BandNotFound, ExportUnsupported, ParityFailed
from sar2optical.evaluation.metrics import psnr, ssim
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.scene.encoder import encode_bands, encodings_for, to_input
from sar2optical.signature import ModelSignature

__all__ = [
    "CHIPS",
    "Parity",
    "Run",
    "as_written",
    "chips_from",
    "compare",
    "expect",
    "refuse_faults",
    "refuse_unsigned",
    "simulated_chips",
]

CHIPS = 16
"""Largest number of chips to verify on."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Function that runs a generator: float32 (1, C, H, W) in [-1, 1] -> float32 (1, 3, H, W) in [-1, 1], in each window
that it takes."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_T = TypeVar("_T")

_RANGE = 2.0  # of [-1, 1]
_FLAT = 1e-4  # standard deviation over a chip below which an output counts as constant
_REPEATS = 1e-5  # two runs of one network differ by less
_WITHIN = 1.001
_CLEARLY = 0.5  # ratio of errors; noise alone may favour another order of nearly grey colours slightly

# Sentinel-1 IW GRDH has 4.4 equivalent looks (ESA, Sentinel-1 product specification): simulated chips have the same
# speckle as real ones.
_LOOKS = 4.4


@dataclass(frozen=True)
class Parity:
    """Parity of an exported file with its source, over all chips."""

    max_error: float
    """Largest absolute difference, on [-1, 1]."""
    mean_error: float
    """Mean absolute difference, on [-1, 1]."""
    psnr: float
    """PSNR in dB, on [-1, 1], lowest of all chips."""
    ssim: float
    """SSIM, lowest of all chips."""
    chips: int
    """Number of chips."""
    source: str
    """Origin of the chips."""


def chips_from(
    path: Path, signature: ModelSignature, *, most: int = CHIPS, any_band: bool = True
) -> NDArray[np.float32]:
    """Read real chips from a folder of pictures, or cut them from a scene; valid pixels only.

    Parameters
    ----------
    path
        Folder of chips of at least one window (SAR folder `s1` within it, if it holds pairs), or one raster.
    signature
        Window, channels and radiometry of the chips.
    most
        Largest number of chips, evenly spread.
    any_band
        Read the first band if the model's polarisation is missing; good enough for parity, not for calibration.

    Returns
    -------
    ndarray
        float32 (n, C, window, window) in [-1, 1], 1 <= n <= `most`.

    Raises
    ------
    ExportUnsupported
        If there is no chip of at least one window.
    SceneError
        If a raster cannot be read, or its unit is unknown or does not fit the model.
    """
    files = _spread(_rasters(path), most)
    per_file = most // max(len(files), 1)
    chips = [chip for file in files for chip in _cut(file, signature, per_file, any_band=any_band)]
    if not chips:
        side = signature.window
        raise ExportUnsupported(
            f"{path}: has no chip of at least {side} x {side} valid pixels: give a folder of chips, or a scene"
        )
    return np.stack(chips)


def simulated_chips(signature: ModelSignature, count: int = 8, seed: int = 1) -> NDArray[np.float32]:
    """Make chips to verify on without data: random patches under speckle of 4.4 looks.

    They are reported as simulated: enough to compare two forms of one network, not to calibrate.

    Returns
    -------
    ndarray
        float32 (count, C, window, window) in [-1, 1].
    """
    rng = np.random.default_rng(seed)
    side, cell = signature.window, 32
    cells = -(-side // cell)
    levels = rng.uniform(0.05, 1, (count, len(signature.bands), cells, cells))
    land = np.kron(levels, np.ones((cell, cell)))[..., :side, :side]
    amplitude = land * np.sqrt(rng.gamma(_LOOKS, 1 / _LOOKS, land.shape))
    chips = np.clip(2 * amplitude - 1, -1, 1).astype(np.float32)
    return np.array(np.broadcast_to(chips, (count, signature.channels, side, side)))


def as_written(model: onnx.ModelProto) -> Run:
    """Load a graph in ONNX Runtime without graph optimization.

    With optimization, float8 Q/DQ pairs were seen to give another image (10 dB).
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (given,) = (value.name for value in session.get_inputs())
    return lambda sar: np.asarray(session.run(None, {given: sar})[0])


def expect(reference: Run, chips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the source on chips, and check that it is a trained generator.

    Parameters
    ----------
    reference
        Source.
    chips
        float32 (n, C, window, window) in [-1, 1].

    Returns
    -------
    ndarray
        float32 (n, 3, window, window) in [-1, 1].

    Raises
    ------
    ParityFailed
        If it returns NaN, one colour, the same image for every chip, or two images for one chip.
    """
    images = np.concatenate([reference(chip[None]) for chip in chips])
    if not np.isfinite(images).all():
        raise ParityFailed("the source returns NaN or infinity, so its weights are damaged: give another checkpoint")
    if np.abs(images).max() > _WITHIN:
        raise ParityFailed(
            f"the source's output reaches {np.abs(images).max():.1f}, outside [-1, 1]: add a tanh after the "
            "last layer"
        )
    if images.std(axis=(2, 3)).max() < _FLAT:
        raise ParityFailed("the source returns one colour for every input: train it, or give another checkpoint")
    if len(images) > 1 and images.std(axis=0).max() < _FLAT:
        raise ParityFailed("the source returns the same image for every input: train it, or give another checkpoint")
    if np.abs(reference(chips[:1])[0] - images[0]).max() > _REPEATS:
        raise ParityFailed(
            "the source returns different images for the same chip, as with dropout: export it in eval mode"
        )
    return images


def refuse_faults(name: str, image: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """Refuse an exported model's image with NaN, of one colour though the source's is not, or in another order.

    Parameters
    ----------
    name
        Name of the chip, for errors.
    image, other
        Images of the source and of the exported model, float32 (3, H, W) in [-1, 1].

    Raises
    ------
    ParityFailed
        If it is refused.
    """
    if not np.isfinite(other).all():
        raise ParityFailed(f"{name}: the exported model returns NaN or infinity: give --precision fp32")
    if other.std() < _FLAT <= image.std():
        raise ParityFailed(f"{name}: the exported model returns a constant image: give another --precision")
    if (order := _order(image, other)) != "RGB":
        raise ParityFailed(f"{name}: the exported model returns {order} instead of RGB: give another --precision")


def refuse_unsigned(images: NDArray[np.float32]) -> None:
    """Refuse a generator whose images are in [0, 1]: as [-1, 1], they would look washed out.

    Parameters
    ----------
    images
        Images of all chips, float32 (n, 3, window, window).

    Raises
    ------
    ParityFailed
        If no value is below 0.
    """
    if images.min() >= 0:
        raise ParityFailed(
            f"the source's images are never below 0 ({images.min():.2f} to {images.max():.2f}), as with a sigmoid, "
            "but [-1, 1] is expected: add y * 2 - 1 after the last layer, or train with a tanh instead"
        )


def compare(
    expected: NDArray[np.float32], found: Run, chips: NDArray[np.float32], *, source: str, floor: float
) -> Parity:
    """Compare an exported model with its source on chips.

    Parameters
    ----------
    expected
        Images of the source, float32 (n, 3, window, window), from `expect`.
    found
        Exported model.
    chips
        float32 (n, C, window, window) in [-1, 1].
    source
        Origin of the chips, for the report.
    floor
        Least PSNR in dB that passes, for the worst chip.

    Raises
    ------
    ParityFailed
        If an image has NaN, is constant though the source's is not, has its colours in another order, or is below the
        floor.
    """
    worst_psnr, worst_ssim, max_error, mean_error = float("inf"), 1.0, 0.0, 0.0
    for k, (chip, image) in enumerate(zip(chips, expected, strict=True)):
        other = found(chip[None])[0]
        refuse_faults(f"chip {k}", image, other)
        error = np.abs(image - other)
        max_error = max(max_error, float(error.max()))
        mean_error += float(error.mean()) / len(chips)
        worst_psnr = min(worst_psnr, psnr(image, other, data_range=_RANGE))
        worst_ssim = min(worst_ssim, ssim(image, other, data_range=_RANGE))
    if not worst_psnr >= floor:
        raise ParityFailed(
            f"parity is {worst_psnr:.1f} dB against the source, at least {floor:.0f} dB is required; no file "
            "was written: give another --precision, or lower --min-psnr"
        )
    return Parity(max_error, mean_error, worst_psnr, worst_ssim, len(chips), source)


def _order(image: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    """Find the order of the colours in the exported model's image."""
    errors = {order: float(np.square(image[list(order)] - other).mean()) for order in permutations(range(3))}
    nearest = min(errors, key=errors.__getitem__)
    return "".join("RGB"[c] for c in nearest) if errors[nearest] < _CLEARLY * errors[0, 1, 2] else "RGB"


def _rasters(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ExportUnsupported(f"{path}: no such file or folder: give a folder of chips, or a scene")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    sar = [file for file in files if is_sar_folder(file.parent.name)]
    return sar or files


def _cut(path: Path, signature: ModelSignature, most: int, *, any_band: bool) -> Iterator[NDArray[np.float32]]:
    """Cut windows with valid pixels only, spread over the raster."""
    side = signature.window
    options = _lenient(path, signature.bands) if any_band else SceneOptions()
    with open_scene(path, signature.bands, options) as scene:
        height, width = scene.shape
        if min(scene.shape) < side or scene.unit is None:
            return
        encodings = encodings_for(scene.unit, scene.read_samples(), signature)
        places = []
        for row in range(0, height - side + 1, side):
            _, valid = scene.read_rows(row, row + side)
            places += [(row, c) for c in range(0, width - side + 1, side) if valid[:, c : c + side].all()]
        for row, col in _spread(places, most):
            values, valid = scene.read_rows(row, row + side)
            window = slice(col, col + side)
            usable = valid[:, window]
            sar = encode_bands(encodings, values[..., window], usable)
            yield np.array(to_input(sar, usable, shape=(side, side), channels=signature.channels)[0])


def _spread(items: list[_T], most: int) -> list[_T]:
    """Select at most so many items, evenly spread."""
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[k] for k in chosen]


def _lenient(path: Path, bands: tuple[str, ...]) -> SceneOptions:
    """Take the first band where the model's polarisation is absent: parity does not mind."""
    try:
        with open_scene(path, bands):
            return SceneOptions()
    except BandNotFound:
        return SceneOptions(bands=tuple(str(k + 1) for k in range(len(bands))))
