"""Sources of scenes: one raster, or several rasters that are one scene, one for each polarisation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sar2optical._utils.addresses import is_web_address, redacted
from sar2optical.errors import OptionError, OptionWithoutEffect
from sar2optical.scene.containers import rasters_of
from sar2optical.scene.items import ITEM_SUFFIXES, SceneItem, read_items
from sar2optical.scene.remote import gdal_environment, is_remote
from sar2optical.scene.safe import ProductOptions, is_product, unnested

__all__ = [
    "SceneFiles",
    "Source",
    "environment_of",
    "inputs_of",
    "log_contents",
    "paths_of",
    "refuse_calibration",
    "source_in",
    "source_of",
]

_LISTED = 6  # rasters of an archive that are named in the log

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneFiles:
    """Several rasters on one grid that are one scene.

    Raises
    ------
    OptionError
        If a path is given twice.
    """

    paths: tuple[str, ...]
    """Paths or addresses, two or more."""
    polarisations: tuple[str | None, ...] = ()
    """What each file holds, if it is known from elsewhere than the file; empty: nothing is."""
    item: str = ""
    """Path of the STAC Item that lists them."""

    def __post_init__(self) -> None:
        twice = next((path for k, path in enumerate(self.paths) if path in self.paths[:k]), None)
        if twice is not None:
            raise OptionError(f"{twice}: is given twice: give one file for each polarisation")

    def __str__(self) -> str:
        return " + ".join(map(redacted, self.paths))


Source = str | Path | SceneFiles
"""A scene as it is given: a path or an address, or several."""


def source_of(given: Sequence[str | Path]) -> Source:
    """Return the scene that paths stand for: one raster or product, one STAC Item, or the files of several bands.

    Raises
    ------
    OptionError
        If no path is given, an Item contains no scene, or is given together with other files.
    """
    if not given:
        raise OptionError("no file of the scene is given: give its path")
    items = [one for one in given if Path(one).suffix.lower() in ITEM_SUFFIXES]
    if len(given) > 1:
        if items:
            raise OptionError(f"{items[0]}: a STAC Item is a scene of its own: give it without other files")
        return SceneFiles(tuple(map(str, given)))
    return _of_item(given[0]) if items else given[0]


def _of_item(path: str | Path) -> Source:
    if is_web_address(str(path)):
        raise OptionError(f"{path}: STAC Items are read from local files only: download it, and give its path")
    found = read_items(Path(path))
    if len(found) != 1:
        raise OptionError(f"{path}: contains {len(found)} STAC Items: give one Item, or use sar2opt-batch")
    if found[0].error:
        raise OptionError(found[0].error)
    return source_in(found[0], path)


def source_in(item: SceneItem, path: str | Path) -> Source:
    """Return the scene of an Item: the files of all of its polarisations, or its only one.

    Parameters
    ----------
    item
        Item without an error.
    path
        Path of the file that contains it.

    Raises
    ------
    OptionError
        If two assets are the same file.
    """
    if len(item.assets) < 2:
        return item.href
    names, hrefs = zip(*item.assets, strict=True)
    return SceneFiles(hrefs, names, str(path))


def paths_of(source: Source) -> tuple[str, ...]:
    """Return the path of a scene, or those of its files."""
    return source.paths if isinstance(source, SceneFiles) else (str(source),)


def inputs_of(source: Source) -> tuple[Path, ...]:
    """Return the local files that a scene is given by: an output must never replace one of them."""
    item = [source.item] if isinstance(source, SceneFiles) and source.item else []
    # An address may be longer than the system allows for a path.
    return tuple(Path(path) for path in (*paths_of(source), *item) if not is_remote(path))


def environment_of(source: Source) -> dict[str, str | int]:
    """Return options for `rasterio.Env` to read a scene; empty if all of its files are local."""
    return next((found for path in paths_of(source) if (found := gdal_environment(path))), {})


def log_contents(source: Source) -> None:
    """Log the rasters in a header, an archive, or a product folder within a folder, by name; opens nothing."""
    for path in paths_of(source):
        local = Path(path)
        # is_product first: it accepts addresses that are longer than the system's limit of paths.
        inner = [str(unnested(local))] if is_product(local) and local.is_dir() else rasters_of(local)
        if inner and inner != [str(local)]:
            more = f" and {len(inner) - _LISTED} more" if len(inner) > _LISTED else ""
            _log.info("%s: contains %s%s", local.name, ", ".join(inner[:_LISTED]), more)


def refuse_calibration(source: Source, product: ProductOptions | None) -> None:
    """Check that a scene is a product where a calibration is given for it.

    Raises
    ------
    OptionWithoutEffect
        If it is not, and thus has no calibration table.
    """
    if product is not None and (isinstance(source, SceneFiles) or not is_product(source)):
        raise OptionWithoutEffect(
            f"{redacted(str(source))}: is not a Sentinel-1 product (.SAFE) and has no calibration table: leave out "
            "--calibration and --denoise, or give the product"
        )
