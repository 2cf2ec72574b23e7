"""One writer at a time, by a kernel lock that dies with its process. Readers take none."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from featcache.base.errors import Locked, StorageError
from featcache.base.files import storage_errors

LOCK_NAME = "lock"


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the writer's lock of folder for the length of the block; raise `Locked` if another process has it.

    Raises `StorageError` where the file system takes no file, or has no locks: nothing is written without one.
    The text in the lock file serves the message only: a file left by a killed writer locks nothing.
    """
    path = folder / LOCK_NAME
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise Locked(f"{folder}: being written by {holder}; wait for it to end, or stop it") from None
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot lock: {error.strerror or error}. This file system has no locks, and without one two "
                "commands could write there at once, so nothing was written. Choose a folder on a local disk, or have "
                "it mounted with locks (NFS: with lockd; Lustre: with the option flock)"
            ) from error
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
