"""Manifest of a run: everything that decides its pixels. Kept beside its strips, compared before they are used."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sar2optical._utils.addresses import redacted

__all__ = ["MANIFEST", "Manifest", "identity_of", "is_local"]

MANIFEST = "manifest.json"
"""Name of the file in a run folder."""

_FORMAT = 1
"""Version of the file's format. Manifests of other versions are ignored."""

_ENTRIES = "facts"
"""Key of the entries in the file: folders of interrupted runs have it."""


@dataclass(frozen=True)
class Manifest:
    """Everything that decides a run's pixels. Two runs with equal entries give the same pixels."""

    entries: Mapping[str, str]
    """Values by name."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the entries, which each strip of the run carries."""
        return hashlib.sha256(json.dumps(dict(self.entries), sort_keys=True).encode(errors="replace")).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Name each entry in which another run differs: `overlap 64, now 32`."""
        names = sorted({*self.entries, *other.entries})
        return [
            f"{name} {self.entries.get(name, 'not given')}, now {other.entries.get(name, 'not given')}"
            for name in names
            if self.entries.get(name) != other.entries.get(name)
        ]

    def to_bytes(self) -> bytes:
        """Encode as JSON, for `read`."""
        return (json.dumps({"form": _FORMAT, _ENTRIES: dict(self.entries)}, indent=1) + "\n").encode(errors="replace")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a run folder; None if it is missing, damaged or of another version."""
        try:
            record = json.loads((folder / MANIFEST).read_bytes())
            if record["form"] != _FORMAT:
                return None
            return cls({str(name): str(value) for name, value in record[_ENTRIES].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/\{?(.*)")
"""GDAL's path of a file in an archive."""


_CONTENT = re.compile(r"/vsimem/.*/(array-[0-9a-f]{64}\.tif)")
"""Path in memory that names its content, see `sar2optical.api.source`."""


def identity_of(files: tuple[Path, ...]) -> str:
    """Identify files by name, size and time of the last change.

    For a file in a local archive, size and time are those of the archive. A file on a server is identified by its
    address only, without query and password: these are secret, and tokens expire.
    """
    texts = []
    for file in files:
        local = _local(file)
        if content := _CONTENT.fullmatch(str(file)):
            texts.append(content[1])
        elif str(file).startswith("/vsimem/"):
            texts.append(f"{file} (in memory, run {uuid4()})")  # its content may change: no other run is the same
        elif local is None:
            texts.append(redacted(file))
        else:
            stat = local.stat()
            texts.append(f"{file.name} ({stat.st_size} bytes, {stat.st_mtime_ns})")
    return ", ".join(texts)


def is_local(path: Path) -> bool:
    """Return whether a file, or the archive that contains it, is on this machine."""
    return _local(path) is not None


def _local(path: Path) -> Path | None:
    match = _ARCHIVE.fullmatch(str(path))
    try:
        if match is None:
            return path if path.exists() else None
        # `Path` merges the two slashes in front of an absolute path into one: try both readings.
        insides = (Path("/", match[1]), Path(match[1]))
        return next((at for inside in insides for at in (inside, *inside.parents) if at.is_file()), None)
    except (OSError, ValueError):
        return None
