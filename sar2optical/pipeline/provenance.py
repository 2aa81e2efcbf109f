"""What decides a mosaic's pixels: the manifest of a run, the tags of a mosaic, and their comparison."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from sar2optical import __version__
from sar2optical._utils.addresses import has_file_in_query, redacted
from sar2optical.engines import Engine
from sar2optical.engines.registry import backend_named
from sar2optical.mosaic.manifest import Manifest, identity_of, is_local
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.tags import OPTIONS_TAG, generated_tags, options_of
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.scene.cut import Cut
from sar2optical.scene.encoder import Encoding
from sar2optical.scene.geocode.resample import Geocoded
from sar2optical.scene.geocode.target import zoom_level
from sar2optical.scene.remote import is_remote
from sar2optical.scene.safe.files import is_product
from sar2optical.scene.safe.product import ProductOptions
from sar2optical.scene.scene import SceneSource
from sar2optical.scene.sources import Source, paths_of
from sar2optical.tiling.windows import WindowGrid

__all__ = [
    "asked_for",
    "differences",
    "hash_of",
    "is_as_asked",
    "library_versions",
    "manifest_of",
    "name_of",
    "tags_of_run",
    "to_tag",
]

_NOT_PIXELS = {"threads", "batch", "blocksize", "worldfile", "overwrite", "preview", "restart", "max_memory", "seams"}
"""Options that change no pixel of a mosaic."""

_LOSSY = ("jpeg", "webp")

_NAMED_BY_TAGS = (
    "SOURCE",
    "MODEL",
    "MODEL_SHA256",
    "ENGINE",
    "VERSION",
    "BANDS",
    "UNITS",
    "STRETCH",
    "WINDOW",
    "OVERLAP",
    "AREA",
)
"""Tags, without their prefix, that name a difference between two runs."""


def manifest_of(
    scene: SceneSource,
    engine: Engine,
    file: Path,
    grid: WindowGrid,
    encodings: list[Encoding],
    options: TranslateOptions,
    cut: Cut | None = None,
) -> Manifest:
    """Collect everything that decides the pixels; batch size, threads and memory do not."""
    height, width = scene.shape
    sources = tuple(map(Path, scene.sources))
    signature, noise = options.engine.signature, engine.signature.graph.noise
    optional = {
        "signature": signature.to_json() if signature else None,
        "output": ", ".join(options.output_bands) or None,
        "dtype": options.dtype if options.dtype != "uint8" else None,
        # Its generator decides the random numbers.
        "numpy": np.__version__ if noise else None,
        "nodata": options.scene.nodata,
        "scale": options.scene.scale,
        # Where names identify the bands, it does not matter whether a name or an index was given.
        "band": ", ".join(options.scene.bands) if options.scene.bands and None in scene.polarisations else None,
        "calibration": _calibration_of(options.product or ProductOptions()) if is_product(scene.path) else None,
        "area": cut.text if cut else None,
        # A server does not report when its file changed; values sampled all over the scene show it.
        "values": None if all(map(is_local, sources)) else _hash_of_values(scene),
    }
    return Manifest(
        {
            "scene": identity_of((*sources, *_further_files(scene))),
            "size": f"{width} x {height}",
            "bands": ",".join(name or "unknown" for name in scene.polarisations),
            "stretch": "; ".join(map(_exactly, encodings)),
            "geocode": str(options.geocode) if options.geocode else "no",
            "overlap": str(grid.overlap),
            "window": str(grid.window),
            "model": hash_of(file),
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            **({} if engine.fallback == engine.precision else {"fallback": engine.fallback}),
            "library": library_versions(engine).get(backend_named(engine.backend).library, "unknown"),
            "version": __version__,
            **{name: str(value) for name, value in optional.items() if value is not None},
        }
    )


def _exactly(encoding: Encoding) -> str:
    """Describe an encoding with all digits of its numbers."""
    text = f"{encoding.source} as {encoding.target}, {encoding.low!r} to {encoding.high!r}"
    if encoding.to == (-1.0, 1.0) and encoding.limits is None:
        return text
    return f"{text} become {encoding.to}, limits {encoding.limits}"


def _further_files(scene: SceneSource) -> tuple[Path, ...]:
    """Return the files that a scene's rasters refer to."""
    return tuple(file for file in scene.files if str(file) not in scene.sources)


def name_of(scene: SceneSource) -> str:
    """Return the name of a scene's file, or the names of its files."""
    return " + ".join(Path(redacted(source)).name for source in scene.sources)


def tags_of_run(
    scene: SceneSource, engine: Engine, manifest: Manifest, encodings: list[Encoding], options: TranslateOptions
) -> dict[str, str]:
    """Return the tags of a mosaic that say how it was made."""
    is_rgb = not options.output_bands and options.dtype in (None, "uint8")
    return {
        "TIFFTAG_SOFTWARE": f"sar2optical {__version__}",
        **generated_tags(engine.signature.name, "RGB image" if is_rgb else "image"),
        "SAR2OPTICAL_VERSION": __version__,
        "SAR2OPTICAL_MODEL": engine.signature.name,
        "SAR2OPTICAL_MODEL_SHA256": manifest.entries["model"],
        "SAR2OPTICAL_ENGINE": str(engine),
        "SAR2OPTICAL_BATCH": str(engine.batch),
        RUN_TAG: manifest.fingerprint,
        "SAR2OPTICAL_SOURCE": name_of(scene),
        "SAR2OPTICAL_BANDS": ",".join(name or "unknown" for name in scene.polarisations),
        "SAR2OPTICAL_UNITS": scene.unit or "unknown",
        "SAR2OPTICAL_STRETCH": "; ".join(str(encoding) for encoding in encodings),
        "SAR2OPTICAL_WINDOW": manifest.entries["window"],
        "SAR2OPTICAL_OVERLAP": str(options.overlap),
        **({"SAR2OPTICAL_AREA": manifest.entries["area"]} if "area" in manifest.entries else {}),
        **({"SAR2OPTICAL_GEOCODING": scene.note} if isinstance(scene, Geocoded) else {}),
        **_tiling_tags(scene, options),
    }


def _tiling_tags(scene: SceneSource, options: TranslateOptions) -> dict[str, str]:
    """Return the metadata by which GDAL's readers know tiles of web maps (driver COG, TILING_SCHEME)."""
    transform = scene.georeference.transform
    if transform is None or options.geocode is None or options.geocode.tiling is None:
        return {}
    return {"TILING_SCHEME:NAME": "GoogleMapsCompatible", "TILING_SCHEME:ZOOM_LEVEL": str(zoom_level(transform))}


def library_versions(engine: Engine) -> dict[str, str]:
    """Return the versions of the libraries that decide pixels, by name."""
    found = {"sar2optical": __version__, "numpy": np.__version__}
    found |= {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}
    library = backend_named(engine.backend).library
    for name in (library, f"{library}-gpu", f"{library}-cu13"):
        with suppress(PackageNotFoundError):
            found[library] = version(name)
    return found


def _hash_of_values(scene: SceneSource) -> str:
    digest = hashlib.sha256()
    for sample in scene.read_samples():
        digest.update(np.ascontiguousarray(sample).data)
    return digest.hexdigest()[:16]


def _calibration_of(product: ProductOptions) -> str:
    noise, border = ", noise removed" * product.denoise, ", border kept" * (not product.border)
    return f"{product.calibration}{noise}{border}"


def asked_for(src: Source, model: Mapping[str, Path], options: Any) -> Manifest | None:
    """Collect what decides a mosaic's pixels, as far as it is known before the scene or a model is opened.

    Parameters
    ----------
    src
        The scene.
    model
        Files of the model by precision.
    options
        `TranslateOptions`; those with their default value (None, empty, false) are left out.

    Returns
    -------
    Manifest or None
        None if the address does not identify the scene, or a file cannot be read.
    """
    paths = paths_of(src)
    # Files that name their polarisations are the same scene in any order.
    if not getattr(src, "polarisations", ()) and not any(band.isdecimal() for band in options.scene.bands):
        paths = tuple(sorted(paths))
    if any(map(has_file_in_query, paths)):
        return None
    try:
        hashes = [hash_of(file)[:16] for file in model.values()]
        scene = identity_of(tuple(map(Path, paths)))
    except OSError:
        return None
    entries = {"scene": scene, "model": ", ".join(hashes), "version": __version__}
    return Manifest(entries | dict(_flat(options)))


def _flat(options: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in ("engine", "scene", "product") and is_dataclass(value):
            found += _flat(value)
        elif field.name == "compress":
            found.append((field.name, value if value in _LOSSY else "lossless"))
        elif field.name == "signature" and value is not None:
            found.append((field.name, value.to_json()))
        elif field.name not in _NOT_PIXELS and value not in (None, (), False, "uint8"):
            found.append((field.name, ", ".join(value) if isinstance(value, tuple) else str(value)))
    return found


def hash_of(file: Path) -> str:
    """Return the SHA-256 of a model's file, and of the files beside it that hold weights of an ONNX file.

    Computed once as long as the file does not change.
    """
    return _hash_at(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_at(file: Path, _modified: int) -> str:
    content = file.read_bytes()
    digest = hashlib.sha256(content)
    for beside in _weights_beside(file, content):
        with beside.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()


def _weights_beside(file: Path, content: bytes) -> list[Path]:
    """Return the files that an ONNX file names as `location` of external data; without the package onnx.

    An entry is key and value, each a tag (field 1 or 2, a text) with its length (protobuf's wire format, and
    StringStringEntryProto in onnx.proto).
    """
    if file.suffix.lower() != ".onnx":
        return []
    names = {
        content[found.end() + 1 : found.end() + 1 + content[found.end()]]
        for found in re.finditer(rb"\n\x08location\x12(?=.)", content, re.DOTALL)
    }
    paths = [file.parent / name.decode(errors="replace") for name in sorted(names)]
    return [path for path in paths if path.is_file()]


def to_tag(asked: Manifest | None) -> dict[str, str]:
    """Return the result of `asked_for` as a tag of a mosaic."""
    return {} if asked is None else {OPTIONS_TAG: json.dumps(dict(asked.entries))}


def is_as_asked(tags: Mapping[str, str], src: Source, asked: Manifest | None) -> bool:
    """Return True if a mosaic's tags are those of a run with the same scene, model and options.

    A scene that no longer exists is not compared.
    """
    if asked is None:
        return False
    if tags.get(OPTIONS_TAG) == asked.fingerprint:  # of a picture
        return True
    was = options_of(tags)
    if was is None:
        return False
    if any(not is_remote(path) and not is_local(Path(path)) for path in paths_of(src)):
        asked = Manifest({**asked.entries, "scene": was.entries.get("scene", "")})
    return was == asked


def differences(tags: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List the differences between a mosaic and the one that a run would make; empty if the pixels are the same.

    Parameters
    ----------
    tags
        Tags of the existing mosaic.
    now
        Tags that the run would write.
    """
    was, asked = options_of(tags), options_of(now)
    encoded = {"compress": was.entries.get("compress"), "now": asked.entries.get("compress")} if was and asked else {}
    if tags.get(RUN_TAG) == now.get(RUN_TAG) and encoded.get("compress") == encoded.get("now"):
        return []
    if was and asked and was != asked:
        return was.differences(asked)
    named = [(name, tags.get(f"SAR2OPTICAL_{name}"), now.get(f"SAR2OPTICAL_{name}")) for name in _NAMED_BY_TAGS]
    return [f"{name.lower()} {had}, now {has}" for name, had, has in named if had and had != has] or [
        "the values or a library differ; the mosaic's tags do not show which"
    ]
