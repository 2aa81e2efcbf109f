"""Routes of the viewer's local server. Each request needs the token; no path of a request reaches the file system."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sar2optical.errors import Sar2OpticalError
from sar2optical.viewer.exhibit import Exhibit
from sar2optical.viewer.page import page_data, placed, values_at
from sar2optical.viewer.tiles import NoSuchTile, NotReady, tile

__all__ = ["PAGE_FILES", "make_app"]

PAGE_FILES = {
    "": ("index.html", "text/html"),
    "viewer.js": ("viewer.js", "text/javascript"),
    "viewer.css": ("viewer.css", "text/css"),
    "licenses.txt": ("licenses.txt", "text/plain"),
}
"""Files of the page in `static/`, and their media types, by their address below the token."""

_HEADERS = {
    # ol sets style properties of elements, which needs no 'unsafe-inline'. zstd's decoder is
    # WebAssembly in a data URI.
    "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_UNSTORED = {"cache-control": "no-store"}
_THREADS = 4

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class _Answers:
    """Answers to the page's requests."""

    def __init__(self, exhibit: Exhibit) -> None:
        self._exhibit = exhibit
        self._placement = placed(exhibit)
        self._data = page_data(exhibit, self._placement)
        paths = [layer.picture.path for layer in exhibit.mosaics]
        self._mosaics = [(path.absolute(), _identity(path)) for path in paths]

    def page_file(self, request: Request) -> Response:
        name, kind = PAGE_FILES[request.url.path.lstrip("/")]
        return Response((files(__package__) / "static" / name).read_bytes(), media_type=kind)

    def data(self, _: Request) -> Response:
        return JSONResponse(self._data, headers=_UNSTORED)

    def state(self, _: Request) -> Response:
        pyramids = self._exhibit.pyramids
        for pyramid in pyramids:
            pyramid.start()  # not before the page has its first picture
        error = next((pyramid.error for pyramid in pyramids if pyramid.error), "")
        progress = min(pyramid.progress for pyramid in pyramids)
        return JSONResponse({"progress": progress, "error": error}, headers=_UNSTORED)

    def mosaic(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self._mosaics) or self._exhibit.mosaics[number].levels:
            return _text("no such file", 404)
        path, identity = self._mosaics[number]
        if _identity(path) != identity:
            return _text(f"{path.name}: has changed: start the viewer again", 410)
        return FileResponse(path, media_type="image/tiff", headers=_UNSTORED)

    def tile(self, request: Request) -> Response:
        found = request.path_params
        try:
            content = tile(self._exhibit, found["layer"], found["z"], found["x"], found["y"])
        except NoSuchTile as error:
            return _text(f"no {error}", 404)
        except NotReady:
            return _text("being computed", 202)  # an error would stand in the browser's log
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})

    def values(self, request: Request) -> Response:
        try:
            row, col = (int(request.query_params[name]) for name in ("row", "col"))
        except (KeyError, ValueError):
            return _text("give row and col", 400)
        height, width = self._exhibit.shape
        if not (0 <= row < height and 0 <= col < width):
            return _text("outside", 404)
        return JSONResponse(values_at(self._exhibit, self._placement, row, col), headers=_UNSTORED)


def make_app(exhibit: Exhibit, *, token: str, port: int, on_start: Callable[[], None] | None = None) -> _App:
    """Make the ASGI application that shows an exhibit below `/TOKEN/`.

    Parameters
    ----------
    exhibit
        What is shown, open as long as the application runs.
    token
        Secret of this run, the first part of each path.
    port
        Port of the server: the Host header must name it.
    on_start
        Called when the application starts.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = _THREADS
        if on_start:
            on_start()
        yield

    answers = _Answers(exhibit)
    routes = [
        *(Route(f"/{address}", answers.page_file) for address in PAGE_FILES),
        Route("/data.json", answers.data),
        Route("/state.json", answers.state),
        Route("/values.json", answers.values),
        Route("/files/{number:int}", answers.mosaic),
        Route("/tiles/{layer:str}/{z:int}/{x:int}/{y:int}", answers.tile),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={Sar2OpticalError: _failed})
    return _guarded(app, token, port)


def _failed(_: Request, error: Exception) -> Response:
    return _text(" ".join(str(error).split()), 500)


def _text(message: str, status: int) -> Response:
    return PlainTextResponse(message, status, headers=_UNSTORED)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _guarded(app: _App, token: str, port: int) -> _App:
    """Refuse requests for another host (DNS rebinding) or without the token, and send headers for security."""
    hosts = {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}
    fixed = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def guarded(scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fixed]
            await send(message)

        names = [value for name, value in scope["headers"] if name == b"host"]
        first, slash, rest = scope["path"][1:].partition("/")
        if len(names) != 1 or names[0].lower() not in hosts:
            await _text("wrong host", 400)(scope, receive, send_with_headers)
        elif not hmac.compare_digest(first.encode(), token.encode()) or not slash:
            await _text("wrong token", 403)(scope, receive, send_with_headers)
        else:
            inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}
            await app(inner, receive, send_with_headers)

    return guarded
