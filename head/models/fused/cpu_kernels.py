"""The loops over (image, position, channel) of the attention, compiled for the CPU by Numba, in two seconds together.

Each goes over the keys once, a row of channels at a time, and makes no array of their size: eager PyTorch
makes several, and torch.compile, which needs a C++ compiler and seven seconds, goes over them once for each sum
(`bench.loops`: a batch of 256 takes 0.13 s here, 0.28 s by torch.compile, 5.7 s by eager formulas). No result
depends on how the work is cut into ranges, so it does not depend on the number of threads. What they compute is
written as plain formulas in `head.models.fused.attention`.
"""

import contextlib
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numpy.typing import NDArray

_FASTER_SUMS = {"reassoc", "contract", "arcp", "nsz", "afn"}  # infinity keeps its meaning: an overflowing exp is 1
Floats = NDArray[Any]


_UNREADABLE = (  # what Numba raises for damaged files
    OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError,
)  # fmt: skip


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop when it is first called, or take the machine code that an earlier process kept.

    It is kept by source, processor and version of Numba, in `__pycache__` beside the module or, where that cannot be
    written, in the user's cache folder; where neither can, each process compiles it again.
    """
    loop: Any = numba.njit(nogil=True, fastmath=_FASTER_SUMS, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # no folder takes files
        loop._cache = _MachineCode(loop.py_func)
    kept: Callable[..., None] = loop
    return kept


class _MachineCode(FunctionCache):
    """Numba's cache of a function, of which no damaged file and no full disk ends a command."""

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        of_function = self._impl
        self._cache_file = _SignedFiles(  # type: ignore[no-untyped-call]
            self._cache_path, of_function.filename_base, of_function.locator.get_source_stamp()
        )

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


@compiled
def energies(keys: Floats, state: Floats, M: Floats, out: Floats, start: int, stop: int) -> None:
    """Fill out (B, L) for images [start, stop) from keys (B, L, D), state (B, D) and M (L, D)."""
    L, D = M.shape
    one, two = M.dtype.type(1), M.dtype.type(2)
    for i in range(L):
        for b in range(start, stop):
            total = M.dtype.type(0)
            for d in range(D):
                total += M[i, d] * (one - two / (one + keys[b, i, d] * state[b, d]))
            out[b, i] = total


@compiled
def state_gradient(
    keys: Floats, state: Floats, M: Floats, gradient: Floats, out: Floats, start: int, stop: int
) -> None:
    """Fill out (B, D) for images [start, stop) from the gradient (B, L) of their energies."""
    L, D = M.shape
    one, four = M.dtype.type(1), M.dtype.type(4)
    for b in range(start, stop):
        out[b, :] = 0
        for i in range(L):
            weight = four * gradient[b, i]
            for d in range(D):
                r = one / (one + keys[b, i, d] * state[b, d])
                out[b, d] += weight * M[i, d] * (r - r * r)


@compiled
def key_gradient(
    keys: Floats, states: Floats, M: Floats, gradients: Floats, out: Floats, start: int, stop: int
) -> None:
    """Replace keys (B, L, D) by their gradient and fill out (L, D) with that of M, for positions [start, stop).

    states (T, B, D) and gradients (T, B, L) are those of all steps.
    """
    T, B, D = states.shape
    one, two, four = M.dtype.type(1), M.dtype.type(2), M.dtype.type(4)
    slope = M[0].copy()
    for i in range(start, stop):
        out[i, :] = 0
        for b in range(B):
            slope[:] = 0
            for t in range(T):
                weight = gradients[t, b, i]
                for d in range(D):
                    r = one / (one + keys[b, i, d] * states[t, b, d])
                    slope[d] += weight * (r - r * r)
                    out[i, d] += weight * (one - two * r)
            for d in range(D):
                keys[b, i, d] = four * slope[d] * M[i, d]
