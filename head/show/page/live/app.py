"""The page with live prediction, as a web application: one page, and one place that takes an image's bytes.

It answers this page alone: a request under another host's name (DNS rebinding) or from another site is refused, unless
that name is allowed, as a proxy's is. Nothing of an upload is kept, written or logged.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featcache.base.errors import FeatcacheError
from head.show.page.live.server import is_loopback

MOST_BYTES = 32_000_000
MOST_WAITING = 16  # uploads at once, so at most a gigabyte of them, each held twice for a moment
UPLOAD_SECONDS = 60.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def explore_app(
    page: str, predict: Callable[[bytes], dict[str, Any]], *, host: str, allowed: Collection[str] = ()
) -> ASGIApp:
    """Return the application that shows page and answers POST /predict with what predict says of the body.

    predict is called in a thread, once at a time; its `FeatcacheError` becomes an answer of status 422. host is what
    the application is bound to, so that its name is let in, as are those of allowed.
    """
    queue, encoded = _Queue(predict), page.encode()

    async def show(request: Request) -> Response:
        return HTMLResponse(encoded)

    async def take(request: Request) -> Response:
        return JSONResponse(await queue.answer(request))

    answers = Starlette(
        routes=[
            Route(f"{prefix}{path}", answer, methods=[method])
            for prefix in ("", "/{prefix:path}")  # which some proxies leave on, and others take off
            for path, answer, method in (("/", show, "GET"), ("/predict", take, "POST"))
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    answers.router.redirect_slashes = False  # a redirection would lead to this server's own address, past a proxy
    # outside of all, so that answers of status 500 have the headers too
    return _Guard(answers, host=host, allowed=allowed)


def refusal(method: str, headers: dict[str, str], host: str, allowed: Collection[str] = ()) -> tuple[int, str] | None:
    """Return status and message if a request with these headers (names in lower case) is not of our own page.

    A proxy sends its own name, one of allowed, as Host, as Origin or as both, and may be reached by https.
    """
    named = headers.get("host", "")
    if not _is_our_name(named, host) and _name_in(f"//{named}") not in allowed:
        way_out = "if you came through a proxy of that name, start explore with --allow-host NAME"
        return 421, f"this program answers under its own address alone, not as {named[:80]!r}; {way_out}"
    if method not in ("GET", "HEAD"):
        own = f"http://{named}"
        origin = headers.get("origin", own)
        ours = origin == own or _name_in(origin) in allowed
        if not ours or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            way_out = "if it is a proxy to this page, start explore with --allow-host NAME"
            return 403, f"refused: the request comes from another site; {way_out}"
        if headers.get("content-type") != "application/octet-stream":  # which no form can send
            return 415, "send the bytes of one image as application/octet-stream"
    return None


class _Guard:
    """Answers requests that are not of our own page itself, and puts this program's headers on every answer."""

    def __init__(self, app: ASGIApp, *, host: str, allowed: Collection[str]) -> None:
        self._app, self._host, self._allowed = app, host, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        request = Request(scope)
        problem = refusal(request.method, dict(request.headers), self._host, self._allowed)
        answer = _problem(*problem) if problem else self._app
        await answer(scope, receive, send_with_headers)


class _Queue:
    """Uploads that wait, and the one that is predicted."""

    def __init__(self, predict: Callable[[bytes], dict[str, Any]]) -> None:
        self._predict = predict
        self._one = asyncio.Lock()
        self._waiting = 0

    async def answer(self, request: Request) -> dict[str, Any]:
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "busy with other images; try again in a moment", {"Retry-After": "2"})
        self._waiting += 1
        try:
            data = await _body(request)
            async with self._one:
                return await asyncio.shield(asyncio.to_thread(self._predict, data))
        except FeatcacheError as error:
            raise HTTPException(422, str(error)) from error
        except asyncio.CancelledError as error:  # the server ends, and does not wait for the thread
            raise HTTPException(503, "this program is ending") from error
        except MemoryError as error:
            raise HTTPException(422, "the image does not fit into memory") from error
        finally:
            self._waiting -= 1


async def _body(request: Request) -> bytes:
    """Return the body, of which no more than `MOST_BYTES` are ever held."""
    too_large = HTTPException(413, f"too large: at most {MOST_BYTES // 1_000_000} MB are taken")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > MOST_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for piece in request.stream():
                if len(data) + len(piece) > MOST_BYTES:
                    raise too_large
                data += piece
    except TimeoutError as error:
        raise HTTPException(408, "the upload took too long") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload ended early") from error
    return bytes(data)


def _is_our_name(named: str, host: str) -> bool:
    """Whether a Host header is this machine's own name: not one that another site's DNS could lead here."""
    name = _name_in(f"//{named}")
    if name in ("localhost", host.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(host)


def _name_in(url: str) -> str:
    """Return the name of the host in a URL, in lower case; '' if there is none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


async def _refused(request: Request, error: Any) -> Response:
    """Return the answer of an HTTPException, for which alone Starlette calls it."""
    response = _problem(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    return _problem(500, "this program failed; its own window says how")
