"""Folders on a file system that is mounted for reading alone, in a process that may write everywhere."""

import builtins
import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "symlink", "truncate")


def mount_read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make all that would change a file below folders raise EROFS, as the kernel does."""
    homes = [folder.resolve() for folder in folders]

    def refuse(path: Any) -> None:
        if isinstance(path, str | Path) and any(Path(path).resolve().is_relative_to(home) for home in homes):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(function: Any) -> Any:
        def call(path: Any, *others: Any, **given: Any) -> Any:
            refuse(path)
            return function(path, *others, **given)

        return call

    for name in _CHANGES:
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    real_open, real_io = os.open, io.open

    def os_open(path: Any, flags: int, *others: Any, **given: Any) -> int:
        if flags & _WRITING:
            refuse(path)
        return real_open(path, flags, *others, **given)

    def io_open(path: Any, mode: str = "r", *others: Any, **given: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse(path)
        return real_io(path, mode, *others, **given)

    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr(io, "open", io_open)
    monkeypatch.setattr(builtins, "open", io_open)
