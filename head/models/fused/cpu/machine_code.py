"""Machine code of loops, which an earlier process of the same program compiled, and kept."""

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from featcache.base.files import read_trusted

_UNREADABLE = (  # what Numba raises for damaged files
    OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError,
)  # fmt: skip


class MachineCode(FunctionCache):
    """Numba's cache of a function, of which no damaged file and no full disk ends a command."""

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        name = self._impl.filename_base
        self._cache_file = _SignedFiles(self._cache_path, name, _sources())  # type: ignore[no-untyped-call]

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
    where two processes choose one at once.
    """

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
        beside = Path(path).parent == Path(__file__).parent / "__pycache__"
        content = Path(path).read_bytes() if beside else read_trusted(Path(path))
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError(f"{path}: not as it was written")
        return content[:-32]


@functools.cache
def _sources() -> str:
    """Return the sha256 of all that loops are compiled from: Numba looks at the file of the loop alone."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), here.parent / "attention.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
