"""Pairs of SAR and optical chips: find partners by name, and read them as arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from sar2optical.data.aligned import Side, pictures, read_aligned, sar_side
from sar2optical.data.chipfile import RGB, SUFFIXES, opened, refuse_damaged, silence_georeference_warnings
from sar2optical.data.optical import Indices, read_stored, to_bytes
from sar2optical.data.sar_bands import parse_band, refuse_other_names, without_names
from sar2optical.errors import BandNotFound, DataError, OptionError, SceneError, UnitsMismatch
from sar2optical.scene import Scene, SceneOptions, open_scene
from sar2optical.scene.encoder import encode_bands, encodings_for
from sar2optical.signature import ModelSignature, Unit

__all__ = [
    "Chips", "Found", "Pair", "Reading", "SarArray", "encoded", "find_pairs", "is_sar_folder", "look_for_pairs",
    "nothing_found", "read_halves", "read_optical", "read_pair", "read_sar",
]  # fmt: skip

SarArray: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""SAR chip (C, H, W): grey levels, or values encoded to [-1, 1]."""

_DEPTH = 3  # folders between the root and s1: a data set, a class and one more
_HALF = re.compile(r"s([12])(_\d+)?")  # s1, or s1_12 in SEN1-2 and SEN12MS as published
_OF_HALF = re.compile(r"_s([12])$")  # parent folder: ROIs1158_spring_s1/s1_12 in SEN12MS-CR
_NO_PAIRS = "no pairs: give a folder that holds folders s1 and s2 with chips of equal names, or --aligned images"
_MULTIPLE, _LARGE = 64, 256  # the windows of "detail" and "pix2pix" generators are multiples of these


@dataclass(frozen=True)
class Pair:
    """Files of a SAR chip and an optical chip of the same area."""

    sar: Path
    """Path of the SAR chip."""
    optical: Path
    """Path of the optical chip."""
    terrain: str = ""
    """Terrain class: name of the folder that holds s1 and s2, if there are class folders; else empty."""
    sar_side: Side | None = None
    """Half that is SAR, if both paths are one image with the halves side by side; else None."""


@dataclass(frozen=True)
class Chips:
    """Arrays of a pair."""

    sar: SarArray
    """uint8 (1, H, W), grey levels as stored; or float32 (C, H, W), encoded to [-1, 1], 0 for invalid pixels."""
    optical: NDArray[np.uint8]
    """Optical chip, uint8 (3, H, W): red, green, blue."""


def encoded(sar: SarArray) -> NDArray[np.float32]:
    """Convert SAR as in `Chips` to float32 in [-1, 1]: bytes by x / 127.5 - 1, encoded values unchanged."""
    return sar.astype(np.float32) / np.float32(127.5) - 1 if sar.dtype == np.uint8 else sar.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings for reading chips."""

    signature: ModelSignature | None = None
    """Signature to encode SAR for; None reads only bytes, which need no encoding."""
    unit: Unit | None = None
    """Unit of the SAR files' values; None detects it per file, as for scenes."""
    bands: tuple[str, ...] = ()
    """Bands of the SAR files: indices from 1, polarisations, or both ("2=VH": band 2, refused if a file names it
    otherwise). Empty uses the signature's polarisations."""
    rgb: Indices | None = None
    """Bands of red, green and blue in the optical files, from 1; None finds them per file, see
    `sar2optical.data.optical`."""
    optical_max: float = 3000.0
    """16-bit optical value that becomes 255. Sentinel-2 L1C and L2A store reflectance x 10000, so 3000 is 0.3:
    brighter than most land, a common end of a true-colour stretch. Products since January 2022 (baseline 04.00) have
    an offset of 1000, which must be subtracted before."""
    min_side: int = 256
    """Smallest height and width of a chip in pixels: the side of the window to cut from it."""

    def __post_init__(self) -> None:
        if not 0 < self.optical_max < float("inf"):
            raise OptionError(f"optical maximum is {self.optical_max:g}: give a positive number, such as 3000")
        if self.min_side < 1:
            raise OptionError(f"min_side (--window) is {self.min_side}: give 1 or more pixels")
        if self.rgb is not None and (min(self.rgb) < 1 or len(set(self.rgb)) < len(self.rgb)):
            raise OptionError(f"--rgb is {self.rgb}: give three different band numbers, 1 or higher")
        for band in self.bands:
            parse_band(band)


@dataclass(frozen=True)
class Found:
    """Pairs and lonely chips of a folder."""

    pairs: tuple[Pair, ...]
    """Pairs, sorted by the path of the SAR chip."""
    lonely: tuple[tuple[Path, Path], ...] = ()
    """Chips without a partner, each with the path where the partner was expected."""


def find_pairs(root: Path, *, aligned: bool = False, incomplete: Literal["raise", "skip"] = "raise") -> list[Pair]:
    """Find the pairs under a folder.

    Chips are in sibling folders `s1` and `s2`. Partners have equal names, except for the suffix and for `_s1_` and
    `_s2_` in them. The layouts of SEN1-2 and SEN12MS as published (`ROIs1158_spring/s1_12`) and of SEN12MS-CR
    (`ROIs1158_spring_s1/s1_12` and `ROIs1158_spring_s2/s2_12`) are supported too.

    Parameters
    ----------
    root
        Folder that holds `s1/` and `s2/`, or folders with both (one per terrain class).
    aligned
        Whether `root`, or folders in it, hold images with both halves of a pair side by side, as in pix2pix's data
        sets. The grey half is SAR.
    incomplete
        Whether to raise an error for a chip without a partner, or to skip it.

    Returns
    -------
    list of Pair
        Sorted by path.

    Raises
    ------
    DataError
        If there is no pair, two chips have one name, a chip has no partner, or the SAR half of images is unknown.
    """
    found = look_for_pairs(root, aligned=aligned)
    if found.lonely and incomplete == "raise":
        chip, partner = found.lonely[0]
        more = f" ({len(found.lonely)} chips have no partner)" if len(found.lonely) > 1 else ""
        raise DataError(f"{chip}: its partner {partner} is missing{more}: add the partner, or remove the chip")
    if not found.pairs:
        raise nothing_found(root)
    return list(found.pairs)


def look_for_pairs(root: Path, *, aligned: bool = False) -> Found:
    """Find pairs, and chips without a partner.

    Parameters
    ----------
    root, aligned
        See `find_pairs`.

    Raises
    ------
    DataError
        If `root` is not a folder, two chips have one name, or the SAR half of images is unknown.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: give a folder that holds s1 and s2, or class folders with both")
    if aligned:
        return Found(tuple(_aligned_pairs(root)))
    pairs: list[Pair] = []
    lonely: list[tuple[Path, Path]] = []
    for folder, halves in sorted(_half_folders(root).items()):
        sar, optical = (_chips_in(halves[number]) if number in halves else {} for number in "12")
        terrain = "" if folder[0] == root else folder[0].name
        pairs += [Pair(sar[key], optical[key], terrain) for key in sar if key in optical]
        for half, other, swap in ((sar, optical, ("1", "2")), (optical, sar, ("2", "1"))):
            lonely += [(chip, _partner(chip, *swap, halves)) for key, chip in half.items() if key not in other]
    return Found(tuple(pairs), tuple(lonely))


def is_sar_folder(name: str) -> bool:
    """Whether a folder of this name holds SAR chips: s1, or s1_12 in SEN1-2 as published."""
    match = _HALF.fullmatch(name)
    return match is not None and match[1] == "1"


def nothing_found(root: Path) -> DataError:
    """Make the error for a folder without chips."""
    return DataError(f"{root}: {_NO_PAIRS}")


def _aligned_pairs(root: Path) -> list[Pair]:
    found = pictures(root, _DEPTH)
    if not found:
        return []
    side = sar_side(found)
    return [Pair(path, path, "" if path.parent == root else path.parent.name, side) for path in found]


def _partner(chip: Path, own: str, other: str, halves: dict[str, Path]) -> Path:
    """Path where a chip's partner is expected."""
    folder = halves.get(other)
    if folder is None:
        above = chip.parent.parent
        above = above.with_name(_OF_HALF.sub(f"_s{other}", above.name)) if _OF_HALF.search(above.name) else above
        folder = above / f"s{other}{chip.parent.name[2:]}"
    return folder / chip.name.replace(f"_s{own}_", f"_s{other}_")


def _half_folders(root: Path) -> dict[tuple[Path, str], dict[str, Path]]:
    """Find the folders of SAR ("1") and optical ("2") chips, by their parent folder and the scene's suffix.

    Follows links to class folders, which `rglob` does not.
    """
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for half in (half for depth in range(_DEPTH + 1) for half in sorted(root.glob("*/" * depth + "s[12]*"))):
        match = _HALF.fullmatch(half.name)
        if match is None or not half.is_dir():
            continue
        above = half.parent
        if above != root:
            above = above.with_name(_OF_HALF.sub("", above.name))
        other = found.setdefault((above, match[2] or ""), {}).setdefault(match[1], half)
        if other != half:
            raise DataError(
                f"{half}: holds the same half (s1 or s2) of the same scene as {other}: keep one of the two folders"
            )
    return found


def _chips_in(folder: Path) -> dict[str, Path]:
    """List the chips of a folder, sorted, by the name that they share with their partners."""
    chips: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        key = path.stem.replace("_s1_", "_s2_")
        if key in chips:
            raise DataError(
                f"{path}: {chips[key].name} in the same folder names the same chip: remove one of the two"
            )
        chips[key] = path
    return chips


def read_pair(pair: Pair, reading: Reading | None = None) -> Chips:
    """Read both chips of a pair.

    Parameters
    ----------
    pair
        Pair to read.
    reading
        How to read it; None reads bytes of at least 256 x 256.

    Returns
    -------
    Chips
        Chips of equal height and width, at least `reading.min_side` each.

    Raises
    ------
    DataError
        If a file is unreadable or damaged, its values do not match `reading`, or the sizes differ or are under
        `reading.min_side`.
    """
    reading = reading or Reading()
    sar, optical = read_halves(pair, reading)
    if sar.shape[1:] != optical.shape[1:]:
        raise DataError(
            f"{pair.sar} is {_size(sar)}, {pair.optical} is {_size(optical)}: crop the larger one to the other's size"
        )
    if min(sar.shape[1:]) < reading.min_side:
        raise DataError(
            f"{pair.sar}: {_size(sar)} pixels, smaller than the window of {reading.min_side}: remove the pair"
            f"{_smaller(min(sar.shape[1:]))}"
        )
    return Chips(sar, optical)


def _smaller(side: int) -> str:
    """Suggest the window for chips of this side; empty if no generator takes one."""
    window = side - side % _MULTIPLE
    if not window:
        return ""
    return f", or give --window {window}" + (" (to train: with --architecture detail)" if window % _LARGE else "")


def read_halves(pair: Pair, reading: Reading) -> tuple[SarArray, NDArray[np.uint8]]:
    """Read both chips of a pair, without checking their sizes.

    Raises
    ------
    DataError
        See `read_sar`, `read_optical` and `sar2optical.data.aligned.read_aligned`.
    """
    if pair.sar_side:
        grey, optical = read_aligned(pair.sar, pair.sar_side)
        return _stretched_before(pair.sar, grey, reading), optical
    return read_sar(pair.sar, reading), read_optical(pair.optical, reading)


def _stretched_before(path: Path, grey: NDArray[np.uint8], reading: Reading) -> SarArray:
    """Encode grey levels, as `read_sar` does, if the unit that they were stretched from is given."""
    if reading.signature is None or reading.unit in (None, "byte"):
        return grey
    valid = (grey != 0).all(axis=0) if reading.unit != "db" else np.ones(grey.shape[1:], np.bool_)
    values = grey.astype(np.float32)
    return _encode(path, values, valid, reading.unit, [values[0][valid]], reading.signature)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def read_sar(path: Path, reading: Reading) -> SarArray:
    """Read a SAR chip, as in `Chips`.

    Raises
    ------
    DataError
        If the file is unreadable or damaged, or its values do not match `reading`.
    """
    refuse_damaged(path)
    signature = reading.signature
    if signature is None and not reading.bands:
        return _read_grey(path)
    asked = tuple(parse_band(band)[0] for band in reading.bands)
    options = SceneOptions(bands=asked, unit=reading.unit)
    silence_georeference_warnings()
    try:
        with open_scene(path, signature.bands if signature else asked, options) as scene:
            refuse_other_names(path, reading.bands, scene.polarisations)
            return _encoded(scene, signature)
    except BandNotFound as error:
        wanted = signature.bands if signature and not asked else ()
        raise DataError(without_names(path, wanted) or str(error)) from error
    except SceneError as error:
        raise DataError(str(error)) from error


def _encoded(scene: Scene, signature: ModelSignature | None) -> SarArray:
    """Read the whole chip: bytes unchanged, other values encoded for the signature."""
    values, valid = scene.read_rows(0, scene.shape[0])
    # Without a valid pixel the unit is unknown, so the dtype decides.
    if scene.unit == "byte" or (scene.unit is None and _is_of_bytes(Path(scene.path))):
        return values.astype(np.uint8)
    if signature is None:
        raise DataError(
            f"{scene.path}: values are not 8-bit: give the signature of a model, which defines their encoding"
        )
    return _encode(scene.path, values, valid, scene.unit, scene.read_samples(), signature)


def _encode(
    path: str | Path,
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    unit: Unit | None,
    samples: Sequence[NDArray[np.float32]],
    signature: ModelSignature,
) -> NDArray[np.float32]:
    """Encode (C, H, W) in a unit, with percentiles from the samples, to [-1, 1]."""
    try:
        encodings = encodings_for(unit, samples, signature)
    except UnitsMismatch as error:
        raise DataError(f"{path}: {error}") from error
    return encode_bands(encodings, values, valid)


def _is_of_bytes(path: Path) -> bool:
    with opened(path) as chip:
        return bool(chip.dtypes[0] == "uint8")


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """Read grey levels, stored as grey or as RGB."""
    with opened(path) as chip:
        if chip.dtypes[0] != "uint8":
            raise DataError(
                f"{path}: {chip.dtypes[0]}, not 8 bit: give the bands to encode with --band, such as --band VV"
            )
        if chip.colorinterp[0] == ColorInterp.palette:
            raise DataError(f"{path}: has a colour palette instead of grey levels: convert it to grey")
        if chip.colorinterp[:3] != RGB:
            return np.asarray(chip.read([1]))
        colours = np.asarray(chip.read([1, 2, 3]))
    if (colours != colours[:1]).any():
        raise DataError(f"{path}: a colour image, not SAR: check that s1 and s2 are not swapped")
    return colours[:1]


def read_optical(path: Path, reading: Reading) -> NDArray[np.uint8]:
    """Read red, green and blue of an optical chip, as in `Chips`.

    Raises
    ------
    DataError
        See `sar2optical.data.optical.read_stored`.
    """
    return to_bytes(read_stored(path, reading.rgb), reading.optical_max)
