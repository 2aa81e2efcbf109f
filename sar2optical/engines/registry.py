"""Names of generators to files; needs no torch."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sar2optical.errors import BackendNotInstalled, ModelUnreadable

_log = logging.getLogger(__name__)

BUNDLED = "generator.onnx"
"""The generator that comes with the package, see `weights/MODEL_CARD.md`."""

BUNDLED_INT8 = "generator.int8.onnx"
"""The same in int8, which kept more than 40 dB against it on real chips, see its metadata and the card."""

_SEED_REPO = "yuulind/pix2pix-sar2rgb"
_ANSWER_WITHIN = 10.0  # seconds for the hub's first word: offline, a command must not hang


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A generator that has a name."""

    file: str
    """Its name in the repository, or among the package's weights."""
    repo: str | None = None
    """Repository on the Hugging Face hub; None where the file comes with the package."""
    sha256: str | None = None
    """Of the file, in hex; None where nobody has published one, and then it is not checked."""
    published_fid: float | None = None
    """As its makers state it: on the 1000 class logits of an ImageNet Inception, with inputs in [0, 1] where training
    used [-1, 1], on test chips that neighbour training chips. It ranks these three among each other, and compares
    with no FID that was computed otherwise."""

    @property
    def url(self) -> str | None:
        """Where a browser fetches the file."""
        return None if self.repo is None else f"https://huggingface.co/{self.repo}/resolve/main/{self.file}"


ZOO: dict[str, ZooEntry] = {
    "bundled": ZooEntry(file=BUNDLED),
    "detail-vv-vh-1": ZooEntry(file=BUNDLED),  # the same, by the name in its signature
    "pix2pix_gen_180": ZooEntry(repo=_SEED_REPO, file="pix2pix_gen_180.pth", published_fid=185.04),
    "pix2pix_gen_265": ZooEntry(repo=_SEED_REPO, file="pix2pix_gen_265.pth", published_fid=189.81),
    "pix2pix_gen_295": ZooEntry(repo=_SEED_REPO, file="pix2pix_gen_295.pth", published_fid=187.73),
}
"""Every name that commands take in place of a model's file."""


def bundled() -> Path:
    """Give the file of the bundled generator."""
    return _weights(BUNDLED)


def two_layers() -> Path:
    """Give the file of a very small model, with which libraries are tried out."""
    return _weights("two_layers.onnx")


def _weights(name: str) -> Path:
    return Path(str(files("sar2optical") / "weights" / name))


def variants(model: Path) -> dict[str, Path]:
    """Give the files that there are of a model, by precision, the reference first.

    The bundled generator has two; any other file stands for itself.
    """
    if model != bundled():
        return {"reference": model}
    return {"fp32": model, "int8": model.with_name(BUNDLED_INT8)}


def resolve(model: str | Path, *, download: bool = True) -> Path:
    """Turn what a user gave as a model into a file.

    Parameters
    ----------
    model
        A path, or a name of `ZOO`. What exists, has a suffix or names a folder is a path, and comes back as it is.
    download
        Fetch a published generator that the hub's cache on this machine does not hold; a log line says so before.

    Returns
    -------
    Path

    Raises
    ------
    ModelUnreadable
        Where the name is unknown, or the file can be neither found nor fetched, or is not the one that was published.
    BackendNotInstalled
        Where the name needs the hub's client.
    """
    path = Path(model)
    if path.exists() or path.suffix or any(sep in str(model) for sep in (os.sep, os.altsep) if sep):
        return path
    entry = ZOO.get(str(model))
    if entry is None:
        raise ModelUnreadable(f"{model}: no such file, and no generator of that name: known are {', '.join(ZOO)}")
    if entry.repo is None:
        return bundled()
    path = _from_hub(str(model), entry, entry.repo, download=download)
    _check(path, entry)
    return path


def _from_hub(name: str, entry: ZooEntry, repo: str, *, download: bool) -> Path:
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
    _log.info("fetching %s from hub %s", name, repo)
    try:
        # One question without repeats: the download itself asks six times, for 24 seconds, where there is no network.
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, entry.file), timeout=_ANSWER_WITHIN)
        return Path(hub.hf_hub_download(repo, entry.file, etag_timeout=_ANSWER_WITHIN))
    except Exception as error:  # the hub's, the HTTP library's and the system's: they share no root
        raise ModelUnreadable(f"{name}: could not be fetched ({_reason(error)}): {_by_hand(entry)}") from error


def _by_hand(entry: ZooEntry) -> str:
    return f"get {entry.url} yourself, then pass its path"


def _reason(error: BaseException) -> str:
    """Give the first cause, briefly: what the hub wraps around it is a paragraph."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:60]}" if text else type(error).__name__


def _check(path: Path, entry: ZooEntry) -> None:
    if entry.sha256 is None:
        _log.info("%s: no checksum is published for it, taken as it is", entry.file)
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise ModelUnreadable(
            f"{path}: sha256 is {found[:12]}..., the published file has {entry.sha256[:12]}...: "
            "delete it and fetch it again"
        )
