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
    # ol sets style properties of elements, which needs no 'unsafe-inline'; decoders of geotiff.js are WebAssembly.
    "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_THREADS = 4

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


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
        Called when the server accepts requests.
    """
    placement = placed(exhibit)
    data = page_data(exhibit, placement)
    mosaics = [(layer.picture.path.absolute(), _identity(layer.picture.path)) for layer in exhibit.mosaics]
    height, width = exhibit.shape

    def page_file(request: Request) -> Response:
        name, kind = PAGE_FILES[request.url.path.lstrip("/")]
        return Response((files(__package__) / "static" / name).read_bytes(), media_type=kind)

    def state(_: Request) -> Response:
        pyramids = exhibit.pyramids
        for pyramid in pyramids:
            pyramid.start()  # not before the page has its first picture
        error = next((pyramid.error for pyramid in pyramids if pyramid.error), "")
        progress = min(pyramid.progress for pyramid in pyramids)
        return JSONResponse({"progress": progress, "error": error}, headers={"cache-control": "no-store"})

    def mosaic(request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(mosaics) or exhibit.mosaics[number].levels:
            return _text("no such file", 404)
        path, identity = mosaics[number]
        if _identity(path) != identity:
            return _text(f"{path.name}: has changed: start the viewer again", 410)
        return FileResponse(path, media_type="image/tiff", headers={"cache-control": "no-store"})

    def one_tile(request: Request) -> Response:
        found = request.path_params
        try:
            content = tile(exhibit, found["layer"], found["z"], found["x"], found["y"])
        except NoSuchTile as error:
            return _text(f"no {error}", 404)
        except NotReady:
            return _text("being computed", 202)  # an error would stand in the browser's log
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})

    def values(request: Request) -> Response:
        try:
            row, col = (int(request.query_params[name]) for name in ("row", "col"))
        except (KeyError, ValueError):
            return _text("give row and col", 400)
        if not (0 <= row < height and 0 <= col < width):
            return _text("outside", 404)
        return JSONResponse(values_at(exhibit, placement, row, col), headers={"cache-control": "no-store"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = _THREADS
        if on_start:
            on_start()
        yield

    routes = [
        *(Route(f"/{address}", page_file) for address in PAGE_FILES),
        Route("/data.json", lambda _: JSONResponse(data, headers={"cache-control": "no-store"})),
        Route("/state.json", state),
        Route("/values.json", values),
        Route("/files/{number:int}", mosaic),
        Route("/tiles/{layer:str}/{z:int}/{x:int}/{y:int}", one_tile),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={Sar2OpticalError: _failed})
    return _guarded(app, token, port)


def _failed(_: Request, error: Exception) -> Response:
    return _text(" ".join(str(error).split()), 500)


def _text(message: str, status: int) -> Response:
    return PlainTextResponse(message, status, headers={"cache-control": "no-store"})


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
