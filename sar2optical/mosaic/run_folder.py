"""The folder beside an output where its strips lie: one run's at a time, gone when the output is there.

A run that stops before leaves its strips and its manifest; the next one with an equal manifest goes on from them.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

from sar2optical._utils.files import try_lock, write_whole
from sar2optical.errors import OtherRun, OutputUnwritable
from sar2optical.mosaic.manifest import MANIFEST, Manifest

_LOCK = "lock"
"""Held while a run lasts; the system lets go of it when the run is killed. Also tells our folder from another."""

_OURS = re.compile(
    r"\.?((strip-\d{8}|overview-\d+(-\d{8})?|mosaic)\.(tif|tiff|png|jpg|jpeg|vrt)|manifest\.json)(\.\w+)*", re.ASCII
)
"""Names of the other files in it; GDAL and we add .tmp and the like."""

_STRIPS = "strip-*.tif"

_log = logging.getLogger(__name__)


class RunFolder:
    """`OUT.parts`, a context manager.

    Parameters
    ----------
    out
        The output, whose folder is there.
    manifest
        Of the run; None: nothing is kept for a later one.
    restart
        Whether strips that are there are thrown away, whatever run they are of.
    """

    def __init__(self, out: Path, manifest: Manifest | None = None, *, restart: bool = False) -> None:
        self.path = run_folder_of(out)
        self.done = False
        """Set when the strips are no longer needed."""
        self._out = out
        self._manifest = manifest
        self._restart = restart
        self._keep = False
        self._lock: BufferedWriter | None = None

    def check(self) -> None:
        """Refuse to put strips where something lies that we would have to remove.

        Raises
        ------
        OutputUnwritable
            Where it is no folder, or holds a file that no run of ours has left.
        """
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_dir():
            raise OutputUnwritable(f"cannot write {self._out}: {self.path} is where the strips' folder goes; move it")
        entries = sorted(self.path.iterdir())
        marked = (self.path / _LOCK).is_file()
        foreign = [entry.name for entry in entries if not (marked and _is_ours(entry))]
        if foreign:
            raise OutputUnwritable(
                f"cannot write {self._out}: {self.path}, the strips' folder, holds {foreign[0]}, which is not ours; "
                "move it"
            )

    def __enter__(self) -> Self:
        self.check()
        self.path.mkdir(exist_ok=True)
        self._lock = _locked(self._out, shared=False)
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        return self

    def prepare(self) -> None:
        """Leave the folder ready for strips that others write, and let go of it."""
        with self:
            self._keep = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = self._keep or (not self.done and self._manifest is not None and any(self.path.glob(_STRIPS)))
        with _uninterrupted():
            with suppress(OSError):
                self._clear(keep_strips=kept)
                if not kept:
                    # Last: without it, what a kill leaves of the folder would not be known as ours.
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()
            if self._lock:
                self._lock.close()
        if not kept and self.path.exists():
            _log.warning("%s could not be removed; it is no longer needed", self.path)

    def _take_over(self) -> None:
        """Keep what an equal run has left, refuse another's, clear the rest."""
        same = False
        if self._manifest is not None and not self._restart:
            refuse_other_run(self._out, self._manifest)
            same = Manifest.read(self.path) == self._manifest
        self._clear(keep_strips=same)
        if self._manifest is not None and not same:
            write_whole(self.path / MANIFEST, self._manifest.to_bytes())

    def _clear(self, *, keep_strips: bool) -> None:
        kept = {_LOCK, MANIFEST, *(strip.name for strip in self.path.glob(_STRIPS))} if keep_strips else {_LOCK}
        for entry in self.path.iterdir():
            if entry.name not in kept:
                _log.debug("removing %s", entry)
                entry.unlink()


@contextmanager
def shared_run_folder(out: Path, manifest: Manifest) -> Iterator[Path]:
    """Hold the folder that `RunFolder.prepare` has left, together with others that write the same run's strips.

    Raises
    ------
    OtherRun
        Where the folder is another run's by now.
    OutputUnwritable
        Where the folder is gone, or a run has it alone.
    """
    try:
        lock = _locked(out, shared=True)
    except FileNotFoundError as error:
        raise OutputUnwritable(f"cannot write {out}: the folder of its strips is gone; run it again") from error
    with lock:
        if Manifest.read(run_folder_of(out)) != manifest:
            raise OtherRun(f"{out}: another run has taken over the folder of its strips: wait for it, then run again")
        yield run_folder_of(out)


def refuse_other_run(out: Path, manifest: Manifest) -> None:
    """Refuse to go on where there are strips of a run that is not the same.

    Raises
    ------
    OtherRun
        Naming the differences.
    """
    folder = run_folder_of(out)
    earlier = Manifest.read(folder)
    if earlier and earlier != manifest and any(folder.glob(_STRIPS)):
        raise OtherRun(
            f"{out}: {folder.name} holds strips of another run ({'; '.join(earlier.differences(manifest))}): "
            "give what was given then to go on from them, or --restart to begin anew"
        )


def _locked(out: Path, *, shared: bool) -> BufferedWriter:
    """Open the lock of an output's strips, and take it."""
    path = run_folder_of(out) / _LOCK
    lock = path.open("ab")
    with suppress(FileNotFoundError):
        # Otherwise its owner has just removed it, and the folder with it.
        if try_lock(lock, shared=shared) and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
    lock.close()
    raise OutputUnwritable(f"cannot write {out}: another run is writing it; wait for it, or choose another name")


def run_folder_of(out: Path) -> Path:
    """Give the folder of an output's strips."""
    target = out.resolve()
    return target.with_name(target.name + ".parts")


def _is_ours(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_file():
        return False
    return entry.name == _LOCK or _OURS.fullmatch(entry.name) is not None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C for as long as cleaning up takes; people press it more than once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with suppress(TypeError):  # a handler that Python did not set
            signal.signal(signal.SIGINT, before)
