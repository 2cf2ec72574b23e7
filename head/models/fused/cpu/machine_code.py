"""Machine code of loops, which an earlier process of the same program compiled, and kept."""

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

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
    """Files of machine code, each with its sha256 behind it: a flipped bit is not executed."""

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)  # type: ignore[no-untyped-call]
        return data + hashlib.sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()  # type: ignore[no-untyped-call]
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError(f"{name}: not as it was written")
        return pickle.loads(content[:-32])


@functools.cache
def _sources() -> str:
    """Return the sha256 of all that loops are compiled from: Numba looks at the file of the loop alone."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), here.parent / "attention.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
