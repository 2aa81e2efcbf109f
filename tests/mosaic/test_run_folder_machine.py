"""A run folder under writes, kills, damage and resumes in any order: the mosaic is whole and right, or absent."""

from __future__ import annotations

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
from sar2optical.scene import Georeference

HEIGHT, WIDTH, STRIP = 70, 40, 16
RGB = np.random.default_rng(8).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
VALID = np.random.default_rng(9).random((HEIGHT, WIDTH)) > 0.1
GEOREFERENCE = Georeference(crs=rasterio.crs.CRS.from_epsg(32631), transform=Affine(10, 0, 5e5, 0, -10, 5e6))


class RunFolderMachine(RuleBasedStateMachine):
    """One run of a mosaic, which other rules kill and damage."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.out = self.folder / "out.tif"
        self.overlap = "64"
        self.writer: MosaicWriter | None = None
        self.intact: set[int] = set()
        """First rows of the strips on disk that are whole."""

    def teardown(self) -> None:
        self._leave()
        shutil.rmtree(self.folder)

    def _leave(self) -> None:
        if self.writer:
            self.writer.__exit__(None, None, None)
            self.writer = None

    @precondition(lambda self: self.writer is None and not self.out.exists())
    @rule()
    def start(self) -> None:
        self.writer = MosaicWriter(
            self.out, shape=(HEIGHT, WIDTH), georeference=GEOREFERENCE, tags={},
            manifest=Manifest({"overlap": self.overlap}), options=MosaicOptions(restart=False),
        ).__enter__()  # fmt: skip
        expected = next(row for row in [*range(0, HEIGHT, STRIP), HEIGHT] if row not in self.intact)
        assert self.writer.resume() == expected

    @precondition(lambda self: self.writer is not None and self.writer.rows < HEIGHT)
    @rule()
    def write(self) -> None:
        rows = slice(self.writer.rows, min(self.writer.rows + STRIP, HEIGHT))
        self.writer.write(RGB[:, rows], VALID[rows])
        self.intact.add(rows.start)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def stop(self) -> None:
        """End the run with its strips, as an error or Ctrl-C does."""
        self.writer.rows_on_disk()
        self._leave()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def kill(self) -> None:
        """End it without any cleaning up: the folder stays as it was at that moment."""
        self.writer.rows_on_disk()
        copy = self.folder / "copy"
        shutil.copytree(run_folder_of(self.out), copy)
        self._leave()
        shutil.rmtree(run_folder_of(self.out), ignore_errors=True)
        copy.rename(run_folder_of(self.out))

    @precondition(lambda self: self.writer is None and self.intact and not self.out.exists())
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Flip a byte in the middle of a strip, cut it, or remove it: it is written again."""
        row = data.draw(st.sampled_from(sorted(self.intact)))
        strip = run_folder_of(self.out) / f"strip-{row:08d}.tif"
        content = bytearray(strip.read_bytes())
        how = data.draw(st.sampled_from(["flip", "cut", "remove"]))
        if how == "remove":
            strip.unlink()
        else:
            content[len(content) // 2] ^= 0xFF
            strip.write_bytes(content if how == "flip" else content[: len(content) // 2])
        self.intact.remove(row)

    @precondition(lambda self: self.writer is not None and self.writer.rows == HEIGHT)
    @rule()
    def finish(self) -> None:
        self.writer.finish()
        self._leave()
        self.intact.clear()
        with rasterio.open(self.out) as mosaic:
            mask = mosaic.dataset_mask() != 0
            np.testing.assert_array_equal(mask, VALID)
            np.testing.assert_array_equal(mosaic.read()[:, VALID], RGB[:, VALID])
        assert not run_folder_of(self.out).exists()

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
TestRunFolder.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
