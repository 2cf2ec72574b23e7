"""Machine code of loops, which an earlier process of the same program compiled, and kept."""

import contextlib
import functools
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from featcache.base.files import read_trusted

_UNREADABLE = (  # what Numba raises for damaged files
    OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError,
    OverflowError, struct.error,
)  # fmt: skip
Loop = Callable[..., None]


def kept(loop: Any, *sources: Path) -> Loop:
    """Return a loop of `numba.njit` that takes the machine code which an earlier process kept, and keeps its own.

    It is kept by sources, the files that it is compiled from, processor and version of Numba, in `__pycache__` beside
    its module or, where that cannot be written, in the user's cache folder; where neither can, each process compiles it
    again. Raises nothing for damaged files or a full disk.
    """
    with contextlib.suppress(RuntimeError):  # no folder takes files
        loop._cache = MachineCode(loop.py_func, sources)
    found: Loop = loop
    return found


class MachineCode(FunctionCache):
    """Numba's cache of a function, of which no damaged file and no full disk ends a command."""

    def __init__(self, function: Loop, sources: tuple[Path, ...]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        name, stamp = self._impl.filename_base, _digest_of(sources)
        self._cache_file = _SignedFiles(self._cache_path, name, stamp)  # type: ignore[no-untyped-call]
        self._cache_file.beside = Path(function.__code__.co_filename).parent / "__pycache__"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except _UNREADABLE:
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(*_UNREADABLE):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


class _SignedFiles(IndexDataCacheFile):
    """Files of machine code, each with its sha256 behind it: a flipped bit is not executed.

    Nor is what another user may have left, unless beside the sources; nor code of other types, which has the same name
    where two processes choose one at once. beside is the folder of machine code beside the sources.
    """

    beside = Path()

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))  # type: ignore[no-untyped-call]

    def load(self, key: Any) -> Any:
        found = super().load(key)  # type: ignore[no-untyped-call]
        return found[1] if found and found[0] == key else None

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)  # type: ignore[no-untyped-call]
        return data + hashlib.sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        return pickle.loads(self._read(self._data_path(name)))  # type: ignore[no-untyped-call]

    def _load_index(self) -> Any:
        try:
            of, overloads = pickle.loads(self._read(self._index_path))
        except FileNotFoundError:
            return {}
        return pickle.loads(overloads) if of == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: Any) -> None:
        known = super()._dump(overloads)  # type: ignore[no-untyped-call]
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump(((self._version, self._source_stamp), known)))

    def _read(self, path: str) -> bytes:
        content = Path(path).read_bytes() if Path(path).parent == self.beside else read_trusted(Path(path))
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError(f"{path}: not as it was written")
        return content[:-32]


@functools.cache
def _digest_of(sources: tuple[Path, ...]) -> str:
    """Return the sha256 of all that loops are compiled from: Numba looks at the file of the loop alone."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()
