"""FID, KID and LPIPS over network files that the user supplies; no network is downloaded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical.errors import BackendNotInstalled, ModelUnreadable

__all__ = ["NO_FEATURES", "NO_LPIPS", "Distances", "Features", "distances", "open_features", "open_lpips"]

_log = logging.getLogger(__name__)

Features = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Images uint8 (N, 3, H, W) -> features float64 (N, d)."""

NO_FEATURES = "FID, KID: no feature extractor given (--features FILE)"
"""Note in reports without FID and KID."""

NO_LPIPS = "LPIPS: no network given (--lpips FILE)"
"""Note in reports without LPIPS."""

_KID_SUBSET = 1000  # images in a subset (Binkowski et al. 2018, section 4)
_KID_SUBSETS = 100
_BATCH = 8


@dataclass(frozen=True)
class Distances:
    """Distances between the feature sets of predictions and truths."""

    fid: float
    """Frechet distance of the two normal distributions (Heusel et al. 2017); nan for fewer than two images."""
    kid: float
    """Squared maximum mean discrepancy, polynomial kernel of degree 3 (Binkowski et al. 2018); nan for fewer than
    two images."""
    images: int
    """Number of images in each set."""
    features: int
    """Number of features."""
    note: str = ""
    """Caution for comparisons; empty if there are enough images."""


def open_features(path: Path) -> Features:
    """Open a feature extractor.

    Parameters
    ----------
    path
        TorchScript (`.pt`, `.ts`) or ONNX (`.onnx`) file that maps images, uint8 (N, 3, H, W) in RGB order, to
        features (N, d). The file must include the scaling that its network needs. A TorchScript file is a program
        whose operations run on your machine (no Python code is unpickled): open only files that you trust.

    Returns
    -------
    callable
        Extractor that runs on the CPU.

    Raises
    ------
    ModelUnreadable
        If the file is missing or has another format. The callable raises it if its output is not finite (N, d).
    BackendNotInstalled
        If the library that runs the file is missing.
    """
    return _opened(path, channels=3)


def open_lpips(path: Path) -> Features:
    """Open a network that compares two images: LPIPS (Zhang et al. 2018), or another distance.

    Parameters
    ----------
    path
        File as in `open_features`, that maps uint8 (N, 6, H, W), red, green and blue of the truth and then of the
        prediction, to distances (N, 1). The file must include the scaling that its network needs.

    Returns
    -------
    callable
        Distances of pairs, on the CPU.

    Raises
    ------
    ModelUnreadable, BackendNotInstalled
        As `open_features`; also if the output is not (N, 1).
    """
    run = _opened(path, channels=6)

    def compare(pairs: NDArray[np.uint8]) -> NDArray[np.float64]:
        found = run(pairs)
        if found.shape[1] != 1:
            raise ModelUnreadable(
                f"{path}: output has shape {found.shape}: a network for --lpips must return one distance per pair, "
                "(N, 1)"
            )
        return found

    return compare


def _opened(path: Path, *, channels: int) -> Features:
    openers = {".onnx": _open_onnx, ".pt": _open_torchscript, ".ts": _open_torchscript}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise ModelUnreadable(
            f"{path}: unknown type of feature extractor: give a TorchScript (.pt, .ts) or ONNX (.onnx) file"
        )
    if not path.is_file():
        raise ModelUnreadable(f"{path}: no such file: check the path")
    run = opener(path, channels)

    def extract(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        batches = [run(images[k : k + _BATCH]) for k in range(0, len(images), _BATCH)]
        for out in batches:
            if out.ndim != 2:
                raise ModelUnreadable(
                    f"{path}: output has shape {out.shape}: a feature extractor must return (N, features)"
                )
            if not np.isfinite(out).all():
                raise ModelUnreadable(f"{path}: features are not finite: check the input that the network expects")
        found = np.concatenate(batches).astype(np.float64)
        if len(found) != len(images):
            raise ModelUnreadable(
                f"{path}: {len(found)} rows for {len(images)} images: a feature extractor must return one per image"
            )
        return found

    return extract


def distances(real: NDArray[np.float64], fake: NDArray[np.float64]) -> Distances:
    """Compute FID and KID from features with torchmetrics.

    Parameters
    ----------
    real, fake
        Features of truths and predictions, float64 (N, d).

    Returns
    -------
    Distances
        KID is the mean over 100 subsets of 1000 images, drawn with a fixed seed; fewer images form one subset.

    Raises
    ------
    BackendNotInstalled
        If torchmetrics is missing.
    """
    count, width = fake.shape
    if min(len(real), count) < 2:
        return Distances(float("nan"), float("nan"), count, width, f"{count} image: FID and KID need two or more")
    note = ""
    if count <= width:
        note = f"{count} images for {width} features: FID is biased, compare it only within this table"
    try:
        import torch
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"FID and KID need {error.name}: pip install 'sar2optical[train]'") from error
    given = torch.nn.Identity()
    given.num_features = width
    size = min(_KID_SUBSET, count, len(real))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # about memory for features, which are in memory already
        torch.manual_seed(0)
        fid = FrechetInceptionDistance(feature=given)
        # A subset of all images is always the same, so one is enough.
        kid = KernelInceptionDistance(given, subsets=_KID_SUBSETS if size < count else 1, subset_size=size)
        for metric in (fid.set_dtype(torch.float64), kid):
            metric.update(torch.from_numpy(real), real=True)
            metric.update(torch.from_numpy(fake), real=False)
        return Distances(float(fid.compute()), float(kid.compute()[0]), count, width, note)


def _open_onnx(path: Path, channels: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    try:
        from sar2optical.engines.onnxruntime import open_features as opened
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"{path.name} needs {error.name}: pip install 'sar2optical[cpu]'") from error
    return opened(path, channels)


def _open_torchscript(path: Path, channels: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"{path.name} needs {error.name}: pip install 'sar2optical[train]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # TorchScript is deprecated, its files are still in use
            module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # a corrupt file surfaces as any of several types
        raise ModelUnreadable(
            f"{path}: corrupt, or not a TorchScript file: save it with torch.jit.save, or give an ONNX file (.onnx)"
        ) from error

    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            with torch.inference_mode():
                return np.asarray(module(torch.from_numpy(np.ascontiguousarray(images))).numpy())
        except Exception as error:
            reason = " ".join(str(error).split())[-100:]
            raise ModelUnreadable(
                f"{path}: does not run on uint8 {images.shape} ({reason}): export it for uint8 (N, {channels}, H, W)"
            ) from error

    return run
