"""Prove that an exported file does what its source does, before it appears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sar2optical.engines import Engine
from sar2optical.errors import BandNotFound, ExportUnsupported, ParityFailed
from sar2optical.metrics import psnr, ssim
from sar2optical.models.unet import UNetGenerator
from sar2optical.radiometry import Encoding, choose_stretch, convert, resolve
from sar2optical.scene import SceneOptions, open_scene
from sar2optical.signature import ModelSignature

CHIPS = 16
"""Chips that are compared, at most."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_T = TypeVar("_T")

_RANGE = 2.0  # of [-1, 1]
_FLAT = 1e-4  # standard deviation over a chip under which an output counts as constant

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


def chips_from(path: Path, signature: ModelSignature) -> NDArray[np.float32]:
    """Read verification chips from a folder of pictures, or cut them from a scene.

    Parameters
    ----------
    path
        Folder of chips of at least a window (`s1` in its name or beneath where it holds pairs), or one raster.
    signature
        Decides window and channels.

    Returns
    -------
    ndarray
        float32 (n, C, window, window) in [-1, 1], 1 <= n <= `CHIPS`.

    Raises
    ------
    ExportUnsupported
        Where there is no chip of a window's size.
    SceneError
        Where a raster cannot be used.
    """
    files = _spread(_rasters(path), CHIPS)
    per_file = CHIPS // max(len(files), 1)
    chips = [chip for file in files for chip in _cut(file, signature, per_file)]
    if not chips:
        side = signature.window
        raise ExportUnsupported(f"{path}: no chip of {side} x {side} or more: give a folder of chips, or a scene")
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


def compare(
    generator: UNetGenerator,
    engine: Engine,
    chips: NDArray[np.float32],
    *,
    source: str,
    floor: float,
) -> Parity:
    """Run both on the same chips.

    Parameters
    ----------
    generator
        The source, in eval mode; run in float32.
    engine
        The exported file, opened. It may take one channel where the generator takes copies of it.
    chips
        float32 (n, C, window, window) in [-1, 1], C as the engine takes it.
    source
        Where the chips came from, for the report.
    floor
        Least PSNR in dB that passes.

    Returns
    -------
    Parity

    Raises
    ------
    ParityFailed
        Where an output has NaN, is constant though the source's is not, or is under the floor.
    """
    channels = generator.arguments.in_channels
    worst_psnr, worst_ssim, max_error, mean_error = float("inf"), 1.0, 0.0, 0.0
    for k, chip in enumerate(chips):
        with torch.inference_mode():
            given = torch.from_numpy(chip[None]).expand(-1, channels, -1, -1)
            expected = generator(given)[0].numpy()
        found = engine.run(chip[None])[0]
        if not np.isfinite(found).all():
            raise ParityFailed(f"chip {k}: the exported model returns NaN or infinity: keep --precision fp32")
        if found.std() < _FLAT <= expected.std():
            raise ParityFailed(f"chip {k}: the exported model returns a constant: its weights did not survive")
        error = np.abs(expected - found)
        max_error = max(max_error, float(error.max()))
        mean_error += float(error.mean()) / len(chips)
        worst_psnr = min(worst_psnr, psnr(expected, found, data_range=_RANGE))
        worst_ssim = min(worst_ssim, ssim(expected, found, data_range=_RANGE))
    if not worst_psnr >= floor:
        raise ParityFailed(
            f"parity is {worst_psnr:.1f} dB against the source, at least {floor:.0f} is asked: no file was written"
        )
    return Parity(max_error, mean_error, worst_psnr, worst_ssim, len(chips), source)


def _rasters(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ExportUnsupported(f"{path}: no such file or folder: give a folder of chips, or a scene")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    sar = [file for file in files if file.parent.name == "s1"]
    return sar or files


def _cut(path: Path, signature: ModelSignature, most: int) -> Iterator[NDArray[np.float32]]:
    """Cut windows with valid pixels only, spread over the raster."""
    side = signature.window
    with open_scene(path, signature.bands, _lenient(path, signature.bands)) as scene:
        height, width = scene.shape
        if min(scene.shape) < side or scene.unit is None:
            return
        unit, stretches = choose_stretch(scene.unit, signature, None)
        encodings = [
            Encoding(scene.unit, unit, *resolve(stretch, convert(sample, scene.unit, unit)))
            for stretch, sample in zip(stretches, scene.samples, strict=True)
        ]
        places = []
        for row in range(0, height - side + 1, side):
            _, valid = scene.read_rows(row, row + side)
            places += [(row, c) for c in range(0, width - side + 1, side) if valid[:, c : c + side].all()]
        for row, col in _spread(places, most):
            values, valid = scene.read_rows(row, row + side)
            window = slice(col, col + side)
            bands = zip(encodings, values, strict=True)
            chip = np.stack([encoding.encode(band[:, window], valid[:, window]) for encoding, band in bands])
            yield np.array(np.broadcast_to(chip, (signature.channels, side, side)))


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
