"""Scenes among the arguments of `sar2opt-batch`: files, joined files, folders, lists of them, and STAC Items."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sar2optical._utils.addresses import is_web_address, redacted
from sar2optical.errors import OptionError

if TYPE_CHECKING:
    from sar2optical.scene.sources import Source

__all__ = ["ListedScene", "listed_scenes", "shown_name"]

_JOIN = " + "
"""Between the files of one scene."""

_RASTERS = (".tif", ".tiff", ".vrt", ".zip")
"""Suffixes of the scenes in a folder."""

_POLARISATION = re.compile(r"[-_. ]*(?<![A-Za-z])(VV|VH|HH|HV)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class ListedScene:
    """A scene that the arguments contain."""

    source: Source
    """Path or address, or those of its files."""
    name: str
    """File name without suffix, or the id of its Item."""
    when: datetime | None = None
    """Time of acquisition, if known."""
    item: str = ""
    """Path of the file that contains its STAC Item, if it has one."""
    error: str = ""
    """Why it cannot be translated: an Item without a scene, a list that cannot be read."""


def listed_scenes(scenes: tuple[str, ...], bands: tuple[str, ...]) -> list[ListedScene]:
    """Read the lists among the arguments. A list that cannot be read becomes a scene with an error.

    Raises
    ------
    OptionError
        If there is no scene, or no list can be read.
    """
    from sar2optical.scene.items import ITEM_SUFFIXES

    found: list[ListedScene] = []
    refused = 0
    for text in scenes:
        suffix = Path(text).suffix.lower()
        try:
            if suffix in ITEM_SUFFIXES:
                found += _of_items(text, bands)
            elif suffix == ".txt":
                found += _of_lines(text)
            elif _is_folder(text):
                found += _of_folder(Path(text))
            else:
                found.append(_of_text(text))
        except OptionError as error:
            refused += 1
            if refused == len(scenes):
                raise
            found.append(ListedScene(text, _name_of(text), error=str(error)))
    if not found:
        raise OptionError(f"{', '.join(scenes)}: contains no scene: give at least one")
    return found


def shown_name(source: Source) -> str:
    """Return the name of a scene's file, or the names of its files."""
    return _JOIN.join(PurePosixPath(path).name for path in redacted(str(source)).split(_JOIN))


def _of_items(text: str, bands: tuple[str, ...]) -> list[ListedScene]:
    from sar2optical.scene.items import read_items
    from sar2optical.scene.sources import source_in

    if is_web_address(text):
        raise OptionError(f"{text}: lists are read from local files only: download it, and give its path")
    found = []
    for item in read_items(Path(text), bands):
        scene = ListedScene(item.href or f"{text}#{item.name}", item.name, item.when, text, item.error)
        try:
            found.append(scene if item.error else replace(scene, source=source_in(item, text)))
        except OptionError as error:
            found.append(replace(scene, error=str(error)))
    return found


def _of_lines(text: str) -> list[ListedScene]:
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"{text}: cannot be read as a list of scenes ({error}): give a text file with one scene per line"
        ) from error
    return [_of_text(line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")]


def _is_folder(text: str) -> bool:
    """Return whether a path is a folder that is not itself a product."""
    from sar2optical.scene.safe.files import is_product

    try:
        return Path(text).is_dir() and not is_product(text)
    except OSError:  # longer than a path may be
        return False


def _of_folder(folder: Path) -> list[ListedScene]:
    """Return the scenes of a folder, without its subfolders: products, and rasters that are not our mosaics.

    Rasters whose names differ only in the polarisation are one scene. Where a name contains a polarisation, rasters
    without one (elevation, incidence angle) are no scenes.
    """
    from sar2optical.batch.collection import is_own_vrt
    from sar2optical.mosaic.tags import run_of
    from sar2optical.scene.safe.files import is_product

    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise OptionError(f"{folder}: cannot be read ({error.strerror}): give another folder") from error
    products = [path for path in paths if is_product(path)]
    rasters = [path for path in paths if path.suffix.lower() in _RASTERS and path.is_file() and path not in products]
    named = [path for path in rasters if _POLARISATION.search(path.stem)]
    groups = defaultdict(list)
    for path in named or rasters:
        if run_of(path) is None and not (path.suffix.lower() == ".vrt" and is_own_vrt(path)):
            # A name with several polarisations is that of a file with several bands.
            one = len(_POLARISATION.findall(path.stem)) == 1
            groups[_POLARISATION.sub("", path.stem) if one else path.stem, path.suffix].append(str(path))
    if not products and not groups:
        raise OptionError(f"{folder}: contains no scene ({', '.join(_RASTERS)}, .SAFE): give another folder")
    return [_of_text(text) for text in sorted([*map(str, products), *map(_JOIN.join, groups.values())])]


def _of_text(text: str) -> ListedScene:
    """Return the scene of one text: a path, or the paths of its files."""
    paths = [path.strip() for path in text.split(_JOIN)]
    if len(paths) == 1 or _exists(text) or not all(paths):
        return ListedScene(text, _name_of(text))
    from sar2optical.scene.sources import source_of

    names = [_name_of(path) for path in paths]
    common = {_POLARISATION.sub("", name) for name in names}
    name = common.pop() if len(common) == 1 else ""
    try:
        return ListedScene(source_of(paths), name or "+".join(names))
    except OptionError as error:  # a line of a list does not stop the others
        return ListedScene(text, name or "+".join(names), error=str(error))


def _exists(text: str) -> bool:
    """Return whether a path with a plus sign is a file's."""
    try:
        return Path(text).exists()
    except OSError:  # longer than a path may be
        return False


def _name_of(source: str) -> str:
    path = PurePosixPath(redacted(source))
    if path.name == "manifest.safe":
        path = path.parent
    return path.stem or path.name
