"""Read several rasters as one scene: a file for each polarisation, all on the same grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.addresses import redacted
from sar2optical.errors import BandNotFound, SceneUnreadable
from sar2optical.scene.band_names import POLARISATIONS, choose_bands, is_lone
from sar2optical.scene.bands import Georeference, SceneOptions
from sar2optical.scene.failures import readable_tags
from sar2optical.scene.raster import RasterBands, checked_bands, georeference_of, named_bands, opened_dataset
from sar2optical.scene.remote import is_remote
from sar2optical.scene.safe import is_product
from sar2optical.scene.sources import SceneFiles
from sar2optical.signature import Unit

__all__ = ["JoinedBands", "open_joined"]

_SAME_PLACE = 0.01
"""Largest distance of two affines at a scene's corners, in pixels: programs round them differently."""


@dataclass(frozen=True)
class _File:
    """One of the rasters, open."""

    path: str
    dataset: Any
    named: Mapping[int, str | None]
    """Polarisations of the bands that may be read, by index."""


class JoinedBands:
    """Bands of several rasters, with the interface of the bands of one; created by `open_joined`.

    Parameters
    ----------
    parts
        Bands of each raster.
    order
        For each band of the scene: number of the raster in `parts`, and of the band in it.
    also
        Files that are read, or refer to others, beside those of the parts.
    """

    stated: tuple[Unit, str] | None = None

    def __init__(
        self, parts: tuple[RasterBands, ...], order: tuple[tuple[int, int], ...], also: tuple[Path, ...] = ()
    ) -> None:
        self._parts, self._order = parts, order
        # Of this raster, the scene's first band is the first one, too.
        first = parts[order[0][0]]
        # By band, not by file: the same scene, whatever the order of its files.
        self.sources: tuple[str, ...] = tuple(dict.fromkeys(parts[part].path for part, _ in order))
        self.path = " + ".join(self.sources)
        self.files: tuple[Path, ...] = tuple(dict.fromkeys((*(file for part in parts for file in part.files), *also)))
        self.shape = first.shape
        self.polarisations = tuple(parts[part].polarisations[k] for part, k in order)
        self.georeference: Georeference = first.georeference
        self.block = first.block
        self.readers = min(part.readers for part in parts)
        self.row_of_blocks = sum(part.row_of_blocks for part in parts)
        self.hints = tuple(parts[part].hints[k] for part, k in order)
        self.suspects = tuple(parts[part].suspects[k] for part, k in order)
        self.dtype = np.dtype(np.uint16 if all(part.dtype == np.uint16 for part in parts) else np.float32)

    @property
    def sentinels_seen(self) -> bool:
        """Whether any raster has undeclared nodata; see `Bands.sentinels_seen`."""
        return any(part.sentinels_seen for part in self._parts)

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Return whether no file declares its nodata, as for one file with all bands; see `Bands.zero_is_nodata`."""
        return all(part.zero_is_nodata(unit) for part in self._parts)

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle; see `Bands.read`."""
        return self._joined([part.read(rows, cols) for part in self._parts])

    def read_plain(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a rectangle; see `Bands.read_plain`."""
        if self.dtype == np.float32:  # files may differ in type
            return self.read(rows, cols)
        return self._joined([part.read_plain(rows, cols) for part in self._parts])

    def _joined(self, found: list[tuple[NDArray[Any], NDArray[np.bool_]]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        values = np.stack([found[part][0][k] for part, k in self._order])
        valid = np.logical_and.reduce([usable for _, usable in found])
        if not valid.all():
            values *= valid  # a pixel counts only where every band has a value
        return values, valid


@contextmanager
def open_joined(
    files: SceneFiles, model_bands: tuple[str, ...], options: SceneOptions | None = None
) -> Iterator[JoinedBands]:
    """Open rasters for reading as one scene.

    Parameters
    ----------
    files
        Rasters, in any order where they name their polarisations.
    model_bands
        Polarisations that the model needs, in its order.
    options
        The user's bands, nodata and scale. Indices count the bands of all files, in the order of the files.

    Yields
    ------
    JoinedBands

    Raises
    ------
    SceneUnreadable
        If a file cannot be read, or the files differ in shape or georeference.
    BandNotFound
        If a file does not name its polarisation, or none or several hold one that the model needs.
    """
    options = options or SceneOptions()
    with ExitStack() as stack:
        _refuse_links(files)
        opened = [_opened(stack, files, k, options) for k in range(len(files.paths))]
        for other in opened[1:]:
            _refuse_other_grid(opened[0], other)
        chosen = _choose(opened, model_bands, options.bands)
        used = [opened[k] for k in dict.fromkeys(k for k, _ in chosen)]
        parts = []
        for file in used:
            indices = tuple(index for k, index in chosen if opened[k] is file)
            with readable_tags(file.path):
                part = checked_bands(file.dataset, file.named, indices, options)
            stack.callback(part.close)
            parts.append(part)
        seen = [0] * len(parts)
        order = []
        for k, _ in chosen:
            at = used.index(opened[k])
            order.append((at, seen[at]))
            seen[at] += 1
        yield JoinedBands(tuple(parts), tuple(order), (Path(files.item),) if files.item else ())


def _refuse_links(files: SceneFiles) -> None:
    """Refuse two paths of one file: a link is no other polarisation."""
    seen: dict[Path, str] = {}
    for path in files.paths:
        if not is_remote(path) and (first := seen.setdefault(Path(path).resolve(), path)) != path:
            raise SceneUnreadable(f"{first} and {path}: are one file: give one file for each polarisation")


def _opened(stack: ExitStack, files: SceneFiles, k: int, options: SceneOptions) -> _File:
    """Open the k-th file, and find its polarisations."""
    path = files.paths[k]
    if is_product(path):
        raise SceneUnreadable(f"{path}: is a Sentinel-1 product, which has all of its bands: give it without others")
    dataset = stack.enter_context(opened_dataset(path))
    with readable_tags(path):
        named = named_bands(dataset, options)
        if is_lone(dataset, named):
            index = next(iter(named))
            named = {index: named[index]}
            if known := files.polarisations[k] if files.polarisations else None:
                if named[index] not in (None, known):
                    raise BandNotFound(
                        f"{files.item}: its asset {known.lower()} is {path}, which is named {named[index]}: "
                        "correct the Item"
                    )
                named[index] = known
    return _File(path, dataset, named)


def _choose(files: list[_File], model_bands: tuple[str, ...], asked: tuple[str, ...]) -> list[tuple[int, int]]:
    """Choose the bands to read: for each, the number of its file, and its index there."""
    places = [(k, index) for k, file in enumerate(files) for index in file.named]
    name = " + ".join(redacted(file.path) for file in files)
    if not asked:
        for file in files:
            if not any(found in POLARISATIONS for found in file.named.values()):
                raise BandNotFound(
                    f"{name}: {Path(redacted(file.path)).name} does not name its polarisation: rename it "
                    f"(..._{model_bands[0].split('|')[0]}.tif), or give --band with its place among the bands of "
                    "all files (--band 1 for the first), once for each band of the model"
                )
    named = {number: files[k].named[index] for number, (k, index) in enumerate(places, 1)}
    return [places[number - 1] for number in choose_bands(name, named, model_bands, asked, lone=False)]


def _refuse_other_grid(one: _File, other: _File) -> None:
    """Check that two rasters have the same pixels.

    Raises
    ------
    SceneUnreadable
        The message names the first difference.
    """
    a, b = (file.dataset for file in (one, other))
    with readable_tags(one.path):
        at_a = georeference_of(a)
    with readable_tags(other.path):
        at_b = georeference_of(b)
    differing = [
        ("sizes", f"{a.width} x {a.height}", f"{b.width} x {b.height}", a.shape != b.shape),
        ("CRS", _named_crs(at_a), _named_crs(at_b), (at_a.crs, at_a.gcp_crs) != (at_b.crs, at_b.gcp_crs)),
        ("affines", _affine(at_a), _affine(at_b), not _in_same_place(at_a, at_b, a.shape)),
        ("GCPs", _gcps(at_a), _gcps(at_b), _points(at_a) != _points(at_b)),
    ]
    for what, had, has, differ in differing:
        if differ:
            raise SceneUnreadable(
                f"{one.path} and {other.path}: differ in their {what} ({had} and {has}): give files on one grid"
            )


def _named_crs(place: Georeference) -> str:
    crs = place.crs or place.gcp_crs
    return str(crs.to_string())[:60] if crs else "none"


def _affine(place: Georeference) -> str:
    return "none" if place.transform is None else str(tuple(place.transform)[:6])


def _in_same_place(one: Georeference, other: Georeference, shape: tuple[int, int]) -> bool:
    """Return whether two affines put the corners of a scene in the same place."""
    if one.transform is None or other.transform is None:
        return one.transform is other.transform
    to_pixels = ~one.transform @ other.transform
    corners = [(col, row) for row in (0, shape[0]) for col in (0, shape[1])]
    return all(
        abs(there - here) <= _SAME_PLACE
        for corner in corners
        for here, there in zip(corner, to_pixels @ corner, strict=True)
    )


def _points(place: Georeference) -> list[tuple[float, float, float, float]]:
    return [(gcp.row, gcp.col, gcp.x, gcp.y) for gcp in place.gcps]


def _gcps(place: Georeference) -> str:
    first = f", the first {_points(place)[0]}" if place.gcps else ""
    return f"{len(place.gcps)}{first}"
