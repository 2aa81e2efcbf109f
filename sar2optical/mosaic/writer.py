"""Write a mosaic row by row: strips and overviews to disk, then one file, renamed into place when whole.

The strips lie in a folder beside the output, `OUT.parts`::

    strip-00000224.tif         rows 224 and on: red, green, blue, and 255 where valid
    overview-1-00000112.tif    the same at half the size, and so on
    mosaic.vrt                 all strips as one raster, with overviews, georeference and tags
    mosaic.tif                 what GDAL makes of it, until it is verified and renamed

A run that stops before its output is there leaves its strips; `MosaicWriter.adopt` takes them over in the next.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # rasterio.shutil raises it bare, and exports no other name for it
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from sar2optical._utils.files import write_whole
from sar2optical.errors import OptionError, OutputError, OutputExists, OutputUnwritable
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.overviews import BLOCK, Level, halve, levels_of, mask_out, strip_name
from sar2optical.mosaic.run_folder import RunFolder, run_folder_of, shared_run_folder
from sar2optical.mosaic.strips import RUN_TAG, encode, is_of, read_strip, write_strip
from sar2optical.mosaic.tags import from_comment, to_comment
from sar2optical.mosaic.vrt import describe, metadata_of, place_of, to_bytes
from sar2optical.scene import Georeference
from sar2optical.scene.raster import GDAL_CACHE_BYTES

__all__ = [
    "COMPRESSIONS",
    "MosaicWriter",
    "StripFiles",
    "check_output",
    "cleanup",
    "run_of",
    "strips_at_once",
    "tags_of",
]

_DRIVERS = {".tif": "COG", ".tiff": "COG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

_COMPRESS_OPTIONS: dict[str, dict[str, str]] = {
    # Of 25,000 x 16,700 pixels, level 1 took 18 s and 915 MB where GDAL's own level, 6, took 29 s and 926 MB.
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "LEVEL": "1"},
    # Of 4096 x 4096 pixels, 0.2 s and 42.1 MB (deflate 0.4 s and 42.5 MB); at level 9, GDAL's own, 0.6 s and 41.7 MB.
    "zstd": {"COMPRESS": "ZSTD", "PREDICTOR": "YES", "LEVEL": "1"},
    "lzw": {"COMPRESS": "LZW", "PREDICTOR": "YES"},
    "jpeg": {"COMPRESS": "JPEG", "QUALITY": "90"},
    "none": {"COMPRESS": "NONE"},
}
COMPRESSIONS = tuple(_COMPRESS_OPTIONS)
"""What `compress` may be, the default first."""

_JPEG_LONGEST = 65500
"""libjpeg's JPEG_MAX_DIMENSION."""

_ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""Last bytes of a whole file, of the formats that say so."""

_GDAL = {
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # strips have no siblings to look for
}

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_LEAST_OF_STRIPS = {"deflate": 0.7, "zstd": 0.7, "lzw": 0.7, "jpeg": 0.05}
"""Size of a COG over that of its strips (ZSTD 1), at least; 0.9 was measured on real imagery without loss."""

_MOST_STRIPS_AT_ONCE = 6

_log = logging.getLogger(__name__)


def strips_at_once(threads: int) -> int:
    """Give the number of strips, of the mosaic and its overviews, that are being encoded and written at any time."""
    return max(2, min(threads, _MOST_STRIPS_AT_ONCE))


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that could not be written, before any work is done.

    Parameters
    ----------
    out
        Where a mosaic or picture is to be.
    overwrite
        Whether a file that is there already may be replaced.

    Raises
    ------
    OptionError
        The suffix is none of those we write.
    OutputExists
        `out` is there and `overwrite` is false.
    OutputUnwritable
        There is no such folder, it takes no files, or `out` or its strips' place is taken.
    """
    _driver(out)
    with _unwritable(out):
        folder = out.resolve().parent
        if out.is_dir():
            raise OutputUnwritable(f"cannot write {out}: it is a folder; name a file")
        if not folder.is_dir():
            raise OutputUnwritable(f"cannot write {out}: there is no folder {folder}; create it first")
        if not overwrite and os.path.lexists(out):
            raise OutputExists(f"{out} exists; pass --overwrite to replace it, or choose another name")
        # os.access says yes to root whatever the file system thinks, so a nameless file is made for real.
        with tempfile.TemporaryFile(dir=folder):
            pass
        RunFolder(out).check()


class MosaicWriter:
    """Takes finished rows from top to bottom and makes a COG, or a picture, of them.

    A context manager: `out` is either what it was before or the whole mosaic, and the strips go away with the
    latter. Memory is a few strips, whatever the mosaic's height.

    Parameters
    ----------
    out
        The file to make: .tif and .tiff become a COG, .png, .jpg and .jpeg a picture without georeference.
    shape
        Rows and columns of the mosaic.
    georeference
        Kept exactly as it is.
    tags
        Metadata of the COG.
    compress
        Of the COG, one of `COMPRESSIONS`; all but jpeg (quality 90) are lossless.
    overwrite
        Whether a file at `out` may be replaced; it stays until the new one is whole.
    threads
        That compress the COG; and some of them strips, before.
    manifest
        What the run is made of. Where it ends early, its strips stay, for `adopt` in a later run whose manifest is
        equal. None: they go away however it ends.
    restart
        Whether strips of an earlier run are thrown away.

    Raises
    ------
    OptionError
        An unknown suffix or compression, or a picture too large for its format.
    OutputExists, OutputUnwritable
        See `check_output`.
    OtherRun
        On entering, where another run's strips are there.
    """

    def __init__(
        self,
        out: Path,
        *,
        shape: tuple[int, int],
        georeference: Georeference,
        tags: Mapping[str, str],
        compress: str = "deflate",
        overwrite: bool = False,
        threads: int = 1,
        manifest: Manifest | None = None,
        restart: bool = False,
    ) -> None:
        check_output(out, overwrite=overwrite)
        self._driver = _driver(out)
        if compress not in _COMPRESS_OPTIONS:
            known = ", ".join(COMPRESSIONS)
            raise OptionError(f"compression {compress!r} is not known; choose one of {known}")
        if self._driver == "JPEG" and max(shape) > _JPEG_LONGEST:
            raise OptionError(
                f"{out.name}: JPEG holds {_JPEG_LONGEST} pixels a side, not {max(shape)}; write .png or .tif"
            )
        self._out = out
        self._target = out.resolve()  # a link stays a link
        self._folder = RunFolder(out, manifest, restart=restart)
        self._run = manifest.fingerprint if manifest else ""
        self._parts = self._folder.path
        self._description = [*place_of(georeference), metadata_of(tags)]
        self._comment = to_comment(tags)
        self._compress = compress
        self._overwrite = overwrite
        self._threads = threads
        self._levels = levels_of(shape)
        self._all_valid = True
        self._at_once = ThreadPoolExecutor(strips_at_once(threads), "strips")
        self._storing: deque[Future[None]] = deque()
        self._stored: list[tuple[int, Future[None] | None]] = []

    def __enter__(self) -> MosaicWriter:
        with _unwritable(self._out):
            self._folder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._at_once.shutdown()
        finally:
            self._folder.__exit__(kind, error, trace)

    @property
    def rows(self) -> int:
        """Rows that have come, from the top; `rows_on_disk` may be fewer."""
        return self._levels[0].rows

    def rows_on_disk(self) -> int:
        """Wait for strips that are on their way, and give the rows that are there for good, from the top on."""
        rows = 0
        for count, stored in self._stored:
            if stored is not None and stored.exception() is not None:
                break
            rows += count
        return rows

    @property
    def bytes_of_strips(self) -> int:
        """What lies on disk so far."""
        return sum(file.stat().st_size for file in self._parts.glob("*.tif"))

    def resume(self, told: Callable[[int], None] | None = None) -> int:
        """Take over strips that are on disk, each checked, from the top down to the first that is missing or damaged.

        Parameters
        ----------
        told
            Called with the number of rows so far.

        Returns
        -------
        int
            Rows taken over.
        """
        mosaic = self._levels[0]
        while mosaic.rows < mosaic.height:
            rgba = read_strip(self._parts / mosaic.strip_name(mosaic.rows), width=mosaic.width, run=self._run)
            if rgba is None or mosaic.rows + rgba.shape[1] > mosaic.height:
                break
            self._all_valid = self._all_valid and bool(rgba[3].all())
            self._append(rgba, on_disk=True)
            if told:
                told(mosaic.rows)
        return mosaic.rows

    def write(self, rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next finished rows to disk, and their part of the overviews.

        They are there for good when `finish` begins, or the writer is left.

        Parameters
        ----------
        rgb
            uint8 `(3, rows, width)`; what it holds where `valid` is false does not matter.
        valid
            bool `(rows, width)`, True where the pixel is usable.

        Raises
        ------
        OutputUnwritable
            The disk is full, or takes no files; it may be earlier rows that it did not take.
        ValueError
            Arrays of another shape or type, or more rows than the mosaic has.
        """
        mosaic = self._levels[0]
        rows = valid.shape[0]
        if rgb.shape != (3, rows, mosaic.width) or valid.shape != rgb.shape[1:] or rows == 0:
            raise ValueError(f"rgb {rgb.shape} and valid {valid.shape} are not rows of {mosaic.width} pixels")
        if rgb.dtype != np.uint8 or valid.dtype != np.bool_:
            raise ValueError(f"uint8 and bool expected, not {rgb.dtype} and {valid.dtype}")
        if mosaic.rows + rows > mosaic.height:
            raise ValueError(f"{mosaic.rows} + {rows} rows are more than the mosaic's {mosaic.height}")
        self._all_valid = self._all_valid and bool(valid.all())
        self._append(mask_out(rgb, valid))

    def finish(self) -> None:
        """Make the output of the strips, verify it and rename it into place.

        Raises
        ------
        OutputExists
            Somebody else made `out` in the meantime, and it is not to be overwritten.
        OutputUnwritable
            The disk is full, or what was written does not read back.
        ValueError
            Rows are missing.
        """
        self._check_complete()
        self._wait_for_strips()
        self._check_run()
        made = self._parts / f"mosaic{self._out.suffix.lower()}"
        with _unwritable(self._out), rasterio.Env(**_GDAL):
            if self._driver == "COG":
                self._check_space()
                self._make_cog(made)
                self._verify_cog(made)
            else:
                self._make_picture(made)
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            self._publish(made)
        self._folder.done = True

    def write_preview(self, path: Path, longest: int = 1024) -> None:
        """Write a small PNG of the mosaic, with alpha where something is invalid; before or after `finish`.

        Parameters
        ----------
        path
            A .png; replaced under the same condition as the output.
        longest
            Pixels a side at most. The mosaic is halved until it fits, so the picture may have half of it.

        Raises
        ------
        OptionError
            `path` is no .png, or `longest` is below 1.
        OutputExists, OutputUnwritable
            See `check_output`.
        ValueError
            Rows are missing.
        """
        check_output(path, overwrite=self._overwrite)
        if _driver(path) != "PNG" or longest < 1:
            raise OptionError(f"a preview is a .png of one pixel or more, not {path.name} of {longest}")
        self._check_complete()
        self._wait_for_strips()
        number = next((n for n, level in enumerate(self._levels) if max(level.shape) <= longest), -1)
        level = self._levels[number]
        with _unwritable(path), rasterio.Env(**_GDAL):
            source = self._parts / "overview-0.vrt"
            source.write_bytes(to_bytes(describe(level, "rgba")))
            with _open(source) as dataset:
                picture = dataset.read()
            while max(picture.shape) > longest:
                picture = halve(picture)
            with _without_georeference():
                rgb = picture[:3] if picture[3].all() else picture
                encoded = encode(rgb, driver="PNG", COMMENT=self._comment)
            write_whole(path.resolve(), encoded)

    def _append(self, rgba: npt.NDArray[np.uint8], *, on_disk: bool = False) -> None:
        """Store `(4, rows, width)` of the mosaic, and of each level what has become complete with it."""
        level = self._levels[0]
        if on_disk:
            self._stored.append((rgba.shape[1], None))
            level.note(rgba.shape[1])
        else:
            self._store(level, rgba)
        for finer, coarser in pairwise(self._levels):
            ready = finer.gather(rgba)
            if ready is None:
                return
            rgba = halve(ready)
            self._store(coarser, rgba)

    def _store(self, level: Level, rgba: npt.NDArray[np.uint8]) -> None:
        """Have a strip encoded and written, while the next ones come: one core encodes less than a GPU makes."""
        self._wait_for_strips(strips_at_once(self._threads) - 1)
        file = self._parts / level.strip_name(level.rows)
        storing = self._at_once.submit(write_strip, file, rgba, self._run)
        self._storing.append(storing)
        if level.number == 0:
            self._stored.append((rgba.shape[1], storing))
        level.note(rgba.shape[1])

    def _wait_for_strips(self, most: int = 0) -> None:
        """Wait until so many at most are not on disk yet, and raise what went wrong with the others."""
        with _unwritable(self._out):
            while len(self._storing) > most or (self._storing and self._storing[0].done()):
                self._storing.popleft().result()

    def _check_complete(self) -> None:
        mosaic = self._levels[0]
        if mosaic.rows != mosaic.height:
            raise ValueError(f"{mosaic.rows} of the mosaic's {mosaic.height} rows are written")

    def _check_run(self) -> None:
        """Refuse strips that somebody else has written over ours meanwhile: workers that an older run had at it."""
        level = self._levels[0]
        for row, _ in level.strips:
            if not is_of(self._parts / level.strip_name(row), self._run):
                raise OutputUnwritable(
                    f"cannot write {self._out}: another run has written its strips over this one's; wait for its "
                    "end, then run the same command again"
                )

    def _check_space(self) -> None:
        """Refuse early where the COG cannot fit: on a full disk libtiff complains at length on stderr."""
        if self._compress == "none":
            least = sum(level.height * level.width * 3 for level in self._levels)
        else:
            least = round(self.bytes_of_strips * _LEAST_OF_STRIPS[self._compress])
        free = shutil.disk_usage(self._parts).free
        if free < least:
            raise OutputUnwritable(
                f"cannot write {self._out}: it takes {least / 1e6:.0f} MB or more, {free / 1e6:.0f} MB are free "
                "there; free some space, or choose another folder"
            )

    def _make_cog(self, made: Path) -> None:
        for level in self._levels[1:]:
            (self._parts / level.vrt_name).write_bytes(to_bytes(describe(level, "masked")))
        mosaic = describe(self._levels[0], "masked", overviews=self._levels[1:])
        mosaic.extend(self._description)
        source = self._parts / self._levels[0].vrt_name
        source.write_bytes(to_bytes(mosaic))
        rasterio.shutil.copy(
            source,
            made,
            driver="COG",
            BLOCKSIZE=BLOCK,
            OVERVIEWS="FORCE_USE_EXISTING",
            NUM_THREADS=self._threads,
            BIGTIFF="IF_SAFER",
            **_COMPRESS_OPTIONS[self._compress],
        )

    def _verify_cog(self, made: Path) -> None:
        """Compare the last block of every level, the mask's too, with what it was made of."""
        with _open(made) as cog:
            overviews = len(cog.overviews(1))
        if overviews != len(self._levels) - 1:
            raise OSError(f"GDAL wrote {overviews} overviews of {len(self._levels) - 1}")
        for level in self._levels:
            which = {"overview_level": level.number - 1} if level.number else {}
            with _open(made, **which) as cog, _open(self._parts / level.vrt_name) as source:
                if cog.shape != level.shape:
                    raise OSError(f"GDAL wrote {cog.shape} pixels of {level.shape}")
                last = Window.from_slices(*(((n - 1) // BLOCK * BLOCK, n) for n in level.shape))
                same = np.array_equal(cog.read_masks(1, window=last), source.read_masks(1, window=last))
                pixels = cog.read(window=last)
                if self._compress != "jpeg":
                    same = same and np.array_equal(pixels, source.read(window=last))
            if not same:
                raise OSError("what GDAL wrote differs from what it was given")

    def _make_picture(self, made: Path) -> None:
        """Write the strips as PNG or JPEG, with a comment; georeference and tags would go into a sidecar."""
        source = self._parts / "mosaic.vrt"
        colours = "rgba" if self._driver == "PNG" and not self._all_valid else "rgb"
        source.write_bytes(to_bytes(describe(self._levels[0], colours)))
        options = {"QUALITY": 95} if self._driver == "JPEG" else {}
        rasterio.shutil.copy(source, made, driver=self._driver, COMMENT=self._comment, **options)
        ending = _ENDINGS[self._driver]
        with made.open("rb") as file:
            file.seek(-len(ending), os.SEEK_END)
            if file.read() != ending:
                raise OSError("GDAL did not write it to its end")

    def _publish(self, made: Path) -> None:
        if not self._overwrite and self._target.exists():
            raise OutputExists(f"{self._out} has come to exist meanwhile; pass --overwrite to replace it")
        if not self._target.exists():
            made.replace(self._target)
            return
        made.replace(self._target)
        # They belong to the file that was replaced: GDAL would show its overviews and statistics for ours.
        for sidecar in (".aux.xml", ".ovr", ".msk"):
            self._target.with_name(self._target.name + sidecar).unlink(missing_ok=True)


def run_of(out: Path) -> str | None:
    """Give the fingerprint of the run that made a mosaic; None where there is none, or it does not tell."""
    return tags_of(out).get(RUN_TAG)


def tags_of(out: Path) -> dict[str, str]:
    """Give a mosaic's tags, of a picture those in its comment; none where there is no mosaic."""
    if not out.is_file():
        return {}
    try:
        with _open(out) as dataset:
            tags: dict[str, str] = dataset.tags()
    except (RasterioError, OSError, UnicodeError):
        return {}
    return tags | from_comment(tags.get("COMMENT") or tags.get("Comment") or "")


def cleanup(out: Path) -> None:
    """Remove the strips of a mosaic that is there, which a kill after the last step has left."""
    manifest = Manifest.read(run_folder_of(out))
    if manifest is None or run_of(out) != manifest.fingerprint:
        return
    with suppress(OSError), RunFolder(out, manifest) as folder:
        folder.done = True


class StripFiles:
    """Strips of a mosaic that another process will make: no overviews.

    To `write`, a context manager: it shares the strips' folder with others that write the same run's.

    Parameters
    ----------
    out
        The mosaic to be.
    width
        Its columns.
    manifest
        Of the run.
    row
        First of the rows that will be written.
    """

    def __init__(self, out: Path, width: int, manifest: Manifest, row: int = 0) -> None:
        self._out = out
        self._width = width
        self._manifest = manifest
        self._row = row
        self._sharing = ExitStack()

    def begin(self, *, restart: bool = False) -> None:
        """Make the folder, with the run's manifest in it, for whoever writes strips.

        Raises
        ------
        OtherRun, OutputUnwritable
            As `MosaicWriter` does.
        """
        with _unwritable(self._out):
            RunFolder(self._out, self._manifest, restart=restart).prepare()

    def rows(self, height: int) -> int:
        """Count the rows, from the top, that are on disk and can be trusted."""
        row = 0
        while row < height:
            found = read_strip(self._path(row), width=self._width, run=self._manifest.fingerprint)
            if found is None:
                break
            row += found.shape[1]
        return row

    def __enter__(self) -> StripFiles:
        self._sharing.enter_context(shared_run_folder(self._out, self._manifest))
        return self

    def __exit__(self, *_: object) -> None:
        self._sharing.close()

    def has(self, rows: tuple[int, int]) -> bool:
        """Say whether the strip of these rows, first and past-the-last, is on disk and can be trusted."""
        found = read_strip(self._path(rows[0]), width=self._width, run=self._manifest.fingerprint)
        return found is not None and found.shape[1] == rows[1] - rows[0]

    def write(self, rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next strip, see `MosaicWriter.write`."""
        with _unwritable(self._out):
            write_strip(self._path(self._row), mask_out(rgb, valid), self._manifest.fingerprint)
        self._row += len(valid)

    def _path(self, row: int) -> Path:
        return run_folder_of(self._out) / strip_name(row)


@contextmanager
def _without_georeference() -> Iterator[None]:
    """Say nothing where a raster has none on purpose; not while streaming: all threads share the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _open(path: Path, **options: int) -> DatasetReader:
    with _without_georeference():
        return rasterio.open(path, **options)


def _driver(out: Path) -> str:
    try:
        return _DRIVERS[out.suffix.lower()]
    except KeyError:
        known = ", ".join(_DRIVERS)
        raise OptionError(f"cannot write {out}: suffix {out.suffix!r} is none of {known}") from None


@contextmanager
def _unwritable(out: Path) -> Iterator[None]:
    """Turn what the system or GDAL says into one line: what, why, how much space is left, what to do."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, UnicodeError, RasterioError, CPLE_BaseError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if isinstance(error, OSError) and error.errno in _FORBIDDEN:  # numbers of GDAL's errors are others
            raise OutputUnwritable(f"cannot write {out}: {reason}; choose a folder that you may write to") from error
        space = ""
        with suppress(OSError):
            space = f" ({shutil.disk_usage(out.resolve().parent).free / 1e9:.1f} GB free there)"
        raise OutputUnwritable(
            f"cannot write {out}: {reason}{space}; free some space, or choose a folder that takes the file"
        ) from error
