"""One HTTP request for the rest of a file, and whether the answer belongs to what is there (RFC 9110, 13 and 14).

Knows nothing of where bytes are kept or of how often to try.
"""

import contextlib
import http.client
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from featcache.base.errors import BadInput, FeatcacheError, InvalidSettings, printable

_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
_LENGTH = re.compile(r"\d{1,18}")


class Cut(FeatcacheError):
    """A connection that failed in a way that another try may mend; wait = seconds the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another: validators that may stand in If-Range ('' without), and bytes."""

    etag: str = ""
    last_modified: str = ""
    length: int | None = None

    @property
    def validator(self) -> str:
        return self.etag or self.last_modified


@dataclass(frozen=True)
class Answer:
    """A body whose first byte is byte `start` of the file; remaining = bytes to come, None where nobody knows."""

    start: int
    remaining: int | None
    version: Version
    body: http.client.HTTPResponse

    def read(self, most: int) -> bytes:
        """Return 1 to most bytes as soon as some are there, none at the end; raise `Cut`."""
        with _cuts():
            return self.body.read1(most)


def check_url(url: str) -> None:
    """Raise `InvalidSettings` unless url is one that can be fetched."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidSettings(f"{printable(url)!r}: expected http://HOST/PATH or https://HOST/PATH in ASCII")
    if parts.username is not None or parts.password is not None:
        raise InvalidSettings(f"a URL with a name or password in it is not used: {parts.scheme}://...@{parts.hostname}")


@contextlib.contextmanager
def ask(url: str, *, have: int, version: Version, timeout: float) -> Iterator[Answer]:
    """Ask for the bytes from `have` on, of that version; where they cannot be had, for the whole file.

    An answer that starts at 0 though have > 0 means that the file changed, or that the server sends no ranges. Raises
    `Cut`, and `BadInput` for what no second try mends.
    """
    ranged = have > 0 and bool(version.validator)
    response = _open(url, {"Range": f"bytes={have}-", "If-Range": version.validator} if ranged else {}, timeout)
    try:
        answer = _answer(response, have if ranged else 0, version)
        if answer is None:  # a part of another version, or another part than the one asked for
            response.close()
            response = _open(url, {}, timeout)
            answer = _answer(response, 0, Version())
        if answer is None:
            raise Cut(f"answered {response.status} to a request for the whole file")
        yield answer
    finally:
        response.close()


def _open(url: str, headers: dict[str, str], timeout: float) -> Any:
    """Return the response of status 200, 206 or 416."""
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "amnet-featcache", **headers})
    try:
        with _cuts(url):
            response = _OPENER.open(request, timeout=timeout)
    except HTTPError as error:
        if error.code == 416 and headers:
            return error
        with error:
            raise _refusal(url, error) from None
    if response.status not in (200, 206):
        response.close()
        raise BadInput(f"{url}: answered {response.status}, expected 200; check the URL")
    return response


def _refusal(url: str, error: HTTPError) -> FeatcacheError:
    reason = f"answered {error.code} {printable(str(error.reason))[:100]}"
    if error.code in _TEMPORARY:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        return Cut(reason, float(after) if _LENGTH.fullmatch(after) else 0.0)
    return BadInput(f"{url}: {reason}; check the URL, or give that of a mirror with --url")


def _answer(response: Any, have: int, version: Version) -> Answer | None:
    """Return the answer, or None if it cannot go on from what is there."""
    found = _version(response.headers)
    if response.status == 200:
        return Answer(0, found.length, found, response)
    if response.status == 416:
        match = _UNSATISFIED.fullmatch(response.headers.get("Content-Range", ""))
        complete = match is not None and int(match[1]) == have and version.length is None
        return Answer(have, 0, Version(version.etag, version.last_modified, have), response) if complete else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or not have:
        return None
    first, last = int(match[1]), int(match[2])
    total = version.length if match[3] == "*" else int(match[3])
    same = not version.etag or not found.etag or version.etag == found.etag
    if total is None or not same or not first == have <= last < total or version.length not in (None, total):
        return None
    return Answer(have, last - first + 1, Version(version.etag, version.last_modified, total), response)


def _version(headers: Message) -> Version:
    etag, modified, length = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Content-Length"))
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    return Version(
        etag=etag if _STRONG_ETAG.fullmatch(etag) else "",
        last_modified=modified if _is_strong_date(modified, headers.get("Date", "")) else "",
        length=int(length) if _LENGTH.fullmatch(length) and not chunked else None,
    )


def _is_strong_date(modified: str, answered: str) -> bool:
    """Return whether the file was a second old when it was sent; a younger one may change within its date."""
    try:
        return (parsedate_to_datetime(answered) - parsedate_to_datetime(modified)).total_seconds() >= 1
    except (ValueError, TypeError):  # a date that is absent or none, or one without its zone
        return False


@contextlib.contextmanager
def _cuts(url: str = "") -> Iterator[None]:
    """Turn what a network does into `Cut`."""
    try:
        yield
    except HTTPError:
        raise
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            why = error.reason.verify_message
            raise BadInput(
                f"{url}: the server's certificate cannot be trusted: {why}; give a mirror with --url"
            ) from None
        raise Cut(_short(error.reason)) from None
    except http.client.IncompleteRead:
        raise Cut("the connection was cut") from None
    except (http.client.HTTPException, OSError) as error:
        raise Cut(_short(error)) from None


def _short(reason: object) -> str:
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return printable(text)[:200] or type(reason).__name__


class _Redirects(HTTPRedirectHandler):
    """Follows redirects (ten at most), but never from https to http, nor to anything else than these."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise BadInput(
                f"{req.full_url}: sends on to {printable(newurl)[:200]!r}, which is refused: a redirect must lead to "
                "https, or from http to http. Give the URL of a server that can be trusted with --url."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = build_opener(_Redirects)
