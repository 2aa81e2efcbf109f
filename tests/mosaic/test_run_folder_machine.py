"""A run folder under writes, kills, damage and resumes in any order: the mosaic is whole and right, or absent."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sar2optical.mosaic import Manifest, MosaicOptions, MosaicWriter, run_folder_of
from sar2optical.mosaic.coding import BlockCoding
from sar2optical.scene import Georeference

HEIGHT, WIDTH, BLOCK = 70, 40, 16
STRIPS = range(0, HEIGHT, BLOCK)
COMPRESSIONS = ("deflate", "zstd", "jpeg")
FILES: dict[str, str] = {}
"""SHA-256 of the first file of each compression."""
RGB = np.random.default_rng(8).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
VALID = np.random.default_rng(9).random((HEIGHT, WIDTH)) > 0.1
GEOREFERENCE = Georeference(crs=rasterio.crs.CRS.from_epsg(32631), transform=Affine(10, 0, 5e5, 0, -10, 5e6))


class RunFolderMachine(RuleBasedStateMachine):
    """Runs of a mosaic, which other rules kill and damage.

    A run in JPEG is another run than a lossless one. Its strips have their `half-` beside them, without which they
    are not used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.out = self.folder / "out.tif"
        self.writer: MosaicWriter | None = None
        self.lossy: bool | None = None
        """Whether the strips on disk are lossy; None if there are none."""
        self.intact: set[int] = set()
        """First rows of the strips on disk that a run can use."""

    def teardown(self) -> None:
        self._leave()
        shutil.rmtree(self.folder)

    def _leave(self) -> None:
        if self.writer:
            self.writer.__exit__(None, None, None)
            self.writer = None

    @precondition(lambda self: self.writer is None and not self.out.exists())
    @rule(compress=st.sampled_from(COMPRESSIONS))
    def start(self, compress: str) -> None:
        lossy = compress == "jpeg"
        if self.lossy not in (None, lossy):
            compress, lossy = ("jpeg", True) if self.lossy else ("deflate", False)
        self.lossy = lossy
        self.writer = MosaicWriter(
            self.out, shape=(HEIGHT, WIDTH), georeference=GEOREFERENCE, tags={},
            manifest=Manifest({"overlap": "64", "compress": "jpeg" if lossy else "lossless"}),
            options=MosaicOptions(coding=BlockCoding(compress=compress, blocksize=BLOCK)),
        ).__enter__()  # fmt: skip
        expected = next(row for row in [*STRIPS, HEIGHT] if row not in self.intact)
        assert self.writer.resume() == expected

    @precondition(lambda self: self.writer is not None and self.writer.rows < HEIGHT)
    @rule(count=st.integers(1, 40))
    def write(self, count: int) -> None:
        assert self.writer is not None
        rows = slice(self.writer.rows, min(self.writer.rows + count, HEIGHT))
        self.writer.write(RGB[:, rows], VALID[rows])
        complete = rows.stop if rows.stop == HEIGHT else rows.stop // BLOCK * BLOCK
        self.intact |= {row for row in STRIPS if rows.start // BLOCK * BLOCK <= row < complete}

    @precondition(lambda self: self.writer is not None)
    @rule()
    def stop(self) -> None:
        """End the run with its strips, as an error or Ctrl-C does; rows that wait for their strip are lost."""
        assert self.writer is not None
        rows = self.writer.rows
        assert self.writer.rows_on_disk() == (rows if rows == HEIGHT else rows // BLOCK * BLOCK)
        self._leave()
        self._forget()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def kill(self) -> None:
        """End it without any cleaning up: the folder stays as it was at that moment."""
        assert self.writer is not None
        self.writer.rows_on_disk()
        copy = self.folder / "copy"
        # Overviews may still be written: their temporary files would be gone before they are copied.
        shutil.copytree(run_folder_of(self.out), copy, ignore=shutil.ignore_patterns(".*.tmp"))
        (copy / ".overview-1-00000000.tif.1234.tmp").write_bytes(b"half")
        self._leave()
        shutil.rmtree(run_folder_of(self.out), ignore_errors=True)
        copy.rename(run_folder_of(self.out))
        self._forget()

    def _forget(self) -> None:
        """Without a strip on disk, usable or not, the next run may be any."""
        if not any(run_folder_of(self.out).glob("strip-*")):
            self.lossy = None

    @precondition(lambda self: self.writer is None and self.intact and not self.out.exists())
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Flip a byte in the middle of a strip or its half, cut it, or remove it: it is written again."""
        row = data.draw(st.sampled_from(sorted(self.intact)))
        kind = data.draw(st.sampled_from(["strip", "half"])) if self.lossy else "strip"
        strip = run_folder_of(self.out) / f"{kind}-{row:08d}.tif"
        content = bytearray(strip.read_bytes())
        how = data.draw(st.sampled_from(["flip", "cut", "remove"]))
        if how == "remove":
            strip.unlink()
        else:
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= 0xFF
            strip.write_bytes(content if how == "flip" else content[:at])
        self.intact.remove(row)
        self._forget()

    @precondition(lambda self: self.writer is not None and self.writer.rows == HEIGHT)
    @rule()
    def finish(self) -> None:
        assert self.writer is not None
        self.writer.finish()
        self._leave()
        self.intact.clear()
        with rasterio.open(self.out) as mosaic:
            mask = mosaic.dataset_mask() != 0
            np.testing.assert_array_equal(mask, VALID)
            if not self.lossy:
                np.testing.assert_array_equal(mosaic.read()[:, VALID], RGB[:, VALID])
        digest = hashlib.sha256(self.out.read_bytes()).hexdigest()
        name = "jpeg" if self.lossy else self._compression()
        # Whatever has happened to the runs before, the file is the same.
        assert FILES.setdefault(name, digest) == digest
        self.lossy = None
        assert not run_folder_of(self.out).exists()

    def _compression(self) -> str:
        with rasterio.open(self.out) as mosaic:
            return str(mosaic.compression.name)

    @precondition(lambda self: self.writer is None and self.out.exists())
    @rule()
    def begin_again(self) -> None:
        self.out.unlink()

    @invariant()
    def the_mosaic_is_whole_or_absent(self) -> None:
        if self.out.exists():
            with rasterio.open(self.out) as mosaic:
                assert mosaic.shape == (HEIGHT, WIDTH)


TestRunFolder = pytest.mark.slow(RunFolderMachine.TestCase)
TestRunFolder.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
