"""Open a Sentinel-1 GRD product: choose its layers, and read them as calibrated bands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from sar2optical._utils.files import cause
from sar2optical._utils.gdal_errors import CPLE_BaseError
from sar2optical.errors import BandNotFound, OptionError
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.nodata import Suspects
from sar2optical.scene.raster import RasterBands, open_raster
from sar2optical.scene.safe.annotation import processor_version, read_calibration, read_noise, read_size
from sar2optical.scene.safe.border import BORDER_POWER, BORDER_SINCE, within_border
from sar2optical.scene.safe.calibrate import Calibration, LookUpTable, Noise, calibrate
from sar2optical.scene.safe.files import ProductFiles, damaged, list_files
from sar2optical.scene.units import Hint
from sar2optical.signature import Unit, alternatives, listed

__all__ = ["ProductOptions", "SafeBands", "open_product"]


@dataclass(frozen=True, kw_only=True)
class ProductOptions:
    """Options for the conversion of a product's measurements to values.

    Raises
    ------
    OptionError
        If the calibration is unknown, or noise is to be subtracted from DN.
    """

    calibration: Calibration = "sigma0"
    """Quantity of the values; see `Calibration`."""
    denoise: bool = False
    """Subtract the thermal noise; power below it becomes 0, and stays valid."""
    border: bool = True
    """Mask the faint noise beyond the borders of products before IPF 2.90."""

    def __post_init__(self) -> None:
        if self.calibration not in get_args(Calibration):
            raise OptionError(f"calibration is {self.calibration}: give one of {', '.join(get_args(Calibration))}")
        if self.denoise and self.calibration == "dn":
            raise OptionError(
                "noise is subtracted from power, not from dn: give sigma0, gamma0 or beta0 with --denoise"
            )


@dataclass(frozen=True)
class _Layer:
    """Files of one polarisation, by their names within the product."""

    polarisation: str
    annotation: str
    calibration: str
    noise: str
    measurement: str


@dataclass(frozen=True)
class _Band:
    """One polarisation, open for reading."""

    raster: RasterBands
    lut: LookUpTable | None
    """A of the calibration; None: values stay DN."""
    noise: Noise | None
    """Thermal noise to subtract; None: none is."""
    border: float
    """DN below which a pixel at the border is no measurement; 0: the product has no such pixels."""


class SafeBands:
    """Bands of an open product; created by `open_product`.

    Parameters
    ----------
    files
        Files of the product.
    layers
        Polarisations to read, in the model's order.
    bands
        Bands of those layers, open for reading.
    options
        Options of the conversion.
    """

    def __init__(
        self, files: ProductFiles, layers: tuple[_Layer, ...], bands: tuple[_Band, ...], options: ProductOptions
    ) -> None:
        self.path: str = str(files.path)
        self.sources: tuple[str, ...] = (self.path,)
        self.files: tuple[Path, ...] = (files.path,) if files.zipped else _paths_of(files, layers)
        self.shape: tuple[int, int] = bands[0].raster.shape
        self.polarisations: tuple[str | None, ...] = tuple(layer.polarisation for layer in layers)
        self.georeference = bands[0].raster.georeference
        self.block = bands[0].raster.block
        self.readers = bands[0].raster.readers
        self.dtype = np.dtype(np.float32)
        self.row_of_blocks: int = sum(band.raster.row_of_blocks for band in bands)
        self._bands = bands
        self._options = options

    @property
    def stated(self) -> tuple[Unit, str]:
        """Unit and reason: both follow from the options."""
        if self._options.calibration == "dn":
            return "dn", "uncalibrated DN, as requested"
        denoised = ", thermal noise removed" if self._options.denoise else ""
        return "power", f"{self._options.calibration} by the product's calibration LUT{denoised}"

    hints: tuple[Hint, ...] = ()  # the unit is stated
    suspects: tuple[Suspects, ...] = ()  # borders are masked from the product's own tables
    sentinels_seen = False

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Return True for DN only: power is 0 where the noise was larger."""
        return unit == "dn"

    def read_plain(
        self, rows: tuple[int, int], cols: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle; see `read`: calibrated values are float32."""
        return self.read(rows, cols)

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle; see `sar2optical.scene.bands.Bands.read`. DN of 0 are invalid, power of 0 is valid.

        Raises
        ------
        SceneUnreadable
            If a measurement ends early or a block cannot be decoded.
        """
        values = np.empty((len(self._bands), rows[1] - rows[0], cols[1] - cols[0]), np.float32)
        valid = np.ones(values.shape[1:], np.bool_)
        for band, out in zip(self._bands, values, strict=True):
            # The border is found in whole rows, so that it does not depend on the columns that are read.
            span = (0, self.shape[1]) if band.border else cols
            dn, usable = band.raster.read(rows, span)
            usable &= dn[0] != 0
            if band.border:
                usable &= within_border(dn[0], band.border)
            asked = slice(cols[0] - span[0], cols[1] - span[0])
            out[:] = dn[0, :, asked]
            valid &= usable[:, asked]
            if band.lut:
                calibrate(out, band.lut, band.noise, rows, cols)
        values *= valid
        return values, valid


@contextmanager
def open_product(
    path: str | Path,
    model_bands: tuple[str, ...],
    options: SceneOptions | None = None,
    product: ProductOptions | None = None,
) -> Iterator[SafeBands]:
    """Open a Sentinel-1 GRD product's measurements for reading, calibrated.

    Parameters
    ----------
    path
        A `.SAFE` folder, its `manifest.safe`, or a zip file that contains one.
    model_bands
        Polarisations that the model needs, in its order.
    options
        Bands by name or by index in the product's order; a DN that is nodata in addition to 0.
    product
        Calibration, noise and border.

    Yields
    ------
    SafeBands

    Raises
    ------
    SceneUnreadable
        If the product is missing, damaged, incomplete, or not a GRD.
    BandNotFound
        If it lacks a polarisation.
    OptionError
        If a scale or another unit is given for values that the product itself calibrates, or the noise cannot be
        subtracted.
    """
    options, product = options or SceneOptions(), product or ProductOptions()
    _refuse_contradictions(Path(path), options, product)
    files = list_files(Path(path))
    version = processor_version(files)
    layers = _choose_layers(files, _layers(files), model_bands, options.bands)
    with ExitStack() as stack:
        bands = tuple(_open_band(stack, files, layer, version, options, product) for layer in layers)
        shapes = {band.raster.shape for band in bands}
        if len(shapes) > 1:
            raise damaged(files.path, f"its measurements differ in size ({', '.join(map(str, sorted(shapes)))})")
        yield SafeBands(files, layers, bands, product)


def _layers(files: ProductFiles) -> tuple[_Layer, ...]:
    """Find the files of each polarisation, in the order of the product's image numbers."""
    pattern = r"annotation/(s1\w-\w+-grd-(vv|vh|hh|hv)-.*)\.xml"
    matches = [match for name in files.names if (match := re.fullmatch(pattern, name, re.IGNORECASE))]
    if not matches:
        raise damaged(files.path, "it has no annotation of a GRD measurement")
    found = {}
    # Names end in the image number, or in "-cog" after it.
    for match in sorted(matches, key=lambda match: match[1].split("-")[8:]):
        stem, polarisation = match[1], match[2].upper()
        images = [name for name in files.names if re.fullmatch(rf"measurement/{re.escape(stem)}\.tiff?", name)]
        if polarisation in found:
            raise damaged(files.path, f"it has several measurements of {polarisation}")
        found[polarisation] = _Layer(
            polarisation,
            annotation=match[0],
            calibration=f"annotation/calibration/calibration-{stem}.xml",
            noise=f"annotation/calibration/noise-{stem}.xml",
            measurement=images[0] if images else f"measurement/{stem}.tiff",
        )
    return tuple(found.values())


def _choose_layers(
    files: ProductFiles, layers: tuple[_Layer, ...], model_bands: tuple[str, ...], asked: tuple[str, ...]
) -> tuple[_Layer, ...]:
    """Choose the layers that the user or the model asks for."""
    held = {layer.polarisation: layer for layer in layers}
    by_index = {str(k): layer for k, layer in enumerate(layers, 1)}
    held_here = ", ".join(f"{k} ({layer.polarisation})" for k, layer in by_index.items())
    if asked and len(asked) != len(model_bands):
        raise BandNotFound(
            f"{files.path}: {len(asked)} bands asked for, the model needs {len(model_bands)} "
            f"({listed(*model_bands)}): give --band once for each of them"
        )
    chosen = []
    for band in asked or model_bands:
        wanted = (band.upper(),) if asked else alternatives(band)
        layer = by_index.get(band) or next((held[one] for one in wanted if one in held), None)
        if not layer and asked:
            raise BandNotFound(f"{files.path}: no band {band}, the product has {held_here}: give one of those")
        if not layer:
            raise BandNotFound(
                f"{files.path}: the model was trained on {listed(band)}, the product has {held_here}: "
                f"give --band {layers[0].polarisation} to use that one anyway"
            )
        chosen.append(layer)
    return tuple(chosen)


def _paths_of(files: ProductFiles, layers: tuple[_Layer, ...]) -> tuple[Path, ...]:
    """Return the paths of the files that are read for the layers."""
    names = [name for x in layers for name in (x.measurement, x.annotation, x.calibration, x.noise)]
    return tuple(files.path / name for name in ("manifest.safe", *names) if name in files.names)


def _open_band(
    stack: ExitStack,
    files: ProductFiles,
    layer: _Layer,
    version: tuple[int, int],
    options: SceneOptions,
    product: ProductOptions,
) -> _Band:
    """Open a measurement, and read its tables."""
    size = read_size(files, layer.annotation)
    if layer.measurement not in files.names:
        raise damaged(files.path, f"{layer.measurement} is missing")
    raster = _open_measurement(stack, files, layer.measurement, options)
    if raster.shape != size:
        raise damaged(
            files.path, f"{layer.measurement} has {raster.shape} lines and samples, its annotation gives {size}"
        )
    lut = read_calibration(files, layer.calibration, product.calibration) if product.calibration != "dn" else None
    threshold = 0.0
    if product.border and version < BORDER_SINCE:
        beta = read_calibration(files, layer.calibration, "beta0")  # one value in the whole product
        threshold = float(np.sqrt(BORDER_POWER) * np.median(beta.values[0]))
    noise = read_noise(files, layer.noise, layer.annotation, version) if product.denoise else None
    return _Band(raster, lut, noise, threshold)


def _open_measurement(stack: ExitStack, files: ProductFiles, name: str, options: SceneOptions) -> RasterBands:
    """Open a measurement; its values are stored DN."""
    stored = SceneOptions(bands=("1",), nodata=options.nodata, scale=options.scale)
    try:
        return stack.enter_context(open_raster(files.gdal(name), ("",), stored))
    except CPLE_BaseError as error:  # raised bare by rasterio's properties on damaged tags
        raise damaged(files.path, f"{name} cannot be opened ({cause(error)})") from error


def _refuse_contradictions(path: Path, options: SceneOptions, product: ProductOptions) -> None:
    """Check that no scale is given for calibrated values, and no unit that the values are not in."""
    calibrated = product.calibration != "dn"
    if calibrated and options.scale is not None:
        raise OptionError(
            f"{path}: scale is {options.scale:g}, but the product's own table calibrates it: leave out --scale, "
            "or give --calibration dn with it"
        )
    if options.unit not in ((None, "power") if calibrated else (None, "dn", "amplitude")):
        found = f"the product's own table gives {product.calibration} power" if calibrated else "DN are amplitude"
        raise OptionError(f"{path}: units are {options.unit}, but {found}: leave out --units")
