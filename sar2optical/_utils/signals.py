"""Replace signal handlers, for a block or for the life of a process.

Python allows handlers to be set in the main thread only (`signal.signal`): these functions do nothing in others.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["Handler", "handlers_replaced", "ignore_sigint", "sigint_ignored"]

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
"""What `signal.signal` takes and returns."""


@contextmanager
def handlers_replaced(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals with other functions inside a block, and restore the previous handlers after it.

    Parameters
    ----------
    handlers
        New handler of each signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Handler] = {}
    try:
        for number, handler in handlers.items():
            previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in previous.items():
            with suppress(TypeError):  # None: the handler was not set from Python and cannot be restored
                signal.signal(number, handler)


@contextmanager
def sigint_ignored() -> Iterator[None]:
    """Ignore Ctrl-C (SIGINT) inside a block; processes started in it ignore it too."""
    with handlers_replaced({signal.SIGINT: signal.SIG_IGN}):
        yield


def ignore_sigint() -> None:
    """Ignore Ctrl-C (SIGINT) until this process ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
