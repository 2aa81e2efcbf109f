"""Prove that an exported file does what its source does, before it appears."""

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

CHIPS = 16
"""Chips that are compared, at most."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A generator or an engine: float32 (1, C, H, W) in [-1, 1] -> float32 (1, 3, H, W) in [-1, 1]."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_T = TypeVar("_T")

_RANGE = 2.0  # of [-1, 1]
_FLAT = 1e-4  # standard deviation over a chip under which an output counts as constant
_REPEATS = 1e-5  # two runs of one network differ by less
_WITHIN = 1.001
_CLEARLY = 0.5  # of the error: noise alone may make another order of nearly grey colours a little nearer

# Sentinel-1 IW GRDH: 4.4 equivalent looks (ESA, Sentinel-1 product specification), so speckled chips stress an
# engine as real ones do.
_LOOKS = 4.4


@dataclass(frozen=True)
class Parity:
    """How far an engine is from the generator it came from, over all chips."""

    max_error: float
    """Largest absolute difference, on [-1, 1]."""
    mean_error: float
    """Mean absolute difference, on [-1, 1]."""
    psnr: float
    """Lowest of any chip, in dB, on [-1, 1]."""
    ssim: float
    """Lowest of any chip."""
    chips: int
    source: str
    """Where the chips came from."""


def chips_from(
    path: Path, signature: ModelSignature, *, most: int = CHIPS, any_band: bool = True
) -> NDArray[np.float32]:
    """Read real chips from a folder of pictures, or cut them from a scene, valid pixels only.

    Parameters
    ----------
    path
        Folder of chips of at least a window (`s1` in its name or beneath where it holds pairs), or one raster.
    signature
        Decides window, channels and radiometry.
    most
        Chips that are taken, spread evenly.
    any_band
        Take the first band where the model's polarisation is absent: parity does not mind, calibration does.

    Returns
    -------
    ndarray
        float32 (n, C, window, window) in [-1, 1], 1 <= n <= `most`.

    Raises
    ------
    ExportUnsupported
        Where there is no chip of a window's size.
    SceneError
        Where a raster cannot be used: unreadable, in a unit that cannot be told or does not fit the model's.
    """
    files = _spread(_rasters(path), most)
    per_file = most // max(len(files), 1)
    chips = [chip for file in files for chip in _cut(file, signature, per_file, any_band=any_band)]
    if not chips:
        side = signature.window
        raise ExportUnsupported(
            f"{path}: no chip of {side} x {side} valid pixels or more: give a folder of chips, or a scene"
        )
    return np.stack(chips)


def simulated_chips(signature: ModelSignature, count: int = 8, seed: int = 1) -> NDArray[np.float32]:
    """Make chips to verify with where none are given: a random patchwork under speckle of 4.4 looks.

    Not real data, and reported as simulated: enough to compare two forms of one network, not to calibrate.

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
    """Run a graph in ONNX Runtime, operator by operator, as it is written.

    Its optimizer is off: it was seen to make another image (10 dB) of float8 pairs.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (given,) = (value.name for value in session.get_inputs())
    return lambda sar: np.asarray(session.run(None, {given: sar})[0])


def expect(reference: Run, chips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the source on chips, and see that it is a generator worth exporting.

    Parameters
    ----------
    reference
        The source.
    chips
        float32 (n, C, window, window) in [-1, 1].

    Returns
    -------
    ndarray
        float32 (n, 3, window, window) in [-1, 1].

    Raises
    ------
    ParityFailed
        Where it gives NaN, one colour, the same image for every chip, or two images for one chip.
    """
    images = np.concatenate([reference(chip[None]) for chip in chips])
    if not np.isfinite(images).all():
        raise ParityFailed("the source returns NaN or infinity: its weights are spoilt, give another checkpoint")
    if np.abs(images).max() > _WITHIN:
        raise ParityFailed(f"the source's images reach {np.abs(images).max():.1f}, beyond [-1, 1]: end it in a tanh")
    if images.std(axis=(2, 3)).max() < _FLAT:
        raise ParityFailed("the source returns one colour whatever it is given: it is not trained, or not loaded")
    if len(images) > 1 and images.std(axis=0).max() < _FLAT:
        raise ParityFailed("the source returns one image whatever it is given: it is not trained, or not loaded")
    if np.abs(reference(chips[:1])[0] - images[0]).max() > _REPEATS:
        raise ParityFailed("the source gives two images for one chip: dropout was left on, export it in eval mode")
    return images


def refuse_unsigned(images: NDArray[np.float32]) -> None:
    """Refuse a generator whose images are on [0, 1]: read as [-1, 1], they would be washed out.

    Parameters
    ----------
    images
        float32 (n, 3, window, window): a generator's, of all chips.

    Raises
    ------
    ParityFailed
        Where no value is below 0.
    """
    if images.min() >= 0:
        raise ParityFailed(
            f"the source's images are never below 0 (from {images.min():.2f} to {images.max():.2f}): [0, 1], as a "
            "sigmoid gives, where [-1, 1] is expected: end it in y * 2 - 1, or in a tanh and train it again"
        )


def compare(
    expected: NDArray[np.float32], found: Run, chips: NDArray[np.float32], *, source: str, floor: float
) -> Parity:
    """Run what was exported on the chips whose images are known.

    Parameters
    ----------
    expected
        float32 (n, 3, window, window), from `expect`.
    found
        What was exported, opened.
    chips
        float32 (n, C, window, window) in [-1, 1].
    source
        Where the chips came from, for the report.
    floor
        Least PSNR in dB that passes, for the worst chip.

    Returns
    -------
    Parity

    Raises
    ------
    ParityFailed
        Where an output has NaN, is constant though the source's is not, has its colours in another order, or is under
        the floor.
    """
    worst_psnr, worst_ssim, max_error, mean_error = float("inf"), 1.0, 0.0, 0.0
    for k, (chip, image) in enumerate(zip(chips, expected, strict=True)):
        other = found(chip[None])[0]
        if not np.isfinite(other).all():
            raise ParityFailed(f"chip {k}: the exported model returns NaN or infinity: keep --precision fp32")
        if other.std() < _FLAT <= image.std():
            raise ParityFailed(f"chip {k}: the exported model returns a constant: its weights did not survive")
        error = np.abs(image - other)
        max_error = max(max_error, float(error.max()))
        mean_error += float(error.mean()) / len(chips)
        worst_psnr = min(worst_psnr, psnr(image, other, data_range=_RANGE))
        worst_ssim = min(worst_ssim, ssim(image, other, data_range=_RANGE))
        if (order := _order(image, other)) != "RGB":
            raise ParityFailed(f"chip {k}: the exported model gives {order} where the source gives RGB")
    if not worst_psnr >= floor:
        raise ParityFailed(
            f"parity is {worst_psnr:.1f} dB against the source, at least {floor:.0f} is asked: no file was written"
        )
    return Parity(max_error, mean_error, worst_psnr, worst_ssim, len(chips), source)


def _order(image: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    """Give the order of the source's colours that is found."""
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
    """Give at most so many of the items, evenly spread."""
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[k] for k in chosen]


def _lenient(path: Path, bands: tuple[str, ...]) -> SceneOptions:
    """Take the first band where the model's polarisation is absent: parity does not mind."""
    try:
        with open_scene(path, bands):
            return SceneOptions()
    except BandNotFound:
        return SceneOptions(bands=tuple(str(k + 1) for k in range(len(bands))))
