"""What a mosaic says of itself: that it is generated, by which run, and what that run was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sar2optical import __version__
from sar2optical._utils.addresses import has_file_in_query
from sar2optical.mosaic.manifest import Manifest, identity_of, is_local
from sar2optical.mosaic.strips import RUN_TAG
from sar2optical.mosaic.tags import OPTIONS_TAG, options_of
from sar2optical.scene.remote import is_remote

_NOT_PIXELS = {"threads", "batch", "overwrite", "preview", "restart", "max_memory", "seams"}
"""Options that change no pixel of a mosaic."""

_LOSSY = "jpeg"

_NAMED_BY_TAGS = ("SOURCE", "MODEL", "MODEL_SHA256", "ENGINE", "VERSION", "BANDS", "UNITS", "STRETCH", "OVERLAP")
"""Tags without their prefix in which runs may differ."""


def asked_for(src: str | Path, model: Mapping[str, Path], options: Any) -> Manifest | None:
    """Gather what decides a mosaic's pixels as far as it is known before the scene or a model is opened.

    Parameters
    ----------
    src
        The scene.
    model
        Files of the model by precision.
    options
        `TranslateOptions`; those that are left as they are by default (None, empty, false) are not named.

    Returns
    -------
    Manifest or None
        None where the scene's address does not tell which scene it is, or a model's file cannot be read.
    """
    if has_file_in_query(src):
        return None
    try:
        hashes = [_hash_of(str(file), file.stat().st_mtime_ns)[:16] for file in model.values()]
        scene = identity_of((Path(src),))
    except OSError:
        return None
    facts = {"scene": scene, "model": ", ".join(hashes), "version": __version__}
    return Manifest(facts | dict(_flat(options)))


def _flat(options: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in ("engine", "scene", "product") and is_dataclass(value):
            found += _flat(value)
        elif field.name == "compress":
            found.append((field.name, value if value == _LOSSY else "lossless"))
        elif field.name not in _NOT_PIXELS and value not in (None, (), False):
            found.append((field.name, ", ".join(value) if isinstance(value, tuple) else str(value)))
    return found


@lru_cache(maxsize=64)
def _hash_of(file: str, _: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def to_tag(asked: Manifest | None) -> dict[str, str]:
    """Give `asked_for` as a mosaic's tag."""
    return {} if asked is None else {OPTIONS_TAG: json.dumps(dict(asked.entries))}


def is_as_asked(tags: Mapping[str, str], src: str | Path, asked: Manifest | None) -> bool:
    """Say whether a mosaic's tags are of a run that was asked for the same.

    A scene that is gone since (a file that was removed) is not compared.
    """
    if asked is None:
        return False
    if tags.get(OPTIONS_TAG) == asked.fingerprint:  # of a picture
        return True
    was = options_of(tags)
    if was is None:
        return False
    if not is_remote(src) and not is_local(Path(src)):
        asked = Manifest({**asked.entries, "scene": was.entries.get("scene", "")})
    return was == asked


def differences(tags: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name in what a mosaic differs from the one that a run would make; nothing where their pixels are the same.

    Parameters
    ----------
    tags
        Of the mosaic that is there.
    now
        That the run would give it.
    """
    was, asked = options_of(tags), options_of(now)
    encoded = {"compress": was.entries.get("compress"), "now": asked.entries.get("compress")} if was and asked else {}
    if tags.get(RUN_TAG) == now.get(RUN_TAG) and encoded.get("compress") == encoded.get("now"):
        return []
    if was and asked and was != asked:
        return was.differences(asked)
    named = [(name, tags.get(f"SAR2OPTICAL_{name}"), now.get(f"SAR2OPTICAL_{name}")) for name in _NAMED_BY_TAGS]
    return [f"{name.lower()} {had}, now {has}" for name, had, has in named if had and had != has] or [
        "other values, or another library: it does not tell in what"
    ]
