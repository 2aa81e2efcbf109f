"""Find the files of a scene's other polarisations by the name of one of them."""

from __future__ import annotations

import logging
from pathlib import Path

from sar2optical._utils.addresses import redacted
from sar2optical.errors import SceneUnreadable
from sar2optical.scene.band_names import POLARISATION_WORD, POLARISATIONS, polarisation_of_name, polarisations_of
from sar2optical.scene.containers import rasters_in
from sar2optical.scene.raster import opened_dataset
from sar2optical.scene.remote import is_remote
from sar2optical.scene.sources import SceneFiles, Source
from sar2optical.signature import alternatives

__all__ = ["with_companions"]

_log = logging.getLogger(__name__)


def with_companions(path: str | Path, model_bands: tuple[str, ...]) -> Source:
    """Return a raster together with those of the other polarisations that a model needs.

    They are in the same archive, Zarr or netCDF, or beside it. Producers deliver one file for each polarisation,
    whose names differ in it alone: `..._VV.tif` and `..._VH.tif` (HyP3, OPERA), `iw-vv.rtc.tiff` and
    `iw-vh.rtc.tiff` (Planetary Computer).

    Parameters
    ----------
    path
        Path or address of a raster.
    model_bands
        Polarisations that the model needs.

    Returns
    -------
    str, Path or SceneFiles
        `path` itself if the model needs one band, the raster has all of them, its name contains no polarisation or
        several, or a file is missing.

    Raises
    ------
    SceneUnreadable
        If GDAL cannot open it.
    """
    text = str(path)
    if len(model_bands) > 1 and (inner := rasters_in(path, model_bands)) and len(set(inner)) == len(inner):
        _log.info("%s: reading %s", redacted(text), ", ".join(inner))
        return SceneFiles(inner)
    if len(model_bands) < 2 or polarisation_of_name(redacted(text)) not in POLARISATIONS:
        return path
    with opened_dataset(path) as dataset:
        held = set(polarisations_of(dataset).values())
    files = [text]
    for band in model_bands:
        names = alternatives(band)
        if held.isdisjoint(names):
            found = next((other for name in names if (other := _renamed(text, name)) and _exists(other)), None)
            if found is None:
                return path
            files.append(found)
    if len(set(files)) != len(files) or len(files) == 1:
        return path
    others = ", ".join(Path(redacted(file)).name for file in files[1:])
    _log.info("%s: is read together with %s, found by its name", Path(redacted(text)).name, others)
    return SceneFiles(tuple(files))


def _renamed(path: str, polarisation: str) -> str | None:
    """Replace the last polarisation in a path's file name; None if there is none."""
    before, query, after = path.partition("?") if is_remote(path) else (path, "", "")
    folder, name = before[: (cut := max(before.rfind("/"), before.rfind("\\")) + 1)], before[cut:]
    tokens = list(POLARISATION_WORD.finditer(name))
    if not tokens:
        return None
    start, end = tokens[-1].span()
    token = polarisation.lower() if name[start:end].islower() else polarisation
    return f"{folder}{name[:start]}{token}{name[end:]}{query}{after}"


def _exists(path: str) -> bool:
    if not is_remote(path):
        try:
            return Path(path).is_file()
        except OSError:  # longer than a path may be
            return False
    try:
        with opened_dataset(path):
            return True
    except SceneUnreadable:
        return False
