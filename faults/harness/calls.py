"""The system calls of this process on files below one folder, each through a hand that may change it.

Calls that Python makes for `Path` methods and `io.open` are among them; those of libhdf5 are not.
"""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

BY_PATH = ("open", "replace", "rename", "unlink", "mkdir")
BY_DESCRIPTOR = ("posix_fallocate", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "pread", "preadv", "close")


@dataclass(frozen=True)
class Call:
    """One call: its name ('read' for one of a file object), the file it is about, and its arguments."""

    name: str
    path: Path
    arguments: tuple[Any, ...]

    @property
    def descriptor(self) -> int:
        """The descriptor of a call that takes one."""
        return int(self.arguments[0])


Hand = Callable[[Call, Callable[..., Any]], Any]


@contextlib.contextmanager
def through(hand: Hand, folder: Path) -> Iterator[None]:
    """Give every call of the block on a file below folder (or folder itself) to hand(call, real).

    What hand returns or raises is what the caller sees; real(*arguments) makes the real call.
    """
    paths: dict[int, Path] = {}
    lock = threading.RLock()
    with contextlib.ExitStack() as stack:
        for name in BY_PATH:
            stack.enter_context(mock.patch.object(os, name, _by_path(name, hand, folder, paths, lock)))
        for name in BY_DESCRIPTOR:
            stack.enter_context(mock.patch.object(os, name, _by_descriptor(name, hand, paths, lock)))
        stack.enter_context(mock.patch.object(io, "open", _file_opener(hand, folder, lock)))
        yield


def _below(folder: Path, path: Any) -> Path | None:
    if not isinstance(path, str | os.PathLike):
        return None
    found = Path(path)
    return found if found == folder or folder in found.parents else None


def _by_path(name: str, hand: Hand, folder: Path, paths: dict[int, Path], lock: threading.RLock) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        path = _below(folder, arguments[0])
        if path is None:
            return real(*arguments, **options)
        with lock:
            result = hand(Call(name, path, arguments), lambda *given: real(*given, **options))
            if name == "open":
                paths[result] = path
            return result

    return call


def _by_descriptor(name: str, hand: Hand, paths: dict[int, Path], lock: threading.RLock) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*arguments: Any) -> Any:
        path = paths.get(arguments[0])
        if path is None:
            return real(*arguments)
        with lock:
            try:
                return hand(Call(name, path, arguments), real)
            finally:
                if name == "close":
                    paths.pop(arguments[0], None)

    return call


def _file_opener(hand: Hand, folder: Path, lock: threading.RLock) -> Callable[..., Any]:
    real = io.open

    class File(io.FileIO):
        """A file whose reads are calls too."""

        def readinto(self, buffer: Any) -> Any:
            def read(descriptor: int, buffer: Any) -> Any:
                return super(File, self).readinto(buffer)

            with lock:
                return hand(Call("read", Path(str(self.name)), (self.fileno(), buffer)), read)

        def readall(self) -> bytes:
            parts, buffer = [], bytearray(1 << 16)
            while count := self.readinto(buffer):
                parts.append(bytes(buffer[:count]))
            return b"".join(parts)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        path = _below(folder, file)
        if path is None or mode != "rb":
            return real(file, mode, buffering, *arguments, **options)

        def open_it(*_: Any) -> Any:
            raw = File(str(path))
            return raw if buffering == 0 else io.BufferedReader(raw)

        with lock:
            return hand(Call("open", path, (file, os.O_RDONLY)), open_it)

    return opened
