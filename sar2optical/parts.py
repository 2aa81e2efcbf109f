"""The folder beside an output where its strips lie: one run's alone, and gone when the run is."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

from sar2optical.errors import OutputUnwritable
from sar2optical.files import try_lock

_LOCK = "lock"
"""Held while a run lasts; the system lets go of it when the run is killed. Also tells our folder from another."""

_OURS = re.compile(r"\.?(strip-\d{8}|overview-\d+(-\d{8})?|mosaic)\.(tif|tiff|png|jpg|jpeg|vrt)(\.\w+)*", re.ASCII)
"""Names of the other files in it; GDAL and we add .tmp and the like."""

_log = logging.getLogger(__name__)


class PartsFolder:
    """`OUT.parts`, a context manager.

    Parameters
    ----------
    out
        The output, whose folder is there.
    """

    def __init__(self, out: Path) -> None:
        target = out.resolve()
        self.path = target.with_name(target.name + ".parts")
        self._out = out
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
        self._lock = self._claim()
        for entry in self.path.iterdir():
            if entry.name != _LOCK:
                _log.debug("removing %s, left by a run that was killed", entry)
                entry.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _uninterrupted():
            shutil.rmtree(self.path, ignore_errors=True)
            if self._lock:
                self._lock.close()
        if self.path.exists():
            _log.warning("%s could not be removed; it is no longer needed", self.path)

    def _claim(self) -> BufferedWriter:
        lock = (self.path / _LOCK).open("ab")
        if self._is_free(lock):
            return lock
        lock.close()
        raise OutputUnwritable(
            f"cannot write {self._out}: another run is writing it; wait for it, or choose another name"
        )

    def _is_free(self, lock: BufferedWriter) -> bool:
        try:
            # Otherwise its owner has just removed it, and the folder with it.
            return try_lock(lock) and os.path.samestat(os.fstat(lock.fileno()), (self.path / _LOCK).stat())
        except FileNotFoundError:
            return False


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
