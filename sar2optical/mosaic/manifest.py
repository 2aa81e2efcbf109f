"""What a run is made of: facts that decide its pixels, kept beside its strips, compared before they are trusted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sar2optical._utils.addresses import redacted

MANIFEST = "manifest.json"
"""Name of the file, in the strips' folder."""

_FORM = 1
"""Of the file; one of another form is as good as none."""


@dataclass(frozen=True)
class Manifest:
    """Facts by name. Two runs whose facts are equal give the same pixels."""

    entries: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the facts: what each strip carries."""
        return hashlib.sha256(json.dumps(dict(self.entries), sort_keys=True).encode(errors="replace")).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Name each fact in which another run differs: `overlap 64, now 32`."""
        names = sorted({*self.entries, *other.entries})
        return [
            f"{name} {self.entries.get(name, 'not given')}, now {other.entries.get(name, 'not given')}"
            for name in names
            if self.entries.get(name) != other.entries.get(name)
        ]

    def to_bytes(self) -> bytes:
        """Write as JSON, which `read` reads."""
        return (json.dumps({"form": _FORM, "facts": dict(self.entries)}, indent=1) + "\n").encode(errors="replace")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the one in a folder of strips; None where there is none, or one that is not understood."""
        try:
            record = json.loads((folder / MANIFEST).read_bytes())
            if record["form"] != _FORM:
                return None
            return cls({str(name): str(value) for name, value in record["facts"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/\{?(.*)")
"""GDAL's path of a file in an archive."""


def identity_of(files: tuple[Path, ...]) -> str:
    """Name files by what tells that they are still the same: name, size and time of the last change.

    Of a file in a local archive, those of the archive. One on a server is named by its address alone, without query
    and password: tokens expire, and are nobody's business.
    """
    texts = []
    for file in files:
        there = _local(file)
        if there is None:
            texts.append(redacted(file))
        else:
            stat = there.stat()
            texts.append(f"{file.name} ({stat.st_size} bytes, {stat.st_mtime_ns})")
    return ", ".join(texts)


def is_local(path: Path) -> bool:
    """Say whether a file, or the archive that it is in, lies on this machine."""
    return _local(path) is not None


def _local(path: Path) -> Path | None:
    match = _ARCHIVE.fullmatch(str(path))
    try:
        if match is None:
            return path if path.exists() else None
        # `Path` makes one slash of the two in front of an absolute path: both readings are tried.
        insides = (Path("/", match[1]), Path(match[1]))
        return next((at for inside in insides for at in (inside, *inside.parents) if at.is_file()), None)
    except (OSError, ValueError):
        return None
