"""Files of a Sentinel-1 product, in a `.SAFE` folder or a zip file."""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from sar2optical._utils.files import cause
from sar2optical.errors import SceneUnreadable

__all__ = ["ProductFiles", "damaged", "is_product", "list_files", "unnested"]

_XML_LIMIT = 64_000_000
"""Largest annotation in bytes: real ones have 2 MB; a larger file is damaged or malicious."""


# zipfile's exceptions on damaged bytes: in compressed data, headers, lengths, encryption and methods.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, LookupError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


def is_product(path: str | Path) -> bool:
    """Return whether a path is a Sentinel product in ESA's packaging, to be opened with `open_product`.

    Parameters
    ----------
    path
        True for a `.SAFE` folder, its `manifest.safe`, and a zip file that contains one, even truncated. False for
        anything else, including addresses and GDAL's virtual paths.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return path.suffix.upper() == ".SAFE" or (path / "manifest.safe").is_file()
        if not path.is_file():
            return False
        return path.name == "manifest.safe" or _is_zipped_product(path)
    except (OSError, ValueError):
        return False


def _is_zipped_product(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(400)
        if head[:4] != b"PK\x03\x04":
            return False
        if b".SAFE/" in head:  # name of the first member; a truncated zip has no list of names
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.search(r"\.SAFE/manifest\.safe$", name) for name in archive.namelist())
    except _ZIP_ERRORS:
        return False


@dataclass(frozen=True)
class ProductFiles:
    """Files of a product, by their names within it."""

    path: Path
    """Path of the `.SAFE` folder or of the zip file."""
    root: str
    """Path of the product within the zip file, ending in a slash; empty for a folder."""
    names: tuple[str, ...]
    """Names of all files, sorted."""
    zipped: bool

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises
        ------
        SceneUnreadable
            If it cannot be read, or has more than 64 MB.
        """
        try:
            if self.zipped:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.root + name) as file:
                    data = file.read(_XML_LIMIT + 1)
            else:
                with (self.path / name).open("rb") as file:
                    data = file.read(_XML_LIMIT + 1)
        except _ZIP_ERRORS as error:
            raise damaged(self.path, f"{name} cannot be read ({cause(error)})") from error
        if len(data) > _XML_LIMIT:
            raise damaged(self.path, f"{name} has more than {_XML_LIMIT} bytes")
        return data

    def xml(self, name: str) -> ElementTree.Element:
        """Read and parse an XML file.

        Raises
        ------
        SceneUnreadable
            If it is missing, cannot be read or is not XML.
        """
        if name not in self.names:
            raise damaged(self.path, f"{name} is missing")
        try:
            return ElementTree.fromstring(self.read(name))
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise damaged(self.path, f"{name} is not XML ({cause(error)})") from error

    def gdal(self, name: str) -> str:
        """Return the path by which GDAL reads a file."""
        # Braces: or GDAL accepts only names that end in .zip.
        return f"/vsizip/{{{self.path.absolute()}}}/{self.root}{name}" if self.zipped else str(self.path / name)


def list_files(path: Path) -> ProductFiles:
    """List the files of a product.

    Parameters
    ----------
    path
        A `.SAFE` folder, its `manifest.safe`, or a zip file that contains one.

    Raises
    ------
    SceneUnreadable
        If it is missing, damaged, or contains no product or several.
    """
    if path.name == "manifest.safe":
        path = path.absolute().parent
    if path.is_dir():
        path = unnested(path)
        try:
            names = tuple(sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()))
        except OSError as error:
            raise damaged(path, f"its files cannot be listed ({cause(error)})") from error
        return ProductFiles(path, "", names, zipped=False)
    if not path.is_file():
        raise SceneUnreadable(f"{path}: no such file: check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            everything = archive.namelist()
    except _ZIP_ERRORS as error:
        raise damaged(path, f"its list of files cannot be read ({cause(error)})") from error
    manifests = [name for name in everything if PurePosixPath(name).name == "manifest.safe"]
    if not manifests:
        raise damaged(path, "it has no manifest.safe")
    if len(manifests) > 1:
        raise SceneUnreadable(f"{path}: contains {len(manifests)} products (manifest.safe): give a zip file with one")
    root = manifests[0].removesuffix("manifest.safe")
    names = tuple(sorted(name.removeprefix(root) for name in everything if name.startswith(root)))
    return ProductFiles(path, root, names, zipped=True)


def unnested(path: Path) -> Path:
    """Return the inner product folder where an unpacking tool created X.SAFE/X.SAFE; else the path itself."""
    if (path / "manifest.safe").is_file():
        return path
    inside = [folder for folder in path.glob("*.SAFE") if (folder / "manifest.safe").is_file()]
    return inside[0] if len(inside) == 1 else path


def damaged(path: Path, what: str) -> SceneUnreadable:
    """Create the error for a product that is incomplete or damaged."""
    return SceneUnreadable(f"{path}: {what}, so the product is incomplete or damaged: fetch the product again")
