"""Pairs of SAR and optical chips: partners found by name, read as arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from sar2optical.data.png import png_damage
from sar2optical.errors import DataError, OptionError, SceneError, UnitsMismatch
from sar2optical.radiometry import AS_IT_IS, Encoding, choose_stretch, convert, resolve
from sar2optical.scene import Scene, SceneOptions, open_scene
from sar2optical.signature import ModelSignature, Unit

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Of files that are chips; others in the folders are left alone."""

SarArray: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""(C, H, W): grey levels, or values encoded to [-1, 1]."""

_DEPTH = 3  # folders between the root and s1: a set, a class and one to spare
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True)
class Pair:
    """Two files of one place."""

    sar: Path
    optical: Path
    terrain: str = ""
    """Name of the folder that holds s1 and s2, where pairs lie in class folders; else empty."""


@dataclass(frozen=True)
class Chips:
    """A pair, read."""

    sar: SarArray
    """uint8 (1, H, W), grey levels stretched by their maker; or float32 (C, H, W) in [-1, 1], encoded as the
    signature says, 0 where there is no valid pixel."""
    optical: NDArray[np.uint8]
    """uint8 (3, H, W): red, green, blue."""


def encoded(sar: SarArray) -> NDArray[np.float32]:
    """Bring SAR as in `Chips` to float32 in [-1, 1]: bytes by x / 127.5 - 1, encoded values as they are."""
    return sar.astype(np.float32) / np.float32(127.5) - 1 if sar.dtype == np.uint8 else sar.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become chips."""

    signature: ModelSignature | None = None
    """What SAR is encoded to; None: only bytes are read, which need no encoding."""
    unit: Unit | None = None
    """Of the SAR files' values; None: told from each file, as scenes' are."""
    bands: tuple[str, ...] = ()
    """Bands of the SAR files, indices from 1 or polarisations; empty: by the signature's polarisations."""
    optical_max: float = 3000.0
    """The 16-bit optical value that becomes 255. Sentinel-2 L1C and L2A store reflectance x 10000, so 3000 is a
    reflectance of 0.3: brighter than most land, a common end of a true-colour stretch. Products since January 2022
    (baseline 04.00) carry an offset of 1000, to be taken off before."""
    min_side: int = 256
    """Least height and width of a chip in pixels: the window that is cut from it."""

    def __post_init__(self) -> None:
        if not 0 < self.optical_max < float("inf"):
            raise OptionError(f"optical maximum is {self.optical_max:g}: give a positive number, such as 3000")
        if self.min_side < 1:
            raise OptionError(f"least side is {self.min_side}: give 1 or more pixels")


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    pairs: tuple[Pair, ...]
    """Sorted by path of the SAR chip."""
    lonely: tuple[tuple[Path, Path], ...] = ()
    """Chips of either kind without a partner, and where that was looked for."""


def find_pairs(root: Path, *, incomplete: Literal["raise", "skip"] = "raise") -> list[Pair]:
    """Find every folder with an `s1` and an `s2` under `root`; partners have equal names up to the suffix.

    SEN1-2 names carry `_s1_` and `_s2_` in those places.

    Parameters
    ----------
    root
        Holds `s1/` and `s2/`, or folders that do (one per terrain class).
    incomplete
        What to do about a chip of either kind without a partner.

    Returns
    -------
    list of Pair
        Sorted by path.

    Raises
    ------
    DataError
        Where there is no pair, two chips of one name, or a chip has no partner.
    """
    found = look_for_pairs(root)
    if found.lonely and incomplete == "raise":
        chip, partner = found.lonely[0]
        more = f" ({len(found.lonely)} chips have none)" if len(found.lonely) > 1 else ""
        raise DataError(f"{chip}: its partner {partner} is missing{more}: add it, or remove the chip")
    if not found.pairs:
        raise DataError(f"{root}: no pairs: needs folders s1 and s2 with chips of equal names")
    return list(found.pairs)


def look_for_pairs(root: Path) -> Found:
    """Find pairs, and chips of either kind that have no partner.

    Parameters
    ----------
    root
        As for `find_pairs`.

    Raises
    ------
    DataError
        Where `root` is no folder, or holds two chips of one name.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: give the one that holds s1 and s2, or class folders with them")
    pairs: list[Pair] = []
    lonely: list[tuple[Path, Path]] = []
    for folder in _folders(root):
        sar, optical = _chips_in(folder / "s1"), _chips_in(folder / "s2")
        terrain = "" if folder == root else folder.name
        pairs += [Pair(sar[key], optical[key], terrain) for key in sar if key in optical]
        for half, other, swap in ((sar, optical, ("s1", "s2")), (optical, sar, ("s2", "s1"))):
            lonely += [(chip, _partner(chip, *swap)) for key, chip in half.items() if key not in other]
    return Found(tuple(pairs), tuple(lonely))


def _partner(chip: Path, own: str, other: str) -> Path:
    return chip.parent.with_name(other) / chip.name.replace(f"_{own}_", f"_{other}_")


def _folders(root: Path) -> list[Path]:
    """Give the folders that hold s1 or s2; links to class folders are followed, unlike by `rglob`."""
    halves = (half for depth in range(_DEPTH + 1) for half in root.glob("*/" * depth + "s[12]"))
    return sorted({half.parent for half in halves if half.is_dir()})


def _chips_in(folder: Path) -> dict[str, Path]:
    """Give the chips of a folder by what is common to partners' names, sorted."""
    chips: dict[str, Path] = {}
    if not folder.is_dir():
        return chips
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        key = path.stem.replace("_s1_", "_s2_")
        if key in chips:
            raise DataError(f"{path}: {chips[key].name} beside it has the same name: remove one of the two")
        chips[key] = path
    return chips


def read_pair(pair: Pair, reading: Reading | None = None) -> Chips:
    """Read both chips of a pair.

    Parameters
    ----------
    pair
        Two files.
    reading
        How; bytes of at least 256 x 256 where not given.

    Returns
    -------
    Chips
        Of equal height and width, at least `reading.min_side` each.

    Raises
    ------
    DataError
        Where a file is unreadable or damaged, its values are not what `reading` says, the sizes differ, or are less
        than `reading.min_side`.
    """
    reading = reading or Reading()
    sar, optical = read_sar(pair.sar, reading), read_optical(pair.optical, reading)
    if sar.shape[1:] != optical.shape[1:]:
        raise DataError(
            f"{pair.sar} is {_size(sar)}, {pair.optical} is {_size(optical)}: sizes must agree, cut both to one place"
        )
    if min(sar.shape[1:]) < reading.min_side:
        raise DataError(
            f"{pair.sar}: {_size(sar)} pixels, less than a window of {reading.min_side}: "
            "remove the pair, or give a smaller window"
        )
    return Chips(sar, optical)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def read_sar(path: Path, reading: Reading) -> SarArray:
    """Read a SAR chip, as in `Chips`.

    Raises
    ------
    DataError
        Where it is unreadable, damaged, or its values are not what `reading` says.
    """
    _refuse_damaged(path)
    signature = reading.signature
    if signature is None and not reading.bands:
        return _read_grey(path)
    options = SceneOptions(bands=reading.bands, unit=reading.unit)
    _expect_no_place()
    try:
        with open_scene(path, signature.bands if signature else reading.bands, options) as scene:
            return _encoded(scene, signature)
    except SceneError as error:
        raise DataError(str(error)) from error


def _encoded(scene: Scene, signature: ModelSignature | None) -> SarArray:
    """Read the whole scene; bytes as they are, other values as the model wants them."""
    values, valid = scene.read_rows(0, scene.shape[0])
    # Without a valid pixel no unit is told; such a chip of bytes is still one of bytes.
    if scene.unit == "byte" or (scene.unit is None and _is_of_bytes(Path(scene.path))):
        return values.astype(np.uint8)
    if signature is None:
        raise DataError(f"{scene.path}: its values are no bytes: a model's signature says what they become")
    try:
        encodings = _encodings(scene, signature)
    except UnitsMismatch as error:
        raise DataError(f"{scene.path}: {error}") from error
    return np.stack([encoding.encode(band, valid) for encoding, band in zip(encodings, values, strict=True)])


def _encodings(scene: Scene, signature: ModelSignature) -> list[Encoding]:
    if scene.unit is None or not scene.samples[0].size:
        return [AS_IT_IS] * len(signature.bands)  # no valid pixel will be encoded
    unit, stretches = choose_stretch(scene.unit, signature, None)
    return [
        Encoding(scene.unit, unit, *resolve(stretch, convert(sample, scene.unit, unit)))
        for stretch, sample in zip(stretches, scene.samples, strict=True)
    ]


def _is_of_bytes(path: Path) -> bool:
    with _opened(path) as chip:
        return bool(chip.dtypes[0] == "uint8")


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """Read grey levels, saved as grey or as colour."""
    with _opened(path) as chip:
        if chip.dtypes[0] != "uint8":
            raise DataError(
                f"{path}: {chip.dtypes[0]}, not 8 bit: name its bands (--band VV), so that it can be encoded"
            )
        if chip.colorinterp[0] == ColorInterp.palette:
            raise DataError(f"{path}: has a colour palette, so its values are no grey levels: convert it to grey")
        if chip.colorinterp[:3] != _RGB:
            return np.asarray(chip.read([1]))
        colours = np.asarray(chip.read([1, 2, 3]))
    if (colours != colours[:1]).any():
        raise DataError(f"{path}: a colour picture, not SAR: are s1 and s2 the wrong way round?")
    return colours[:1]


def read_optical(path: Path, reading: Reading) -> NDArray[np.uint8]:
    """Read red, green and blue of an optical chip, as in `Chips`: the bands called so, or the first three.

    Raises
    ------
    DataError
        Where it is unreadable, damaged, or of another type than 8 or 16 bit integers.
    """
    _refuse_damaged(path)
    with _opened(path) as chip:
        if chip.count < 3:
            raise DataError(f"{path}: {chip.count} bands: an optical chip has red, green and blue")
        kinds = list(chip.colorinterp)
        named = all(kinds.count(kind) == 1 for kind in _RGB)
        indices = [kinds.index(kind) + 1 for kind in _RGB] if named else [1, 2, 3]
        stored = np.asarray(chip.read(indices))
    if stored.dtype == np.uint8:
        return stored
    if stored.dtype not in (np.uint16, np.int16):
        raise DataError(f"{path}: {stored.dtype}: an optical chip is 8 bit, or 16 bit reflectance x 10000")
    # Half a level for rounding, as model output is brought to bytes.
    levels = np.clip(stored * np.float32(255 / reading.optical_max) + np.float32(0.5), 0, 255)
    return np.asarray(levels, np.uint8)


def _refuse_damaged(path: Path) -> None:
    try:
        damage = png_damage(path)
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror or error}): check the file") from error
    if damage:
        raise DataError(f"{path}: not readable ({damage}): fetch it again")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open with GDAL; its refusals, of reading too, as our error."""
    _expect_no_place()
    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: not readable ({cause}): fetch it again") from error


def _expect_no_place() -> None:
    """Let rasterio stay quiet about chips without a place on Earth, from now on.

    For good, because `warnings.catch_warnings` changes the filters of all threads, and chips are read in several.
    """
    if not any(kept[0] == "ignore" and kept[2] is NotGeoreferencedWarning for kept in warnings.filters):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
