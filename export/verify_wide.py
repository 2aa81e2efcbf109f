"""Verify an exported file in windows that are larger than the generator's own: one input for each size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.verify import Run, refuse_faults
from sar2optical.errors import ExportUnsupported, ParityFailed
from sar2optical.evaluation.metrics import psnr

__all__ = ["compare_wide", "expect_wide", "wide_chip"]

_RANGE = 2.0  # of [-1, 1]


def wide_chip(chips: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Lay chips side by side to one large input, in turn; every other one is mirrored, so that copies meet smoothly.

    Parameters
    ----------
    chips
        float32 (n, C, window, window) in [-1, 1].
    side
        Height and width of the input, a multiple of the window.

    Returns
    -------
    ndarray
        float32 (1, C, side, side) in [-1, 1].
    """
    count = side // chips.shape[-1]

    def chip(row: int, col: int) -> NDArray[np.float32]:
        return chips[(row * count + col) % len(chips), :, :: 1 - 2 * (row % 2), :: 1 - 2 * (col % 2)]

    rows = [np.concatenate([chip(row, col) for col in range(count)], axis=2) for row in range(count)]
    return np.concatenate(rows, axis=1)[None]


def expect_wide(reference: Run, chip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the source on one input of another size, float32 (1, C, side, side); return its image.

    Raises
    ------
    ExportUnsupported, ParityFailed
        If it does not run at this size, or returns NaN.
    """
    image = _run_wide(reference, chip, "the source")
    if not np.isfinite(image).all():
        raise ParityFailed(f"window {chip.shape[-1]}: the source returns NaN or infinity: {_without(chip)}")
    return image


def compare_wide(expected: NDArray[np.float32], found: Run, chip: NDArray[np.float32], *, floor: float) -> float:
    """Compare an exported model with its source on one input of another size; return the PSNR in dB.

    Parameters
    ----------
    expected
        Image of the source, float32 (1, 3, side, side), from `expect_wide`.
    found
        Exported model.
    chip
        float32 (1, C, side, side) in [-1, 1].
    floor
        Least PSNR in dB that passes.

    Raises
    ------
    ExportUnsupported, ParityFailed
        If the exported model does not run at this size, or see `compare`; the message names the size.
    """
    name = f"window {chip.shape[-1]}"
    image = _run_wide(found, chip, "the exported model")
    refuse_faults(name, expected[0], image[0])
    found_psnr = psnr(expected, image, data_range=_RANGE)
    if not found_psnr >= floor:
        raise ParityFailed(
            f"{name}: parity is {found_psnr:.1f} dB against the source, at least {floor:.0f} dB is required; no file "
            f"was written: {_without(chip)}, or lower --min-psnr"
        )
    return found_psnr


def _run_wide(run: Run, chip: NDArray[np.float32], who: str) -> NDArray[np.float32]:
    side = chip.shape[-1]
    try:
        image = run(chip)
    except Exception as error:  # of PyTorch, ONNX Runtime or an engine
        reason = " ".join(str(error).split())[:120]
        raise ExportUnsupported(
            f"window {side}: {who} does not run at this size ({reason}): {_without(chip)}"
        ) from error
    if image.shape != (1, 3, side, side):
        raise ExportUnsupported(f"window {side}: {who} returns an image of {image.shape[2:]}: {_without(chip)}")
    return image


def _without(chip: NDArray[np.float32]) -> str:
    return f"leave {chip.shape[-1]} out of --windows"
