"""A file over HTTP or HTTPS, resumed where it was cut, never mixed from two versions. Knows nothing of archives."""

import time
from dataclasses import dataclass
from pathlib import Path

from featcache.base.errors import ResourceError
from featcache.base.files import make_folder, refuse_full_disk
from featcache.base.progress import OnProgress, Progress, duration, silent
from featcache.datasets.fetch.partial_file import PartialFile
from featcache.datasets.fetch.request import Answer, Cut, ask, check_url

_PIECE = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long to bear a bad network: tries in a row without a new byte; seconds between them, and of one read."""

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0

    def wait(self, failed: int, asked: float) -> float:
        """Return how long to wait after so many tries that failed; twice as long each time."""
        return min(self.longest_wait, max(asked, self.first_wait * 2.0 ** (failed - 1)))


@dataclass(frozen=True)
class Downloaded:
    """A whole file: where it lies, its bytes and sha256, and how many bytes and requests this call took."""

    path: Path
    size: int
    sha256: str
    received: int
    requests: int


def download(
    url: str, path: Path, *, patience: Patience | None = None, copies: int = 1, on_progress: OnProgress = silent
) -> Downloaded:
    """Bring the file at url to path; go on from what an earlier call of the same url left beside it.

    copies times its bytes must fit on the disk, or `StorageError` is raised before any is fetched. A file that changed
    on the server, or a server without ranges or validators, starts over; a file is never put together from two
    versions. Raises `InvalidSettings` for the url, `BadInput` for what the server refuses, and `ResourceError` when
    so many tries in a row as patience allows brought nothing new. The caller holds the lock of path's folder.
    """
    check_url(url)
    make_folder(path.parent)
    with PartialFile(path, url) as part:
        attempts = _Attempts(part, patience or Patience(), copies, on_progress)
        if part.size and part.size == part.version.length and not part.complete:  # killed between last byte and name
            part.finish()
        while not part.complete:
            attempts.once()
        return Downloaded(path, part.size, part.digest, attempts.received, attempts.requests)


class _Attempts:
    """Requests for one file: how many failed in a row, and the most bytes there ever were, which tells progress."""

    def __init__(self, part: PartialFile, patience: Patience, copies: int, on_progress: OnProgress) -> None:
        self.part, self.patience, self.copies, self.on_progress = part, patience, copies, on_progress
        self.requests = self.received = self.failed = 0
        self.most = self.skipped = part.size
        self.started_over = False

    def once(self) -> None:
        """Make one request and keep what it brings; after a cut, wait."""
        self.requests += 1
        part = self.part
        try:
            with ask(part.url, have=part.size, version=part.version, timeout=self.patience.timeout) as answer:
                self._receive(answer)
        except Cut as cut:
            part.sync()
            self.failed = 1 if part.size > self.most else self.failed + 1
            self.most = max(self.most, part.size)
            self._wait(cut)

    def _receive(self, answer: Answer) -> None:
        part, left = self.part, answer.remaining
        if answer.start != part.size:
            self.started_over = True
            part.start_over(answer.version)
            self.skipped = 0
        if answer.version.length is not None:
            refuse_full_disk(part.path.parent, self.copies * answer.version.length - part.size, way_out=" with --root.")
        part.know(answer.version)
        self._tell()
        while left is None or left > 0:
            data = answer.read(_PIECE if left is None else min(_PIECE, left))
            if not data:
                break
            part.append(data)
            self.received += len(data)
            left = None if left is None else left - len(data)
            self._tell()
        if left:
            raise Cut("the connection was cut")
        if part.version.length not in (None, part.size):
            raise Cut("the server sent a part of what was asked for")
        part.finish()

    def _wait(self, cut: Cut) -> None:
        if self.failed >= self.patience.tries:
            part = self.part
            total = f" of {part.version.length:,}" if part.version.length is not None else ""
            hint = "Run the same command again to go on, or give the URL of a mirror with --url."
            if self.started_over:
                hint = (
                    "The server sends no ranges, or names no version of the file (ETag, Last-Modified), or the file "
                    "changes, so that a cut starts over: give a mirror with --url, or fetch it by other means (--file)."
                )
            raise ResourceError(
                f"{part.url}: {self.failed} tries in a row brought nothing new; the last: {cut}. "
                f"{part.size:,}{total} bytes are in {part.path.parent}. {hint}"
            )
        seconds = self.patience.wait(self.failed, cut.wait)
        self._tell(f"{cut}; again in {duration(seconds)}, try {self.failed + 1} of {self.patience.tries}")
        time.sleep(seconds)

    def _tell(self, note: str = "") -> None:
        done, length = self.part.size, self.part.version.length
        if length is None:  # more is to come, nobody knows how much
            length, note = done + _PIECE, note or "the server does not say how many"
        self.on_progress(Progress("download", done, length, "bytes", note, skipped=self.skipped))
