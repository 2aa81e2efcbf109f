"""A raster that GDAL opens, as bands of SAR values: which bands, where they lie, which pixels are usable.

Reads only; a raster is never opened for writing.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio's properties raise it bare, and export no other name for it
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from sar2optical._utils.cores import usable_cores
from sar2optical._utils.files import cause
from sar2optical.errors import BandNotFound, OptionError, Sar2OpticalError, SceneUnreadable, UnitsUnknown
from sar2optical.scene.nodata import LOWEST, SENTINEL, Suspects
from sar2optical.scene.remote import failure, is_remote, shown
from sar2optical.scene.units import could_be, guess_unit
from sar2optical.signature import Unit, alternatives, listed

GDAL_CACHE_BYTES = 128_000_000
"""For `rasterio.Env(GDAL_CACHEMAX=...)`, which takes bytes: a row of blocks of a full scene fits. By default GDAL
takes 5 % of the machine's memory."""

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

_DAMAGE = (RasterioError, CPLE_BaseError, CRSError, OSError, UnicodeError)
"""What rasterio raises on damaged files."""

_BEYOND = np.float32(1e18)
_STORED_FILL = (-9999, -32768, -32767, 32767, 65535)
"""Stored integers that are fill where they stand in runs, beside the ends of their own type."""
_ROWS_ASKED = 17  # whether they are grey; some of a photograph's may be black
"""No backscatter in any unit: what is larger is a fill value (1e20, -3.4e38) that is not declared, or damage. Squares
and differences of what is left stay within float32."""

_BYTES_PER_COLUMN = 36_000
"""What `sar2optical.pipeline.stream` holds of a scene of one band, by its width."""

POLARISATIONS = ("VV", "VH", "HH", "HV")

_SUBDATASET = re.compile(r'[A-Za-z0-9_]+:(?:"[^"]+"|[^":]+):(?P<path>[^:]+)')
"""A subdataset's name: DRIVER:"file":path (GDAL, raster drivers' documentation)."""

_log = logging.getLogger(__name__)

_NO_BACKSCATTER = (
    (
        r"inc_map(_ell)?|(projected_?)?(local_?)?incidence_?angle(_?from_?ellipsoid|_?map)?|angle|lia",
        "an angle",
    ),
    (r"dem|elevation|altitude", "heights"),
    (r"ls_map|(layover_?)?(shadow_?)?mask(_layover_shadow)?", "a mask"),
    (r"rgb", "a colour picture"),
    (
        r"(unw_?)?phase|coh(erence)?|unw(rapped)?|interferogram|simulated_?image|ratio|difference|(los_)?disp(lacement)?",
        "computed of several images",
    ),
    (
        r"number_of_looks|(simulated_?)?(scattering_?)?area|rtc_anf\w*|shadow_?mask|nesz|noise",
        "a noise level, an area or a count",
    ),
)
"""Names of other layers in products of HyP3, OPERA, SNAP and Earth Engine, as words of their own."""


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """Where a raster lies on Earth: an affine and a CRS, or ground control points, or nothing."""

    crs: CRS | None = None
    """Of `transform`, or None."""
    transform: Affine | None = None
    """Pixel to map coordinates; None where the raster has none (an identity is none)."""
    gcps: tuple[GroundControlPoint, ...] = ()
    """Ground control points, in the file's order."""
    gcp_crs: CRS | None = None
    """Of `gcps`, or None."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What the user says about a scene that the file does not, or says wrongly."""

    bands: tuple[str, ...] = ()
    """Indices from 1, or polarisations; one per band of the model. Empty: by the model's polarisations."""
    unit: Unit | None = None
    """Of the scaled values; None: told from the file."""
    nodata: float | None = None
    """Stored value that means nothing, beside what the file declares."""
    scale: float | None = None
    """Factor from stored values to their unit; None: as the file declares."""

    def __post_init__(self) -> None:
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale):
            raise OptionError(f"scale is {self.scale:g}: give a finite factor other than 0")


class Described(Protocol):
    """What is known of a raster before its values are read."""

    path: str
    """Of the raster, or of what it was made of; for messages."""
    files: tuple[Path, ...]
    """What is read; never to be written over."""
    shape: tuple[int, int]
    """Height and width."""
    polarisations: tuple[str | None, ...]
    """Of each band; None where the file does not tell."""
    georeference: Georeference
    row_of_blocks: int
    """Bytes of a row of blocks, of all that is read: what a cache must hold so that no block is decoded twice."""


class Bands(Described, Protocol):
    """Bands as values: what a `sar2optical.scene.scene.Scene` is made of."""

    @property
    def stated(self) -> tuple[Unit, str] | None:
        """The values' unit, and why, where it is known without a look at the values."""
        ...

    def unit(self, sample: NDArray[np.float32]) -> tuple[Unit, str]:
        """Tell the values' unit, and why: from the file, or from valid values of the first band.

        Raises
        ------
        UnitsUnknown
            Where it cannot be told.
        """
        ...

    def refuse_impossible(self, unit: Unit, sample: NDArray[np.float32]) -> None:
        """Refuse a unit that the user gives and valid values of the first band cannot be in.

        Raises
        ------
        UnitsUnknown
        """
        ...

    suspects: tuple[Suspects, ...]
    """By band: values that may be fill although the file does not declare them, see `sar2optical.scene.nodata`."""
    sentinels_seen: bool
    """Whether values under `nodata.SENTINEL` that the file does not declare were read, and masked."""

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Say whether a value of exactly 0 is no measurement, in this unit."""
        ...

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle.

        Parameters
        ----------
        rows, cols
            First and past-the-last, within the shape.

        Returns
        -------
        values
            float32 (bands, rows, columns) in the bands' unit; 0 where invalid.
        valid
            bool (rows, columns): every band has a value that is not nodata, finite and below 1e18.

        Raises
        ------
        SceneUnreadable
            Where the file ends early or a block does not decode.
        """
        ...


class RasterBands:
    """Bands of an open GDAL dataset; made by `open_raster`.

    Parameters
    ----------
    dataset
        Open for reading; closed by `open_raster`.
    indices
        Bands to read, from 1.
    polarisations
        Of those bands, None where the file does not tell.
    options
        What the user says.
    """

    stated: tuple[Unit, str] | None = None

    def __init__(
        self,
        dataset: Any,
        indices: tuple[int, ...],
        polarisations: tuple[str | None, ...],
        options: SceneOptions,
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self._options = options
        self.path: str = shown(dataset.name)  # names are judged by it, too: a query says nothing of a scene
        self.files: tuple[Path, ...] = tuple(Path(name) for name in dataset.files)
        self.shape: tuple[int, int] = dataset.shape
        self.polarisations = polarisations
        self.georeference = _georeference(dataset)
        self._scales = [self._scale(index) for index in indices]
        self.suspects = tuple(self._suspects(k) for k in range(len(indices)))
        self.sentinels_seen = False
        self._declares = any(dataset.mask_flag_enums[index - 1] != [MaskFlags.all_valid] for index in indices)
        self.row_of_blocks = sum(
            dataset.block_shapes[index - 1][0] * dataset.width * np.dtype(dataset.dtypes[index - 1]).itemsize
            for index in indices
        )

    def unit(self, sample: NDArray[np.float32]) -> tuple[Unit, str]:
        """Tell the unit from dtype, names, tags and values; see `Bands.unit`."""
        try:
            index = self._indices[0]
            # Integers with a scale or an offset are packed values of another kind, and judged as those.
            dtype = "float32" if self._is_measured(0) else self._dataset.dtypes[index - 1]
            return guess_unit(dtype, self._names(index), sample)
        except UnitsUnknown as error:
            raise UnitsUnknown(f"{self.path}: {error}") from error

    def refuse_impossible(self, unit: Unit, sample: NDArray[np.float32]) -> None:
        """Refuse a unit that the values cannot be in. Bytes may stand for any unit: their maker stretched them."""
        median = float(np.median(sample))
        plain_bytes = self._dataset.dtypes[self._indices[0] - 1] == "uint8" and not self._is_measured(0)
        if not plain_bytes and not could_be(unit, median):
            raise UnitsUnknown(
                f"{self.path}: units {unit} given, but the median of the values is {median:.4g}: give other --units, "
                "or --scale (0.01 for hundredths of dB)"
            )

    def zero_is_nodata(self, unit: Unit | None) -> bool:
        """Say so of DN; and of power and amplitude where no nodata is declared: SNAP writes 0 outside."""
        if unit in ("power", "amplitude"):
            return not self._declares
        return unit == "dn"

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle; see `Bands.read`."""
        window = RasterWindow.from_slices(rows, cols)
        values = np.empty((len(self._indices), rows[1] - rows[0], cols[1] - cols[0]), np.float32)
        valid = np.ones(values.shape[1:], np.bool_)
        try:
            for k, index in enumerate(self._indices):
                # What is stored as it is wanted goes to its place at once: a copy takes as long as all checks.
                as_it_is = self._dataset.dtypes[index - 1] == "float32" and self._scales[k] == (1.0, 0.0)
                stored = self._dataset.read(index, window=window, out=values[k] if as_it_is else None)
                valid &= self._usable(index, stored, window)
                if not as_it_is:
                    self._scaled(stored, k, values[k])
                valid &= values[k] < _BEYOND  # NaN is not
                low = values[k] <= self._floor(k)
                if low.any() and (low & valid).any():
                    self.sentinels_seen = True
                    valid &= ~low
        except _DAMAGE as error:
            why = (
                failure(self._dataset.name)
                if is_remote(self._dataset.name)
                else f"{_cause(error)}: truncated or damaged, fetch it again"
            )
            raise SceneUnreadable(f"{self.path}: rows {rows[0]} to {rows[1]} cannot be read: {why}") from error
        for band in values:
            band[~valid] = 0  # NaN and nodata never reach arithmetic
        return values, valid

    def _usable(self, index: int, stored: NDArray[np.generic], window: RasterWindow) -> NDArray[np.bool_]:
        usable = np.ones(stored.shape, np.bool_)
        for nodata in (self._dataset.nodatavals[index - 1], self._options.nodata):
            if nodata is not None and not np.isnan(nodata):
                usable &= stored != _as_stored(nodata, stored.dtype)
        # What is left: mask bands, of the file or of this band, and alpha.
        if self._dataset.mask_flag_enums[index - 1] not in ([MaskFlags.all_valid], [MaskFlags.nodata]):
            usable &= self._dataset.read_masks(index, window=window) != 0
        elif ColorInterp.alpha in self._dataset.colorinterp:  # of a type that GDAL makes no mask of
            alpha = self._dataset.colorinterp.index(ColorInterp.alpha) + 1
            usable &= self._dataset.read(alpha, window=window) != 0
        return usable

    def _scaled(self, stored: NDArray[np.generic], k: int, out: NDArray[np.float32]) -> None:
        """Write the k-th band's stored values in their unit; what float32 does not hold becomes infinite."""
        scale, offset = self._scales[k]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(stored, scale, out=out, casting="unsafe")
            out += np.float32(offset)

    def _suspects(self, k: int) -> Suspects:
        dtype = np.dtype(self._dataset.dtypes[self._indices[k] - 1])
        plain = not self._is_measured(k)
        if dtype.kind not in "iuf" or (plain and dtype == np.uint8):  # grey levels
            return Suspects()
        stored = [-9999.0] if dtype.kind == "f" else _stored_fill(np.iinfo(dtype))
        values = np.empty(1 + len(stored), np.float32)
        self._scaled(np.array([0, *stored], dtype), k, values)
        sentinels = tuple(dict.fromkeys(v for v in values[1:] if v != values[0]))
        return Suspects(values[0], sentinels, may_be_db=not (plain and dtype.kind == "u"))

    def _floor(self, k: int) -> np.float32:
        """Give the value at and under which the k-th band holds no measurement, whatever its unit and scale."""
        scale, offset = self._scales[k]
        lowest = min(scale * SENTINEL + offset, float(LOWEST) + 1)  # -9999 hundredths are -99.99
        return np.float32(lowest + abs(lowest) * 1e-6) if scale > 0 else -_BEYOND  # float32 rounds the values

    def _scale(self, index: int) -> tuple[float, float]:
        """Factor and offset from stored values to their unit."""
        if self._options.scale is not None:
            return self._options.scale, 0.0
        scale, offset = self._dataset.scales[index - 1], self._dataset.offsets[index - 1]
        if not (np.isfinite(scale) and scale and np.isfinite(offset)):
            raise SceneUnreadable(
                f"{self.path}: declares a scale of {scale:g} and an offset of {offset:g} for band {index}: "
                "give --scale FACTOR"
            )
        return scale, offset

    def _is_measured(self, k: int) -> bool:
        """Say whether the values of the k-th band are no plain integers: floats, or scaled."""
        kind = np.dtype(self._dataset.dtypes[self._indices[k] - 1]).kind
        return kind == "f" or self._scales[k] != (1.0, 0.0)

    def _names(self, index: int) -> tuple[str, ...]:
        """Texts that may tell the unit, most telling first."""
        tags = {**self._dataset.tags(), **self._dataset.tags(index)}
        keys = ("units", "unit", "unittype", "long_name", "standard_name", f"band_{index}")
        tagged = [value for key, value in tags.items() if key.lower() in keys]
        if np.dtype(self._dataset.dtypes[index - 1]).kind == "u":  # what is computed of them may keep the tag
            tagged.append(tags.get("TIFFTAG_IMAGEDESCRIPTION", ""))
        texts = (
            self._dataset.units[index - 1], *tagged, self._dataset.descriptions[index - 1], Path(self.path).name
        )  # fmt: skip
        return tuple(text for text in texts if text)


@contextmanager
def open_raster(
    path: str | Path, model_bands: tuple[str, ...], options: SceneOptions | None = None
) -> Iterator[RasterBands]:
    """Open a raster's bands for reading.

    Parameters
    ----------
    path
        Anything that GDAL opens.
    model_bands
        Polarisations that the model wants, in its order.
    options
        Band, nodata and scale, where the file does not tell them.

    Yields
    ------
    RasterBands

    Raises
    ------
    SceneUnreadable
        Where the file is missing, empty, truncated, no raster, or complex.
    BandNotFound
        Where the file has no such band, has another polarisation than the model's, or does not tell which is
        which.
    """
    options = options or SceneOptions()
    path = _held(path, model_bands, options)
    with _opened(path) as dataset:
        with _readable_tags(path):
            _refuse_non_sar(dataset, options)
            _refuse_pages(dataset, options)
            named = _polarisations(dataset)
            if _is_lone(dataset, named):  # before a polarisation is asked about
                _refuse_other_layers(dataset, named, (next(iter(named)),))
            indices = _choose_bands(dataset, named, model_bands, options.bands)
            _refuse_other_layers(dataset, named, indices)
            _refuse_complex(dataset, indices)
            _refuse_wider_than_memory(dataset, indices)
            single = tuple(named[index] if named[index] in POLARISATIONS else None for index in indices)
            bands = RasterBands(dataset, indices, single, options)
        yield bands


@contextmanager
def _readable_tags(path: str | Path) -> Iterator[None]:
    """Turn what reading tags, names and the place raises; a file that opens may still be damaged there."""
    try:
        yield
    except Sar2OpticalError:
        raise
    except _DAMAGE as error:
        raise SceneUnreadable(
            f"{path}: its tags cannot be read ({_cause(error)}): damaged, fetch it again"
        ) from error


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open with GDAL; its refusals as our errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # GCP scenes and chips are welcome
        try:
            dataset = _with_threads(path)
        except _DAMAGE as error:
            raise SceneUnreadable(_why_unreadable(path, error)) from error
        with dataset:
            if dataset.count == 0:
                inside = ", ".join(dataset.subdatasets[:3]) or "nothing"
                raise SceneUnreadable(f"{path}: has no band of its own, but holds {inside}: give one of those")
            yield dataset


def _with_threads(path: str | Path) -> Any:
    """Open such that a GeoTIFF's blocks are decoded by all cores, which GDAL decides when it opens a file.

    An uncompressed file on a server is read by one thread: where a request fails, GDAL 3.10.3's threads raise no
    error and give other pixels than the file's (findings/gdal_threads_wrong_pixels.sh, OSGeo/gdal#11552).
    """
    if is_remote(path):
        with rasterio.Env(GDAL_NUM_THREADS="1"):
            dataset = rasterio.open(path)
        if dataset.compression is None:
            return dataset
        dataset.close()
    with rasterio.Env(GDAL_NUM_THREADS=str(usable_cores())):
        return rasterio.open(path)


def _why_unreadable(given: str | Path, error: Exception) -> str:
    if is_remote(given):
        return f"{shown(given)}: cannot be opened: {failure(given)}"
    path = Path(given)
    if path.is_dir():
        return f"{path}: is a folder that GDAL does not read: give the raster's file"
    if path.is_file():
        return _why_no_raster(path, error)
    if str(path).startswith("/vsi"):
        return f"{path}: cannot be opened ({_cause(error)}): check the address"
    return f"{path}: no such file: check the path"


def _why_no_raster(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"{path}: is empty (0 bytes): fetch it again"
    if held := rasters_of(path):
        return f"{path}: is no raster itself: give one of those that it holds, {', '.join(held[:4])}"
    if path.suffix.lower() == ".dim":
        return f"{path}: is SNAP's header alone: put the folder {path.with_suffix('.data').name} beside it"
    if zipfile.is_zipfile(path):
        return f"{path}: holds no GeoTIFF, .img or .vrt: unpack it, and give the raster"
    return f"{path}: not a raster, or damaged ({_cause(error)}): give a GeoTIFF, or fetch it again"


def _held(path: str | Path, model_bands: tuple[str, ...], options: SceneOptions) -> str | Path:
    """Give the raster that is meant where a header or an archive is given: the only one of the polarisation."""
    local = Path(path)
    held = rasters_of(local) if len(model_bands) == 1 else []
    for wanted in options.bands or alternatives(model_bands[0]):
        matches = [
            name
            for name in held
            if _polarisation_of_name(name) == wanted.upper() and not _other_layer(Path(name).stem)
        ]
        if len(matches) == 1:
            _log.info("%s: reading %s", path, matches[0])
            return matches[0]
    return path  # which of them is asked for, when it does not open


def _other_layer(name: str) -> str | None:
    """Say what a band or file holds beside backscatter, told by its name without suffix."""
    for pattern, what in _NO_BACKSCATTER:
        if re.search(rf"(^|[^a-z0-9])({pattern})(_?([vh]{{2}}|db))*$|^({pattern})_", name.lower()):
            return what
    return None


def rasters_of(path: Path) -> list[str]:
    """List the rasters of what is none itself: SNAP's BEAM-DIMAP headers, and zip archives; of others, nothing."""
    try:
        if path.suffix.lower() == ".dim":
            return sorted(map(str, path.with_suffix(".data").glob("*.img")))
        if path.suffix.lower() != ".zip":
            return []
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):  # also where an address is longer than a path may be
        return []
    rasters = (name for name in names if PurePosixPath(name).suffix.lower() in (".tif", ".tiff", ".img", ".vrt"))
    # macOS puts a file of attributes beside each, under the same name.
    return [f"/vsizip/{path}/{name}" for name in sorted(rasters) if not name.startswith("__MACOSX/")]


def _cause(error: BaseException) -> str:
    """Give GDAL's own words without the path again."""
    text = re.sub(r"(`|')[^']*/[^']*'|^\S*/\S*: ", "", cause(error))
    return text.strip().rstrip(".") or type(error).__name__


def _refuse_non_sar(dataset: Any, options: SceneOptions) -> None:
    """Refuse colour pictures; a grey one saved as RGB passes."""
    kinds = dataset.colorinterp
    if kinds[0] == ColorInterp.palette:
        raise SceneUnreadable(
            f"{dataset.name}: has a colour palette, so its values are no grey levels: convert it to grey"
        )
    if options.bands or kinds[:3] != _RGB:
        return
    for row in np.unique(np.linspace(0, dataset.height - 1, _ROWS_ASKED).astype(int)):
        try:
            red, green, blue = dataset.read([1, 2, 3], window=RasterWindow(0, int(row), dataset.width, 1))
        except _DAMAGE as error:
            raise SceneUnreadable(f"{dataset.name}: cannot be read ({_cause(error)}): fetch it again") from error
        if (red != green).any() or (red != blue).any():
            raise BandNotFound(
                f"{dataset.name}: a colour picture (red, green, blue differ), not SAR: give a SAR raster, or "
                "--band 1 to take a band all the same"
            )


def _refuse_pages(dataset: Any, options: SceneOptions) -> None:
    """Refuse a TIFF of several pages, of which GDAL opens the first: nothing says which polarisation that is."""
    pages = [name for name in dataset.subdatasets if name.startswith("GTIFF_DIR:")]
    if pages and not options.bands:
        raise BandNotFound(
            f"{dataset.name}: has {len(pages)} pages: give one of {', '.join(pages[:4])}, or --band 1 for page 1"
        )


def _refuse_other_layers(dataset: Any, named: Mapping[int, str | None], indices: tuple[int, ...]) -> None:
    """Refuse what a product holds beside backscatter, by the name of the band, or of the file of a lone band."""
    for index in indices:
        texts = [dataset.descriptions[index - 1] or ""]
        if len(named) == 1:
            texts.append(Path(shown(dataset.name)).stem)
        for text in texts:
            if what := _other_layer(text):
                raise BandNotFound(
                    f"{dataset.name}: {text} is {what}, not backscatter: give the VV or VH file or band"
                )


def _refuse_complex(dataset: Any, indices: tuple[int, ...]) -> None:
    for index in indices:
        if "complex" in dataset.dtypes[index - 1]:
            raise SceneUnreadable(
                f"{dataset.name}: band {index} is {dataset.dtypes[index - 1]} (SLC): "
                "detect and multilook it first, or give a GRD or RTC product"
            )


def _refuse_wider_than_memory(dataset: Any, indices: tuple[int, ...]) -> None:
    """Refuse a width that no strip fits into memory with: to allocate it would take other processes down, too."""
    block_rows, block_cols = max(dataset.block_shapes[index - 1] for index in indices)
    sizes = [np.dtype(dataset.dtypes[index - 1]).itemsize for index in indices]
    needed = len(indices) * _BYTES_PER_COLUMN * dataset.width + block_rows * block_cols * sum(sizes)
    there = _memory_of_machine()
    if there and needed > there:
        raise SceneUnreadable(
            f"{dataset.name}: says that it has {dataset.width} columns in blocks of {block_cols} x {block_rows}, "
            f"which take {needed / 1e9:.0f} GB of memory; {there / 1e9:.0f} GB are there: damaged, or to be cut first"
        )


def _memory_of_machine() -> int | None:
    """Give the bytes of memory that are built in; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _polarisations(dataset: Any) -> dict[int, str | None]:
    """Tell each band's polarisation, but alpha's: from its description and tags, a lone band's from the file too."""
    named: dict[int, str | None] = {}
    for index, kind in zip(dataset.indexes, dataset.colorinterp, strict=True):
        if kind != ColorInterp.alpha:
            texts = [dataset.descriptions[index - 1] or "", *_tag_texts(dataset.tags(index))]
            named[index] = _single_polarisation(texts)
    if not named:
        raise SceneUnreadable(f"{dataset.name}: has no band but alpha: give the SAR raster")
    first = next(iter(named))
    if named[first] is None and _is_lone(dataset, named):
        file = _tag_texts(dataset.tags())
        named[first] = _single_polarisation(file) or _polarisation_of_name(shown(dataset.name))
    return named


def _polarisation_of_name(name: str) -> str | None:
    """Tell it from a file's name; from a subdataset's own path (NETCDF:"file.nc":VV), its innermost part first."""
    inside = _SUBDATASET.fullmatch(name)
    if not inside:
        return _single_polarisation([Path(name).stem])
    parts = reversed(inside["path"].split("/"))
    return next(filter(None, (_single_polarisation([part]) for part in parts)), None)


def _is_lone(dataset: Any, named: dict[int, str | None]) -> bool:
    """Say whether band 1 is all there is: by itself, or as red, green and blue alike."""
    return len(named) == 1 or dataset.colorinterp[:3] == _RGB


def _tag_texts(tags: Mapping[str, str]) -> list[str]:
    keys = ("pol", "band_1", "band_name", "long_name", "description")
    pattern = r"polari[sz]ations?$"
    return [value for key, value in tags.items() if key.lower() in keys or re.search(pattern, key.lower())]


def _single_polarisation(texts: list[str]) -> str | None:
    """Tell the polarisation that texts name; where they name several, all of them, which no band has by itself."""
    one = "|".join(POLARISATIONS)
    pattern = rf"(?<![A-Z])(?:{one})+(?![A-Z])"
    words = [word for text in texts for form in (text, text.upper()) for word in re.findall(pattern, form)]
    found = {name for word in words for name in re.findall(one, word)}
    if not found and any("_1SDH_" in text.upper() for text in texts):  # of VV and VH, the model takes either
        found = {"HH", "HV"}
    if not found:  # ESA's code of a product of one polarisation (_1SSV_), and that of backscatter archives (GRDH1VVA)
        found = {2 * code for text in texts for code in re.findall(r"_1SS([VH])_", text.upper())}
        found |= {name for text in texts for name in re.findall(r"GRD[FHM]1(VV|VH|HH|HV)[A-Z]_", text.upper())}
    return " and ".join(sorted(found)) or None


def _choose_bands(
    dataset: Any, named: dict[int, str | None], model_bands: tuple[str, ...], asked: tuple[str, ...]
) -> tuple[int, ...]:
    if asked:
        if len(asked) != len(model_bands):
            raise BandNotFound(
                f"{dataset.name}: {len(asked)} bands asked for, the model takes {len(model_bands)} "
                f"({listed(*model_bands)}): give --band once for each"
            )
        return tuple(_asked_band(dataset, named, band) for band in asked)
    first = next(iter(named))
    if len(model_bands) == 1 and _is_lone(dataset, named) and named[first] in (None, *alternatives(model_bands[0])):
        return (first,)
    indices = []
    for band in model_bands:
        held = [[index for index, name in named.items() if name == one] for one in alternatives(band)]
        matches = next(filter(None, held), [])
        if len(matches) > 1:
            raise BandNotFound(
                f"{dataset.name}: {len(matches)} bands are {listed(band)}, the file has {_listed(named)}: "
                f"give --band {' or '.join(map(str, matches))}"
            )
        if not matches:
            raise BandNotFound(
                f"{dataset.name}: the model was trained on {listed(band)}, the file has {_listed(named)}: "
                f"give --band {_unambiguous(named)} to use that one all the same"
            )
        indices.append(matches[0])
    return tuple(indices)


def _asked_band(dataset: Any, named: dict[int, str | None], band: str) -> int:
    if band.isdecimal():
        index = int(band)
        if index in named:
            return index
    else:
        matches = [index for index, name in named.items() if name == band.upper()]
        if len(matches) == 1:
            return matches[0]
    raise BandNotFound(f"{dataset.name}: no band {band}, the file has {_listed(named)}: give one of those")


def _unambiguous(named: dict[int, str | None]) -> str:
    """Give what to ask for the first band by."""
    first = next(iter(named))
    name = named[first]
    return name if name in POLARISATIONS and list(named.values()).count(name) == 1 else str(first)


def _listed(named: dict[int, str | None]) -> str:
    return ", ".join(f"{index} ({name or 'not named'})" for index, name in named.items())


def _stored_fill(limits: np.iinfo[Any]) -> list[int]:
    known = [value for value in _STORED_FILL if limits.min <= value <= limits.max]
    return [*known, *([limits.min] if limits.min else []), limits.max]


def _georeference(dataset: Any) -> Georeference:
    """Give the affine, which comes before GCPs where a raster has both: so do GDAL's drivers and rasterio."""
    gcps, gcp_crs = dataset.gcps
    transform = None if dataset.transform == Affine.identity() else dataset.transform
    if transform is not None and not (np.isfinite(tuple(transform)).all() and transform.determinant):
        raise SceneUnreadable(
            f"{dataset.name}: its affine {tuple(transform)[:6]} is degenerate: write the right one (rio edit-info)"
        )
    if gcps and (transform is None or dataset.crs is None):
        return Georeference(gcps=tuple(gcps), gcp_crs=gcp_crs)
    return Georeference(crs=dataset.crs, transform=transform)


def _as_stored(nodata: float, dtype: np.dtype[Any]) -> Any:
    """Give nodata as the band's own type holds it, so that -3.4e38 or 0.1 compares equal in float32."""
    with np.errstate(over="ignore"):  # a double's lowest value, declared for a float32 band
        return dtype.type(nodata) if np.issubdtype(dtype, np.floating) else nodata
