"""A model of a disk behind a cache of pages: what system calls did to it, and what a power cut may leave of that.

What was synced is there. Of the rest any page may be the old one, the new one or rubbish, and any change of a
folder may be there or not, in whatever order: no file system promises less.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.harness.calls import Call

PAGE = 4096


@dataclass(frozen=True)
class Entry:
    """A change of a folder: path comes to mean inode, or with inode 0 nothing; a rename also frees another path."""

    path: Path
    inode: int
    freed: Path | None = None


@dataclass(frozen=True)
class Change:
    """A change of a file: bytes at an offset (a whole new content where offset is -1)."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    """Everything before, of one file or of one folder's entries, is on the disk."""

    inode: int = 0
    folder: Path | None = None


@dataclass(frozen=True)
class Acknowledged:
    """The writer was told that path is safe; data is what it put there."""

    path: Path
    data: bytes


Operation = Entry | Change | Sync | Acknowledged
FOLDER = -1  # in place of an inode


@dataclass
class Recorder:
    """Notes the calls on files below a folder, for `calls.through`."""

    operations: list[Operation] = field(default_factory=list)
    _inode_of: dict[Path, int] = field(default_factory=dict)
    _open: dict[int, tuple[Path, int, int]] = field(default_factory=dict)  # path, inode, position
    _sizes: dict[int, int] = field(default_factory=dict)

    def __call__(self, call: Call, real: Callable[..., Any]) -> Any:
        """Make the call, then note it."""
        existed = call.path.exists()
        result = real(*call.arguments)
        note = getattr(self, f"_note_{call.name}", None)
        if note is not None:
            note(call, result, existed)
        return result

    def _note_open(self, call: Call, descriptor: Any, existed: bool) -> None:
        flags = call.arguments[1]
        if not isinstance(descriptor, int) or call.path.is_dir():
            inode = FOLDER
        elif not existed:
            inode = self._inode_of[call.path] = len(self._sizes) + 1
            self._sizes[inode] = 0
            self.operations.append(Entry(call.path, inode))
        else:
            inode = self._inode_of[call.path]
            if flags & os.O_TRUNC:
                self._change(inode, -1, b"")
        if isinstance(descriptor, int):
            self._open[descriptor] = call.path, inode, 0

    def _note_mkdir(self, call: Call, result: Any, existed: bool) -> None:
        self.operations.append(Entry(call.path, FOLDER))

    def _note_posix_fallocate(self, call: Call, result: Any, existed: bool) -> None:
        _, inode, _ = self._open[call.descriptor]
        missing = call.arguments[1] + call.arguments[2] - self._sizes[inode]
        self._change(inode, self._sizes[inode], bytes(max(0, missing)))

    def _note_write(self, call: Call, written: int, existed: bool) -> None:
        path, inode, position = self._open[call.descriptor]
        self._change(inode, position, bytes(call.arguments[1][:written]))
        self._open[call.descriptor] = path, inode, position + written

    def _note_pwrite(self, call: Call, written: int, existed: bool) -> None:
        self._change(self._open[call.descriptor][1], call.arguments[2], bytes(call.arguments[1][:written]))

    def _note_ftruncate(self, call: Call, result: Any, existed: bool) -> None:
        if call.arguments[1]:
            raise NotImplementedError("the model knows only truncation to nothing")
        self._change(self._open[call.descriptor][1], -1, b"")

    def _note_fsync(self, call: Call, result: Any, existed: bool) -> None:
        path, inode, _ = self._open[call.descriptor]
        self.operations.append(Sync(folder=path) if inode == FOLDER else Sync(inode=inode))

    _note_fdatasync = _note_fsync

    def _note_close(self, call: Call, result: Any, existed: bool) -> None:
        self._open.pop(call.descriptor, None)

    def _note_replace(self, call: Call, result: Any, existed: bool) -> None:
        target = Path(call.arguments[1])
        inode = self._inode_of[target] = self._inode_of.pop(call.path)
        self.operations.append(Entry(target, inode, freed=call.path))

    _note_rename = _note_replace

    def _note_unlink(self, call: Call, result: Any, existed: bool) -> None:
        self._inode_of.pop(call.path, None)
        self.operations.append(Entry(call.path, 0))

    def _change(self, inode: int, offset: int, data: bytes) -> None:
        self._sizes[inode] = max(self._sizes[inode], offset + len(data)) if offset >= 0 else len(data)
        self.operations.append(Change(inode, offset, data))


@dataclass(frozen=True)
class Loss:
    """What a power cut does to what was not synced: chances that a folder's change and that a page is kept.

    With rubbish, a page that is not kept may also hold anything.
    """

    entries: float
    pages: float
    rubbish: bool = False


def after_power_cut(operations: list[Operation], loss: Loss, rng: random.Random) -> dict[Path, bytes | None]:
    """Return a legal state of the disk when the power goes after operations: bytes of each file, None for a folder."""
    entries: dict[Path, int] = {}
    for operation in _kept_entries(operations, loss, rng):
        if operation.freed is not None:
            entries.pop(operation.freed, None)
        if operation.inode:
            entries[operation.path] = operation.inode
        else:
            entries.pop(operation.path, None)
    reachable = {path: inode for path, inode in entries.items() if _has_folders(path, entries, operations)}
    content = {inode: _content(operations, inode, loss, rng) for inode in sorted(set(reachable.values()) - {FOLDER})}
    return {path: None if inode == FOLDER else content[inode] for path, inode in reachable.items()}


def _kept_entries(operations: list[Operation], loss: Loss, rng: random.Random) -> list[Entry]:
    synced = {operation.folder: i for i, operation in enumerate(operations) if isinstance(operation, Sync)}
    return [
        operation
        for i, operation in enumerate(operations)
        if isinstance(operation, Entry) and (i < synced.get(operation.path.parent, -1) or rng.random() < loss.entries)
    ]


def _has_folders(path: Path, entries: dict[Path, int], operations: list[Operation]) -> bool:
    made = {operation.path for operation in operations if isinstance(operation, Entry) and operation.inode == FOLDER}
    return all(folder in entries for folder in path.parents if folder in made)


def _content(operations: list[Operation], inode: int, loss: Loss, rng: random.Random) -> bytes:
    """Return what may be in a file: synced changes whole, of later ones each page or not."""
    last = max((i for i, o in enumerate(operations) if isinstance(o, Sync) and o.inode == inode), default=-1)
    changes = [(i, o) for i, o in enumerate(operations) if isinstance(o, Change) and o.inode == inode]
    old, new = bytearray(), bytearray()
    for i, change in changes:
        _apply(new, change)
        if i < last:
            _apply(old, change)
    if old == new:
        return bytes(old)
    size = rng.choice((len(old), len(new))) if 0 < loss.pages < 1 else len(new) if loss.pages else len(old)
    kept = bytearray(size)
    for start in range(0, size, PAGE):
        page = (new if rng.random() < loss.pages else old)[start : min(size, start + PAGE)]
        if loss.rubbish and rng.random() < 0.3:
            page = bytearray(rng.randbytes(min(PAGE, size - start)))
        kept[start : start + len(page)] = page
    return bytes(kept)


def _apply(content: bytearray, change: Change) -> None:
    if change.offset < 0:
        content[:] = change.data
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data
