"""Files that contain rasters: headers and zip archives."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path, PurePosixPath

from sar2optical.scene.band_names import other_layer, polarisation_of_name
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import alternatives

__all__ = ["raster_in", "rasters_of"]

_log = logging.getLogger(__name__)


def rasters_of(path: Path) -> list[str]:
    """List the rasters in a SNAP header (BEAM-DIMAP) or a zip archive, as paths for GDAL; empty for other files."""
    try:
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
    local = Path(path)
    held = rasters_of(local) if len(model_bands) == 1 else []
    for wanted in options.bands or alternatives(model_bands[0]):
        matches = [
            name for name in held if polarisation_of_name(name) == wanted.upper() and not other_layer(Path(name).stem)
        ]
        if len(matches) == 1:
            _log.info("%s: reading %s", path, matches[0])
            return matches[0]
    return path
