"""Registries of backends and of model names; needs no library that runs models."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sar2optical.errors import BackendNotInstalled, ModelUnreadable

__all__ = [
    "BACKENDS",
    "DEVICES",
    "MODELS",
    "ON_CPU",
    "ON_CUDA",
    "PRECISIONS",
    "Backend",
    "PublishedModel",
    "backend_named",
    "backends_of",
    "bundled",
    "resolve",
    "two_layers",
    "variants",
]

_log = logging.getLogger(__name__)

DEVICES = ("cpu", "cuda", "gpu", "mps", "coreml", "directml")
"""Devices that an engine can be asked for, beside auto: CPU, NVIDIA; Intel graphics (openvino), Apple's GPU
(pytorch), Apple's Core ML and Windows' DirectML (onnxruntime). Only the first two were run on hardware; auto takes no
other."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
"""Precisions that an engine can be asked for, beside auto."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A library that runs models, as module `sar2optical.engines.NAME`."""

    name: str
    """Name for `--backend`."""
    library: str
    """Package that it imports."""
    suffixes: tuple[str, ...]
    """Suffixes of the engine files that it runs."""
    devices: tuple[str, ...]
    """Devices that it runs on."""
    extra: str
    """Extra of this package that installs it."""


_PLANS = (".plan", ".engine")

BACKENDS = (
    Backend(name="openvino", library="openvino", suffixes=(".onnx",), devices=("cpu", "gpu"), extra="cpu"),
    Backend(
        name="onnxruntime",
        library="onnxruntime",
        suffixes=(".onnx",),
        devices=("cpu", "cuda", "coreml", "directml"),
        extra="cpu",
    ),
    Backend(
        name="pytorch",
        library="torch",
        suffixes=(".pth", ".pt", ".onnx"),
        devices=("cpu", "cuda", "mps"),
        extra="train",
    ),
    Backend(name="tensorrt", library="tensorrt", suffixes=_PLANS, devices=("cuda",), extra="tensorrt"),
    Backend(name="tensorrt_rtx", library="tensorrt_rtx", suffixes=(*_PLANS, ".onnx"), devices=("cuda",), extra="rtx"),
)
"""All backends; of those that run a file, the fastest on a CPU first. To add a backend, add an entry and a module
that defines `open(path, options) -> Engine`."""

ON_CPU = ("openvino", "onnxruntime")
"""Backends that auto takes for ONNX files on a CPU, where PyTorch is slower; the fastest first."""

ON_CUDA = ("tensorrt_rtx", "pytorch", "onnxruntime")
"""Backends that run ONNX files on an NVIDIA GPU, the fastest first."""


def backends_of(path: Path) -> tuple[Backend, ...]:
    """Return the backends that run a kind of file, by its suffix; empty if there is none."""
    return tuple(backend for backend in BACKENDS if path.suffix.lower() in backend.suffixes)


def backend_named(name: str) -> Backend:
    """Return the backend of a name."""
    return next(backend for backend in BACKENDS if backend.name == name)


BUNDLED = "generator.onnx"
"""File of the bundled generator, see `weights/MODEL_CARD.md`."""

BUNDLED_INT8 = "generator.int8.onnx"
"""File of the bundled generator in int8: 40 dB or more against the fp32 file on real chips."""

_SEED_REPO = "yuulind/pix2pix-sar2rgb"
_ANSWER_WITHIN = 10.0  # seconds to wait for the hub: without a network, a command must not hang


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A generator that is known by name."""

    file: str
    """File name in the repository, or among the package's weights."""
    repo: str | None = None
    """Repository on the Hugging Face hub; None if the file is part of the package."""
    sha256: str | None = None
    """SHA-256 of the file, in hex; None if none is published: the file is then not checked."""
    published_fid: float | None = None
    """FID as published: on the 1000 class logits of an ImageNet Inception, with inputs in [0, 1] where training used
    [-1, 1], on test chips beside training chips. It ranks these three; it does not compare with other FIDs."""

    @property
    def url(self) -> str | None:
        """Address of the file for a browser."""
        return None if self.repo is None else f"https://huggingface.co/{self.repo}/resolve/main/{self.file}"


MODELS: dict[str, PublishedModel] = {
    "bundled": PublishedModel(file=BUNDLED),
    "detail-vv-vh-1": PublishedModel(file=BUNDLED),  # the name in its signature
    "pix2pix_gen_180": PublishedModel(repo=_SEED_REPO, file="pix2pix_gen_180.pth", published_fid=185.04),
    "pix2pix_gen_265": PublishedModel(repo=_SEED_REPO, file="pix2pix_gen_265.pth", published_fid=189.81),
    "pix2pix_gen_295": PublishedModel(repo=_SEED_REPO, file="pix2pix_gen_295.pth", published_fid=187.73),
}
"""Names that can be given instead of an engine file."""


def bundled() -> Path:
    """Path of the bundled generator."""
    return _weights(BUNDLED)


def two_layers() -> Path:
    """Path of a very small model that shows whether a library works."""
    return _weights("two_layers.onnx")


def _weights(name: str) -> Path:
    return Path(str(files("sar2optical") / "weights" / name))


def variants(model: Path) -> dict[str, Path]:
    """Return the files of a model by precision, the reference first.

    The bundled generator has two; any other file stands for itself.
    """
    if model != bundled():
        return {"reference": model}
    return {"fp32": model, "int8": model.with_name(BUNDLED_INT8)}


def resolve(model: str | Path, *, download: bool = True) -> Path:
    """Return the path of a model that is given as path or name.

    Parameters
    ----------
    model
        Path, or a name of `MODELS`. What exists, or has a suffix or a folder, is a path and is returned unchanged.
    download
        Download a published generator that is not in the hub's cache; logged before it starts.

    Returns
    -------
    Path

    Raises
    ------
    ModelUnreadable
        If the name is unknown, or the file cannot be downloaded, or differs from the published one.
    BackendNotInstalled
        If the name needs the hub's client, which is not installed.
    """
    path = Path(model)
    if path.exists() or path.suffix or any(sep in str(model) for sep in (os.sep, os.altsep) if sep):
        return path
    entry = MODELS.get(str(model))
    if entry is None:
        raise ModelUnreadable(
            f"{model}: no such file, and not a known generator: give a path, or one of {', '.join(MODELS)}"
        )
    if entry.repo is None:
        return bundled()
    path = _from_hub(str(model), entry, entry.repo, download=download)
    _check(path, entry)
    return path


def _from_hub(name: str, entry: PublishedModel, repo: str, *, download: bool) -> Path:
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(
            f"{name} is on the Hugging Face hub and needs {error.name}: pip install 'sar2optical[hub]'"
        ) from error
    cached = hub.try_to_load_from_cache(repo, entry.file)
    if isinstance(cached, str):  # else None, or a mark that the repository has no such file
        return Path(cached)
    if not download:
        raise ModelUnreadable(f"{name}: not in the hub's cache on this machine: {_by_hand(entry)}")
    _log.info("downloading %s from the Hugging Face hub (%s)", name, repo)
    try:
        # One request without retries: the download itself tries six times, for 24 seconds, without a network.
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, entry.file), timeout=_ANSWER_WITHIN)
        return Path(hub.hf_hub_download(repo, entry.file, etag_timeout=_ANSWER_WITHIN))
    except Exception as error:  # the hub's, the HTTP library's and the system's: they share no root
        raise ModelUnreadable(f"{name}: cannot be downloaded ({_reason(error)}): {_by_hand(entry)}") from error


def _by_hand(entry: PublishedModel) -> str:
    return f"download {entry.url} by other means, then give its path"


def _reason(error: BaseException) -> str:
    """Return the first cause in short: the hub wraps it into a paragraph."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:60]}" if text else type(error).__name__


def _check(path: Path, entry: PublishedModel) -> None:
    if entry.sha256 is None:
        _log.info("%s: has no published checksum; it is not checked", entry.file)
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise ModelUnreadable(
            f"{path}: sha256 is {found[:12]}..., the published file has {entry.sha256[:12]}...: "
            "delete it and download it again"
        )
