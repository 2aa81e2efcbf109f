"""Run folder: the folder beside an output that holds the strips of one run, removed when the output is complete.

A run that stops early leaves its strips and its manifest; the next run with an equal manifest resumes from them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

from sar2optical._utils.files import try_lock, write_whole
from sar2optical._utils.signals import sigint_ignored
from sar2optical.errors import OtherRun, OutputUnwritable
from sar2optical.mosaic.manifest import MANIFEST, Manifest

__all__ = ["RunFolder", "refuse_other_run", "run_folder_of", "shared_run_folder"]

_LOCK = "lock"
"""Name of the file that is locked during a run, and marks run folders. The system unlocks it when a run is killed."""

_RUN_FILES = re.compile(
    r"\.?(((strip|half)-\d{8}|overview-\d+(-\d{8})?|mosaic)\.(tif|tiff|png|jpg|jpeg|vrt)|manifest\.json)(\.\w+)*",
    re.ASCII,
)
"""Names of the other files in a run folder, with suffixes for temporary files (.tmp) and GDAL's sidecars."""

_STRIPS = "strip-*.tif"
_HALVES = "half-*.tif"

_REMOVERS = 4
"""Threads that remove strips: the system takes half a second for a gigabyte."""

_log = logging.getLogger(__name__)


class RunFolder:
    """Run folder of an output, `OUT.parts`.

    A context manager: entering locks the folder and removes what a run with this manifest cannot use; leaving removes
    the folder, or keeps the strips for a later run.

    Parameters
    ----------
    out
        Path of the output, in an existing folder.
    manifest
        Manifest of the run; None: nothing is kept for a later run.
    restart
        Whether existing strips are removed, whatever run they belong to.
    """

    def __init__(self, out: Path, manifest: Manifest | None = None, *, restart: bool = False) -> None:
        self.path = run_folder_of(out)
        self.done = False
        """Set to true when the strips are no longer needed."""
        self._out = out
        self._manifest = manifest
        self._restart = restart
        self._keep = False
        self._lock: BufferedWriter | None = None

    def check(self) -> None:
        """Refuse a path where something else exists that the run would have to remove.

        Raises
        ------
        OutputUnwritable
            The path is not a folder, or the folder holds a file that no run has written.
        """
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_dir():
            raise OutputUnwritable(f"cannot write {self._out}: its run folder {self.path} is not a folder: move it")
        entries = sorted(self.path.iterdir())
        marked = (self.path / _LOCK).is_file()
        foreign = [entry.name for entry in entries if not (marked and _is_run_file(entry))]
        if foreign:
            raise OutputUnwritable(
                f"cannot write {self._out}: its run folder {self.path} contains {foreign[0]}, which does not "
                "belong to a run: move it"
            )

    def __enter__(self) -> Self:
        self.check()
        self.path.mkdir(exist_ok=True)
        self._lock = _locked(self._out, shared=False)
        try:
            self._clear_other_runs()
        except BaseException:
            self._lock.close()
            raise
        return self

    def prepare(self) -> None:
        """Make the folder ready for other processes to write strips, and unlock it."""
        with self:
            self._keep = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = self._keep or (not self.done and self._manifest is not None and any(self.path.glob(_STRIPS)))
        with sigint_ignored():  # users press Ctrl-C more than once
            with suppress(OSError):
                self._clear(keep_strips=kept)
                if not kept:
                    # Removed last: without it, the folder that a kill leaves would not be recognized as a run folder.
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()
            if self._lock:
                self._lock.close()
        if not kept and self.path.exists():
            _log.warning("cannot remove %s: it is no longer needed, delete it", self.path)

    def _clear_other_runs(self) -> None:
        """Keep the strips of a run with an equal manifest, refuse those of another run, remove all other files."""
        same = False
        if self._manifest is not None and not self._restart:
            refuse_other_run(self._out, self._manifest)
            same = Manifest.read(self.path) == self._manifest
        self._clear(keep_strips=same)
        if self._manifest is not None and not same:
            write_whole(self.path / MANIFEST, self._manifest.to_bytes())

    def _clear(self, *, keep_strips: bool) -> None:
        kept = {_LOCK}
        if keep_strips:
            strips = (strip.name for names in (_STRIPS, _HALVES) for strip in self.path.glob(names))
            kept |= {MANIFEST, *strips}
        with ThreadPoolExecutor(_REMOVERS) as removers:
            for _ in removers.map(_remove, [entry for entry in self.path.iterdir() if entry.name not in kept]):
                pass  # raises the first error


def _remove(entry: Path) -> None:
    _log.debug("removing %s", entry)
    entry.unlink()


@contextmanager
def shared_run_folder(out: Path, manifest: Manifest) -> Iterator[Path]:
    """Share the folder that `RunFolder.prepare` has made with other processes that write strips of the same run.

    Raises
    ------
    OtherRun
        Another run uses the folder now.
    OutputUnwritable
        The folder was removed, or a run has locked it for itself.
    """
    try:
        lock = _locked(out, shared=True)
    except FileNotFoundError as error:
        raise OutputUnwritable(
            f"cannot write {out}: its run folder was removed: run the same command again"
        ) from error
    with lock:
        if Manifest.read(run_folder_of(out)) != manifest:
            raise OtherRun(f"{out}: another run uses its run folder now: wait until it ends, then run again")
        yield run_folder_of(out)


def refuse_other_run(out: Path, manifest: Manifest) -> None:
    """Refuse to continue if the run folder holds strips of another run.

    Raises
    ------
    OtherRun
        The message names the differences.
    """
    folder = run_folder_of(out)
    earlier = Manifest.read(folder)
    if earlier and earlier != manifest and any(folder.glob(_STRIPS)):
        raise OtherRun(
            f"{out}: {folder.name} holds strips of another run ({'; '.join(earlier.differences(manifest))}): "
            "give the options of that run to resume it, or --restart to remove its strips"
        )


def _locked(out: Path, *, shared: bool) -> BufferedWriter:
    """Open the lock file of a run folder, and lock it."""
    path = run_folder_of(out) / _LOCK
    lock = path.open("ab")
    with suppress(FileNotFoundError):
        # A different file or none: the owner of the lock has just removed it together with the folder.
        if try_lock(lock, shared=shared) and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
    lock.close()
    raise OutputUnwritable(
        f"cannot write {out}: another run is writing it: wait until it ends, or choose another name"
    )


def run_folder_of(out: Path) -> Path:
    """Return the path of an output's run folder."""
    target = out.resolve()
    return target.with_name(target.name + ".parts")


def _is_run_file(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_file():
        return False
    return entry.name == _LOCK or _RUN_FILES.fullmatch(entry.name) is not None
