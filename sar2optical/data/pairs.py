"""Pairs of SAR and optical chips: partners found by name, read as arrays."""

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
from sar2optical.data.chipfile import RGB, SUFFIXES, expect_no_place, opened, refuse_damaged
from sar2optical.data.optical import Indices, read_stored, to_bytes
from sar2optical.data.sar_bands import parse_band, refuse_other_names, without_names
from sar2optical.errors import BandNotFound, DataError, OptionError, SceneError, UnitsMismatch
from sar2optical.scene import Scene, SceneOptions, open_scene
from sar2optical.scene.encoder import encode_bands, encodings_for
from sar2optical.signature import ModelSignature, Unit

SarArray: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""(C, H, W): grey levels, or values encoded to [-1, 1]."""

_DEPTH = 3  # folders between the root and s1: a set, a class and one to spare
_HALF = re.compile(r"s([12])(_\d+)?")  # s1, or s1_12 in SEN1-2 and SEN12MS as they are published
_OF_HALF = re.compile(r"_s([12])$")  # of a folder above: ROIs1158_spring_s1/s1_12 in SEN12MS-CR
_NO_PAIRS = (
    "no pairs: needs folders s1 and s2 with chips of equal names, or --aligned and pictures with both halves side by "
    "side"
)
_MULTIPLE, _LARGE = 64, 256  # what windows of the generators "detail" and "pix2pix" are multiples of


@dataclass(frozen=True)
class Pair:
    """Two files of one place."""

    sar: Path
    optical: Path
    terrain: str = ""
    """Name of the folder that holds s1 and s2, where pairs lie in class folders; else empty."""
    sar_side: Side | None = None
    """Half that is SAR, where both paths are one picture with the halves side by side."""


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
    """Bands of the SAR files: indices from 1, polarisations, or both ("2=VH": band 2, which no file may call
    otherwise). Empty: by the signature's polarisations."""
    rgb: Indices | None = None
    """Bands of the optical files that are red, green and blue, from 1; None: as each file tells, see
    `sar2optical.data.optical`."""
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
        if self.rgb is not None and (min(self.rgb) < 1 or len(set(self.rgb)) < len(self.rgb)):
            raise OptionError(f"rgb is {self.rgb}: give three different bands, from 1")
        for band in self.bands:
            parse_band(band)


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    pairs: tuple[Pair, ...]
    """Sorted by path of the SAR chip."""
    lonely: tuple[tuple[Path, Path], ...] = ()
    """Chips of either kind without a partner, and where that was looked for."""


def find_pairs(root: Path, *, aligned: bool = False, incomplete: Literal["raise", "skip"] = "raise") -> list[Pair]:
    """Find the pairs under a folder.

    Chips lie in folders `s1` and `s2` side by side; partners have equal names up to the suffix, but for `_s1_` and
    `_s2_` in them. SEN1-2 and SEN12MS as they are published (`ROIs1158_spring/s1_12`), and SEN12MS-CR
    (`ROIs1158_spring_s1/s1_12` and `ROIs1158_spring_s2/s2_12`), are found likewise.

    Parameters
    ----------
    root
        Holds `s1/` and `s2/`, or folders that do (one per terrain class).
    aligned
        `root`, or folders in it, hold pictures with both halves of a pair side by side, as pix2pix's data sets do.
        The grey half is SAR.
    incomplete
        What to do about a chip of either kind without a partner.

    Returns
    -------
    list of Pair
        Sorted by path.

    Raises
    ------
    DataError
        Where there is no pair, two chips of one name, or a chip has no partner; or no picture tells which half is
        SAR.
    """
    found = look_for_pairs(root, aligned=aligned)
    if found.lonely and incomplete == "raise":
        chip, partner = found.lonely[0]
        more = f" ({len(found.lonely)} chips have none)" if len(found.lonely) > 1 else ""
        raise DataError(f"{chip}: its partner {partner} is missing{more}: add it, or remove the chip")
    if not found.pairs:
        raise nothing_found(root)
    return list(found.pairs)


def look_for_pairs(root: Path, *, aligned: bool = False) -> Found:
    """Find pairs, and chips of either kind that have no partner.

    Parameters
    ----------
    root, aligned
        As for `find_pairs`.

    Raises
    ------
    DataError
        Where `root` is no folder, holds two chips of one name, or no picture tells which half is SAR.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: give the one that holds s1 and s2, or class folders with them")
    if aligned:
        return Found(tuple(_aligned_pairs(root)))
    pairs: list[Pair] = []
    lonely: list[tuple[Path, Path]] = []
    for place, halves in sorted(_places(root).items()):
        sar, optical = (_chips_in(halves[number]) if number in halves else {} for number in "12")
        terrain = "" if place[0] == root else place[0].name
        pairs += [Pair(sar[key], optical[key], terrain) for key in sar if key in optical]
        for half, other, swap in ((sar, optical, ("1", "2")), (optical, sar, ("2", "1"))):
            lonely += [(chip, _partner(chip, *swap, halves)) for key, chip in half.items() if key not in other]
    return Found(tuple(pairs), tuple(lonely))


def is_sar_folder(name: str) -> bool:
    """Say whether a folder of that name holds SAR chips: s1, or s1_12 in SEN1-2 as it is published."""
    match = _HALF.fullmatch(name)
    return match is not None and match[1] == "1"


def nothing_found(root: Path) -> DataError:
    """Give the error of a folder without any chip."""
    return DataError(f"{root}: {_NO_PAIRS}")


def _aligned_pairs(root: Path) -> list[Pair]:
    found = pictures(root, _DEPTH)
    if not found:
        return []
    side = sar_side(found)
    return [Pair(path, path, "" if path.parent == root else path.parent.name, side) for path in found]


def _partner(chip: Path, own: str, other: str, halves: dict[str, Path]) -> Path:
    """Give the path at which a partner was looked for."""
    folder = halves.get(other)
    if folder is None:
        above = chip.parent.parent
        above = above.with_name(_OF_HALF.sub(f"_s{other}", above.name)) if _OF_HALF.search(above.name) else above
        folder = above / f"s{other}{chip.parent.name[2:]}"
    return folder / chip.name.replace(f"_s{own}_", f"_s{other}_")


def _places(root: Path) -> dict[tuple[Path, str], dict[str, Path]]:
    """Give the folders of SAR ("1") and optical ("2") chips, by the folder that holds both and the scene's suffix.

    Links to class folders are followed, unlike by `rglob`.
    """
    places: dict[tuple[Path, str], dict[str, Path]] = {}
    for half in (half for depth in range(_DEPTH + 1) for half in sorted(root.glob("*/" * depth + "s[12]*"))):
        match = _HALF.fullmatch(half.name)
        if match is None or not half.is_dir():
            continue
        above = half.parent
        if above != root:
            above = above.with_name(_OF_HALF.sub("", above.name))
        other = places.setdefault((above, match[2] or ""), {}).setdefault(match[1], half)
        if other != half:
            raise DataError(f"{half}: chips of the same half and scene as {other}: keep one of the two folders")
    return places


def _chips_in(folder: Path) -> dict[str, Path]:
    """Give the chips of a folder by what is common to partners' names, sorted."""
    chips: dict[str, Path] = {}
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
    sar, optical = read_halves(pair, reading)
    if sar.shape[1:] != optical.shape[1:]:
        raise DataError(
            f"{pair.sar} is {_size(sar)}, {pair.optical} is {_size(optical)}: sizes must agree, cut both to one place"
        )
    if min(sar.shape[1:]) < reading.min_side:
        raise DataError(
            f"{pair.sar}: {_size(sar)} pixels, less than a window of {reading.min_side}: remove the pair"
            f"{_smaller(min(sar.shape[1:]))}"
        )
    return Chips(sar, optical)


def _smaller(side: int) -> str:
    """Name the window that chips of this side allow; empty where no generator takes one so small."""
    window = side - side % _MULTIPLE
    if not window:
        return ""
    return f", or give --window {window}" + (" (to train: with --architecture detail)" if window % _LARGE else "")


def read_halves(pair: Pair, reading: Reading) -> tuple[SarArray, NDArray[np.uint8]]:
    """Read both chips of a pair, whatever their sizes.

    Raises
    ------
    DataError
        As `read_sar`, `read_optical` and `sar2optical.data.aligned.read_aligned` do.
    """
    if pair.sar_side:
        grey, optical = read_aligned(pair.sar, pair.sar_side)
        return _stretched_before(pair.sar, grey, reading), optical
    return read_sar(pair.sar, reading), read_optical(pair.optical, reading)


def _stretched_before(path: Path, grey: NDArray[np.uint8], reading: Reading) -> SarArray:
    """Encode grey levels where a unit is given that they were stretched from, as `read_sar` does."""
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
        Where it is unreadable, damaged, or its values are not what `reading` says.
    """
    refuse_damaged(path)
    signature = reading.signature
    if signature is None and not reading.bands:
        return _read_grey(path)
    asked = tuple(parse_band(band)[0] for band in reading.bands)
    options = SceneOptions(bands=asked, unit=reading.unit)
    expect_no_place()
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
    """Read the whole scene; bytes as they are, other values as the model wants them."""
    values, valid = scene.read_rows(0, scene.shape[0])
    # Without a valid pixel no unit is told; such a chip of bytes is still one of bytes.
    if scene.unit == "byte" or (scene.unit is None and _is_of_bytes(Path(scene.path))):
        return values.astype(np.uint8)
    if signature is None:
        raise DataError(f"{scene.path}: its values are no bytes: a model's signature says what they become")
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
    """Read grey levels, saved as grey or as colour."""
    with opened(path) as chip:
        if chip.dtypes[0] != "uint8":
            raise DataError(
                f"{path}: {chip.dtypes[0]}, not 8 bit: name its bands (--band VV), so that it can be encoded"
            )
        if chip.colorinterp[0] == ColorInterp.palette:
            raise DataError(f"{path}: has a colour palette, so its values are no grey levels: convert it to grey")
        if chip.colorinterp[:3] != RGB:
            return np.asarray(chip.read([1]))
        colours = np.asarray(chip.read([1, 2, 3]))
    if (colours != colours[:1]).any():
        raise DataError(f"{path}: a colour picture, not SAR: are s1 and s2 the wrong way round?")
    return colours[:1]


def read_optical(path: Path, reading: Reading) -> NDArray[np.uint8]:
    """Read red, green and blue of an optical chip, as in `Chips`.

    Raises
    ------
    DataError
        As `sar2optical.data.optical.read_stored` does.
    """
    return to_bytes(read_stored(path, reading.rgb), reading.optical_max)
