"""Files that contain rasters: headers, zip archives, Zarr and netCDF."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from sar2optical.scene.band_names import POLARISATION_WORD, other_layer, polarisation_of_name
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import alternatives

__all__ = ["raster_in", "rasters_in", "rasters_of"]

_STORES = (".zarr", ".nc")
"""Suffixes of files and folders whose rasters GDAL lists as subdatasets."""

_MEASURED = "measurements"
"""Group of the backscatter in EOPF's products, beside groups of conditions and quality."""

_log = logging.getLogger(__name__)


def rasters_of(path: Path) -> list[str]:
    """List the rasters in a SNAP header (BEAM-DIMAP), a zip archive, a Zarr or a netCDF, as paths for GDAL.

    Empty for other files, and for a netCDF of one variable, which is a raster itself.
    """
    try:
        if path.suffix.lower() in _STORES and path.exists():
            return _subdatasets(path)
        if path.suffix.lower() == ".dim":
            return sorted(map(str, path.with_suffix(".data").glob("*.img")))
        if path.suffix.lower() != ".zip":
            return []
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):  # OSError also where an address is longer than a path may be
        return []
    rasters = (name for name in names if PurePosixPath(name).suffix.lower() in (".tif", ".tiff", ".img", ".vrt"))
    # macOS adds a file of attributes for each, under the same name.
    return [f"/vsizip/{path}/{name}" for name in sorted(rasters) if not name.startswith("__MACOSX/")]


def raster_in(path: str | Path, model_bands: tuple[str, ...], options: SceneOptions) -> str | Path:
    """Return the raster that a header or an archive stands for: the only one of the polarisation.

    Parameters
    ----------
    path
        Raster, header or archive.
    model_bands
        Polarisations that the model needs.
    options
        The user's bands.

    Returns
    -------
    str or Path
        `path` itself where no raster, or more than one, fits; opening it then fails with an error that lists them.
    """
    held = rasters_of(Path(path)) if len(model_bands) == 1 else []
    for wanted in options.bands or alternatives(model_bands[0]):
        matches = _rasters_of_polarisation(held, wanted.upper())
        if len(matches) == 1:
            _log.info("%s: reading %s", path, matches[0])
            return matches[0]
    return path


def rasters_in(path: str | Path, model_bands: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rasters that a header, an archive or a store has for each band of a model.

    Parameters
    ----------
    path
        Raster, header, archive or store.
    model_bands
        Polarisations that the model needs.

    Returns
    -------
    tuple of str
        Empty where a band has no raster, or several, or where their names differ in more than the polarisation: a
        date, for example.
    """
    held = rasters_of(Path(path))
    found = []
    for band in model_bands if held else ():
        matches = next(filter(None, (_rasters_of_polarisation(held, name) for name in alternatives(band))), [])
        if len(matches) != 1:
            return ()
        found += matches
    # Groups of EOPF's products are of one acquisition, whatever ids they have.
    alike = len({POLARISATION_WORD.sub("", name) for name in found}) < 2
    return tuple(found) if alike or all(f"/{_MEASURED}/" in name for name in found) else ()


def _rasters_of_polarisation(held: list[str], wanted: str) -> list[str]:
    found = [name for name in held if polarisation_of_name(name) == wanted and not other_layer(Path(name).stem)]
    measured = [name for name in found if f"/{_MEASURED}/" in name]
    return measured or found


def _subdatasets(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as dataset:
                return sorted(dataset.subdatasets)
        except RasterioError:  # opening it as a raster fails with a better message
            return []
