"""A file that is being downloaded: its bytes so far, and a small JSON beside it that says of what they are a part.

Knows nothing of networks. NAME.part holds the bytes, NAME.json what is known of them; NAME appears when it is whole.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from featcache.base.errors import CorruptFile
from featcache.base.files import read_json, refuse_full_disk, storage_errors, sync_folder, write_durably
from featcache.datasets.fetch.request import Version

_LARGEST_STATE = 1 << 16
_SYNC_EVERY = 16 << 20
_PIECE = 1 << 20


class PartialFile:
    """The bytes of one URL under path; size, version and digest are those of the bytes that can be trusted.

    Bytes count once they are synced and the JSON says so: after a power cut a file may be longer than what it holds.
    One process at a time; the caller holds the lock.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._part, self._state = path.with_name(path.name + ".part"), path.with_name(path.name + ".json")
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        known = self._known()
        self.version = Version(known.get("etag", ""), known.get("last_modified", ""), known.get("length"))
        self.complete = bool(known.get("complete")) and (path.exists() or self._part.exists())
        self.size = self._trusted(known.get("size", 0))
        self._synced = self.size
        self._recorded = bool(known)

    def __enter__(self) -> Self:
        """Open it, and cut away what cannot be trusted."""
        if self.complete:
            self._take_name()
            self._add_to_digest(self.path)
            return self
        with storage_errors(self._part):
            self._file = self._part.open("r+b" if self._part.exists() else "w+b")
            self._file.truncate(self.size)
        self._add_to_digest(self._part)
        self._file.seek(self.size)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Sync what is there, whatever ended the download, and close it."""
        if self._file is not None:
            with contextlib.closing(self._file):
                self.sync()

    @property
    def digest(self) -> str:
        """The sha256 of the bytes so far."""
        return self._hash.hexdigest()

    def start_over(self, version: Version) -> None:
        """Forget the bytes, and only then say that those to come are of this version."""
        self.size, self._hash = 0, hashlib.sha256()
        assert self._file is not None
        with storage_errors(self._part):
            self._file.seek(0)
            self._file.truncate()
            os.fsync(self._file.fileno())
        self.know(version)

    def know(self, version: Version) -> None:
        """Record what is known of the file whose first bytes these are."""
        if not self._recorded or self._synced != self.size or version != self.version:
            self.version, self._synced = version, self.size
            self._write_state()

    def append(self, data: bytes) -> None:
        """Add bytes; raise `StorageError` when they do not fit."""
        assert self._file is not None
        with storage_errors(self._part, needed=len(data)):
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        if self.size - self._synced >= _SYNC_EVERY:
            self.sync()
            refuse_full_disk(self.path.parent, _SYNC_EVERY)  # of use where the server does not say how much is to come

    def sync(self) -> None:
        """Make the bytes so far those that the next process trusts."""
        if self._file is None or self._synced == self.size:
            return
        with storage_errors(self._part):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._synced = self.size
        self._write_state()

    def finish(self) -> None:
        """Give the file its name: it is whole."""
        self.sync()
        self.complete = True
        self.version = replace(self.version, length=self.size)
        self._write_state()
        self._take_name()

    def _take_name(self) -> None:
        with storage_errors(self.path):
            if self._part.exists():
                self._part.replace(self.path)
            sync_folder(self.path.parent)

    def _known(self) -> dict[str, Any]:
        """Return the JSON, or nothing if there is none of this URL."""
        try:
            known = read_json(self._state, largest=_LARGEST_STATE) if self._state.exists() else {}
        except CorruptFile:
            return {}
        kinds = {"url": str, "etag": str, "last_modified": str, "length": int | None, "size": int, "complete": bool}
        usable = all(key in known and isinstance(known[key], kind) for key, kind in kinds.items())
        return known if usable and known["url"] == self.url and known["size"] >= 0 else {}

    def _trusted(self, recorded: int) -> int:
        place = self.path if self.complete and self.path.exists() else self._part
        there = place.stat().st_size if place.exists() else 0
        if self.complete and there != self.version.length:
            raise CorruptFile(
                f"{place}: expected {self.version.length:,} bytes, found {there:,}: changed since it was downloaded. "
                "Remove it, then run the same command again."
            )
        return min(recorded, there)

    def _add_to_digest(self, path: Path) -> None:
        with storage_errors(path), path.open("rb") as file:
            for start in range(0, self.size, _PIECE):
                self._hash.update(file.read(min(_PIECE, self.size - start)))

    def _write_state(self) -> None:
        state = {"url": self.url, **asdict(self.version), "size": self.size, "complete": self.complete}
        write_durably(self._state, json.dumps(state, indent=1).encode())
        self._recorded = True
