"""Read scenes from STAC Items: an Item, an array of them, or an ItemCollection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sar2optical._utils.addresses import is_web_address
from sar2optical.errors import OptionError
from sar2optical.scene.band_names import POLARISATIONS

__all__ = ["ITEM_SUFFIXES", "SceneItem", "read_items"]

ITEM_SUFFIXES = (".json", ".geojson")
"""Suffixes of files that are read as STAC."""

_NO_SCENE = {"thumbnail", "overview", "metadata"}
"""Roles of assets that are not data (STAC's list of asset roles), also used as their names."""


@dataclass(frozen=True, kw_only=True)
class SceneItem:
    """A scene of an ItemCollection."""

    name: str
    """Id of the Item."""
    href: str
    """Path or address of the scene; of the preferred polarisation where `assets` has several."""
    when: datetime | None
    """Time of acquisition, if the Item contains one."""
    error: str = ""
    """Why the Item contains no scene; `href` is then empty."""
    assets: tuple[tuple[str, str], ...] = ()
    """Polarisation, and path or address, of each asset that is named after one."""


def read_items(path: Path, bands: tuple[str, ...] = ()) -> list[SceneItem]:
    """Read the scenes of an ItemCollection, of an array of Items, or of a single Item.

    An Item without a scene is returned with its error, so that the others can be translated.

    Parameters
    ----------
    path
        Path of the JSON file.
    bands
        Preferred polarisations. The scene is the asset named after the first of these that the Item has, then of VH,
        VV, HV, HH; an Item's only asset may have any name.

    Raises
    ------
    OptionError
        The file contains no Items.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"{path}: is not a STAC ItemCollection ({type(error).__name__}): give one, or the scenes themselves"
        ) from error
    return [_scene_of(item, bands, path, number) for number, item in enumerate(_items_of(record, path), 1)]


def _items_of(record: Any, path: Path) -> list[Any]:
    """Return the possible Items of a JSON document."""
    if isinstance(record, list):
        return record
    kind = record.get("type") if isinstance(record, dict) else type(record).__name__
    if kind == "Feature":
        return [record]
    if isinstance(record, dict) and isinstance(record.get("features"), list):
        return list(record["features"])
    if kind in ("Collection", "Catalog"):
        raise OptionError(
            f"{path}: is a STAC {kind}, which contains no Items: give an ItemCollection, for example a saved search"
        )
    raise OptionError(
        f"{path}: is not a STAC ItemCollection but {str(kind)[:40]}: give one, or the scenes themselves"
    )


def _scene_of(item: Any, bands: tuple[str, ...], path: Path, number: int) -> SceneItem:
    """Read the needed fields of one Item, which may be any JSON value."""
    found = item.get("id") if isinstance(item, dict) else None
    name = str(found) if isinstance(found, str | int) and str(found).strip() else f"item-{number}"
    name = name.encode(errors="replace").decode()  # JSON may contain half of a surrogate pair
    try:
        href = _located(_asset_of(item, bands), path)
        return SceneItem(name=name, href=href, when=_when(item), assets=_polarisations_of(item["assets"], path))
    except ValueError as error:
        return SceneItem(name=name, href="", when=None, error=f"{path}: item {name}: {error}")


def _asset_of(item: Any, bands: tuple[str, ...]) -> str:
    """Return the address of the asset that is the scene.

    Raises
    ------
    ValueError
        There is none; the message contains reason and remedy.
    """
    if not isinstance(item, dict):
        raise ValueError(f"is not a STAC Item but {type(item).__name__}: give Items")  # noqa: TRY004
    if item.get("type") in ("Collection", "Catalog"):
        raise ValueError(f"is a STAC {item['type']}: give an ItemCollection")
    assets = item.get("assets")
    if not isinstance(assets, dict) or not assets:
        raise ValueError("has no assets: give the paths or addresses of its rasters instead")
    keys = {str(key).lower(): key for key in assets}
    wanted = [name.lower() for name in (*bands, "VH", "VV", *POLARISATIONS)]
    key = next((keys[name] for name in wanted if name in keys), None)
    if key is None and len(assets) == 1 and not _is_not_data(*next(iter(assets.items()))):
        key = next(iter(assets))
    if key is None:
        listed = ", ".join(map(str, assets))
        raise ValueError(f"has no asset named after a polarisation, only {listed}: give its files instead")
    asset = assets[key]
    href = asset.get("href") if isinstance(asset, dict) else None
    if not isinstance(href, str) or not href.strip():
        raise ValueError(f"asset {key} has no address (href): give its file instead")
    return href.strip()


def _polarisations_of(assets: dict[str, Any], path: Path) -> tuple[tuple[str, str], ...]:
    """Return the polarisation and address of each asset that is named after one, in a fixed order."""
    held = {str(key).upper(): asset.get("href") for key, asset in assets.items() if isinstance(asset, dict)}
    found = [(name, held.get(name)) for name in POLARISATIONS]
    return tuple(
        (name, _located(href.strip(), path)) for name, href in found if isinstance(href, str) and href.strip()
    )


def _is_not_data(key: str, asset: Any) -> bool:
    roles = asset.get("roles") if isinstance(asset, dict) else None
    return str(key).lower() in _NO_SCENE or bool(_NO_SCENE.intersection(map(str, roles or ())))


def _located(href: str, path: Path) -> str:
    """Return an address unchanged, and a path relative to the folder of the ItemCollection."""
    if href.lower().startswith("file://"):
        return unquote(urlsplit(href).path)
    return href if is_web_address(href) or href.startswith("/vsi") else str(path.parent / href)


def _when(item: dict[str, Any]) -> datetime | None:
    """Return an Item's time, or the start of its interval; None if it has no valid one."""
    properties = item.get("properties")
    given = properties if isinstance(properties, dict) else {}
    for key in ("datetime", "start_datetime"):
        try:
            found = datetime.fromisoformat(str(given.get(key)))
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
