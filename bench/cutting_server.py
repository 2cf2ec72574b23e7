"""An HTTP server on loopback that serves one file badly on purpose, and counts what it sent."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DATE = "Wed, 01 Jan 2020 00:00:00 GMT"


@dataclass
class Served:
    """What is served and how; cuts[i] is the offset in the file at which the i-th body ends early.

    A cut body ends with a proper close, with a reset, or, with hang, by silence until release is set. sent holds
    (first, last + 1) of each body that ended, at where each body is. answers, where there are any, are given before the
    file, each once: a status, headers, and a body.
    """

    data: bytes | memoryview
    etag: str = '"1"'
    last_modified: str = DATE
    ranges: bool = True
    length: bool = True
    chunked: bool = False
    reset: bool = False
    hang: bool = False
    cuts: list[int] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def sent_more_than_once(self) -> int:
        """Return how many bytes of the file were sent again, each time counted."""
        done = twice = 0
        for first, end in sorted(self.sent):
            twice += max(0, min(end, done) - first)
            done = max(done, end)
        return twice


@contextlib.contextmanager
def serving(served: Served) -> Iterator[str]:
    """Serve for the length of the block; yield http://127.0.0.1:PORT."""
    server = _Server(served)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        served.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, served: Served) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.served = served


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.served.requests.append(dict(self.headers))
        if self.server.served.answers:
            status, headers, body = self.server.served.answers.pop(0)
            self._head(status, {"Content-Length": str(len(body)), **headers})
            self.wfile.write(body)
            return
        self._file()

    def _file(self) -> None:
        served, first, status = self.server.served, 0, 200
        size = len(served.data)
        wanted = self.headers.get("Range", "")
        if wanted and served.ranges and self.headers.get("If-Range") in (served.etag, served.last_modified):
            first, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        headers = {"ETag": served.etag, "Last-Modified": served.last_modified}
        headers = {name: value for name, value in headers.items() if value}
        if first >= size and status == 206:
            self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        if served.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif served.length:
            headers["Content-Length"] = str(size - first)
        self._head(status, headers | served.extra)
        cut = served.cuts.pop(0) if served.cuts else None
        self._body(first, size if cut is None else cut, whole=cut is None)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, first: int, end: int, *, whole: bool) -> None:
        served, at = self.server.served, first
        number = len(served.at)
        served.at.append(at)
        with contextlib.suppress(OSError):
            while at < end:
                piece = served.data[at : min(end, at + (1 << 18))]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if served.chunked else piece)
                at += len(piece)
                served.at[number] = at
            if served.chunked and whole:
                self.wfile.write(b"0\r\n\r\n")
            elif served.hang and not whole:
                self.wfile.flush()
                served.release.wait()
            elif served.reset and not whole:
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        served.sent.append((first, at))
