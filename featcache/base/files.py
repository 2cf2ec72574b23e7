"""Files that are either complete or not there, canonical JSON and CSV. Knows nothing of what the bytes mean."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from featcache.base.errors import CorruptFile, InvalidSettings, StorageError

TEMPORARY_PREFIX = ".tmp-"
_WRITE_SIZE = 16 << 20
_COMPARED = 1 << 19  # bytes at once, which stay in the processor's cache


def write_durably(path: Path, data: bytes | memoryview) -> str:
    """Put data under path at once or not at all, and on the disk when this returns; return its sha256.

    Temporary name in the same folder, write, fsync, read back, rename, fsync of the folder. A failed
    fsync is final for that file: it is thrown away, never synced again. Raises `StorageError`.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{socket.gethostname()}-{os.getpid()}")
    digest = hashlib.sha256(data).hexdigest()
    with storage_errors(path, needed=len(data)):
        try:
            _write_and_sync(temporary, memoryview(data).cast("B"))
            if not _holds(temporary, memoryview(data).cast("B")):
                raise StorageError(f"{path}: the disk did not keep what was written; nothing was replaced")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # whatever ended the writing; after the rename there is none
        sync_folder(path.parent)
    return digest


def check_output(path: Path) -> Path:
    """Return where a file that a user named will be: where links lead.

    Raises `InvalidSettings` if that is a folder, or a device or pipe, which would be replaced; `StorageError`.
    """
    place = Path(os.path.realpath(path))
    with storage_errors(path):
        if place.is_dir():
            raise InvalidSettings(f"{path}: is a folder; name a file")
        if place.exists() and not place.is_file():
            raise InvalidSettings(f"{path}: is no regular file, and would be replaced; name another")
    return place


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a user named as `write_durably` does, its folder made first. Raises as `check_output`."""
    place = check_output(path)
    make_folder(place.parent)
    write_durably(place, data)


def _write_and_sync(path: Path, data: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        if data and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(descriptor, 0, len(data))  # a full disk is known before the writing
        while data:
            data = data[os.write(descriptor, data[:_WRITE_SIZE]) :]
        _sync(descriptor, path)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the check reads the disk
    finally:
        os.close(descriptor)


def _holds(path: Path, data: memoryview) -> bool:
    """Whether a file has these bytes and no others, which is told in a third of the time that a digest takes."""
    with path.open("rb", buffering=0) as file:
        while data:
            part = file.read(_COMPARED)
            if not part or part != data[: len(part)].tobytes():
                return False
            data = data[len(part) :]
        return not file.read(1)


@contextlib.contextmanager
def storage_errors(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turn an OSError of the block into a `StorageError` that names path, bytes needed and the way out."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        size = f" ({needed:,} bytes needed)" if needed else ""
        way_out = "free space or mend the disk"
        if error.errno in (errno.EACCES, errno.EPERM):
            way_out = "give yourself the right to write there"
        elif error.errno == errno.EROFS:
            way_out = f"{path.parent} is on a read-only disk: name a folder on another, or mount it for writing"
        raise StorageError(
            f"{path}: cannot write{size}: {error.strerror or error}. "
            f"Nothing that was complete is lost; {way_out}, then run the same command again."
        ) from error


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a `StorageError` that names path."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error


def make_folder(path: Path) -> Path:
    """Create path and its parents where they are missing, durably, and return it."""
    with storage_errors(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    return path


def read_trusted(path: Path) -> bytes:
    """Return the bytes of a file that nobody but this user, or root, has written: of what is executed once it is read.

    Raises `PermissionError` if it is another user's or everyone may write it, another OSError if it cannot be read.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, "is or may be another user's work", str(path))
        return file.read()


def append_text(path: Path, text: str) -> None:
    """Append to a log; what a kill or a power cut takes from its end is no loss. Raises `StorageError`."""
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def refuse_full_disk(folder: Path, needed: int, *, way_out: str = "") -> None:
    """Raise `StorageError` if so many bytes do not fit into folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{folder}: about {needed:,} bytes are needed, {free:,} are free. Free space, or "
            f"choose another folder{way_out}"
        )


def sync_folder(path: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor, path)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            raise StorageError(
                f"{path}: this file system cannot fsync, so nothing on it is safe; use another"
            ) from error
        raise


def remove_temporaries(folder: Path) -> int:
    """Remove what killed writers left in folder; return how many. Call it only under the writer's lock."""
    stale = list(folder.glob(f"{TEMPORARY_PREFIX}*"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits; raise `StorageError` if it cannot be read."""
    with reading_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_bytes(lines: Iterable[Iterable[object]]) -> bytes:
    """Return lines of cells as CSV in UTF-8, a line feed after each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def canonical_json(value: Any) -> str:
    """Return the one JSON text of value: keys sorted, no spaces, NaN and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(path: Path, *, largest: int) -> dict[str, Any]:
    """Return the JSON object in path; raise `CorruptFile` for anything else, or for more than `largest` bytes."""
    try:
        with reading_errors(path):
            if path.stat().st_size > largest:
                raise CorruptFile(f"{path}: larger than {largest:,} bytes, so not written by this project")
            data = path.read_bytes()
        value = json.loads(data, object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise CorruptFile(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value
