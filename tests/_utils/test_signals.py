"""Signal handlers that are replaced for a block."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sar2optical._utils.signals import handlers_replaced, ignore_sigint, sigint_ignored


def test_ctrl_c_is_ignored_inside_the_block_and_handled_after_it():
    before = signal.getsignal(signal.SIGINT)
    with sigint_ignored():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored_after_an_error():
    received = []
    before = signal.getsignal(signal.SIGTERM)

    def fail():
        with handlers_replaced({signal.SIGTERM: lambda number, _: received.append(number)}):
            signal.raise_signal(signal.SIGTERM)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_change_no_handler():
    seen = []

    def block():
        ignore_sigint()
        with sigint_ignored():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
    assert seen != [signal.SIG_IGN]
