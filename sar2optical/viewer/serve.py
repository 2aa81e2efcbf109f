"""Serve the viewer on this machine until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from sar2optical.errors import BackendNotInstalled, OutputUnwritable
from sar2optical.viewer.exhibit import Exhibit

__all__ = ["serve"]

_HOST = "127.0.0.1"


def serve(exhibit: Exhibit, *, browser: bool, announce: Callable[[str], None]) -> None:
    """Serve an exhibit at a random port of 127.0.0.1, until Ctrl-C or SIGTERM.

    Parameters
    ----------
    exhibit
        What is shown; its reduced levels are computed when the page asks for them.
    browser
        Open the address in the user's browser.
    announce
        Called with each line for the user: the address, and how to reach it over SSH.

    Raises
    ------
    BackendNotInstalled
        If Starlette or uvicorn is not installed.
    OutputUnwritable
        If no port can be bound.
    """
    try:
        import uvicorn

        from sar2optical.viewer.app import make_app
    except ModuleNotFoundError as error:
        raise BackendNotInstalled(f"the viewer needs {error.name}: pip install 'sar2optical[view]'") from error
    with _bound() as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(16)
        address = f"http://{_HOST}:{port}/{token}/"

        def started() -> None:
            announce(address)
            if "SSH_CONNECTION" in os.environ:
                announce(f"over SSH, first run on your own machine: ssh -L {port}:{_HOST}:{port} THIS_MACHINE")
            announce("Ctrl-C ends the viewer")
            if browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        app = make_app(exhibit, token=token, port=port, on_start=started)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed all connections
            uvicorn.Server(config).run(sockets=[listener])


def _bound() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((_HOST, 0))
        listener.listen()  # requests wait from now on, also those before uvicorn accepts them
    except OSError as error:
        listener.close()
        raise OutputUnwritable(f"{_HOST}: no port can be opened ({error.strerror}): use --html instead") from error
    return listener
